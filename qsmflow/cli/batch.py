"""``qsmflow-batch``: a cohort on a cluster, one array task a subject."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from qsmflow.cli.arguments import Parser, number
from qsmflow.cli.environment import prepare_environment
from qsmflow.cli.exit_codes import ExitCode, Stop, cannot_write
from qsmflow.cli.guard import guarded
from qsmflow.cli.parser import build_parser as build_app_parser
from qsmflow.cli.parser import config_arguments, parse_settings
from qsmflow.version import __version__
from qsmflow.workflows.settings import Settings

PROGRAM = "qsmflow-batch"
#: Command that hands a job in, by scheduler.
SUBMIT_COMMANDS = {"slurm": "sbatch", "sge": "qsub", "pbs": "qsub"}
_DEFAULT_TIME = "4:00:00"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the scripts of a cohort, and hand them in if that is wanted.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process unless given.

    Returns
    -------
    int
        Exit code; see :class:`qsmflow.cli.exit_codes.ExitCode`.
    """
    return guarded(PROGRAM, _main, argv)


def _main(argv: Sequence[str], *, console: Console) -> ExitCode:
    own, rest = build_parser().parse_known_args(argv)
    settings, mem_gb = cohort_settings(rest)
    if own.submit and not settings.dry_run and not shutil.which(SUBMIT_COMMANDS[own.scheduler]):
        raise Stop(
            ExitCode.USAGE,
            f"--submit: there is no {SUBMIT_COMMANDS[own.scheduler]} on this machine; call {PROGRAM} where "
            "jobs are handed in, or leave --submit out",
        )
    # Imported here, as what it needs takes a second to import: help and wrong usage are answered at once.
    from qsmflow.cli.validate import check_folders

    check_folders(settings)
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory() as cache:
        prepare_environment(Path(cache), threads=1)
        script, outcome = _prepare(own, settings, mem_gb=mem_gb, argv=argv, console=console)
    if script is None:
        return outcome
    by_hand = shlex.join(["bash", str(script)])
    if not own.submit:
        console.print(f"Hand the jobs in with: {by_hand}", markup=False, highlight=False)
        return outcome
    # Jobs inherit the environment: that of the user. What they print are the numbers of the jobs.
    ended = subprocess.run(["bash", str(script)], env=environment, check=False)
    if ended.returncode:
        raise Stop(
            ExitCode.INPUT_OUTPUT,
            f"the scheduler did not take all jobs (exit code {ended.returncode}, see above); then: {by_hand}",
        )
    return outcome


def _prepare(
    own: argparse.Namespace,
    settings: Settings,
    *,
    mem_gb: float | None,
    argv: Sequence[str],
    console: Console,
) -> tuple[Path | None, ExitCode]:
    """Tell what is to be done and write the scripts; the one that hands them in, if there is one."""
    # Imported here: these import libraries that read the environment when they are imported.
    from qsmflow.cli.batch_scripts import Batch, new_folder, write_batch
    from qsmflow.cli.batch_tasks import (
        find_tasks,
        leave_out_too_large,
        make_arrays,
        print_state,
        split_by_state,
    )
    from qsmflow.cli.models import choose_models

    choose_models(settings)
    tasks, findings = find_tasks(settings, split=own.split)
    tasks, too_large = leave_out_too_large(tasks, settings, mem_gb=mem_gb)
    findings += too_large
    complete, to_do = split_by_state(tasks, settings.out_dir, again=own.all)
    print_state(complete, to_do, findings, out_dir=settings.out_dir, console=console)
    outcome = ExitCode.SUBJECT_FAILED if any(each.severity == "error" for each in findings) else ExitCode.DONE
    if not to_do:
        console.print("nothing is left to do; --all does everything again")
        return None, outcome
    arrays = make_arrays(to_do, settings, mem_gb=mem_gb, largest=own.max_array)
    batch = Batch(
        folder=new_folder(settings.out_dir),
        scheduler=own.scheduler,
        command=tuple(own.command),
        time=own.time,
        options=tuple(own.scheduler_option),
        max_running=own.max_running,
        group=own.group,
        discard_work=own.discard_work,
    )
    for array in arrays:
        needs = f"{array.request_gb:.1f} GB, {array.cores} core(s), {own.time} each"
        console.print(f"{len(array.tasks)} task(s): {needs}", highlight=False)
    if settings.dry_run:
        return None, outcome
    try:
        return write_batch(batch, arrays, settings, argv=argv), outcome
    except OSError as error:
        raise cannot_write(batch.folder, error) from error


