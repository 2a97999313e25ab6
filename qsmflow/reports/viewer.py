"""Volumes inside the page: what its slice viewer scrolls through, and a slider from before to after.

Volumes are cut to the brain, sampled along the scanner's axes and stored as one byte a voxel: 0 where
there is no value, 1 to 255 in even steps over twice the window of the pictures. The bytes run along
left–right first, then posterior–anterior, then inferior–superior; their differences are compressed by
zlib and written in base64, which a browser undoes without any library.
"""

import base64
import io
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import nibabel as nib
import numpy as np
import torch
from isal import isal_zlib
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from qsmflow.reports.figures import (
    AXIS_ENDS,
    FIGURES,
    IN_PLANE,
    PLANE_NAMES,
    PNG_LEVEL,
    WindowRule,
    line_ends,
)

MOST_VOXELS = 5_000_000  # of a volume: about a millimetre for a whole brain
LARGEST = 4_700_000  # characters of a series' volumes
COARSER = 2  # voxels that tell where two maps differ most
COMPRESSION = 2  # of isal: 3 % more bytes than zlib's sixth level in a fifteenth of its time
SKIPPED_PLANES = 8  # of which one is looked at to tell how long the data of all will be
MARGIN = 8.0  # mm around the brain that are kept
LEVELS = 254  # steps between the codes 1 and 255
PLANES = (2, 1, 0)  # axial, coronal, sagittal

_DATA = re.compile(r'(<script type="application/json" class="viewer-data">)(.*?)(</script>)', re.DOTALL)
_VIEWER = Markup("""<figure class="viewer" aria-label="Slice viewer">
<div class="viewer-static">
<div class="film">{picture}</div>
<noscript><p class="hint">Slices can be scrolled through here where JavaScript is switched on.</p></noscript>
</div>
<script type="application/json" class="viewer-data">{data}</script>
<figcaption>Cut along the axes of the scanner. Values are sampled and rounded for this page; the maps \
themselves are in the NIfTI files.</figcaption>
</figure>
""")
_SLIDER = Markup("""<figure class="wipe">
<p class="wipe-control" hidden><label>Border between the two maps
<input type="range" min="0" max="100" value="50" step="1"></label></p>
<div class="wipe-planes" style="--planes: {columns}">
{planes}
</div>
<figcaption>Upper row: {before} left of the line, {after} right of it; move the line with the slider or by \
pointing into a picture. Lower row: {after} less {before}. The slices are those that change most. \
All are shown from {window}.</figcaption>
</figure>
""")
_WIPED = Markup("""<div class="wipe-plane">
<div class="wipe-pair"><div class="before">{before}</div><div class="after">{after}</div></div>
{difference}
</div>""")


@dataclass(frozen=True)
class Layer:
    """How a volume is offered in the viewer.

    Attributes
    ----------
    title : str
        Its name.
    unit : str
        Of its values; empty for a mask.
    rule : WindowRule
        Range of the grey scale.
    inside_mask : bool
        Whether only voxels in the mask are stored.
    """

    title: str
    unit: str
    rule: WindowRule
    inside_mask: bool = True


_CHI, _FIELD = FIGURES["susceptibility"], FIGURES["local"]
#: Volumes of the viewer in the order they are offered.
LAYERS: Mapping[str, Layer] = MappingProxyType(
    {
        "susceptibility": Layer("Susceptibility", _CHI.unit, _CHI.window),
        "corrected": Layer("Susceptibility, motion corrected", _CHI.unit, _CHI.window),
        "magnitude": Layer("Magnitude", "a.u.", WindowRule(), inside_mask=False),
        "local_field": Layer("Local field", _FIELD.unit, _FIELD.window),
        "mask": Layer("Brain mask", "", WindowRule(largest=1.0), inside_mask=False),
    }
)


@dataclass(frozen=True)
class Coded:
    """A volume on its way into the page.

    Attributes
    ----------
    name, title, unit : str
        Which volume, its name for readers and the unit of its values.
    low, high : float
        Values of the codes 1 and 255.
    window : tuple of float
        Range that is shown at first.
    image : Nifti1Image
        Values, NaN where there is none.
    """

    name: str
    title: str
    unit: str
    low: float
    high: float
    window: tuple[float, float]
    image: nib.Nifti1Image

    @property
    def values(self) -> NDArray[np.float32]:
        """Values, (x, y, z)."""
        return np.asarray(self.image.dataobj)

    def codes(self, where: tuple = ()) -> NDArray[np.uint8]:
        """One byte for each of the voxels of an index, of all without one: 0 for no value."""
        steps = np.clip(self.values[where], self.low, self.high)
        steps -= self.low
        steps *= LEVELS / (self.high - self.low)
        return np.where(np.isfinite(steps), np.round(steps) + 1, 0).astype(np.uint8)


