"""Time, transforms, memory and error of the dipole inversions against their floor.

Usage: python benchmarks/inversion.py [nx ny nz] ...

A row a method on a head-like phantom of 1 mm voxels, its field exact but for 1 ppb of noise: seconds,
iterations, the time of the four real transforms that an iteration cannot do without (two in all for the
division), the ratio to it, the peak memory in float32 volumes beyond the inputs, and the demeaned error.
Below each shape stands the excess of MEDI's objective over that after 400 iterations.
"""

import multiprocessing
import resource
import sys
import time
from dataclasses import replace

import torch

from qsmflow.core.dipole import dipole_field
from qsmflow.core.inversion.admm import AlternatingDirections, InversionProblem, minimise
from qsmflow.core.inversion.medi import SIMULATION, MediSettings, invert_medi
from qsmflow.core.inversion.objective import edge_free
from qsmflow.core.inversion.tkd import invert_tkd
from qsmflow.core.inversion.tv import TvSettings, invert_tv
from qsmflow.core.metrics import nrmse

SPACE = {"voxel_size": (1.0, 1.0, 1.0), "b0_direction": (0.2, 0.26, 0.945)}
NOISE = 1e-3
RADIAN_PER_PPM = 4.0
#: Centre and half axes as fractions of the half field of view, ppm.
STRUCTURES = (
    ((0, 0, 0), (0.85, 0.95, 0.9), 0.02),
    ((0.2, 0, 0), (0.12, 0.3, 0.25), 0.1),
    ((-0.2, 0, 0), (0.12, 0.3, 0.25), 0.12),
    ((0, 0.35, 0.1), (0.1, 0.15, 0.3), -0.05),
    ((0.05, -0.5, -0.1), (0.03, 0.03, 0.6), 0.3),
)


def phantom(shape):
    """Nested ellipsoids in a mask."""
    torch.manual_seed(0)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size) for size in shape], indexing="ij")
    chi = torch.zeros(shape)
    for centre, half, value in STRUCTURES:
        inside = sum(((q - c) / a) ** 2 for q, c, a in zip(axes, centre, half, strict=True)) < 1
        chi[inside] = value
    mask = chi != 0
    noise = torch.full(shape, NOISE)
    field = dipole_field(chi, **SPACE) + NOISE * torch.randn(shape)
    return {"chi": chi, "mask": mask, "noise": noise, "field": field, "magnitude": 1 - chi}


METHODS = {
    "TKD": lambda s: invert_tkd(s["field"], mask=s["mask"], **SPACE),
    "MEDI": lambda s: _medi(s, SIMULATION),
    "MEDI, λ from the noise": lambda s: _medi(s, replace(SIMULATION, regularisation=None)),
    "MEDI, outside sources": lambda s: _medi(s, replace(SIMULATION, outside_sources=True)),
    "TV": lambda s: _tv(s, TvSettings(regularisation=1e-4)),
    "TV, λ from the noise": lambda s: _tv(s, TvSettings()),
}


def _medi(s, settings: MediSettings):
    given = {name: s[name] for name in ("noise", "magnitude", "mask")}
    return invert_medi(s["field"], **given, **SPACE, settings=settings, radian_per_ppm=RADIAN_PER_PPM)


def _tv(s, settings: TvSettings):
    given = {name: s[name] for name in ("noise", "mask")}
    return invert_tv(s["field"], **given, **SPACE, settings=settings, radian_per_ppm=RADIAN_PER_PPM)


def _measure(name, shape, queue):
    """Seconds, iterations, peak in volumes and error of one method, in a process of its own."""
    s = phantom(shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = METHODS[name](s)
    seconds = time.perf_counter() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    error = nrmse(found.susceptibility, s["chi"], mask=s["mask"])
    queue.put((seconds, found.n_iterations, 1024 * grown / (4 * s["chi"].numel()), error))


def _pair(shape) -> float:
    """Seconds of a real transform and its inverse on the image's own grid."""
    image = torch.randn(shape)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.fft.irfftn(torch.fft.rfftn(image), s=shape)
        best = min(best, time.perf_counter() - start)
    return best


def excess(shape) -> tuple[float, int]:
    """Per cent that the objective ends above that of 400 iterations, and the iterations."""
    s = phantom(shape)
    problem = InversionProblem(
        field=s["field"] * s["mask"],
        weights=s["mask"].float(),
        smooth=edge_free(s["magnitude"], mask=s["mask"], voxel_size=SPACE["voxel_size"], edge_fraction=0.3),
        support=s["mask"],
        regularisation=SIMULATION.regularisation,
        **SPACE,
    )

    def minimum(tolerance):
        solver = AlternatingDirections(problem)
        n_iterations, _ = minimise(solver, tolerance=tolerance, max_iterations=400)
        data, roughness = solver.terms()
        return data + problem.regularisation * roughness, n_iterations

    found, n_iterations = minimum(SIMULATION.tolerance)
    return 100 * (found / minimum(0.0)[0] - 1), n_iterations


def main(shapes) -> None:
    """Print one row a method and shape."""
    context = multiprocessing.get_context("spawn")
    print(f"{torch.get_num_threads()} threads")
    print(f"{'':<26}{'s':>8}{'iter.':>7}{'FFT s':>8}{'ratio':>7}{'volumes':>9}{'NRMSE %':>9}")
    for shape in shapes:
        pair = _pair(shape)
        print("×".join(map(str, shape)))
        for name in METHODS:
            queue = context.Queue()
            worker = context.Process(target=_measure, args=(name, shape, queue))
            worker.start()
            seconds, steps, volumes, error = queue.get()
            worker.join()
            floor = pair * (1 if name == "TKD" else 2 * steps)
            times = f"{seconds:8.2f}{steps:7d}{floor:8.2f}{seconds / floor:7.1f}"
            print(f"{name:<26}{times}{volumes:9.1f}{error:9.2f}")
        above, steps = excess(shape)
        print(f"MEDI's objective after {steps} iterations: {above:+.3f} % above that after 400")


if __name__ == "__main__":
    sizes = [int(size) for size in sys.argv[1:]] or [96, 96, 96]
    main([tuple(sizes[start : start + 3]) for start in range(0, len(sizes), 3)])
