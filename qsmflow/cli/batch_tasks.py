"""What is to be done of a cohort, task by task, and what each task needs."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from rich.console import Console

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.findings import Finding, format_findings
from qsmflow.bids.images import UnreadableImage, load_image
from qsmflow.bids.names import is_label
from qsmflow.bids.validator import validate
from qsmflow.cli.batch_scripts import FOLDER, LOGS, Array, Task
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.finalise import is_complete
from qsmflow.cli.models import network_stages
from qsmflow.cli.plan import EXIT_CODES, collect_input, too_large
from qsmflow.workflows.memory import PROCESS_GB, stage_memory
from qsmflow.workflows.settings import Settings

#: What is asked of the scheduler, relative to the estimate of the largest stage.
MARGIN = 1.2
#: Least GB to ask for: schedulers count a process twice at the moment when it starts another one.
LEAST_GB = 1.0
#: Lines of a log that say why a task ended: the app's, the scheduler's, the shell's, Python's.
_REASON = re.compile(r"FAILED|ERROR|slurmstepd: error|^qsmflow: |: line \d+: |Error: ")


@dataclass(frozen=True)
class State:
    """A task that is to be done.

    Attributes
    ----------
    task : Task
        The task.
    reason : str or None
        What its last attempt said at its end; None if there was none.
    """

    task: Task
    reason: str | None


def find_tasks(settings: Settings, *, split: str) -> tuple[list[Task], list[Finding]]:
    """Find who is to be processed; only names, sidecars and headers are read.

    Parameters
    ----------
    settings : Settings
        Of every task.
    split : {"subject", "session"}
        What a task is.

    Returns
    -------
    tuple of list of Task and list of Finding
        What can be done, and what the user is to know; subjects with errors have no task.

    Raises
    ------
    Stop
        16 if the data set as a whole is invalid, 18 or 66 if nothing or not all that was asked for is there.
    """
    findings: list[Finding] = []
    if not settings.skip_bids_validation:
        findings += validate(settings.bids_dir, participants=settings.participant_label)
    # Masks and atlases are of no concern here, and take long to index.
    _, collected = collect_input(replace(settings, derivatives={}), findings)
    acquisitions = collected.acquisitions
    findings += collected.findings
    # What concerns everyone, and who or what was asked for by name and is not there.
    fatal = [
        each
        for each in findings
        if each.severity == "error" and (each.subject is None or each.category in ("input", "filter"))
    ]
    if fatal or not acquisitions:
        told = fatal or findings
        categories = {each.category for each in told if each.severity == "error"}
        code = next((code for category, code in EXIT_CODES.items() if category in categories), None)
        raise Stop(code or ExitCode.NO_INPUT, format_findings(told))
    findings += [
        _strange_label(acquisition) for acquisition in acquisitions if not _has_plain_labels(acquisition)
    ]
    refused = {each.subject for each in findings if each.severity == "error"}
    chosen = [each for each in acquisitions if each.subject not in refused]

    def unit(acquisition: Acquisition) -> tuple[str, str]:
        return acquisition.subject, (acquisition.session or "") if split == "session" else ""

    tasks = [
        _make_task(subject, session or None, tuple(members), settings=settings)
        for (subject, session), members in groupby(sorted(chosen, key=unit), key=unit)
    ]
    return tasks, findings


def leave_out_too_large(
    tasks: Sequence[Task], settings: Settings, *, mem_gb: float | None
) -> tuple[list[Task], list[Finding]]:
    """Tell tasks that the memory given to each can hold from those that it cannot.

    Parameters
    ----------
    tasks : sequence of Task
        All.
    settings : Settings
        Of every task.
    mem_gb : float or None
        GB that the user gives each task; None where the estimate decides.

    Returns
    -------
    tuple of list of Task and list of Finding
        What can be done, and an error for each of the others.

    Raises
    ------
    Stop
        64 if the memory can hold none of them.
    """
    if mem_gb is None:
        return list(tasks), []
    unfit = [task for task in tasks if task.mem_gb > _usable(mem_gb, settings)]
    findings = [
        too_large(
            task.label,
            subject=task.subject,
            given=mem_gb,
            stage=task.stage,
            needed=task.mem_gb,
            fix=f"give --mem {math.ceil(10 * _request(task.mem_gb, settings)) / 10:.1f}G or leave it out",
        )
        for task in unfit
    ]
    if unfit and len(unfit) == len(tasks):
        raise Stop(ExitCode.USAGE, format_findings(findings))
    return [task for task in tasks if task not in unfit], findings


def split_by_state(
    tasks: Sequence[Task], out_dir: Path, *, again: bool = False
) -> tuple[list[Task], list[State]]:
    """Tell tasks that are complete from those that are to be done.

    A task is complete if the last run of each of its acquisitions ended without an error and the maps and
    the report are still there.

    Parameters
    ----------
    tasks : sequence of Task
        All.
    out_dir : Path
        Derivative data set.
    again : bool
        Whether what is complete is done, too.

    Returns
    -------
    tuple of list of Task and list of State
        Complete ones, and those to be done.
    """
    complete = [
        task for task in tasks if not again and all(is_complete(out_dir, each) for each in task.acquisitions)
    ]
    to_do = [State(task, last_words(task, out_dir)) for task in tasks if task not in complete]
    return complete, to_do


def last_words(task: Task, out_dir: Path) -> str | None:
    """What the log of a task's last attempt says of its end.

    Parameters
    ----------
    task : Task
        Any.
    out_dir : Path
        Derivative data set; holds the logs of earlier batches.

    Returns
    -------
    str or None
        The last line that reads like a reason, else the last line; None without a log.
    """
    logs = sorted(out_dir.joinpath(*FOLDER).glob(f"*/{LOGS}/{task.label}.log"))
    if not logs:
        return None
    try:
        lines = logs[-1].read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        return str(error)
    said = [line.strip() for line in lines if line.strip()]
    reasons = [line for line in said if _REASON.search(line)]
    return (reasons or said or ["it said nothing"])[-1]


def print_state(
    complete: Sequence[Task],
    to_do: Sequence[State],
    findings: Sequence[Finding],
    *,
    out_dir: Path,
    console: Console,
) -> None:
    """Tell what is complete, what is to be done, and why it is not done yet.

    Parameters
    ----------
    complete, to_do : sequence
        From :func:`split_by_state`.
    findings : sequence of Finding
        From :func:`find_tasks`.
    out_dir : Path
        Derivative data set.
    console : rich.console.Console
        Where to write.
    """

    def say(text: str, **style) -> None:
        console.print(text, markup=False, highlight=False, **style)

    if findings:
        failed = any(each.severity == "error" for each in findings)
        say(format_findings(findings), style="red" if failed else "yellow")
    for state in to_do:
        if state.reason:
            say(f"{state.task.label}: last time: {state.reason}", style="yellow")
    say(f"{out_dir}: {len(complete)} task(s) complete, {len(to_do)} to do")


def make_arrays(
    to_do: Sequence[State], settings: Settings, *, mem_gb: float | None, largest: int
) -> list[Array]:
    """Put tasks that need about the same memory into job arrays.

    Parameters
    ----------
    to_do : sequence of State
        Tasks to be done.
    settings : Settings
        Of every task.
    mem_gb : float or None
        GB that the user gives each task; the estimate unless given.
    largest : int
        Most tasks of an array.

    Returns
    -------
    list of Array
        Together all the tasks.
    """
    tasks = [state.task for state in to_do]

    def asked(task: Task) -> int:
        return math.ceil(_request(task.mem_gb, settings)) if mem_gb is None else 0

    arrays = []
    for _, members in groupby(sorted(tasks, key=asked), key=asked):
        alike = list(members)
        for first in range(0, len(alike), largest):
            part = tuple(alike[first : first + largest])
            needed = max(task.mem_gb for task in part)
            array = Array(
                number=len(arrays) + 1,
                tasks=part,
                cores=max(settings.nprocs, settings.omp_nthreads),
                usable_gb=_usable(mem_gb, settings) if mem_gb else needed,
                request_gb=mem_gb or max(_request(needed, settings), LEAST_GB),
            )
            arrays.append(array)
    return arrays


def _request(needed: float, settings: Settings) -> float:
    """GB to ask for, for stages of so many GB; with several processes each idle one holds its libraries."""
    idle = settings.nprocs if settings.nprocs > 1 else 0
    return MARGIN * needed + idle * PROCESS_GB


def _usable(request: float, settings: Settings) -> float:
    """GB that stages may take of what was asked for."""
    return (request - _request(0, settings)) / MARGIN


def _make_task(
    subject: str, session: str | None, acquisitions: tuple[Acquisition, ...], *, settings: Settings
) -> Task:
    needs = [_largest_stage(each, settings) for each in acquisitions]
    mem_gb, stage = max(needs)
    return Task(subject, session, acquisitions, mem_gb=mem_gb, stage=stage)


def _largest_stage(acquisition: Acquisition, settings: Settings) -> tuple[float, str]:
    """GB and stage; where no header can be read, which the task will report, that of the libraries alone."""
    image = next(path for echo in acquisition.echoes for path in echo.files)
    try:
        shape = load_image(image).shape[:3]
    except UnreadableImage:
        return PROCESS_GB, "read"
    memory = stage_memory(
        shape,
        n_echoes=len(acquisition.echoes),
        low_mem=settings.low_mem,
        networks=network_stages(settings),
    )
    return max((needed, stage) for stage, needed in memory.items())


def _has_plain_labels(acquisition: Acquisition) -> bool:
    return all(is_label(label) for label in (acquisition.subject, acquisition.session) if label)


def _strange_label(acquisition: Acquisition) -> Finding:
    return Finding(
        "error",
        acquisition.name,
        "label",
        "it is not made of letters and digits alone",
        "rename the folder and its files",
        subject=acquisition.subject,
        category="bids",
    )
