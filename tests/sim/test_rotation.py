"""The field of a turned object against what theory says of it."""

import pytest
import torch
from torch.nn import functional

from qsmflow.core.dipole import dipole_field
from qsmflow.core.motion import RigidPose, move_image
from qsmflow.sim.rotation import head_sources, main, rotated_field_difference

SHAPE, VOXEL = (40, 40, 36), (1.0, 1.0, 1.2)


@pytest.fixture(scope="module")
def susceptibility() -> torch.Tensor:
    """Two smooth, elongated sources, ppm."""
    axes = [torch.arange(n).double() * e for n, e in zip(SHAPE, VOXEL, strict=True)]
    x, y, z = torch.meshgrid(*(axis - axis.mean() for axis in axes), indexing="ij")
    first = torch.exp(-(((x - 3) / 4) ** 2 + (y / 3) ** 2 + ((z + 2) / 3) ** 2) / 2)
    second = torch.exp(-(((x + 4) / 3) ** 2 + ((y - 3) / 4) ** 2 + ((z - 1) / 3) ** 2) / 2)
    return 0.1 * first - 0.05 * second


def compare(susceptibility, rotation, *, b0_direction=(0, 0, 1)):
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[10:30, 10:30, 10:26] = True
    return rotated_field_difference(
        susceptibility,
        pose=RigidPose(rotation=rotation),
        mask=mask,
        voxel_size=VOXEL,
        b0_direction=b0_direction,
    )


def test_turning_about_b0_turns_the_field(susceptibility):
    assert compare(susceptibility, (0, 0, 5)).nrmse < 0.1
    assert compare(susceptibility, (5, 0, 0), b0_direction=(1, 0, 0)).nrmse < 0.1


def test_turning_away_from_b0_does_not(susceptibility):
    by_angle = [compare(susceptibility, (angle, 0, 0)) for angle in (2.5, 5, 10)]
    assert by_angle[1].nrmse > 5
    # The dipole turns by twice the angle, so the difference grows with its sine.
    assert by_angle[1].nrmse == pytest.approx(2 * by_angle[0].nrmse, rel=0.03)
    assert by_angle[2].nrmse == pytest.approx(2 * by_angle[1].nrmse, rel=0.06)
    assert by_angle[0].largest < by_angle[1].largest < by_angle[2].largest


def test_turning_the_head_is_turning_b0_the_other_way(susceptibility):
    pose = RigidPose(rotation=(4, -3, 0))
    result = compare(susceptibility, pose.rotation)
    seen_by_the_head = pose.matrix[:3, :3].T @ (0, 0, 1)
    field = dipole_field(susceptibility, voxel_size=VOXEL, b0_direction=seen_by_the_head)
    expected = move_image(field, pose, voxel_size=VOXEL)
    error = (result.field_of_rotated - expected)[result.mask].norm() / expected[result.mask].norm()
    # What is left is the oblique kernel on voxels; the effect is sixty times larger.
    assert float(error) < 4e-3
    assert result.nrmse > 12


def test_sources_of_the_head_end_where_they_should():
    brain, mask, _ = head_sources(3, voxel_size=12)
    beside = functional.max_pool3d(mask.float()[None, None], 5, stride=1, padding=2)[0, 0] == 0
    assert not brain[beside].any()
    assert float(brain[mask].std()) > 0.005
    head, _, _ = head_sources(3, voxel_size=12, whole_head=True)
    # Air makes no field beside air.
    assert float(head.min()) < -8
    assert float((head == 0).double().mean()) > 0.2


def test_the_command_prints_and_draws(tmp_path, capsys):
    picture = tmp_path / "new" / "turned.png"
    main([str(picture), "--voxel-size", "12", "--angle", "5", "--axis", "y"])
    printed = capsys.readouterr().out
    assert "5° about y" in printed
    assert 3 < float(printed.split("brain:")[1].split("%")[0]) < 40
    assert picture.read_bytes()[:4] == b"\x89PNG"
