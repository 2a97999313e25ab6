"""Random boxes, spheres, ellipsoids and rods with the field they make: training data without anatomy.

A network that is to invert the dipole convolution learns it from simple shapes alone (DeepQSM, Bollmann et
al. 2019, 10.1016/j.neuroimage.2019.03.060). Where shapes overlap, the one that reaches less far lies on
top: each voxel has the susceptibility of one shape, as tissue has, not a sum that grows with their number,
and small shapes stay visible.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations, count, product
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from qsmflow.core.dipole import dipole_kernel
from qsmflow.core.fourier import good_size

Range = tuple[float, float]
Vector = tuple[float, float, float]

#: Which range of extents each of the three axes of a shape follows, by the number of ranges.
_EXTENT_OF_AXIS = {1: (0, 0, 0), 2: (0, 0, 1), 3: (0, 1, 2)}

#: Edge of the cubes of voxels that shapes are drawn on.
_TILE = 4

#: How many of them are drawn at once: what stays in a processor's cache, what keeps a GPU busy.
_TILES_TOGETHER = {"cpu": 1024, "cuda": 65536}


@dataclass(frozen=True)
class ShapeKind:
    """One kind of shape.

    Parameters
    ----------
    round_axes : int
        1 for a box, 2 for a rod with a round cross-section, 3 for an ellipsoid.
    extents : tuple of (float, float)
        From where to where edge lengths and diameters go, mm. One range: all three axes share one
        extent; two: diameter and length; three: each axis has its own.

    Raises
    ------
    ValueError
        If the ranges are not one to three, or not positive and increasing.
    """

    round_axes: int
    extents: tuple[Range, ...]

    def __post_init__(self):
        if self.round_axes not in (1, 2, 3) or len(self.extents) not in _EXTENT_OF_AXIS:
            raise ValueError(f"{self}: want 1 to 3 round axes and 1 to 3 ranges of extents")
        if not all(0 < lower <= upper for lower, upper in self.extents):
            raise ValueError(f"{self}: extents must be positive and increasing")


#: The kinds by name, with extents in mm that suit 64 voxels of 1 mm.
SHAPE_KINDS: Mapping[str, ShapeKind] = MappingProxyType(
    {
        "box": ShapeKind(1, ((3.0, 20.0),) * 3),
        "sphere": ShapeKind(3, ((3.0, 20.0),)),
        "ellipsoid": ShapeKind(3, ((3.0, 20.0),) * 3),
        "rod": ShapeKind(2, ((2.0, 6.0), (10.0, 40.0))),
    }
)


@dataclass(frozen=True)
class ShapeSettings:
    """What random shapes look like.

    Parameters
    ----------
    shape : tuple of int
        Voxels.
    voxel_size : tuple of float
        mm.
    n_shapes : tuple of int
        Fewest and most shapes in a sample.
    kinds : tuple of ShapeKind
        Each shape is one of them, all equally probable.
    susceptibility : float
        Standard deviation of the shapes' susceptibility about zero, ppm.
    b0_direction : tuple of float
        B0 in voxel axes; normalised here.
    b0_cone : float
        Largest angle between B0 and that direction, degrees: 0 keeps it, 180 lets it be any.

    Raises
    ------
    ValueError
        If a setting is out of its range, or a shape could be thinner than a voxel.

    Examples
    --------
    >>> ShapeSettings(kinds=(SHAPE_KINDS["rod"],), n_shapes=(5, 10)).voxel_size
    (1.0, 1.0, 1.0)
    """

    shape: tuple[int, int, int] = (64, 64, 64)
    voxel_size: Vector = (1.0, 1.0, 1.0)
    n_shapes: tuple[int, int] = (40, 120)
    kinds: tuple[ShapeKind, ...] = tuple(SHAPE_KINDS.values())
    susceptibility: float = 0.1
    b0_direction: Vector = (0.0, 0.0, 1.0)
    b0_cone: float = 0.0

    def __post_init__(self):
        if not 0 <= self.n_shapes[0] <= self.n_shapes[1]:
            raise ValueError(f"the number of shapes must increase from zero or more, not {self.n_shapes}")
        if not 0 <= self.b0_cone <= 180 or not np.any(self.b0_direction):
            raise ValueError("B0 needs a direction with a length and a cone of 0 to 180 degrees")
        thinnest = min((lower for kind in self.kinds for lower, _ in kind.extents), default=0)
        if thinnest < max(self.voxel_size):
            raise ValueError(f"shapes of {thinnest} mm are thinner than a voxel of {self.voxel_size} mm")


@dataclass(frozen=True)
class Shapes:
    """Shapes of one sample, those that reach farthest first.

    Parameters
    ----------
    center : Tensor
        (n, 3), mm from the middle of the grid.
    rotation : Tensor
        (n, 3, 3), its columns are the axes of the shape in voxel axes.
    extent : Tensor
        (n, 3), edge length or diameter along each of the shape's axes, mm.
    round_axes : Tensor
        (n,), as in :class:`ShapeKind`.
    susceptibility : Tensor
        (n,), ppm.
    b0_direction : Tensor
        (3,), unit vector in voxel axes.
    """

    center: Tensor
    rotation: Tensor
    extent: Tensor
    round_axes: Tensor
    susceptibility: Tensor
    b0_direction: Tensor


_PER_SHAPE = ("center", "rotation", "extent", "round_axes", "susceptibility")


@dataclass(frozen=True)
class ShapeBatch:
    """Samples with their fields.

    Parameters
    ----------
    susceptibility : Tensor
        (b, x, y, z) in ppm.
    field : Tensor
        (b, x, y, z), ppm of B0.
    b0_direction : Tensor
        (b, 3), unit vectors in voxel axes.
    """

    susceptibility: Tensor
    field: Tensor
    b0_direction: Tensor


def draw_shapes(settings: ShapeSettings, *, seed: int, index: int) -> Shapes:
    """Draw the shapes of one sample of a stream; always the same ones for a seed and an index.

    Parameters
    ----------
    settings : ShapeSettings
    seed : int
        Of the stream, not negative.
    index : int
        Of the sample in the stream. No two samples of a stream are alike before 2³².

    Returns
    -------
    Shapes
        On the CPU.

    Examples
    --------
    >>> shapes = draw_shapes(ShapeSettings(n_shapes=(3, 3)), seed=0, index=7)
    >>> shapes.center.shape, shapes.b0_direction.tolist()
    (torch.Size([3, 3]), [0.0, 0.0, 1.0])
    """
    generator = _generator(seed, index)
    least, most = settings.n_shapes
    n = int(torch.randint(least, most + 1, (), generator=generator))
    uniform = torch.rand(n, 7, generator=generator)
    quaternion = torch.randn(n, 4, generator=generator)
    susceptibility = settings.susceptibility * torch.randn(n, generator=generator)

    kind = (uniform[:, 0] * len(settings.kinds)).long()
    axis_of = torch.tensor([_EXTENT_OF_AXIS[len(one.extents)] for one in settings.kinds])[kind]
    ranges = torch.tensor(
        [[one.extents[i] for i in _EXTENT_OF_AXIS[len(one.extents)]] for one in settings.kinds]
    )[kind]
    lower, upper = ranges.unbind(dim=2)
    field_of_view = torch.tensor(settings.shape) * torch.tensor(settings.voxel_size)
    shapes = Shapes(
        center=(uniform[:, 4:] - 0.5) * field_of_view,
        rotation=_rotation_matrices(quaternion),
        extent=lower + (upper - lower) * uniform[:, 1:4].gather(1, axis_of),
        round_axes=torch.tensor([one.round_axes for one in settings.kinds])[kind],
        susceptibility=susceptibility,
        b0_direction=_draw_direction(settings, generator),
    )
    reach = _reach(shapes.rotation, shapes.extent, shapes.round_axes)
    order = reach.prod(dim=1).argsort(descending=True, stable=True)
    return replace(shapes, **{name: getattr(shapes, name)[order] for name in _PER_SHAPE})


def _reach(rotation: Tensor, extent: Tensor, round_axes: Tensor) -> Tensor:
    """Half the box around each shape along the voxel axes, (n, 3) in mm."""
    half = (rotation * extent[:, None] / 2).abs()
    is_round = (torch.arange(3) < round_axes[:, None])[:, None]
    return (half * is_round).norm(dim=2) + (half * ~is_round).sum(dim=2)


def _generator(seed: int, index: int) -> torch.Generator:
    """Own generator of one sample. It takes 32 bits: counting up from a hash of the seed repeats none."""
    first = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return torch.Generator().manual_seed((first + index) % 2**32)


def _rotation_matrices(quaternion: Tensor) -> Tensor:
    """Rotations of quaternions (n, 4) of any length; normal numbers give uniform rotations."""
    w, x, y, z = (quaternion / quaternion.norm(dim=1, keepdim=True)).unbind(dim=1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _draw_direction(settings: ShapeSettings, generator: torch.Generator) -> Tensor:
    """B0, uniform over the solid angle of the cone."""
    axis = torch.nn.functional.normalize(torch.tensor(settings.b0_direction, dtype=torch.float32), dim=0)
    height, *tangent = torch.cat([torch.rand(1, generator=generator), torch.randn(3, generator=generator)])
    cosine = 1 - height * (1 - np.cos(np.deg2rad(settings.b0_cone)))
    tangent = torch.stack(tangent)
    tangent = torch.nn.functional.normalize(tangent - (tangent @ axis) * axis, dim=0)
    return cosine * axis + (1 - cosine**2).clamp(min=0).sqrt() * tangent


def render_shapes(
    samples: Sequence[Shapes], *, shape: Sequence[int], voxel_size: Sequence[float], device=None
) -> Tensor:
    """Draw samples on a grid, each voxel with the share of it that lies within a shape.

    The grid is cut into small tiles and each shape is drawn on those it touches. Only shapes on one tile
    have to follow each other: the first shapes of all tiles are drawn at once, then the second, ...

    Parameters
    ----------
    samples : sequence of Shapes
        b samples.
    shape : sequence of int
        Voxels.
    voxel_size : sequence of float
        mm.
    device : torch.device, optional
        Where to draw.

    Returns
    -------
    Tensor
        (b, x, y, z), susceptibility in ppm.

    Examples
    --------
    >>> samples = [draw_shapes(ShapeSettings(), seed=0, index=index) for index in range(2)]
    >>> render_shapes(samples, shape=(16, 16, 16), voxel_size=(1, 1, 1)).shape
    torch.Size([2, 16, 16, 16])
    """
    tiles = tuple(-(-size // _TILE) for size in shape)
    canvas = torch.zeros(len(samples) * math.prod(tiles), _TILE**3, device=device)
    outlines = _Outlines.of(samples, shape=shape, voxel_size=voxel_size).to(device)
    together = _TILES_TOGETHER["cuda" if canvas.is_cuda else "cpu"]
    for layer in _layers(*outlines.touched_tiles(tiles)):
        for outline, tile, origin in zip(*(part.split(together) for part in layer), strict=True):
            chosen = outlines[outline]
            canvas[tile] = torch.lerp(canvas[tile], chosen.susceptibility[:, None], chosen.share(origin))
    blocks = canvas.view(len(samples), *tiles, *[_TILE] * 3).permute(0, 1, 4, 2, 5, 3, 6)
    whole = blocks.reshape(len(samples), *(count * _TILE for count in tiles))
    return whole[:, : shape[0], : shape[1], : shape[2]].contiguous()


@dataclass(frozen=True)
class _Outlines:
    """Shapes of many samples in voxels, one row a shape.

    A shape is the product of its round cross-section, over its first axes, and of slabs across the others.
    In its own coordinates v its surface lies at one.

    Parameters
    ----------
    sample : Tensor
        (m,), which sample it belongs to.
    center, reach : Tensor
        (m, 3), and half the box around the shape, a voxel larger for its soft edge.
    matrix : Tensor
        (m, 3, 3), from voxels about the centre to v.
    weight : Tensor
        (m, 3), squared length of a voxel in v along the round axes, zero for slabs.
    is_round : Tensor
        (m, 3), one along the round axes, zero for slabs.
    radius : Tensor
        (m,), of the round cross-section in v.
    ramp, slope : Tensor
        (m, 3), slabs are ``ramp - slope * |v|`` between 0 and 1; along round axes that is one.
    susceptibility : Tensor
        (m,), ppm.
    """

    sample: Tensor
    center: Tensor
    reach: Tensor
    matrix: Tensor
    weight: Tensor
    is_round: Tensor
    radius: Tensor
    ramp: Tensor
    slope: Tensor
    susceptibility: Tensor

    @classmethod
    def of(
        cls, samples: Sequence[Shapes], *, shape: Sequence[int], voxel_size: Sequence[float]
    ) -> "_Outlines":
        """Outlines on a grid of the shapes of samples, those of the first sample first."""
        joined = {name: torch.cat([getattr(one, name) for one in samples]) for name in _PER_SHAPE}
        counts = torch.tensor([len(one.susceptibility) for one in samples])
        edges = torch.tensor(voxel_size)
        matrix = (joined["rotation"] * edges[:, None]).mT / (joined["extent"][:, :, None] / 2)
        voxel = matrix.norm(dim=2)
        is_round = (torch.arange(3) < joined["round_axes"][:, None]).float()
        weight = is_round * voxel**2
        # A ramp over a curved surface holds more than the solid; its middle moves inwards by as much.
        curvature = weight.sum(dim=1) * (1 - 1 / joined["round_axes"])
        return cls(
            sample=torch.arange(len(samples)).repeat_interleave(counts),
            center=(torch.tensor(shape) - 1) / 2 + joined["center"] / edges,
            reach=_reach(joined["rotation"], joined["extent"], joined["round_axes"]) / edges + 1,
            matrix=matrix,
            weight=weight,
            is_round=is_round,
            radius=1 - curvature / 24,
            ramp=torch.where(is_round > 0, 1.0, 0.5 + 1 / voxel),
            slope=(1 - is_round) / voxel,
            susceptibility=joined["susceptibility"],
        )

    def to(self, device) -> "_Outlines":
        """The same on another device."""
        return _Outlines(*(getattr(self, one.name).to(device) for one in fields(self)))

    def __getitem__(self, rows: Tensor) -> "_Outlines":
        return _Outlines(*(getattr(self, one.name)[rows] for one in fields(self)))

    def touched_tiles(self, tiles: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Outline (p,), tile (p,) and first voxel of the tile (p, 3) for each pair that may touch."""
        limits = torch.tensor(tiles, device=self.center.device)
        first = ((self.center - self.reach) / _TILE).floor().long().clamp(min=0)
        stop = torch.minimum(((self.center + self.reach) / _TILE).floor().long() + 1, limits)
        size = (stop - first).clamp(min=0)
        count = size.prod(dim=1)
        outline = torch.arange(len(count), device=count.device).repeat_interleave(count)
        number = torch.arange(len(outline), device=count.device) - (count.cumsum(0) - count)[outline]
        _, ny, nz = size[outline].unbind(dim=1)
        steps = torch.stack([number // (ny * nz), number // nz % ny, number % nz], dim=1)
        place = first[outline] + steps
        tile = ((self.sample[outline] * tiles[0] + place[:, 0]) * tiles[1] + place[:, 1]) * tiles[2]
        near = self._near(outline, place * _TILE)
        return outline[near], (tile + place[:, 2])[near], (place * _TILE)[near]

    def _near(self, outline: Tensor, origin: Tensor) -> Tensor:
        """Which tiles (p, 3) are not certainly outside their outline (p,)."""
        half = (_TILE - 1) / 2
        # How much of v a tile spans from its middle, and half a voxel more for the soft edge.
        margin = half * self.matrix.abs().sum(dim=2) + self.matrix.norm(dim=2) / 2
        offset = origin + half - self.center[outline]
        nearest = (self.matrix[outline] * offset[:, None]).sum(dim=2).abs_() - margin[outline]
        nearest.clamp_(min=0)
        is_round = self.is_round[outline]
        across = (nearest * (1 - is_round)).amax(dim=1)
        return torch.maximum((nearest * is_round).norm(dim=1), across) < 1

    def share(self, origin: Tensor) -> Tensor:
        """Share of each voxel of tiles (m, 3) within their shape: ramps one voxel wide, (m, voxels)."""
        steps = torch.cartesian_prod(*[torch.arange(float(_TILE), device=origin.device)] * 3).unbind(dim=1)
        corner = (self.matrix * (origin - self.center)[:, None]).sum(dim=2)
        # Elementwise, as a GPU may be set to round matrix products to half their digits.
        v = [corner[:, axis, None] + self.matrix[:, axis, 0, None] * steps[0] for axis in range(3)]
        for axis, direction in product(range(3), (1, 2)):
            v[axis].addcmul_(self.matrix[:, axis, direction, None], steps[direction])
        share = self._round_share([one.square() for one in v])
        for axis in (1, 2):
            ramp, slope = self.ramp[:, axis, None], self.slope[:, axis, None]
            share *= v[axis].abs_().mul_(-slope).add_(ramp).clamp_(0, 1)
        return share

    def _round_share(self, squares: Sequence[Tensor]) -> Tensor:
        """Share within the round cross-section, to first order in the distance from its surface."""
        # The smallest square keeps the very centre, where the gradient vanishes, inside.
        norm = squares[0].clamp_(min=1e-6)
        gradient = norm * self.weight[:, 0, None]
        for axis in (1, 2):
            gradient.addcmul_(squares[axis], self.weight[:, axis, None])
            norm.addcmul_(squares[axis], self.is_round[:, axis, None])
        scale = torch.div(norm, gradient, out=gradient).sqrt_()
        return norm.sqrt_().neg_().add_(self.radius[:, None]).mul_(scale).add_(0.5).clamp_(0, 1)


def _layers(outline: Tensor, tile: Tensor, origin: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pairs of outlines and tiles in layers that hold no tile twice; on each tile the order stays."""
    order = tile.argsort(stable=True)
    _, group, count = tile[order].unique_consecutive(return_inverse=True, return_counts=True)
    depth = torch.arange(len(tile), device=tile.device) - (count.cumsum(0) - count)[group]
    by_depth = depth.argsort(stable=True)
    sizes = depth.bincount().tolist()
    return zip(*(part[order[by_depth]].split(sizes) for part in (outline, tile, origin)), strict=True)


class ShapeConvolution:
    """The dipole field of a batch of samples, each with its own B0, as if nothing lay around them.

    On a grid of twice the image no voxel's field wraps round onto another. The dipole itself, known in
    the Fourier domain, comes with copies at every period of its grid; so it is made on a grid of four times
    the image and cut to the distances that occur in it.

    The kernel is quadratic in the direction, D(b) = Σ bᵢ bⱼ Qᵢⱼ, so six spectra make that of any direction.

    Parameters
    ----------
    shape : sequence of int
        Voxels.
    voxel_size : sequence of float
        mm.
    device : torch.device, optional
        Where the spectra are kept.

    Examples
    --------
    >>> convolve = ShapeConvolution((8, 8, 8), voxel_size=(1, 1, 1))
    >>> convolve(torch.ones(2, 8, 8, 8), b0_direction=torch.eye(3)[:2]).shape
    torch.Size([2, 8, 8, 8])
    """

    def __init__(self, shape: Sequence[int], *, voxel_size: Sequence[float], device=None):
        self.grid = good_size(shape, padding=shape)
        x, y, z = np.eye(3)

        def kernel(direction) -> Tensor:
            frame = {"voxel_size": voxel_size, "b0_direction": direction, "device": device}
            return _isolated_kernel(shape, grid=self.grid, **frame)

        xx, yy = kernel(x), kernel(y)
        # All three add up to nothing, as D(k) sums to 1 - |k|²/|k|² over three directions at right angles.
        squares = [xx, yy, -xx - yy]
        products = [
            2 * kernel(first + second) - squares[i] - squares[j]
            for (i, first), (j, second) in combinations(enumerate([x, y, z]), 2)
        ]
        self.components = torch.stack(squares + products)

    def kernel(self, b0_direction: Tensor) -> Tensor:
        """Kernels (b, kx, ky, kz) of unit vectors (b, 3), laid out for a real transform."""
        x, y, z = b0_direction.unbind(dim=1)
        total = torch.zeros(1, device=x.device)
        for factor, component in zip(
            [x * x, y * y, z * z, x * y, x * z, y * z], self.components, strict=True
        ):
            total = torch.addcmul(total, factor[:, None, None, None], component)
        return total

    def __call__(self, susceptibility: Tensor, *, b0_direction: Tensor) -> Tensor:
        """Fields (b, x, y, z) in the unit of the susceptibility (b, x, y, z); B0 is (b, 3)."""
        # One sample at a time stays in a processor's cache; a GPU wants them all.
        together = len(susceptibility) if susceptibility.is_cuda else 1
        pairs = zip(susceptibility.split(together), b0_direction.split(together), strict=True)
        return torch.cat([self._convolve(chi, self.kernel(direction)) for chi, direction in pairs])

    def _convolve(self, image: Tensor, kernel: Tensor) -> Tensor:
        """Axis after axis, so that no transform runs over lines that are all padding or thrown away."""
        _, nx, ny, nz = image.shape
        spectrum = torch.fft.rfft(image, n=self.grid[2], dim=3)
        spectrum = torch.fft.fft(spectrum, n=self.grid[1], dim=2)
        spectrum = torch.fft.fft(spectrum, n=self.grid[0], dim=1)
        spectrum = torch.fft.ifft(spectrum.mul_(kernel), dim=1)[:, :nx]
        spectrum = torch.fft.ifft(spectrum, dim=2)[:, :, :ny]
        return torch.fft.irfft(spectrum, n=self.grid[2], dim=3)[..., :nz]


def _isolated_kernel(shape: Sequence[int], *, grid: Sequence[int], **frame) -> Tensor:
    """Dipole kernel on a grid, made on one twice as large and cut to the distances within the image."""
    wide = tuple(2 * size for size in grid)
    dipole = dipole_kernel(wide, **frame)
    for axis in (0, 1):
        dipole = _within_distance(torch.fft.ifft(dipole, dim=axis), axis=axis, size=shape[axis], grid=grid)
    dipole = _within_distance(torch.fft.irfft(dipole, n=wide[2]), axis=2, size=shape[2], grid=grid)
    # Even in every distance, so its spectrum is real.
    return torch.fft.rfftn(dipole).real


def _within_distance(image: Tensor, *, axis: int, size: int, grid: Sequence[int]) -> Tensor:
    """One axis of a periodic image brought to the period of a smaller grid, kept within ±(size - 1)."""
    ahead = image.narrow(axis, 0, size)
    behind = image.narrow(axis, image.shape[axis] - size + 1, size - 1)
    gap = list(image.shape)
    gap[axis] = grid[axis] - 2 * size + 1
    return torch.cat([ahead, image.new_zeros(gap), behind], dim=axis)


def stream_shapes(
    settings: ShapeSettings, *, seed: int = 0, start: int = 0, batch_size: int = 8, device=None
) -> Iterator[ShapeBatch]:
    """Endless stream of random shapes and their fields.

    Sample i of a stream depends on the seed and on i alone, so a stream goes on where another stopped.

    Parameters
    ----------
    settings : ShapeSettings
    seed : int
        Of the stream.
    start : int
        Index of the first sample.
    batch_size : int
        Samples at a time.
    device : torch.device, optional
        Where they are made.

    Yields
    ------
    ShapeBatch

    Raises
    ------
    ValueError
        If the batch has no sample.

    Examples
    --------
    >>> batch = next(stream_shapes(ShapeSettings(shape=(16, 16, 16)), batch_size=2))
    >>> batch.susceptibility.shape, batch.field.shape
    (torch.Size([2, 16, 16, 16]), torch.Size([2, 16, 16, 16]))
    """
    if batch_size < 1:
        raise ValueError(f"a batch must have one sample or more, not {batch_size}")
    frame = {"shape": settings.shape, "voxel_size": settings.voxel_size, "device": device}
    convolve = ShapeConvolution(**frame)
    for first in count(start, batch_size):
        samples = [draw_shapes(settings, seed=seed, index=first + i) for i in range(batch_size)]
        susceptibility = render_shapes(samples, **frame)
        direction = torch.stack([sample.b0_direction for sample in samples]).to(device)
        yield ShapeBatch(susceptibility, convolve(susceptibility, b0_direction=direction), direction)
