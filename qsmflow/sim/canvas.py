"""Property maps that tissues are painted on, and thin tubes as shares of voxels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qsmflow.sim.grids import voxel_edges
from qsmflow.sim.shapes import Tube
from qsmflow.sim.tissues import TISSUES, TissueSample

#: Index of each tissue in maps of labels.
LABELS: dict[str, int] = {name: index for index, name in enumerate(TISSUES)}

#: What one ppm of texture does to white matter's R2*, 1/s: myelin is diamagnetic and relaxes.
_MYELIN_R2STAR = -80.0
#: Relative change of proton density and T1 per standard deviation of a tissue's texture.
_TEXTURED = {"proton_density": -0.01, "t1": -0.02}
_MYELINATED = ("white matter", "corpus callosum", "optic radiation")


@dataclass(frozen=True)
class Palette:
    """The properties of a subject's tissues as columns to paint with.

    Parameters
    ----------
    properties : tuple of str
        What is painted, fields of :class:`~qsmflow.sim.tissues.TissueSample`.
    means, textures : dict of str to Tensor
        (property,) by tissue: its mean, and what one standard deviation of texture adds to it.
    """

    properties: tuple[str, ...]
    means: Mapping[str, Tensor]
    textures: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        tissues: Mapping[str, TissueSample],
        *,
        properties: Sequence[str],
        field_strength: float,
        device=None,
    ) -> "Palette":
        """Columns of all tissues at a field strength in T."""
        samples = {name: tissue.at(field_strength) for name, tissue in tissues.items()}
        rows = [
            [[getattr(s, p) for p in properties], [_texture(name, s, p) for p in properties]]
            for name, s in samples.items()
        ]
        table = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 2, len(properties)).to(device)
        means, textures = table.unbind(1)
        return cls(
            tuple(properties),
            dict(zip(samples, means.unbind(), strict=True)),
            dict(zip(samples, textures.unbind(), strict=True)),
        )

    def scaled(self, tissue: str, strength: float) -> Tensor:
        """(property,) of a tissue whose susceptibility is stronger or weaker by a factor."""
        factors = [strength if name == "susceptibility" else 1.0 for name in self.properties]
        return self.means[tissue] * self.means[tissue].new_tensor(factors)


def _texture(name: str, sample: TissueSample, prop: str) -> float:
    """Change of a property per standard deviation of a tissue's texture."""
    if prop == "susceptibility":
        return sample.texture
    if prop == "r2star":
        return sample.texture * (_MYELIN_R2STAR if name in _MYELINATED else sample.r2star_per_ppm)
    return _TEXTURED.get(prop, 0.0) * getattr(sample, prop) * (sample.texture > 0)


@dataclass(frozen=True)
class Canvas:
    """Properties of points, painted over tissue by tissue.

    Parameters
    ----------
    palette : Palette
        Of the subject.
    values : Tensor
        (property, ...), changed in place.
    labels : Tensor, optional
        (...) int8, the tissue that fills most of each voxel, changed in place.
    """

    palette: Palette
    values: Tensor
    labels: Tensor | None = None

    @classmethod
    def filled(
        cls, palette: Palette, tissue: str, shape: Sequence[int], *, labelled: bool = False
    ) -> "Canvas":
        """A canvas of one tissue."""
        column = palette.means[tissue].reshape(-1, *[1] * len(shape))
        labels = torch.full(tuple(shape), LABELS[tissue], dtype=torch.int8, device=column.device)
        return cls(palette, column.repeat(1, *shape), labels if labelled else None)

    def part(self, block: tuple) -> "Canvas":
        """A block of the canvas, which shares its memory."""
        labels = None if self.labels is None else self.labels[block]
        return Canvas(self.palette, self.values[(slice(None), *block)], labels)

    def put(self, where: Tensor, other: "Canvas") -> None:
        """Overwrite the chosen points (flat indices) with those of another canvas."""
        self.values.flatten(1).index_copy_(1, where, other.values)
        if self.labels is not None:
            self.labels.flatten().index_copy_(0, where, other.labels)

    def paint(
        self, tissue: str, share: Tensor, *, texture: Tensor | None = None, strength: float = 1.0
    ) -> None:
        """Put a tissue over what is there.

        Parameters
        ----------
        tissue : str
            Key of the palette.
        share : Tensor
            (...), part of each voxel that the tissue fills, 0 to 1.
        texture : Tensor, optional
            (...), standard deviations of the tissue's texture.
        strength : float
            Factor on its susceptibility.
        """
        column = [-1, *[1] * share.ndim]
        target = self.palette.scaled(tissue, strength).reshape(column)
        if texture is not None:
            target = target + self.palette.textures[tissue].reshape(column) * texture
        self.values.lerp_(target, share[None])
        if self.labels is not None:
            self.labels.masked_fill_(share > 0.5, LABELS[tissue])


def ramp(distance: Tensor, edge: float) -> Tensor:
    """Share of a voxel inside a surface at this signed distance: a ramp one voxel wide."""
    return (0.5 - distance / edge).clamp_(0, 1)


