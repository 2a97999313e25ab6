"""How much memory each stage needs."""

import math
from collections.abc import Collection, Sequence

#: What the interpreter and its libraries take in each process, GB.
PROCESS_GB = 0.6
#: Bytes per voxel: (constant part, part per echo), a fifth above what benchmarks/stage_memory.py measures.
BYTES_PER_VOXEL = {
    "scale": (12, 17),
    "mask": (60, 0),
    "fit": (210, 20),
    "unwrap": (150, 0),
    "background": (160, 0),
    "sign": (80, 0),
    "invert": (255, 0),
    "residual": (130, 0),
    "quality": (140, 0),
    "register": (160, 0),
    "score": (285, 0),
    "regions": (160, 0),
    "figure": (45, 0),
    "viewer": (225, 0),
}
#: The same for the fit where it goes slab by slab.
LOW_MEMORY_FIT = (120, 3)
#: Of networks, which go tile by tile in what memory there is: GB of the smallest tile, bytes per voxel that
#: whole images take beside it, and bytes per voxel that are given where there are as many.
NETWORKS = {"invert": (0.5, 220, 400), "motion": (0.5, 160, 400)}


def stage_memory(
    shape: Sequence[int],
    *,
    n_echoes: int,
    low_mem: bool = False,
    networks: Collection[str] = (),
    limit: float = math.inf,
) -> dict[str, float]:
    """Memory that each stage needs for an acquisition.

    Parameters
    ----------
    shape : sequence of int
        Voxels along each axis.
    n_echoes : int
        Number of echoes.
    low_mem : bool
        Whether the fit goes slab by slab.
    networks : collection of str
        Stages that are done by networks, keys of :data:`NETWORKS`.
    limit : float
        GB that networks keep within if they can.

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
    memory = {
        stage: PROCESS_GB + voxels * (constant + n_echoes * per_echo) / 1e9
        for stage, (constant, per_echo) in costs.items()
    }
    for stage in networks:
        tile, *per_voxel = NETWORKS[stage]
        least, ample = (PROCESS_GB + tile + voxels * each / 1e9 for each in per_voxel)
        memory[stage] = min(ample, max(least, limit))
    return memory
