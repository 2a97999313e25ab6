import pytest
import torch
from scipy import ndimage

from qsmflow.sim.template import Lattice, load_template


def test_lattice_interpolates_and_goes_on_beyond_its_ends():
    lattice = Lattice(torch.arange(24.0).reshape(1, 2, 3, 4), (1, 0, -1), 2.0)
    points = torch.tensor([[1.0, 2.0, 90.0], [0.0, 3.0, 90.0], [-1.0, 4.0, 90.0]])
    assert lattice(points)[0].tolist() == pytest.approx([0, 6 + 6 + 2.5, 23])


def test_lattice_is_itself_at_its_points():
    lattice = Lattice(torch.randn(2, 5, 4, 3), (-3, 2, 1), 1.5)
    torch.testing.assert_close(lattice(lattice.points()), lattice.values)


def test_lattice_takes_more_points_than_one_row():
    lattice = Lattice(torch.arange(10.0).reshape(1, 10, 1, 1), (0, 0, 0), 1.0)
    x = torch.linspace(0, 9, 10001)
    torch.testing.assert_close(lattice(torch.stack([x, 0 * x, 0 * x]))[0], x, atol=1e-4, rtol=0)


def test_hull_holds_the_brain_and_bridges_its_sulci():
    template = load_template()
    brain = template.tissues.values[:3].sum(0) > 0.5
    distance = template.hull(template.tissues.points())[0]
    assert float((distance[brain] < 1).float().mean()) > 0.995
    hull = (distance < 0).numpy()
    assert 0.98 * brain.sum() < hull.sum() < 1.2 * brain.sum()
    assert ndimage.label(hull)[1] == 1


def test_hull_measures_distance():
    template = load_template()
    above = template.hull(torch.tensor([[0.0, 0.0], [-20.0, -20.0], [100.0, 110.0]]))[0]
    assert float(above[1] - above[0]) == pytest.approx(10, abs=0.5)
