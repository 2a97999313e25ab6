"""What the machine lets a run use: cores, memory, a GPU."""

import os
from pathlib import Path

from qsmflow.cli.exit_codes import ExitCode, Stop

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def available_memory() -> float:
    """Memory in GB that this process may use: the machine's, or its container's limit if lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [path.read_text().strip() for path in _CGROUP_LIMITS if path.is_file()]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())]) / 1e9


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
