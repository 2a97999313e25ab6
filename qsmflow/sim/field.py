"""The field of a whole head on fine voxels, made on two grids.

The field of a dipole is split as Ewald split the potential of a crystal: a Gaussian g takes the part of
long range from the part of short range,

    D = D·g + D·(1 − g),    g(k) = exp(−2π²σ²|k|²).

Seen from more than a few σ away, a source spread round its place makes the same field, so the second part
is local: the fine voxels round the scan with a rim are enough for it, without padding. The first part is
smooth: coarse voxels are enough for it, over the whole head and padded against copies. B-splines take the
sources to the coarse voxels and the field back, as in the smooth particle-mesh Ewald method (Essmann et
al. 1995, 10.1063/1.470117).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor

from qsmflow.core.dipole import dipole_kernel
from qsmflow.core.fourier import frequencies, good_size
from qsmflow.sim.grids import box_indices, enlarged, refined, voxel_edges

#: Edge in mm that coarse voxels come near to.
COARSE_EDGE = 3.0
#: Width σ of the Gaussian, in coarse voxels: nothing is left of it at their Nyquist frequency.
WIDTH = 1.25
#: Width of the rim, in σ: beyond it, the part of short range is a few per cent of a dipole's field.
RIM = 3.0
#: B-splines of this order take values from the fine to the coarse grid and back, and reach this far.
SPLINE_ORDER = 6
REACH = SPLINE_ORDER // 2


@dataclass(frozen=True)
class FieldGrids:
    """A fine grid round a scan, and a coarse one round a whole head, their voxel faces aligned.

    Parameters
    ----------
    shape, affine
        Of the fine grid, rim included.
    inner : tuple of slice
        Where the scan lies in the fine grid.
    factors : tuple of int
        Fine voxels along the edges of a coarse one.
    coarse_shape, coarse_affine
        Of the coarse grid.
    block : tuple of slice
        Where the fine grid lies in the coarse one.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    inner: tuple[slice, ...]
    factors: tuple[int, ...]
    coarse_shape: tuple[int, ...]
    coarse_affine: np.ndarray
    block: tuple[slice, ...]

    @classmethod
    def around(
        cls,
        shape: Sequence[int],
        affine: np.ndarray,
        *,
        box: tuple[Sequence[float], Sequence[float]],
    ) -> "FieldGrids":
        """Lay both grids.

        Parameters
        ----------
        shape : sequence of int
            Voxels of the scan on the fine grid.
        affine : numpy.ndarray
            (4, 4), its voxels to mm in the space of the box.
        box : tuple of sequence of float
            Lower and upper corner of what holds all sources, mm.

        Returns
        -------
        FieldGrids

        Examples
        --------
        >>> grids = FieldGrids.around((20, 20, 20), np.eye(4), box=((-50, -50, -50), (50, 50, 50)))
        >>> grids.factors, grids.shape, grids.coarse_shape
        ((3, 3, 3), (45, 45, 45), (35, 35, 35))
        """
        edges = np.array(voxel_edges(affine))
        factors = np.maximum(1, np.rint(COARSE_EDGE / edges)).astype(int)
        width = RIM * WIDTH * (factors * edges).max()
        before = np.ceil(width / edges).astype(int)
        after = before + (-(np.asarray(shape) + 2 * before)) % factors
        fine_shape, fine_affine = enlarged(shape, affine, before=before, after=after)
        blocks, block_affine = refined(fine_shape, fine_affine, factor=1 / factors)
        first, stop = box_indices(blocks, block_affine, *box)
        # Splines reach beyond the fine grid.
        below, above = np.maximum(-first, REACH), np.maximum(stop - np.asarray(blocks), REACH)
        coarse_shape, coarse_affine = enlarged(blocks, block_affine, before=below, after=above)
        return cls(
            shape=fine_shape,
            affine=fine_affine,
            inner=_slices(before, shape),
            factors=tuple(factors.tolist()),
            coarse_shape=coarse_shape,
            coarse_affine=coarse_affine,
            block=_slices(below, blocks),
        )


