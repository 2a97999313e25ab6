import numpy as np
import pytest
import torch

from qsmflow.sim.grids import oblique_affine, voxel_centers
from qsmflow.sim.template import Lattice
from qsmflow.sim.warp import (
    FIELD_SHAPE,
    FIELD_SPACING,
    MEAN_STRETCH,
    Knots,
    Warp,
    draw_smooth_fields,
    draw_warp,
)


@pytest.fixture(scope="module")
def warp() -> Warp:
    return draw_warp(torch.Generator().manual_seed(5))


def test_smooth_fields_have_their_wavelength():
    (field,) = draw_smooth_fields(torch.Generator().manual_seed(3), [(24.0, 0.004, 1.0)], channels=1).values
    power = torch.fft.fftn(field).abs() ** 2
    x, y, z = (torch.fft.fftfreq(size, d=FIELD_SPACING) for size in FIELD_SHAPE)
    radius = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2).sqrt()
    assert float((power * radius).sum() / power.sum()) == pytest.approx(1 / 24, rel=0.05)


@pytest.mark.parametrize(("seed", "spread"), [(0, 1.0), (1, 1.0), (2, 3.0)])
def test_warps_never_fold(seed, spread):
    warp = draw_warp(torch.Generator().manual_seed(seed), spread=spread)
    assert float(warp.jacobian().min()) > 0.3


def test_jacobian_of_a_linear_field():
    lattice = Lattice(torch.zeros(3, 5, 5, 5), (0, 0, 0), 2.0)
    x, y, _ = lattice.points()
    lattice.values[0], lattice.values[2] = 0.25 * x + 0.5 * y, 0.1 * x
    expected = np.linalg.det(np.diag([1.1, 0.9, 1.0]) + np.array([[0.25, 0.5, 0], [0, 0, 0], [0.1, 0, 0]]))
    torch.testing.assert_close(
        Warp((1.1, 0.9, 1.0), lattice).jacobian(),
        torch.full((3, 3, 3), float(expected)),
        rtol=1e-5,
        atol=1e-5,
    )


def test_inverse_undoes_the_warp(warp):
    points = 60 * torch.rand(3, 500, generator=torch.Generator().manual_seed(0)) - 30
    assert float((warp(warp.inverse(points)) - points).norm(dim=0).max()) < 0.02


def test_no_spread_is_the_template_in_the_size_of_a_head():
    warp = draw_warp(torch.Generator().manual_seed(1), spread=0)
    points = torch.tensor([[10.0], [-20.0], [30.0]])
    torch.testing.assert_close(warp(points), MEAN_STRETCH * points)


def test_knots_refine_smooth_functions():
    shape = (23, 30, 17)
    affine = oblique_affine(shape, voxel_size=(0.8, 0.8, 1.5), rotation=(20, -10, 5), center=(5, -3, 8))
    knots = Knots.over(shape, affine)

    def function(points):
        x, y, z = points / 6
        return torch.stack([torch.sin(x) * torch.cos(y - z), x * y - z])

    refined = knots.slab(knots.rows(function(knots.points)), 0, shape[0])
    torch.testing.assert_close(refined, function(voxel_centers(shape, affine)), atol=0.02, rtol=0)
    torch.testing.assert_close(knots.slab(knots.rows(function(knots.points)), 4, 9), refined[:, 4:9])


def test_knots_of_a_single_slice():
    affine = oblique_affine((9, 9, 1), voxel_size=(1, 1, 3))
    knots = Knots.over((9, 9, 1), affine)
    torch.testing.assert_close(
        knots.slab(knots.rows(knots.points), 0, 9), voxel_centers((9, 9, 1), affine), atol=1e-4, rtol=0
    )
