"""The work folder: nobody else may be at work on the same subjects in it."""

import fcntl
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qsmflow.cli.exit_codes import ExitCode, Stop

_LOCKS = "locks"


@contextmanager
def reserved(work_dir: Path, subjects: Iterable[str]) -> Iterator[None]:
    """Keep subjects for this process, as long as it lives.

    Runs may share a work folder if their subjects differ, as the tasks of a cluster do.

    Parameters
    ----------
    work_dir : Path
        Of the run.
    subjects : iterable of str
        Labels without ``sub-``.

    Raises
    ------
    Stop
        If another process has one of them.
    """
    folder = work_dir / _LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for subject in sorted(set(subjects)):
            file = stack.enter_context((folder / f"sub-{subject}").open("w"))
            # The lock goes with the file, however this process ends. Some network drives have none.
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Stop(
                    ExitCode.CANNOT_WRITE,
                    f"--work-dir {work_dir}: another run is at work on sub-{subject} there; wait for it, or "
                    "choose another folder",
                ) from error
            except OSError:
                continue
        yield


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
            shutil.rmtree(work_dir / name, ignore_errors=True)
