"""Phase unwrapping: exact without noise, the optimum with it."""

from itertools import product

import nibabel as nib
import numpy as np
import pytest
import torch
from ortools.graph.python.max_flow import SimpleMaxFlow
from skimage.restoration import unwrap_phase as unwrap_by_reliability

from qsmflow.core.unwrap import unwrap_phase

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


def plain_puma(phase, weights):
    """Least energy by whole cuts from zero cycles, upward moves only, as the paper has it."""
    shape, size = phase.shape, phase.size
    first, second = neighbour_pairs(np.ones(shape, dtype=bool)).T.astype(np.int32)
    weight = np.rint(weights.ravel()[first] * weights.ravel()[second] / weights.max() ** 2 * 2**16)
    cycle = 2**16
    steps = np.rint(phase.ravel() * cycle / (2 * np.pi)).astype(np.int64)
    cycles = np.zeros(size, dtype=np.int64)
    while True:
        difference = (steps + cycle * cycles)[first] - (steps + cycle * cycles)[second]
        stay, up, down = (weight * np.abs(difference + shift) for shift in (0, cycle, -cycle))
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
            return stay.sum() * 2 * np.pi / 2**32
        cycles[moved] += 1


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


@pytest.mark.parametrize("noise", [1.0, 1.5, 3.0])
def test_energy_equals_plain_puma_from_zero(noise):
    x, y, z = grid(12, 12, 12)
    truth = 0.08 * (x**2 - y**2) + 0.5 * z
    phase = wrap(truth + noise * torch.randn(x.shape, dtype=torch.float64))
    weights = torch.rand(x.shape, dtype=torch.float64) + 0.05
    found = unwrap_phase(phase, weights=weights)
    assert found.n_iterations > 1 and found.converged
    assert found.energy == pytest.approx(plain_puma(phase.numpy(), weights.numpy()), rel=1e-12)


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
