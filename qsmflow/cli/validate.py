"""What must hold of the folders and files that were named, before anything else is looked at."""

import os
from pathlib import Path

from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.workflows.settings import Settings


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
        **{f"--derivatives {name}": path for name, path in settings.derivatives.items()},
    }
    for flag, path in files.items():
        if path is not None and not path.exists():
            raise Stop(ExitCode.NO_INPUT, f"{flag} {path}: no such file or folder")
    _refuse_inside_input(settings.out_dir, settings.bids_dir, allowed=settings.bids_dir / "derivatives")
    _refuse_inside_input(settings.work_dir, settings.bids_dir)
    if settings.bids_database_dir is not None:
        _refuse_inside_input(settings.bids_database_dir, settings.bids_dir)
    if not settings.dry_run:
        _refuse_unwritable(settings.out_dir, "output")
        _refuse_unwritable(settings.work_dir, "work (--work-dir)")


def _refuse_inside_input(folder: Path, bids_dir: Path, *, allowed: Path | None = None) -> None:
    inside = folder.resolve().is_relative_to(bids_dir.resolve())
    if inside and not (allowed and folder.resolve().is_relative_to(allowed.resolve())):
        raise Stop(
            ExitCode.USAGE,
            f"{folder} lies inside the input {bids_dir}, which is never written to; choose another",
        )


def _refuse_unwritable(folder: Path, role: str) -> None:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise Stop(ExitCode.CANNOT_WRITE, f"{existing} is not a folder; choose another {role} folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise Stop(ExitCode.CANNOT_WRITE, f"{existing} is not writable; choose another {role} folder")
