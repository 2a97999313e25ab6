"""What the machine lets a run use: cores, memory, a GPU."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from qsmflow.cli.exit_codes import ExitCode, Stop

#: Where Linux tells which control groups a process is in, and where they lie.
_MEMBERSHIP, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Cores that this process may use: those it may run on, or its control groups' share if lower."""
    cores = len(os.sched_getaffinity(0))
    shares = (limit for limit in _processor_limits() if limit is not None)
    return max(1, int(min([cores, *shares])))


def available_memory() -> float:
    """Memory in GB that this process may use: the machine's, or the limit of its control groups if lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    names = ("memory.max", "memory.limit_in_bytes")
    limits = (_words(folder / name) for folder in control_groups("memory") for name in names)
    return min([total, *(int(words[0]) for words in limits if words and words[0].isdigit())]) / 1e9


def control_groups(controller: str, *, membership: Path = _MEMBERSHIP, groups: Path = _GROUPS) -> list[Path]:
    """Folders of the control groups of this process, whose limits all hold, from the innermost outwards.

    A container sees its own group as the outermost one; a job of a cluster lies deep in those of the node.

    Parameters
    ----------
    controller : str
        Such as ``memory``; the first version of control groups has a tree for each.
    membership : Path
        What ``/proc/self/cgroup`` is.
    groups : Path
        Where the trees are mounted.

    Returns
    -------
    list of Path
        Existing folders; empty where there are no control groups.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    entries = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    found = []
    for _, controllers, place in entries:
        if controllers and controller not in controllers.split(","):
            continue
        tree = groups / controller if controllers else groups
        # Outside of what this namespace sees there is nothing to read.
        inner = tree if ".." in Path(place).parts else tree / place.lstrip("/")
        found += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(tree)]
    return [folder for folder in found if folder.is_dir()]


def _processor_limits() -> Iterator[float | None]:
    """Cores' worth of time that each control group grants; None for no limit."""
    for folder in control_groups("cpu"):
        quota = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        limited = len(quota) == 2 and all(each.isdigit() for each in quota)
        yield int(quota[0]) / int(quota[1]) if limited else None


def _words(path: Path) -> list[str]:
    """Words of a file; none where it cannot be read."""
    try:
        return path.read_text().split()
    except OSError:
        return []


def stage_threads(processes: int, *, memory_gb: float, needs: Sequence[float]) -> int:
    """Threads of a stage that keep all cores at work and are no more than that.

    Acquisitions side by side take less time than stages of several threads, whose parts wait for one another;
    so threads are what processes are left over for.

    Parameters
    ----------
    processes : int
        That may work at once.
    memory_gb : float
        That may be used.
    needs : sequence of float
        GB of the largest stage of each acquisition.

    Examples
    --------
    >>> [stage_threads(8, memory_gb=16, needs=[2.0] * count) for count in (1, 3, 100)]
    [8, 2, 1]
    >>> stage_threads(8, memory_gb=5, needs=[2.0] * 100)
    4
    """
    at_once = min(processes, len(needs), max(1, int(memory_gb // max(needs))))
    return processes // at_once


def resolve_gpu(device: str) -> bool:
    """Whether the stages use the GPU.

    Parameters
    ----------
    device : str
        ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.

    Returns
    -------
    bool
        True for the GPU.

    Raises
    ------
    Stop
        If ``cuda`` is asked for and there is none.

    Examples
    --------
    >>> resolve_gpu("cpu")
    False
    """
    # Imported here: it takes seconds, and the command line is to answer at once.
    import torch

    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        message = "--device cuda: no CUDA GPU is visible to PyTorch; use --device auto or cpu"
        raise Stop(ExitCode.USAGE, message)
    return found and device != "cpu"


def check_folder(out: Path, *, may_hold_files: bool, remedy: str) -> None:
    """Make a folder for results, if it is not there.

    Parameters
    ----------
    out : Path
    may_hold_files : bool
        Whether it may be anything but empty.
    remedy : str
        What to do about files in it, for the message.

    Raises
    ------
    Stop
        If nothing can be written there, or it would mix with what is there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        occupied = any(out.iterdir())
    except OSError as error:
        raise Stop(ExitCode.CANNOT_WRITE, f"cannot write to {out}: {error.strerror}") from error
    if occupied and not may_hold_files:
        raise Stop(ExitCode.CANNOT_WRITE, f"{out} is not empty; name a new folder, or {remedy}")
