"""Image grids: refine, enlarge and average them, and where their voxels lie."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor


def oblique_affine(
    shape: Sequence[int],
    *,
    voxel_size: Sequence[float],
    rotation: Sequence[float] = (0.0, 0.0, 0.0),
    center: Sequence[float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Affine of a slab that is turned about its centre.

    Parameters
    ----------
    shape : sequence of int
        Voxels.
    voxel_size : sequence of float
        mm.
    rotation : sequence of float
        Degrees about the scanner's x, y and z axes, applied in that order.
    center : sequence of float
        Where the middle of the slab lies, mm.

    Returns
    -------
    numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm.

    Examples
    --------
    >>> oblique_affine((3, 3, 3), voxel_size=(2, 2, 2))[:3, 3].tolist()
    [-2.0, -2.0, -2.0]
    """
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() * np.asarray(voxel_size)
    affine[:3, 3] = np.asarray(center) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def voxel_edges(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel edge lengths of an affine in mm.

    Examples
    --------
    >>> voxel_edges(np.diag([1.0, 2.0, 3.0, 1.0]))
    (1.0, 2.0, 3.0)
    """
    return tuple(float(edge) for edge in np.linalg.norm(affine[:3, :3], axis=0))


def refined(
    shape: Sequence[int], affine: np.ndarray, *, factor: float | Sequence[float]
) -> tuple[tuple[int, ...], np.ndarray]:
    """Grid over the same field of view with voxels ``factor`` times smaller.

    A factor below one makes the voxels larger; the field of view then grows to whole voxels.

    Parameters
    ----------
    shape : sequence of int
        Voxels.
    affine : numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm.
    factor : float or sequence of float
        One for all axes, or one an axis.

    Returns
    -------
    shape : tuple of int
    affine : numpy.ndarray
        Of the refined grid.

    Examples
    --------
    >>> shape, affine = refined((4, 4, 4), np.diag([2.0, 2, 3, 1]), factor=(2, 2, 3))
    >>> shape, affine[:3, 3].tolist()
    ((8, 8, 12), [-0.5, -0.5, -1.0])
    """
    factor = np.broadcast_to(np.asarray(factor, dtype=float), 3)
    matrix = np.diag([*(1 / factor), 1])
    # The corner of the first voxel stays where it is.
    matrix[:3, 3] = 0.5 / factor - 0.5
    sizes = np.ceil(np.asarray(shape) * factor - 1e-9)
    return tuple(int(size) for size in sizes), affine @ matrix


def enlarged(
    shape: Sequence[int], affine: np.ndarray, *, before: Sequence[int], after: Sequence[int]
) -> tuple[tuple[int, ...], np.ndarray]:
    """Grid with more voxels on its lower and upper sides.

    Examples
    --------
    >>> shape, affine = enlarged((4, 4, 4), np.eye(4), before=(1, 0, 0), after=(2, 0, 0))
    >>> shape, affine[:3, 3].tolist()
    ((7, 4, 4), [-1.0, 0.0, 0.0])
    """
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, :3] @ np.asarray(before)
    return tuple(int(size + b + a) for size, b, a in zip(shape, before, after, strict=True)), moved


def box_indices(
    shape: Sequence[int], affine: np.ndarray, lower: Sequence[float], upper: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last voxel of the smallest block that covers a box in mm.

    The block may reach beyond the grid.

    Examples
    --------
    >>> first, stop = box_indices((9, 9, 9), np.eye(4), (1, 2, 3), (4, 4, 4))
    >>> first.tolist(), stop.tolist()
    ([1, 2, 3], [5, 5, 5])
    """
    corners = np.array(np.meshgrid(*zip(lower, upper, strict=True))).reshape(3, -1)
    inverse = np.linalg.inv(affine)
    indices = inverse[:3, :3] @ corners + inverse[:3, 3:]
    return np.floor(indices.min(axis=1)).astype(int), np.ceil(indices.max(axis=1)).astype(int) + 1


def voxel_centers(shape: Sequence[int], affine: np.ndarray, *, device=None) -> Tensor:
    """Scanner coordinates of all voxel centres.

    Returns
    -------
    Tensor
        (3, x, y, z) in mm, float32.

    Examples
    --------
    >>> voxel_centers((2, 2, 2), np.diag([2.0, 2, 2, 1]))[:, 1, 0, 1].tolist()
    [2.0, 0.0, 2.0]
    """
    matrix = torch.as_tensor(affine, dtype=torch.float32, device=device)
    axes = [torch.arange(size, dtype=torch.float32, device=device) for size in shape]
    x, y, z = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
    return torch.stack([row[0] * x + row[1] * y + row[2] * z + row[3] for row in matrix[:3]])


def block_mean(image: Tensor, *, factor: int | Sequence[int]) -> Tensor:
    """Mean over blocks of ``factor`` voxels along the last three axes.

    Parameters
    ----------
    image : Tensor
        (..., x, y, z), real or complex; each size a multiple of its factor.
    factor : int or sequence of int
        Edge of a block in voxels, one for all axes or one an axis.

    Returns
    -------
    Tensor
        (..., x / factor, y / factor, z / factor).

    Examples
    --------
    >>> block_mean(torch.arange(8.0).reshape(2, 2, 2), factor=(2, 2, 1))
    tensor([[[3., 4.]]])
    """
    # One axis after the other: the first sums add whole planes, and leave less for the next.
    for axis, edge in zip((-3, -2, -1), np.broadcast_to(factor, 3).tolist(), strict=True):
        if edge > 1:
            image = image.unflatten(axis, (-1, edge)).mean(dim=axis)
    return image
