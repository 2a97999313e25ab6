"""Spherical mean values against harmonic polynomials and sources known apart."""

import pytest
import torch

from qsmflow.core.background.vsharp import remove_background_vsharp, sphere_radii
from qsmflow.core.dipole import dipole_field

SHAPE = (44, 40, 36)
SPACE = {"voxel_size": (1.0, 1.25, 1.4)}


def axes():
    """Coordinates in mm from the middle of the grid."""
    steps = [
        (torch.arange(size) - size // 2) * edge for size, edge in zip(SHAPE, SPACE["voxel_size"], strict=True)
    ]
    return torch.meshgrid(*steps, indexing="ij")


def ball(radius, centre=(0.0, 0.0, 0.0)):
    """Voxels within a radius of a point, both in mm."""
    return sum((x - c) ** 2 for x, c in zip(axes(), centre, strict=True)) <= radius**2


@pytest.mark.parametrize("name", ["constant", "linear", "mixed"])
def test_harmonic_polynomials_are_removed(name):
    """The mean over any sphere is the value at its centre, with anisotropic voxels, too."""
    x, y, z = axes()
    field = {"constant": 0 * x + 7.0, "linear": x - 2 * z, "mixed": x * y - 0.5 * y * z + x}[name]
    mask = ball(18)
    removal = remove_background_vsharp(field, mask=mask, **SPACE, largest_radius=6)
    assert removal.local_field.abs().max() < 1e-4 * field[mask].abs().max()


def test_curvature_is_not_taken_for_background():
    """x² − y² is harmonic, x² + y² is not: it has the Laplacian of a source."""
    x, y, _ = axes()
    mask, core = ball(18), ball(8)
    options = SPACE | {"mask": mask, "largest_radius": 6}
    kept = remove_background_vsharp(x**2 + y**2, **options).local_field
    lost = remove_background_vsharp(x**2 - y**2, **options).local_field
    assert lost[core].norm() < 0.05 * kept[core].norm()


def test_source_inside_stays():
    """Nine tenths of the field of a small sphere in the middle, beneath a source outside."""
    space = SPACE | {"b0_direction": (0.2, -0.3, 0.9)}
    local = dipole_field(0.2 * ball(3).float(), **space)
    background = dipole_field(9 * ball(5, centre=(0, 21, 0)).float(), **space)
    mask, core = ball(15), ball(9)
    removal = remove_background_vsharp(local + background, mask=mask, **SPACE, largest_radius=8)
    found = removal.local_field[core] - removal.local_field[core].mean()
    truth = local[core] - local[core].mean()
    assert (found - truth).norm() < 0.3 * truth.norm()
    assert float((found * truth).sum() / truth.norm() ** 2) == pytest.approx(0.95, abs=0.1)


def test_mask_loses_the_smallest_radius():
    """Just the voxels stay whose smallest sphere is in the mask; outside them there is nothing."""
    mask = ball(12)
    removal = remove_background_vsharp(
        torch.randn(SHAPE), mask=mask, **SPACE, largest_radius=6, smallest_radius=3
    )
    steps = torch.stack([(x / e).round() for x, e in zip(axes(), SPACE["voxel_size"], strict=True)], dim=-1)
    expected = mask.clone()
    for shift in steps[ball(3)].long().tolist():
        expected &= mask.roll(shift, dims=(0, 1, 2))
    assert torch.equal(removal.mask, expected)
    assert not removal.local_field[~expected].any()


def test_full_frame_has_no_neighbours():
    """Spheres end at the image's edge instead of reaching round to the other side."""
    mask = torch.ones((12, 12, 12), dtype=torch.bool)
    removal = remove_background_vsharp(
        torch.randn(12, 12, 12), mask=mask, voxel_size=(1, 1, 1), largest_radius=3
    )
    assert int(removal.mask.sum()) == 8**3 and removal.mask[2:10, 2:10, 2:10].all()


def test_radii():
    """Both ends, steps of at most the longest edge, never below it."""
    assert sphere_radii(5, 2, voxel_size=(1, 1, 1)) == (5, 4, 3, 2)
    assert sphere_radii(6, 2, voxel_size=(1, 1, 3)) == (6, 3)
    assert sphere_radii(4, 4, voxel_size=(1, 1, 1)) == (4,)
    with pytest.raises(ValueError, match="radii"):
        sphere_radii(2, 3, voxel_size=(1, 1, 1))


def test_refuses_a_mask_too_thin():
    """A sheet of one voxel holds no sphere."""
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[20] = True
    with pytest.raises(ValueError, match="no sphere"):
        remove_background_vsharp(torch.randn(SHAPE), mask=mask, **SPACE)
