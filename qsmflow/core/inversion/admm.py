"""Alternating directions for a weighted dipole inversion with an exact L1 norm of the gradient."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmflow.core.dipole import dipole_kernel
from qsmflow.core.fourier import good_size, spherical_mean_kernel, voxels_along

#: Penalty of the splitting of the field over the mean squared weight, and gradient in ppm/mm at which the
#: splitting of the gradient and its threshold meet: with sources around the mask held down, and with free
#: ones, which larger steps reach sooner.
PENALTIES = {"held": (0.25, 0.007), "free": (0.05, 0.06)}
#: Penalty of the splitting of the susceptibility itself over the mean squared weight, at most.
IMAGE_PENALTY = 0.02
#: κ where sources around the mask are not wanted: enough to take up how the far field wraps around the grid.
OUTSIDE_WEIGHT = 0.01
#: Over-relaxation, between 1 and 2.
RELAXATION = 1.8
#: Voxels worked on at a time: a few images of them fit a core's cache; a graphics card takes all at once.
CHUNK_VOXELS = {"cpu": 2**18, "cuda": 2**30}
#: Iterations between two looks at the objective.
CHECK_INTERVAL = 5
#: Relative change of λ below which it counts as found.
REGULARISATION_TOLERANCE = 0.2
#: Relative change of the data term between two looks below which λ and weights may follow it.
SETTLED = 0.1
#: Sides in mm that the grid grows by, so that the far field of one side hardly reaches the other.
PADDING = 20.0


@dataclass(frozen=True, kw_only=True)
class InversionProblem:
    """½‖W ρ(d∗χ − b)‖² + λ‖M∇χ‖₁ + ½κ‖χ_outside‖² + ½λ_C‖M_C(χ − mean_C χ)‖² in a box around a mask.

    With the nonlinear data term |ρ(u)| = |exp(iru) − 1| / r, the distance of two phasors, else
    ρ(u) = u; both agree for small phases, so λ means the same. The modulus is exact and anisotropic.

    Attributes
    ----------
    field : Tensor
        b, (x, y, z) in ppm.
    weights : Tensor
        W, (x, y, z), zero where there is no data.
    smooth : Tensor
        M, (3, x, y, z), boolean: the differences to the next voxel that count, none beyond the last.
    inside : Tensor
        (x, y, z), boolean, where χ is wanted; all around it, on the solver's whole grid, is outside.
    outside_weight : float
        κ, dimensionless: 0 leaves χ around the mask free, infinity keeps it at zero.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes.
    regularisation : float
        λ in ppm·mm.
    radian_per_ppm : float or None
        r of the nonlinear data term; the linear one if None.
    smv_radius : float
        Radius in mm of the spherical mean taken off the dipole; 0 for none.
    csf_mask : Tensor or None
        (x, y, z), boolean.
    csf_regularisation : float
        λ_C, dimensionless.
    """

    field: Tensor
    weights: Tensor
    smooth: Tensor
    inside: Tensor
    outside_weight: float
    voxel_size: Sequence[float]
    b0_direction: Sequence[float]
    regularisation: float
    radian_per_ppm: float | None = None
    smv_radius: float = 0.0
    csf_mask: Tensor | None = None
    csf_regularisation: float = 0.0


class AlternatingDirections:
    """Minimises an :class:`InversionProblem` by the alternating direction method of multipliers.

    The field d∗χ, the gradient ∇χ, and where needed χ itself are split off. What each splitting asks of
    its term is a pointwise formula, and what is left for χ is diagonal in the Fourier domain. The step
    is kept in the form of a correction: with the relaxed image χ̄ and for each splitting K the relaxed
    scaled dual τ,

        s = t − prox(t), t = τ + K χ̄        (zero where the term does not act)
        χ̄ ← χ̄ + α (Σ μ KᴴK)⁻¹ Σ μ Kᴴ(τ − 2 s),    τ ← τ + α (s − τ)

    which is over-relaxed Douglas–Rachford splitting. Split variables are never stored, an iteration takes
    four real transforms, and images are kept in the box of the mask without gaps, so that a difference
    along any axis is one of two stretches of memory. What is pointwise goes stretch by stretch, short
    enough for a core's cache. With the nonlinear data term all is in rad, not in ppm. Problem and solver
    share no tensor but the masks, so the problem's may be dropped.

    Parameters
    ----------
    problem : InversionProblem
        What to minimise.

    References
    ----------
    Boyd et al. 2011, 10.1561/2200000016; Eckstein and Bertsekas 1992, 10.1007/BF01581204; for
    susceptibility: Milovic et al. 2018, 10.1002/mrm.27073.

    Examples
    --------
    >>> ones = torch.ones(6, 6, 6)
    >>> problem = InversionProblem(
    ...     field=0 * ones,
    ...     weights=ones,
    ...     smooth=torch.zeros(3, 6, 6, 6, dtype=torch.bool),
    ...     inside=ones > 0,
    ...     outside_weight=0.0,
    ...     voxel_size=(1, 1, 1),
    ...     b0_direction=(0, 0, 1),
    ...     regularisation=1e-4,
    ... )
    >>> solver = AlternatingDirections(problem)
    >>> solver.iterate()
    >>> solver.terms()
    (0.0, 0.0, 0.0)
    """

    def __init__(self, problem: InversionProblem):
        field, shape = problem.field, problem.field.shape
        self._nonlinear = problem.radian_per_ppm is not None
        self._unit = float(problem.radian_per_ppm or 1.0)
        self._edges = tuple(float(edge) for edge in problem.voxel_size)
        self._strides = (shape[1] * shape[2], shape[2], 1)
        self._box = tuple(slice(size) for size in shape)
        self._csf_mask, self._csf_weight = problem.csf_mask, problem.csf_regularisation
        reach = max(PADDING, problem.smv_radius)
        self.grid = good_size(shape, padding=voxels_along(reach, voxel_size=self._edges))
        self._set_penalties(problem)
        self._kernel = self._dipole(problem)
        self._inverse = self._inverted()
        self.reweight(problem.weights)
        self._field_norm = float(torch.linalg.vector_norm(problem.weights * field))
        self._smooth = problem.smooth.view(torch.uint8).flatten(1)
        self._work = field.new_zeros(self.grid)
        self._spectra = [torch.fft.rfftn(self._work) for _ in range(2)]
        # While the spectra are not in use their memory serves for an image.
        self._idle = torch.view_as_real(self._spectra[1]).flatten()[: field.numel()]
        length = CHUNK_VOXELS[field.device.type]
        self._chunks = [slice(n, min(n + length, field.numel())) for n in range(0, field.numel(), length)]
        self._error = field.mul(-self._unit).contiguous()
        self._image = torch.zeros_like(self._error)
        self._field_dual = torch.zeros_like(self._error)
        self._gradient_dual = field.new_zeros((3, *shape))
        if self._held:
            self._inside = problem.inside
            self._whole_image, self._image_dual = torch.zeros_like(self._work), torch.zeros_like(self._work)
        if self._csf_weight:
            self._csf_dual = field.new_zeros(int(problem.csf_mask.sum()))

    def _set_penalties(self, problem: InversionProblem) -> None:
        """Penalties μ of the splittings, from the scales of the problem."""
        power = float(problem.weights[problem.weights > 0].square().mean())
        self._held = problem.outside_weight > 0
        share, self._gradient_scale = PENALTIES["held" if self._held else "free"]
        self._field_penalty = share * power
        self._regularisation = problem.regularisation
        identity = self._held or bool(problem.csf_regularisation)
        limit = 2 * problem.outside_weight if self._held else math.inf
        self._image_penalty = min(IMAGE_PENALTY, limit) * power if identity else 0.0
        self._outside_gain = 1 / (1 + self._image_penalty / problem.outside_weight) if self._held else 0.0

    def _dipole(self, problem: InversionProblem) -> Tensor:
        """χ to field in the Fourier domain."""
        like = {"device": problem.field.device, "dtype": problem.field.dtype}
        space = {"voxel_size": problem.voxel_size, **like}
        kernel = dipole_kernel(self.grid, b0_direction=problem.b0_direction, **space)
        if problem.smv_radius:
            mean = spherical_mean_kernel(self.grid, radius=problem.smv_radius, **space)
            kernel.mul_(mean.neg_().add_(1))
        return kernel

    def _inverted(self) -> Tensor:
        """(Σ μ KᴴK)⁻¹ in the Fourier domain."""
        normal = self._kernel.square().mul_(self._field_penalty).add_(self._image_penalty)
        for axis, (size, edge) in enumerate(zip(self.grid, self._edges, strict=True)):
            half = math.pi * torch.arange(normal.shape[axis], dtype=torch.float64) / size
            stiffness = self._gradient_penalty * (2 / edge * half.sin()).square()
            normal += stiffness.reshape([-1 if a == axis else 1 for a in range(3)]).to(normal)
        if not self._image_penalty:
            normal[0, 0, 0] = math.inf  # the mean is free and stays zero
        return normal.reciprocal_()

    @property
    def regularisation(self) -> float:
        """λ in ppm·mm; a new one keeps the iterate."""
        return self._regularisation

    @regularisation.setter
    def regularisation(self, value: float) -> None:
        # Penalty and threshold stay in step, so the scaled duals, which are gradients, need no change.
        self._regularisation = value
        self._inverse = self._inverted()

    @property
    def _gradient_penalty(self) -> float:
        return self._regularisation / self._gradient_scale

    def reweight(self, weights: Tensor) -> None:
        """Go on with other weights W, (x, y, z)."""
        squared = weights.square()
        self._gain = squared.div_(squared + self._field_penalty).contiguous()

    def iterate(self) -> None:
        """One step: four real transforms and about forty passes over the box."""
        kernel, (first, second) = self._kernel, self._spectra
        self._correct_image()
        torch.fft.rfftn(self._work, out=first)
        self._correct_field()
        torch.fft.rfftn(self._work, out=second)
        planes = max(1, CHUNK_VOXELS[first.device.type] // first[0].numel())
        parts = [tensor.split(planes) for tensor in (first, second, kernel, self._inverse)]
        for image, field, dipole, inverse in zip(*parts, strict=True):
            image.add_(field.mul_(dipole), alpha=self._field_penalty).mul_(inverse)
            torch.mul(image, dipole, out=field)
        torch.fft.irfftn(first, s=self.grid, out=self._work)
        self._image.add_(self._work[self._box], alpha=RELAXATION)
        if self._held:
            self._whole_image.add_(self._work, alpha=RELAXATION)
        torch.fft.irfftn(second, s=self.grid, out=self._work)
        self._error.add_(self._work[self._box], alpha=RELAXATION)

    def _correct_image(self) -> None:
        """Σ μ Kᴴ(τ − 2 s) of the splittings of the gradient and the image, into the work space."""
        total, image = self._idle.zero_(), self._image.flatten()
        threshold, penalty = self._gradient_scale * self._unit, self._gradient_penalty
        for axis, (stride, edge) in enumerate(zip(self._strides, self._edges, strict=True)):
            duals, smooth = self._gradient_dual[axis].flatten(), self._smooth[axis]
            for chunk in self._chunks:
                dual, ahead = duals[chunk], slice(chunk.start + stride, chunk.stop + stride)
                step = dual - image[chunk]
                step[: max(0, image.numel() - ahead.start)].add_(image[ahead])
                step.clamp_(-threshold * edge, threshold * edge).mul_(smooth[chunk])
                correction = torch.sub(dual, step, alpha=2)
                dual.lerp_(step, RELAXATION)
                total[chunk].sub_(correction, alpha=penalty / edge**2)
                reaching = correction[: max(0, image.numel() - ahead.start)]
                total[ahead].add_(reaching, alpha=penalty / edge**2)
        total = total.view(self._image.shape)
        if self._csf_weight:
            self._correct_csf(total)
        if self._held:
            self._correct_outside()
        else:
            self._work.zero_()
        self._work[self._box].add_(total)

    def _correct_outside(self) -> None:
        """μ (τ − 2 s) of the splitting that holds down χ around the mask, into the work space."""
        work, dual = self._work, self._image_dual
        torch.add(dual, self._whole_image, out=work).mul_(self._outside_gain)
        work[self._box].masked_fill_(self._inside, 0)
        # τ − 2 s while s is in the work space, and τ after it: both from one difference.
        work.sub_(dual)
        dual.add_(work, alpha=RELAXATION)
        work.mul_(RELAXATION - 2).sub_(dual).mul_(self._image_penalty)

    def _correct_csf(self, target: Tensor) -> None:
        """Add the correction of the splitting that makes the fluid uniform."""
        where, dual = self._csf_mask, self._csf_dual
        moved = dual + self._image[where]
        step = (moved - moved.mean()) * (self._csf_weight / (self._csf_weight + self._image_penalty))
        target[where] += self._image_penalty * (dual - 2 * step)
        dual.lerp_(step, RELAXATION)

    def _correct_field(self) -> None:
        """τ − 2 s of the splitting of the field, into the work space."""
        correction = self._idle
        flat = (self._error.flatten(), self._field_dual.flatten(), self._gain.flatten(), correction)
        for chunk in self._chunks:
            error, dual, gain, corrected = (tensor[chunk] for tensor in flat)
            # s = gain (s + sin(t − b − s)) with the last s, τ, on the right: the curvature of one bounds the
            # sine's, so it descends, in the turn of the error; once s = τ it is the root.
            force = error.sin() if self._nonlinear else error
            step = torch.add(force, dual).mul_(gain)
            torch.sub(dual, step, alpha=2, out=corrected)
            dual.lerp_(step, RELAXATION)
        self._work.zero_()
        self._work[self._box] = correction.view(self._error.shape)

    def misfit(self) -> Tensor:
        """|ρ(d∗χ − b)| in ppm, (x, y, z), not weighted; valid until the next step."""
        misfit = self._idle.view(self._error.shape)
        if self._nonlinear:
            return torch.mul(self._error, 0.5, out=misfit).sin_().abs_().mul_(2 / self._unit)
        return torch.abs(self._error, out=misfit)

    def _data_term(self) -> float:
        """½‖Wρ‖² in ppm²; W² is told from the gain, so that the weights need not be kept."""
        total, pairs = 0.0, (self.misfit().flatten(), self._gain.flatten())
        for chunk in self._chunks:
            misfit, gain = (tensor[chunk] for tensor in pairs)
            total += (gain / (1 - gain)).mul_(misfit).mul_(misfit).sum(dtype=torch.float64)
        return float(total) * self._field_penalty / 2

    def terms(self) -> tuple[float, float, float]:
        """½‖Wρ‖² and the quadratic terms of χ in ppm², and ‖M∇χ‖₁ in ppm/mm, summed over voxels."""
        data, quadratic = self._data_term(), 0.0
        if self._csf_weight:
            fluid = self._image[self._csf_mask] / self._unit
            quadratic += self._csf_weight / 2 * float((fluid - fluid.mean()).square().sum())
        if self._held and self._outside_gain < 1:
            weight = self._image_penalty * self._outside_gain / (1 - self._outside_gain)
            torch.mul(self._whole_image, 1 / self._unit, out=self._work)
            self._work[self._box].masked_fill_(self._inside, 0)
            quadratic += weight / 2 * float(self._work.square_().sum())
        image, rough = self._image.flatten(), 0.0
        for axis, (stride, edge) in enumerate(zip(self._strides, self._edges, strict=True)):
            for chunk in self._chunks:
                ahead = image[chunk.start + stride : chunk.stop + stride]
                here = slice(chunk.start, chunk.start + ahead.numel())
                steps = (ahead - image[here]).abs_().mul_(self._smooth[axis][here])
                rough += steps.sum(dtype=torch.float64) / edge
        return data, quadratic, float(rough) / self._unit

    @property
    def susceptibility(self) -> Tensor:
        """χ in ppm, (x, y, z) in the box."""
        return self._image / self._unit

    def residual(self) -> float:
        """‖Wρ‖ / ‖W b‖, with the weights as they are now over those of the start."""
        return math.sqrt(2 * self._data_term()) / self._field_norm if self._field_norm else 0.0


def minimise(
    solver: AlternatingDirections,
    *,
    tolerance: float,
    max_iterations: int,
    reweighted: Callable[[Tensor], Tensor] | None = None,
    adapted: Callable[[float, float], float] | None = None,
) -> tuple[int, bool]:
    """Iterate until the objective settles.

    Parameters
    ----------
    solver : AlternatingDirections
        Changed in place.
    tolerance : float
        Stop once ``CHECK_INTERVAL`` iterations change the objective by less than this fraction of it.
    max_iterations : int
        Most iterations.
    reweighted : callable, optional
        From the misfit to the weights to go on with, at every look with a settled data term.
    adapted : callable, optional
        From λ and the data term to the λ to go on with, at every look with a settled data term.

    Returns
    -------
    tuple of int and bool
        Iterations, and whether the objective settled.
    """
    previous, last_data = math.inf, math.inf
    for iteration in range(1, max_iterations + 1):
        solver.iterate()
        if iteration % CHECK_INTERVAL:
            continue
        misfit, quadratic, roughness = solver.terms()
        data = misfit + quadratic
        objective = data + solver.regularisation * roughness
        proposed = solver.regularisation if adapted is None else adapted(solver.regularisation, misfit)
        if abs(previous - objective) <= tolerance * objective and _close(proposed, solver):
            return iteration, True
        # What is made of a residual waits until it is that of λ and weights, not of the steps so far.
        if abs(last_data - data) <= SETTLED * data:
            if not _close(proposed, solver):
                solver.regularisation = proposed
            if reweighted is not None:
                solver.reweight(reweighted(solver.misfit()))
        previous, last_data = objective, data
    return max_iterations, False


def _close(proposed: float, solver: AlternatingDirections) -> bool:
    """Whether a λ is so near the one in use that a change is not worth its restart."""
    return abs(math.log(proposed / solver.regularisation)) < REGULARISATION_TOLERANCE
