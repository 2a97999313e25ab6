"""Frequency, phase offset and decay from the complex multi-echo signal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

#: Voxels fitted together, so that their echoes stay in a core's cache.
CHUNK_VOXELS = 2**15
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
        Most Gauss–Newton steps that a voxel took.
    converged : bool
        Whether 99 % of the voxels with signal settled within the steps allowed.
    residual : float
        Median of the relative residual over the voxels with signal.
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

    with β only if ``bipolar``. A search over the whole period, phases weighted by the measured magnitude,
    starts a damped Gauss–Newton iteration on the complex residual. For Gaussian noise that is the
    maximum-likelihood estimate: neither wraps between echoes nor the noise floor of a magnitude bias it.

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
    mask, measured = _checked_masks(signal, mask, n_echoes=len(times))
    if noise is not None and not 0 < noise < math.inf:
        raise ValueError(f"noise must be positive and finite, got {noise}")
    train = _EchoTrain.build(times, bipolar=bipolar, like=signal.real)
    fit_many = partial(_fit_chunk, max_steps=max_steps, tolerance=tolerance)
    fit_chunk = _fit_single_echo if len(times) == 1 else fit_many
    voxels = measured.flatten().nonzero().squeeze(1)
    chunks = [fit_chunk(signal.flatten(1)[:, chunk], train=train) for chunk in voxels.split(CHUNK_VOXELS)]
    found = {name: torch.cat([chunk.maps[name] for chunk in chunks]) for name in chunks[0].maps}
    size, gain = found.pop("size"), found.pop("noise_gain")
    if noise is None:
        noise = _estimate_noise(signal, measured, size, found["relative_residual"], train.degrees_of_freedom)
    largest = UNMEASURED_PERIODS * train.period
    found["frequency_noise"] = (noise * gain).clamp(max=largest)
    images = {name: v.new_zeros(mask.shape).masked_scatter_(measured, v) for name, v in found.items()}
    images["frequency_noise"][mask & ~measured] = largest
    return EchoFit(
        **{"r2star": None, "bipolar_phase": None, **images},
        frequency_period=train.period,
        noise=noise,
        n_iterations=max(chunk.n_iterations for chunk in chunks),
        converged=sum(chunk.n_settled for chunk in chunks) >= CONVERGED_SHARE * len(voxels),
        residual=float(found["relative_residual"].median()),
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

    The logarithm of the model is a line in the relative time τ = (TE − TE_1) / (TE_n − TE_1). A voxel's
    parameters are rows: log-magnitude at τ = 0, its slope, slope of the phase, and the phase at τ = 0 of
    each polarity. Real and imaginary part decouple, and so do the lines' centres and slopes: the normal
    equations need no matrix, and a shorter Gauss–Newton step is a Levenberg–Marquardt step.
    """

    times: np.ndarray
    period: float
    span: float
    tau: Tensor  # (echo, 1)
    together: Tensor  # (1, echo), ones: all echoes share one magnitude line
    polarity: Tensor  # (group, echo), 1 where the echo belongs to the group
    degrees_of_freedom: int

    @classmethod
    def build(cls, times: np.ndarray, *, bipolar: bool, like: Tensor) -> "_EchoTrain":
        """Prepare echo times (s) for signals whose real part is like the tensor given."""
        n_echoes, n_groups = len(times), 2 if bipolar else 1
        span = float(np.ptp(times)) or 1.0
        groups = np.arange(n_groups)[:, None] == np.arange(n_echoes) % n_groups
        return cls(
            times=times,
            period=frequency_period(times, bipolar=bipolar),
            span=span,
            tau=torch.as_tensor((times - times[0]) / span).to(like)[:, None],
            together=like.new_ones(1, n_echoes),
            polarity=torch.as_tensor(groups).to(like),
            degrees_of_freedom=2 * n_echoes - 3 - n_groups,
        )

    def predict(self, parameters: Tensor) -> Tensor:
        """Signal (part, echo, voxel) that the parameters stand for."""
        level, growth, turn = parameters[:3]
        size = (level + growth * self.tau).exp()
        phase = turn * self.tau + self.polarity.T @ parameters[3:]
        return torch.stack([size * phase.cos(), size * phase.sin()])

    def bounded(self, parameters: Tensor) -> Tensor:
        """Parameters with the decay kept to what echoes can show."""
        largest = LARGEST_DECAY * self.span / float(self.times[1])
        parameters[1].clamp_(-largest, largest)
        return parameters

    def newton_step(self, echoes: Tensor, prediction: Tensor) -> Tensor:
        """Gauss–Newton step of the complex least-squares problem."""
        (real, imaginary), (model_real, model_imaginary) = echoes, prediction
        weights = model_real.square() + model_imaginary.square()
        in_phase = model_real * real + model_imaginary * imaginary
        quadrature = model_real * imaginary - model_imaginary * real
        growth, level, _ = _weighted_line(in_phase - weights, weights, self.tau, self.together)
        turn, phases, _ = _weighted_line(quadrature, weights, self.tau, self.polarity)
        return torch.cat([level, growth[None], turn[None], phases])

    def start(self, echoes: Tensor) -> Tensor:
        """Parameters from a search over the period and lines through the logarithm of what remains."""
        real, imaginary = echoes
        weights = real.square() + imaginary.square()
        turn = self._search(echoes * weights.sqrt(), weights)
        phase = torch.atan2(imaginary, real) - turn * self.tau
        phases = torch.atan2(self.polarity @ (weights * phase.sin()), self.polarity @ (weights * phase.cos()))
        rest = _wrapped(phase - self.polarity.T @ phases, 2 * math.pi)
        turn_rest, phases_rest, _ = _weighted_line(weights * rest, weights, self.tau, self.polarity)
        logarithm = weights.clamp_min(torch.finfo(weights.dtype).tiny).log() / 2
        growth, level, _ = _weighted_line(weights * logarithm, weights, self.tau, self.together)
        return self.bounded(torch.cat([level, growth[None], (turn + turn_rest)[None], phases + phases_rest]))

    def _search(self, weighted: Tensor, weights: Tensor) -> Tensor:
        """Slope of the phase, among samples of the period, next to the best fit of the weighted phases.

        With magnitudes as measured the squared error falls with Σ_polarity |Σ_k |S_k| S_k exp(−iωτ_k)|.
        What a Newton step would gain is added, so that no alias wins because it lies closer to a sample.
        """
        tiny = torch.finfo(weights.dtype).tiny
        *_, curvature = _weighted_line(weights, weights, self.tau, self.polarity)
        gain = 0.5 / curvature.clamp_min(tiny)
        best = torch.full_like(gain, -math.inf)
        turn = torch.zeros_like(gain)
        n_samples = math.ceil(SEARCH_DENSITY * self.period * self.span)
        for n in range(n_samples):
            sample = 2 * math.pi * self.period * self.span * ((n + 0.5) / n_samples - 0.5)
            cosine = self.polarity * (sample * self.tau.T).cos()
            sine = self.polarity * (sample * self.tau.T).sin()
            carrier = torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)])
            carrier = torch.cat([carrier, carrier * self.tau.T.repeat(1, 2)])
            sums = (carrier @ weighted.flatten(0, 1)).unflatten(0, (4, -1))
            real, imaginary, real_moment, imaginary_moment = sums
            size = (real.square() + imaginary.square()).sqrt()
            slope = ((real * imaginary_moment - imaginary * real_moment) / size.clamp_min(tiny)).sum(0)
            score = size.sum(0) + gain * slope.square()
            turn = torch.where(score > best, sample, turn)
            best = torch.maximum(score, best)
        return turn


