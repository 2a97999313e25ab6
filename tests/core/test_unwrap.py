"""Phase unwrapping: exact without noise, the optimum with it."""

from itertools import product

import nibabel as nib
import numpy as np
import pytest
import torch
from ortools.graph.python.max_flow import SimpleMaxFlow
from scipy.optimize import linprog
from scipy.sparse import coo_array, diags_array, eye_array, hstack, vstack
from skimage.restoration import unwrap_phase as unwrap_by_reliability

from qsmflow.core import unwrap
from qsmflow.core.unwrap import CYCLE, WEIGHT, unwrap_phase

PI = torch.pi


def wrap(phase):
    """Bring a phase into [−π, π)."""
    return torch.remainder(phase + PI, 2 * PI) - PI


def grid(*shape):
    """Voxel coordinates from the centre, float64."""
    return torch.meshgrid(*(torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in shape), indexing="ij")


def neighbour_pairs(mask):
    """Flat indices of the face neighbours in a mask, (pair, 2)."""
    index = np.arange(mask.size).reshape(mask.shape)
    pairs = []
    for axis in range(3):
        both = np.stack([np.delete(index, -1, axis).ravel(), np.delete(index, 0, axis).ravel()], axis=1)
        pairs.append(both[mask.ravel()[both].all(axis=1)])
    return np.concatenate(pairs)


def energy_of(phase, weights, mask):
    """Σ w |Δphase| in float64, summed over the last axis of a flat phase."""
    first, second = neighbour_pairs(mask).T
    weight = weights.ravel()[first] * weights.ravel()[second] / weights[mask].max() ** 2
    return np.abs(phase[..., first] - phase[..., second]) @ weight


def rounded(phase, weights, mask):
    """Steps by voxel and weights by pair as the search rounds them, with the pairs."""
    pairs = neighbour_pairs(mask)
    product = weights.ravel()[pairs].prod(axis=1) / weights[mask].max() ** 2
    return np.rint(phase.ravel() * CYCLE / (2 * np.pi)), np.rint(product * WEIGHT).astype(np.int64), pairs.T


def rounded_energy(found, phase, weights, mask):
    """Energy of an unwrapped phase as the search counts it."""
    steps, weight, (first, second) = rounded(phase, weights, mask)
    steps = steps + CYCLE * np.rint((found - phase).ravel() / (2 * np.pi))
    return (weight * np.abs(steps[first] - steps[second])).sum() * 2 * np.pi / (CYCLE * WEIGHT)


def plain_puma(phase, weights, mask):
    """Least energy by whole cuts from zero cycles, upward moves only, as the paper has it."""
    size = phase.size
    steps, weight, (first, second) = rounded(phase, weights, mask)
    first, second = first.astype(np.int32), second.astype(np.int32)
    cycles = np.zeros(size, dtype=np.int64)
    while True:
        difference = (steps + CYCLE * cycles)[first] - (steps + CYCLE * cycles)[second]
        stay, up, down = (weight * np.abs(difference + shift) for shift in (0, CYCLE, -CYCLE))
        terminal = np.zeros(size)  # rise of the energy by x_first − x_second, pair by pair
        np.add.at(terminal, first, up - stay)
        np.add.at(terminal, second, stay - up)
        solver = SimpleMaxFlow()
        solver.add_arcs_with_capacity(second, first, (up + down - 2 * stay).astype(np.int64))
        node = np.arange(size, dtype=np.int32)
        source, sink = np.full_like(node, size), np.full_like(node, size + 1)
        solver.add_arcs_with_capacity(source, node, np.maximum(-terminal, 0).astype(np.int64))
        solver.add_arcs_with_capacity(node, sink, np.maximum(terminal, 0).astype(np.int64))
        assert solver.solve(size, size + 1) == solver.OPTIMAL
        moved = [voxel for voxel in solver.get_source_side_min_cut() if voxel < size]
        if not moved:
            return stay.sum() * 2 * np.pi / (CYCLE * WEIGHT)
        cycles[moved] += 1