def build_parser() -> argparse.ArgumentParser:
    """The arguments of this command; all others are those of ``qsmflow``.

    Returns
    -------
    argparse.ArgumentParser
        Raises :class:`Stop` with the usage exit code on wrong arguments.

    Examples
    --------
    >>> own, rest = build_parser().parse_known_args(
    ...     ["in", "out", "--scheduler", "slurm", "--inversion", "tkd", "--time", "2:30:00"]
    ... )
    >>> own.time, rest
    ('2:30:00', ['in', 'out', '--inversion', 'tkd'])
    """
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} BIDS_DIR OUT_DIR --scheduler {{{','.join(SUBMIT_COMMANDS)}}} [options]",
        description="Write the scripts that process a cohort on a cluster, one array task a subject, then "
        "the group level. What is complete in OUT_DIR is left out.",
        epilog="All other options are those of qsmflow and hold for every task; see qsmflow --help. --mem, "
        "--nprocs and --omp-nthreads also say what is asked of the scheduler; each task has a folder of its "
        "own in --work-dir; --dry-run tells what would be done and writes nothing.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--scheduler", choices=SUBMIT_COMMANDS, required=True)
    parser.add_argument(
        "--split",
        choices=["subject", "session"],
        default="subject",
        help="what a task is; sessions of a subject are not compared with each other then (default: subject)",
    )
    parser.add_argument("--all", action="store_true", help="also what is complete already")
    parser.add_argument("--submit", action="store_true", help="hand the jobs in; otherwise told how to")
    parser.add_argument(
        "--time",
        type=time_limit,
        default=_DEFAULT_TIME,
        metavar="[D-]HH:MM:SS",
        help=f"limit of a task (default: {_DEFAULT_TIME})",
    )
    parser.add_argument(
        "--command",
        type=command_words,
        default=default_command(),
        metavar="TEXT",
        help='what stands for qsmflow in the jobs, for example "apptainer run -B /data qsmflow.sif"; folders '
        "must have the same path inside a container (default: this qsmflow)",
    )
    parser.add_argument(
        "--scheduler-option",
        action="append",
        type=one_line,
        default=[],
        metavar="TEXT",
        help="further line for the scheduler, such as --scheduler-option=--partition=long; may be repeated",
    )
    parser.add_argument("--max-running", type=number(int, 1), metavar="N", help="tasks at once of each array")
    parser.add_argument(
        "--max-array",
        type=number(int, 1),
        default=1000,
        metavar="N",
        help="tasks of an array; more make several (default: 1000)",
    )
    parser.add_argument(
        "--group",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="afterwards gather all measures, whether or not every task went well (default)",
    )
    parser.add_argument(
        "--discard-work",
        action="store_true",
        help="remove the work folder of each task that ended well; the maps stay",
    )
    return parser


def default_command() -> list[str]:
    """The ``qsmflow`` beside this Python, or whichever is on the PATH of the jobs."""
    beside = Path(sys.executable).with_name("qsmflow")
    return [str(beside) if beside.is_file() else "qsmflow"]


def command_words(text: str) -> list[str]:
    """Converter for a command as one types it.

    Examples
    --------
    >>> command_words("apptainer run -B '/my data' qsmflow.sif")
    ['apptainer', 'run', '-B', '/my data', 'qsmflow.sif']
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no command ({error})") from None
    if not words:
        raise argparse.ArgumentTypeError("the command is empty")
    return words


def one_line(text: str) -> str:
    """Converter for what must not run over into the next line of a script."""
    if not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not one line of text")
    return text


def time_limit(text: str) -> str:
    """Converter for a time limit: hours, minutes and seconds as every scheduler reads them.

    Examples
    --------
    >>> time_limit("1-02:30:00")
    '26:30:00'
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", text)
    hours = 24 * int(match[1] or 0) + int(match[2]) if match else 0
    if not match or not (hours or int(match[3]) or int(match[4])):
        raise argparse.ArgumentTypeError(f"'{text}' must be [D-]HH:MM:SS, for example 2:30:00 or 1-12:00:00")
    return f"{hours}:{match[3]}:{match[4]}"


def cohort_settings(arguments: Sequence[str]) -> tuple[Settings, float | None]:
    """Settings of every task, and the memory that the user gives each.

    Parameters
    ----------
    arguments : sequence of str
        Those of ``qsmflow``; the level may be left out.

    Returns
    -------
    tuple of Settings and (float or None)
        One core a task unless given otherwise; GB, None where no ``--mem`` was given.

    Raises
    ------
    Stop
        64 for arguments that are wrong or make no sense for a cohort.

    Examples
    --------
    >>> settings, mem_gb = cohort_settings(["in", "out", "--omp-nthreads", "4", "--mem", "8G"])
    >>> settings.nprocs, settings.omp_nthreads, mem_gb
    (1, 4, 8.0)
    """
    if not {"participant", "group"} & set(arguments):
        # After "--", so that an option with several values cannot take it for one.
        arguments = [*arguments, "--", "participant"]
    app_parser = build_app_parser()
    given = vars(app_parser.parse_args(arguments))
    if "config_file" in given:
        positional = [str(given[name]) for name in ("bids_dir", "out_dir", "analysis_level")]
        from_file = [*positional, *config_arguments(given["config_file"])]
        given = vars(app_parser.parse_args(from_file)) | given
    # Those of this machine say nothing about a node of the cluster.
    cores = {name: given.get(name, 1) for name in ("nprocs", "omp_nthreads")}
    settings = replace(parse_settings(arguments), **cores)
    if settings.analysis_level != "participant":
        raise Stop(ExitCode.USAGE, f"{PROGRAM} is for level participant; it adds a job of level group itself")
    for flag in ("use_plugin", "reports_only", "boilerplate_only"):
        if getattr(settings, flag):
            raise Stop(ExitCode.USAGE, f"--{flag.replace('_', '-')} is for qsmflow itself, not for {PROGRAM}")
    return settings, given.get("mem_gb")


if __name__ == "__main__":
    sys.exit(main())
