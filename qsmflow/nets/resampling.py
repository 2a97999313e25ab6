"""Maps on another grid of the same field of view, for networks that have not seen their voxels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from qsmflow.core.crop import masked_crop
from qsmflow.nets.card import VoxelRange

#: Relative error of voxel sizes in headers that must not decide over resampling.
TOLERANCE = 1e-3
#: Share of a voxel that must be known for the voxel to count.
LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Grid:
    """Voxels of a field of view.

    Parameters
    ----------
    shape : tuple of int
        How many.
    voxel_size : tuple of float
        Edge lengths in mm.
    """

    shape: tuple[int, ...]
    voxel_size: tuple[float, ...]


def allowed_grid(grid: Grid, allowed: VoxelRange) -> Grid:
    """The grid of the same field of view nearest to a given one that has allowed voxels.

    Edges that are too short or too long go to the limit, and long edges are cut where voxels would be
    too long for their width, for that costs no information. Whole numbers of voxels make edges end up
    a little inside the limits.

    Parameters
    ----------
    grid : Grid
        The given one.
    allowed : VoxelRange
        What voxels may be like.

    Returns
    -------
    Grid
        The given one itself if it may stay.

    Examples
    --------
    >>> allowed = VoxelRange(finest=1, coarsest=3, anisotropy=2)
    >>> allowed_grid(Grid((100, 100, 20), (0.5, 1.0, 5.0)), allowed)
    Grid(shape=(50, 100, 50), voxel_size=(1.0, 1.0, 2.0))
    """
    wanted = [min(max(edge, allowed.finest), allowed.coarsest) for edge in grid.voxel_size]
    longest = allowed.anisotropy * min(wanted)
    wanted = [min(edge, longest) for edge in wanted]
    sizes = []
    for size, edge, target in zip(grid.shape, grid.voxel_size, wanted, strict=True):
        ratio = edge / target
        if abs(ratio - 1) <= TOLERANCE:
            sizes.append(size)
        elif ratio < 1:
            sizes.append(max(math.floor(size * ratio + TOLERANCE), 1))
        else:
            sizes.append(math.ceil(size * ratio - TOLERANCE))
    if tuple(sizes) == tuple(grid.shape):
        return grid
    edges = zip(grid.shape, grid.voxel_size, sizes, strict=True)
    return Grid(tuple(sizes), tuple(size * edge / new for size, edge, new in edges))


def resized(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Cubic interpolation to another number of voxels, smoothed where these become fewer.

    Parameters
    ----------
    image : Tensor
        (x, y, z).
    shape : sequence of int
        Wanted size; the field of view stays.

    Returns
    -------
    Tensor
        (x, y, z).

    Examples
    --------
    >>> resized(torch.ones(6, 4, 2), (3, 4, 4)).shape
    torch.Size([3, 4, 4])
    """
    for axis, size in enumerate(shape):
        if image.shape[axis] != size:
            lines = image.movedim(axis, 0)
            others = lines.shape[1:]
            # PyTorch smooths images of two dimensions only; one of them keeps its size.
            plane = lines.reshape(1, 1, len(lines), -1)
            plane = F.interpolate(plane, (size, plane.shape[3]), mode="bicubic", antialias=True)
            image = plane.reshape(size, *others).movedim(0, axis)
    return image


