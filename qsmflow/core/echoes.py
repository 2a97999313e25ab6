"""Frequency, phase offset and decay from the complex multi-echo signal."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from scipy.special import chdtri
from torch import Tensor

#: Voxels fitted together on a core: their echoes stay in its cache, and no operation is split over threads.
CHUNK_VOXELS = 2**14
#: Voxels fitted together on another device, which needs more of them to be busy.
DEVICE_CHUNK_VOXELS = 2**18
#: Undamped steps that all voxels of a chunk take together; two are usual.
PLAIN_STEPS = 5
#: Share of a chunk's voxels that may be left for the damped iteration.
LEFT_SHARE = 0.05
#: Relative residual from which the noise, at an SNR of about 10, makes the alias unsure that uneven spacings
#: tell: it moves the start by more than the distance between two samples of a search.
UNSURE_OF_ALIAS = math.sqrt(0.02)
#: Difference of echo spacings, relative to the echo train, that single precision leaves between equal ones.
SPACING_TOLERANCE = 1e-6
#: What an empty mask and an empty image have in common.
NO_SIGNAL = "there is no signal inside the mask: it is empty, or all echoes are zero there"
#: Voxels that tell a median to 0.2 %.
SAMPLE_VOXELS = 2**18
#: Echo times that agree with an alias this well (cycles) cannot exclude it: 4 σ at SNR 20.
ALIAS_TOLERANCE = 0.05
#: Farthest alias of the shortest spacing that uneven echo times are asked to exclude.
LARGEST_ALIAS = 16
#: Frequencies searched per period and cycle over the echo train; Gauss–Newton does the rest.
SEARCH_DENSITY = 4
#: Largest R2* in units of 1 / TE_2: beyond it nothing would be left at the second echo.
LARGEST_DECAY = 10.0
#: Standard deviation given to a frequency that was not measured, in periods.
UNMEASURED_PERIODS = 1e3
#: Share of the voxels with signal that must settle for the fit to count as converged.
CONVERGED_SHARE = 0.99


@dataclass(frozen=True)
class EchoFit:
    """What :func:`fit_echoes` found; all maps are zero outside the mask.

    Attributes
    ----------
    frequency : Tensor
        (x, y, z), Hz, wrapped to ±frequency_period / 2; zero where there is no signal.
    frequency_noise : Tensor
        (x, y, z), standard deviation of the frequency in Hz: the Cramér–Rao bound at the fitted signal and
        the noise below. At most 1000 periods, the value of voxels in the mask without signal: finite, so
        that weights 1 / noise are safe and vanish.
    frequency_period : float
        Frequencies that differ by this many Hz give the same signal.
    phase_offset : Tensor
        (x, y, z), phase at TE = 0 in rad, within ±π; zero for a single echo.
    magnitude : Tensor
        (x, y, z), signal at TE = 0, units of the input; the measured magnitude for a single echo.
    r2star : Tensor or None
        (x, y, z), 1/s; None for a single echo. Noise may make it negative: clipping would bias its mean.
    relative_residual : Tensor
        (x, y, z), norm of data minus model over norm of the data, across echoes.
    bipolar_phase : Tensor or None
        (x, y, z), rad, within ±π/2; None unless fitted.
    noise : float
        Standard deviation of the real (and of the imaginary) channel, units of the input.
    n_iterations : int
        Most Gauss–Newton steps that a voxel took, plain and damped ones together.
    converged : bool
        Whether 99 % of the voxels with signal settled within the steps allowed.
    residual : float
        Median of the relative residual over the voxels with signal, or an even sample of many.
    """

    frequency: Tensor
    frequency_noise: Tensor
    frequency_period: float
    phase_offset: Tensor
    magnitude: Tensor
    r2star: Tensor | None
    relative_residual: Tensor
    bipolar_phase: Tensor | None
    noise: float
    n_iterations: int
    converged: bool
    residual: float


def fit_echoes(
    signal: Tensor,
    *,
    echo_times: Sequence[float],
    mask: Tensor | None = None,
    bipolar: bool = False,
    noise: float | None = None,
    max_steps: int = 30,
    tolerance: float = 1e-3,
) -> EchoFit:
    r"""Fit frequency and decay to the complex signal of each voxel by nonlinear least squares.

    .. math:: S(TE_k) = m \, e^{-TE_k R_2^*} \, e^{i(φ_0 + 2π f TE_k + (-1)^k β)}, \quad k = 0, 1, …

    with β only if ``bipolar``. The phase of the autocorrelation starts a Gauss–Newton iteration on the
    complex residual, in which amplitude and offset are solved for; voxels that do not settle start again
    from a search over the whole period, with damped steps, and keep the better fit. For Gaussian noise that
    is the maximum-likelihood estimate: neither wraps between echoes nor the noise floor of a magnitude bias
    it.

    A single echo gives f = ∠S / (2π TE), with no offset and no decay.

    Parameters
    ----------
    signal : Tensor
        Complex, (echo, x, y, z).
    echo_times : sequence of float
        Seconds, increasing, evenly spaced or not.
    mask : Tensor, optional
        Boolean, (x, y, z); everywhere unless given.
    bipolar : bool
        Fit the phase ±β that readouts of alternating polarity add (plus on the first echo). Only echoes of
        one polarity then tell the frequency, and the period is that of their spacings: half as long for
        even echo times.
    noise : float, optional
        Standard deviation of one channel. Unless given it is estimated from the residuals of the fit or,
        as one or two echoes leave none, from differences between neighbouring voxels (too small then where
        the scanner interpolated the image).
    max_steps : int
        Most Gauss–Newton steps.
    tolerance : float
        A voxel has settled once a step changes log-magnitude and phase by no more than this (rad).

    Returns
    -------
    EchoFit
        Maps, noise and how the iteration ended.

    Raises
    ------
    ValueError
        If shapes, echo times, mask or noise are unusable; if the signal inside the mask is not finite or
        zero everywhere; if ``bipolar`` meets fewer than three echoes; if the noise cannot be estimated.

    References
    ----------
    Kressler et al. 2010, 10.1109/TMI.2009.2023787; Liu et al. 2013, 10.1002/mrm.24272.

    Examples
    --------
    >>> times = torch.tensor([0.005, 0.010, 0.015]).reshape(3, 1, 1, 1)
    >>> signal = torch.polar(2 * torch.exp(-20 * times), 0.5 + 2 * torch.pi * 30 * times)
    >>> fit = fit_echoes(signal, echo_times=(0.005, 0.010, 0.015))
    >>> [round(v.item(), 3) for v in (fit.frequency, fit.phase_offset, fit.r2star, fit.magnitude)]
    [30.0, 0.5, 20.0, 2.0]
    >>> round(fit.frequency_period, 3)
    200.0
    """
    times = _checked_times(echo_times, bipolar=bipolar)
    mask = _checked_mask(signal, mask, n_echoes=len(times))
    if noise is not None and not 0 < noise < math.inf:
        raise ValueError(f"noise must be positive and finite, got {noise}")
    train = _EchoTrain.build(times, bipolar=bipolar)
    maps = {name: signal.real.new_zeros(mask.numel()) for name in train.map_names}
    fit_chunk = partial(_fit_chunk, signal=signal.flatten(1), maps=maps, train=train, tolerance=tolerance)
    ended = _fit_chunks(partial(fit_chunk, max_steps=max_steps), _chunks(mask.flatten()), mask.device)
    if ended.n_spoilt:
        raise ValueError(f"signal is not finite (NaN or infinite) in {ended.n_spoilt} voxels of the mask")
    if not ended.n_measured:
        raise ValueError(NO_SIGNAL)
    n_steps, n_unsettled = ended.n_iterations, ended.n_unsettled
    if len(ended.again) and n_steps < max_steps:
        chunks = ended.again.split(CHUNK_VOXELS)
        second = partial(fit_chunk, max_steps=max_steps - n_steps, again=True)
        second = _fit_chunks(second, chunks, mask.device)
        n_steps, n_unsettled = n_steps + second.n_iterations, second.n_unsettled
    images = {name: values.reshape(mask.shape) for name, values in maps.items()}
    size = images.pop("size")
    if noise is None:
        noise = _estimate_noise(signal, size, images["relative_residual"], train.degrees_of_freedom)
    images["frequency_noise"].mul_(noise).clamp_(max=UNMEASURED_PERIODS * train.period)
    return EchoFit(
        **{"r2star": None, "bipolar_phase": None, **images},
        frequency_period=train.period,
        noise=noise,
        n_iterations=n_steps,
        converged=n_unsettled <= (1 - CONVERGED_SHARE) * ended.n_measured,
        residual=float(_sampled(size, images["relative_residual"])[1].median()),
    )


def frequency_period(echo_times: Sequence[float], *, bipolar: bool = False) -> float:
    """Frequency shift that leaves the phase of every echo as it was, up to a common offset.

    It is one over the greatest common divisor of the echo spacings, those within one polarity if
    ``bipolar``; approximately, as scanners round: shifts that all echoes miss by less than 5 % of a cycle
    count. For one echo, whose offset is taken as zero, it is 1 / TE.

    Parameters
    ----------
    echo_times : sequence of float
        Seconds, increasing.
    bipolar : bool
        Whether odd and even echoes have phase offsets of their own (three echoes or more).

    Returns
    -------
    float
        Hz; at most 16 over the shortest spacing.

    Examples
    --------
    >>> [round(frequency_period(times)) for times in ((0.004, 0.009, 0.015), (0.00362, 0.00958, 0.01551))]
    [1000, 168]
    """
    if len(echo_times) == 1:
        return 1 / float(echo_times[0])
    stride = 2 if bipolar else 1
    trains = [np.asarray(echo_times[first::stride], dtype=float) for first in range(stride)]
    shortest = min(np.diff(train).min() for train in trains if len(train) > 1)
    length = max(np.ptp(train) for train in trains)

    def misses(frequency: np.ndarray) -> list[np.ndarray]:
        """Cycles by which each echo of each train misses the train's mean phase."""
        phasors = [np.exp(2j * np.pi * np.multiply.outer(frequency, train)) for train in trains]
        return [np.angle(p * p.mean(-1, keepdims=True).conj()) / (2 * np.pi) for p in phasors]

    candidates = np.arange(0.5 / shortest, LARGEST_ALIAS / shortest, 0.1 * ALIAS_TOLERANCE / length)
    fits = np.max([np.abs(m).max(-1) for m in misses(candidates)], axis=0) < ALIAS_TOLERANCE
    if not fits.any():
        return float(LARGEST_ALIAS / shortest)
    period = candidates[fits.argmax()]
    distances = [train - train.mean() for train in trains]
    slope = sum(m @ d for m, d in zip(misses(period), distances, strict=True))
    return float(period - slope / sum(d @ d for d in distances))


