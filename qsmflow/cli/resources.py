"""What the machine lets a run use: cores, memory, a GPU."""

import os
import re
from pathlib import Path

import torch

_UNITS = {"": 1e-3, "M": 1e-3, "G": 1.0, "T": 1e3}
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def parse_memory(text: str) -> float:
    """Memory in GB from a number with an optional unit; without one it is megabytes.

    Parameters
    ----------
    text : str
        For example ``1.5G``, ``8g``, ``4000``, ``4000MB``, ``2GiB``.

    Returns
    -------
    float
        GB.

    Raises
    ------
    ValueError
        If the text is no positive amount of memory.

    Examples
    --------
    >>> [parse_memory(text) for text in ("1.5G", "8g", "4000", "500MB")]
    [1.5, 8.0, 4.0, 0.5]
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([MGT]?)(?:i?B)?\s*", text, flags=re.IGNORECASE)
    amount = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if not amount > 0:
        raise ValueError(f"'{text}' is no amount of memory; write for example 8G, 1.5G or 4000 (MB)")
    return amount


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
    ValueError
        If ``cuda`` is asked for and there is none.

    Examples
    --------
    >>> resolve_gpu("cpu")
    False
    """
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise ValueError("--device cuda: no CUDA GPU is visible to PyTorch; use --device auto or cpu")
    return found and device != "cpu"
