"""Smooth random change of the template into an individual head, and smooth things on any grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from qsmflow.sim.grids import voxel_edges
from qsmflow.sim.template import Lattice

#: First sample of a smooth field over a head in mm, mm between samples, and their number; beyond them the
#: outermost values go on.
FIELD_ORIGIN, FIELD_SPACING, FIELD_SHAPE = (-108.0, -138.0, -207.0), 3.0, (72, 90, 108)
#: mm between the knots that smooth functions on a grid are refined from.
KNOT_SPACING = 4.0

#: Template mm per mm of an average head: brains fitted to the template are larger than they are
#: (Lancaster et al. 2007, 10.1002/hbm.20345).
MEAN_STRETCH = 1.06
#: Displacement of a head: wavelength of the band in mm, its bandwidth in 1/mm, and SD along each axis in mm.
WARP_BANDS = ((np.inf, 1 / 140, 2.4), (48.0, 0.005, 1.2), (20.0, 0.006, 0.35))
#: The Jacobian determinant of a warp is nowhere less than this.
LEAST_JACOBIAN = 0.35
#: Centre and size (Gaussian SD, mm) of the region about each lateral ventricle that widens with it.
VENTRICLE_CENTER, VENTRICLE_SIZE = (10.0, -8.0, 14.0), (11.0, 30.0, 13.0)


def draw_smooth_fields(
    generator: torch.Generator, bands: Sequence[Sequence[float]], *, channels: int
) -> Lattice:
    """Smooth random fields over the head, each the sum of bands of wavelengths.

    Parameters
    ----------
    generator : torch.Generator
        On the CPU.
    bands : sequence of (wavelength, bandwidth, deviation)
        Centre in mm and Gaussian width in 1/mm of each band, and the standard deviation it gets.
    channels : int
        Number of fields.

    Returns
    -------
    Lattice
        (channel, x, y, z).

    Examples
    --------
    >>> fields = draw_smooth_fields(torch.Generator().manual_seed(0), [(40.0, 0.01, 2.0)], channels=2)
    >>> [round(float(field.std()), 2) for field in fields.values]
    [2.0, 2.0]
    """
    shape = FIELD_SHAPE
    noise = torch.fft.rfftn(torch.randn(channels, *shape, generator=generator), dim=(1, 2, 3))
    frequencies = [torch.fft.fftfreq(n, d=FIELD_SPACING) for n in shape[:2]]
    frequencies.append(torch.fft.rfftfreq(shape[2], d=FIELD_SPACING))
    k = sum(f**2 for f in torch.meshgrid(*frequencies, indexing="ij")).sqrt()
    total = torch.zeros(channels, *shape)
    for wavelength, bandwidth, deviation in bands:
        band = torch.exp(-0.5 * ((k - 1 / wavelength) / bandwidth) ** 2)
        band[0, 0, 0] = 0
        field = torch.fft.irfftn(noise * band, s=shape, dim=(1, 2, 3))
        total += deviation * field / field.std(dim=(1, 2, 3), keepdim=True)
    return Lattice(total, FIELD_ORIGIN, FIELD_SPACING)


@dataclass(frozen=True)
class Warp:
    """From a subject's head to the template: stretched along the axes, then displaced.

    Parameters
    ----------
    stretch : tuple of float
        Template mm per subject mm along x, y, z.
    displacement : Lattice
        Three channels, mm; at points of the subject's head.
    """

    stretch: tuple[float, float, float]
    displacement: Lattice

    def to(self, device) -> "Warp":
        """The same warp on another device."""
        return replace(self, displacement=self.displacement.to(device))

    def __call__(self, points: Tensor) -> Tensor:
        """Template points (3, ...) of the subject's points (3, ...), mm."""
        stretch = points.new_tensor(self.stretch).reshape(3, *[1] * (points.ndim - 1))
        return points * stretch + self.displacement(points)

    def inverse(self, points: Tensor, *, iterations: int = 12) -> Tensor:
        """Subject's points (3, ...) of template points (3, ...), mm, by fixed-point iteration."""
        stretch = points.new_tensor(self.stretch).reshape(3, *[1] * (points.ndim - 1))
        found = points / stretch
        for _ in range(iterations):
            # Damped, so that the strongest gradients that a warp may have do not make it swing.
            found = found + 0.8 * (points - self.displacement(found) - found * stretch) / stretch
        return found

    def jacobian(self) -> Tensor:
        """Determinant of the derivative at the samples of the displacement, without the outermost ones."""
        field, spacing = self.displacement.values, self.displacement.spacing
        inner = [slice(1, -1)] * 3
        columns = []
        for axis, stretch in enumerate(self.stretch):
            after, before = list(inner), list(inner)
            after[axis], before[axis] = slice(2, None), slice(0, -2)
            slope = (field[(slice(None), *after)] - field[(slice(None), *before)]) / (2 * spacing)
            slope[axis] += stretch
            columns.append(slope)
        (a, b, c), (d, e, f), (g, h, i) = columns
        return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def draw_warp(generator: torch.Generator, *, spread: float = 1.0) -> Warp:
    """Size, shape and ventricles of one subject; a one-to-one map, whatever the spread.

    Parameters
    ----------
    generator : torch.Generator
        On the CPU.
    spread : float
        Factor on all of them; 0 is the template itself, in the size of an average head.

    Returns
    -------
    Warp

    Examples
    --------
    >>> warp = draw_warp(torch.Generator().manual_seed(0))
    >>> bool(warp.jacobian().min() > 0.3)
    True
    """
    stretch = MEAN_STRETCH * torch.exp(0.035 * spread * torch.randn(3, generator=generator).clamp(-2, 2))
    field = draw_smooth_fields(generator, WARP_BANDS, channels=3)
    widening = 1 - torch.exp(-spread * (0.1 + 0.22 * torch.randn((), generator=generator)).clamp(-0.3, 0.5))
    values = spread * field.values + _ventricle_widening(field, widening)
    warp = Warp(tuple(stretch.tolist()), replace(field, values=values))
    while warp.jacobian().min() < LEAST_JACOBIAN:
        values = 0.94 * values
        warp = replace(warp, displacement=replace(field, values=values))
    return warp


