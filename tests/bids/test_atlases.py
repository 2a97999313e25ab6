"""Label images for acquisitions."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.atlases import find_atlases
from qsmflow.bids.findings import InputProblem


def _scan(subject: str = "01", session: str | None = None, **entities) -> Acquisition:
    return Acquisition(subject, session, entities, "MEGRE", ())


def _labels(path: Path, *, values=(0, 1, 2), shape=(3, 1, 1), dtype=np.int16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.reshape(np.array(values, dtype), shape), np.eye(4)), path)
    return path


def test_labels_of_the_subject_fit_if_no_entity_disagrees(tmp_path):
    folder = tmp_path / "sub-01" / "ses-1" / "anat"
    own = _labels(folder / "sub-01_ses-1_dseg.nii.gz")
    _labels(folder / "sub-01_ses-1_space-MNI152_dseg.nii.gz")
    _labels(folder / "sub-01_ses-1_acq-other_dseg.nii.gz")
    _labels(tmp_path / "sub-02" / "anat" / "sub-02_dseg.nii.gz")
    scans = [_scan(session="1"), _scan(session="2")]
    found = find_atlases(tmp_path, scans)
    assert [each.labels for each in found[scans[0].name]] == [own]
    assert found[scans[0].name][0].name == "dseg"
    assert found[scans[0].name][0].template is None
    assert found[scans[1].name] == ()


def test_names_come_from_the_table_beside(tmp_path):
    path = _labels(tmp_path / "sub-01" / "anat" / "sub-01_seg-nuclei_dseg.nii")
    path.with_suffix(".tsv").write_text("index\tname\n1\tcaudate\n2\tputamen\n")
    (atlas,) = find_atlases(tmp_path, [_scan()])["sub-01"]
    assert atlas.name == "nuclei"
    assert atlas.names == {1: "caudate", 2: "putamen"}


def test_labels_of_a_template_need_its_brain(tmp_path):
    labels = _labels(tmp_path / "tpl-A" / "tpl-A_res-01_atlas-Nuclei_dseg.nii.gz")
    _labels(tmp_path / "tpl-B" / "tpl-B_atlas-Lonely_dseg.nii.gz")
    for suffix in ("T1w", "T2star"):
        brain = _labels(tmp_path / "tpl-A" / f"tpl-A_res-01_desc-brain_{suffix}.nii.gz")
    found = find_atlases(tmp_path, [_scan("01"), _scan("02")])
    for atlases in found.values():
        assert [(each.name, each.labels, each.template) for each in atlases] == [("Nuclei", labels, brain)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"values": (0, 0.5, 1), "dtype": np.float32}, "whole numbers"),
        ({"values": (0, 1, 2, 3), "shape": (1, 1, 2, 2)}, "one volume"),
    ],
)
def test_what_is_no_label_image_is_refused(tmp_path, given, words):
    path = _labels(tmp_path / "sub-01" / "anat" / "sub-01_dseg.nii.gz", **given)
    with pytest.raises(InputProblem, match=words) as error:
        find_atlases(tmp_path, [_scan()])
    assert str(path) in str(error.value)


def test_damaged_files_are_named(tmp_path):
    path = _labels(tmp_path / "sub-01" / "anat" / "sub-01_dseg.nii.gz")
    table = path.with_name("sub-01_dseg.tsv")
    table.write_text("label,name\n1,caudate\n")
    with pytest.raises(InputProblem, match=r"sub-01_dseg\.tsv.*'index'"):
        find_atlases(tmp_path, [_scan()])
    table.unlink()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputProblem, match="cannot be read"):
        find_atlases(tmp_path, [_scan()])


@pytest.mark.parametrize(
    ("values", "words"), [((0, 1, 1e20), "up to 2147483647"), ((0, 1, np.inf), "up to 2147483647")]
)
def test_labels_that_no_number_holds_are_refused(tmp_path, values, words):
    _labels(tmp_path / "sub-01" / "anat" / "sub-01_dseg.nii.gz", values=values, dtype=np.float64)
    with pytest.raises(InputProblem, match=words):
        find_atlases(tmp_path, [_scan()])


@pytest.mark.parametrize(
    ("brain", "words"),
    [
        ({"values": (0, 0, 0)}, "every voxel is 0"),
        ({"values": (0, np.nan, 1), "dtype": np.float32}, "1 voxels are NaN"),
        ({"values": (0, 1, 2, 3), "shape": (1, 1, 2, 2)}, "not one volume"),
        (None, "no NIfTI image"),
    ],
)
def test_a_template_without_a_brain_is_refused(tmp_path, brain, words):
    _labels(tmp_path / "tpl-A" / "tpl-A_dseg.nii.gz")
    path = tmp_path / "tpl-A" / "tpl-A_desc-brain_T1w.nii.gz"
    if brain is None:
        path.write_bytes(b"no image")
    else:
        _labels(path, **brain)
    with pytest.raises(InputProblem, match=words) as error:
        find_atlases(tmp_path, [_scan()])
    assert str(path) in str(error.value)


@pytest.mark.parametrize("row", ["1", f"1\t{'x' * 200_000}"])
def test_rows_of_a_table_that_name_nothing_are_refused(tmp_path, row):
    path = _labels(tmp_path / "sub-01" / "anat" / "sub-01_dseg.nii.gz")
    path.with_name("sub-01_dseg.tsv").write_text(f"index\tname\n{row}\n")
    with pytest.raises(InputProblem, match=r"sub-01_dseg\.tsv.*'index'"):
        find_atlases(tmp_path, [_scan()])


def test_two_images_of_one_name_are_refused(tmp_path):
    for extension in (".nii", ".nii.gz"):
        _labels(tmp_path / "sub-01" / "anat" / f"sub-01_dseg{extension}")
    with pytest.raises(InputProblem, match="several label images called 'dseg'"):
        find_atlases(tmp_path, [_scan()])
