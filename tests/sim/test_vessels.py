"""Veins: connected, obeying Murray's law, where veins run, the same for the same seed."""

import time

import numpy as np
import pytest
import torch

from qsmflow.sim.template import load_template
from qsmflow.sim.vessels import Atlas, grow_veins

N_SINUSES = 7


def _veins(seed):
    return grow_veins(torch.Generator().manual_seed(seed), template=load_template())


@pytest.fixture(scope="module")
def atlas():
    return Atlas(load_template())


@pytest.fixture(scope="module")
def veins():
    return _veins(0)


def _paths(tubes):
    return [np.array(tube.path) for tube in tubes]


def test_every_vein_starts_on_a_thicker_one(veins):
    radius = {}
    for index, tube in enumerate(veins):
        # A vein's own first point says nothing of the vessel it lies on.
        own = slice(0 if index < N_SINUSES else 1, None)
        for point, r in zip(tube.path[own], tube.radii[own], strict=True):
            radius[point] = max(r, radius.get(point, 0))
    for tube in veins[N_SINUSES:]:
        assert tube.radii[0] <= radius[tube.path[0]]


def test_sinuses_meet(veins):
    superior, straight, inferior, *transverse = veins[:5]
    for tube in (straight, *transverse):
        assert tube.path[0] == superior.path[0]
    assert inferior.path[0] == straight.path[-1]


def test_cubes_of_radii_add_up_at_branchings(veins):
    starts = {}
    for tube in veins[N_SINUSES:]:
        starts.setdefault(tube.path[0], []).append(tube.radii[0])
    checked = 0
    for tube in veins[N_SINUSES:]:
        for k in range(1, len(tube.path) - 1):
            branches = [tube.radii[k + 1], *starts.get(tube.path[k], [])]
            assert tube.radii[k] ** 3 == pytest.approx(sum(r**3 for r in branches), rel=1e-6)
            assert all(branch <= tube.radii[k] * (1 + 1e-9) for branch in branches)
            checked += len(branches) > 1
    assert checked > 200


def test_radii_and_counts(veins):
    sinuses, others = veins[:N_SINUSES], veins[N_SINUSES:]
    assert min(min(t.radii) for t in sinuses) > 0.3 and max(max(t.radii) for t in sinuses) < 4.2
    assert min(min(t.radii) for t in others) >= 0.15 and max(max(t.radii) for t in others) < 1.6
    assert 300 < len(veins) < 1100
    assert sum(len(t.path) - 1 for t in veins) <= 4000


def test_veins_lie_in_the_hull_and_sinuses_just_over_it(veins, atlas):
    inner = np.concatenate([path[1:] for path in _paths(veins[N_SINUSES:])])
    assert atlas.hull(inner).max() < -0.5
    dural = [veins[k] for k in (0, 3, 4)]
    distance = atlas.hull(np.concatenate(_paths(dural)))
    assert distance.min() > -3 and distance.max() < 4


def test_large_veins_run_over_the_surface_and_medullary_ones_in_white_matter(veins, atlas):
    is_thin = [max(t.radii) < 0.2 for t in veins]
    thin = np.concatenate([np.array(t.path)[1:] for t, yes in zip(veins, is_thin, strict=True) if yes])
    assert atlas.tissues(thin)[1].mean() > 0.7
    climbing = [t for t in veins[N_SINUSES:] if max(t.radii) > 0.6 and t.path[0][2] > 40]
    trunks = np.concatenate([np.array(t.path)[1:6] for t in climbing])
    assert len(climbing) >= 8
    assert np.median(atlas.hull(trunks)) > -4


def test_each_hemisphere_has_its_own_cortical_veins(veins):
    for tube in veins[N_SINUSES:]:
        path = np.array(tube.path)[1:]
        # Above the corpus callosum the falx lies between them, and the sinus is 4 mm to each side.
        if path[:, 2].min() > 40:
            assert path[:, 0].min() > -4 or path[:, 0].max() < 4


def test_paths_bend_gently(veins):
    turns = []
    for path in _paths(veins[N_SINUSES:]):
        steps = np.diff(path[1:], axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        assert (lengths > 0).all()
        steps /= lengths[:, None]
        turns.append(np.degrees(np.arccos(np.clip((steps[1:] * steps[:-1]).sum(1), -1, 1))))
    turns = np.concatenate(turns)
    assert np.median(turns) < 20 and np.percentile(turns, 95) < 50


def test_no_straight_spokes(veins):
    """A long vein is longer than the line between its ends."""
    ratios = []
    for path in _paths(veins[N_SINUSES:]):
        length = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
        if length > 40:
            ratios.append(length / np.linalg.norm(path[-1] - path[0]))
    assert len(ratios) > 20
    assert np.median(ratios) > 1.1


def test_seed_decides(veins):
    assert _veins(0) == veins
    other = _veins(1)
    mine, theirs = (np.concatenate(_paths(v[N_SINUSES:])) for v in (veins, other))
    nearest = np.linalg.norm(mine[::20, None] - theirs[None], axis=-1).min(1)
    assert np.median(nearest) > 1.0


def test_quick():
    times = []
    for seed in range(3):
        started = time.thread_time()
        _veins(seed)
        times.append(time.thread_time() - started)
    assert min(times) < 1.0
