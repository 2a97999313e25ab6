import numpy as np
import pytest
import torch

from qsmflow.sim.grids import oblique_affine, voxel_centers
from qsmflow.sim.shapes import Ellipsoid, RandomField, Tube, mirrored, smooth_union


@pytest.fixture(scope="module")
def points():
    return voxel_centers((48, 48, 48), oblique_affine((48, 48, 48), voxel_size=(1, 1, 1)))


def test_ellipsoid_has_its_volume_whatever_its_rotation(points):
    expected = 4 / 3 * np.pi * 6 * 9 * 14
    for rotation in [(0, 0, 0), (30, -40, 70)]:
        distance = Ellipsoid((1, -2, 0.5), (6, 9, 14), rotation).distance(points)
        assert float((0.5 - distance).clamp(0, 1).sum()) == pytest.approx(expected, rel=0.01)


def test_rotation_turns_the_long_axis():
    # 90 degrees about x brings z to -y.
    solid = Ellipsoid((0, 0, 0), (2, 2, 10), (90, 0, 0))
    tips = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    along, across = solid.distance(tips).tolist()
    assert along == pytest.approx(0, abs=1e-4)
    assert across > 5


def test_ellipsoid_is_negative_at_its_very_center():
    assert float(Ellipsoid((0, 0, 0), (3, 4, 5)).distance(torch.zeros(3, 1))) == -3


def test_tube_tapers_and_ends_round():
    tube = Tube(((0, 0, 0), (10, 0, 0), (10, 10, 0)), (1, 3, 3))
    probes = torch.tensor([[5.0, 0, 0], [5, 4, 0], [-4, 0, 0], [10, 10, 7]]).T
    assert tube.distance(probes).tolist() == pytest.approx([-2, 2, 3, 4])


def test_bounds_hold_the_solid(points):
    for solid in [Ellipsoid((2, 3, -4), (3, 5, 12), (20, 50, 10)), Tube(((-9, 2, 0), (8, 8, 8)), (1, 4))]:
        inside = points[:, solid.distance(points) < 0]
        lower, upper = solid.bounds()
        for axis in range(3):
            assert lower[axis] <= inside[axis].min() and inside[axis].max() <= upper[axis]


def test_smooth_union_holds_both_and_is_exact_far_from_the_seam(points):
    left, right = (Ellipsoid((x, 0, 0), (8, 8, 8)).distance(points) for x in (-6, 6))
    union = smooth_union([left, right], blend=2)
    sharp = torch.minimum(left, right)
    assert bool((union <= sharp + 1e-5).all())
    far = (left - right).abs() > 11
    assert float((union - sharp)[far].abs().max()) < 0.02


def test_random_field_repeats():
    field = RandomField.draw_rough(torch.Generator().manual_seed(3), size=64)
    points = torch.tensor([[3.0], [-50.0], [20.0]]).reshape(3, 1, 1, 1)
    assert float(field(points)) == pytest.approx(float(field(points + 64)), abs=1e-4)


def test_random_field_meets_its_lattice():
    field = RandomField.draw_rough(torch.Generator().manual_seed(3), size=32, spacing=1.5)
    nodes = torch.tensor([[1.0], [2.0], [5.0]]).reshape(3, 1, 1, 1) * field.spacing
    assert float(field(nodes)) == pytest.approx(float(field.lattice[1, 2, 5]), abs=1e-4)


def test_rough_field_has_more_of_the_coarse_than_white_noise():
    field = RandomField.draw_rough(torch.Generator().manual_seed(3), size=64, longest=14.0)
    assert float(field.lattice.std()) == pytest.approx(1.0, abs=1e-4)
    power = torch.fft.rfftn(field.lattice).abs() ** 2
    axis, half = torch.fft.fftfreq(64), torch.fft.rfftfreq(64)
    k = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + half**2).sqrt()
    fall = power[(k > 0.2) & (k < 0.24)].mean() / power[(k > 0.4) & (k < 0.48)].mean()
    # Amplitudes fall as wavelength to the power 1.6, powers as its square.
    assert float(fall) == pytest.approx(2**3.2, rel=0.15)


def test_mirror_images(points):
    for solid in [Ellipsoid((9, 3, -4), (3, 5, 9), (20, 50, 10)), Tube(((4, 2, 0), (8, 8, 8)), (1, 4))]:
        right, left = (side.distance(points) for side in mirrored(solid))
        torch.testing.assert_close(left.flip(0), right, atol=1e-3, rtol=1e-3)
