import pytest
import torch

from qsmflow.sim.atlas import FARTHEST, LEVELS, load_atlas, lofted, outline_distance
from qsmflow.sim.template import load_template


def test_outline_distance_is_that_of_a_notched_square():
    notched = ((0, 0), (10, 0), (10, 10), (5, 5), (0, 10))
    plane = torch.tensor([[5.0, 5.0, 1.0, -3.0], [4.0, 8.0, 5.0, -4.0]])
    distance = outline_distance(notched, plane)
    assert distance.tolist() == pytest.approx([-1.0, 3 / 2**0.5, -1.0, 5.0])


def test_lofting_runs_between_outlines_and_closes_beyond_them():
    small, large = (tuple((s * x, s * y) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))) for s in (4, 8))
    points = torch.zeros(3, 1, 1, 4)
    points[2] = torch.tensor([0.0, 5.0, 10.0, 30.0])
    low, middle, high, beyond = lofted({0: small, 10: large}, points)[0, 0].tolist()
    assert middle == pytest.approx((low + high) / 2)
    assert high < middle < low < 0 < beyond


def test_nuclei_are_mirror_images_of_known_volume():
    atlas = load_atlas()
    distances = dict(zip(atlas.names, atlas.nuclei.values, strict=True))
    # Millilitres of both sides in adults, within a factor that tracings differ by.
    usual = {"putamen": 9.0, "caudate": 7.5, "thalamus": 13.0, "red nucleus": 0.45, "substantia nigra": 0.9}
    for name, volume in usual.items():
        inside = distances[name] < 0
        assert torch.equal(inside, inside.flip(0))
        assert 0.6 * volume < int(inside.sum()) / 1000 < 1.5 * volume


def test_outlines_follow_the_template():
    """Within an outline the template has the grey of the deep nuclei."""
    atlas, template = load_atlas(), load_template()
    points = atlas.nuclei.points()
    intensity = template.tissues(points)[3]
    for name in ("putamen", "caudate"):
        distance = atlas.nuclei.values[atlas.names.index(name)]
        inside, around = intensity[distance < -0.5], intensity[(distance > 1) & (distance < 2)]
        assert 0.66 < float(inside.mean()) < 0.77
        # Fluid on one side, white matter on the other: around it, the template is less even.
        assert float(inside.std()) < 0.6 * float(around.std())


def test_levels_are_bounded_and_tell_the_tissues_apart():
    atlas = load_atlas()
    assert atlas.levels.values.shape[0] == len(LEVELS)
    level = dict(zip(LEVELS, atlas.levels.values, strict=True))
    assert float(level["white"].abs().max()) <= FARTHEST + 1.5
    callosum, ventricle = torch.tensor([0.0, 27.0, 6.0]), torch.tensor([-9.0, 0.0, 20.0])
    at_callosum, at_ventricle = (
        dict(zip(LEVELS, atlas.levels(p), strict=True)) for p in (callosum, ventricle)
    )
    assert at_callosum["white"] < -1 and at_callosum["callosum"] > 0.8
    assert at_ventricle["fluid"] < -1
