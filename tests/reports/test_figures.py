"""Slice mosaics: windows, orientation, blank maps, size."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from qsmflow.reports.figures import (
    BACKGROUND_COLOUR,
    FIGURES,
    OUTLINE_COLOUR,
    FigureSpec,
    WindowRule,
    plot_volumes,
)

SHAPE = (20, 24, 16)


def rasters(svg: str) -> list[np.ndarray]:
    """The embedded pictures, colour bars included, as RGB arrays."""
    pngs = re.findall(r'href="data:image/png;base64,([^"]+)"', svg)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")) for png in pngs]


def ball(centre=(10, 12, 8), radius=6.0) -> np.ndarray:
    grid = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
    return np.sum(grid**2, axis=0) < radius**2


@pytest.mark.parametrize("kind", FIGURES)
def test_every_kind_is_well_formed_and_states_window_unit_and_sides(kind):
    volume = np.random.default_rng(0).normal(size=SHAPE) * ball()
    spec = FIGURES[kind]
    volumes = [(1 + row) * volume for row in range(max(len(spec.row_labels), 1))]
    picture = plot_volumes(volumes, np.eye(4), spec=spec, mask=ball())
    root = ElementTree.fromstring(picture.svg)
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"L", "R", "P", "A", spec.unit, *spec.row_labels} <= set(words)
    assert spec.title in root.find("{http://www.w3.org/2000/svg}title").text
    assert len(picture.windows) == len(volumes) + spec.difference
    assert picture.warnings == ()


@pytest.mark.parametrize(("amplitude", "top"), [(0.01, 0.1), (0.15, 0.15), (5.0, 0.2)])
def test_susceptibility_window_stays_within_its_limits(amplitude, top):
    volume = np.where(ball(), amplitude, 0.0)
    volume[10, 12, 8] = -amplitude
    picture = plot_volumes([volume], np.eye(4), spec=FIGURES["susceptibility"], mask=ball())
    assert picture.windows == ((pytest.approx(-top), pytest.approx(top)),)


def test_difference_is_shown_in_the_range_of_the_first_volume():
    before = np.where(ball(), 0.05, 0.0)
    before[10, 12, 8] = -0.15
    after = np.where(ball(), 0.05 + 0.15, 0.0)
    spec = FIGURES["motion"]
    picture = plot_volumes([before, after], np.eye(4), spec=spec, mask=ball())
    assert picture.windows == (picture.windows[0],) * 3
    words = [
        text.text for text in ElementTree.fromstring(picture.svg).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert {"as reconstructed", "corrected", "difference"} <= set(words)
    # Rows alternate with their colour bars; the difference is grey where nothing changed in the first row.
    rows = rasters(picture.svg)[::2]
    low, high = picture.windows[0]
    for row, value in zip(rows, (0.05, 0.2, 0.15), strict=True):
        shade = np.median(row[(row != BACKGROUND_COLOUR).any(axis=2)])
        assert shade == pytest.approx(255 * np.clip((value - low) / (high - low), 0, 1), abs=2)


@pytest.mark.parametrize("affine", [np.diag([1, 1, 1, 1.0]), np.diag([-1, 1, 1, 1.0])], ids=["RAS", "LAS"])
def test_left_of_the_subject_is_on_the_left_whatever_the_storage(affine):
    x = np.indices(SHAPE)[0] * affine[0, 0]
    volume = np.where(ball(), 1.0, 0) + np.where(ball() & (x < np.median(x)), 9.0, 0)
    axial = rasters(plot_volumes([volume], affine, spec=FIGURES["r2star"], mask=ball()).svg)[0]
    middle = np.array_split(axial.sum(axis=2).astype(float), 7, axis=1)[3]
    left, right = np.array_split(middle, 2, axis=1)
    assert left.mean() > right.mean() + 20


def test_an_oblique_image_is_shown_upright():
    angle = np.deg2rad(30)
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation
    height = np.tensordot(rotation[2], np.indices(SHAPE), axes=1)
    spec = FigureSpec("Height", "x", "mm", window=WindowRule(percentile=100))
    sagittal = rasters(plot_volumes([height], affine, spec=spec, mask=ball()).svg)[3]
    middle = np.array_split(sagittal[..., 0].astype(float), 7, axis=1)[3]
    middle[(np.array_split(sagittal, 7, axis=1)[3] == BACKGROUND_COLOUR).all(axis=2)] = np.nan
    rows = middle[np.isfinite(middle).sum(axis=1) > 4]
    assert len(rows) > 5
    assert np.nanmax(np.nanstd(rows, axis=1)) < 3  # grey depends on the height alone
    assert np.all(np.diff(np.nanmean(rows, axis=1)) < 0)


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan], ids=["zeros", "constant", "nan"])
def test_blank_map_warns_and_does_not_crash(value):
    picture = plot_volumes([np.full(SHAPE, value)], np.eye(4), spec=FIGURES["susceptibility"], mask=ball())
    assert any("blank image" in warning for warning in picture.warnings)
    assert "blank image" in picture.svg
    ElementTree.fromstring(picture.svg)


def test_values_that_are_not_finite_are_counted_and_left_blank():
    volume = np.where(ball(), np.random.default_rng(0).normal(size=SHAPE), 0)
    volume[10, 12, 8] = np.inf
    picture = plot_volumes([volume], np.eye(4), spec=FIGURES["local"], mask=ball())
    assert picture.warnings == (f"Local field: {1 / ball().sum():.2%} of the voxels are not finite",)
    assert np.isfinite(picture.windows).all()


def test_outline_encloses_the_mask_and_only_the_mask_figure_has_one():
    images = {
        kind: rasters(plot_volumes([ball() + 1.0], np.eye(4), spec=FIGURES[kind], mask=ball()).svg)[0]
        for kind in ("mask", "r2star")
    }
    outlined = {kind: (image == OUTLINE_COLOUR).all(axis=2).sum() for kind, image in images.items()}
    assert outlined["mask"] > 50
    assert outlined["r2star"] == 0


def test_each_label_of_an_outline_has_its_border():
    labels = ball().astype(int)
    labels[SHAPE[0] // 2 :] *= 2  # two halves, and a seam between them
    images = [
        rasters(
            plot_volumes(
                [ball() + 1.0, ball() + 1.0], np.eye(4), spec=FIGURES["regions"], outlines=[None, each]
            ).svg
        )
        for each in (ball(), labels)
    ]
    # Each row of slices is followed by its colour bar.
    drawn = [[(raster == OUTLINE_COLOUR).all(axis=2).sum() for raster in rows[::2]] for rows in images]
    assert drawn[0][0] == drawn[1][0] == 0
    assert drawn[1][1] > drawn[0][1] > 50


def test_pure_noise_stays_small():
    volume = np.random.default_rng(0).normal(size=(160, 160, 120)).astype(np.float32)
    picture = plot_volumes([volume], np.diag([1, 1, 1.2, 1]), spec=FIGURES["local"])
    assert len(picture.svg) < 400_000


def test_labels_are_escaped():
    svg = plot_volumes([ball() * 1.0], np.eye(4), spec=FIGURES["phase"], labels=["<script>"], unit="<b>").svg
    assert "<script>" not in svg
    assert "<b>" not in svg


@pytest.mark.parametrize(
    "volumes",
    [[], [np.ones((2, 2))], [np.ones(SHAPE), np.ones((2, 2, 2))], [np.ones(SHAPE, complex)]],
    ids=["none", "flat", "different", "complex"],
)
def test_refuses_what_cannot_be_drawn(volumes):
    with pytest.raises(ValueError, match="volume"):
        plot_volumes(volumes, np.eye(4), spec=FIGURES["local"])


def test_single_slice():
    volume = np.random.default_rng(0).normal(size=(8, 8, 1))
    assert plot_volumes([volume], np.eye(4), spec=FIGURES["local"]).warnings == ()


def test_maps_without_a_difference_are_no_reason_to_look_twice():
    volume = np.random.default_rng(0).normal(size=(8, 9, 10))
    assert plot_volumes([volume, volume], np.eye(4), spec=FIGURES["motion"]).warnings == ()
    blank = plot_volumes([volume, 0 * volume], np.eye(4), spec=FIGURES["motion"]).warnings
    assert ["blank" in warning for warning in blank] == [True]
