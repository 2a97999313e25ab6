"""The scripts of a batch: job arrays, the job of the group level, and what hands them in."""

import hashlib
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.files import write_text
from qsmflow.bids.names import join_name
from qsmflow.cli.finalise import settings_toml
from qsmflow.version import __version__
from qsmflow.workflows.settings import Settings

#: Where batches lie below the output folder, each in a folder that bears its time.
FOLDER = ("code", "qsmflow-batch")
#: Folder of a batch's logs; that of a task is called after it.
LOGS = "logs"
TEMPLATES = Path(__file__).parents[1] / "data" / "batch"
#: What the job of the group level asks for.
_GROUP_GB = 4.0
_GROUP_TIME = "1:00:00"


@dataclass(frozen=True)
class Task:
    """One task of an array.

    Attributes
    ----------
    subject : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``; None for all that are chosen.
    acquisitions : tuple of Acquisition
        What it processes.
    mem_gb : float
        Of its largest stage, libraries included.
    stage : str
        Which that is.
    """

    subject: str
    session: str | None
    acquisitions: tuple[Acquisition, ...]
    mem_gb: float
    stage: str

    @property
    def label(self) -> str:
        """Such as ``sub-01_ses-1``; names its work folder and its log."""
        return join_name({"subject": self.subject, "session": self.session})

    @property
    def line(self) -> str:
        """Its line in the list of its array: labels of subject and session."""
        return " ".join(filter(None, (self.subject, self.session)))


@dataclass(frozen=True)
class Array:
    """Tasks that are handed in together.

    Attributes
    ----------
    number : int
        From 1.
    tasks : tuple of Task
        In the order of their indices, which start at 1.
    cores : int
        Of each task.
    usable_gb, request_gb : float
        GB that the stages of a task may take, and GB asked of the scheduler.
    """

    number: int
    tasks: tuple[Task, ...]
    cores: int
    usable_gb: float
    request_gb: float


@dataclass(frozen=True)
class Batch:
    """What holds for all jobs of a batch.

    Attributes
    ----------
    folder : Path
        Takes the scripts and logs; made when they are written.
    scheduler : {"slurm", "sge", "pbs"}
        Names the template.
    command : tuple of str
        Stands for ``qsmflow``.
    time : str
        Limit of a task, HH:MM:SS.
    options : tuple of str
        Further lines for the scheduler.
    max_running : int or None
        Tasks at once of an array.
    group : bool
        Whether a job of the group level comes last.
    discard_work : bool
        Whether the work folder goes when a task ended well.
    """

    folder: Path
    scheduler: str
    command: tuple[str, ...]
    time: str
    options: tuple[str, ...] = ()
    max_running: int | None = None
    group: bool = True
    discard_work: bool = False


def new_folder(out_dir: Path) -> Path:
    """Folder for a batch that is not there yet.

    Parameters
    ----------
    out_dir : Path
        Derivative data set.

    Returns
    -------
    Path
        ``OUT/code/qsmflow-batch/<time>``.
    """
    while (folder := out_dir.joinpath(*FOLDER, time.strftime("%Y%m%d-%H%M%S"))).exists():
        time.sleep(0.1)
    return folder


def write_batch(batch: Batch, arrays: Sequence[Array], settings: Settings, *, argv: Sequence[str]) -> Path:
    """Write the scripts of a batch, its lists and its settings.

    Parameters
    ----------
    batch : Batch
        What holds for all jobs.
    arrays : sequence of Array
        The tasks.
    settings : Settings
        Of every task, whose input was validated once for all; labels, memory and work folder are added by
        the scripts.
    argv : sequence of str
        Arguments as they were given, kept as a comment.

    Returns
    -------
    Path
        The script that hands all jobs in.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    common = {
        "batch": batch,
        "scheduler": environment.get_template(f"{batch.scheduler}.j2").module,
        "name": job_name(settings.out_dir),
        "command": shlex.join([*batch.command, str(settings.bids_dir), str(settings.out_dir)]),
        "settings": settings,
        "logs": LOGS,
        "version": __version__,
    }

    def write(name: str, template: str, **own) -> Path:
        path = batch.folder / name
        write_text(path, environment.get_template(template).render(**common, **own))
        path.chmod(0o755)
        return path

    (batch.folder / LOGS).mkdir(parents=True)
    everyone = replace(
        settings,
        participant_label=(),
        skip_bids_validation=True,
        mem_gb=max(array.usable_gb for array in arrays),
    )
    write_text(batch.folder / "qsmflow.toml", settings_toml(everyone, argv=argv, program="qsmflow-batch"))
    for array in arrays:
        lines = (f"{task.line}\n" for task in array.tasks)
        write_text(batch.folder / f"array-{array.number}.txt", "".join(lines))
        job = {"cores": array.cores, "mib": _mebibytes(array.request_gb), "time": batch.time}
        own = {"array": array, "job": job, "usable": math.ceil(1000 * array.usable_gb)}
        write(f"array-{array.number}.sh", "array.sh.j2", **own)
    if batch.group:
        write("group.sh", "group.sh.j2", job={"cores": 1, "mib": _mebibytes(_GROUP_GB), "time": _GROUP_TIME})
    return write("submit.sh", "submit.sh.j2", arrays=arrays)


def job_name(out_dir: Path) -> str:
    """Name of all jobs that write into an output folder, by which they are found in the queue.

    Examples
    --------
    >>> job_name(Path("/data/out"))
    'qsmflow-e6e537'
    """
    # Short, as PBS takes no more than 15 characters.
    return f"qsmflow-{hashlib.sha256(str(out_dir).encode()).hexdigest()[:6]}"


def _mebibytes(gigabytes: float) -> int:
    return math.ceil(gigabytes * 1e9 / 2**20)