@dataclass(frozen=True)
class _EchoTrain:
    """Echo times in the form that the fit works with.

    In the relative time τ = (TE − TE_1) / (TE_n − TE_1) the model of polarity g is A exp(iφ_g + ζτ) with
    ζ = growth + i turn. Only ζ is nonlinear: the amplitude and phases that fit best follow from it
    (variable projection, 10.1137/0710036), and sums over echoes are polynomials in exp(ζ spacing).
    """

    times: np.ndarray
    period: float
    span: float
    tau: tuple[float, ...]
    groups: tuple[tuple[int, ...], ...]  # echo numbers of each polarity
    spacings: tuple[float, ...]  # distinct, of neighbours within a group
    steps: tuple[tuple[int, ...], ...]  # for each group, which spacing leads to each later echo
    degrees_of_freedom: int

    @classmethod
    def build(cls, times: np.ndarray, *, bipolar: bool) -> "_EchoTrain":
        """Prepare echo times (s)."""
        n_echoes, n_groups = len(times), 2 if bipolar else 1
        span = float(np.ptp(times)) or 1.0
        tau = (times - times[0]) / span
        groups = [range(first, n_echoes, n_groups) for first in range(n_groups)]
        distances = [np.diff(tau[group]) for group in groups]
        every = np.concatenate(distances)
        _, steps = np.unique((every / SPACING_TOLERANCE).round(), return_inverse=True)
        spacings = np.bincount(steps, every) / np.bincount(steps)
        cuts = np.cumsum([len(d) for d in distances])[:-1]
        return cls(
            times=times,
            period=frequency_period(times, bipolar=bipolar),
            span=span,
            tau=tuple(tau.tolist()),
            groups=tuple(tuple(group) for group in groups),
            spacings=tuple(spacings.tolist()),
            steps=tuple(tuple(part.tolist()) for part in np.split(steps, cuts)),
            degrees_of_freedom=2 * n_echoes - 3 - n_groups,
        )

    @property
    def n_aliases(self) -> int:
        """Frequencies within the period that the shortest spacing cannot tell apart."""
        return round(self.period * self.span * self.spacings[0])

    @property
    def whole_period(self) -> np.ndarray:
        """Turns over the period, dense enough that one of them lies next to any best fit."""
        period = self.period * self.span
        n_samples = math.ceil(SEARCH_DENSITY * period)
        return 2 * math.pi * period * ((np.arange(n_samples) + 0.5) / n_samples - 0.5)

    @property
    def largest_growth(self) -> float:
        """Decay per span, either way, that echoes can still show."""
        return LARGEST_DECAY * self.span / float(self.times[1])

    @property
    def map_names(self) -> list[str]:
        """Maps that a fit fills; those of a single echo without offset and residual stay zero."""
        names = ["frequency", "frequency_noise", "phase_offset", "magnitude", "relative_residual", "size"]
        several = ["r2star"] if len(self.times) > 1 else []
        return names + several + (["bipolar_phase"] if len(self.groups) > 1 else [])

    def factors(self, growth: Tensor, turn: Tensor) -> list[Tensor]:
        """Complex conjugate of exp(ζ spacing) for each spacing, (part, voxel)."""
        sizes = [(growth * spacing).exp() for spacing in self.spacings]
        phases = [turn * -spacing for spacing in self.spacings]
        return [torch.stack([a * p.cos(), a * p.sin()]) for a, p in zip(sizes, phases, strict=True)]

    def project(self, echoes: Tensor, growth: Tensor, factors: list[Tensor]) -> "_Projection":
        """Best amplitudes for ζ, and the sums over echoes (echo, part, voxel) that tell how to change ζ."""
        tiny = torch.finfo(growth.dtype).tiny
        squares = [_squared(factor) for factor in factors]
        phasors, totals = [], None
        for group, steps in zip(self.groups, self.steps, strict=True):
            total, moment = _horner(echoes, group, [(self.spacings[i], factors[i]) for i in steps])
            weights = _weight_sums(growth, [self.tau[k] for k in group], [squares[i] for i in steps])
            size = _squared(total).sqrt_()
            phasor = total / size.clamp_min(tiny)
            first = self.tau[group[0]]
            decay = (growth * first).exp_()
            in_phase = (phasor[0] * moment[0]).addcmul_(phasor[1], moment[1]).add_(size, alpha=first)
            quadrature = (phasor[0] * moment[1]).addcmul_(phasor[1], moment[0], value=-1)
            spread = weights[2] - weights[1].square() / weights[0].clamp_min(tiny)
            sums = [size * decay, in_phase * decay, quadrature * decay, spread, *weights]
            phasors.append(phasor)
            totals = sums if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
        along, in_phase, quadrature, spread, weight, first_moment, second_moment = totals
        amplitude = along / weight
        return _Projection(
            amplitude=amplitude,
            phasors=phasors,
            explained=along * amplitude,
            information=amplitude.square() * spread,
            growth_step=(in_phase / amplitude.clamp_min(tiny) - first_moment)
            / (second_moment - first_moment.square() / weight).clamp_min(tiny),
            turn_step=quadrature / (amplitude * spread).clamp_min(tiny),
        )

    def error(self, echoes: Tensor, growth: Tensor, factors: list[Tensor], found: "_Projection") -> Tensor:
        """Squared distance of echoes and model."""
        forward = [torch.stack([factor[0], -factor[1]]) for factor in factors]
        error = torch.zeros_like(growth)
        for phasor, group, steps in zip(found.phasors, self.groups, self.steps, strict=True):
            model = phasor * (found.amplitude * (growth * self.tau[group[0]]).exp_())
            for number, echo in enumerate(group):
                if number:
                    model = _product(model, forward[steps[number - 1]])
                difference = echoes[echo] - model
                error.addcmul_(difference[0], difference[0]).addcmul_(difference[1], difference[1])
        return error

    def start(self, echoes: Tensor) -> tuple[Tensor, Tensor]:
        """Growth and turn from neighbouring echoes, without a search if echoes are evenly spaced.

        The turn is the phase of the autocorrelation at the shortest spacing; uneven spacings tell which of
        its aliases it is.
        """
        tiny = torch.finfo(echoes.dtype).tiny
        early, late, real, imaginary = (torch.zeros_like(echoes[0, 0]) for _ in range(4))
        distance = 0.0
        for group, steps in zip(self.groups, self.steps, strict=True):
            for (first, second), step in zip(pairwise(group), steps, strict=True):
                before, after = echoes[first], echoes[second]
                early.addcmul_(before[0], before[0]).addcmul_(before[1], before[1])
                late.addcmul_(after[0], after[0]).addcmul_(after[1], after[1])
                distance += self.spacings[step] / (len(self.tau) - len(self.groups))
                if step == 0:
                    real.addcmul_(before[0], after[0]).addcmul_(before[1], after[1])
                    imaginary.addcmul_(before[0], after[1]).addcmul_(before[1], after[0], value=-1)
        growth = (late.clamp_min_(tiny) / early.clamp_min_(tiny)).log_().mul_(0.5 / distance)
        growth = growth.clamp_(-self.largest_growth, self.largest_growth)
        turn = torch.atan2(imaginary, real).div_(self.spacings[0])
        if self.n_aliases > 1:
            aliases = np.arange(self.n_aliases) - self.n_aliases // 2
            turn = self.search(echoes, around=turn, samples=2 * math.pi / self.spacings[0] * aliases)
        return growth, turn

    def search(self, echoes: Tensor, *, around: Tensor, samples: Sequence[float]) -> Tensor:
        """Slope of the phase, among samples around one, next to the best fit of the weighted phases.

        With magnitudes as measured the squared error falls with Σ_polarity |Σ_k |S_k| S_k exp(−iωτ_k)|.
        What a Newton step would gain is added, so that no alias wins because it lies closer to a sample.
        """
        tau, polarity = echoes.new_tensor(self.tau), echoes.new_zeros(len(self.groups), len(echoes))
        for row, group in zip(polarity, self.groups, strict=True):
            row[list(group)] = 1
        weights = echoes.square().sum(1)
        phase = around * -tau[:, None]
        carried = torch.stack(
            [_product(e, torch.stack([p.cos(), p.sin()])) for e, p in zip(echoes, phase, strict=True)], 1
        )
        weighted = (carried * weights.sqrt()).flatten(0, 1)
        tiny = torch.finfo(weights.dtype).tiny
        centre = (polarity @ (weights * tau[:, None])) / (polarity @ weights).clamp_min(tiny)
        curvature = (weights * (tau[:, None] - polarity.T @ centre).square()).sum(0)
        gain = 0.5 / curvature.clamp_min(tiny)
        best = torch.full_like(gain, -math.inf)
        turn = torch.zeros_like(gain)
        for sample in samples:
            cosine, sine = polarity * (sample * tau).cos(), polarity * (sample * tau).sin()
            carrier = torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)])
            carrier = torch.cat([carrier, carrier * tau.repeat(2)])
            sums = (carrier @ weighted).unflatten(0, (4, -1))
            real, imaginary, real_moment, imaginary_moment = sums
            size = (real.square() + imaginary.square()).sqrt()
            slope = ((real * imaginary_moment - imaginary * real_moment) / size.clamp_min(tiny)).sum(0)
            score = size.sum(0) + gain * slope.square()
            turn = torch.where(score > best, sample, turn)
            best = torch.maximum(score, best)
        return around + turn


