"""Volumes in the page: the right value at the right place, small enough, safe inside a script."""

import json
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from qsmflow.reports import viewer
from qsmflow.reports.viewer import LAYERS, build_motion_slider, build_viewer, read_viewer, shrink_viewer
from qsmflow.sim.grids import oblique_affine

SHAPE = (30, 26, 22)


@pytest.fixture(params=["oblique", "flipped and turned"])
def affine(request):
    """Voxel axes that are not the scanner's."""
    if request.param == "oblique":
        return oblique_affine(SHAPE, voxel_size=(2, 2, 3), rotation=(-20, 12, 5), center=(4, -8, 3))
    return np.array([[0, 0, -3, 30], [-2, 0, 0, 25], [0, 2, 0, -21], [0, 0, 0, 1]], dtype=float)


@pytest.fixture
def brain(affine):
    """A ball in the field of view."""
    places = positions(SHAPE, affine)
    centre = nib.affines.apply_affine(affine, (np.array(SHAPE) - 1) / 2)
    return np.linalg.norm(places - centre, axis=-1) < 18


def positions(shape, affine) -> np.ndarray:
    """Scanner coordinates (x, y, z, 3) of all voxels in mm."""
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def by_name(fragment) -> dict:
    return {layer.name: layer for layer in read_viewer(fragment)}


def test_values_are_where_they_were(affine, brain):
    """A field that is linear in scanner space is kept by linear interpolation, up to half a step."""

    def truth(places):
        return places @ (0.004, -0.006, 0.003) + 0.01

    values = truth(positions(SHAPE, affine))
    found = by_name(build_viewer({"susceptibility": values}, affine, mask=brain))["susceptibility"]
    assert np.allclose(found.image.affine[:3, :3], np.diag(np.diag(found.image.affine)[:3]))
    assert np.diag(found.image.affine)[:3].min() > 0
    shown = found.image.get_fdata()
    known = np.isfinite(shown)
    # Only at the border are values taken from the voxels of one side.
    inner = known.copy()
    for axis in range(3):
        for shift in (-2, -1, 1, 2):
            inner &= np.roll(known, shift, axis)
    assert np.count_nonzero(inner) > 800
    half_step = (found.high - found.low) / 254 / 2
    expected = truth(positions(shown.shape, found.image.affine))
    assert np.abs(shown - expected)[inner].max() < 1.01 * half_step
    assert (found.low, found.high) == (2 * found.window[0], 2 * found.window[1])


def test_only_the_magnitude_and_the_mask_are_stored_outside_the_brain(affine, brain):
    ones = np.ones(SHAPE)
    volumes = {"susceptibility": 0.1 * ones, "magnitude": 50 * ones, "local_field": 3 * ones}
    found = by_name(build_viewer(volumes, affine, mask=brain))
    assert list(found) == ["susceptibility", "magnitude", "local_field", "mask"]
    mask = found["mask"].image.get_fdata() == 1
    volume = abs(np.linalg.det(found["mask"].image.affine[:3, :3])) * np.count_nonzero(mask)
    assert volume == pytest.approx(4 / 3 * np.pi * 18**3, rel=0.08)
    for name in ("susceptibility", "local_field"):
        assert np.isnan(found[name].image.get_fdata()).mean() > 0.3
    # Nothing is mixed with the zeros or blanks beside the brain.
    chi = found["susceptibility"].image.get_fdata()
    assert np.allclose(chi[np.isfinite(chi)], 0.1, atol=0.5 * 0.4 / 254 + 1e-6)
    assert np.isfinite(found["magnitude"].image.get_fdata()).mean() > 0.85


def test_values_beyond_the_range_are_held_at_its_end(brain):
    values = np.where(np.arange(brain.size).reshape(SHAPE) % 2000 == 0, 9.0, 0.0)
    found = by_name(build_viewer({"susceptibility": values}, np.eye(4), mask=np.ones(SHAPE)))
    shown = found["susceptibility"].image.get_fdata()
    assert np.nanmax(shown) == pytest.approx(found["susceptibility"].high, abs=1e-6)


def test_values_that_are_not_finite_are_no_values(affine, brain):
    values = np.where(brain, 0.05, np.nan)
    values[15, 13, 11] = np.inf
    shown = by_name(build_viewer({"susceptibility": values}, affine, mask=brain))["susceptibility"]
    finite = shown.image.get_fdata()[np.isfinite(shown.image.get_fdata())]
    assert np.allclose(finite, 0.05, atol=1e-3)


