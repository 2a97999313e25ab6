import numpy as np
import torch

from qsmflow.core.dipole import b0_direction
from qsmflow.sim.grids import (
    block_mean,
    box_indices,
    enlarged,
    oblique_affine,
    refined,
    smeared,
    spline_refined,
    voxel_centers,
)


def test_oblique_affine_tilts_b0_and_keeps_the_middle():
    shape = (10, 12, 14)
    affine = oblique_affine(shape, voxel_size=(1, 2, 3), rotation=(30, 0, 0), center=(5, 6, 7))
    # The slab is turned by +30 degrees about x, so B0 turns by -30 degrees in its axes.
    np.testing.assert_allclose(b0_direction(affine), (0, 0.5, np.sqrt(3) / 2), atol=1e-12)
    np.testing.assert_allclose(affine @ [4.5, 5.5, 6.5, 1], [5, 6, 7, 1], atol=1e-12)


def test_fine_voxels_average_to_coarse_centers():
    shape, affine = (4, 6, 8), oblique_affine((4, 6, 8), voxel_size=(1, 2, 3), rotation=(10, 20, 30))
    for factor in (2, 3):
        fine = voxel_centers(*refined(shape, affine, factor=factor))
        assert torch.allclose(block_mean(fine, factor=factor), voxel_centers(shape, affine), atol=1e-5)


def test_coarser_grid_covers_the_same_block():
    shape, affine = refined((5, 6, 8), np.diag([1.0, 1, 1, 1]), factor=0.5)
    assert shape == (3, 3, 4)
    np.testing.assert_allclose(affine[:3, 3], 0.5)


def test_enlarged_grid_holds_the_old_one():
    affine = oblique_affine((4, 4, 4), voxel_size=(1, 2, 3), rotation=(10, 20, 30))
    shape, moved = enlarged((4, 4, 4), affine, before=(1, 2, 3), after=(3, 2, 1))
    inner = voxel_centers(shape, moved)[:, 1:5, 2:6, 3:7]
    assert torch.allclose(inner, voxel_centers((4, 4, 4), affine), atol=1e-5)


def test_box_indices_cover_an_oblique_box():
    shape, affine = (20, 20, 20), oblique_affine((20, 20, 20), voxel_size=(1, 1, 1), rotation=(20, 30, 0))
    first, stop = box_indices(shape, affine, (-3, -2, -4), (2, 3, 1))
    lower, upper = torch.tensor([-3.0, -2, -4]), torch.tensor([2.0, 3, 1])
    points = voxel_centers(shape, affine)
    inside = ((points >= lower[:, None, None, None]) & (points <= upper[:, None, None, None])).all(0)
    indices = inside.nonzero().numpy()
    assert (indices.min(0) >= first).all() and (indices.max(0) < stop).all()


def test_spline_keeps_cubics():
    shape, affine = (7, 8, 9), np.eye(4)
    x, y, z = voxel_centers(shape, affine) / 4
    fine_x, fine_y, fine_z = voxel_centers(*refined(shape, affine, factor=2)) / 4
    spline = spline_refined(x**3 - 2 * x * y**2 + z, factor=2)
    assert torch.allclose(spline, fine_x**3 - 2 * fine_x * fine_y**2 + fine_z, atol=1e-4)


def test_smearing_is_round_and_keeps_the_sum():
    image = torch.zeros(9, 9, 9)
    image[4, 4, 4] = 2.0
    spread = smeared(image)
    assert float(spread.sum()) == 2.0
    offset = torch.arange(9.0) - 4
    for axis in range(3):
        variance = (spread.sum([a for a in range(3) if a != axis]) * offset**2).sum() / 2
        assert float(variance) == 1.0
