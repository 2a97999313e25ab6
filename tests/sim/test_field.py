import pytest
import torch

from qsmflow.core.dipole import b0_direction, dipole_field
from qsmflow.sim.field import FieldGrids, HeadField
from qsmflow.sim.grids import block_mean, oblique_affine, refined, voxel_centers

BOX = ((-32, -32, -40), (32, 32, 32))
SHAPE = (28, 30, 16)


def balls(shape, affine, *, radius=4.0, number=14):
    """Soft balls of random susceptibility all over the box, some of them across the slab's borders."""
    generator = torch.Generator().manual_seed(4)
    lower, upper = torch.tensor(BOX) * 0.8
    middles = lower + (upper - lower) * torch.rand(number, 3, generator=generator)
    strengths = torch.randn(number, generator=generator)
    points = voxel_centers(shape, affine)
    image = torch.zeros(points.shape[1:])
    for middle, strength in zip(middles, strengths, strict=True):
        distance = (points - middle[:, None, None, None]).norm(dim=0) - radius
        image += strength * torch.sigmoid(-2 * distance)
    return image


def laid_out(voxel_size, rotation):
    """Grids of a slab, and the fine grid over all of the coarse one."""
    affine = oblique_affine(SHAPE, voxel_size=voxel_size, rotation=rotation)
    grids = FieldGrids.around(SHAPE, affine, box=BOX)
    whole = refined(grids.coarse_shape, grids.coarse_affine, factor=grids.factors)
    block = tuple(
        slice(part.start * factor, part.stop * factor)
        for part, factor in zip(grids.block, grids.factors, strict=True)
    )
    return grids, whole, block


@pytest.mark.parametrize("voxel_size", [(1.5, 1.5, 1.5), (1, 1, 3), (4, 4, 4)])
def test_grids_share_their_voxel_faces(voxel_size):
    grids, whole, block = laid_out(voxel_size, (-15, 12, 0))
    fine = voxel_centers(grids.shape, grids.affine)
    assert torch.allclose(voxel_centers(*whole)[:, *block], fine, atol=1e-3)
    coarse = voxel_centers(grids.coarse_shape, grids.coarse_affine)
    assert torch.allclose(block_mean(fine, factor=grids.factors), coarse[:, *grids.block], atol=1e-3)
    scanned = voxel_centers(SHAPE, oblique_affine(SHAPE, voxel_size=voxel_size, rotation=(-15, 12, 0)))
    assert torch.allclose(fine[:, *grids.inner], scanned, atol=1e-3)


@pytest.mark.parametrize(
    ("voxel_size", "rotation"),
    [((1.5, 1.5, 1.5), (0, 0, 0)), ((1, 1, 2), (0, 0, 0)), ((4, 4, 4), (-15, 12, 0))],
)
def test_two_grids_make_the_field_of_one(voxel_size, rotation):
    """Sources in the slab, across its borders and far from it; against one fine grid, padded."""
    grids, whole, block = laid_out(voxel_size, rotation)
    sources, b0 = balls(*whole), b0_direction(grids.affine)
    expected = dipole_field(sources, voxel_size=voxel_size, b0_direction=b0, padding=whole[0])
    operator = HeadField(grids, b0_direction=b0)
    field = operator(sources[block], block_mean(sources, factor=grids.factors))
    error, expected = field[grids.inner] - expected[block][grids.inner], expected[block][grids.inner]
    assert float((error - error.mean()).norm() / expected.norm()) < 0.02


def test_ball_makes_the_field_of_a_dipole():
    """1/3·(a/r)³·(3cos²θ − 1) outside, nothing inside, on an oblique grid."""
    affine = oblique_affine((32, 32, 32), voxel_size=(1, 1, 1), rotation=(30, 20, 0), center=(0.3, 0.2, 0.1))
    grids = FieldGrids.around((32, 32, 32), affine, box=((-30, -30, -30), (30, 30, 30)))
    x, y, z = voxel_centers(*refined(grids.shape, grids.affine, factor=2))
    distance = (x**2 + y**2 + z**2).sqrt()
    ball = block_mean((0.5 - (distance - 8) * 2).clamp(0, 1), factor=2)
    field = HeadField(grids, b0_direction=b0_direction(affine))(ball)[grids.inner]
    x, y, z = voxel_centers((32, 32, 32), affine)
    distance = (x**2 + y**2 + z**2).sqrt()
    expected = (8 / distance) ** 3 * (3 * (z / distance) ** 2 - 1) / 3
    outside = (distance > 9.5) & (distance < 14)
    assert float((field - expected)[outside].norm() / expected[outside].norm()) < 0.01
    assert float(field[distance < 6.5].square().mean().sqrt()) < 0.003


def test_direction_of_b0_is_independent_of_the_grid():
    """Turned with the box or turned with B0, the same source makes another field."""
    grids, _, _ = laid_out((2, 2, 2), (0, 0, 0))
    source = torch.zeros(grids.shape)
    middle = tuple((part.start + part.stop) // 2 for part in grids.inner)
    source[middle] = 1
    along_x = HeadField(grids, b0_direction=(1, 0, 0))(source)
    along_z = HeadField(grids, b0_direction=(0, 0, 1))(source)
    i, j, k = middle
    assert along_x[i + 3, j, k] > 0 > along_x[i, j, k + 3]
    assert along_z[i, j, k + 3] == pytest.approx(float(along_x[i + 3, j, k]), rel=0.02)
