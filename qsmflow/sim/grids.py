"""Image grids: refine, enlarge and average them, and where their voxels lie."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional


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


def refined(shape: Sequence[int], affine: np.ndarray, *, factor: float) -> tuple[tuple[int, ...], np.ndarray]:
    """Grid over the same field of view with voxels ``factor`` times smaller.

    A factor below one makes the voxels larger; the field of view then grows to whole voxels.

    Examples
    --------
    >>> shape, affine = refined((4, 4, 4), np.diag([2.0, 2, 2, 1]), factor=2)
    >>> shape, affine[:3, 3].tolist()
    ((8, 8, 8), [-0.5, -0.5, -0.5])
    """
    matrix = np.diag([1 / factor] * 3 + [1])
    # The corner of the first voxel stays where it is.
    matrix[:3, 3] = 0.5 / factor - 0.5
    return tuple(int(np.ceil(size * factor)) for size in shape), affine @ matrix


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
    return tuple(size + b + a for size, b, a in zip(shape, before, after, strict=True)), moved


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


def block_mean(image: Tensor, *, factor: int) -> Tensor:
    """Mean over blocks of ``factor`` voxels along the last three axes.

    Parameters
    ----------
    image : Tensor
        (..., x, y, z), real or complex; each size a multiple of the factor.
    factor : int
        Edge of a block in voxels.

    Returns
    -------
    Tensor
        (..., x / factor, y / factor, z / factor).

    Examples
    --------
    >>> block_mean(torch.arange(8.0).reshape(2, 2, 2), factor=2)
    tensor([[[3.5000]]])
    """
    *lead, nx, ny, nz = image.shape
    blocks = image.reshape(*lead, nx // factor, factor, ny // factor, factor, nz // factor, factor)
    return blocks.mean(dim=(-5, -3, -1))


def smeared(image: Tensor) -> Tensor:
    """Each voxel spread over its neighbours, nearly round: a Gaussian of one voxel's standard deviation.

    Parameters
    ----------
    image : Tensor
        (x, y, z); zero beyond its borders.

    Returns
    -------
    Tensor
        (x, y, z).

    Examples
    --------
    >>> image = torch.zeros(7, 7, 7)
    >>> image[3, 3, 3] = 1
    >>> float(smeared(image).sum()), float(smeared(image)[3, 3, 3] * 16**3)
    (1.0, 216.0)
    """
    binomial = image.new_tensor([1, 4, 6, 4, 1]) / 16
    kernel = binomial[:, None, None] * binomial[:, None] * binomial
    return functional.conv3d(image[None, None], kernel[None, None], padding=2)[0, 0]


def spline_refined(image: Tensor, *, factor: int) -> Tensor:
    """A smooth image on voxels ``factor`` times smaller, by cubic splines along each axis.

    Splines have no kinks: the Laplacian of a field stays that of the field.

    Parameters
    ----------
    image : Tensor
        (x, y, z).
    factor : int
        Fine voxels along a voxel's edge.

    Returns
    -------
    Tensor
        (x * factor, y * factor, z * factor).

    Examples
    --------
    >>> ramp = torch.arange(4.0).reshape(4, 1, 1).expand(4, 4, 4)
    >>> spline_refined(ramp, factor=2)[2:5, 0, 0]
    tensor([0.7500, 1.2500, 1.7500])
    """
    for axis, size in enumerate(image.shape):
        positions = (np.arange(size * factor) + 0.5) / factor - 0.5
        matrix = image.new_tensor(CubicSpline(np.arange(size), np.eye(size))(positions))
        image = torch.tensordot(image, matrix, dims=([axis], [1])).movedim(-1, axis)
    return image
