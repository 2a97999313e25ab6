"""What networks may be given at once: tiles and stretches of slices that a memory suffices for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qsmflow.core.crop import bounding_box
from qsmflow.nets.tiling import Tiles, cut

#: Zeros in voxels around the mask that networks see at least.
MARGIN = 2
#: Edges of the boxes that slices are cut to are multiples of this, so that few different sizes occur.
EDGE = 8
#: Slices that PReNet sees cut alike, so that how many fit in memory changes nothing in the result.
SLICES = 8
#: Images that a U-Net holds at once on its first level, in channels of that, and bytes that PReNet does a
#: pixel and channel, a tenth above the peaks that were measured.
UNET_IMAGES, PRENET_BYTES = 10, 80


@dataclass(frozen=True)
class Budget:
    """Memory that a network may use.

    Parameters
    ----------
    name : str
        Of the model, for errors.
    memory_gb : float or None
        In all; None for no limit.
    held : float
        Bytes that are held beside the network.

    Examples
    --------
    >>> from qsmflow.nets.unet import UNet, UNetSettings
    >>> budget = Budget("small", memory_gb=0.16, held=0)
    >>> network = UNet(UNetSettings(channels=(4, 8), fold=1))
    >>> budget.tiles(network, (96, 96, 160), dtype=torch.float32).tile
    (96, 96, 96)
    """

    name: str
    memory_gb: float | None
    held: float

    def _left(self, least: float) -> float:
        """Bytes for the network, which needs so many at least."""
        if self.memory_gb is None:
            return math.inf
        left = 1e9 * self.memory_gb - self.held
        if left < least:
            raise ValueError(
                f"{self.name} needs {(self.held + least) / 1e9:.2f} GB for this volume, "
                f"{self.memory_gb:g} GB are given; give it more"
            )
        return left

    def tiles(self, network: nn.Module, size: Sequence[int], *, dtype: torch.dtype) -> Tiles:
        """Tiles for a network with U-Nets."""
        settings = network.settings
        images = UNET_IMAGES * settings.channels[0] / settings.fold**3 + settings.maps
        per_voxel = images * dtype.itemsize
        smallest = cut(size, stride=settings.stride, max_voxels=0)
        left = self._left(smallest.voxels * per_voxel)
        return cut(size, stride=settings.stride, max_voxels=left / per_voxel)

    def batches(self, network: nn.Module, groups: list[tuple[slice, ...]]) -> list[tuple[slice, ...]]:
        """Groups of slices, split where one does not fit."""
        per_pixel = PRENET_BYTES * network.settings.channels
        pixels = [_length(x) * _length(y) for x, y, _ in groups]
        left = self._left(per_pixel * max(pixels))
        batches = []
        for (x, y, z), area in zip(groups, pixels, strict=True):
            step = int(min(left / (per_pixel * area), SLICES))
            batches += [(x, y, slice(n, min(n + step, z.stop))) for n in range(z.start, z.stop, step)]
        return batches


def slice_groups(mask: Tensor) -> list[tuple[slice, ...]]:
    """Boxes around the mask in stretches of slices, of few different sizes in the plane.

    Examples
    --------
    >>> mask = torch.zeros(40, 40, 20)
    >>> mask[20, 20, 3:10] = 1
    >>> slice_groups(mask)[1]
    (slice(16, 24, None), slice(16, 24, None), slice(8, 10, None))
    """
    groups = []
    for first in range(0, mask.shape[2], SLICES):
        part = mask[:, :, first : first + SLICES]
        if part.any():
            x, y, z = bounding_box(part)
            plane = [_widened(extent, size) for extent, size in zip((x, y), mask.shape, strict=False)]
            groups.append((*plane, slice(first + z.start, first + z.stop)))
    return groups


def _widened(extent: slice, size: int) -> slice:
    """With the margin, from one multiple of :data:`EDGE` to another, within an axis."""
    first = max(extent.start - MARGIN, 0) // EDGE * EDGE
    return slice(first, min(math.ceil((extent.stop + MARGIN) / EDGE) * EDGE, size))


def _length(extent: slice) -> int:
    return extent.stop - extent.start
