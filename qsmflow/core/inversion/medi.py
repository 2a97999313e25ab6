"""Morphology-enabled dipole inversion."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from qsmflow.core.crop import masked_crop, uncropped
from qsmflow.core.dipole import DipoleConvolution
from qsmflow.core.fourier import spherical_mean_kernel
from qsmflow.core.inversion.objective import MorphologyObjective, edge_free
from qsmflow.core.inversion.result import Inversion
from qsmflow.core.solvers import conjugate_gradient
from qsmflow.core.weights import noise_weights

#: How far around the mask, in mm, sources may take up what background is left.
OUTSIDE_MARGIN = 8.0
#: How much larger than χ such sources are expected to be; it only conditions the solver.
OUTSIDE_SCALE = 5.0
#: MERIT calls a voxel an outlier where its weighted residual exceeds this many standard deviations.
OUTLIER_THRESHOLD = 6.0


@dataclass(frozen=True, kw_only=True)
class MediSettings:
    """What steers :func:`invert_medi`.

    Attributes
    ----------
    regularisation : float
        λ in ppm·mm. It weighs the regularisation, so more is smoother; the data term has weight one.
    edge_fraction : float
        Fraction of the gradient components in the mask that count as edges and are left free.
    nonlinear : bool
        Compare phasors, which forgives wraps, instead of fields.
    merit : bool
        Lower the weight of outliers after each outer step.
    outside_sources : bool
        Let sources around the mask, which are not regularised, correct the background removal: take up
        what it left in the local field, and give back what it took from it.
    smv_radius : float
        Radius in mm of the spherical mean taken off the field and the dipole; 0 for none.
    csf_regularisation : float
        λ_C, dimensionless; weight of the variance of χ in cerebrospinal fluid; 0 for none.
    smoothing : float
        ε in ppm/mm; gradients below it are penalised by their square.
    max_outer_steps : int
        Most Gauss–Newton steps.
    tolerance : float
        Stop once a step changes χ by less than this fraction of its norm.
    cg_steps : int
        Most conjugate gradient steps in each outer step.
    cg_tolerance : float
        Relative residual at which these end.

    Raises
    ------
    ValueError
        If any value is out of range; all of them are named.

    Examples
    --------
    >>> MediSettings(regularisation=1e-4).edge_fraction
    0.3
    """

    regularisation: float
    edge_fraction: float = 0.3
    nonlinear: bool = True
    merit: bool = False
    outside_sources: bool = False
    smv_radius: float = 0.0
    csf_regularisation: float = 0.0
    smoothing: float = 1e-3
    max_outer_steps: int = 20
    tolerance: float = 0.02
    cg_steps: int = 50
    cg_tolerance: float = 0.1

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
    "positive and finite": (lambda value: 0 < value < math.inf, ("regularisation", "smoothing")),
    "zero or more and finite": (lambda value: 0 <= value < math.inf, ("smv_radius", "csf_regularisation")),
    "between 0 and 1": (lambda value: 0 <= value <= 1, ("edge_fraction",)),
    "above 0 and below 1": (lambda value: 0 < value < 1, ("tolerance", "cg_tolerance")),
    "at least 1": (lambda value: value >= 1, ("max_outer_steps", "cg_steps")),
}

#: For measured fields, where errors of the model and of the background removal outweigh the noise.
IN_VIVO = MediSettings(regularisation=5e-4, nonlinear=True, merit=True, outside_sources=True, tolerance=0.05)

#: For exact local fields with a little noise.
SIMULATION = MediSettings(regularisation=4e-5, nonlinear=True)

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

    min over χ of ½‖W ρ(d∗χ − b)‖² + λ‖M_G∇χ‖₁ + ½λ_C‖M_C(χ − mean_C χ)‖²

    W is the reciprocal noise, scaled to a mean of one in the mask, and all fields are in ppm, so λ
    keeps its meaning across field strengths and signal-to-noise ratios. ρ(u) = u, or |exp(iru) − 1|/r
    for the nonlinear data term. Each outer step freezes the curvature of the modulus (lagged
    diffusivity) and of the data term (Gauss–Newton) and solves the linear problem by conjugate
    gradients; without MERIT the energy never rises.

    MERIT divides the weight of a voxel by (|residual| / 6σ)² where the weighted residual is above 6σ;
    σ is robust, from the median. With a spherical mean radius the field loses its mean over a sphere,
    the dipole likewise, and only voxels whose whole sphere is in the mask count and are returned.
    With the cerebrospinal fluid's term its mean is the zero of χ; else the zero is arbitrary.

    Parameters
    ----------
    local_field : Tensor
        b, (x, y, z) in ppm.
    noise : Tensor
        (x, y, z), standard deviation of the field in any unit; where it is not positive and finite
        the field is not believed.
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
        Susceptibility in ppm, zero outside the mask; outer steps; relative weighted residual.

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
    margins = [
        math.ceil(OUTSIDE_MARGIN / float(edge)) if settings.outside_sources else 0 for edge in voxel_size
    ]
    grown = partial(pad, pad=[margin for margin in reversed(margins) for _ in range(2)])
    objective, valid = _objective(
        grown(field),
        noise=grown(noise[box]),
        magnitude=grown(magnitude[box]),
        inside=grown(inside),
        csf=grown(csf_mask[box].bool() & inside) if settings.csf_regularisation else None,
        voxel_size=voxel_size,
        b0_direction=b0_direction,
        settings=settings,
        radian_per_ppm=radian_per_ppm,
    )
    found, n_iterations, converged, residual = _minimise(objective, settings)
    if objective.csf_mask is not None:
        found = found - found[objective.csf_mask].mean()
    core = tuple(slice(margin, margin + size) for margin, size in zip(margins, field.shape, strict=True))
    susceptibility = uncropped(torch.where(valid, found, 0)[core], box=box, shape=mask.shape)
    return Inversion(susceptibility, n_iterations, converged, residual)


def _check(settings: MediSettings, *, radian_per_ppm, csf_mask, mask: Tensor) -> None:
    """Refuse settings whose input is missing."""
    if settings.nonlinear and not radian_per_ppm:
        raise ValueError("the nonlinear data term needs radian_per_ppm")
    if settings.csf_regularisation and (csf_mask is None or not (csf_mask.bool() & mask.bool()).any()):
        raise ValueError("csf_regularisation needs a csf_mask with voxels in the mask")


def _objective(
    field: Tensor,
    *,
    noise: Tensor,
    magnitude: Tensor,
    inside: Tensor,
    csf: Tensor | None,
    voxel_size: Sequence[float],
    b0_direction: Sequence[float],
    settings: MediSettings,
    radian_per_ppm: float | None,
) -> tuple[MorphologyObjective, Tensor]:
    """What to minimise, and where χ is known once it is minimal."""
    radius = settings.smv_radius
    reach = [math.ceil(radius / float(edge)) for edge in voxel_size]
    convolve = DipoleConvolution(
        field.shape,
        voxel_size=voxel_size,
        b0_direction=b0_direction,
        padding=[max(size // 2, extra) for size, extra in zip(field.shape, reach, strict=True)],
        device=field.device,
        dtype=field.dtype,
    )
    valid = inside
    if radius:
        mean = spherical_mean_kernel(
            convolve.grid, voxel_size=voxel_size, radius=radius, device=field.device, dtype=field.dtype
        )
        valid = inside & (_filtered(inside.to(field.dtype), mean, convolve.grid) > 0.999)
        field = torch.where(valid, field - _filtered(field, mean, convolve.grid), 0)
        convolve.kernel = convolve.kernel * (1 - mean)
    smooth = edge_free(magnitude, mask=inside, voxel_size=voxel_size, edge_fraction=settings.edge_fraction)
    objective = MorphologyObjective(
        convolve=convolve,
        field=field,
        weights=noise_weights(noise, mask=valid)[0].to(field.dtype),
        support=torch.ones_like(inside) if settings.outside_sources else inside,
        smooth=smooth,
        voxel_size=tuple(voxel_size),
        regularisation=settings.regularisation,
        smoothing=settings.smoothing,
        csf_mask=csf,
        csf_regularisation=settings.csf_regularisation,
        radian_per_ppm=radian_per_ppm if settings.nonlinear else None,
    )
    return objective, valid


def _filtered(image: Tensor, kernel: Tensor, grid: Sequence[int]) -> Tensor:
    """Convolution on a padded grid."""
    filtered = torch.fft.irfftn(torch.fft.rfftn(image, s=grid).mul_(kernel), s=grid)
    return filtered[tuple(slice(size) for size in image.shape)]


def _minimise(objective: MorphologyObjective, settings: MediSettings) -> tuple[Tensor, int, bool, float]:
    """χ, outer steps, whether they converged, and the residual relative to the field."""
    found = torch.zeros_like(objective.field)
    weights = objective.weights
    scale = torch.where(weights > 0, 1, OUTSIDE_SCALE**2).to(found.dtype)
    converged, steps = False, 0
    while not converged and steps < settings.max_outer_steps:
        change = conjugate_gradient(
            objective.curvature(found),
            -objective.gradient(found),
            preconditioner=scale.mul,
            rtol=settings.cg_tolerance,
            max_steps=settings.cg_steps,
        ).value
        found = found + change
        steps += 1
        known = weights > 0
        converged = bool(change[known].norm() <= settings.tolerance * found[known].norm())
        if settings.merit:
            objective = replace(objective, weights=_merit(weights, objective.misfit(found)))
    size = float((objective.weights * objective.field).norm())
    residual = float((objective.weights * objective.misfit(found)).norm())
    return found, steps, converged, residual / size if size else 0.0


def _merit(weights: Tensor, misfit: Tensor) -> Tensor:
    """Weights with outliers lowered, from the weights as they came and the newest residual."""
    deviation = weights * misfit
    sigma = 1.4826 * deviation[weights > 0].median()
    if not sigma > 0:
        return weights
    return weights / (deviation / (OUTLIER_THRESHOLD * sigma)).clamp(min=1).square()
