"""Figures of experiments: what they show as plain values, and how that is drawn with matplotlib."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path

import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

from qsmflow.sim.files import write_bytes

#: Dots per inch of every figure.
DPI = 110


@dataclass(frozen=True)
class Slices:
    """One picture of a figure of maps.

    Parameters
    ----------
    label : str
        Above the picture.
    planes : tuple of numpy.ndarray
        Slices as they are shown: first axis up, second to the right.
    window : tuple of float
        Values that are black and white, ppm.
    """

    label: str
    planes: tuple[NDArray, ...]
    window: tuple[float, float]


@dataclass(frozen=True)
class MapFigure:
    """Maps side by side.

    Parameters
    ----------
    name : str
        Stem of the file.
    title : str
    rows : tuple of tuple of Slices
        Maps above, their errors below; None leaves a place empty.
    """

    name: str
    title: str
    rows: tuple[tuple[Slices | None, ...], ...]


@dataclass(frozen=True)
class BoxFigure:
    """Spread of measures over scans, with the means of the paper as lines.

    Parameters
    ----------
    name : str
        Stem of the file.
    title : str
    measures : mapping
        By measure, with its unit: by series, a value for each scan.
    published : mapping
        By measure: by series, the mean in the paper; series that the paper has not are left out.
    """

    name: str
    title: str
    measures: Mapping[str, Mapping[str, Sequence[float]]]
    published: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class ScatterFigure:
    """Recovered against true values, with the line on which they are equal.

    Parameters
    ----------
    name : str
        Stem of the file.
    title : str
    unit : str
        Of all values.
    truth : tuple of float
    found : mapping
        By method: values in the order of the truth.
    """

    name: str
    title: str
    unit: str
    truth: tuple[float, ...]
    found: Mapping[str, Sequence[float]]


Figure = MapFigure | BoxFigure | ScatterFigure


def error_figure(
    name: str,
    title: str,
    *,
    truth: NDArray,
    maps: Mapping[str, NDArray],
    mask: NDArray,
    beside: Mapping[str, NDArray] | None = None,
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
) -> MapFigure:
    """Truth and maps in one row, the differences to the truth below, all with the same window.

    Parameters
    ----------
    name, title : str
        Of the figure.
    truth : numpy.ndarray
        (x, y, z) in ppm, axes to the right, front and top; the first picture.
    maps : mapping
        By label: (x, y, z) in ppm, compared after all lose their mean in the mask.
    mask : numpy.ndarray
        (x, y, z), bool; other voxels are not shown.
    beside : mapping, optional
        By label: (x, y, z) shown between truth and maps, with a window of its own and no difference.
    voxel_size : sequence of float
        mm; slices are shown with square millimetres.

    Returns
    -------
    MapFigure
    """
    demeaned = {label: np.where(mask, image - image[mask].mean(), 0) for label, image in maps.items()}
    truth = np.where(mask, truth - truth[mask].mean(), 0)
    half = float(np.percentile(np.abs(truth[mask]), 99)) or 1.0

    def slices(label: str, image: NDArray, window: tuple[float, float]) -> Slices:
        return Slices(label, middle_planes(image, mask=mask, voxel_size=voxel_size), window)

    window = (-half, half)
    fixed = [slices("reference", truth, window)]
    for label, image in (beside or {}).items():
        reach = float(np.percentile(np.abs(image[mask]), 99)) or 1.0
        fixed.append(slices(label, np.where(mask, image, 0), (-reach, reach)))
    shown = [slices(label, image, window) for label, image in demeaned.items()]
    errors = [slices(f"{label}, error", image - truth, window) for label, image in demeaned.items()]
    top, bottom = (*fixed, *shown), (*([None] * len(fixed)), *errors)
    return MapFigure(name, f"{title} (±{half:.2g} ppm)", (top, bottom))


def middle_planes(
    image: NDArray, *, mask: NDArray, voxel_size: Sequence[float]
) -> tuple[NDArray, NDArray, NDArray]:
    """Axial, coronal and sagittal slice through the middle of a mask, with pixels as square as can be.

    Parameters
    ----------
    image : numpy.ndarray
        (x, y, z), axes to the right, front and top.
    mask : numpy.ndarray
        (x, y, z), bool.
    voxel_size : sequence of float
        mm; voxels are repeated along their long edges.

    Returns
    -------
    tuple of numpy.ndarray

    Examples
    --------
    >>> image, mask = np.zeros((4, 6, 3)), np.ones((4, 6, 3), dtype=bool)
    >>> [plane.shape for plane in middle_planes(image, mask=mask, voxel_size=(1, 1, 2))]
    [(6, 4), (6, 4), (6, 6)]
    """
    inside = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    x, y, z = (int(places[len(places) // 2]) for places in inside)
    box = [slice(int(places[0]), int(places[-1]) + 1) for places in inside]
    repeats = [max(1, round(edge / min(voxel_size))) for edge in voxel_size]

    def plane(picture: NDArray, across: int, up: int) -> NDArray:
        return picture.T.repeat(repeats[up], axis=0).repeat(repeats[across], axis=1)

    return (
        plane(image[box[0], box[1], z], 0, 1),
        plane(image[box[0], y, box[2]], 0, 2),
        plane(image[x, box[1], box[2]], 1, 2),
    )


def draw(figure: Figure, path: Path) -> None:
    """Draw a figure into a PNG file.

    Parameters
    ----------
    figure : MapFigure, BoxFigure or ScatterFigure
    path : Path
        Its folder is made if missing.
    """
    content = io.BytesIO()
    drawn = _drawn(figure)
    drawn.suptitle(figure.title)
    drawn.savefig(content, format="png", dpi=DPI)
    write_bytes(path, content.getvalue())


@singledispatch
def _drawn(figure: Figure) -> matplotlib.figure.Figure:
    raise TypeError(f"no way to draw {type(figure).__name__}")


@_drawn.register
def _(figure: MapFigure) -> matplotlib.figure.Figure:
    columns, n_planes = len(figure.rows[0]), 3
    size = (2.2 * columns, 2.4 * n_planes * len(figure.rows) + 0.5)
    drawn = matplotlib.figure.Figure(figsize=size, layout="constrained")
    axes = drawn.subplots(n_planes * len(figure.rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, pictures in enumerate(figure.rows):
        for column, picture in enumerate(pictures):
            if picture is None:
                continue
            below = axes[n_planes * row : n_planes * (row + 1), column]
            below[0].set_title(picture.label, fontsize=9)
            low, high = picture.window
            for axis, plane in zip(below, picture.planes, strict=True):
                axis.imshow(plane, cmap="gray", origin="lower", vmin=low, vmax=high)
    return drawn


@_drawn.register
def _(figure: BoxFigure) -> matplotlib.figure.Figure:
    columns = min(3, len(figure.measures))
    rows = -(-len(figure.measures) // columns)
    drawn = matplotlib.figure.Figure(figsize=(4.2 * columns, 3.4 * rows + 0.5), layout="constrained")
    axes = drawn.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(figure.measures) :]:
        axis.set_axis_off()
    for axis, (measure, series) in zip(axes.flat, figure.measures.items(), strict=False):
        axis.boxplot([*series.values()], tick_labels=[*series], showmeans=True)
        axis.set_title(measure)
        published = figure.published.get(measure, {})
        for place, label in enumerate(series, start=1):
            if label in published:
                axis.hlines(published[label], place - 0.35, place + 0.35, colors="tab:red")
    return drawn


@_drawn.register
def _(figure: ScatterFigure) -> matplotlib.figure.Figure:
    drawn = matplotlib.figure.Figure(figsize=(6, 5.5), layout="constrained")
    axis = drawn.subplots()
    for label, values in figure.found.items():
        axis.scatter(figure.truth, values, s=18, alpha=0.8, label=label)
    axis.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    axis.set_xlabel(f"truth, {figure.unit}")
    axis.set_ylabel(f"recovered, {figure.unit}")
    axis.legend(fontsize=8)
    return drawn
