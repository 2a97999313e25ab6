"""Slice mosaics of volumes as small, self-contained SVG pictures.

Slices are cut in scanner space, so an oblique slab is shown upright, and left is on the left. The
grey or coloured pixels are embedded as PNG with a palette; all lettering is text.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import matplotlib
import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import ndimage

COLUMNS = 7
CELL_WIDTH = 184.0  # of a slice, in units of the drawing
CELL_PIXELS = (184, 140, 104, 80)  # tried in this order until the picture is small enough
PNG_LEVEL = 3  # 2 % more bytes than the best compression in a quarter of its time
LARGEST_RASTER = 270_000  # bytes of PNG in a picture; base64 makes a third more of them
SIDE = 112.0  # room for the colour bar
GAP = 10.0
HEADER = 42.0  # above each row: the position of the slices above and a name
LINE = 18.0  # of a warning

BACKGROUND, FIRST, LAST, OUTLINE = 0, 1, 254, 255  # palette entries
BACKGROUND_COLOUR = (11, 13, 16)
OUTLINE_COLOUR = (255, 96, 0)

# Scanner axes: 0 left-right, 1 posterior-anterior, 2 inferior-superior.
IN_PLANE = MappingProxyType({2: (0, 1), 1: (0, 2), 0: (1, 2)})
PLANE_NAMES = MappingProxyType({2: "axial", 1: "coronal", 0: "sagittal"})
AXIS_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class WindowRule:
    """How the grey scale follows from the values.

    Attributes
    ----------
    symmetric : bool
        From −w to w rather than from 0 to w.
    percentile : float
        Percentile of the (absolute) values in the mask that becomes w.
    smallest, largest : float
        Limits that w is held to, in the unit of the picture.
    """

    symmetric: bool = False
    percentile: float = 99.0
    smallest: float = 0.0
    largest: float = np.inf


@dataclass(frozen=True)
class FigureSpec:
    """How one kind of picture looks.

    Attributes
    ----------
    title : str
        Heading, also in the alternative text.
    suffix : str
        BIDS suffix of the reportlet's file name.
    unit : str
        Of the values.
    colour_map : str
        Name in matplotlib; safe for the colour-blind.
    window : WindowRule
        Range of the colours.
    inside_mask : bool
        Whether only voxels in the mask are shown.
    outline : bool
        Whether the border of the mask is drawn.
    smooth : bool
        Whether to interpolate between voxels; wrapped phase must not be.
    row_labels : tuple of str
        Names of the volumes where there are several.
    difference : bool
        Whether a row below shows the last volume less the first one, and all rows share the first
        one's range.
    """

    title: str
    suffix: str
    unit: str
    colour_map: str = "gray"
    window: WindowRule = field(default_factory=WindowRule)
    inside_mask: bool = True
    outline: bool = False
    smooth: bool = True
    row_labels: tuple[str, ...] = ()
    difference: bool = False


FIGURES: Mapping[str, FigureSpec] = MappingProxyType(
    {
        "magnitude": FigureSpec(
            "Magnitude", "MEGRE", "a.u.", inside_mask=False, row_labels=("first echo", "last echo")
        ),
        "mask": FigureSpec("Brain mask on the magnitude", "MEGRE", "a.u.", inside_mask=False, outline=True),
        "phase": FigureSpec(
            "Frequency before and after unwrapping",
            "MEGRE",
            "Hz",
            window=WindowRule(symmetric=True, percentile=99.5),
            smooth=False,
            row_labels=("wrapped", "unwrapped"),
        ),
        "regions": FigureSpec(
            "Regions on the susceptibility",
            "Chimap",
            "ppm",
            window=WindowRule(symmetric=True, smallest=0.1, largest=0.2),
        ),
        "total": FigureSpec(
            "Total field",
            "fieldmap",
            "Hz",
            "berlin",
            WindowRule(symmetric=True, percentile=98),
        ),
        "noise": FigureSpec("Noise of the frequency", "fieldmap", "Hz", "cividis", WindowRule(percentile=98)),
        "local": FigureSpec("Local field", "fieldmap", "Hz", window=WindowRule(symmetric=True)),
        "susceptibility": FigureSpec(
            "Magnetic susceptibility",
            "Chimap",
            "ppm",
            window=WindowRule(symmetric=True, smallest=0.1, largest=0.2),
        ),
        "motion": FigureSpec(
            "Motion correction",
            "Chimap",
            "ppm",
            window=WindowRule(symmetric=True, smallest=0.1, largest=0.2),
            row_labels=("as reconstructed", "corrected"),
            difference=True,
        ),
        "comparison": FigureSpec(
            "Comparison with the reference scan",
            "Chimap",
            "ppm",
            window=WindowRule(symmetric=True, smallest=0.15, largest=0.15),
        ),
        "r2star": FigureSpec(
            "R2*", "R2starmap", "1/s", "inferno", WindowRule(percentile=98, smallest=50, largest=100)
        ),
    }
)


@dataclass(frozen=True)
class Picture:
    """A drawn figure and what was noticed in drawing it.

    Attributes
    ----------
    svg : str
        The picture.
    windows : tuple of (float, float)
        Range of the colours of each volume.
    warnings : tuple of str
        Blank volumes and values that are not finite.
    """

    svg: str
    windows: tuple[tuple[float, float], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Cut:
    """A plane in scanner space: the axis it is normal to and where, in mm."""

    axis: int
    position: float


def plot_volumes(
    volumes: Sequence[ArrayLike],
    affine: ArrayLike,
    *,
    spec: FigureSpec,
    mask: ArrayLike | None = None,
    labels: Sequence[str] = (),
    unit: str | None = None,
    outlines: Sequence[ArrayLike | None] = (),
) -> Picture:
    """Draw one volume in three planes, or several volumes below one another on the same slices.

    Parameters
    ----------
    volumes : sequence of array_like
        (x, y, z) each, all on one grid; NaN is left blank.
    affine : array_like
        (4, 4) voxel to scanner coordinates in mm.
    spec : FigureSpec
        Title, unit, colours and window.
    mask : array_like, optional
        (x, y, z), true in the brain; voxels that are finite and not zero unless given.
    labels : sequence of str, optional
        Names of the volumes instead of those of the specification.
    unit : str, optional
        Instead of that of the specification.
    outlines : sequence of array_like or None
        (x, y, z) of whole numbers for each volume: borders are drawn around each label but 0.

    Returns
    -------
    Picture
        SVG text, windows and warnings.

    Raises
    ------
    ValueError
        If there is no volume, or shapes differ, or a volume is not three-dimensional or complex.

    Examples
    --------
    >>> volume = np.random.default_rng(0).normal(size=(8, 9, 10))
    >>> picture = plot_volumes([volume], np.eye(4), spec=FIGURES["susceptibility"])
    >>> picture.svg.startswith("<svg"), picture.windows, picture.warnings
    (True, ((-0.2, 0.2),), ())
    """
    arrays = _checked(volumes, mask)
    affine = np.asarray(affine, dtype=float)
    region = _region(arrays, mask)
    window_region = region if np.any(region) else np.ones_like(region)
    names = tuple(labels) or spec.row_labels[: len(arrays)] or ("",) * len(arrays)
    if spec.difference:
        arrays, names = [*arrays, arrays[-1] - arrays[0]], (*names, "difference")
    found = [_window(array[window_region], spec.window) for array in arrays]
    windows = tuple(found[0 if spec.difference else row][0] for row in range(len(found)))
    # A difference may well be zero everywhere: that is no failure.
    judged = found[:-1] if spec.difference else found
    warnings = tuple(
        f"{spec.title}{f' ({name})' if name and len(arrays) > 1 else ''}: {remark}"
        for name, (_, remarks) in zip(names, judged, strict=False)
        for remark in remarks
    )
    rows = _rows(arrays, names, _bounding_box(region, affine))
    box = _bounding_box(region if spec.inside_mask else np.ones_like(region), affine)
    shown = [np.where(region, array, np.nan) if spec.inside_mask else array for array in arrays]
    borders = list(outlines) or [region if spec.outline else None] * len(arrays)
    for pixels in CELL_PIXELS:
        rasters = [
            _raster(shown[index], borders[index], affine, cuts, box, windows[index], spec.smooth, pixels)
            for index, _, cuts in rows
        ]
        encoded = [_encode(raster, spec.colour_map) for raster in rasters]
        if sum(map(len, encoded)) <= LARGEST_RASTER:
            break
    svg = _draw(rows, rasters, encoded, box, windows, spec, spec.unit if unit is None else unit, warnings)
    return Picture(svg, windows, warnings)


def _checked(volumes: Sequence[ArrayLike], mask: ArrayLike | None) -> list[NDArray]:
    """The volumes as float arrays of one shape."""
    arrays = [np.asarray(volume) for volume in volumes]
    if not arrays:
        raise ValueError("there is no volume to draw")
    shapes = {array.shape for array in arrays} | ({np.shape(mask)} if mask is not None else set())
    if len(shapes) > 1 or len(arrays[0].shape) != 3:
        raise ValueError(f"volumes and mask must be three-dimensional on one grid, got {sorted(shapes)}")
    if any(np.iscomplexobj(array) for array in arrays):
        raise ValueError("complex volumes cannot be drawn; take the magnitude or the phase")
    return [array.astype(np.float32, copy=False) for array in arrays]


def _region(arrays: Sequence[NDArray], mask: ArrayLike | None) -> NDArray[np.bool_]:
    """Voxels that count: the mask, or else where any volume has signal."""
    if mask is not None and np.any(mask):
        return np.asarray(mask) > 0.5
    return np.any([np.isfinite(array) & (array != 0) for array in arrays], axis=0)


def _window(values: NDArray, rule: WindowRule) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Range of the colours, and remarks on values that make no picture."""
    finite = values[np.isfinite(values)]
    remarks = []
    if finite.size < values.size:
        remarks.append(f"{1 - finite.size / values.size:.2%} of the voxels are not finite")
    if finite.size == 0 or finite.min() == finite.max():
        every = f", every voxel is {finite[0]:.4g}" if finite.size else ""
        remarks.append(f"blank image{every}")
    top = float(np.percentile(np.abs(finite), rule.percentile)) if finite.size else 0.0
    top = float(np.clip(top, rule.smallest, rule.largest)) or 1.0
    return (-top if rule.symmetric else 0.0, top), tuple(remarks)


