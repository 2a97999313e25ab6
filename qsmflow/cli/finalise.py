"""Everything around the run that a user finds in the output folder, and the exit code."""

import errno
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tomli_w
from rich.console import Console

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.checks import format_findings
from qsmflow.bids.dataset import write_dataset
from qsmflow.bids.files import write_json, write_text
from qsmflow.bids.findings import Finding, short_path
from qsmflow.bids.names import derivative_name
from qsmflow.bids.tables import write_subject_tables
from qsmflow.cli.exit_codes import ExitCode, Stop, cannot_write
from qsmflow.cli.plan import Plan
from qsmflow.reports.assemble import build_report, collect_errors, damaged_figures
from qsmflow.reports.methods import write_citation
from qsmflow.version import __version__
from qsmflow.workflows.base import log_dir
from qsmflow.workflows.settings import Settings


def print_plan(plan: Plan, settings: Settings, *, console: Console) -> None:
    """Tell what was found and what will be done.

    Parameters
    ----------
    plan : Plan
        Jobs and findings.
    settings : Settings
        Of the run.
    console : rich.console.Console
        Where to write.
    """

    def say(text: str, **style) -> None:
        console.print(text, markup=False, highlight=False, **style)

    for job in plan.jobs:
        times = ", ".join(f"{1e3 * time:.2f}" for time in job.acquisition.echo_times)
        say(
            f"{job.acquisition.name}: {len(job.acquisition.echoes)} echo time(s) {times} ms, "
            f"{job.field_strength:g} T, phase {job.phase_range.name}, up to {max(job.memory.values()):.1f} GB"
            + (f", mask {job.mask_file}" if job.mask_file else "")
            + (f", compared with {job.reference.name}" if job.reference else "")
        )
    if plan.findings:
        say(format_findings(plan.findings), style="yellow")
    if plan.models:
        say("networks: " + ", ".join(f"{model} ({model.location})" for model in plan.models.values()))
    say(
        f"{len(plan.jobs)} acquisition(s), {settings.inversion.upper()} inversion, "
        f"motion correction {settings.motion_correction}, "
        f"{settings.nprocs} process(es) of {settings.omp_nthreads} thread(s), {settings.mem_gb:.1f} GB -> "
        f"{settings.out_dir}"
    )


def completion_mark(out_dir: Path, acquisition: Acquisition) -> Path:
    """File that is there if the last run of an acquisition's subject ended without an error.

    Parameters
    ----------
    out_dir : Path
        Derivative data set.
    acquisition : Acquisition
        Of the input.

    Returns
    -------
    Path
        JSON that names the run.
    """
    return out_dir / f"sub-{acquisition.subject}" / "log" / f"{acquisition.name}_complete.json"


def is_complete(out_dir: Path, acquisition: Acquisition) -> bool:
    """Whether an acquisition's last run ended well and its map and report are still there.

    Parameters
    ----------
    out_dir : Path
        Derivative data set.
    acquisition : Acquisition
        Of the input.
    """
    made = (
        completion_mark(out_dir, acquisition),
        out_dir / derivative_name(acquisition.all_entities, suffix="Chimap"),
        out_dir / f"sub-{acquisition.subject}.html",
    )
    return all(path.is_file() for path in made)


def open_output(settings: Settings, plan: Plan, *, run_id: str, argv: Sequence[str]) -> None:
    """Write the data set's description and each subject's settings of this run.

    What is to be done is no longer marked as complete.

    Parameters
    ----------
    settings : Settings
        Of the run.
    plan : Plan
        Says which subjects.
    run_id : str
        Names the folder of the run's logs.
    argv : sequence of str
        Arguments as they were given.

    Raises
    ------
    Stop
        73 if the folder cannot be written.
    """
    try:
        write_dataset(settings.out_dir, bids_dir=settings.bids_dir, derivatives=settings.derivatives)
        for subject in plan.subjects:
            folder = log_dir(settings.out_dir, subject, run_id)
            write_text(folder / "qsmflow.toml", settings_toml(settings, argv=argv))
        if not settings.boilerplate_only:
            for acquisition in plan.acquisitions:
                completion_mark(settings.out_dir, acquisition).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(settings.out_dir, error) from error


def settings_toml(settings: Settings, *, argv: Sequence[str], program: str = "qsmflow") -> str:
    """Settings as a file that ``--config-file`` reads again.

    Parameters
    ----------
    settings : Settings
        Of the run.
    argv : sequence of str
        Arguments as they were given, kept as a comment.
    program : str
        What they were given to.

    Returns
    -------
    str
        TOML.
    """
    entries = {name: getattr(settings, name) for name in Settings.__dataclass_fields__}
    for positional in ("bids_dir", "out_dir", "analysis_level"):
        entries.pop(positional)
    entries["mem"] = f"{entries.pop('mem_gb'):.3f}G"
    entries["derivatives"] = {name: str(path) for name, path in settings.derivatives.items()}
    entries["reference_filter"] = dict(settings.reference_filter)
    plain = {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in entries.items()
        if value not in (None, (), {})
    }
    command = shlex.join([program, *argv]).replace("\n", "\n# ")
    return f"# {command}\n{tomli_w.dumps(plain)}"


def write_methods(settings: Settings, descriptions: Iterable[str]) -> None:
    """Write the methods text of the run to ``logs/CITATION.*``, whatever was done in the same way once."""
    write_citation("".join(dict.fromkeys(descriptions)), settings.out_dir / "logs")


