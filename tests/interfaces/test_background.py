"""What is left of the field once the sources outside are taken away."""

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmflow.core.background.pdf import remove_background_pdf
from qsmflow.core.background.vsharp import remove_background_vsharp
from qsmflow.interfaces.background import RemoveBackgroundByPDF, RemoveBackgroundByVSHARP
from qsmflow.interfaces.images import geometry, load


@pytest.fixture
def total(head):
    return torch.from_numpy(head.total_field * head.mask).float()


@pytest.fixture
def mask(head):
    return torch.from_numpy(head.mask)


def test_projection_is_the_core_s_in_the_frame_of_the_image(head, maps, mask, tmp_path):
    inputs = {name: maps[name] for name in ("total_field", "frequency_noise", "mask")}
    found = RemoveBackgroundByPDF(**inputs).run(cwd=str(tmp_path)).outputs
    local = head.read(found.local_field)
    # Steps of conjugate gradients amplify how the header rounds the frame, so both take it from there.
    frame = geometry(maps["total_field"])
    expected = remove_background_pdf(
        load(maps["total_field"]),
        noise=load(maps["frequency_noise"]),
        mask=mask,
        voxel_size=frame.voxel_size,
        b0_direction=frame.b0_direction,
    )
    np.testing.assert_array_equal(local, expected.local_field.numpy())
    assert frame.b0_direction == pytest.approx(head.b0_direction, abs=1e-6)
    assert np.corrcoef(local[head.mask], head.local_field[head.mask])[0, 1] > 0.9
    assert local[head.mask].std() < 0.1 * head.total_field[head.mask].std()
    assert not local[~head.mask].any()
    np.testing.assert_array_equal(np.asanyarray(nib.load(found.mask).dataobj) > 0, head.mask)
    record = found.out_record
    assert (record["stage"], record["references"]) == ("Background field removal", ["liu2011pdf"])
    assert record["parameters"]["max_steps"] > 1
    assert (record["n_iterations"], record["converged"]) == (expected.n_iterations, expected.converged)
    assert 0 < record["residual"] < 0.5


def test_fewest_steps_are_kept_to(maps, tmp_path):
    inputs = {name: maps[name] for name in ("total_field", "frequency_noise", "mask")}
    records = [
        RemoveBackgroundByPDF(**inputs, max_steps=steps).run(cwd=str(tmp_path)).outputs.out_record
        for steps in (1, 2)
    ]
    assert [record["converged"] for record in records] == [False, False]
    assert records[0]["n_iterations"] == records[1]["n_iterations"] - 1


def test_spherical_means_leave_a_smaller_mask(head, maps, total, mask, tmp_path):
    inputs = {name: maps[name] for name in ("total_field", "mask")}
    found = RemoveBackgroundByVSHARP(**inputs).run(cwd=str(tmp_path)).outputs
    expected = remove_background_vsharp(total, mask=mask, voxel_size=head.voxel_size)
    np.testing.assert_allclose(head.read(found.local_field), expected.local_field.numpy(), atol=1e-2)
    kept = np.asanyarray(nib.load(found.mask).dataobj) > 0
    np.testing.assert_array_equal(kept, expected.mask.numpy())
    assert 0.2 * head.mask.sum() < kept.sum() < head.mask.sum()
    assert not (kept & ~head.mask).any()
    record = found.out_record
    assert (record["stage"], record["references"]) == (
        "Background field removal",
        ["li2011vsharp", "wu2012vsharp"],
    )
    assert record["parameters"]["threshold"] > 0
