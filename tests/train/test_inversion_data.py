"""Lessons of dipole inversion."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmflow.core.dipole import dipole_field
from qsmflow.core.units import hertz_per_ppm
from qsmflow.train.inversion_data import (
    Measured,
    MeasuredBatches,
    field_lesson,
    find_susceptibilities,
    load_head,
    load_measured,
    measured_lesson,
)
from qsmflow.train.settings import TrainingSettings
from qsmflow.train.splits import split_subjects
from qsmflow.train.volumes import UnusableData


def test_truth_comes_before_other_maps(pairs, changed):
    names = [path.name for path in find_susceptibilities([pairs])]
    assert names == [f"sub-{n:02d}_acq-still_desc-truth_Chimap.nii.gz" for n in range(1, 7)]
    (changed / "sub-01/anat/sub-01_acq-still_desc-truth_Chimap.nii.gz").unlink()
    found = [path.name for path in find_susceptibilities([changed])]
    assert found[:3] == [
        f"sub-01_acq-{rest}_Chimap.nii.gz" for rest in ("motion_run-01", "motion_run-02", "still")
    ]
    with pytest.raises(FileNotFoundError, match="Chimap"):
        find_susceptibilities([changed / "sub-01"])


def test_heads_are_brought_to_one_millimetre(pairs):
    head = load_head(find_susceptibilities([pairs])[0])
    # 16 x 14 x 14 voxels of 1 x 1 x 2 mm.
    assert head.mask.shape[:2] == (16, 14) and abs(head.mask.shape[2] - 28) <= 1
    assert head.labels.dtype == torch.uint8 and not head.labels.any()


def test_field_lesson_learns_from_heads_and_shapes(pairs):
    settings = TrainingSettings(batch_size=2, patch_size=(16, 16, 16))
    lesson = field_lesson(find_susceptibilities([pairs]), settings=settings, seed=0, shapes=True)
    assert len(lesson.stream.makers) == 2 and len(lesson.tests[""]) == 8
    assert lesson.stream.batch(0)["field"].shape == (2, 1, 16, 16, 16)
    assert not torch.equal(lesson.stream.batch(0)["field"], lesson.tests[""][0]["field"])


@pytest.mark.parametrize(("units", "factor"), [("ppm", 1.0), ("Hz", 1 / hertz_per_ppm(3.0))])
def test_measured_field_comes_in_ppm(changed, units, factor):
    truth = find_susceptibilities([changed])[0]
    sidecar = changed / "sub-01/fmap/sub-01_acq-still_desc-local_fieldmap.json"
    sidecar.write_text(json.dumps({"Units": units, "MagneticFieldStrength": 3}))
    measured = load_measured(truth)
    stored = nib.load(sidecar.with_suffix("").with_suffix(".nii.gz")).get_fdata()[2:-2, 2:-2, 1:-1]
    np.testing.assert_allclose(measured.local_field.double(), factor * stored, rtol=1e-3, atol=1e-6)
    assert measured.b0_direction == (0, 0, 1) and measured.voxel_size == (1, 1, 2)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"Units": "rad"}, "Units is 'rad'; must be 'ppm' or 'Hz'"),
        ({"Units": "Hz"}, "MagneticFieldStrength is None"),
        ({}, "Units is None"),
    ],
)
def test_fields_without_units_are_refused(changed, stated, message):
    sidecar = changed / "sub-01/fmap/sub-01_acq-still_desc-local_fieldmap.json"
    sidecar.write_text(json.dumps(stated))
    with pytest.raises(UnusableData, match=message):
        load_measured(find_susceptibilities([changed])[0])


def test_flipped_brains_obey_the_same_equation():
    """The field of an oblique B0 is still that of the map after both were flipped and scaled."""
    torch.manual_seed(0)
    chi = torch.zeros(14, 12, 10)
    chi[4:9, 3:8, 2:7] = torch.randn(5, 5, 5)
    frame = {"voxel_size": (1.0, 1.0, 1.5), "b0_direction": (0.36, 0.48, 0.8)}
    local = dipole_field(chi, padding=(18, 20, 22), **frame)
    mask = torch.ones(chi.shape, dtype=torch.bool)
    stream = MeasuredBatches([Measured("one", local, chi, mask, **frame)], stride=8, augments=True, seed=0)
    for index in range(6):
        batch = stream.batch(index)
        assert batch["field"].shape == (1, 1, 16, 16, 16)
        spectrum = torch.fft.rfftn(batch["susceptibility"][0, 0], s=(24, 24, 24)) * batch["kernel"][0]
        made = torch.fft.irfftn(spectrum, s=(24, 24, 24))[:16, :16, :16] * batch["mask"][0, 0]
        error = (made - batch["field"][0, 0]).norm() / made.norm()
        # What is left is the grid, which wraps the far field around.
        assert error < 0.1


def test_measured_lesson_tests_each_brain_held_out(pairs):
    settings = TrainingSettings(batch_size=1, patch_size=None)
    maps = find_susceptibilities([pairs])
    lesson = measured_lesson(maps, settings=settings, seed=0, stride=8)
    assert len(lesson.tests[""]) == len(split_subjects(path.name.split("_")[0] for path in maps).validation)
