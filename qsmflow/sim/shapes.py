"""Solids as signed distances, and smooth random fields: what anatomy is drawn with."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

Point = tuple[float, float, float]

#: Points that one thread samples at a time.
_SAMPLED_ROW = 4096


class Solid(Protocol):
    """Anything with an inside: it has a box around it and a signed distance to its surface."""

    def bounds(self) -> tuple[Point, Point]:
        """Lower and upper corner of a box that holds the solid, mm."""

    def distance(self, points: Tensor) -> Tensor:
        """Distance to the surface in mm, negative inside; points are (3, ...)."""


def column(vector: Sequence[float], points: Tensor) -> Tensor:
    """A vector shaped to be added to points (3, ...)."""
    return points.new_tensor(vector).reshape(3, *[1] * (points.ndim - 1))


def _length(vectors: Tensor) -> Tensor:
    """Length of vectors (3, ...); a norm over the first axis takes ten times as long."""
    x, y, z = vectors
    return (x * x + y * y + z * z).sqrt()


@dataclass(frozen=True)
class Ellipsoid:
    """Ellipsoid, turned about its centre.

    Parameters
    ----------
    center : tuple of float
        mm.
    semiaxes : tuple of float
        mm.
    rotation : tuple of float
        Degrees about x, y and z, applied in that order.

    Examples
    --------
    >>> ball = Ellipsoid((0, 0, 0), (5, 5, 5))
    >>> ball.distance(torch.tensor([[0.0], [0.0], [7.0]]))
    tensor([2.0000])
    """

    center: Point
    semiaxes: Point
    rotation: Point = (0.0, 0.0, 0.0)

    def bounds(self) -> tuple[Point, Point]:
        """Box of the sphere of the longest semi-axis."""
        reach = max(self.semiaxes)
        return tuple(c - reach for c in self.center), tuple(c + reach for c in self.center)

    def distance(self, points: Tensor) -> Tensor:
        """Distance in mm, exact for a sphere and to first order near any surface."""
        shifted = points - column(self.center, points)
        if any(self.rotation):
            # Into the axes of the ellipsoid: the inverse rotation.
            turn = Rotation.from_euler("xyz", self.rotation, degrees=True).as_matrix().T
            shifted = torch.tensordot(points.new_tensor(turn), shifted, dims=1)
        semiaxes = column(self.semiaxes, points)
        scaled = shifted / semiaxes
        radius = _length(scaled)
        slope = _length(scaled / semiaxes)
        return torch.where(slope > 1e-6, radius * (radius - 1) / slope.clamp(min=1e-6), -min(self.semiaxes))


@dataclass(frozen=True)
class Tube:
    """Round tube along a line of points, its radius running linearly between them.

    Parameters
    ----------
    path : tuple of tuple of float
        Points in mm, two or more.
    radii : tuple of float
        Radius at each point, mm.

    Examples
    --------
    >>> tube = Tube(((0, 0, 0), (10, 0, 0)), (2, 2))
    >>> tube.distance(torch.tensor([[5.0], [3.0], [0.0]])).tolist()
    [1.0]
    """

    path: tuple[Point, ...]
    radii: tuple[float, ...]

    def bounds(self) -> tuple[Point, Point]:
        """Box of the points, grown by the largest radius."""
        points, reach = np.array(self.path, dtype=float), max(self.radii)
        return tuple(points.min(axis=0) - reach), tuple(points.max(axis=0) + reach)

    def distance(self, points: Tensor) -> Tensor:
        """Distance in mm to the nearest of the segments."""
        nearest = None
        for start, end, first, last in zip(
            self.path[:-1], self.path[1:], self.radii[:-1], self.radii[1:], strict=True
        ):
            origin = column(start, points)
            along = column(end, points) - origin
            shifted = points - origin
            position = ((shifted * along).sum(0) / (along**2).sum()).clamp(0, 1)
            segment = _length(shifted - position * along) - (first + (last - first) * position)
            nearest = segment if nearest is None else torch.minimum(nearest, segment)
        return nearest


def mirrored(solid: Ellipsoid | Tube) -> tuple[Solid, Solid]:
    """The solid and its mirror image on the other side of x = 0.

    Examples
    --------
    >>> [side.center for side in mirrored(Ellipsoid((3, 1, 2), (1, 1, 1)))]
    [(3, 1, 2), (-3, 1, 2)]
    """
    if isinstance(solid, Ellipsoid):
        (x, *center), (a, b, c) = solid.center, solid.rotation
        return solid, Ellipsoid((-x, *center), solid.semiaxes, (a, -b, -c))
    return solid, Tube(tuple((-x, y, z) for x, y, z in solid.path), solid.radii)


def sample(values: Tensor, positions: Tensor) -> Tensor:
    """Trilinear interpolation of images; the outermost samples go on for ever.

    Parameters
    ----------
    values : Tensor
        (channel, x, y, z).
    positions : Tensor
        (3, ...), in samples.

    Returns
    -------
    Tensor
        (channel, ...).

    Examples
    --------
    >>> sample(torch.arange(8.0).reshape(1, 2, 2, 2), torch.tensor([[0.5], [0.0], [1.0]]))
    tensor([[3.]])
    """
    shape, count = positions.shape[1:], positions[0].numel()
    scale = 2 / (torch.tensor(values.shape[1:], device=positions.device) - 1).clamp(min=1)
    grid = (positions.reshape(3, -1) * scale[:, None] - 1).flip(0).T
    # On the CPU grid_sample works in parallel over its batch: rows of points, the last one filled up.
    row = max(1, min(_SAMPLED_ROW, count) if values.device.type == "cpu" else count)
    rows = -(-count // row)
    grid = functional.pad(grid, (0, 0, 0, rows * row - count)).reshape(rows, 1, 1, row, 3)
    images = values.expand(rows, *values.shape)
    sampled = functional.grid_sample(images, grid, padding_mode="border", align_corners=True)
    return sampled[:, :, 0, 0].movedim(1, 0).flatten(1)[:, :count].reshape(len(values), *shape)


def smooth_union(distances: Sequence[Tensor], *, blend: float) -> Tensor:
    """Distance of several solids grown together, −w·ln Σ exp(−d/w).

    Parameters
    ----------
    distances : sequence of Tensor
        Signed distances in mm, all of one shape.
    blend : float
        Width w over which the seams are rounded, mm.

    Returns
    -------
    Tensor
        Signed distance in mm, to first order.

    Examples
    --------
    >>> a, b = torch.tensor([-4.0]), torch.tensor([20.0])
    >>> round(float(smooth_union([a, b], blend=2)), 3)
    -4.0
    """
    return -blend * torch.logsumexp(-torch.stack(tuple(distances)) / blend, dim=0)


@dataclass(frozen=True)
class RandomField:
    """Smooth random field of zero mean and unit variance over head space.

    Parameters
    ----------
    lattice : Tensor
        (n, n, n), values at ``spacing`` mm about the origin; the field repeats itself beyond it.
    spacing : float
        mm.
    """

    lattice: Tensor
    spacing: float

    @classmethod
    def draw_rough(
        cls,
        generator: torch.Generator,
        *,
        size: int = 144,
        spacing: float = 1.0,
        longest: float = 14.0,
        slope: float = 1.6,
    ) -> "RandomField":
        """Draw a field with detail of every size, from ``longest`` mm down to two spacings.

        Parameters
        ----------
        generator : torch.Generator
            Where the randomness comes from.
        size : int
            Samples after which the field repeats itself.
        spacing : float
            mm.
        longest : float
            Wavelength in mm beyond which there is little.
        slope : float
            Amplitudes fall as wavelength to this power.

        Returns
        -------
        RandomField

        Examples
        --------
        >>> field = RandomField.draw_rough(torch.Generator().manual_seed(0), size=16)
        >>> field(torch.zeros(3, 1)).shape
        torch.Size([1])
        """
        axis, half = torch.fft.fftfreq(size, d=spacing), torch.fft.rfftfreq(size, d=spacing)
        k = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + half**2).sqrt()
        band = (k**2 + longest**-2) ** (-slope / 2) * (1 - torch.exp(-((k * longest) ** 2)))
        noise = torch.randn((size, size, size), generator=generator)
        lattice = torch.fft.irfftn(torch.fft.rfftn(noise) * band, s=noise.shape)
        return cls(lattice / lattice.std(), spacing)

    @cached_property
    def _closed(self) -> Tensor:
        """The lattice with its first samples once more at its end."""
        return functional.pad(self.lattice[None, None], (0, 1) * 3, mode="circular")[0]

    def to(self, device) -> "RandomField":
        """The same field on another device."""
        return RandomField(self.lattice.to(device), self.spacing)

    def __call__(self, points: Tensor) -> Tensor:
        """Value at points (3, ...) in mm, by trilinear interpolation of the periodic lattice."""
        return sample(self._closed, (points / self.spacing).remainder(self.lattice.shape[0]))[0]
