"""Dipole inversions of exact fields with noise: error, choice of λ, and distance from the minimum.

Run ``python benchmarks/inversion.py [NXxNYxNZ ...] [--device cuda]``; 96x96x96 unless given. Two truths: the
head of the simulator, smooth and with texture, its noise that of the echo fit; and nested ellipsoids, uniform
each, with 1 ppb of noise. Of each a row a method: seconds, iterations, λ (ppm·mm) and the demeaned error.
Then the error at multiples of the λ that the discrepancy principle takes, and the excess of the objective at
the end over that after 500 iterations in float64, at the same λ. Floors and memory: benchmarks/stages.py.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from measure import combined_magnitude, measured, nrmse, simulated
from torch import Tensor

from qsmflow.core.crop import bounding_box
from qsmflow.core.dipole import dipole_field
from qsmflow.core.echoes import fit_echoes
from qsmflow.core.inversion.admm import OUTSIDE_WEIGHT, AlternatingDirections, InversionProblem, minimise
from qsmflow.core.inversion.edges import edge_free, inner_differences
from qsmflow.core.inversion.medi import SIMULATION, MediSettings, invert_medi
from qsmflow.core.inversion.result import Inversion
from qsmflow.core.inversion.tkd import invert_tkd
from qsmflow.core.inversion.tv import TvSettings, invert_tv
from qsmflow.core.weights import noise_weights

NOISE = 1e-3  # ppm
RADIAN_PER_PPM = 4.0
EXACT_TV = TvSettings()
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
#: Centre and half axes as fractions of the half field of view, ppm.
STRUCTURES = (
    ((0, 0, 0), (0.85, 0.95, 0.9), 0.02),
    ((0.2, 0, 0), (0.12, 0.3, 0.25), 0.1),
    ((-0.2, 0, 0), (0.12, 0.3, 0.25), 0.12),
    ((0, 0.35, 0.1), (0.1, 0.15, 0.3), -0.05),
    ((0.05, -0.5, -0.1), (0.03, 0.03, 0.6), 0.3),
)


@dataclass(frozen=True)
class Truth:
    """A susceptibility with its field and the field's noise (ppm), magnitude and mask, all (x, y, z)."""

    name: str
    susceptibility: Tensor
    field: Tensor
    noise: Tensor
    magnitude: Tensor
    mask: Tensor
    frame: dict[str, tuple[float, ...]]

    @property
    def measured(self) -> dict[str, Tensor]:
        """What every iterative inversion is given beside the field."""
        return {"noise": self.noise, "mask": self.mask}

    def on(self, device: str) -> "Truth":
        """The same on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def head(shape: tuple[int, ...]) -> Truth:
    """Local field of the simulated scan, with the noise of its echo fit."""
    problem = simulated(shape)
    scan, hertz = problem.scan, problem.hertz_per_ppm
    fit = fit_echoes(scan.signal, echo_times=problem.protocol.echo_times, mask=scan.mask)
    noise = fit.frequency_noise / hertz
    return Truth(
        "head",
        susceptibility=scan.susceptibility,
        field=scan.local_field / hertz + noise * torch.randn(shape),
        noise=noise,
        magnitude=combined_magnitude(scan.signal),
        mask=scan.mask,
        frame=problem.frame,
    )


def ellipsoids(shape: tuple[int, ...]) -> Truth:
    """Nested uniform ellipsoids."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size) for size in shape], indexing="ij")
    susceptibility = torch.zeros(shape)
    for centre, half, value in STRUCTURES:
        inside = sum(((q - c) / a) ** 2 for q, c, a in zip(axes, centre, half, strict=True)) < 1
        susceptibility[inside] = value
    frame = {"voxel_size": (1.0, 1.0, 1.0), "b0_direction": (0.2, 0.26, 0.945)}
    return Truth(
        "ellipsoids",
        susceptibility=susceptibility,
        field=dipole_field(susceptibility, **frame) + NOISE * torch.randn(shape),
        noise=torch.full(shape, NOISE),
        magnitude=1 - susceptibility,
        mask=susceptibility != 0,
        frame=frame,
    )


def by_division(truth: Truth) -> Inversion:
    """TKD."""
    return invert_tkd(truth.field, mask=truth.mask, **truth.frame)


def by_medi(truth: Truth, settings: MediSettings = SIMULATION) -> Inversion:
    """MEDI, linear or not as the settings have it."""
    given = {**truth.measured, **truth.frame, "magnitude": truth.magnitude}
    return invert_medi(truth.field, **given, settings=settings, radian_per_ppm=RADIAN_PER_PPM)


