"""Registration to a reference scan and scores against it."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from qsmflow.core.metrics import scores
from qsmflow.core.registration import resample
from qsmflow.interfaces.comparison import ComputeMetrics
from qsmflow.interfaces.registration import RegisterToReference


@pytest.fixture(scope="module")
def motion() -> np.ndarray:
    """Where the head has gone: a turn by 4 degrees and a shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec([0.0, 0.0, 4.0], degrees=True).as_matrix()
    matrix[:3, 3] = (3.0, -2.0, 1.0)
    return matrix


@pytest.fixture(scope="module")
def magnitudes(head, motion) -> dict[str, str]:
    """A magnitude that looks the same in no two positions, lying still and moved, and masks."""
    texture = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=head.mask.shape), 1.5)
    image = torch.from_numpy((head.magnitude * (1 + 3 * texture)).astype(np.float32))
    grid = {"affine": head.affine, "like_shape": image.shape, "like_affine": head.affine}
    moved = resample(image, matrix=motion, **grid).numpy()
    inside = resample(torch.from_numpy(head.mask), matrix=motion, interpolation="nearest", **grid).numpy()
    return {
        "reference": head.write("still", image.numpy()),
        "reference_mask": head.write("still-mask", head.mask, dtype=np.uint8),
        "magnitude": head.write("moved", moved),
        "mask": head.write("moved-mask", inside, dtype=np.uint8),
    }


@pytest.fixture(scope="module")
def registered(magnitudes, tmp_path_factory):
    return RegisterToReference(**magnitudes).run(cwd=tmp_path_factory.mktemp("registered")).outputs


def test_the_motion_is_found(registered, motion):
    found = np.array(registered.matrix)
    np.testing.assert_allclose(found @ motion, np.eye(4), atol=0.3)  # mm; voxels of 4 mm and more
    assert registered.pose["rotation"] == pytest.approx(4.0, abs=0.4)
    assert registered.out_record["converged"]


def test_itk_reads_the_transform_as_where_a_point_of_the_reference_comes_from(registered):
    transform = sitk.ReadTransform(registered.transform)
    point = np.array([10.0, -20.0, 30.0])  # of the reference, RAS
    flip = np.array([-1.0, -1.0, 1.0])
    came_from = flip * transform.TransformPoint((flip * point).tolist())
    expected = nib.affines.apply_affine(np.linalg.inv(registered.matrix), point)
    np.testing.assert_allclose(came_from, expected, atol=1e-4)


@pytest.fixture(scope="module")
def compared(head, maps, tmp_path_factory):
    """Two maps on the grid of the reference: one off by noise, one by half of it."""
    noise = np.random.default_rng(0).normal(0, 0.02, head.mask.shape) * head.mask
    truth = head.susceptibility * head.mask
    stage = ComputeMetrics(
        susceptibility=head.write("noisy", truth + noise),
        corrected=head.write("less-noisy", truth + noise / 2),
        mask=maps["mask"],
        reference=maps["susceptibility"],
        reference_mask=maps["mask"],
        matrix=np.eye(4).tolist(),
    )
    return stage.run(cwd=tmp_path_factory.mktemp("compared")).outputs


def test_scores_are_those_of_the_maps(compared, head):
    uncorrected, corrected = compared.rows
    assert [uncorrected["map"], corrected["map"]] == ["uncorrected", "corrected"]
    assert uncorrected["voxels"] == head.mask.sum()
    assert uncorrected["rmse"] == pytest.approx(2 * corrected["rmse"], rel=1e-4)
    reference, first, *_ = (torch.from_numpy(nib.load(path).get_fdata()) for path in compared.volumes)
    again = scores(first, reference, mask=torch.from_numpy(head.mask), voxel_size=head.voxel_size)
    assert {name: uncorrected[name] for name in again} == pytest.approx(again, rel=1e-6)


def test_the_figure_gets_maps_and_differences(compared):
    assert compared.labels == [
        *("reference", "uncorrected", "corrected"),
        *("uncorrected − reference", "corrected − reference"),
    ]
    reference, first, _, difference, _ = (nib.load(path).get_fdata() for path in compared.volumes)
    np.testing.assert_allclose(difference, first - reference, atol=1e-6)


def test_without_a_corrected_map_there_is_one_row_and_a_map_may_equal_the_reference(maps, tmp_path):
    stage = ComputeMetrics(
        susceptibility=maps["susceptibility"],
        mask=maps["mask"],
        reference=maps["susceptibility"],
        reference_mask=maps["mask"],
        matrix=np.eye(4).tolist(),
    )
    found = stage.run(cwd=tmp_path).outputs
    (row,) = found.rows
    assert row["rmse"] < 1e-6
