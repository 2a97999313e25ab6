"""Stored numbers to radians, whatever scanners and converters left behind."""

import math

import nibabel as nb
import numpy as np
import pytest

from qsmflow.bids.phase_range import UnknownPhaseRange, detect_phase_range, scale_phase

TRUTH = np.random.default_rng(0).uniform(-math.pi, math.pi, (12, 12, 12))
TRUTH.flat[:2] = -math.pi, math.pi - 1e-6


def write(folder, values, *, dtype=np.float32, slope=1.0, intercept=0.0, name="phase.nii"):
    """Write numbers as they are, with a scaling beside them that does not belong to the data."""
    header = nb.Nifti1Header()
    header.set_data_dtype(dtype)
    image = nb.Nifti1Image(values.astype(dtype), np.eye(4), header)
    path = folder / name
    nb.save(image, path)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([slope, intercept], "<f4").tobytes()
    path.write_bytes(raw)
    return path


def difference(radians, truth):
    """Largest distance on the circle."""
    return np.abs(np.angle(np.exp(1j * (radians - truth)))).max()


@pytest.mark.parametrize(
    ("name", "per_radian", "origin", "dtype"),
    [
        ("−π … π rad", 1.0, 0.0, np.float32),
        ("0 … 2π rad", 1.0, math.pi, np.float32),
        ("−180 … 180 degrees", 180 / math.pi, 0.0, np.float32),
        ("0 … 360 degrees", 180 / math.pi, 180.0, np.float32),
        ("−2048 … 2047", 2048 / math.pi, 0.0, np.int16),
        ("0 … 4095", 2048 / math.pi, 2048.0, np.uint16),
        ("−1000π … 1000π", 1000.0, 0.0, np.int16),
        ("−4096 … 4095", 4096 / math.pi, 0.0, np.int16),
        ("−32768 … 32767", 32768 / math.pi, 0.0, np.int16),
        ("0 … 65535", 32768 / math.pi, 32768.0, np.uint16),
    ],
)
def test_known_ranges_give_the_phase_back(tmp_path, name, per_radian, origin, dtype):
    # Scanner units count from −π; radians and degrees from 0 are angles as they are.
    truth = TRUTH + math.pi if origin in (math.pi, 180.0) else TRUTH
    values = TRUTH * per_radian + origin
    if dtype != np.float32:
        values = np.floor(values)
    path = write(tmp_path, values, dtype=dtype)
    found = detect_phase_range(path, units="arbitrary")
    radians = scale_phase(path, found)
    assert found.name == name
    assert not found.warnings
    assert radians.dtype == np.float32
    assert np.abs(radians).max() <= math.pi + 1e-6
    assert difference(radians, truth) < (1e-5 if dtype == np.float32 else 1.01 / per_radian)


def test_integers_with_the_vendor_scaling(tmp_path):
    stored = np.floor((TRUTH + math.pi) * 2048 / math.pi)
    path = write(tmp_path, stored, dtype=np.uint16, slope=2.0, intercept=-4096.0)
    found = detect_phase_range(path, units="arbitrary")
    assert (found.name, found.values) == ("−4096 … 4095", "scaled")
    assert difference(scale_phase(path, found), TRUTH) < 2 * math.pi / 4096


def test_slope_that_makes_nonsense_is_ignored_and_told(tmp_path):
    path = write(tmp_path, TRUTH, slope=0.00117)
    found = detect_phase_range(path, units="rad")
    assert (found.name, found.values) == ("−π … π rad", "stored")
    assert "slope" in found.warnings[0]
    assert difference(scale_phase(path, found), TRUTH) < 1e-5


def test_measured_data_with_a_false_slope(test_data):
    path = test_data / "romeo_small" / "small_Phase.nii.gz"
    found = detect_phase_range(path, units="rad")
    assert found.values == "stored" and "0.003674" in found.warnings[0]
    assert math.isclose(np.abs(scale_phase(path, found)).max(), math.pi, rel_tol=1e-6)
    honest = detect_phase_range(test_data / "romeo_small" / "small2_Phase.nii.gz", units="arbitrary")
    assert honest.values == "scaled" and not honest.warnings


def test_units_that_lie_are_told(tmp_path):
    found = detect_phase_range(write(tmp_path, np.floor((TRUTH + math.pi) * 2048 / math.pi)), units="rad")
    assert found.name == "0 … 4095"
    assert "Units is rad" in found.warnings[0]


def test_unwrapped_corner_is_phase_only_if_units_say_so(tmp_path):
    path = write(tmp_path, TRUTH / 3)
    with pytest.raises(UnknownPhaseRange, match="−π … π rad or −180"):
        detect_phase_range(path, units="arbitrary")
    assert detect_phase_range(path, units="rad").name == "−π … π rad"


def test_declared_radians_with_a_slope_are_refused(tmp_path):
    with pytest.raises(UnknownPhaseRange, match="could both be radians"):
        detect_phase_range(write(tmp_path, TRUTH / 3, slope=0.5), units="rad")


@pytest.mark.parametrize("units", ["rad", "arbitrary"])
def test_unwrapped_phase_is_refused(tmp_path, units):
    with pytest.raises(UnknownPhaseRange, match="wrapped phase"):
        detect_phase_range(write(tmp_path, 7 * TRUTH), units=units)


def test_longer_echoes_settle_the_range_of_the_first(tmp_path):
    counts = [np.floor((phase + math.pi) * 2048 / math.pi) for phase in (TRUTH / 3, TRUTH)]
    paths = [write(tmp_path, each, dtype=np.int16, name=f"{n}.nii") for n, each in enumerate(counts)]
    found = detect_phase_range(paths, units="arbitrary")
    assert found.name == "0 … 4095"
    assert difference(scale_phase(paths[0], found), TRUTH / 3) < 2 * math.pi / 4096


def test_echoes_in_different_ranges_are_refused(tmp_path):
    first = write(tmp_path, TRUTH, name="1.nii")
    for second in (
        write(tmp_path, TRUTH * 180 / math.pi, name="2.nii"),
        write(tmp_path, TRUTH, slope=0.001, name="3.nii"),
    ):
        with pytest.raises(UnknownPhaseRange, match="different ranges"):
            detect_phase_range([first, second], units="rad")


def test_a_stray_voxel_does_not_hide_the_range(tmp_path):
    values = np.tile(TRUTH, (1, 1, 2))
    values[3, 3, 3] = 40.0
    found = detect_phase_range(write(tmp_path, values), units="arbitrary")
    assert found.name == "−π … π rad"
    assert "a few voxels" in found.warnings[0]