def build_viewer(
    volumes: Mapping[str, ArrayLike], affine: ArrayLike, *, mask: ArrayLike, largest: int = LARGEST
) -> Markup:
    """Put volumes into a page as data of its slice viewer, with a still picture of the first one.

    Parameters
    ----------
    volumes : mapping
        (x, y, z) each, all on one grid, by a name in :data:`LAYERS`: susceptibility and corrected (ppm),
        magnitude (arbitrary units), local_field (Hz).
    affine : array_like
        (4, 4) voxel to scanner coordinates in mm.
    mask : array_like
        (x, y, z), true in the brain; the volumes are cut to it, and it is shown as well.
    largest : int
        Characters that the volumes may take; voxels are made larger until they fit.

    Returns
    -------
    Markup
        HTML fragment; the page brings the program.

    Raises
    ------
    ValueError
        If a volume is not known, is not on the mask's grid, or there is none.

    Examples
    --------
    >>> volume = np.random.default_rng(0).normal(size=(8, 9, 10))
    >>> fragment = build_viewer({"susceptibility": volume}, np.eye(4), mask=volume > -9)
    >>> [layer.title for layer in read_viewer(fragment)]
    ['Susceptibility', 'Brain mask']
    """
    inside = np.asarray(mask) > 0.5
    if not volumes or (unknown := volumes.keys() - LAYERS.keys()):
        raise ValueError(f"there is no volume, or an unknown one ({unknown if volumes else 'none'})")
    if any(np.shape(volume) != inside.shape for volume in volumes.values()):
        raise ValueError("volumes and mask must be on one grid")
    given = {**volumes, "mask": inside}
    affine, region = np.asarray(affine, dtype=float), _region(inside)
    layers = [_layer(name, given[name], affine, region) for name in LAYERS if name in given]
    fitted, data = _fit(layers, _box(region, affine), largest=largest)
    return _VIEWER.format(picture=_still(fitted[0]), data=data)


def shrink_viewer(fragment: str, *, largest: int) -> Markup:
    """Make the volumes of a viewer fit into less room by making their voxels larger.

    Parameters
    ----------
    fragment : str
        As :func:`build_viewer` makes it.
    largest : int
        Characters that its volumes may take.

    Returns
    -------
    Markup
        The fragment as it was, or with larger voxels.

    Raises
    ------
    ValueError
        If there is no data of a viewer in it.
    """
    _, data, _ = _find(fragment).groups()
    if len(data) <= largest:
        return Markup(fragment)
    layers = read_viewer(fragment)
    affine, shape = layers[0].image.affine, np.array(layers[0].image.shape)
    box = np.stack([affine[:3, 3], affine[:3, 3] + np.diag(affine)[:3] * (shape - 1)])
    _, smaller = _fit(layers, box, largest=largest, length=len(data))
    return Markup(_DATA.sub(lambda match: f"{match[1]}{smaller}{match[3]}", fragment))


def read_viewer(fragment: str) -> tuple[Coded, ...]:
    """Volumes of a viewer as the page holds them.

    Parameters
    ----------
    fragment : str
        As :func:`build_viewer` makes it.

    Returns
    -------
    tuple of Coded
        With images along the axes of the scanner, NaN where there is no value.

    Raises
    ------
    ValueError
        If there is no data of a viewer in it.
    """
    scene = json.loads(_find(fragment)[2])
    affine = nib.affines.from_matvec(np.diag(scene["spacing"]), scene["origin"])

    def image(layer: dict) -> nib.Nifti1Image:
        steps = np.frombuffer(zlib.decompress(base64.b64decode(layer["data"])), np.uint8)
        codes = np.cumsum(steps, dtype=np.uint8).reshape(scene["shape"], order="F").astype(np.float32)
        values = layer["low"] + (codes - 1) / LEVELS * (layer["high"] - layer["low"])
        return nib.Nifti1Image(np.where(codes > 0, values, np.nan).astype(np.float32), affine)

    names = ("name", "title", "unit", "low", "high", "window")
    return tuple(
        Coded(**{name: layer[name] for name in names}, image=image(layer)) for layer in scene["layers"]
    )


