"""What the benchmarks share: the comparison problem, wall time with peak memory, counted floors, errors."""

import ctypes
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from qsmflow.core.dipole import b0_direction
from qsmflow.core.units import hertz_per_ppm
from qsmflow.sim.mgre import MgreProtocol, MgreScan, simulate_mgre
from qsmflow.sim.protocols import PROTOCOLS, with_slab
from qsmflow.sim.subject import draw_subject


@dataclass(frozen=True)
class Problem:
    """A simulated scan of the classic protocol with the truth behind it, and its frame.

    Attributes
    ----------
    scan : MgreScan
        Signal and true maps; fields in Hz.
    protocol : MgreProtocol
        How it was scanned.
    voxel_size, b0_direction : tuple of float
        mm; unit vector in voxel axes.
    hertz_per_ppm : float
        Of the field strength.
    """

    scan: MgreScan
    protocol: MgreProtocol
    voxel_size: tuple[float, ...]
    b0_direction: tuple[float, ...]
    hertz_per_ppm: float

    @property
    def frame(self) -> dict[str, tuple[float, ...]]:
        """Keyword arguments of every function that needs the geometry."""
        return {"voxel_size": self.voxel_size, "b0_direction": self.b0_direction}


def simulated(shape: tuple[int, ...], *, seed: int = 1, device: str = "cpu") -> Problem:
    """Comparison problem on any grid; 160×160×96 voxels are of 1 mm, others fill the same field of view."""
    classic = PROTOCOLS["classic"]
    size = [full * edge / n for full, edge, n in zip(classic.shape, classic.voxel_size, shape, strict=True)]
    protocol = with_slab(classic, shape=shape, voxel_size=size)
    scan = simulate_mgre(protocol, subject=draw_subject(seed), seed=seed, device=device)
    return Problem(
        scan,
        protocol,
        protocol.voxel_size,
        b0_direction(protocol.affine),
        hertz_per_ppm(protocol.field_strength),
    )


@dataclass(frozen=True)
class Measured:
    """Outcome of an action.

    Attributes
    ----------
    value : object
        What it returned.
    seconds : float
        Wall time.
    peak : int
        Bytes that it held at once beyond what was there before, its result included.
    highest : int
        Bytes that the process held at once meanwhile, in all; on a graphics card its tensors alone.
    """

    value: object
    seconds: float
    peak: int
    highest: int


def measured(action: Callable, *, device: str = "cpu") -> Measured:
    """Run an action once and watch its time and memory (Linux).

    The memory of a first run is the true one: a library may keep what it got for its second run.
    """
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        # What the allocator keeps of earlier arrays would be used again and not be counted.
        ctypes.CDLL(None).malloc_trim(0)
        # From here on Linux looks for the peak anew.
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    start = time.perf_counter()
    value = action()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    highest = torch.cuda.max_memory_allocated() if on_gpu else _status("VmHWM")
    return Measured(value, seconds, max(highest - before, 0), highest)


def _status(field: str) -> int:
    """Bytes that the kernel notes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def _shortest(action: Callable, *, device: str, repeats: int = 3) -> float:
    action()
    return min(measured(action, device=device).seconds for _ in range(repeats))


@cache
def _seconds_per_byte(device: str) -> float:
    source = torch.ones(2**24, device=device)
    target = torch.empty_like(source)
    return _shortest(lambda: target.copy_(source), device=device) / (2 * source.nbytes)


def copy_seconds(n_bytes: float, *, device: str) -> float:
    """Time to move bytes once, at the bandwidth of a large copy (which reads and writes)."""
    return _seconds_per_byte(device) * n_bytes


@cache
def transform_seconds(shape: tuple[int, ...], *, device: str) -> float:
    """Time of a real transform and its inverse on a grid."""
    image = torch.randn(shape, device=device)
    spectrum = torch.fft.rfftn(image)

    def there_and_back() -> None:
        torch.fft.rfftn(image, out=spectrum)
        torch.fft.irfftn(spectrum, s=shape, out=image)

    return _shortest(there_and_back, device=device)


@contextmanager
def counted_transforms() -> Iterator[Counter]:
    """Count what real transforms, forward and inverse ones, are done on which grid meanwhile."""
    sizes = Counter()
    forward, backward = torch.fft.rfftn, torch.fft.irfftn

    def counting_forward(image, s=None, **options):
        sizes[tuple(s or image.shape)] += 1
        return forward(image, s=s, **options)

    def counting_backward(spectrum, s, **options):
        sizes[tuple(s)] += 1
        return backward(spectrum, s=s, **options)

    with mock.patch("torch.fft.rfftn", counting_forward), mock.patch("torch.fft.irfftn", counting_backward):
        yield sizes


def transforms_seconds(sizes: Counter, *, device: str) -> float:
    """Time that counted transforms take by themselves; one is half of a pair."""
    return sum(count / 2 * transform_seconds(size, device=device) for size, count in sizes.items())


def combined_magnitude(signal: Tensor) -> Tensor:
    """Root of the sum of squares over the echoes, (x, y, z)."""
    return torch.linalg.vector_norm(signal, dim=0)


def deeper_than(mask: Tensor, depth: float, *, voxel_size: tuple[float, ...]) -> Tensor:
    """Voxels of a mask more than so many mm away from its surface."""
    padded = np.pad(mask.cpu().numpy(), 1)
    depths = distance_transform_edt(padded, sampling=voxel_size)[1:-1, 1:-1, 1:-1]
    return torch.from_numpy(depths > depth).to(mask.device)


def wrong_cycles(phase: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Share of the voxels in other cycles (rad) than the truth, per cent, one common cycle aside."""
    cycles = ((phase - truth)[mask] / (2 * math.pi)).round()
    return 100 * float((cycles != cycles.median()).double().mean())


def nrmse(value: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Norm of the demeaned difference over that of the demeaned truth in a mask, per cent."""
    difference, true = (value - truth)[mask].double(), truth[mask].double()
    return 100 * float((difference - difference.mean()).norm() / (true - true.mean()).norm())