def test_voxels_grow_until_the_data_fits():
    noise = np.random.default_rng(0).normal(size=(40, 40, 20))
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    volumes = {"susceptibility": noise, "magnitude": np.abs(noise)}
    whole = build_viewer(volumes, affine, mask=np.ones(noise.shape))
    built = build_viewer(volumes, affine, mask=np.ones(noise.shape), largest=20_000)
    shrunk = shrink_viewer(whole, largest=20_000)
    for fragment in (built, shrunk):
        data = re.search(r'viewer-data">(.*?)</script>', fragment, re.DOTALL)[1]
        assert 8_000 < len(data) <= 20_000
        spacing = np.diag(read_viewer(fragment)[0].image.affine)
        assert spacing[0] > 1.3
    assert shrink_viewer(whole, largest=len(whole)) == whole
    first, last = read_viewer(whole)[0], read_viewer(shrunk)[0]
    assert (first.low, first.high, first.window) == (last.low, last.high, last.window)


def test_a_whole_head_is_shown_in_about_a_millimetre_and_a_small_part_as_it_is(monkeypatch):
    monkeypatch.setattr(viewer, "MOST_VOXELS", 30**3)
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    for size, spacing in ((20, 0.5), (60, 1.0)):
        ones = np.ones((size, size, size))
        shown = read_viewer(build_viewer({"magnitude": ones}, affine, mask=ones))[0].image
        assert np.diag(shown.affine)[:3] == pytest.approx(spacing, rel=0.06)
        assert np.prod(shown.shape) <= 30**3
        # Nothing is shown that was not scanned.
        assert np.all(np.isfinite(shown.get_fdata()))


def test_data_cannot_end_the_script(monkeypatch):
    evil = replace(LAYERS["susceptibility"], title="</script><b>&")
    monkeypatch.setattr(viewer, "LAYERS", {**LAYERS, "susceptibility": evil})
    fragment = build_viewer({"susceptibility": np.ones((4, 4, 4))}, np.eye(4), mask=np.ones((4, 4, 4)))
    assert fragment.count("<b>") == 0
    assert read_viewer(fragment)[0].title == evil.title
    data = re.search(r'viewer-data">(.*?)</script>', fragment, re.DOTALL)[1]
    assert not set("<>&") & set(data)
    assert json.loads(data)["shape"] == list(read_viewer(fragment)[0].image.shape)


def test_empty_mask_shows_everything():
    values = np.random.default_rng(0).normal(size=(6, 7, 8))
    found = by_name(build_viewer({"susceptibility": values}, np.eye(4), mask=np.zeros(values.shape)))
    assert np.isfinite(found["susceptibility"].image.get_fdata()).sum() == values.size


def test_still_picture_names_planes_window_and_edges(affine, brain):
    text = build_viewer({"susceptibility": 0.05 * brain}, affine, mask=brain)
    for plane in ("axial", "coronal", "sagittal"):
        assert f"Susceptibility, {plane} slice at" in text
    assert "shown from −0.1 to 0.1 ppm" in text
    for letter in "LRAPSI":
        assert f">{letter}</text>" in text


@pytest.mark.parametrize(
    "volumes", [{}, {"phase": np.ones((3, 3, 3))}, {"susceptibility": np.ones((3, 3, 4))}]
)
def test_what_cannot_be_shown_is_refused(volumes):
    with pytest.raises(ValueError, match=r"no volume|unknown|grid"):
        build_viewer(volumes, np.eye(4), mask=np.ones((3, 3, 3)))


def test_fragment_without_data_is_refused():
    with pytest.raises(ValueError, match="holds no data"):
        read_viewer("<p></p>")


def test_slider_shows_the_slices_that_change_most(brain, affine):
    """Both maps in one window, and the slice through the only voxels that differ."""
    before = np.where(brain, 0.05, 0.0)
    after = before.copy()
    after[18:20, 9:11, 12:14] += 0.08
    x, y, z = nib.affines.apply_affine(affine, (18.5, 9.5, 12.5))
    text = build_motion_slider(before, after, affine, mask=brain)
    shown = {axis: int(place.replace("−", "-")) for axis, place in re.findall(r"at ([xyz]) = (\S+) mm", text)}
    assert [shown[axis] for axis in "xyz"] == pytest.approx([x, y, z], abs=2.5)
    assert len(set(re.findall(r"shown from ([^\"]*) ppm", text))) == 1
    assert text.count('class="wipe-pair"') == 3
