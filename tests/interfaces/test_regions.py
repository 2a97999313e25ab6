"""Maps in the regions of a label image."""

import nibabel as nib
import numpy as np
import pytest

from qsmflow.interfaces.regions import MeasureRegions


@pytest.fixture
def inputs(head):
    """Maps of a head with as many as there can be, and labels of two halves on a finer, shifted grid."""
    random = np.random.default_rng(0)
    shape = head.mask.shape
    made = {
        "susceptibility": head.write("regions-chi", random.normal(size=shape)),
        "corrected": head.write("regions-corrected", random.normal(size=shape)),
        "r2star": head.write("regions-r2star", random.normal(size=shape)),
        "magnitude": head.write("regions-magnitude", head.magnitude),
    }
    for name in ("mask", "field_mask"):
        made[name] = head.write(f"regions-{name}", head.mask, dtype=np.uint8)
    return made


def _halves(head, path, *, away: float = 0.0) -> str:
    """Two labels on half the voxel size, either side of the middle of the first axis."""
    fine = np.ones(tuple(2 * size for size in head.mask.shape), np.int16)
    fine[fine.shape[0] // 2 :] = 6
    affine = head.affine @ np.diag([0.5, 0.5, 0.5, 1])
    # Centres of fine voxels lie a quarter of a coarse one beside the centres of those.
    affine[:3, 3] -= head.affine[:3, :3] @ [0.25, 0.25, 0.25]
    affine[:3, 3] += away
    nib.save(nib.Nifti1Image(fine, affine), path)
    return str(path)


def test_every_map_is_measured_in_every_region(head, inputs, tmp_path):
    labels = _halves(head, tmp_path / "labels.nii")
    found = (
        MeasureRegions(atlas="halves", labels=labels, names={6: "right"}, **inputs).run(cwd=tmp_path).outputs
    )
    middle = head.mask.shape[0] // 2
    left, right = head.mask.copy(), head.mask.copy()
    left[middle:], right[:middle] = False, False
    rows = {(row["map"], row["index"]): row for row in found.rows}
    maps = {"Chimap": "susceptibility", "desc-motioncorrected_Chimap": "corrected", "R2starmap": "r2star"}
    assert set(rows) == {(name, index) for name in maps for index in (1, 6)}
    for name, field in maps.items():
        values = nib.load(inputs[field]).get_fdata()
        for index, where in ((1, left), (6, right)):
            row = rows[name, index]
            assert row["mean"] == pytest.approx(values[where].mean(), abs=1e-6)
            assert row["median"] == pytest.approx(np.median(values[where]), abs=1e-6)
            assert row["voxels"] == where.sum()
            volume = abs(np.linalg.det(head.affine[:3, :3])) * where.sum() / 1000
            assert row["volume"] == pytest.approx(volume, rel=1e-5)
    assert rows["Chimap", 6]["name"] == "right"
    assert rows["Chimap", 1]["name"] is None
    carried = np.asarray(nib.load(found.carried).dataobj)
    np.testing.assert_array_equal(carried[head.mask], np.where(left, 1, 6)[head.mask])
    assert found.out_record["figures"]["Regions"] == 2


def test_labels_elsewhere_are_told(head, inputs, tmp_path):
    labels = _halves(head, tmp_path / "labels.nii", away=10_000)
    found = MeasureRegions(atlas="far", labels=labels, **inputs).run(cwd=tmp_path).outputs
    assert found.rows == []
    assert found.carried is None
    assert "no region of labels.nii lies in the brain" in found.out_record["warnings"][0]


def test_maps_that_are_not_there_are_left_out(head, inputs, tmp_path):
    labels = _halves(head, tmp_path / "labels.nii")
    given = inputs | {"corrected": None, "r2star": None}
    found = MeasureRegions(atlas="halves", labels=labels, **given).run(cwd=tmp_path).outputs
    assert {row["map"] for row in found.rows} == {"Chimap"}


def test_a_template_is_registered(head, inputs, tmp_path):
    labels = _halves(head, tmp_path / "labels.nii")
    template = head.write("regions-template", np.where(head.mask, head.magnitude, 0))
    found = (
        MeasureRegions(atlas="halves", labels=labels, template=template, **inputs).run(cwd=tmp_path).outputs
    )
    assert found.out_record["figures"]["MutualInformation"] > 0
    assert "B-spline" in found.out_record["algorithm"]
    carried = np.asarray(nib.load(found.carried).dataobj)[head.mask]
    middle = np.indices(head.mask.shape)[0][head.mask] >= head.mask.shape[0] // 2
    assert (carried == np.where(middle, 6, 1)).mean() > 0.9
