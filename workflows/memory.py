"""How much memory each stage needs."""

import math
from collections.abc import Sequence

#: What the interpreter and its libraries take in each process, GB.
PROCESS_GB = 0.46
#: Bytes per voxel: (constant part, part per echo), a fifth above what benchmarks/stage_memory.py measures.
BYTES_PER_VOXEL = {
    "scale": (12, 17),
    "mask": (60, 0),
    "fit": (210, 20),
    "unwrap": (150, 0),
    "background": (160, 0),
    "sign": (80, 0),
    "invert": (255, 0),
    "figure": (45, 0),
}
#: The same for the fit where it goes slab by slab.
LOW_MEMORY_FIT = (120, 3)


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
    costs = BYTES_PER_VOXEL | ({"fit": LOW_MEMORY_FIT} if low_mem else {})
    voxels = math.prod(shape)
    return {
        stage: PROCESS_GB + voxels * (constant + n_echoes * per_echo) / 1e9
        for stage, (constant, per_echo) in costs.items()
    }