def linear_program(phase, weights, mask, *, most=4):
    """Least energy by a linear program over cycles and pair costs.

    The cost of a pair is the convex line through its values at whole cycles; the program then has a
    solution in whole cycles, since its matrix is that of a network.
    """
    first, second = neighbour_pairs(mask).T
    weight = weights.ravel()[first] * weights.ravel()[second] / weights[mask].max() ** 2
    difference = phase.ravel()[first] - phase.ravel()[second]
    pair = np.arange(first.size)
    ones = np.ones(first.size)
    to_cycles = coo_array((np.r_[ones, -ones], (np.r_[pair, pair], np.r_[first, second])), None).tocsr()
    to_cycles.resize(first.size, phase.size)
    rows, bounds = [], []
    for low in range(-most, most):
        cost = np.abs(difference + 2 * np.pi * low)
        slope = np.abs(difference + 2 * np.pi * (low + 1)) - cost
        rows.append(hstack([diags_array(slope) @ to_cycles, -eye_array(first.size)]))
        bounds.append(slope * low - cost)
    found = linprog(
        np.r_[np.zeros(phase.size), weight],
        A_ub=vstack(rows),
        b_ub=np.concatenate(bounds),
        bounds=(None, None),
        method="highs",
    )
    assert found.success
    return found.fun


def noisy(random):
    x, y, z = (axis.numpy() for axis in grid(15, 13, 12))
    weights = random.uniform(0.05, 1, x.shape)
    return 0.08 * (x**2 - y**2) + 0.5 * z + random.normal(0, 1.5, x.shape), weights, np.ones(x.shape, bool)


def vessels(random):
    """Thin tubes whose phase differs by cycles from what is around them, with little signal at the wall."""
    x, y, z = (axis.numpy() for axis in grid(18, 16, 14))
    phase, weights = 0.4 * x - 0.3 * y, np.ones(x.shape)
    for _ in range(4):
        at, slant = random.uniform(-6, 6, 2), random.uniform(-0.7, 0.7, 2)
        radius = np.hypot(x - at[0] - slant[0] * z, y - at[1] - slant[1] * z)
        phase += random.uniform(-9, 9) * (radius < 1.6)
        weights *= np.where(np.abs(radius - 1.6) < 0.6, 0.3, 1)
    return phase + random.normal(0, 0.7, x.shape), weights, np.ones(x.shape, bool)


def open_ended_fringes(random):
    """Lines once around which the phase gains a cycle: every fringe of them ends inside the volume."""
    x, y, z = (axis.numpy() for axis in grid(17, 15, 10))
    phase = np.zeros(x.shape)
    for sign in (1, -1, 1):
        at, slant = random.uniform(-5, 5, 2), random.uniform(-0.8, 0.8, 2)
        phase += sign * np.arctan2(y - at[1] - slant[1] * z, x - at[0] - slant[0] * z)
    return phase + random.normal(0, 0.3, x.shape), random.uniform(0.5, 1, x.shape), np.ones(x.shape, bool)


def disconnected(random):
    phase, weights, mask = noisy(random)
    mask[7] = False
    mask[:, 6, :5] = False
    return phase, weights, mask & (random.uniform(size=mask.shape) > 0.35)


