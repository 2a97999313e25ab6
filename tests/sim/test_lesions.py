"""Lesions: as many as asked for, in their tissue, apart from one another."""

import numpy as np
import pytest
import torch

from qsmflow.sim.lesions import Lesion, LesionCounts, Shell, physiologic_calcifications, place_lesions
from qsmflow.sim.shapes import Ellipsoid
from qsmflow.sim.template import load_template
from qsmflow.sim.vessels import Atlas, ventricle_axis

COUNTS = LesionCounts(microbleeds=12, calcifications=6, iron_lesions=6)


def _place(seed, counts=COUNTS, **kwargs):
    return place_lesions(torch.Generator().manual_seed(seed), counts, template=load_template(), **kwargs)


@pytest.fixture(scope="module")
def lesions():
    return _place(0)


@pytest.fixture(scope="module")
def atlas():
    return Atlas(load_template())


def _ball(lesion):
    solid = getattr(lesion.solid, "solid", lesion.solid)
    return np.array(solid.center), max(solid.semiaxes)


def _of(lesions, tissue):
    return [lesion for lesion in lesions if lesion.tissue == tissue]


def test_as_many_as_asked_for(lesions):
    tissues = ("microbleed", "calcification", "iron lesion")
    assert [len(_of(lesions, tissue)) for tissue in tissues] == [12, 6, 6]
    assert _place(0, LesionCounts()) == ()


def test_disjoint(lesions):
    everything = _place(3, COUNTS, beside=lesions) + lesions
    centers, radii = (np.array(x) for x in zip(*map(_ball, everything), strict=True))
    gaps = np.linalg.norm(centers[:, None] - centers, axis=-1) - radii[:, None] - radii
    assert gaps[~np.eye(len(radii), dtype=bool)].min() > 0.9


def test_inside_the_brain(lesions, atlas):
    for center, radius in map(_ball, lesions):
        around = center + radius * np.concatenate([np.eye(3), -np.eye(3)])
        assert atlas.hull(around).max() < 0


def test_microbleeds_in_the_parenchyma_lobar_and_deep(atlas):
    centers = np.array([_ball(x)[0] for x in _place(1, LesionCounts(microbleeds=60))])
    assert atlas.tissues(centers)[:2].sum(0).min() >= 0.7
    lobar = (atlas.hull(centers) > -25).mean()
    assert 0.45 < lobar < 0.95


def test_iron_lesions_are_rims_in_periventricular_white_matter(lesions, atlas):
    axis = np.concatenate([ventricle_axis(np.linspace(0, 1, 200), side=side)[0] for side in (1, -1)])
    for lesion in _of(lesions, "iron lesion"):
        center, radius = _ball(lesion)
        assert isinstance(lesion.solid, Shell) and 1 <= lesion.solid.thickness <= 1.8
        assert 3 <= radius < 16
        assert atlas.tissues(center[None])[1] >= 0.9
        assert np.linalg.norm(axis - center, axis=1).min() < 26.5
        core = lesion.solid.distance(torch.tensor(center, dtype=torch.float32)[:, None])
        assert float(core) > 0


def test_sizes_and_strengths(lesions):
    assert len({lesion.strength for lesion in lesions}) == len(lesions)
    assert all(0.3 < lesion.strength < 2 for lesion in lesions)
    for lesion in _of(lesions, "microbleed"):
        assert 1.0 <= np.prod(lesion.solid.semiaxes) ** (1 / 3) <= 3.5


def test_shell_is_a_rim():
    shell = Shell(Ellipsoid((1, 2, 3), (6, 6, 6)), 2.0)
    points = torch.tensor([[1.0, 7.0, 8.5, 5.5], [2.0] * 4, [3.0] * 4])
    torch.testing.assert_close(shell.distance(points)[1:], torch.tensor([-1.0, 0.5, 0.5]))
    assert shell.distance(points)[0] > 0
    assert shell.bounds() == ((-6.0, -5.0, -4.0), (8.0, 9.0, 10.0))


def test_seed_decides(lesions):
    assert _place(0) == lesions
    assert _place(1) != lesions


def test_too_many_are_refused():
    with pytest.raises(ValueError, match=r"room for \d+ of 400 iron lesions"):
        _place(0, LesionCounts(iron_lesions=400))
    with pytest.raises(ValueError, match="microbleeds is -1"):
        LesionCounts(microbleeds=-1)


def test_physiologic_calcifications_are_as_frequent_as_published(atlas):
    drawn = [physiologic_calcifications(torch.Generator().manual_seed(seed)) for seed in range(300)]
    pineal = [x for lesions in drawn for x in lesions if x.tissue == "pineal gland"]
    # 75 %, give or take three standard errors.
    assert abs(len(pineal) / 300 - 0.75) < 0.075
    assert all(isinstance(lesion, Lesion) for lesion in pineal)
    centers = np.array([lesion.solid.center for lesion in pineal])
    np.testing.assert_allclose(centers.mean(0), (0, -30, 1), atol=0.3)
    right = np.array([x.solid.center for lesions in drawn for x in lesions if x.solid.center[0] > 10])
    assert atlas.tissues(right)[2].mean() > 0.4
