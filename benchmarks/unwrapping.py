"""Unwrapping by graph cuts against scikit-image's by reliability: time, wrong voxels, energy, memory.

Run as ``python benchmarks/unwrapping.py [--shapes 96x96x96 160x160x96 256x256x128] [--snr 20 5]``. Problems:

- "last echo": the phase of the last echo of the simulated comparison problem, weighted by its magnitude;
- "frequency": the fitted frequency of all echoes, its period a cycle, weighted by their combined magnitude;
- "cavities": a head-like ellipsoid above air-filled cavities, some 25 cycles from end to end, with signal
  loss where the field is steep and with complex noise. Close to the cavities the true field runs more than
  π a voxel: no method can be right there.

Wrong are voxels in other cycles than the truth. Peak memory is counted in volumes of float32 above the
inputs, the result included, in the first run of a method; the time is the shortest of ``--repeats`` runs.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from measure import combined_magnitude, measured, simulated, wrong_cycles
from skimage.restoration import unwrap_phase as unwrap_by_reliability
from torch import Tensor

from qsmflow.core.dipole import dipole_field
from qsmflow.core.echoes import fit_echoes
from qsmflow.core.unwrap import unwrap_phase

RADIAN_PER_PPM = 2 * math.pi * 127.7 * 0.02  # 3 T, echo time 20 ms
AIR = 9.4  # ppm above tissue

#: Centre and radius of the cavities, as fractions of the half field of view.
CAVITIES = (((0, 0.75, -0.75), 0.3), ((-0.8, -0.1, -0.6), 0.2), ((0.8, -0.1, -0.6), 0.2))


@dataclass(frozen=True)
class Wrapped:
    """A phase to unwrap, its weights and mask, and the true phase (rad), (x, y, z)."""

    name: str
    phase: Tensor
    weights: Tensor
    mask: Tensor
    truth: Tensor


def cavities(shape: tuple[int, ...], *, snr: float) -> Wrapped:
    """Phase above air-filled cavities, with complex noise."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = (x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 0.9) ** 2 < 1
    susceptibility = torch.zeros(shape)
    for (cx, cy, cz), radius in CAVITIES:
        cavity = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < radius**2
        susceptibility[cavity] = AIR
        mask &= ~cavity
    field = dipole_field(susceptibility, voxel_size=(1, 1, 1), b0_direction=(0, 0, 1))
    phase = RADIAN_PER_PPM * field + 6 * math.pi * (z + 0.3 * x * y + 0.2 * x**2)
    steepness = torch.stack(torch.gradient(phase)).norm(dim=0)
    magnitude = 0.6 + 0.4 * torch.cos(3 * x) * torch.cos(4 * y) * torch.cos(2 * z)
    magnitude = magnitude * torch.sinc((steepness / (2 * math.pi)).clamp(max=1))
    noise = torch.complex(torch.randn(shape), torch.randn(shape)) / snr
    signal = torch.polar(magnitude, phase) + noise
    return Wrapped(f"cavities, SNR {snr:g}", signal.angle(), signal.abs(), mask, phase)


def comparison(shape: tuple[int, ...]) -> Iterator[Wrapped]:
    """The comparison problem of the simulator: its last echo and its fitted frequency."""
    problem = simulated(shape)
    scan, times = problem.scan, problem.protocol.echo_times
    signal, mask = scan.signal, scan.mask
    turn = 2 * math.pi * scan.total_field
    yield Wrapped(
        "last echo", signal[-1].angle(), signal[-1].abs(), mask, turn * times[-1] + scan.phase_offset
    )
    fit = fit_echoes(signal, echo_times=times, mask=mask)
    combined = combined_magnitude(signal)
    radians = 2 * math.pi * fit.frequency / fit.frequency_period
    yield Wrapped("frequency", radians, combined, mask, turn / fit.frequency_period)


def energy_and_steps(phase: Tensor, problem: Wrapped) -> tuple[float, int]:
    """Energy as the graph cuts have it, and neighbour pairs in the mask more than π apart."""
    mask, weights = problem.mask, problem.weights / problem.weights[problem.mask].max()
    energy, steps = 0.0, 0
    for axis in range(3):
        size = mask.shape[axis] - 1
        both = mask.narrow(axis, 0, size) & mask.narrow(axis, 1, size)
        distance = phase.diff(dim=axis).abs()[both]
        weight = (weights.narrow(axis, 0, size) * weights.narrow(axis, 1, size))[both]
        energy += float((weight.double() * distance).sum())
        steps += int((distance > math.pi).sum())
    return energy, steps


def by_reliability(problem: Wrapped) -> tuple[Tensor, str]:
    """Unwrap with scikit-image, which knows no weights."""
    masked = np.ma.array(problem.phase.numpy(), mask=~problem.mask.numpy())
    return torch.from_numpy(np.asarray(unwrap_by_reliability(masked, rng=0))), ""


def by_graph_cuts(problem: Wrapped) -> tuple[Tensor, str]:
    """Unwrap with our own, and tell how it ended."""
    found = unwrap_phase(problem.phase, weights=problem.weights, mask=problem.mask)
    return found.phase, f"{found.n_iterations}, {'optimum' if found.converged else 'not converged'}"


METHODS = {"scikit-image": by_reliability, "graph cuts": by_graph_cuts}


def problems(shapes: list[str], snrs: list[float]) -> Iterator[Wrapped]:
    """All problems, one in memory at a time."""
    for text in shapes:
        shape = tuple(map(int, text.split("x")))
        yield from comparison(shape)
        yield from (cavities(shape, snr=snr) for snr in snrs)


def main() -> None:
    """Print one row a problem and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["96x96x96", "160x160x96", "256x256x128"])
    parser.add_argument("--snr", type=float, nargs="*", default=[20.0, 5.0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    row = "{:>12} {:>16} {:>13} {:>7} {:>8} {:>8} {:>12} {:>8}  {}"
    heads = ("shape", "problem", "method", "s", "wrong %", "steps", "energy", "volumes", "cuts")
    print(row.format(*heads))
    for problem in problems(arguments.shapes, arguments.snr):
        shape = "x".join(map(str, problem.mask.shape))
        for method, unwrap in METHODS.items():
            runs = [measured(lambda run=unwrap, on=problem: run(on)) for _ in range(arguments.repeats)]
            phase, cuts = runs[0].value
            energy, steps = energy_and_steps(phase, problem)
            volumes = runs[0].peak / (4 * problem.mask.numel())
            seconds = f"{min(run.seconds for run in runs):.2f}"
            wrong = f"{wrong_cycles(phase, problem.truth, problem.mask):.3f}"
            numbers = seconds, wrong, steps, f"{energy:.1f}", f"{volumes:.1f}"
            print(row.format(shape, problem.name, method, *numbers, cuts), flush=True)


if __name__ == "__main__":
    main()