def line_ends(region: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Where the lines of a region along its last axis begin and end: its extremes in any direction are there.

    Parameters
    ----------
    region : ndarray of bool
        (x, y, z).

    Returns
    -------
    ndarray of int
        (n, 3), voxel indices.

    Examples
    --------
    >>> line_ends(np.array([[[False, True, True, True]]])).tolist()
    [[0, 0, 1], [0, 0, 3]]
    """
    lines = np.argwhere(region.any(axis=2))
    inside = region[tuple(lines.T)]
    first, last = inside.argmax(axis=1), region.shape[2] - 1 - inside[:, ::-1].argmax(axis=1)
    return np.concatenate([np.column_stack([lines, ends]) for ends in (first, last)])


def _bounding_box(region: NDArray[np.bool_], affine: NDArray) -> NDArray:
    """Smallest and largest scanner coordinates of a region, (2, 3) in mm, with a narrow margin."""
    if not region.any():
        region = np.ones_like(region)
    corners = line_ends(region) @ affine[:3, :3].T + affine[:3, 3]
    margin = 2 * np.linalg.norm(affine[:3, :3], axis=0).max()
    return np.stack([corners.min(axis=0) - margin, corners.max(axis=0) + margin])


def _rows(arrays: Sequence[NDArray], names: Sequence[str], box: NDArray):
    """What each row shows: (index of the volume, label, its cuts)."""

    def cuts(axis: int, count: int) -> list[_Cut]:
        low, high = box[:, axis]
        edges = (0.17, 0.83) if count > 3 else (0.35, 0.65)
        return [_Cut(axis, low + share * (high - low)) for share in np.linspace(*edges, count)]

    if len(arrays) == 1:
        return [(0, PLANE_NAMES[axis], cuts(axis, COLUMNS)) for axis in (2, 1, 0)]
    mixed = cuts(2, 3) + cuts(1, 2) + cuts(0, 2)
    return [(index, name, mixed) for index, name in enumerate(names)]


def _cell(cuts: Sequence[_Cut], box: NDArray) -> tuple[float, float]:
    """Width and height in mm that hold every slice of a row; the width is the same in all rows."""
    extent = box[1] - box[0]
    return max(extent[0], extent[1]), max(extent[IN_PLANE[cut.axis][1]] for cut in cuts)


def _raster(volume, outline, affine, cuts, box, window, smooth, pixels) -> NDArray[np.uint8]:
    """The slices of a row side by side as palette entries."""
    width, height = _cell(cuts, box)
    step = max(width / pixels, np.linalg.norm(affine[:3, :3], axis=0).min() / 2)
    shape = (max(round(height / step), 1), max(round(width / step), 1))
    low, high = window
    cells = []
    for cut in cuts:
        coordinates = _slice_coordinates(cut, box, shape, (height, width), affine)
        values = _sample(volume, coordinates, order=int(smooth))
        levels = np.clip((values - low) / (high - low), 0, 1) * (LAST - FIRST)
        cell = np.where(np.isfinite(values), np.nan_to_num(levels) + FIRST, BACKGROUND).astype(np.uint8)
        if outline is not None:
            cell[_borders(np.nan_to_num(_sample(outline.astype(np.float32), coordinates, order=0)))] = OUTLINE
        cells.append(cell)
    return np.concatenate(cells, axis=1)


def _borders(labels: NDArray) -> NDArray[np.bool_]:
    """Pixels of a label that touch another one, or none, or the edge."""
    cross = ndimage.generate_binary_structure(2, 1)
    lowest, highest = (
        extreme(labels, footprint=cross, mode="constant")
        for extreme in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    return (labels != 0) & (lowest != highest)


def _sample(volume: NDArray, coordinates: NDArray, *, order: int) -> NDArray:
    """Values at voxel coordinates, NaN outside the volume."""
    return ndimage.map_coordinates(volume, coordinates, order=order, mode="constant", cval=np.nan)


def _slice_coordinates(cut: _Cut, box, shape, size, affine) -> NDArray:
    """Voxel coordinates (3, row, column) of a plane's pixels; the first row is the upper one."""
    across, up = IN_PLANE[cut.axis]
    centre = box.mean(axis=0)
    scanner = np.empty((3, *shape))
    scanner[cut.axis] = cut.position
    rows = (np.arange(shape[0]) + 0.5) / shape[0] - 0.5
    columns = (np.arange(shape[1]) + 0.5) / shape[1] - 0.5
    scanner[up] = (centre[up] - rows * size[0])[:, None]
    scanner[across] = (centre[across] + columns * size[1])[None, :]
    inverse = np.linalg.inv(affine)
    return np.tensordot(inverse[:3, :3], scanner, axes=1) + inverse[:3, 3, None, None]


def _encode(raster: NDArray[np.uint8], colour_map: str) -> bytes:
    """PNG with a palette of 256 colours."""
    shades = matplotlib.colormaps[colour_map](np.linspace(0, 1, LAST - FIRST + 1))[:, :3]
    palette = np.vstack([BACKGROUND_COLOUR, np.round(255 * shades), OUTLINE_COLOUR]).astype(np.uint8)
    image = Image.fromarray(raster).convert("P")
    image.putpalette(palette.tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=PNG_LEVEL)
    return stream.getvalue()


def _draw(rows, rasters, encoded, box, windows, spec, unit, warnings) -> str:
    """Compose rows, lettering and colour bars."""
    scale = CELL_WIDTH / _cell(rows[0][2], box)[0]
    parts, top = [], HEADER
    for (index, label, cuts), png in zip(rows, encoded, strict=True):
        height = _cell(cuts, box)[1] * scale
        parts.append(_image(png, GAP, top, COLUMNS * CELL_WIDTH, height))
        parts += [_slice_letters(cut, GAP + n * CELL_WIDTH, top, height) for n, cut in enumerate(cuts)]
        parts.append(_text(GAP + 2, top - 8, label, size=15))
        if len(windows) > 1 or top == HEADER:  # the planes of a single volume share one bar
            parts.append(_colour_bar(windows[index], unit, spec.colour_map, top, height))
        top += height + HEADER
    parts += [_text(GAP, top + LINE * n, f"⚠ {text}", fill="#ffc46b") for n, text in enumerate(warnings)]
    total = top - HEADER / 2 + (HEADER / 2 + LINE * len(warnings) if warnings else 0)
    summary = _describe(rows, windows, spec, unit, warnings)
    width = GAP + COLUMNS * CELL_WIDTH + SIDE
    # nireports edits the line that opens the drawing: keep the drawing's own contents off it.
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {total:.0f}" role="img">\n'
        "<title>{summary}</title>\n"
        '<rect width="100%" height="100%" fill="rgb{background}"/>\n'
        '<g font-family="system-ui, sans-serif" font-size="13" fill="#e8eaed">\n{parts}\n</g>\n</svg>\n'
    ).format(
        width=width,
        total=total,
        summary=summary,
        background=Markup(str(BACKGROUND_COLOUR)),
        parts=Markup("\n").join(parts),
    )