def by_tv(truth: Truth, settings: TvSettings = EXACT_TV) -> Inversion:
    """TV, linear or not as the settings have it."""
    given = {**truth.measured, **truth.frame}
    return invert_tv(truth.field, **given, settings=settings, radian_per_ppm=RADIAN_PER_PPM)


def edges_of(truth: Truth, box: tuple[slice, ...]) -> Tensor:
    """Differences that MEDI wants small."""
    space = {"mask": truth.mask[box], "voxel_size": truth.frame["voxel_size"]}
    return edge_free(truth.magnitude[box], **space, edge_fraction=SIMULATION.edge_fraction)


METHODS: dict[str, Callable[[Truth], Inversion]] = {
    "TKD": by_division,
    "MEDI": by_medi,
    "MEDI, outside sources": lambda truth: by_medi(truth, replace(SIMULATION, outside_sources=True)),
    "TV": by_tv,
    "TV, outside sources": lambda truth: by_tv(truth, replace(EXACT_TV, outside_sources=True)),
}
#: Of methods with a λ: how to run them, with which settings, and the differences that they want small.
REGULARISED = {
    "MEDI": (by_medi, SIMULATION, edges_of),
    "TV": (by_tv, EXACT_TV, lambda truth, box: inner_differences(truth.mask[box])),
}


def minimum(
    truth: Truth, smooth: Tensor, box: tuple[slice, ...], *, dtype: torch.dtype, regularisation: float, **stop
) -> tuple[float, int]:
    """Objective where the iterations stop, and how many these are."""
    inside = truth.mask[box]
    weights, _ = noise_weights(truth.noise[box], mask=inside)
    solver = AlternatingDirections(
        InversionProblem(
            field=(truth.field[box] * inside).to(dtype),
            weights=weights.to(dtype),
            smooth=smooth,
            inside=inside,
            outside_weight=OUTSIDE_WEIGHT,
            regularisation=regularisation,
            radian_per_ppm=RADIAN_PER_PPM,
            **truth.frame,
        )
    )
    n_iterations, _ = minimise(solver, **stop)
    data, quadratic, roughness = solver.terms()
    return data + quadratic + regularisation * roughness, n_iterations


def lines(truth: Truth, device: str) -> Iterator[str]:
    """The rows of a truth, then the scans of λ and the excesses."""

    def error(found: Inversion) -> float:
        return nrmse(found.susceptibility, truth.susceptibility, truth.mask)

    automatic = {}
    for name, invert in METHODS.items():
        run = measured(lambda invert=invert: invert(truth), device=device)
        automatic[name] = found = run.value
        used = "-" if found.regularisation is None else f"{found.regularisation:.1e}"
        ended = "" if found.converged else "  not converged"
        yield f"{name:24}{run.seconds:9.2f}{found.n_iterations:8d}{used:>10}{error(found):9.2f}{ended}"
    for name, (invert, settings, differences) in REGULARISED.items():
        regularisation = automatic[name].regularisation
        scanned = (
            (factor, invert(truth, replace(settings, regularisation=factor * regularisation)))
            for factor in FACTORS
        )
        yield f"{name}, error by λ: " + ", ".join(
            f"×{factor:g} {error(found):.2f} %" for factor, found in scanned
        )
        box = bounding_box(truth.mask)
        common = {"smooth": differences(truth, box), "box": box, "regularisation": regularisation}
        stop = {"tolerance": settings.tolerance, "max_iterations": settings.max_iterations}
        found, steps = minimum(truth, **common, dtype=torch.float32, **stop)
        least, _ = minimum(truth, **common, dtype=torch.float64, tolerance=0.0, max_iterations=500)
        excess = 100 * (found / least - 1)
        yield f"{name}, objective after {steps} iterations: {excess:+.3f} % above the least"


def main() -> None:
    """Print one table a shape and truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=["96x96x96"], help="grids, as in 160x160x96")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{options.device}, {torch.get_num_threads()} threads")
    for text in options.shapes:
        shape = tuple(int(size) for size in text.split("x"))
        for make in (head, ellipsoids):
            truth = make(shape).on(options.device)
            print(f"\n{truth.name + ' ' + text:24}{'s':>9}{'iter.':>8}{'λ':>10}{'NRMSE %':>9}")
            for line in lines(truth, options.device):
                print(line, flush=True)


if __name__ == "__main__":
    main()
