"""Morphology-enabled dipole inversion."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from qsmflow.core.crop import masked_crop, uncropped
from qsmflow.core.fourier import good_size, spherical_mean_kernel, voxels_along
from qsmflow.core.inversion.admm import OUTSIDE_WEIGHT, AlternatingDirections, InversionProblem, minimise
from qsmflow.core.inversion.discrepancy import discrepancy_principle
from qsmflow.core.inversion.edges import edge_free
from qsmflow.core.inversion.result import Inversion
from qsmflow.core.weights import noise_weights

#: MERIT calls a voxel an outlier where its weighted residual exceeds this many standard deviations.
OUTLIER_THRESHOLD = 6.0


@dataclass(frozen=True, kw_only=True)
class MediSettings:
    """What steers :func:`invert_medi`.

    Attributes
    ----------
    regularisation : float or None
        λ in ppm·mm. It weighs the regularisation, so more is smoother; the data term has weight one.
        None takes the one that leaves the residual asked for by ``discrepancy``.
    discrepancy : float
        Residual that an automatic λ aims at, over the noise.
    edge_fraction : float
        Fraction of the gradient components in the mask that count as edges and are left free.
    nonlinear : bool
        Compare phasors, which forgives wraps, instead of fields.
    merit : bool
        Lower the weight of outliers whenever the data term has settled.
    outside_sources : bool
        Let sources around the mask, which are not regularised, correct the background removal: take up
        what it left in the local field, and give back what it took from it.
    smv_radius : float
        Radius in mm of the spherical mean taken off the field and the dipole; 0 for none.
    csf_regularisation : float
        λ_C, dimensionless; weight of the variance of χ in cerebrospinal fluid; 0 for none.
    tolerance : float
        Stop once five iterations change the objective by less than this fraction of it.
    max_iterations : int
        Most iterations.

    Raises
    ------
    ValueError
        If any value is out of range; all of them are named.

    Examples
    --------
    >>> MediSettings(regularisation=1e-4).edge_fraction
    0.3
    """

    regularisation: float | None = None
    discrepancy: float = 1.0
    edge_fraction: float = 0.3
    nonlinear: bool = True
    merit: bool = False
    outside_sources: bool = False
    smv_radius: float = 0.0
    csf_regularisation: float = 0.0
    tolerance: float = 3e-4
    max_iterations: int = 200

    def __post_init__(self):
        problems = [
            f"{name} must be {wanted}, got {getattr(self, name)}"
            for wanted, (holds, names) in _RANGES.items()
            for name in names
            if not holds(getattr(self, name))
        ]
        if problems:
            raise ValueError("; ".join(problems))


_RANGES = {
    "positive and finite": (
        lambda value: value is None or 0 < value < math.inf,
        ("regularisation", "discrepancy"),
    ),
    "zero or more and finite": (lambda value: 0 <= value < math.inf, ("smv_radius", "csf_regularisation")),
    "between 0 and 1": (lambda value: 0 <= value <= 1, ("edge_fraction",)),
    "above 0 and below 1": (lambda value: 0 < value < 1, ("tolerance",)),
    "at least 1": (lambda value: value >= 1, ("max_iterations",)),
}

#: For measured fields, where errors of the model and of the background removal outweigh the noise.
IN_VIVO = MediSettings(discrepancy=1.5, nonlinear=True, merit=True, outside_sources=True, tolerance=4e-3)

#: For exact local fields with noise.
SIMULATION = MediSettings(nonlinear=True)

#: Settings by the name a user gives.
PRESETS = {"in-vivo": IN_VIVO, "simulation": SIMULATION}


def invert_medi(
    local_field: Tensor,
    *,
    noise: Tensor,
    magnitude: Tensor,
    mask: Tensor,
    voxel_size: Sequence[float],
    b0_direction: Sequence[float],
    settings: MediSettings,
    radian_per_ppm: float | None = None,
    csf_mask: Tensor | None = None,
) -> Inversion:
    """Least roughness that the field allows, edges of the magnitude left free.

    min over χ of ½‖W ρ(d∗χ − b)‖² + λ‖M_G∇χ‖₁ + ½κ‖χ_outside‖² + ½λ_C‖M_C(χ − mean_C χ)‖²

    W is the reciprocal noise, scaled to a mean of one in the mask, and all fields are in ppm, so λ
    keeps its meaning across field strengths and signal-to-noise ratios. ρ(u) = u, or |exp(iru) − 1|/r
    for the nonlinear data term. The L1 norm is exact and anisotropic: each component of the gradient
    between two voxels of the mask counts on its own, edges of the magnitude do not. χ lives on a grid
    larger than the mask; outside, κ = 0.01 leaves it what wraps around the grid and little else, and κ is
    zero with ``outside_sources``. Alternating directions minimise it (:class:`AlternatingDirections`).

    Without a given λ it follows the discrepancy principle: whenever the data term has settled, λ is
    multiplied by the ratio of the squared residual aimed at, (``discrepancy`` · noise)² over the voxels,
    to the one there is, within bounds; the result tells the λ that was used.

    MERIT, with the same timing, divides the weight of a voxel by (|residual| / 6σ)² where the weighted
    residual is above 6σ; σ is robust, from the median. With a spherical mean radius the field loses its
    mean over a sphere, the dipole likewise, and only voxels whose whole sphere is in the mask count and
    are returned. With the cerebrospinal fluid's term its mean is the zero of χ; else the zero is arbitrary.

    Parameters
    ----------
    local_field : Tensor
        b, (x, y, z) in ppm.
    noise : Tensor
        (x, y, z), standard deviation of the field in ppm (any unit if λ is given); where it is not
        positive and finite the field is not believed.
    magnitude : Tensor
        (x, y, z), any unit; its edges are where χ may jump.
    mask : Tensor
        (x, y, z), true where the field means something.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes.
    settings : MediSettings
        Weights, options and stopping; see ``PRESETS``.
    radian_per_ppm : float, optional
        r, phase between echoes per ppm of field; the nonlinear data term needs it.
    csf_mask : Tensor, optional
        (x, y, z), true in cerebrospinal fluid; needed if ``csf_regularisation`` is not zero.

    Returns
    -------
    Inversion
        Susceptibility in ppm, zero outside the mask; iterations; relative weighted residual; λ.

    Raises
    ------
    ValueError
        If the mask is empty, the field is not finite in it, no voxel (of the eroded mask) has a usable
        noise, or something that the settings need is missing.

    References
    ----------
    Liu T et al. 2011, 10.1002/mrm.22816; Liu J et al. 2012, 10.1016/j.neuroimage.2011.08.082;
    nonlinear, MERIT: Liu T et al. 2013, 10.1002/mrm.24272; spherical mean: Schweser et al. 2011,
    10.1016/j.neuroimage.2010.10.070; zero reference: Liu Z et al. 2018, 10.1002/mrm.26946.

    Examples
    --------
    >>> mask = torch.ones(8, 8, 8, dtype=torch.bool)
    >>> ones = torch.ones(8, 8, 8)
    >>> found = invert_medi(
    ...     0 * ones,
    ...     noise=ones,
    ...     magnitude=ones,
    ...     mask=mask,
    ...     voxel_size=(1, 1, 1),
    ...     b0_direction=(0, 0, 1),
    ...     settings=SIMULATION,
    ...     radian_per_ppm=4.0,
    ... )
    >>> float(found.susceptibility.abs().max()), found.converged
    (0.0, True)
    """
    _check(settings, radian_per_ppm=radian_per_ppm, csf_mask=csf_mask, mask=mask)
    box, inside, field = masked_crop(local_field, mask=mask)
    valid = inside
    if settings.smv_radius:
        field, valid = _without_spherical_mean(
            field, inside=inside, voxel_size=voxel_size, radius=settings.smv_radius
        )
    weights, unit_noise = noise_weights(noise[box], mask=valid)
    weights = weights.to(field.dtype)
    first, adapted = discrepancy_principle(weights, unit_noise=unit_noise, discrepancy=settings.discrepancy)
    fluid = csf_mask[box].bool() & inside if settings.csf_regularisation else None
    solver = AlternatingDirections(
        InversionProblem(
            field=field,
            weights=weights,
            smooth=edge_free(
                magnitude[box], mask=inside, voxel_size=voxel_size, edge_fraction=settings.edge_fraction
            ),
            inside=inside,
            outside_weight=0.0 if settings.outside_sources else OUTSIDE_WEIGHT,
            voxel_size=tuple(voxel_size),
            b0_direction=tuple(b0_direction),
            regularisation=settings.regularisation or first,
            radian_per_ppm=radian_per_ppm if settings.nonlinear else None,
            smv_radius=settings.smv_radius,
            csf_mask=fluid,
            csf_regularisation=settings.csf_regularisation,
        )
    )
    reweighted = partial(_merit, weights) if settings.merit else None
    del field, weights  # the solver has its own; memory is short here
    n_iterations, converged = minimise(
        solver,
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
        reweighted=reweighted,
        adapted=None if settings.regularisation else adapted,
    )
    found = solver.susceptibility
    if fluid is not None:
        found -= found[fluid].mean()
    susceptibility = uncropped(found.masked_fill_(~valid, 0), box=box, shape=mask.shape)
    return Inversion(susceptibility, n_iterations, converged, solver.residual(), solver.regularisation)


def _check(settings: MediSettings, *, radian_per_ppm, csf_mask, mask: Tensor) -> None:
    """Refuse settings whose input is missing."""
    if settings.nonlinear and not radian_per_ppm:
        raise ValueError("the nonlinear data term needs radian_per_ppm")
    if settings.csf_regularisation and (csf_mask is None or not (csf_mask.bool() & mask.bool()).any()):
        raise ValueError("csf_regularisation needs a csf_mask with voxels in the mask")


def _without_spherical_mean(
    field: Tensor, *, inside: Tensor, voxel_size: Sequence[float], radius: float
) -> tuple[Tensor, Tensor]:
    """The field less its mean over a sphere, and where the whole sphere lies in the mask."""
    grid = good_size(field.shape, padding=voxels_along(radius, voxel_size=voxel_size))
    mean = spherical_mean_kernel(
        grid, voxel_size=voxel_size, radius=radius, device=field.device, dtype=field.dtype
    )

    def smoothed(image: Tensor) -> Tensor:
        filtered = torch.fft.irfftn(torch.fft.rfftn(image, s=grid).mul_(mean), s=grid)
        return filtered[tuple(slice(size) for size in image.shape)]

    valid = inside & (smoothed(inside.to(field.dtype)) > 0.999)
    return torch.where(valid, field - smoothed(field), 0), valid


def _merit(weights: Tensor, misfit: Tensor) -> Tensor:
    """Weights with outliers lowered, from the weights as they came and the newest residual."""
    deviation = weights * misfit
    sigma = 1.4826 * deviation[weights > 0].median()
    if not sigma > 0:
        return weights
    return weights / (deviation / (OUTLIER_THRESHOLD * sigma)).clamp(min=1).square()
