"""Values of a map in the regions of a label image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Region:
    """Values of a map in one region.

    Attributes
    ----------
    index : int
        Label of the region.
    mean, sd, median : float
        In the unit of the map; the standard deviation is that of the voxels, without Bessel's correction.
    volume : float
        Of the voxels that were measured, ml.
    voxels : int
        Their number.
    """

    index: int
    mean: float
    sd: float
    median: float
    volume: float
    voxels: int


def measure_regions(
    image: Tensor, *, labels: Tensor, mask: Tensor, voxel_size: Sequence[float]
) -> tuple[Region, ...]:
    """Mean, spread, median and volume of each label, over the voxels where the map is known.

    Parameters
    ----------
    image : Tensor
        (x, y, z), any unit.
    labels : Tensor
        (x, y, z), whole numbers; 0 is no region.
    mask : Tensor
        (x, y, z), bool, where the map is known.
    voxel_size : sequence of float
        Voxel edge lengths in mm.

    Returns
    -------
    tuple of Region
        By label; regions without any voxel in the mask are left out.

    Raises
    ------
    ValueError
        If shapes differ, or a value in a region is not finite.

    Examples
    --------
    >>> import torch
    >>> image = torch.tensor([1.0, 2.0, 3.0, 9.0]).reshape(4, 1, 1)
    >>> labels = torch.tensor([5, 5, 5, 0]).reshape(4, 1, 1)
    >>> (region,) = measure_regions(image, labels=labels, mask=labels > 0, voxel_size=(10, 10, 10))
    >>> region.index, region.mean, region.median, region.volume
    (5, 2.0, 2.0, 3.0)
    """
    if not image.shape == labels.shape == mask.shape:
        shapes = ", ".join(str(tuple(each.shape)) for each in (image, labels, mask))
        raise ValueError(f"map, labels and mask must be of one shape, got {shapes}")
    counted = mask.bool() & (labels != 0)
    indices, values = labels[counted].cpu().numpy(), image[counted].double().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError("the map is not finite in a region")
    order = np.argsort(indices, kind="stable")
    found, starts = np.unique(indices[order], return_index=True)
    parts = np.split(values[order], starts[1:]) if len(found) else []
    millilitre = float(np.prod(voxel_size)) / 1000
    return tuple(
        Region(
            index=int(index),
            mean=float(part.mean()),
            sd=float(part.std()),
            median=float(np.median(part)),
            volume=len(part) * millilitre,
            voxels=len(part),
        )
        for index, part in zip(found, parts, strict=True)
    )