@dataclass(frozen=True)
class _Projection:
    """Best amplitudes for a growth and turn, each (voxel,), and the Gauss–Newton step from there."""

    amplitude: Tensor
    phasors: list[Tensor]  # of each polarity at its first echo, (part, voxel)
    explained: Tensor  # energy of the model
    information: Tensor  # Fisher information of the turn times the noise variance
    growth_step: Tensor
    turn_step: Tensor


@dataclass(frozen=True)
class _ChunkFit:
    """How the iteration ended for a chunk of voxels."""

    n_measured: int
    n_spoilt: int
    n_iterations: int
    n_unsettled: int
    again: Tensor  # numbers of the voxels that deserve a second start


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Complex product of (part, voxel) planes."""
    product = a * b[0]
    product[0].addcmul_(a[1], b[1], value=-1)
    product[1].addcmul_(a[0], b[1])
    return product


def _squared(planes: Tensor) -> Tensor:
    """Squared size of complex (part, voxel) planes."""
    return planes[0].square().addcmul_(planes[1], planes[1])


def _horner(
    echoes: Tensor, group: tuple[int, ...], steps: list[tuple[float, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Σ_k S_k E_k and Σ_k (τ_k − τ_first) S_k E_k over a group, E_k the product of the factors up to k."""
    total, moment = echoes[group[-1]], None
    for echo, (spacing, factor) in zip(group[-2::-1], reversed(steps), strict=True):
        moment = _product(total * spacing if moment is None else moment.add_(total, alpha=spacing), factor)
        total = _product(total, factor).add_(echoes[echo])
    return total, torch.zeros_like(total) if moment is None else moment