def build_motion_slider(
    before: ArrayLike,
    after: ArrayLike,
    affine: ArrayLike,
    *,
    mask: ArrayLike,
    labels: tuple[str, str] = ("as reconstructed", "corrected"),
) -> Markup:
    """Two maps over one another in three planes, with a line to move and their difference.

    Parameters
    ----------
    before, after : array_like
        (x, y, z), susceptibility in ppm.
    affine : array_like
        (4, 4) voxel to scanner coordinates in mm.
    mask : array_like
        (x, y, z), true in the brain.
    labels : tuple of str
        What the two are called.

    Returns
    -------
    Markup
        HTML fragment; without the page's program the line stays in the middle.

    Examples
    --------
    >>> volume = np.random.default_rng(0).normal(size=(8, 9, 10))
    >>> slider = build_motion_slider(volume, volume / 2, np.eye(4), mask=volume > -9)
    >>> slider.count("<svg"), 'type="range"' in slider
    (9, True)
    """
    affine, region = np.asarray(affine, dtype=float), _region(mask)
    first, last = (_layer("susceptibility", volume, affine, region) for volume in (before, after))
    change = nib.Nifti1Image(last.values - first.values, affine)
    box = _box(region, affine)
    spacing = np.maximum(_spacing(affine), _finest(box, affine))
    # All in the window of the first one, or a change of contrast would pass for a correction.
    layers = [replace(first, image=image) for image in (first.image, last.image, change)]
    # Where the maps differ most is told well enough by a few of their voxels.
    coarse = _resample(layers[-1:], _grid(box, COARSER * spacing))[0]
    squares = np.nan_to_num(coarse.values**2)
    names = (*labels, "difference")
    planes = []
    for axis in PLANES:
        index = int(squares.sum(axis=IN_PLANE[axis]).argmax())
        cut = box.copy()
        cut[:, axis] = coarse.image.affine[axis, 3] + index * coarse.image.affine[axis, axis]
        maps = _resample(layers, _grid(cut, spacing))
        drawn = [_plane(layer, axis, 0, title=name) for layer, name in zip(maps, names, strict=True)]
        planes.append(_WIPED.format(before=drawn[0], after=drawn[1], difference=drawn[2]))
    return _SLIDER.format(
        columns=_columns(coarse),
        planes=Markup("\n").join(planes),
        before=labels[0],
        after=labels[1],
        window=_range(first),
    )


def _find(fragment: str) -> re.Match:
    match = _DATA.search(fragment)
    if match is None:
        raise ValueError("the fragment holds no data of a slice viewer")
    return match


def _layer(name: str, volume: ArrayLike, affine: NDArray, region: NDArray[np.bool_]) -> Coded:
    """A volume with its window and range."""
    layer = LAYERS[name]
    values = np.asarray(volume, dtype=np.float32)
    top = _top(values[region], layer.rule)
    low = -2 * top if layer.rule.symmetric else 0.0
    high = top if name == "mask" else 2 * top
    image = nib.Nifti1Image(np.where(region, values, np.nan) if layer.inside_mask else values, affine)
    return Coded(name, layer.title, layer.unit, low, high, (low / 2, top), image)


def _region(mask: ArrayLike) -> NDArray[np.bool_]:
    """The mask, or everything where it is empty."""
    inside = np.asarray(mask) > 0.5
    return inside if inside.any() else np.ones_like(inside)


def _box(region: NDArray[np.bool_], affine: NDArray) -> NDArray:
    """Smallest and largest scanner coordinates in mm, (2, 3), of a region with a margin, within the image."""
    places = nib.affines.apply_affine(affine, line_ends(region))
    ends = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(region.shape) - 1)
    corners = nib.affines.apply_affine(affine, ends)
    low = np.maximum(places.min(axis=0) - MARGIN, corners.min(axis=0))
    high = np.minimum(places.max(axis=0) + MARGIN, corners.max(axis=0))
    return np.stack([low, high])


def _grid(box: NDArray, spacing: NDArray) -> tuple[tuple[int, ...], NDArray]:
    """Shape and affine of voxels along the scanner's axes that fill a box."""
    shape = np.floor((box[1] - box[0]) / spacing + 1e-3).astype(int) + 1
    return tuple(shape.tolist()), nib.affines.from_matvec(np.diag(spacing), box[0])