def resized_in_mask(
    image: Tensor, mask: Tensor, shape: Sequence[int], *, target: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A masked image on another grid, in which what lies outside the mask has no say.

    Parameters
    ----------
    image : Tensor
        (x, y, z).
    mask : Tensor
        (x, y, z), boolean.
    shape : sequence of int
        Wanted size.
    target : Tensor, optional
        Mask on the wanted grid; the voxels known by half at least, unless given.

    Returns
    -------
    image, mask : Tensor
        The image on the wanted grid, zero outside its mask, and the mask.

    Examples
    --------
    >>> mask = torch.zeros(8, 4, 4, dtype=torch.bool)
    >>> mask[2:6] = True
    >>> image, inside = resized_in_mask(torch.where(mask, 2.0, 9.0), mask, (4, 4, 4))
    >>> inside[:, 0, 0].tolist(), [round(value, 5) for value in image[:, 0, 0].tolist()]
    ([False, True, True, False], [0.0, 2.0, 2.0, 0.0])
    """
    known = resized(mask.to(image.dtype), shape)
    values = resized(torch.where(mask, image, 0), shape) / known.clamp(min=LEAST_SHARE)
    target = known >= LEAST_SHARE if target is None else target
    return torch.where(target, values, 0), target


@dataclass(frozen=True)
class Frame:
    """A map cut to its mask and on voxels that a network knows, and the way back.

    Attributes
    ----------
    image : Tensor
        (x, y, z), zero outside the mask.
    mask : Tensor
        (x, y, z), boolean.
    voxel_size : tuple of float
        mm.
    box : tuple of slice
        Of the mask in the whole image.
    inside : Tensor
        The mask in the box, on the image's own voxels.
    resampled_to : tuple of float or None
        The voxel size, if it is not the image's own.
    """

    image: Tensor
    mask: Tensor
    voxel_size: tuple[float, ...]
    box: tuple[slice, ...]
    inside: Tensor
    resampled_to: tuple[float, ...] | None

    def to(self, device: torch.device) -> "Frame":
        """The same on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("image", "mask", "inside")}
        return replace(self, **moved)

    def restored(self, values: Tensor, *, maker: str) -> Tensor:
        """Values of a network on the image's own voxels, in the box."""
        if not bool(torch.isfinite(values.sum())):
            raise ValueError(f"the result of {maker} is not finite; look for extreme values in its input")
        if self.resampled_to is None:
            return torch.where(self.inside, values, 0)
        return resized_in_mask(values, self.mask, self.inside.shape, target=self.inside)[0]


def framed(image: Tensor, *, mask: Tensor, voxel_size: Sequence[float], allowed: VoxelRange) -> Frame:
    """Cut a map to its mask, and resample it if its voxels are not allowed.

    Parameters
    ----------
    image : Tensor
        (x, y, z).
    mask : Tensor
        (x, y, z), true inside.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    allowed : VoxelRange
        Voxels that a network knows.

    Returns
    -------
    Frame

    Raises
    ------
    ValueError
        If the shapes differ, the voxel size is none, the mask is empty or the map not finite in it.

    Examples
    --------
    >>> mask = torch.zeros(6, 6, 6, dtype=torch.bool)
    >>> mask[1:5, 1:5, 1:3] = True
    >>> allowed = VoxelRange(finest=1, coarsest=2, anisotropy=2)
    >>> frame = framed(torch.ones(6, 6, 6), mask=mask, voxel_size=(0.5, 1, 1), allowed=allowed)
    >>> tuple(frame.image.shape), frame.resampled_to
    ((2, 4, 2), (1.0, 1.0, 1.0))
    """
    if image.dim() != 3 or image.shape != mask.shape:
        raise ValueError(
            f"map and mask must be volumes of one shape, got {tuple(image.shape)} and {tuple(mask.shape)}"
        )
    if len(voxel_size) != 3 or not all(edge > 0 for edge in voxel_size):
        raise ValueError(f"voxel_size must be three positive lengths in mm, got {tuple(voxel_size)}")
    box, inside, values = masked_crop(image.float(), mask=mask)
    own = Grid(tuple(values.shape), tuple(float(edge) for edge in voxel_size))
    grid = allowed_grid(own, allowed)
    if grid == own:
        return Frame(values, inside, own.voxel_size, box, inside, None)
    values, known = resized_in_mask(values, inside, grid.shape)
    return Frame(values, known, grid.voxel_size, box, inside, grid.voxel_size)
