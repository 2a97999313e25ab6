"""Images in and out: values, order of the echoes, geometry, and what is no result."""

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmflow.interfaces.images import geometry, load, load_mask, save


def test_geometry_is_the_affine_s(head, maps):
    frame = geometry(maps["mask"])
    assert frame.voxel_size == pytest.approx((4, 4, 5), abs=1e-5)
    assert frame.b0_direction == pytest.approx(head.b0_direction, abs=1e-5)
    assert abs(frame.b0_direction[2]) < 0.95


def test_echoes_come_first(head):
    values = np.random.default_rng(0).normal(size=(*head.mask.shape, 3)).astype(np.float32)
    found = load(head.write("echoes", values))
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    np.testing.assert_array_equal(found.numpy(), np.moveaxis(values, 3, 0))


def test_what_is_saved_is_loaded(head, maps, tmp_path):
    for values in (torch.randn(head.mask.shape, dtype=torch.float64), torch.randn(2, *head.mask.shape)):
        path = save(values, tmp_path / "map.nii.gz", like=maps["mask"])
        head.read(path)
        torch.testing.assert_close(load(path), values.float())


def test_mask_is_saved_as_bytes(head, maps, tmp_path):
    path = save(torch.from_numpy(head.mask), tmp_path / "mask.nii", like=maps["magnitude"])
    np.testing.assert_array_equal(head.read(path, dtype=np.uint8), head.mask)
    np.testing.assert_array_equal(load_mask(path).numpy(), head.mask)


def test_probabilities_become_a_mask(head):
    path = head.write("probability", np.where(head.mask, 0.6, 0.4))
    np.testing.assert_array_equal(load_mask(path).numpy(), head.mask)


def test_scaling_of_the_frame_s_header_is_not_taken_over(head, echoes, tmp_path):
    """The phase files have a slope; a map saved like them must not."""
    head.read(save(torch.ones(head.mask.shape), tmp_path / "map.nii", like=echoes["phase"][0]))


def test_image_without_codes_gets_some(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.float32), None), tmp_path / "bare.nii")
    image = nib.load(save(torch.ones(3, 3, 3), tmp_path / "map.nii", like=tmp_path / "bare.nii"))
    assert int(image.header["sform_code"]) > 0


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "not finite"), (np.inf, "not finite"), (0, "zero everywhere")]
)
def test_what_is_no_result_is_refused(head, maps, tmp_path, value, words):
    values = np.zeros(head.mask.shape, dtype=np.float32)
    values[1, 2, 3] = value
    with pytest.raises(ValueError, match=f"map.nii: .* {words}"):
        save(values, tmp_path / "map.nii", like=maps["mask"])
    assert not list(tmp_path.iterdir())