class HeadField:
    """The linear operator from the susceptibility on both grids to the field on the fine one.

    It takes two real transforms of the fine grid and two of the coarse one, padded to twice its size: for N
    fine and n coarse voxels after padding, two kernels of 2·(N + n) bytes, a spectrum of 4·N or 4·n bytes
    at a time, and the matrices of the splines, which are small. Setting up takes some 8·N bytes more.

    Parameters
    ----------
    grids : FieldGrids
        Where the susceptibility is given.
    b0_direction : sequence of float
        B0 in voxel axes.
    device : torch.device, optional
        Where the kernels live.

    Examples
    --------
    >>> grids = FieldGrids.around((12, 12, 12), np.eye(4), box=((-20, -20, -20), (30, 30, 30)))
    >>> operator = HeadField(grids, b0_direction=(0, 0, 1))
    >>> chi = torch.zeros(grids.shape)
    >>> chi[16, 16, 16] = 1
    >>> field = operator(chi)
    >>> bool(field[16, 16, 18] > 0 > field[18, 16, 16])
    True
    """

    def __init__(self, grids: FieldGrids, *, b0_direction: Sequence[float], device=None):
        self.grids = grids
        edges = voxel_edges(grids.affine)
        coarse_edges = voxel_edges(grids.coarse_affine)
        width = WIDTH * max(coarse_edges)
        self.fine_size = good_size(grids.shape)
        self.fine_kernel = dipole_kernel(
            self.fine_size, voxel_size=edges, b0_direction=b0_direction, device=device
        )
        k = frequencies(self.fine_size, voxel_size=edges, device=device)
        self.fine_kernel *= 1 - _gaussian(k, width)
        self.coarse_size = good_size(grids.coarse_shape, padding=grids.coarse_shape)
        k = frequencies(self.coarse_size, voxel_size=coarse_edges, device=device)
        self.coarse_kernel = _dipole(k, b0_direction) * _gaussian(k, width)
        # Splines pass the coarse grid on both ways, and what they take from the spectrum is given back.
        for axis, edge, factor in zip(k, coarse_edges, grids.factors, strict=True):
            self.coarse_kernel /= _spline_transfer(axis * edge, factor).square().float()
        self.splines = [
            _spline_matrix(size // factor, factor).to(self.fine_kernel)
            for size, factor in zip(grids.shape, grids.factors, strict=True)
        ]

    def __call__(self, susceptibility: Tensor, surroundings: Tensor | None = None) -> Tensor:
        """Field of a susceptibility.

        Parameters
        ----------
        susceptibility : Tensor
            (x, y, z) on the fine grid, relative to what lies beyond all grids.
        surroundings : Tensor, optional
            (x, y, z) on the coarse grid, counted outside the fine one only; nothing unless given.

        Returns
        -------
        Tensor
            (x, y, z) on the fine grid, in the same unit; good inside the rim.
        """
        grids = self.grids
        if surroundings is None:
            surroundings = susceptibility.new_zeros(grids.coarse_shape)
        sources = surroundings.clone()
        sources[grids.block] = 0
        reached = tuple(slice(part.start - REACH, part.stop + REACH) for part in grids.block)
        spread = [matrix.T / factor for matrix, factor in zip(self.splines, grids.factors, strict=True)]
        sources[reached] += _along_axes(susceptibility, spread)
        smooth = _convolved(sources, self.coarse_kernel, self.coarse_size)[reached]
        field = _convolved(susceptibility, self.fine_kernel, self.fine_size)
        return field.add_(_along_axes(smooth, self.splines))


def _slices(start: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(int(first), int(first) + int(n)) for first, n in zip(start, size, strict=True))


def _along_axes(image: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """A matrix applied along each axis."""
    for axis, matrix in enumerate(matrices):
        image = torch.matmul(matrix, image.movedim(axis, -2)).movedim(-2, axis)
    return image


def _spline(x: np.ndarray) -> np.ndarray:
    """B-spline of unit knots and unit integral at x."""
    basis = BSpline.basis_element(np.arange(SPLINE_ORDER + 1) - SPLINE_ORDER / 2, extrapolate=False)
    return np.nan_to_num(basis(x))


def _spline_matrix(size: int, factor: int) -> Tensor:
    """Splines of the coarse voxels in and near a block, (fine, coarse), at the block's fine voxels."""
    fine = (np.arange(size * factor) + 0.5) / factor - 0.5
    return torch.from_numpy(_spline(fine[:, None] - np.arange(-REACH, size + REACH)))


def _spline_transfer(cycles: Tensor, factor: int) -> Tensor:
    """What is left of frequencies, in cycles per coarse voxel, after a spline sampled on fine voxels."""
    fine = (np.arange(-REACH * factor, (REACH + 1) * factor) + 0.5) / factor - 0.5
    waves = torch.cos(2 * np.pi * cycles[..., None] * cycles.new_tensor(fine))
    return waves @ cycles.new_tensor(_spline(fine) / factor)


def _convolved(image: Tensor, kernel: Tensor, size: tuple[int, ...]) -> Tensor:
    spectrum = torch.fft.rfftn(image, s=size)
    spectrum *= kernel
    return torch.fft.irfftn(spectrum, s=size)[tuple(slice(n) for n in image.shape)]


def _gaussian(k: Sequence[Tensor], width: float) -> Tensor:
    """exp(−2π²σ²|k|²), as a product over the axes."""
    x, y, z = (torch.exp(-2 * (np.pi * width * axis) ** 2).float() for axis in k)
    return x * y * z


def _dipole(k: Sequence[Tensor], b0_direction: Sequence[float]) -> Tensor:
    """1/3 − (k·b)²/|k|² as it stands: under the Gaussian nothing is left at Nyquist to be mended."""
    b = np.asarray(b0_direction, dtype=float)
    b = b / np.linalg.norm(b)
    x, y, z = (axis.float() for axis in k)
    squared = x * x + y * y + z * z
    squared[0, 0, 0] = 1
    kernel = 1 / 3 - (float(b[0]) * x + float(b[1]) * y + float(b[2]) * z) ** 2 / squared
    kernel[0, 0, 0] = 0
    return kernel
