"""The splitting solver against dense matrices in double precision."""

import math
from dataclasses import replace

import pytest
import torch

from qsmflow.core.dipole import dipole_field, dipole_kernel
from qsmflow.core.fourier import spherical_mean_kernel
from qsmflow.core.inversion import admm
from qsmflow.core.inversion.admm import OUTSIDE_WEIGHT, AlternatingDirections, InversionProblem, minimise
from qsmflow.core.inversion.edges import edge_free, inner_differences
from qsmflow.core.inversion.medi import MediSettings

SHAPE = (8, 7, 8)
SPACE = {"voxel_size": (10.0, 9.0, 12.0), "b0_direction": (0.35, -0.25, 0.9)}
NOISE = 2e-3


def ball(centre, radius):
    """Voxels within a radius in voxels of a point."""
    axes = [torch.arange(size) - c for size, c in zip(SHAPE, centre, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 <= radius**2


BRAIN, FLUID, BOX = ball((4, 3, 4), 3.4), ball((3, 4, 4), 1.5), torch.ones(SHAPE, dtype=torch.bool)


def make_problem(mask, noise=NOISE):
    """A sphere in a mask, noise that differs between voxels, one voxel without a measurement."""
    torch.manual_seed(3)
    inside = ball((4, 3, 4), 1.6)
    weights = mask * (0.5 + torch.rand(SHAPE, dtype=torch.float64))
    weights[4, 5, 4] = 0
    field = dipole_field(0.2 * inside.double(), **SPACE, padding=SHAPE)
    magnitude = 1 - 0.3 * inside.double() + 0.02 * torch.randn(SHAPE, dtype=torch.float64)
    return InversionProblem(
        field=mask * (field + noise * torch.randn(SHAPE, dtype=torch.float64)),
        weights=weights,
        smooth=edge_free(magnitude, mask=mask, voxel_size=SPACE["voxel_size"], edge_fraction=0.3),
        inside=mask,
        outside_weight=OUTSIDE_WEIGHT,
        regularisation=5e-4,
        **SPACE,
    )


class Reference:
    """What a problem asks, each term a matrix on the voxels of the solver's whole periodic grid."""

    def __init__(self, problem, grid):
        self.problem = problem
        numbers, box = torch.arange(math.prod(grid)).reshape(grid), tuple(map(slice, SHAPE))
        unit = torch.eye(numbers.numel(), dtype=torch.float64)
        kernel = dipole_kernel(grid, **SPACE, dtype=torch.float64)
        if radius := problem.smv_radius:
            size = {"voxel_size": SPACE["voxel_size"], "radius": radius, "dtype": torch.float64}
            kernel = kernel * (1 - spherical_mean_kernel(grid, **size))
        spectra = torch.fft.rfftn(unit.reshape(-1, *grid), dim=(1, 2, 3))
        fields = torch.fft.irfftn(kernel * spectra, s=grid, dim=(1, 2, 3)).flatten(1)
        self.dipole = fields.T[numbers[box].flatten()]
        self.field, self.squared_weights = problem.field.flatten(), problem.weights.flatten() ** 2
        self.slopes = torch.cat(
            [
                (unit[numbers.roll(-1, axis)[box][smooth]] - unit[numbers[box][smooth]]) / edge
                for axis, (smooth, edge) in enumerate(zip(problem.smooth, SPACE["voxel_size"], strict=True))
            ]
        )
        around = torch.ones(len(unit), dtype=torch.bool)
        around[numbers[box][problem.inside]] = False
        self.free = ~around if math.isinf(problem.outside_weight) else torch.ones_like(around)
        self.quadratic = torch.zeros_like(unit)
        if math.isfinite(problem.outside_weight):
            self.quadratic += problem.outside_weight * torch.diag(around.double())
        if problem.csf_mask is not None:
            fluid = unit[numbers[box][problem.csf_mask]]
            self.quadratic += problem.csf_regularisation * (fluid - fluid.mean(0)).T @ (fluid - fluid.mean(0))

    def energy(self, found):
        """The objective of an image of the grid as one column."""
        misfit, turn = self.dipole @ found - self.field, self.problem.radian_per_ppm
        if turn:
            misfit = 2 / turn * (turn / 2 * misfit).sin()
        data = (self.squared_weights * misfit.square()).sum() / 2
        roughness = (self.slopes @ found).abs().sum()
        return float(data + self.problem.regularisation * roughness + found @ self.quadratic @ found / 2)

    def minimum(self):
        """Lagged diffusivity, the modulus rounded less and less, with a direct solution of each step."""
        found = torch.zeros(len(self.free), dtype=torch.float64)
        turn, free = self.problem.radian_per_ppm, self.free
        dipole, slopes = self.dipole[:, free], self.slopes[:, free]
        # A data term's curvature is one at most; the mean of χ, which nothing sees, is kept by a trace of it.
        fixed = dipole.T @ (self.squared_weights[:, None] * dipole) + self.quadratic[free][:, free]
        fixed += 1e-12 * torch.eye(len(fixed), dtype=torch.float64)
        for rounding in torch.logspace(-2, -7, 30).tolist():
            slope = self.slopes @ found
            stiffness = self.problem.regularisation * (slope.square() + rounding**2).rsqrt()
            misfit = self.dipole @ found - self.field
            if turn:
                misfit = (turn * misfit).sin() / turn
            downhill = -self.dipole.T @ (self.squared_weights * misfit)
            downhill -= self.slopes.T @ (stiffness * slope) + self.quadratic @ found
            factor = torch.linalg.cholesky(fixed + slopes.T @ (stiffness[:, None] * slopes))
            found[free] += torch.cholesky_solve(downhill[free, None], factor)[:, 0]
        return self.energy(found)


CASES = {
    "linear": {},
    "nonlinear": {"radian_per_ppm": 30.0},
    "total variation": {"smooth": inner_differences(BRAIN)},
    "spherical mean": {"smv_radius": 16.0},
    "fluid": {"csf_mask": FLUID, "csf_regularisation": 0.5},
    "zero around the mask": {"outside_weight": math.inf},
    "weakly held": {"outside_weight": 1e-3},
}


def excess(problem, **stopping):
    """What the solver ends at over the minimum less one, by its own account, and whether it settled."""
    solver = AlternatingDirections(problem)
    _, settled = minimise(solver, **stopping)
    data, quadratic, roughness = solver.terms()
    told = data + quadratic + problem.regularisation * roughness
    return told / Reference(problem, solver.grid).minimum() - 1, settled


@pytest.mark.parametrize("case", CASES)
def test_minimum_is_reached(case):
    """Within a thousandth, for every term of the objective."""
    above, settled = excess(replace(make_problem(BRAIN), **CASES[case]), tolerance=1e-7, max_iterations=1500)
    assert abs(above) < 1e-3 and settled


@pytest.mark.parametrize("radian_per_ppm", [None, 30.0])
def test_minimum_with_free_sources_outside_is_reached(monkeypatch, radian_per_ppm):
    """Within a thousandth, with one layer of voxels that are free.

    The usual margin around so small a box explains any field in it, down to an objective of zero.
    """
    monkeypatch.setattr(admm, "PADDING", 0.0)
    free = make_problem(BOX, noise=1e-2)  # of 0.3 rad, where the sine bends
    free = replace(free, outside_weight=0.0, radian_per_ppm=radian_per_ppm, regularisation=2.5e-3)
    above, _ = excess(free, tolerance=1e-9, max_iterations=1500)
    assert abs(above) < 1e-3


@pytest.mark.parametrize("case", ["linear", "nonlinear", "total variation", "zero around the mask"])
def test_default_tolerance_is_enough(case):
    """Where the default settings stop, the objective is within 0.3 % of the minimum."""
    settings = MediSettings()
    above, settled = excess(
        replace(make_problem(BRAIN), **CASES[case]),
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
    )
    assert above < 3e-3 and settled


def test_account_of_the_objective_is_right():
    """The solver's terms are those of its own image, all of them present and none converged yet."""
    problem = replace(make_problem(BRAIN), outside_weight=math.inf, radian_per_ppm=20.0)
    problem = replace(problem, csf_mask=FLUID, csf_regularisation=0.5)
    solver = AlternatingDirections(problem)
    for _ in range(400):
        solver.iterate()
    reference = Reference(problem, solver.grid)
    image = torch.zeros(solver.grid, dtype=torch.float64)
    image[tuple(map(slice, SHAPE))] = solver.susceptibility
    data, quadratic, roughness = solver.terms()
    assert data + quadratic + problem.regularisation * roughness == pytest.approx(
        reference.energy(image.flatten()), rel=1e-3
    )