def _spacing(affine: NDArray) -> NDArray:
    """Voxel sizes along the scanner's axes that are nearest to those of an image."""
    orientation = nib.io_orientation(affine)[:, 0].astype(int)
    return nib.affines.voxel_sizes(affine)[np.argsort(orientation)]


def _finest(box: NDArray, affine: NDArray) -> float:
    """Size in mm that the sides of voxels must have at least, for a box of not too many of them."""
    sizes = _spacing(affine)
    finest = sizes.min()
    while np.prod(_grid(box, np.maximum(sizes, finest))[0]) > MOST_VOXELS:
        finest *= 1.02
    return float(finest)


def _top(values: NDArray, rule: WindowRule) -> float:
    """Upper end of the window, as the pictures have it."""
    finite = np.abs(values[np.isfinite(values)])
    top = float(np.percentile(finite, rule.percentile)) if finite.size else 0.0
    return float(f"{np.clip(top, rule.smallest, rule.largest):.2g}") or 1.0


def _fit(
    layers: Sequence[Coded], box: NDArray, *, largest: int, length: int | None = None
) -> tuple[list[Coded], Markup]:
    """Volumes along the axes of the scanner, and as data of at most some characters.

    Where the length of the data with the present voxels is not known, that of a few planes tells it.
    """
    sizes = _spacing(layers[0].image.affine)
    finest = _finest(box, layers[0].image.affine)
    if length is None:
        few = _grid(box, np.maximum(sizes, finest) * (1, 1, SKIPPED_PLANES))
        length = len(_dump(_resample(layers, few))) * SKIPPED_PLANES
    while True:
        if length > largest:
            growing = np.count_nonzero(sizes <= finest)
            finest *= max(1.03 * (length / largest) ** (1 / growing), 1.05)
        grid = _grid(box, np.maximum(sizes, finest))
        sampled = _resample(layers, grid)
        data = _dump(sampled)
        length = len(data)
        if length <= largest or max(grid[0]) == 1:
            return sampled, data


def _resample(layers: Sequence[Coded], grid: tuple[tuple[int, ...], NDArray]) -> list[Coded]:
    """Layers of one grid on another; at the border of the values, those there are count alone."""
    shape, affine = grid
    values = torch.from_numpy(np.stack([layer.values for layer in layers]))
    known, which = _distinct(values.isfinite())
    given = torch.cat([values.nan_to_num(0.0, 0.0, 0.0), known.float()])
    # All at once: where the voxels come from, and with which weights, is the same for all of them.
    places = _places(shape, np.linalg.inv(layers[0].image.affine) @ affine, given.shape[1:])
    found = functional.grid_sample(given[None], places, align_corners=True)[0]
    sums, shares = found.split([len(layers), len(known)])
    shares[shares <= 0.5] = torch.nan
    sums = (sums / shares[which]).numpy()
    masks = [layer.name == "mask" for layer in layers]
    sums[masks] = np.round(sums[masks])
    return [
        replace(layer, image=nib.Nifti1Image(sampled, affine))
        for layer, sampled in zip(layers, sums, strict=True)
    ]


def _distinct(masks: Tensor) -> tuple[Tensor, list[int]]:
    """Masks, (n, x, y, z), without those that are there already, and which of them each one is."""
    known: list[Tensor] = []
    which = []
    for mask in masks:
        same = [index for index, other in enumerate(known) if torch.equal(mask, other)]
        if not same:
            known.append(mask)
        which.append(same[0] if same else len(known) - 1)
    return torch.stack(known), which


def _places(shape: Sequence[int], pull: NDArray, source: Sequence[int]) -> Tensor:
    """For voxels of a shape, where an affine from their indices to those of a source puts them.

    (1, x, y, z, 3) as ``grid_sample`` has it: the last axis of the source first, its ends at −1 and 1.
    """
    ends = np.array(source) - 1
    # A single voxel has its ends in one place, which is 0.
    matrix = np.where(ends[:, None] > 0, 2 / np.maximum(ends, 1)[:, None] * pull[:3], 0)
    matrix[:, 3] -= ends > 0
    matrix = torch.from_numpy(matrix[::-1].copy()).float()
    places = matrix[:, 3].expand(1, *shape, 3)
    for axis, size in enumerate(shape):
        steps = torch.arange(float(size)).reshape([-1 if each == axis else 1 for each in range(3)] + [1])
        places = places + steps * matrix[:, axis]
    return places


