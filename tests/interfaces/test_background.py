"""What is left of the field once the sources outside are taken away."""

import numpy as np
import torch

from qsmflow.core.background import remove_background
from qsmflow.interfaces.background import RemoveBackground


def test_local_field_is_found_in_the_frame_of_the_image(head, maps, tmp_path):
    inputs = {name: maps[name] for name in ("total_field", "frequency_noise", "mask")}
    found = RemoveBackground(**inputs).run(cwd=str(tmp_path)).outputs
    local = head.read(found.local_field)
    expected = remove_background(
        torch.from_numpy(head.total_field * head.mask).float(),
        noise=torch.from_numpy(head.read(maps["frequency_noise"])),
        mask=torch.from_numpy(head.mask),
        voxel_size=head.voxel_size,
        b0_direction=head.b0_direction,
    )
    np.testing.assert_allclose(local, expected.local_field.numpy(), atol=1e-2)
    inside = head.mask
    assert np.corrcoef(local[inside], head.local_field[inside])[0, 1] > 0.9
    assert local[inside].std() < 0.1 * head.total_field[inside].std()
    assert not local[~head.mask].any()
    record = found.out_record
    assert (record["stage"], record["references"]) == ("Background field removal", ["liu2011pdf"])
    assert record["parameters"] == {"max_steps": 200, "rtol": 0.1}
    assert record["converged"] is True
    assert 0 < record["n_iterations"] < 200
    assert 0 < record["residual"] < 0.5


def test_fewest_steps_are_kept_to(head, maps, tmp_path):
    inputs = {name: maps[name] for name in ("total_field", "frequency_noise", "mask")}
    record = RemoveBackground(**inputs, max_steps=1).run(cwd=str(tmp_path)).outputs.out_record
    assert (record["n_iterations"], record["converged"]) == (1, False)
