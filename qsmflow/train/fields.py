"""Local fields of shapes and heads of known susceptibility, made on the fly: DeepQSM learns from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qsmflow.core.dipole import dipole_kernel
from qsmflow.core.fourier import frequencies, good_size
from qsmflow.sim.canvas import LABELS
from qsmflow.sim.random_shapes import ShapeSettings, draw_shapes, render_shapes
from qsmflow.train.lessons import Batch, Stream

#: Tissues whose fibres make susceptibility depend on direction.
WHITE_MATTER = tuple(LABELS[name] for name in ("white matter", "corpus callosum", "optic radiation"))
#: Share of an edge that is added in zeros before a convolution.
_PADDING = 0.3
#: Share of a sample that must lie in the mask, and how often one is drawn for it.
_MASK_SHARE, _TRIES = 0.1, 100


@dataclass(frozen=True)
class FieldSettings:
    """What samples are like; each range is drawn from anew for each sample, geometry for each batch.

    Parameters
    ----------
    shapes : tuple of tuple of int
        Sizes in voxels; a batch has one of them.
    thick : float
        How often voxels are longer along one axis, mostly the third.
    thickness : tuple of float
        Length of such voxels of 1 mm width, mm.
    coarseness : tuple of float
        Edge of isotropic voxels, mm; a sample of coarse ones holds a whole brain.
    zoom : tuple of float
        Size of a head against its own; the same for a batch. A dipole's field has no scale, so a head twice
        as large is one of voxels half as large.
    tilt : float
        B0 lies within so many degrees of the third axis in two batches of three, else anywhere.
    contrast : tuple of float
        Factor on susceptibility.
    noise : tuple of float
        Standard deviation of the field where the signal is strongest, ppm; log-uniform.
    background : float
        Largest remainder of outside sources, standard deviation against that of the field.
    anisotropy : float
        Largest difference of susceptibility along and across fibres of white matter, ppm.
    offset : float
        Largest frequency offset of white matter that has no dipole pattern, ppm.
    flawless : float
        How often a sample has none of the last four.
    """

    shapes: tuple[tuple[int, int, int], ...] = ((64, 64, 64), (80, 80, 40), (96, 64, 48), (72, 88, 64))
    thick: float = 0.3
    thickness: tuple[float, float] = (1.2, 3.0)
    coarseness: tuple[float, float] = (1.0, 2.5)
    zoom: tuple[float, float] = (0.85, 1.4)
    tilt: float = 35.0
    contrast: tuple[float, float] = (0.6, 1.6)
    noise: tuple[float, float] = (3e-4, 6e-3)
    background: float = 0.35
    anisotropy: float = 0.025
    offset: float = 0.004
    flawless: float = 0.1


#: For learning from shapes alone: fields are mostly those of the textbook, as in the paper.
SHAPES_ONLY = FieldSettings(
    shapes=((64, 64, 64), (80, 80, 40), (96, 96, 80)), noise=(1e-4, 1e-3), background=0.05, flawless=0.8
)


@dataclass(frozen=True)
class Geometry:
    """Voxels and B0 of a batch.

    Parameters
    ----------
    shape : tuple of int
        Voxels.
    voxel_size : tuple of float
        mm.
    b0_direction : tuple of float
        Unit vector in voxel axes.
    drawn : float
        Edge of the voxels in which heads are kept, mm.
    """

    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    b0_direction: tuple[float, float, float]
    drawn: float = 1.0

    @property
    def fine(self) -> "Geometry":
        """The same field of view in voxels as small as heads are kept, or nearly so."""
        lengths = [
            max(n, round(n * edge / self.drawn)) for n, edge in zip(self.shape, self.voxel_size, strict=True)
        ]
        edges = [n * edge / m for n, m, edge in zip(self.shape, lengths, self.voxel_size, strict=True)]
        return replace(self, shape=tuple(lengths), voxel_size=tuple(edges))

    @property
    def grid(self) -> tuple[int, ...]:
        """Padded grid on which fields are made."""
        return good_size(self.shape, padding=[int(_PADDING * size) for size in self.shape])

    def kernel(self) -> Tensor:
        """Dipole kernel on the grid."""
        return _kernel(self.grid, self.voxel_size, self.b0_direction)


@dataclass(frozen=True)
class Sources:
    """What makes the field of a sample, all (x, y, z).

    Parameters
    ----------
    susceptibility : Tensor
        ppm, without a mean in the mask and zero outside.
    field : Tensor
        ppm of B0.
    mask : Tensor
        Zeros and ones.
    white_matter : Tensor or None
        Share of each voxel.
    """

    susceptibility: Tensor
    field: Tensor
    mask: Tensor
    white_matter: Tensor | None = None


class SourceMaker(Protocol):
    """Where samples come from."""

    def draw(self, geometry: Geometry, settings: FieldSettings, rng: np.random.Generator) -> Sources:
        """One sample."""


@dataclass(frozen=True)
class ShapeSources:
    """Random boxes, spheres, ellipsoids and rods, half of them cut to a random mask."""

    def draw(self, geometry: Geometry, settings: FieldSettings, rng: np.random.Generator) -> Sources:
        """See :class:`SourceMaker`."""
        # Shapes are as many voxels large whatever a voxel measures; only its proportions matter to a dipole.
        # None is thinner than a voxel is long.
        unit = max(min(geometry.voxel_size), max(geometry.voxel_size) / 2)
        edges = tuple(edge / unit for edge in geometry.voxel_size)
        volume = np.prod(geometry.shape) * np.prod(edges) / 64**3
        number = tuple(max(1, round(volume * limit)) for limit in (20, 120))
        shapes = ShapeSettings(
            shape=geometry.shape, voxel_size=edges, n_shapes=number, b0_direction=geometry.b0_direction
        )
        drawn = draw_shapes(shapes, seed=int(rng.integers(2**31)), index=0)
        susceptibility = render_shapes([drawn], shape=geometry.shape, voxel_size=edges)[0]
        susceptibility *= rng.uniform(*settings.contrast)
        mask = torch.ones(geometry.shape)
        if rng.random() < 0.5:
            mask = _blob(geometry.shape, rng)
        susceptibility = _demeaned(susceptibility, mask)
        return Sources(susceptibility, _filtered(susceptibility, geometry.kernel()), mask)


@dataclass(frozen=True)
class Head:
    """A head at 1 mm.

    Parameters
    ----------
    susceptibility : Tensor
        (x, y, z), float16, ppm.
    mask : Tensor
        bool, the brain.
    labels : Tensor
        uint8, see :data:`qsmflow.sim.canvas.LABELS`.
    """

    susceptibility: Tensor
    mask: Tensor
    labels: Tensor


@dataclass(frozen=True)
class HeadSources:
    """Pieces of heads, each a whole of its own: no field reaches into it from the rest.

    The field is made on the fine voxels of the head and averaged, as a scanner does.

    Parameters
    ----------
    heads : sequence of Head
    """

    heads: Sequence[Head] = field(repr=False)

    def draw(self, geometry: Geometry, settings: FieldSettings, rng: np.random.Generator) -> Sources:
        """See :class:`SourceMaker`."""
        head = self.heads[rng.integers(len(self.heads))]
        fine = geometry.fine
        lengths = fine.shape
        box = _box_in(head.mask, lengths, rng)
        flips = [axis for axis in range(3) if rng.random() < 0.5]
        chi, brain, labels = (
            _cut(image, box, lengths).flip(flips) for image in (head.susceptibility, head.mask, head.labels)
        )
        mask = _eroded(brain.float(), int(rng.integers(0, 3)))
        chi = rng.uniform(*settings.contrast) * _demeaned(chi.float(), mask)
        weights = [area_weights(n, length) for n, length in zip(geometry.shape, lengths, strict=True)]
        white = torch.isin(labels, torch.tensor(WHITE_MATTER, dtype=labels.dtype)).float()
        made = [_averaged(image, weights) for image in (chi, _filtered(chi, fine.kernel()), mask, white)]
        inside = (made[2] > 0.5).float()
        return Sources(_demeaned(made[0], inside), inside * made[1], inside, white_matter=inside * made[3])


class FieldBatches(Stream):
    """Batches of fields and what made them.

    A batch is a dictionary of ``field``, ``mask`` and ``susceptibility`` (b, 1, x, y, z), fields and
    susceptibility in ppm, and ``kernel`` (b, gx, gy, gz // 2 + 1).

    Parameters
    ----------
    makers : sequence of SourceMaker
        A sample comes from one of them.
    weights : sequence of float
        How often from each.
    settings : FieldSettings
    batch_size : int
    seed : int

    Examples
    --------
    >>> settings = FieldSettings(shapes=((16, 16, 16),))
    >>> batches = FieldBatches([ShapeSources()], weights=[1], settings=settings, batch_size=2, seed=0)
    >>> next(iter(batches))["field"].shape
    torch.Size([2, 1, 16, 16, 16])
    """

    def __init__(
        self,
        makers: Sequence[SourceMaker],
        *,
        weights: Sequence[float],
        settings: FieldSettings,
        batch_size: int,
        seed: int,
    ):
        super().__init__(seed=seed)
        self.makers = tuple(makers)
        self.shares = np.asarray(weights, dtype=float) / np.sum(weights)
        self.settings = settings
        self.batch_size = batch_size

    def batch(self, index: int) -> Batch:
        """See :class:`qsmflow.train.lessons.Stream`."""
        rng = np.random.default_rng([self.seed, index])
        geometry = draw_geometry(self.settings, rng)
        samples = [self._sample(geometry, rng) for _ in range(self.batch_size)]
        kernel = geometry.kernel()
        return {
            **{name: torch.stack([sample[name] for sample in samples]) for name in samples[0]},
            "kernel": kernel.expand(self.batch_size, *kernel.shape),
        }

    def _sample(self, geometry: Geometry, rng: np.random.Generator) -> dict[str, Tensor]:
        for _ in range(_TRIES):
            maker = self.makers[rng.choice(len(self.makers), p=self.shares)]
            sources = maker.draw(geometry, self.settings, rng)
            # A corner of a head may hold too little of it to learn from.
            if sources.mask.mean() > _MASK_SHARE:
                break
        measured = sources.field
        if rng.random() >= self.settings.flawless:
            measured = measured + imperfections(sources, geometry, self.settings, rng)
        images = {"field": sources.mask * measured, "mask": sources.mask}
        images["susceptibility"] = sources.susceptibility
        return {name: image[None] for name, image in images.items()}


def draw_geometry(settings: FieldSettings, rng: np.random.Generator) -> Geometry:
    """Voxels and direction of B0 of a batch."""
    if rng.random() < settings.thick:
        edges = np.ones(3)
        edges[rng.choice(3, p=[0.1, 0.1, 0.8])] = rng.uniform(*settings.thickness)
    else:
        edges = np.full(3, rng.uniform(*settings.coarseness))
    direction = rng.normal(size=3)
    if rng.random() < 2 / 3:
        angle, turn = np.deg2rad(settings.tilt) * rng.random(), 2 * np.pi * rng.random()
        direction = np.array([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)])
    direction = direction / np.linalg.norm(direction)
    return Geometry(
        shape=settings.shapes[rng.integers(len(settings.shapes))],
        voxel_size=tuple(edges.tolist()),
        b0_direction=tuple(direction.tolist()),
        drawn=rng.uniform(*settings.zoom),
    )


def imperfections(
    sources: Sources, geometry: Geometry, settings: FieldSettings, rng: np.random.Generator
) -> Tensor:
    """What a measured local field has beside the field of the susceptibility.

    Noise that grows where the signal fades; what background removal left of sources outside the mask; and
    in white matter the field of anisotropic susceptibility and offsets of its microstructure.

    Parameters
    ----------
    sources : Sources
    geometry : Geometry
    settings : FieldSettings
    rng : numpy.random.Generator

    Returns
    -------
    Tensor
        (x, y, z), ppm.

    References
    ----------
    Anisotropy: Liu 2010, 10.1002/mrm.22482. Its size: Li et al. 2012, 10.1016/j.neuroimage.2011.08.059.
    Microstructure: Wharton and Bowtell 2012, 10.1073/pnas.1211075109.
    """
    shape, mask = geometry.shape, sources.mask
    fading = torch.exp(0.4 * smooth_field(shape, rng, knots=4))
    total = float(np.exp(rng.uniform(*np.log(settings.noise)))) * fading * _normal(shape, rng)
    outside = (1 - mask) * smooth_field(shape, rng, knots=int(rng.integers(4, 13)))
    remainder = _filtered(outside, geometry.kernel())
    spread = float(remainder[mask > 0].std())
    if spread > 0:
        total += (
            rng.uniform(0, settings.background) * float(sources.field[mask > 0].std()) / spread * remainder
        )
    if sources.white_matter is not None:
        total += (
            rng.uniform(-1, 1) * settings.offset * sources.white_matter * smooth_field(shape, rng, knots=5)
        )
        if rng.random() < 0.5:
            difference = rng.uniform(0, settings.anisotropy)
            total += difference * fibre_field(sources.white_matter, geometry, rng)
    return total


def fibre_field(white_matter: Tensor, geometry: Geometry, rng: np.random.Generator) -> Tensor:
    """Field of fibres whose susceptibility is 1 ppm higher along them than across, less its mean.

    The fibres follow a smooth random direction v. In a field along b they are magnetised by
    m = v (v·b) − b/3, and the field along b of a magnetisation is F⁻¹[b·m/3 − (k·b)(k·m)/|k|²].

    Parameters
    ----------
    white_matter : Tensor
        (x, y, z), share of each voxel.
    geometry : Geometry
    rng : numpy.random.Generator

    Returns
    -------
    Tensor
        (x, y, z), ppm.
    """
    b = geometry.b0_direction
    v = torch.stack([smooth_field(geometry.shape, rng, knots=5) for _ in range(3)])
    v *= (v.square().sum(0) + 1e-12).rsqrt()
    along = sum(part * component for part, component in zip(b, v, strict=True))
    k = [axis.float() for axis in frequencies(geometry.grid, voxel_size=geometry.voxel_size)]
    squared = sum(axis.square() for axis in k)
    squared[0, 0, 0] = 1
    k_b = sum(part * axis for part, axis in zip(b, k, strict=True))
    spectrum = 0
    for part, component, axis in zip(b, v, k, strict=True):
        magnetisation = torch.fft.rfftn(white_matter * (component * along - part / 3), s=geometry.grid)
        spectrum = spectrum + magnetisation * (part / 3 - k_b * axis / squared)
    made = torch.fft.irfftn(spectrum, s=geometry.grid)
    return made[tuple(slice(size) for size in geometry.shape)]


def smooth_field(shape: Sequence[int], rng: np.random.Generator, *, knots: int) -> Tensor:
    """Random values at a few knots along each axis and what lies between; their standard deviation is one."""
    coarse = _normal((1, 1, knots, knots, knots), rng)
    return F.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=True)[0, 0]


def area_weights(size: int, length: int) -> Tensor:
    """Matrix (size, length) that averages ``length`` voxels to ``size`` wider ones by what they share.

    Examples
    --------
    >>> area_weights(2, 3)
    tensor([[0.6667, 0.3333, 0.0000],
            [0.0000, 0.3333, 0.6667]])
    """
    edges = torch.arange(size + 1) * (length / size)
    voxels = torch.arange(length)
    shared = torch.minimum(edges[1:, None], voxels + 1) - torch.maximum(edges[:-1, None], voxels)
    return shared.clamp(min=0) * (size / length)


def _averaged(image: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Image averaged along each axis."""
    for weight in weights:
        # Contracts the first axis and appends the new one, so three turns bring the axes back in order.
        image = torch.tensordot(image, weight, dims=([0], [1]))
    return image


@lru_cache(maxsize=2)  # The samples of a batch share the kernels of two grids.
def _kernel(grid: tuple[int, ...], voxel_size: tuple[float, ...], b0_direction: tuple[float, ...]) -> Tensor:
    return dipole_kernel(grid, voxel_size=voxel_size, b0_direction=b0_direction)


def _filtered(image: Tensor, kernel: Tensor) -> Tensor:
    grid = (*kernel.shape[:2], 2 * (kernel.shape[2] - 1))
    made = torch.fft.irfftn(torch.fft.rfftn(image, s=grid).mul_(kernel), s=grid)
    return made[tuple(slice(size) for size in image.shape)]


def _demeaned(image: Tensor, mask: Tensor) -> Tensor:
    return mask * (image - (image * mask).sum() / mask.sum().clamp(min=1))


def _normal(shape: Sequence[int], rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


def _blob(shape: Sequence[int], rng: np.random.Generator) -> Tensor:
    """An ellipsoid with dents, as a mask of zeros and ones."""
    axes = [torch.linspace(-1, 1, size) / rng.uniform(0.75, 1.1) for size in shape]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    radius = x.square() + y.square() + z.square()
    return (radius + 0.3 * smooth_field(shape, rng, knots=6) < 1).float()


def _eroded(mask: Tensor, voxels: int) -> Tensor:
    lowest = -mask[None]
    # A cube is eroded faster axis by axis.
    for axis in range(3):
        size = [2 * voxels + 1 if a == axis else 1 for a in range(3)]
        padding = [edge // 2 for edge in size]
        lowest = F.max_pool3d(lowest, kernel_size=size, stride=1, padding=padding)
    return -lowest[0]


def _box_in(mask: Tensor, lengths: Sequence[int], rng: np.random.Generator) -> list[int]:
    """First voxel of a box anywhere in an image; in the middle along an axis that it is longer than."""
    return [
        int(rng.integers(0, size - length + 1)) if length <= size else -((length - size) // 2)
        for size, length in zip(mask.shape, lengths, strict=True)
    ]


def _cut(image: Tensor, first: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """A box of an image, zero where it reaches beyond."""
    inner = tuple(slice(max(start, 0), start + length) for start, length in zip(first, lengths, strict=True))
    cut = image[inner]
    before = [max(-start, 0) for start in first]
    after = [length - part - ahead for length, part, ahead in zip(lengths, cut.shape, before, strict=True)]
    padding = [width for pair in reversed(list(zip(before, after, strict=True))) for width in pair]
    return F.pad(cut, padding)