def _ventricle_widening(lattice: Lattice, amount: Tensor) -> Tensor:
    """Displacement that brings the surroundings of the ventricles nearer to their middle."""
    points = lattice.points()
    total = torch.zeros_like(points)
    for side in (-1, 1):
        center = points.new_tensor(VENTRICLE_CENTER).reshape(3, 1, 1, 1).clone()
        center[0] *= side
        offset = points - center
        scaled = offset / points.new_tensor(VENTRICLE_SIZE).reshape(3, 1, 1, 1)
        total -= amount * offset * torch.exp(-0.5 * (scaled**2).sum(0))
    return total


@dataclass(frozen=True)
class Knots:
    """Knots a few mm apart over a grid, from which smooth functions are refined by cubic splines.

    Functions that vary over centimetres are worth evaluating at knots only: a few matrix products then give
    them at every voxel.

    Parameters
    ----------
    points : Tensor
        (3, a, b, c), where the knots lie in scanner mm.
    matrices : tuple of Tensor
        One an axis: (voxels, knots).
    """

    points: Tensor
    matrices: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def over(cls, shape: Sequence[int], affine: np.ndarray, *, device=None) -> "Knots":
        """Knots over a grid of this shape and affine."""
        knots, matrices = [], []
        for size, edge in zip(shape, voxel_edges(affine), strict=True):
            number = max(4, int(np.ceil((size - 1) * edge / KNOT_SPACING)) + 1)
            positions = np.linspace(0, size - 1, number) if size > 1 else np.arange(-1.0, 3.0)
            spline = CubicSpline(positions, np.eye(number))(np.arange(size))
            knots.append(torch.as_tensor(positions, dtype=torch.float32, device=device))
            matrices.append(torch.as_tensor(spline, dtype=torch.float32, device=device))
        matrix = torch.as_tensor(affine, dtype=torch.float32, device=device)
        indices = torch.stack(torch.meshgrid(*knots, indexing="ij"))
        points = torch.tensordot(matrix[:3, :3], indices, dims=1) + matrix[:3, 3].reshape(3, 1, 1, 1)
        return cls(points, tuple(matrices))

    def rows(self, values: Tensor) -> Tensor:
        """Refine (channel, a, b, c) along y and z: (channel, a, y, z)."""
        values = values @ self.matrices[2].T
        return self.matrices[1] @ values

    def slab(self, rows: Tensor, first: int, stop: int) -> Tensor:
        """Refine rows along x, for the voxels first ≤ x < stop: (channel, stop - first, y, z)."""
        part = self.matrices[0][first:stop] @ rows.flatten(2)
        return part.unflatten(2, rows.shape[2:])