def _describe(rows, windows, spec, unit, warnings) -> str:
    """The picture in words, for those who cannot see it."""
    ranges = "; ".join(f"{low:.4g} to {high:.4g} {unit}" for low, high in dict.fromkeys(windows))
    planes = ", ".join(dict.fromkeys(PLANE_NAMES[cut.axis] for _, _, cuts in rows for cut in cuts))
    return ". ".join([f"{spec.title}: {planes} slices, left on the left, shown from {ranges}", *warnings])


def _slice_letters(cut: _Cut, left: float, top: float, height: float) -> Markup:
    """Position of a slice and the letters of its left and right edge."""
    start, end = AXIS_ENDS[IN_PLANE[cut.axis][0]]
    place = f"{'xyz'[cut.axis]} = {round(cut.position)} mm".replace("-", "−")
    return Markup("").join(
        [
            _text(left + CELL_WIDTH / 2, top + height + 13, place, anchor="middle", size=11, fill="#9aa0a6"),
            _text(left + 6, top + 12, start, size=12),
            _text(left + CELL_WIDTH - 6, top + 12, end, anchor="end", size=12),
        ]
    )


def _colour_bar(window, unit: str, colour_map: str, top: float, height: float) -> Markup:
    """The colours with their values and unit."""
    low, high = window
    left = GAP + COLUMNS * CELL_WIDTH + 14
    ramp = _encode(np.arange(LAST, FIRST - 1, -1, dtype=np.uint8)[:, None], colour_map)
    texts = [(high, top + 10), ((low + high) / 2, top + height / 2 + 4), (low, top + height)]
    return Markup("").join(
        [
            _image(ramp, left, top, 14, height),
            *(_text(left + 20, y, f"{value:.3g}".replace("-", "−")) for value, y in texts),
            _text(left, top - 8, unit, size=15),
        ]
    )


def _image(png: bytes, x: float, y: float, width: float, height: float) -> Markup:
    return Markup(
        '<image x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" preserveAspectRatio="none" '
        'href="data:image/png;base64,{}"/>'
    ).format(x, y, width, height, base64.b64encode(png).decode("ascii"))


def _text(x: float, y: float, text: str, *, size: int = 13, anchor: str = "start", fill: str = "#e8eaed"):
    return Markup('<text x="{:.1f}" y="{:.1f}" font-size="{}" text-anchor="{}" fill="{}">{}</text>').format(
        x, y, size, anchor, fill, text
    )
