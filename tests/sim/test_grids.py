import numpy as np
import torch

from qsmflow.core.dipole import b0_direction
from qsmflow.sim.grids import block_mean, box_indices, enlarged, oblique_affine, refined, voxel_centers


def test_oblique_affine_tilts_b0_and_keeps_the_middle():
    shape = (10, 12, 14)
    affine = oblique_affine(shape, voxel_size=(1, 2, 3), rotation=(30, 0, 0), center=(5, 6, 7))
    # The slab is turned by +30 degrees about x, so B0 turns by -30 degrees in its axes.
    np.testing.assert_allclose(b0_direction(affine), (0, 0.5, np.sqrt(3) / 2), atol=1e-12)
    np.testing.assert_allclose(affine @ [4.5, 5.5, 6.5, 1], [5, 6, 7, 1], atol=1e-12)


def test_fine_voxels_average_to_coarse_centers():
    shape, affine = (4, 6, 8), oblique_affine((4, 6, 8), voxel_size=(1, 2, 3), rotation=(10, 20, 30))
    for factor in (2, (1, 2, 3)):
        fine = voxel_centers(*refined(shape, affine, factor=factor))
        assert torch.allclose(block_mean(fine, factor=factor), voxel_centers(shape, affine), atol=1e-5)


def test_block_mean_of_complex_images():
    image = torch.randn(2, 4, 6, 6, dtype=torch.complex64)
    expected = image.reshape(2, 4, 2, 3, 3, 2).mean(dim=(3, 5))
    assert torch.allclose(block_mean(image, factor=(1, 3, 2)), expected, atol=1e-6)


def test_coarser_grid_covers_the_same_block():
    shape, affine = refined((5, 6, 9), np.diag([1.0, 1, 1, 1]), factor=(0.5, 0.5, 1 / 3))
    assert shape == (3, 3, 3)
    np.testing.assert_allclose(affine[:3, 3], (0.5, 0.5, 1))


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
