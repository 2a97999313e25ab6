"""What is read, and what is refused."""

import nibabel as nib
import numpy as np
import pytest

from qsmflow.train.motion_data import find_pairs, load_pairs
from qsmflow.train.volumes import UnusableData


def test_grids_that_differ_are_named(changed):
    path = changed / "sub-02/anat/sub-02_acq-motion_run-01_Chimap.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata()[:-1], image.affine), path)
    with pytest.raises(UnusableData, match=r"sub-02_acq-still_Chimap.*run-01_Chimap.*different grids"):
        load_pairs(find_pairs([changed]))
    nib.save(nib.Nifti1Image(image.get_fdata(), np.diag([1, 1, 2.1, 1])), path)
    with pytest.raises(UnusableData, match="different affines"):
        load_pairs(find_pairs([changed]))


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_damaged_and_missing_files_are_named(changed, content):
    path = changed / "sub-03/anat/sub-03_acq-motion_run-02_desc-brain_mask.nii.gz"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnusableData, match=path.name):
        load_pairs(find_pairs([changed]))


def test_values_that_are_not_finite_are_refused(changed):
    path = changed / "sub-03/anat/sub-03_acq-still_Chimap.nii.gz"
    image = nib.load(path)
    values = image.get_fdata()
    values[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine), path)
    with pytest.raises(UnusableData, match="not finite"):
        load_pairs(find_pairs([changed]))