def _weight_sums(growth: Tensor, tau: list[float], squares: list[Tensor]) -> list[Tensor]:
    """Σ_k w_k τ_k^p for p = 0, 1, 2 with w_k = exp(2 growth τ_k); squares lead from each w to the next."""
    weight = (growth * (2 * tau[0])).exp_()
    sums = [weight * tau[0] ** power for power in range(3)]
    for time, square in zip(tau[1:], squares, strict=True):
        weight = weight * square
        for power in range(3):
            sums[power].add_(weight, alpha=time**power)
    return sums


def _wrapped(values: Tensor, period: float) -> Tensor:
    """Values moved by whole periods to within half a period of zero."""
    return values - period * (values / period).round()


def _refine(
    echoes: Tensor, growth: Tensor, turn: Tensor, *, train: _EchoTrain, max_steps: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Gauss–Newton in place until few voxels move; returns growth, turn, who still moves, and steps.

    Every voxel takes every step: dropping the settled ones, and judging the steps, costs more than it
    saves while most of them still move. Those left are for :func:`_refine_damped`.
    """
    n_steps, n_moving = 0, len(turn)
    while n_moving > LEFT_SHARE * len(turn) and n_steps < min(max_steps, PLAIN_STEPS):
        found = train.project(echoes, growth, train.factors(growth, turn))
        growth = (growth + found.growth_step).clamp_(-train.largest_growth, train.largest_growth)
        turn = turn + found.turn_step
        moving = ~(torch.maximum(found.growth_step.abs_(), found.turn_step.abs_()) <= tolerance)
        n_moving = int(moving.count_nonzero())
        n_steps += 1
    return growth, turn, moving, n_steps


def _refine_damped(
    echoes: Tensor, growth: Tensor, turn: Tensor, *, train: _EchoTrain, max_steps: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Damped Gauss–Newton; returns growth, turn, who still moves, and steps.

    A step after which the model explains less of the signal is taken back and tried at a quarter of its
    length, which is a Levenberg–Marquardt step. Voxels that settled are dropped once they are half of all.
    """
    rounding = 4 * torch.finfo(growth.dtype).eps
    found = torch.stack([growth, turn])
    active = torch.arange(len(growth), device=growth.device)
    kept, trial, step = found, found, torch.zeros_like(found)
    best = torch.full_like(growth, -math.inf)
    n_steps = 0
    while len(active) and n_steps < max_steps:
        fit = train.project(echoes, trial[0], train.factors(*trial))
        better = fit.explained >= best - rounding * best.abs()  # False for what is not finite, too
        best = torch.where(better, fit.explained, best)
        kept = torch.where(better, trial, kept)
        step = torch.where(better, torch.stack([fit.growth_step, fit.turn_step]), 0.25 * step)
        trial = kept + step
        trial[0].clamp_(-train.largest_growth, train.largest_growth)
        step = trial - kept
        n_steps += 1
        going = step.abs().amax(0) > tolerance
        n_going = int(going.count_nonzero())
        if 2 * n_going <= len(active):
            found[:, active] = trial
            echoes, kept, trial, step = (t[..., going] for t in (echoes, kept, trial, step))
            active, best, going = active[going], best[going], going[going]
    found[:, active] = kept  # the best so far; their last step was not judged
    moving = torch.zeros_like(growth, dtype=torch.bool)
    moving[active] = going
    return found[0], found[1], moving, n_steps


def _loaded(signal: Tensor, voxels: slice | Tensor) -> tuple[Tensor, Tensor]:
    """Echoes of some voxels as real planes (echo, part, voxel) of unit size, and their scale (voxel,).

    Planes of real numbers are faster than complex ones; a unit scale keeps single precision from over- and
    underflow.
    """
    part = torch.view_as_real(signal[:, voxels])
    echoes = part.new_empty(len(part), 2, part.shape[1])
    scale = part.new_zeros(part.shape[1])
    for planes, values in zip(echoes, part, strict=True):
        planes.copy_(values.T)
        sizes = planes.abs()
        scale = torch.maximum(scale, torch.maximum(sizes[0], sizes[1], out=sizes[0]))
    inverse = 1 / scale.clamp_min(torch.finfo(scale.dtype).tiny)
    for planes in echoes:
        planes.mul_(inverse)
    return echoes, scale


def _described(
    echoes: Tensor, scale: Tensor, growth: Tensor, turn: Tensor, *, train: _EchoTrain
) -> dict[str, Tensor]:
    """Physical maps (voxel,) of a growth and turn; finite, and zero without signal."""
    factors = train.factors(growth, turn)
    found = train.project(echoes, growth, factors)
    error = train.error(echoes, growth, factors, found)
    energy = torch.zeros_like(scale)
    for planes in echoes:
        energy.addcmul_(planes[0], planes[0]).addcmul_(planes[1], planes[1])
    size = energy.sqrt_()
    r2star = growth / -train.span
    frequency = _wrapped(turn / (2 * math.pi * train.span), train.period)
    # An alias keeps the phase of each polarity at its first echo (echo g of group g), not at TE = 0.
    offsets = [
        torch.atan2(phasor[1], phasor[0]) - frequency * (2 * math.pi * float(time))
        for phasor, time in zip(found.phasors, train.times, strict=False)
    ]
    phase_offset = offsets[0]
    bipolar = {}
    if len(offsets) == 2:
        # Adding π to the bipolar phase and to the offset changes neither polarity.
        bipolar["bipolar_phase"] = _wrapped((offsets[0] - offsets[1]) / 2, math.pi)
        phase_offset = offsets[0] - bipolar["bipolar_phase"]
    maps = {
        "frequency": frequency,
        "frequency_noise": 1 / (found.information.sqrt() * scale * (2 * math.pi * train.span)),
        "phase_offset": _wrapped(phase_offset, 2 * math.pi),
        "magnitude": found.amplitude * scale * (r2star * float(train.times[0])).exp_(),
        "r2star": r2star,
        "relative_residual": error.sqrt_() / size.clamp_min(torch.finfo(size.dtype).tiny),
        "size": scale * size,
        **bipolar,
    }
    return maps


def _fit_chunk(
    voxels: slice | Tensor,
    *,
    signal: Tensor,
    maps: dict[str, Tensor],
    train: _EchoTrain,
    max_steps: int,
    tolerance: float,
    again: bool = False,
) -> _ChunkFit:
    """Fit voxels of the signal (echo, voxel) and write what was found into the maps (voxel,).

    ``again`` starts from a search over the whole period, damps the iteration, and writes only what fits
    better than what the maps hold.
    """
    echoes, scale = _loaded(signal, voxels)
    if len(train.times) == 1:
        still = torch.zeros_like(scale, dtype=torch.bool)
        found = _described_single_echo(echoes, scale, train=train)
        return _written(found, voxels, maps, again=still, moving=still, n_iterations=0)
    growth, turn = train.start(echoes)
    if again:
        turn = train.search(echoes, around=torch.zeros_like(turn), samples=train.whole_period)
    refine = _refine_damped if again else _refine
    growth, turn, moving, n_steps = refine(
        echoes, growth, turn, train=train, max_steps=max_steps, tolerance=tolerance
    )
    found = _described(echoes, scale, growth, turn, train=train)
    residual = found["relative_residual"]
    if again:
        better = ~(maps["relative_residual"][voxels] < residual)
        found = {name: values[better] for name, values in found.items()}
        ended = _written(
            found, voxels[better], maps, moving=moving[better], again=moving[better], n_iterations=n_steps
        )
        return replace(ended, n_unsettled=int(moving.count_nonzero()))
    suspect = moving | (residual > UNSURE_OF_ALIAS) if train.n_aliases > 1 else moving
    return _written(found, voxels, maps, again=suspect, moving=moving, n_iterations=n_steps)


def _described_single_echo(echoes: Tensor, scale: Tensor, *, train: _EchoTrain) -> dict[str, Tensor]:
    """Maps of one echo, whose phase is all precession; nothing is left to iterate or to judge."""
    real, imaginary = echoes[0]
    size = (real.square() + imaginary.square()).sqrt_() * scale
    per_radian = train.period / (2 * math.pi)
    return {
        "frequency": torch.atan2(imaginary, real) * per_radian,
        "frequency_noise": per_radian / size,
        "magnitude": size,
        "size": size,
    }


def _written(
    found: dict[str, Tensor],
    voxels: slice | Tensor,
    maps: dict[str, Tensor],
    *,
    again: Tensor,
    moving: Tensor,
    n_iterations: int,
) -> _ChunkFit:
    """Write maps of a chunk, zero where there is no signal; the counts leave such voxels out."""
    size = found["size"]
    measured = size > 0
    n_measured = int(measured.count_nonzero())
    n_spoilt = 0
    if n_measured < len(size):
        n_spoilt = int((~size.isfinite()).count_nonzero())
        found = {name: values.masked_fill(~measured, 0) for name, values in found.items()}
        found["frequency_noise"].masked_fill_(~measured, math.inf)
        again, moving = again & measured, moving & measured
    for name, values in found.items():
        maps[name][voxels] = values
    again = again.nonzero().squeeze(1)
    return _ChunkFit(
        n_measured=n_measured,
        n_spoilt=n_spoilt,
        n_iterations=n_iterations,
        n_unsettled=int(moving.count_nonzero()),
        again=again + voxels.start if isinstance(voxels, slice) else voxels[again],
    )


def _fit_chunks(
    fit_chunk: Callable[[slice | Tensor], _ChunkFit], chunks: Sequence[slice | Tensor], device: torch.device
) -> _ChunkFit:
    """Fit chunks side by side, a thread each, and add up how they ended."""
    n_threads = torch.get_num_threads() if device.type == "cpu" else 1
    with ThreadPoolExecutor(n_threads) as pool:
        ended = list(pool.map(fit_chunk, chunks))
    return _ChunkFit(
        n_measured=sum(chunk.n_measured for chunk in ended),
        n_spoilt=sum(chunk.n_spoilt for chunk in ended),
        n_iterations=max(chunk.n_iterations for chunk in ended),
        n_unsettled=sum(chunk.n_unsettled for chunk in ended),
        again=torch.cat([chunk.again for chunk in ended]),
    )


def _chunks(mask: Tensor) -> Sequence[slice | Tensor]:
    """Voxels of the flat mask in chunks; slices, which need no gathering, of a mask that leaves none out."""
    size = CHUNK_VOXELS if mask.device.type == "cpu" else DEVICE_CHUNK_VOXELS
    if mask.all():
        return [slice(start, min(start + size, len(mask))) for start in range(0, len(mask), size)]
    return mask.nonzero().squeeze(1).split(size)


def _sampled(size: Tensor, *others: Tensor) -> list[Tensor]:
    """Size and other maps at voxels with signal, evenly drawn where there are many."""
    step = max(1, int(size.count_nonzero()) // SAMPLE_VOXELS)
    size, *others = (values.flatten()[::step] for values in (size, *others))
    return [values[size > 0] for values in (size, *others)]


def _estimate_noise(signal: Tensor, size: Tensor, residuals: Tensor, degrees_of_freedom: int) -> float:
    """Standard deviation of one channel; medians, as vessels and air do not follow the model.

    The squared error over σ² is χ² distributed. Without degrees of freedom, mixed second differences
    along all axes (Immerkær 1996, 10.1006/cviu.1996.0060, in three dimensions) stand in for it. Sizes
    (x, y, z) and relative residuals are norms over the echoes.
    """
    sizes, residuals = _sampled(size, residuals)
    # Data without noise still carry the rounding of their precision.
    smallest = torch.finfo(size.dtype).eps * float(sizes.median())
    if degrees_of_freedom > 0:
        error = float((residuals * sizes).median())
        return max(error / math.sqrt(chdtri(degrees_of_freedom, 0.5)), smallest)
    difference, inside, gain = signal, size > 0, 1.0
    for axis, length in enumerate(size.shape):
        if length < 3:
            continue
        difference = difference.diff(n=2, dim=axis + 1)
        inside = inside.unfold(axis, 3, 1).all(-1)
        gain *= math.sqrt(6)
    values = torch.view_as_real(difference[:, inside]).abs()
    if gain == 1.0 or not values.numel():
        raise ValueError("the mask holds no 3 x 3 x 3 voxels to estimate the noise from: give noise")
    median_of_normal = math.sqrt(chdtri(1, 0.5))
    return max(float(values.median()) / (median_of_normal * gain), smallest)


def _checked_times(echo_times: Sequence[float], *, bipolar: bool) -> np.ndarray:
    """Echo times as float64, or a ValueError that says what is wrong with them."""
    times = np.asarray(echo_times, dtype=float)
    if times.ndim != 1 or not len(times) or not np.isfinite(times).all() or times[0] <= 0:
        raise ValueError(f"echo times must be a list of positive seconds, got {echo_times}")
    if (np.diff(times) <= 0).any():
        raise ValueError(f"echo times must increase without repeats, got {echo_times}")
    if bipolar and len(times) < 3:
        raise ValueError(f"a bipolar phase needs three echoes or more, got {len(times)}")
    return times


def _checked_mask(signal: Tensor, mask: Tensor | None, *, n_echoes: int) -> Tensor:
    """The mask, everywhere unless given, or a ValueError that says what is wrong."""
    if not signal.is_complex() or signal.ndim != 4:
        raise ValueError(f"signal must be complex (echo, x, y, z), got {signal.dtype} {tuple(signal.shape)}")
    if len(signal) != n_echoes:
        raise ValueError(f"signal has {len(signal)} echoes but there are {n_echoes} echo times")
    shape = signal.shape[1:]
    mask = torch.ones(shape, dtype=torch.bool, device=signal.device) if mask is None else mask.bool()
    if mask.shape != shape:
        raise ValueError(f"mask {tuple(mask.shape)} and signal {tuple(shape)} differ in shape")
    if not mask.any():
        raise ValueError(NO_SIGNAL)
    return mask
