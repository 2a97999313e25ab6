import json

import nibabel as nib
import numpy as np
import pytest

from qsmflow.sim.canvas import LABELS
from qsmflow.train.heads import write_heads


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("heads")
    assert list(write_heads(out, subjects=range(1, 3), edge=6.0)) == ["sub-001", "sub-002"]
    return out


def values(folder, subject, name):
    image = nib.load(folder / f"sub-{subject:03d}" / "anat" / f"sub-{subject:03d}_{name}.nii.gz")
    np.testing.assert_allclose(image.header.get_zooms(), 6.0, rtol=0.02)
    return np.asarray(image.dataobj)


def test_maps_are_zero_outside_the_brain_and_tissue_inside(folder):
    chi, mask, labels = (values(folder, 1, name) for name in ("desc-truth_Chimap", "desc-brain_mask", "dseg"))
    assert 1.0e6 < mask.sum() * 6**3 < 1.9e6
    assert not chi[mask == 0].any() and not labels[mask == 0].any()
    nucleus = np.median(chi[labels == LABELS["putamen"]])
    assert nucleus - np.median(chi[labels == LABELS["white matter"]]) > 0.02


def test_subjects_differ_and_are_made_again_alike(folder, tmp_path):
    first, second = (values(folder, number, "desc-truth_Chimap") for number in (1, 2))
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] < 0.9
    list(write_heads(tmp_path, subjects=range(2, 3), edge=6.0))
    np.testing.assert_array_equal(values(tmp_path, 2, "desc-truth_Chimap"), second)


def test_what_is_there_is_not_made_again(folder):
    path = folder / "sub-001" / "anat" / "sub-001_dseg.nii.gz"
    before = path.stat().st_mtime_ns
    list(write_heads(folder, subjects=range(1, 2), edge=6.0))
    assert path.stat().st_mtime_ns == before


def test_data_set_is_a_derivative(folder):
    assert json.loads((folder / "dataset_description.json").read_text())["DatasetType"] == "derivative"