def _dump(layers: Sequence[Coded]) -> Markup:
    """Volumes as JSON that may stand inside a script element."""
    image = layers[0].image
    scene = {
        "shape": image.shape,
        "spacing": np.diag(image.affine)[:3].round(6).tolist(),
        "origin": image.affine[:3, 3].round(4).tolist(),
        "centre": _centre(layers[0]),
        "layers": [_dump_layer(layer) for layer in layers],
    }
    return htmlsafe_json_dumps(scene)


def _dump_layer(layer: Coded) -> dict:
    flat = layer.codes().ravel(order="F")
    steps = np.diff(flat, prepend=flat.dtype.type(0))
    packed = base64.b64encode(isal_zlib.compress(steps.tobytes(), COMPRESSION)).decode("ascii")
    names = ("name", "title", "unit", "low", "high", "window")
    return {name: getattr(layer, name) for name in names} | {"data": packed}


def _centre(layer: Coded) -> list[int]:
    """Indices of the middle of a volume's values."""
    found = np.argwhere(np.isfinite(layer.values))
    middle = found.mean(axis=0) if len(found) else np.array(layer.image.shape) // 2
    return middle.round().astype(int).tolist()


def _still(layer: Coded) -> Markup:
    """Three planes through the middle of the brain, for paper and for pages without a program."""
    middle = _centre(layer)
    planes = [_plane(layer, axis, middle[axis], title=layer.title) for axis in PLANES]
    return Markup(
        '<div class="viewer-planes" style="--planes: {}">{}</div><p class="viewer-note">{}, {}</p>'
    ).format(_columns(layer), Markup("").join(planes), layer.title, _range(layer))


def _columns(layer: Coded) -> str:
    """Widths of the three planes in a grid of CSS, so that a millimetre is as long in all of them."""
    extent = np.array(layer.image.shape) * np.diag(layer.image.affine)[:3]
    return " ".join(f"{extent[IN_PLANE[axis][0]]:.1f}fr" for axis in PLANES)


def _plane(layer: Coded, axis: int, index: int, *, title: str) -> Markup:
    """A slice as SVG with the letters of its four edges and its position."""
    across, up = IN_PLANE[axis]
    spacing = np.diag(layer.image.affine)[:3]
    codes = layer.codes((slice(None),) * axis + (index,)).T[::-1]
    height, width = codes.shape * spacing[[up, across]]
    (left, right), (bottom, top) = AXIS_ENDS[across], AXIS_ENDS[up]
    position = round(float(layer.image.affine[axis, 3] + index * spacing[axis]))
    place = f"{'xyz'[axis]} = {position} mm".replace("-", "−")
    letters = (
        (4, height / 2, "start", left),
        (width - 4, height / 2, "end", right),
        (width / 2 + 7, 10, "middle", top),  # beside the line of a slider in its middle
        (width / 2 + 7, height - 4, "middle", bottom),
        (4, 10, "start", place),
    )
    texts = Markup("").join(
        Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(*letter) for letter in letters
    )
    return Markup(
        '<svg class="plane" viewBox="0 0 {width:.1f} {height:.1f}" role="img" aria-label="{title}, {plane} '
        'slice at {place}, shown from {window}" font-size="8" fill="#e8eaed" '
        'font-family="system-ui, sans-serif"><image width="{width:.1f}" height="{height:.1f}" '
        'preserveAspectRatio="none" href="data:image/png;base64,{png}"/>{texts}</svg>'
    ).format(
        width=width,
        height=height,
        title=title,
        plane=PLANE_NAMES[axis],
        place=place,
        window=_range(layer),
        png=_png(codes, layer),
        texts=texts,
    )


def _png(codes: NDArray[np.uint8], layer: Coded) -> str:
    """Grey levels of codes in a layer's window, black where there is none."""
    low, high = layer.window
    values = layer.low + np.arange(-1, LEVELS + 1) / LEVELS * (layer.high - layer.low)
    greys = np.round(255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)
    greys[0] = 0
    stream = io.BytesIO()
    Image.fromarray(greys[codes]).save(stream, "PNG", compress_level=PNG_LEVEL)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _range(layer: Coded) -> str:
    """A window in words."""
    low, high = layer.window
    return f"{low:.3g} to {high:.3g} {layer.unit}".strip().replace("-", "−")
