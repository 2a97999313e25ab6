"""Unwrapping by graph cuts against scikit-image's by reliability: time, wrong voxels, steps left.

Run as ``python benchmarks/unwrapping.py [--shapes 96x96x96 160x160x96] [--snr 20 5]``. The phase
is that of a head-like ellipsoid above air-filled cavities, some 25 cycles from end to end, with signal
loss where the field is steep and with complex noise. Close to the cavities the true field runs more
than π a voxel: no method can be right there.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import torch
from skimage.restoration import unwrap_phase as unwrap_by_reliability
from torch import Tensor

from qsmflow.core.dipole import dipole_field
from qsmflow.core.unwrap import unwrap_phase

RADIAN_PER_PPM = 2 * math.pi * 127.7 * 0.02  # 3 T, echo time 20 ms
AIR = 9.4  # ppm above tissue

#: Centre and radius of the cavities, as fractions of the half field of view.
CAVITIES = (((0, 0.75, -0.75), 0.3), ((-0.8, -0.1, -0.6), 0.2), ((0.8, -0.1, -0.6), 0.2))


def head(shape: tuple[int, ...], *, snr: float) -> tuple[Tensor, Tensor, Tensor]:
    """True phase (rad), noisy signal and mask, (x, y, z)."""
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
    return phase, torch.polar(magnitude, phase) + noise, mask


def wrong_share(phase: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Share of the voxels in other cycles than the truth, per cent, one common cycle aside."""
    cycles = ((phase - truth)[mask] / (2 * math.pi)).round()
    return 100 * float((cycles != cycles.median()).float().mean())


def n_steps(phase: Tensor, mask: Tensor) -> int:
    """Neighbour pairs in the mask more than π apart."""
    count = 0
    for axis in range(3):
        size = mask.shape[axis] - 1
        both = mask.narrow(axis, 0, size) & mask.narrow(axis, 1, size)
        count += int(((phase.diff(dim=axis).abs() > math.pi) & both).sum())
    return count


def timed(action: Callable):
    """Result of an action, its wall time and its CPU time in s."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Print one row a shape, noise level and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["96x96x96", "160x160x96"])
    parser.add_argument("--snr", type=float, nargs="+", default=[20.0, 5.0])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    row = "{:>12} {:>4} {:>13} {:>7} {:>7} {:>8} {:>7}  {}"
    print(row.format("shape", "SNR", "method", "wall s", "CPU s", "wrong %", "steps", "cuts"))
    for shape, snr in product(arguments.shapes, arguments.snr):
        truth, signal, mask = head(tuple(map(int, shape.split("x"))), snr=snr)
        wrapped, magnitude = signal.angle(), signal.abs()
        masked = np.ma.array(wrapped.numpy(), mask=~mask.numpy())
        by_reliability, *times = timed(partial(unwrap_by_reliability, masked, rng=0))
        rows = [("scikit-image", torch.from_numpy(np.asarray(by_reliability)), times, "")]
        found, *times = timed(partial(unwrap_phase, wrapped, weights=magnitude, mask=mask))
        end = "optimum" if found.converged else "not converged"
        rows.append(("graph cuts", found.phase, times, f"{found.n_iterations}, {end}"))
        for method, phase, (wall, cpu), cuts in rows:
            wrong = f"{wrong_share(phase, truth, mask):.2f}"
            times = f"{wall:.1f}", f"{cpu:.1f}"
            print(row.format(shape, f"{snr:g}", method, *times, wrong, n_steps(phase, mask), cuts))


if __name__ == "__main__":
    main()