@dataclass(frozen=True)
class _ChunkFit:
    """Maps of a chunk of voxels by name, (voxel,) each, and how the iteration ended."""

    maps: dict[str, Tensor]
    n_iterations: int
    n_settled: int


def _wrapped(values: Tensor, period: float) -> Tensor:
    """Values moved by whole periods to within half a period of zero."""
    return values - period * (values / period).round()


def _weighted_line(
    weighted: Tensor, weights: Tensor, tau: Tensor, groups: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted least-squares lines of one slope and an offset for each group of echoes.

    Takes the values already times their weights, (echo, voxel). Returns the slope (voxel), the offsets at
    τ = 0 (group, voxel) and the slope's information Σ w (τ − τ̄_group)² (voxel).
    """
    total = (groups @ weights).clamp_min(torch.finfo(weights.dtype).tiny)
    centre = (groups @ (weights * tau)) / total
    distance = tau - groups.T @ centre
    information = (weights * distance.square()).sum(0)
    slope = (weighted * distance).sum(0) / information.clamp_min(torch.finfo(weights.dtype).tiny)
    return slope, (groups @ weighted) / total - slope * centre, information


def _refine(
    echoes: Tensor, start: Tensor, *, train: _EchoTrain, max_steps: int, tolerance: float
) -> tuple[Tensor, int, int]:
    """Damped Gauss–Newton on echoes (part, echo, voxel); returns parameters, steps, voxels settled.

    A step that does not lower the squared error is taken back and tried at a quarter of its length. Voxels
    that settled are dropped from the work.
    """
    found = start.clone()
    active = torch.arange(start.shape[1], device=start.device)
    kept, trial, step = start, start, torch.zeros_like(start)
    best = torch.full_like(start[0], math.inf)
    n_steps = 0
    while len(active) and n_steps < max_steps:
        prediction = train.predict(trial)
        error = (echoes - prediction).square().sum((0, 1))
        better = error <= best  # False for an overflow, too
        best = torch.where(better, error, best)
        kept = torch.where(better, trial, kept)
        step = torch.where(better, train.newton_step(echoes, prediction), 0.25 * step)
        trial = train.bounded(kept + step)
        step = trial - kept
        found[:, active] = trial
        moving = (step.abs().amax(0) > tolerance).nonzero().squeeze(1)
        echoes, kept, trial, step = (t[..., moving] for t in (echoes, kept, trial, step))
        active, best = active[moving], best[moving]
        n_steps += 1
    found[:, active] = kept  # the best so far; their last step was not judged
    return found, n_steps, start.shape[1] - len(active)


def _fit_chunk(signal: Tensor, *, train: _EchoTrain, max_steps: int, tolerance: float) -> _ChunkFit:
    """Fit voxels (echo, voxel), none without signal, and turn parameters into physical maps."""
    # Planes of real numbers are several times faster than complex ones; a unit scale keeps single
    # precision from over- and underflow.
    echoes = torch.stack([signal.real, signal.imag])
    scale = echoes.abs().amax((0, 1))
    echoes /= scale
    size = echoes.square().sum((0, 1)).sqrt()
    parameters, n_steps, n_settled = _refine(
        echoes, train.start(echoes), train=train, max_steps=max_steps, tolerance=tolerance
    )
    prediction = train.predict(parameters)
    weights = prediction.square().sum(0)
    *_, information = _weighted_line(weights, weights, train.tau, train.polarity)
    level, growth, turn = parameters[:3]
    r2star = -growth / train.span
    frequency = _wrapped(turn / (2 * math.pi * train.span), train.period)
    # An alias keeps the phase of each polarity at its first echo (echo g of group g), not at TE = 0.
    n_groups = len(train.polarity)
    first_times = torch.as_tensor(train.times[:n_groups, None]).to(level)
    at_first = parameters[3:] + turn * train.tau[:n_groups]
    offsets = at_first - 2 * math.pi * frequency * first_times
    phase_offset = offsets.mean(0)
    maps = {
        "frequency": frequency,
        "magnitude": scale * (level + r2star * float(train.times[0])).exp(),
        "r2star": r2star,
        "noise_gain": 1 / (2 * math.pi * train.span * scale * information.sqrt()),
        "relative_residual": (echoes - prediction).square().sum((0, 1)).sqrt() / size,
        "size": scale * size,
    }
    if n_groups == 2:
        # Adding π to the bipolar phase and to the offset changes neither polarity.
        bipolar_phase = (offsets[0] - offsets[1]) / 2
        maps["bipolar_phase"] = _wrapped(bipolar_phase, math.pi)
        phase_offset = phase_offset - (bipolar_phase - maps["bipolar_phase"])
    maps["phase_offset"] = _wrapped(phase_offset, 2 * math.pi)
    return _ChunkFit(maps, n_steps, n_settled)


def _fit_single_echo(signal: Tensor, *, train: _EchoTrain) -> _ChunkFit:
    """Frequency of one echo, whose phase is all precession; nothing is left to iterate or to judge."""
    echo = signal[0]
    size = echo.abs()
    per_radian = train.period / (2 * math.pi)
    maps = {
        "frequency": per_radian * echo.angle(),
        "magnitude": size,
        "phase_offset": torch.zeros_like(size),
        "noise_gain": per_radian / size,
        "relative_residual": torch.zeros_like(size),
        "size": size,
    }
    return _ChunkFit(maps, 0, len(size))


def _estimate_noise(
    signal: Tensor, measured: Tensor, size: Tensor, relative_residual: Tensor, degrees_of_freedom: int
) -> float:
    """Standard deviation of one channel; medians, as vessels and air do not follow the model.

    The squared error over σ² is χ² distributed. Without degrees of freedom, mixed second differences
    along all axes (Immerkær 1996, 10.1006/cviu.1996.0060, in three dimensions) stand in for it.
    """
    # Data without noise still carry the rounding of their precision.
    smallest = torch.finfo(size.dtype).eps * float(size.median())
    if degrees_of_freedom > 0:
        error = float((relative_residual * size).median())
        return max(error / math.sqrt(chi2.median(degrees_of_freedom)), smallest)
    difference, inside, gain = signal, measured, 1.0
    for axis, size in enumerate(measured.shape):
        if size < 3:
            continue
        difference = difference.diff(n=2, dim=axis + 1)
        inside = inside.unfold(axis, 3, 1).all(-1)
        gain *= math.sqrt(6)
    values = torch.view_as_real(difference[:, inside]).abs()
    if gain == 1.0 or not values.numel():
        raise ValueError("the mask holds no 3 x 3 x 3 voxels to estimate the noise from: give noise")
    median_of_normal = math.sqrt(chi2.median(1))
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


def _checked_masks(signal: Tensor, mask: Tensor | None, *, n_echoes: int) -> tuple[Tensor, Tensor]:
    """The mask and its voxels that hold signal, or a ValueError that says what is wrong."""
    if not signal.is_complex() or signal.ndim != 4:
        raise ValueError(f"signal must be complex (echo, x, y, z), got {signal.dtype} {tuple(signal.shape)}")
    if len(signal) != n_echoes:
        raise ValueError(f"signal has {len(signal)} echoes but there are {n_echoes} echo times")
    shape = signal.shape[1:]
    mask = torch.ones(shape, dtype=torch.bool, device=signal.device) if mask is None else mask.bool()
    if mask.shape != shape:
        raise ValueError(f"mask {tuple(mask.shape)} and signal {tuple(shape)} differ in shape")
    spoilt = int((mask & ~signal.isfinite().all(0)).sum())
    if spoilt:
        raise ValueError(f"signal is not finite (NaN or infinite) in {spoilt} voxels of the mask")
    measured = mask & (signal != 0).any(0)
    if not measured.any():
        raise ValueError("there is no signal inside the mask: it is empty, or all echoes are zero there")
    return mask, measured