def close_output(
    settings: Settings,
    plan: Plan,
    *,
    run_id: str,
    argv: Sequence[str],
    failure: RuntimeError | None,
    console: Console,
) -> ExitCode:
    """Build the reports, name what failed, mark what is complete, decide the exit code.

    Parameters
    ----------
    settings : Settings
        Of the run.
    plan : Plan
        What was to be done and what was refused.
    run_id : str
        Of the run.
    argv : sequence of str
        Arguments as they were given.
    failure : RuntimeError or None
        What Nipype raised.
    console : rich.console.Console
        Where to write.

    Returns
    -------
    ExitCode
        Done, or a subject failed.

    Raises
    ------
    RuntimeError
        What Nipype raised, if it left no crash file of a subject behind.
    """
    crashes = {
        subject: collect_errors(log_dir(settings.out_dir, subject, run_id)) for subject in plan.subjects
    }
    if failure is not None and not any(crashes.values()):
        raise failure
    command_line = shlex.join(["qsmflow", *argv])
    failed = not plan.complete
    for subject, found in crashes.items():
        errors = [*found, *_refusals(plan, subject)]
        report, unwritten = _write_report(
            settings, subject=subject, run_id=run_id, errors=errors, command_line=command_line
        )
        _tell(subject, [*errors, *unwritten], report=report, console=console)
        # A run that stops at the first crash leaves subjects undone that have no crash of their own.
        if not (errors or unwritten) and (failure is None or not settings.stop_on_first_crash):
            _mark_complete(settings, plan, subject=subject, run_id=run_id)
        failed = failed or bool(found or unwritten)
    return ExitCode.SUBJECT_FAILED if failed else ExitCode.DONE


def rebuild_reports(settings: Settings, *, run_id: str, console: Console) -> ExitCode:
    """Assemble the reports anew from the figures that are there, with the crashes of the last run.

    Returns
    -------
    ExitCode
        Done, or some report or table could not be written in full.

    Raises
    ------
    Stop
        66 if the output holds no figures of the subjects asked for.
    """
    folders = sorted(path.parent.name for path in settings.out_dir.glob("sub-*/figures"))
    subjects = [name.removeprefix("sub-") for name in folders]
    if settings.participant_label:
        subjects = [subject for subject in subjects if subject in settings.participant_label]
    if not subjects:
        raise Stop(
            ExitCode.NO_INPUT, f"--reports-only: {settings.out_dir} holds no figures; run without it first"
        )
    failed = False
    for subject in subjects:
        runs = sorted(path.parent for path in settings.out_dir.glob(f"sub-{subject}/log/*/qsmflow.toml"))
        errors = collect_errors(runs[-1]) if runs else ()
        report, unwritten = _write_report(settings, subject=subject, run_id=run_id, errors=errors)
        _tell(subject, unwritten, report=report, console=console)
        failed = failed or bool(unwritten)
    return ExitCode.SUBJECT_FAILED if failed else ExitCode.DONE


def _write_report(
    settings: Settings,
    *,
    subject: str,
    run_id: str,
    errors: Sequence[Mapping],
    command_line: str | None = None,
) -> tuple[Path | None, list[dict]]:
    """Tables and page of a subject, without what is damaged; the page, and what was not used or written."""
    folder = settings.out_dir / f"sub-{subject}"
    damaged = damaged_figures(folder)
    unwritten = _as_errors(
        (
            Finding("error", short_path(path), "content", problem, "remove it and run again")
            for path, problem in damaged.items()
        ),
        node="report",
    )
    try:
        write_subject_tables(folder, without=damaged)
    except OSError as error:
        unwritten.append(_obstacle(error))
    try:
        report = build_report(
            settings.out_dir,
            subject=subject,
            run_id=run_id,
            errors=[*errors, *unwritten],
            command_line=command_line,
            without=damaged,
        )
    except OSError as error:
        return None, [*unwritten, _obstacle(error)]
    except (UnicodeError, OverflowError) as error:  # what the index of the figures cannot hold
        text = f"sub-{subject}: the name of a file in it cannot be indexed ({error}); rename it and run again"
        return None, [*unwritten, _failure(text)]
    return report, unwritten


def _obstacle(error: OSError) -> dict:
    """What stands where a file is to be; a disk that is full is in the way of all subjects, not of one."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise error
    return _failure(f"{error.filename}: {error.strerror}; remove what stands there and run again")


def _failure(text: str) -> dict:
    return {"node": "report", "traceback": text, "file": ""}


def _tell(subject: str, errors: Iterable[Mapping], *, report: Path | None, console: Console) -> None:
    """Name what failed, and where the report lies."""
    for error in errors:
        # A run that was killed may have left a crash file without a word in it.
        last_line = (error["traceback"].strip().splitlines() or ["no further text"])[-1].strip()
        source = f" ({error['file']})" if error["file"] else ""
        console.print(
            f"sub-{subject} FAILED: {error['node']}: {last_line}{source}",
            style="red",
            markup=False,
            highlight=False,
        )
    if report:
        console.print(f"Report: {report}", markup=False, highlight=False)


def _mark_complete(settings: Settings, plan: Plan, *, subject: str, run_id: str) -> None:
    for acquisition in plan.acquisitions:
        if acquisition.subject == subject:
            mark = completion_mark(settings.out_dir, acquisition)
            write_json(mark, {"Run": run_id, "Version": __version__})


def _refusals(plan: Plan, subject: str) -> list[dict]:
    findings = [
        finding for finding in plan.findings if finding.severity == "error" and finding.subject == subject
    ]
    return _as_errors(findings, node="input")


def _as_errors(findings: Iterable[Finding], *, node: str) -> list[dict]:
    """What is wrong with files as the page shows it, files that share a problem together."""
    lines = format_findings(findings).splitlines()
    return [{"node": node, "traceback": line.removeprefix("ERROR "), "file": ""} for line in lines]