def air_cavities(random):
    """Dipoles too steep for the grid: sets of voxels that must move by several cycles, nested."""
    x, y, z = (axis.numpy() for axis in grid(20, 18, 16))
    phase, weights, mask = 0.5 * z, np.ones(x.shape), np.ones(x.shape, bool)
    for at in random.uniform(-5, 5, (2, 3)):
        radius = np.sqrt((x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2)
        phase = phase + 25 * (3 * ((z - at[2]) / radius) ** 2 - 1) * (2.5 / np.maximum(radius, 2.5)) ** 3
        weights *= np.clip(radius / 6, 0.1, 1)
        mask &= radius > 2.5
    return phase + random.normal(0, 0.4, x.shape), weights, mask


SCENES = [noisy, vessels, open_ended_fringes, disconnected, air_cavities]


def n_jumps(phase, mask):
    """Neighbour pairs in the mask more than π apart."""
    first, second = neighbour_pairs(mask).T
    return int((np.abs(phase.ravel()[first] - phase.ravel()[second]) > np.pi).sum())


def gaussian():
    x, y, z = grid(46, 40, 36)
    return 20 * PI * torch.exp(-(x**2 + y**2 + z**2) / (2 * 13.0**2)), torch.ones(x.shape, dtype=torch.bool)


def ramp():
    x, y, z = grid(20, 12, 8)
    return 0.98 * PI * (x - y + z), torch.ones(x.shape, dtype=torch.bool)


def gaussian_with_holes():
    truth, _ = gaussian()
    x, y, z = grid(*truth.shape)
    return truth, (x**2 + y**2 + (z / 0.8) ** 2 < 18**2) & ((x - 5) ** 2 + (y - 3) ** 2 + z**2 > 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("field", [gaussian, ramp, gaussian_with_holes])
def test_noise_free_wraps_are_undone_exactly(field, dtype):
    truth, mask = field()
    truth = (truth - truth[mask].median()).to(dtype)
    found = unwrap_phase(wrap(truth), mask=mask)
    assert found.phase.dtype == dtype
    assert torch.allclose(found.phase[mask], truth[mask], atol=1e-5 if dtype == torch.float64 else 1e-4)
    assert not found.phase[~mask].any()
    assert found.converged and found.residual == 0


def test_separate_components_meet_across_the_gap():
    x, y, _ = grid(24, 10, 10)
    truth = (0.9 * x + 0.3 * y).float()
    mask = torch.ones(x.shape, dtype=torch.bool)
    mask[15:17] = False
    truth -= truth[:15].median()
    found = unwrap_phase(wrap(truth), mask=mask)
    assert torch.allclose(found.phase[mask], truth[mask], atol=1e-4)
    assert float(found.phase[17:].median()) > 2 * PI  # a component's own median would be wrong here


def test_weighted_median_lies_in_the_wrapped_range():
    truth = torch.linspace(-30, 30, 61).reshape(61, 1, 1)
    weights = torch.ones_like(truth)
    weights[50:] = 100
    found = unwrap_phase(wrap(truth), weights=weights)
    assert abs(float(found.phase[55])) <= PI
    assert torch.allclose(found.phase - found.phase[0], truth - truth[0], atol=1e-4)


@pytest.mark.parametrize("shape, cycles", [((2, 2, 2), range(-2, 3)), ((3, 2, 2), range(-1, 2))])
@pytest.mark.parametrize("seed", range(5))
def test_energy_is_the_enumerated_optimum(shape, cycles, seed):
    random = np.random.default_rng(seed)
    phase, weights = random.uniform(-np.pi, np.pi, shape), random.uniform(0.1, 1, shape)
    mask = np.ones(shape, dtype=bool)
    choices = np.array(list(product(cycles, repeat=phase.size - 1)))
    candidates = phase.ravel() + 2 * np.pi * np.pad(choices, ((0, 0), (1, 0)))
    found = unwrap_phase(torch.from_numpy(phase), weights=torch.from_numpy(weights))
    best = energy_of(candidates, weights, mask).min()
    assert energy_of(found.phase.numpy().ravel(), weights, mask) == pytest.approx(best, abs=1e-3)
    assert found.energy == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scene", SCENES)
def test_energy_equals_plain_puma_from_zero(scene, seed):
    truth, weights, mask = scene(np.random.default_rng(seed))
    phase = wrap(torch.from_numpy(truth))
    found = unwrap_phase(phase, weights=torch.from_numpy(weights), mask=torch.from_numpy(mask))
    assert found.n_iterations > 0 and found.converged
    least = plain_puma(phase.numpy(), weights, mask)
    assert rounded_energy(found.phase.numpy(), phase.numpy(), weights, mask) == pytest.approx(
        least, rel=1e-12
    )
    assert found.energy == pytest.approx(least, rel=1e-5)
    assert found.energy == pytest.approx(energy_of(found.phase.numpy().ravel(), weights, mask), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scene", SCENES)
def test_energy_equals_that_of_a_linear_program(scene, seed):
    truth, weights, mask = (image[4:11, 5:12, 2:8] for image in scene(np.random.default_rng(seed)))
    phase = wrap(torch.from_numpy(truth))
    found = unwrap_phase(phase, weights=torch.from_numpy(weights.copy()), mask=torch.from_numpy(mask.copy()))
    assert found.converged
    assert found.energy == pytest.approx(linear_program(phase.numpy(), weights, mask), rel=1e-5)


def test_cuts_look_only_around_what_is_left_over(monkeypatch):
    """A dipole in the middle of a smooth volume is settled without the rest of it."""
    x, y, _ = grid(40, 40, 40)
    phase = wrap(0.3 * x + 0.2 * y)
    phase[20, 20, 20] += 2.9
    sizes = []
    region = unwrap._region
    monkeypatch.setattr(unwrap, "_region", lambda *a: sizes.append(a[-1].size) or region(*a))
    assert unwrap_phase(wrap(phase)).converged
    assert len(sizes) > 0 and max(sizes) < 500


def test_noisy_phase_is_congruent_and_the_same_each_time():
    phase = wrap(2 * torch.randn(10, 11, 12))
    mask = torch.rand(phase.shape) > 0.3
    first, second = unwrap_phase(phase, mask=mask), unwrap_phase(phase, mask=mask)
    added = ((first.phase - phase) / (2 * PI))[mask]
    assert torch.allclose(added, added.round(), atol=1e-5)
    assert torch.equal(first.phase, second.phase)
    assert 0 < first.residual < 0.5


def test_weights_put_the_step_where_the_signal_is_weak():
    # once around this loop of voxels the phase gains a cycle, so that one of its pairs must be a step
    mask = torch.ones(3, 3, 1, dtype=torch.bool)
    mask[1, 1] = False
    x, y, _ = grid(3, 3, 1)
    phase = torch.atan2(y, x)
    weights = torch.ones(3, 3, 1)
    weights[0, 1] = weights[0, 2] = 0.1
    found = unwrap_phase(phase, weights=weights, mask=mask).phase
    assert abs(float(found[0, 1] - found[0, 2])) > PI
    assert n_jumps(found.numpy(), mask.numpy()) == 1


def test_running_out_of_steps_is_told():
    phase = wrap(2 * torch.randn(10, 10, 10))
    assert not unwrap_phase(phase, max_steps=1).converged


def test_a_single_voxel_keeps_its_phase():
    phase = torch.full((3, 3, 3), torch.nan)
    phase[1, 1, 1] = 2.5
    found = unwrap_phase(phase, mask=phase.isfinite())
    assert float(found.phase[1, 1, 1]) == 2.5 and float(found.phase.abs().sum()) == 2.5
    assert found.converged and found.energy == 0 and found.residual == 0


CUBE = torch.zeros(3, 3, 3)


@pytest.mark.parametrize(
    "phase, options, message",
    [
        (CUBE[0], {}, "must be"),
        (CUBE, {"mask": CUBE.bool()}, "mask is empty"),
        (CUBE, {"mask": CUBE[:2].bool()}, "differ in shape"),
        (CUBE * torch.nan, {}, "phase is not finite"),
        (CUBE, {"weights": CUBE * torch.nan}, "weights must be finite"),
        (CUBE, {"weights": CUBE - 1}, "not negative"),
        (CUBE, {"weights": CUBE}, "are zero"),
    ],
)
def test_bad_arguments_are_refused(phase, options, message):
    with pytest.raises(ValueError, match=message):
        unwrap_phase(phase, **options)


@pytest.mark.parametrize("name, echo, most", [("small", 0, 0), ("small", 1, 1), ("small2", 0, 4)])
def test_measured_phase_has_few_steps(test_data, name, echo, most):
    # the header's slope is wrong for these phases; what is stored is in rad already
    stored = [
        np.asarray(nib.load(test_data / "romeo_small" / f"{name}_{part}.nii.gz").dataobj.get_unscaled())
        for part in ("Phase", "Mag")
    ]
    phase, magnitude = (np.float32(image.reshape(*image.shape[:3], -1)[..., echo]) for image in stored)
    mask = magnitude > 0.3 * np.percentile(magnitude, 95)
    found = unwrap_phase(
        torch.from_numpy(phase), weights=torch.from_numpy(magnitude), mask=torch.from_numpy(mask)
    )
    by_reliability = np.asarray(unwrap_by_reliability(np.ma.array(phase, mask=~mask), rng=0))
    assert found.converged
    assert n_jumps(found.phase.numpy(), mask) <= min(most, n_jumps(by_reliability, mask))
    congruent = energy_of(by_reliability.ravel(), magnitude, mask)
    assert energy_of(found.phase.numpy().ravel(), magnitude, mask) <= congruent * (1 + 1e-6)
