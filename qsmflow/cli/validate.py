"""What must hold of the folders and files that were named, before anything else is looked at."""

import errno
import shutil
import tempfile
from pathlib import Path

from qsmflow.bids.dataset import check_output_dir
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.workflows.settings import Settings

#: Bytes that a disk has free which is not full.
_LEAST_ROOM = 2**20


def check_folders(settings: Settings) -> None:
    """Refuse what is missing, cannot be written, or would write into the input.

    Parameters
    ----------
    settings : Settings
        Of the run.

    Raises
    ------
    Stop
        66 for what is missing, 73 for what cannot be written, 64 for an output inside the input.
    """
    if not settings.bids_dir.is_dir():
        raise Stop(ExitCode.NO_INPUT, f"{settings.bids_dir}: no such folder; give the BIDS data set")
    files = {
        "--mask-file": settings.mask_file,
        "--bids-filter-file": settings.bids_filter_file,
        "--use-plugin": settings.use_plugin,
    }
    for flag, path in files.items():
        if path is not None and not path.is_file():
            raise Stop(ExitCode.NO_INPUT, f"{flag} {path}: no such file")
    for name, path in settings.derivatives.items():
        if not path.is_dir():
            raise Stop(ExitCode.NO_INPUT, f"--derivatives {name} {path}: no such folder")
    for folder in (settings.bids_dir, settings.out_dir, settings.work_dir):
        _refuse_unending_link(folder)
    for folder in filter(None, (settings.work_dir, settings.bids_database_dir)):
        _refuse_inside_input(folder, settings.bids_dir)
    try:
        check_output_dir(settings.out_dir, bids_dir=settings.bids_dir)
    except ValueError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    except OSError as error:
        raise Stop(ExitCode.CANNOT_WRITE, str(error)) from error
    made = {"--work-dir": settings.work_dir, "--bids-database-dir": settings.bids_database_dir}
    for flag, folder in made.items():
        if folder is not None and not settings.dry_run:
            _make_folder(folder, flag=flag)


def explain(error: OSError, settings: Settings) -> Stop:
    """Why writing failed and what to do about it, with the exit code.

    Parameters
    ----------
    error : OSError
        Of output or work folder.
    settings : Settings
        Of the run.

    Returns
    -------
    Stop
        74 for a disk that is full or fails, 73 for something that stands where a file is to be.
    """
    folders = (settings.out_dir, settings.work_dir)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = [str(each) for each in folders if shutil.disk_usage(each).free < _LEAST_ROOM]
        where = " and ".join(full) or f"{folders[0]} or {folders[1]}"
        return Stop(ExitCode.INPUT_OUTPUT, f"{where}: {error.strerror}; make room there and run again")
    if isinstance(error.filename, str) and any(Path(error.filename).is_relative_to(each) for each in folders):
        return Stop(
            ExitCode.CANNOT_WRITE,
            f"{error.filename}: {error.strerror}; remove what stands there, or choose another folder",
        )
    return Stop(ExitCode.INPUT_OUTPUT, str(error))


def _refuse_unending_link(folder: Path) -> None:
    try:
        folder.resolve()
    except RuntimeError as error:
        raise Stop(ExitCode.CANNOT_WRITE, f"{folder}: a link that leads to itself; choose another") from error


def _refuse_inside_input(folder: Path, bids_dir: Path) -> None:
    if folder.resolve().is_relative_to(bids_dir.resolve()):
        raise Stop(
            ExitCode.USAGE,
            f"{folder} lies inside the input {bids_dir}, which is never written to; choose another",
        )


def _make_folder(folder: Path, *, flag: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions alone do not tell: the file system may be read-only, or full.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Stop(
            ExitCode.CANNOT_WRITE, f"{folder}: cannot be written to ({error}); choose another {flag}"
        ) from error