#: Half-widths in voxels of the neighbourhoods in which pieces of tubes are drawn.
_NEIGHBOURHOODS = (2, 3, 4, 6, 8, 11, 16, 24)
#: Longest piece of a tube, voxels, and how many neighbouring voxels are looked at together.
_PIECE, _TOGETHER = 4.0, 4_000_000


def tube_share(tubes: Sequence[Tube], *, shape: Sequence[int], affine: np.ndarray, device=None) -> Tensor:
    """Share of each voxel that tubes fill.

    Tubes thinner than a voxel fill the part of it that their cross-section has, so that a coarse grid
    shows the same amount of them as a fine one.

    Parameters
    ----------
    tubes : sequence of Tube
        mm.
    shape : sequence of int
        Voxels.
    affine : numpy.ndarray
        (4, 4), voxel to mm.
    device : torch.device, optional
        Where the shares are computed.

    Returns
    -------
    Tensor
        (x, y, z), 0 to 1.

    Examples
    --------
    >>> tube = Tube(((-9, 4, 4), (20, 4, 4)), (0.5, 0.5))
    >>> share = tube_share([tube], shape=(9, 9, 9), affine=np.eye(4))
    >>> round(float(share[4].sum()), 1)
    0.8
    """
    edges = np.array(voxel_edges(affine))
    start, stop, radii = _pieces(tubes, length=_PIECE * edges.min())
    inverse = np.linalg.inv(affine)
    middle = ((start + stop) / 2) @ inverse[:3, :3].T + inverse[:3, 3]
    reach = (
        np.abs((stop - start) / 2 @ inverse[:3, :3].T).max(axis=1)
        + (radii.max(axis=1) + edges.mean() / 2) / edges.min()
    )
    on_grid = np.all((middle > -reach[:, None]) & (middle < np.array(shape) - 1 + reach[:, None]), axis=1)
    share = torch.zeros(int(np.prod(shape)), device=device)
    sizes = np.searchsorted(_NEIGHBOURHOODS, reach + 0.5)
    for size in np.unique(sizes[on_grid]):
        chosen = np.flatnonzero(on_grid & (sizes == size))
        half = _NEIGHBOURHOODS[min(size, len(_NEIGHBOURHOODS) - 1)]
        for few in np.array_split(chosen, -(-len(chosen) * (2 * half + 1) ** 3 // _TOGETHER)):
            numbers = np.concatenate([start[few], stop[few], radii[few], np.round(middle[few])], axis=1)
            pieces = torch.as_tensor(numbers, dtype=torch.float32, device=device)
            _draw_pieces(share, pieces, half=half, shape=shape, affine=affine)
    return share.reshape(tuple(shape))


def _pieces(tubes: Sequence[Tube], *, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start (n, 3), end (n, 3) and radii (n, 2) of pieces of the tubes, none longer than a length in mm."""
    ends = np.concatenate([np.stack([t.path[:-1], t.path[1:]], axis=1) for t in tubes]).astype(float)
    radii = np.concatenate([np.stack([t.radii[:-1], t.radii[1:]], axis=1) for t in tubes]).astype(float)
    counts = np.maximum(1, np.ceil(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) / length)).astype(int)
    owner = np.repeat(np.arange(len(ends)), counts)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    first, last = (rank / counts[owner])[:, None], ((rank + 1) / counts[owner])[:, None]
    along = ends[owner, 1] - ends[owner, 0]
    wider = (radii[owner, 1] - radii[owner, 0])[:, None]
    radius = radii[owner, :1] + wider * np.concatenate([first, last], axis=1)
    return ends[owner, 0] + first * along, ends[owner, 0] + last * along, radius


def _draw_pieces(
    share: Tensor, pieces: Tensor, *, half: int, shape: Sequence[int], affine: np.ndarray
) -> None:
    """Draw pieces (n, 11: start, end, radii, middle voxel) on the flat share (voxel,)."""
    start, stop, radii, middle = pieces[:, None].split((3, 3, 2, 3), dim=-1)
    steps = torch.arange(-half, half + 1, device=pieces.device, dtype=pieces.dtype)
    voxels = middle + torch.cartesian_prod(steps, steps, steps)
    size = voxels.new_tensor(shape)
    on_grid = ((voxels >= 0) & (voxels < size)).all(-1)
    matrix = voxels.new_tensor(affine)
    offset = voxels @ matrix[:3, :3].T + (matrix[:3, 3] - start)
    along = stop - start
    position = ((offset * along).sum(-1) / (along**2).sum(-1).clamp(min=1e-12)).clamp(0, 1)
    distance = (offset - position[..., None] * along).norm(dim=-1)
    radius = torch.lerp(radii[..., 0], radii[..., 1], position)
    edge = float(np.mean(voxel_edges(affine)))
    # What the ramp fills of a cross-section, over π, against what the tube does.
    ramped = torch.where(radius > edge / 2, radius**2 + edge**2 / 12, (radius + edge / 2) ** 3 / (3 * edge))
    filled = ramp(distance - radius, edge) * (radius**2 / ramped)
    flat = (voxels[..., 0] * size[1] + voxels[..., 1]).double() * size[2] + voxels[..., 2]
    share.scatter_reduce_(0, flat[on_grid].long(), filled[on_grid], "amax")
