"""Echo fit against the Cramér–Rao bound, analytic signals and an independent optimiser."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from qsmflow.core import echoes
from qsmflow.core.echoes import fit_echoes, frequency_period

EVEN = (0.004, 0.009, 0.014, 0.019, 0.024)
ROUNDED = (0.00362, 0.00958, 0.01551)
UNEVEN = (0.004, 0.009, 0.015, 0.022)
TRAINS = {
    "even": (EVEN, False),
    "rounded": (ROUNDED, False),
    "uneven": (UNEVEN, False),
    "two": ((0.004, 0.010), False),
    "bipolar": (EVEN, True),
    "bipolar three": (EVEN[:3], True),
    "bipolar uneven": ((0.004, 0.009, 0.012, 0.021, 0.024), True),
}


def model(times, magnitude, r2star, offset, frequency, bipolar_phase=0.0):
    """Complex signal (echo, voxel), double precision, written independently of the fit."""
    times = np.asarray(times)[:, None]
    sign = (-1.0) ** np.arange(len(times))[:, None]
    phase = offset + 2 * math.pi * frequency * times + sign * bipolar_phase
    return magnitude * np.exp(-r2star * times) * np.exp(1j * phase)


def volume(signal, dtype=torch.complex64):
    """(echo, voxel) array as an (echo, x, y, z) tensor."""
    return torch.as_tensor(signal).to(dtype)[:, :, None, None]


def noise_like(signal, sigma):
    """Complex Gaussian noise, sigma a channel."""
    real, imaginary = sigma * torch.randn(2, *signal.shape, dtype=torch.float64).numpy()
    return real + 1j * imaginary


def uniform(low, high, size):
    return low + (high - low) * torch.rand(size, dtype=torch.float64).numpy()


def wrap(values, period):
    return values - period * np.round(values / period)


def flat(tensor):
    return tensor.flatten().numpy()


def cramer_rao(times, sigma, *, bipolar, magnitude=1.0, r2star=25.0):
    """Bounds on the standard deviations of frequency (Hz) and R2* (1/s), by numerical differentiation."""
    point = np.array([magnitude, r2star, 0.4, 20.0, *([0.2] if bipolar else [])])
    columns = []
    for i, value in enumerate(point):
        step = np.zeros_like(point)
        step[i] = 1e-5 * max(1.0, abs(value))
        difference = (model(times, *(point + step)) - model(times, *(point - step))) / (2 * step[i])
        columns.append(np.concatenate([difference.real, difference.imag]).ravel())
    covariance = np.linalg.inv(np.stack(columns) @ np.stack(columns, 1)) * sigma**2
    return math.sqrt(covariance[3, 3]), math.sqrt(covariance[1, 1])


@pytest.mark.parametrize(("times", "bipolar"), TRAINS.values(), ids=TRAINS)
def test_reaches_the_cramer_rao_bound(times, bipolar):
    n_voxels, sigma, r2star = 20000, 1 / 20, 25.0
    period = frequency_period(times, bipolar=bipolar)
    frequency = uniform(-period / 2, period / 2, n_voxels)
    signal = model(times, 1.0, r2star, 0.4, frequency, 0.2 if bipolar else 0.0)
    estimate_noise = 2 * len(times) > 4 + bipolar
    fit = fit_echoes(
        volume(signal + noise_like(signal, sigma)),
        echo_times=times,
        bipolar=bipolar,
        noise=None if estimate_noise else sigma,
    )
    frequency_bound, r2star_bound = cramer_rao(times, sigma, bipolar=bipolar)
    error = wrap(flat(fit.frequency) - frequency, period)
    standard_error = 1 / math.sqrt(n_voxels)
    assert error.std() == pytest.approx(frequency_bound, rel=0.05)
    assert abs(error.mean()) < 4 * standard_error * frequency_bound
    assert (flat(fit.frequency_noise) ** 2).mean() ** 0.5 == pytest.approx(error.std(), rel=0.05)
    assert flat(fit.r2star).std() == pytest.approx(r2star_bound, rel=0.05)
    assert flat(fit.r2star).mean() == pytest.approx(r2star, abs=4 * standard_error * r2star_bound)
    assert flat(fit.magnitude).mean() == pytest.approx(1, rel=0.01)
    assert fit.noise == pytest.approx(sigma, rel=0.03)
    assert fit.converged


@pytest.mark.parametrize(("times", "bipolar"), TRAINS.values(), ids=TRAINS)
@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.complex64, 1e-4), (torch.complex128, 1e-6)])
def test_exact_without_noise(times, bipolar, dtype, accuracy):
    period = frequency_period(times, bipolar=bipolar)
    n_voxels = 500
    magnitude = 10 ** uniform(-12, 12, n_voxels)
    r2star = uniform(0, 150, n_voxels)
    frequency = np.linspace(-0.499 * period, 0.499 * period, n_voxels)
    offset = uniform(-3, 3, n_voxels)
    bipolar_phase = uniform(-1.5, 1.5, n_voxels) if bipolar else 0.0
    signal = volume(model(times, magnitude, r2star, offset, frequency, bipolar_phase), dtype)
    fit = fit_echoes(signal, echo_times=times, bipolar=bipolar, noise=1.0, tolerance=1e-4)
    assert np.abs(flat(fit.frequency) - frequency).max() < accuracy * period
    assert np.abs(flat(fit.r2star) - r2star).max() < accuracy * period
    assert np.abs(flat(fit.magnitude) / magnitude - 1).max() < accuracy
    assert np.abs(wrap(flat(fit.phase_offset) - offset, 2 * math.pi)).max() < 10 * accuracy
    assert flat(fit.relative_residual).max() < accuracy
    if bipolar:
        assert np.abs(flat(fit.bipolar_phase) - bipolar_phase).max() < 10 * accuracy


@pytest.mark.parametrize("name", ["even", "uneven", "bipolar", "bipolar uneven"])
def test_wrapped_frequencies_explain_the_signal_as_well(name):
    times, bipolar = TRAINS[name]
    period = frequency_period(times, bipolar=bipolar)
    frequency = np.linspace(-2.3 * period, 2.3 * period, 101)
    signal = model(times, 1.0, 30.0, 2.0, frequency, 0.3 if bipolar else 0.0)
    fit = fit_echoes(volume(signal, torch.complex128), echo_times=times, bipolar=bipolar)
    found = flat(fit.frequency)
    assert np.abs(found).max() <= period / 2
    assert np.abs(wrap(found - frequency, period)).max() < 1e-6 * period
    bipolar_phase = flat(fit.bipolar_phase) if bipolar else 0.0
    again = model(times, flat(fit.magnitude), flat(fit.r2star), flat(fit.phase_offset), found, bipolar_phase)
    assert np.abs(again - signal).max() < 1e-5


@pytest.mark.parametrize("snr", [6, 12])
def test_finds_the_least_squares_of_an_independent_optimiser(snr):
    signal = model(EVEN, 1.0, 40.0, 0.5, np.full(40, 30.0), 0.3)
    signal = signal + noise_like(signal, 1 / snr)
    fit = fit_echoes(volume(signal, torch.complex128), echo_times=EVEN, bipolar=True, tolerance=1e-6)
    ours = flat(fit.relative_residual) * np.linalg.norm(signal, axis=0)
    for voxel, echoes_ in enumerate(signal.T):

        def misfit(p, echoes_=echoes_):
            difference = model(EVEN, p[0], 100 * p[1], p[2], 100 * p[3], p[4])[:, 0] - echoes_
            return np.concatenate([difference.real, difference.imag])

        theirs = np.linalg.norm(least_squares(misfit, [1, 0.4, 0.5, 0.3, 0.3]).fun)
        assert ours[voxel] <= theirs * (1 + 1e-6)


def least_on_a_grid(signal, times):
    """Smallest relative residual over a dense grid of decays and frequencies, amplitude fitted exactly."""
    times, period = np.asarray(times), frequency_period(times)
    rates, frequencies = np.linspace(-100, 300, 81), np.linspace(-period / 2, period / 2, 401)
    lines = np.exp(-np.multiply.outer(rates[:, None] - 2j * math.pi * frequencies, times)).reshape(
        -1, len(times)
    )
    lines /= np.linalg.norm(lines, axis=1, keepdims=True)
    explained = (np.abs(lines.conj() @ signal) ** 2).max(0)
    return np.sqrt(1 - explained / np.linalg.norm(signal, axis=0) ** 2)


@pytest.mark.parametrize(
    ("times", "snr", "share"), [(EVEN, 3, 0.01), ((0.004, 0.009, 0.014, 0.019, 0.0255), 8, 0.003)]
)
def test_no_other_minimum_lies_lower(times, snr, share):
    period = frequency_period(times)
    signal = model(times, 1.0, 25.0, 0.4, uniform(-period / 2, period / 2, 2000))
    signal = signal + noise_like(signal, 1 / snr)
    fit = fit_echoes(volume(signal), echo_times=times, noise=1 / snr)
    lower = flat(fit.relative_residual) > least_on_a_grid(signal, times) + 1e-3
    assert lower.mean() < share


def test_spacings_equal_in_single_precision_count_as_equal():
    times = torch.arange(0.004, 0.025, 0.005).double() + 1e-9 * torch.tensor([0, 1, -1, 1, 0])
    train = echoes._EchoTrain.build(times.numpy(), bipolar=False)
    assert len(train.spacings) == 1
    assert train.n_aliases == 1


def test_a_bipolar_phase_left_out_spoils_the_fit():
    signal = volume(model(EVEN, 1.0, 25.0, 0.4, np.full(3, 20.0), 0.4))
    plain = fit_echoes(signal, echo_times=EVEN)
    bipolar = fit_echoes(signal, echo_times=EVEN, bipolar=True)
    assert plain.bipolar_phase is None
    assert plain.residual > 0.1
    assert bipolar.residual < 1e-5
    torch.testing.assert_close(bipolar.bipolar_phase, torch.full((3, 1, 1), 0.4))


def test_single_echo():
    time, sigma = 0.010, 0.05
    frequency = np.linspace(-49, 49, 16**3)
    signal = model([time], 2.0, 0.0, 0.0, frequency)
    noisy = torch.as_tensor(signal + noise_like(signal, sigma)).to(torch.complex64).reshape(1, 16, 16, 16)
    fit = fit_echoes(noisy, echo_times=[time])
    expected = sigma / 2.0 / (2 * math.pi * time)
    error = wrap(flat(fit.frequency) - frequency, 100)
    assert fit.frequency_period == pytest.approx(100)
    assert fit.r2star is None
    assert not fit.phase_offset.any()
    assert error.std() == pytest.approx(expected, rel=0.05)
    assert flat(fit.frequency_noise).mean() == pytest.approx(expected, rel=0.05)
    torch.testing.assert_close(fit.magnitude, noisy[0].abs())
    assert (fit.converged, fit.n_iterations, fit.residual) == (True, 0, 0.0)


@pytest.mark.parametrize("times", [(0.006,), (0.006, 0.011)])
def test_noise_from_neighbours_where_no_residual_is_left(times):
    x, y, z = np.meshgrid(*[np.arange(20.0)] * 3, indexing="ij")
    frequency = 8 * x - 5 * y + 0.4 * z**2
    signal = model(times, (2 + np.sin(x / 4)).ravel(), 20.0, 0.0, frequency.ravel())
    noisy = signal + noise_like(signal, 0.03)
    fit = fit_echoes(
        torch.as_tensor(noisy).to(torch.complex64).reshape(-1, 20, 20, 20),
        echo_times=times,
        mask=torch.as_tensor((x - 10) ** 2 + (y - 10) ** 2 + (z - 10) ** 2 < 64),
    )
    assert fit.noise == pytest.approx(0.03, rel=0.05)


@pytest.mark.parametrize("times", [(0.006,), EVEN])
def test_voxels_without_signal_and_outside_the_mask(times):
    signal = volume(model(times, 1.0, 25.0, 0.4, np.full(60, 20.0)))
    signal[:, 0] = 0
    signal[1:, 1] = 0  # nothing left after the first echo
    signal[:, 4] *= 1e-30  # what resampling leaves of zeros
    signal[:, 3] = math.nan
    mask = torch.ones(60, 1, 1, dtype=torch.bool)
    mask[2:4] = False
    fit = fit_echoes(signal, echo_times=times, mask=mask, noise=0.01)
    maps = {name: value for name, value in vars(fit).items() if isinstance(value, torch.Tensor)}
    for name, values in maps.items():
        assert values.isfinite().all(), name
        assert not values[2:4].any(), name
        if name != "frequency_noise":
            assert values[0] == 0, name
    assert fit.frequency_noise[0] == pytest.approx(1000 * fit.frequency_period)
    assert fit.converged


def test_noise_alone_stays_finite_and_far_from_certain():
    signal = noise_like(np.zeros((5, 2000)), 1.0)
    fit = fit_echoes(volume(signal), echo_times=EVEN)
    for values in (fit.frequency, fit.r2star, fit.magnitude, fit.frequency_noise):
        assert values.isfinite().all()
    assert fit.frequency_noise.median() > 0.02 * fit.frequency_period


def test_a_mask_changes_no_voxel_within():
    signal = model(EVEN, 1.0, 25.0, 0.4, np.linspace(-90, 90, 300))
    signal = volume(signal + noise_like(signal, 0.3))  # some need a second start
    mask = torch.rand(300, 1, 1) > 0.5
    whole = fit_echoes(signal, echo_times=EVEN, noise=0.3, tolerance=1e-5)
    part = fit_echoes(signal, echo_times=EVEN, noise=0.3, tolerance=1e-5, mask=mask)
    for name in ("frequency", "r2star", "magnitude", "phase_offset", "frequency_noise", "relative_residual"):
        inside, expected = getattr(part, name)[mask], getattr(whole, name)[mask]
        torch.testing.assert_close(inside, expected, atol=1e-3, rtol=1e-3)


def test_chunks_do_not_show(monkeypatch):
    signal = model(UNEVEN, 1.0, 25.0, 0.4, np.linspace(-450, 450, 300))
    signal = volume(signal + noise_like(signal, 0.05))
    whole = fit_echoes(signal, echo_times=UNEVEN)
    monkeypatch.setattr(echoes, "CHUNK_VOXELS", 7)
    pieces = fit_echoes(signal, echo_times=UNEVEN)
    torch.testing.assert_close(pieces.frequency, whole.frequency, atol=1e-3, rtol=0)
    torch.testing.assert_close(pieces.r2star, whole.r2star, atol=1e-2, rtol=0)
    assert pieces.noise == pytest.approx(whole.noise, rel=1e-4)


def test_says_when_it_has_not_converged():
    signal = model(EVEN, 1.0, 25.0, 0.4, np.full(200, 20.0))
    fit = fit_echoes(volume(signal + noise_like(signal, 0.3)), echo_times=EVEN, max_steps=1)
    assert not fit.converged
    assert fit.n_iterations == 1


@pytest.mark.parametrize(
    ("times", "bipolar", "period"),
    [
        (EVEN, False, 200),
        (EVEN, True, 100),
        (ROUNDED, False, 168.2082),
        (UNEVEN, False, 1000),
        ((0.003, 0.007), False, 250),
        ((0.003, 0.007, 0.009), True, 1 / 0.006),
        ((0.005,), False, 200),
        ((0.002, 0.004, 0.008, 0.016), False, 500),
    ],
)
def test_frequency_period(times, bipolar, period):
    assert frequency_period(times, bipolar=bipolar) == pytest.approx(period, rel=1e-6)


SIGNAL = torch.ones(3, 2, 2, 2, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"echo_times": (0.01, 0.005, 0.015)}, "increase"),
        ({"echo_times": (0.005, 0.005, 0.015)}, "without repeats"),
        ({"echo_times": (0.0, 0.005, 0.01)}, "positive"),
        ({"echo_times": (0.005, math.nan, 0.01)}, "positive"),
        ({"echo_times": (0.005, 0.010)}, "3 echoes but there are 2 echo times"),
        ({"signal": SIGNAL.real}, "complex"),
        ({"signal": SIGNAL[0]}, "echo, x, y, z"),
        ({"signal": SIGNAL * math.nan}, "not finite .* in 8 voxels"),
        ({"signal": SIGNAL * 0}, "no signal"),
        ({"mask": torch.zeros(2, 2, 2)}, "no signal"),
        ({"mask": torch.ones(2, 2, 3)}, "differ in shape"),
        ({"noise": 0.0}, "noise must be positive"),
        ({"signal": SIGNAL[:2], "echo_times": (0.005, 0.01), "bipolar": True}, "three echoes"),
        ({"signal": SIGNAL[:2], "echo_times": (0.005, 0.01)}, "give noise"),
    ],
)
def test_refuses(changes, message):
    arguments = {"signal": SIGNAL, "echo_times": (0.005, 0.01, 0.015)} | changes
    with pytest.raises(ValueError, match=message):
        fit_echoes(arguments.pop("signal"), **arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_follows_the_device():
    signal = volume(model(EVEN, 1.0, 25.0, 0.4, np.linspace(-90, 90, 50)))
    fit = fit_echoes(signal.cuda(), echo_times=EVEN, bipolar=True)
    assert fit.frequency.is_cuda
    torch.testing.assert_close(
        fit.frequency.cpu(), fit_echoes(signal, echo_times=EVEN, bipolar=True).frequency
    )


def test_measured_brain(test_data):
    folder = test_data / "romeo_small"
    magnitude = torch.as_tensor(nib.load(folder / "small_Mag.nii.gz").get_fdata(dtype=np.float32))
    # The header slope is wrong: the file itself holds ±π.
    phase = torch.as_tensor(np.asarray(nib.load(folder / "small_Phase.nii.gz").dataobj.get_unscaled()))
    signal = torch.polar(magnitude, phase).movedim(-1, 0)
    mask = magnitude[..., 0] > 0.2 * magnitude[..., 0].quantile(0.99)
    fit = fit_echoes(signal, echo_times=(0.004, 0.008, 0.012), mask=mask)
    assert fit.converged
    assert fit.residual < 0.05
    # The fit's noise is what neighbouring voxels say of two echoes, up to what the model leaves out.
    two = fit_echoes(signal[:2], echo_times=(0.004, 0.008), mask=mask)
    assert 0.8 < fit.noise / two.noise < 2
    assert 10 < fit.r2star[mask].median() < 60
