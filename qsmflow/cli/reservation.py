"""Who is at work on a subject: no two runs at once, in a work folder or an output folder."""

import fcntl
import resource
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qsmflow.bids.acquisition import Acquisition
from qsmflow.cli.exit_codes import ExitCode, Stop, cannot_write

_LOCKS = "locks"
_FILES_OF_LIBRARIES = 512


class Busy(Stop):
    """Another run is at work on a subject."""


@contextmanager
def reserved(work_dir: Path, subjects: Iterable[str]) -> Iterator[None]:
    """Keep subjects of a work folder for this process, as long as it lives.

    Runs may share a work folder if their subjects differ, as the tasks of a cluster do.

    Parameters
    ----------
    work_dir : Path
        Of the run.
    subjects : iterable of str
        Labels without ``sub-``.

    Raises
    ------
    Busy
        If another process has one of them.
    """
    locks = {f"sub-{subject}": work_dir / _LOCKS / f"sub-{subject}" for subject in subjects}
    with _held(locks, where=f"--work-dir {work_dir}"):
        yield


@contextmanager
def reserved_output(out_dir: Path, acquisitions: Iterable[Acquisition]) -> Iterator[None]:
    """Keep subjects of an output folder, session by session, for this process, as long as it lives.

    Parameters
    ----------
    out_dir : Path
        Derivative data set.
    acquisitions : iterable of Acquisition
        What is to be written.

    Raises
    ------
    Busy
        If another process is writing one of them, whatever its work folder.
    """
    names = {each.subject_and_session: each.subject for each in acquisitions}
    locks = {name: out_dir / f"sub-{subject}" / "log" / f"{name}.lock" for name, subject in names.items()}
    with _held(locks, where=str(out_dir)):
        yield


@contextmanager
def _held(locks: Mapping[str, Path], *, where: str) -> Iterator[None]:
    """Hold locks by what each is for, or none of them."""
    _allow_open_files(len(locks))
    with ExitStack() as stack:
        for name, path in sorted(locks.items()):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(path.open("w"))
            except OSError as error:
                raise cannot_write(where, error) from error
            # The lock goes with the file, however this process ends. Some network drives have none.
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(
                    ExitCode.CANNOT_WRITE,
                    f"{where}: another run is at work on {name} there; wait for it, or choose another folder",
                ) from error
            except OSError:
                continue
        yield


def _allow_open_files(number: int) -> None:
    """Let this process open so many files beside those of its libraries, as far as the system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(number + _FILES_OF_LIBRARIES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def forget(work_dir: Path, names: Iterable[str]) -> None:
    """Remove folders of the work folder, unless another run uses them.

    Parameters
    ----------
    work_dir : Path
        Of the run.
    names : iterable of str
        Folders in it.

    Raises
    ------
    Stop
        If another process is at work there.
    """
    used = [path.name.removeprefix("sub-") for path in (work_dir / _LOCKS).glob("sub-*")]
    with reserved(work_dir, used):
        for name in names:
            path = work_dir / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
