"""Inversions to compare: a local field in, a susceptibility and its seconds out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qsmflow.core.dipole import DipoleConvolution
from qsmflow.core.inversion.medi import MediSettings, invert_medi
from qsmflow.core.inversion.tkd import invert_tkd
from qsmflow.core.metrics import nrmse
from qsmflow.core.solvers import least_squares
from qsmflow.nets.bundle import Bundle
from qsmflow.nets.predict import predict_susceptibility
from qsmflow.train.experiments.published import DEEPQSM_TKD_THRESHOLD

#: Noise that MEDI is told where none is known, ppm: what an echo fit leaves at 3 T and an SNR of 100.
NOISE = 1e-3
#: Steps of conjugate gradients after a method where the field is exact.
REFIT_STEPS = 20
#: Thresholds that the best division is looked for among.
THRESHOLDS = tuple(round(0.02 * step, 2) for step in range(2, 31))
#: λ, ppm·mm, that the best MEDI is looked for among.
REGULARISATIONS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class LocalField:
    """A local field and what an inversion may know of it.

    Parameters
    ----------
    field : Tensor
        (x, y, z) in ppm.
    mask : Tensor
        (x, y, z), bool.
    voxel_size : tuple of float
        mm.
    b0_direction : tuple of float
        B0 in voxel axes.
    magnitude : Tensor, optional
        (x, y, z), any unit: its edges are where MEDI lets the susceptibility jump.
    """

    field: Tensor
    mask: Tensor
    voxel_size: tuple[float, float, float]
    b0_direction: tuple[float, float, float]
    magnitude: Tensor | None = None

    @property
    def frame(self) -> dict[str, tuple[float, ...]]:
        """Voxel size and direction of B0, as the inversions take them."""
        return {"voxel_size": self.voxel_size, "b0_direction": self.b0_direction}


Method = Callable[[LocalField], Tensor]


@dataclass(frozen=True)
class Recovered:
    """What a method made of a field.

    Parameters
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm.
    seconds : float or None
        Wall time; None where it was not taken.
    """

    susceptibility: Tensor
    seconds: float | None = None


@dataclass(frozen=True)
class Tuned:
    """The best of a family of methods against the truth, which nobody knows outside of an experiment.

    Parameters
    ----------
    value : float
        Setting of the best one.
    recovered : Recovered
        By it.
    at_end : bool
        Whether it is the first or last setting that was tried, beyond which a better one may lie.
    """

    value: float
    recovered: Recovered
    at_end: bool


def tkd(threshold: float = DEEPQSM_TKD_THRESHOLD) -> Method:
    """Thresholded division.

    Examples
    --------
    >>> mask = torch.ones(8, 8, 8, dtype=torch.bool)
    >>> nothing = LocalField(torch.zeros(8, 8, 8), mask, (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
    >>> float(tkd()(nothing).abs().max())
    0.0
    """
    return lambda problem: (
        invert_tkd(problem.field, mask=problem.mask, threshold=threshold, **problem.frame).susceptibility
    )


def medi(settings: MediSettings) -> Method:
    """MEDI with a linear data term, because a field that is given as such has no wraps.

    Without a magnitude no gradient counts as an edge, which makes it total variation.
    """

    def invert(problem: LocalField) -> Tensor:
        chosen, magnitude = replace(settings, nonlinear=False), problem.magnitude
        if magnitude is None:
            chosen, magnitude = replace(chosen, edge_fraction=0.0), torch.ones_like(problem.field)
        return invert_medi(
            problem.field,
            noise=torch.full_like(problem.field, NOISE),
            magnitude=magnitude,
            mask=problem.mask,
            settings=chosen,
            **problem.frame,
        ).susceptibility

    return invert


def network(bundle: Bundle, *, memory_gb: float | None = None) -> Method:
    """A trained network.

    Parameters
    ----------
    bundle : Bundle
        Of :func:`qsmflow.nets.bundle.load_bundle`.
    memory_gb : float, optional
        Most memory that it may take.
    """
    return lambda problem: (
        predict_susceptibility(
            problem.field, mask=problem.mask, bundle=bundle, memory_gb=memory_gb, **problem.frame
        ).susceptibility
    )


def refitted(method: Method, *, steps: int = REFIT_STEPS) -> Method:
    """A method followed by conjugate gradients on the field that its map leaves unexplained.

    Only for a field without errors: those of a measured one would be fitted, too.

    Parameters
    ----------
    method : callable
        Where the steps start.
    steps : int
        How many.

    Examples
    --------
    >>> field, mask = torch.zeros(8, 8, 8), torch.ones(8, 8, 8, dtype=torch.bool)
    >>> problem = LocalField(field, mask, (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
    >>> bool(refitted(lambda problem: problem.field)(problem).any())
    False
    """

    def invert(problem: LocalField) -> Tensor:
        guess = method(problem)
        convolution = DipoleConvolution(guess.shape, device=guess.device, **problem.frame)

        def field_of(susceptibility: Tensor) -> Tensor:
            return convolution(susceptibility * problem.mask) * problem.mask

        # The operator is its own adjoint; a gain of next to nothing lets no step be spared.
        unexplained = problem.field * problem.mask - field_of(guess)
        return guess + least_squares(field_of, field_of, unexplained, gain=1e-12, max_steps=steps).value

    return invert


def recover(methods: Mapping[str, Method], problem: LocalField) -> dict[str, Recovered]:
    """Apply methods to a field, one after the other.

    Parameters
    ----------
    methods : mapping
        By name.
    problem : LocalField

    Returns
    -------
    dict of str to Recovered

    Examples
    --------
    >>> mask = torch.ones(2, 2, 2, dtype=torch.bool)
    >>> problem = LocalField(torch.ones(2, 2, 2), mask, (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
    >>> found = recover({"three times": lambda problem: 3 * problem.field}, problem)
    >>> float(found["three times"].susceptibility.mean()), found["three times"].seconds < 1
    (3.0, True)
    """
    found = {}
    for name, method in methods.items():
        started = time.perf_counter()
        susceptibility = method(problem)
        if susceptibility.is_cuda:
            torch.cuda.synchronize()
        found[name] = Recovered(susceptibility, time.perf_counter() - started)
    return found


def tuned(
    family: Callable[[float], Method], values: Sequence[float], *, problem: LocalField, truth: Tensor
) -> Tuned:
    """The member of a family of methods with the least NRMSE.

    Parameters
    ----------
    family : callable
        From a setting to a method.
    values : sequence of float
        Settings, in order.
    problem : LocalField
    truth : Tensor
        (x, y, z) in ppm.

    Returns
    -------
    Tuned

    Examples
    --------
    >>> mask = torch.ones(2, 2, 2, dtype=torch.bool)
    >>> problem = LocalField(torch.arange(8.0).reshape(2, 2, 2), mask, (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
    >>> scaled = lambda factor: lambda problem: factor * problem.field
    >>> best = tuned(scaled, (0.5, 1.0, 4.0), problem=problem, truth=1.1 * problem.field)
    >>> best.value, best.at_end
    (1.0, False)
    """
    best: tuple[float, float, Recovered] | None = None
    for value in values:
        recovered = recover({"": family(value)}, problem)[""]
        error = nrmse(recovered.susceptibility, truth, mask=problem.mask)
        if best is None or error < best[0]:
            best = (error, value, recovered)
    _, value, recovered = best
    return Tuned(value, recovered, value in (values[0], values[-1]))
