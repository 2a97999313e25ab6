"""How much memory each stage needs."""

import math
from collections.abc import Sequence

#: What the interpreter and its libraries take in each process, GB.
PROCESS_GB = 0.45
#: Bytes per voxel: (constant part, part per echo). Measured by benchmarks/stage_memory.py.
BYTES_PER_VOXEL = {
    "scale": (20, 24),
    "mask": (60, 0),
    "fit": (80, 40),
    "unwrap": (420, 0),
    "background": (220, 0),
    "sign": (220, 0),
    "invert": (330, 0),
    "figure": (60, 0),
}


#: The same of the fit that goes slab by slab.
LOW_MEMORY_FIT = (40, 5)


def stage_memory(shape: Sequence[int], *, n_echoes: int, low_mem: bool = False) -> dict[str, float]:
    """Memory that each stage needs for an acquisition.

    Parameters
    ----------
    shape : sequence of int
        Voxels along each axis.
    n_echoes : int
        Number of echoes.
    low_mem : bool
        Whether the fit goes slab by slab.

    Returns
    -------
    dict
        GB by stage, libraries included.

    Examples
    --------
    >>> full, low = (stage_memory((160, 160, 96), n_echoes=5, low_mem=low)["fit"] for low in (False, True))
    >>> full > low
    True
    """
    voxels = math.prod(shape)
    needs = {
        stage: PROCESS_GB + voxels * (constant + n_echoes * per_echo) / 1e9
        for stage, (constant, per_echo) in BYTES_PER_VOXEL.items()
    }
    if low_mem:
        constant, per_echo = BYTES_PER_VOXEL["fit"]
        needs["fit"] = PROCESS_GB + voxels * (constant / 2 + n_echoes * per_echo / 8) / 1e9
    return needs
