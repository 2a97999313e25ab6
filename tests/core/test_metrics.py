"""Errors against closed forms."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage

from qsmflow.core.metrics import hfen, nrmse, psnr, rmse, scores, ssim, xsim

AXES = (torch.arange(48, dtype=torch.float64) - 23.5,) * 3


def isotropic_hfen(value, truth, *, mask):
    return hfen(value, truth, mask=mask, voxel_size=(1, 1, 1))


@pytest.fixture
def truth():
    return torch.randn(6, 7, 8)


@pytest.fixture
def mask(truth):
    mask = torch.zeros(truth.shape, dtype=torch.bool)
    mask[1:5, 2:6, 1:7] = True
    return mask


def test_a_constant_costs_nothing_and_a_scale_costs_its_error(truth, mask):
    assert nrmse(truth + 3, truth, mask=mask) == pytest.approx(0, abs=1e-4)
    assert nrmse(1.3 * truth - 1, truth, mask=mask) == pytest.approx(30, rel=1e-5)


def test_nothing_scores_100_and_a_flipped_sign_200(truth, mask):
    assert nrmse(torch.zeros_like(truth), truth, mask=mask) == pytest.approx(100)
    assert nrmse(-truth, truth, mask=mask) == pytest.approx(200)


def test_outside_the_mask_nothing_counts(truth, mask):
    value = torch.where(mask, truth, torch.nan)
    assert nrmse(value, truth, mask=mask) == 0
    assert rmse(value, truth, mask=mask) == 0


def test_the_mean_is_that_of_the_mask(truth, mask):
    value = torch.where(mask, truth + 1, -50)
    assert nrmse(value, truth, mask=mask) == pytest.approx(0, abs=1e-4)
    assert rmse(value, truth, mask=mask) == pytest.approx(1, rel=1e-6)


def test_rmse_of_two_errors(mask):
    value = torch.zeros(mask.shape)
    value[1, 2, 1], value[4, 5, 6] = 3, 4
    assert rmse(value, torch.zeros(mask.shape), mask=mask) == pytest.approx(5 / math.sqrt(int(mask.sum())))


@pytest.mark.parametrize("metric", [nrmse, rmse, psnr, ssim, xsim, isotropic_hfen])
def test_what_cannot_be_compared_is_refused(metric, truth, mask):
    with pytest.raises(ValueError, match="empty"):
        metric(truth, truth, mask=torch.zeros_like(mask))
    with pytest.raises(ValueError, match="not finite"):
        metric(torch.where(mask, torch.inf, truth), truth, mask=mask)


@pytest.mark.parametrize("metric", [nrmse, isotropic_hfen])
def test_a_constant_truth_is_refused(metric, truth, mask):
    with pytest.raises(ValueError, match="constant"):
        metric(truth, torch.ones_like(truth), mask=mask)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("data_range", [0, -1, math.nan])
def test_a_range_of_nothing_is_refused(metric, data_range, truth, mask):
    with pytest.raises(ValueError, match="data_range"):
        metric(truth, truth, mask=mask, data_range=data_range)


def test_psnr_is_the_range_over_the_rmse(truth, mask):
    value = torch.where(mask, truth + 0.02, torch.nan)
    assert psnr(value, truth, mask=mask) == pytest.approx(20 * math.log10(1 / 0.02), abs=1e-5)
    assert psnr(value, truth, mask=mask, data_range=2) == pytest.approx(20 * math.log10(2 / 0.02), abs=1e-5)
    assert psnr(truth, truth, mask=mask) == math.inf


def test_the_usual_range_is_that_of_the_motion_paper():
    mask = torch.ones(1, 1, 1, dtype=torch.bool)
    for error, decibels in ((0.0180, 35.37), (0.0141, 37.45), (0.0195, 34.26), (0.0152, 36.39)):
        found = psnr(torch.full((1, 1, 1), error), torch.zeros(1, 1, 1), mask=mask)
        assert found == pytest.approx(decibels, abs=0.55)


def two_voxels(value, truth):
    """Maps of ±value and ±truth in two neighbours, which are the mask."""
    mask = torch.zeros(4, 3, 3, dtype=torch.bool)
    mask[1:3, 1, 1] = True
    signs = torch.zeros(4, 3, 3, dtype=torch.float64)
    signs[1, 1, 1], signs[2, 1, 1] = 1, -1
    return value * signs + 7, truth * signs - 2, mask


@pytest.mark.parametrize(
    ("metric", "radius", "mean_constant", "variance_constant"),
    [(ssim, 5, 0.01**2, 0.03**2), (xsim, 3, 0.01**2, 0.001**2)],
)
@pytest.mark.parametrize("value", [0.3, -0.1, 0.0])
def test_similarity_of_two_voxels(metric, radius, mean_constant, variance_constant, value):
    truth = 0.2
    window = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    here = window[radius] ** 3
    beside = window[radius] ** 2 * window[radius + 1]
    means, variance = (here - beside) ** 2, here + beside - (here - beside) ** 2
    luminance = (2 * value * truth * means + mean_constant) / ((value**2 + truth**2) * means + mean_constant)
    structure = (2 * value * truth * variance + variance_constant) / (
        (value**2 + truth**2) * variance + variance_constant
    )
    value, truth, mask = two_voxels(value, truth)
    assert metric(value, truth, mask=mask) == pytest.approx(luminance * structure, rel=1e-9)


def test_the_range_scales_the_maps_of_ssim(truth, mask):
    value = truth + torch.randn(truth.shape)
    assert ssim(value, truth, mask=mask, data_range=10) == pytest.approx(
        ssim(value / 10, truth / 10, mask=mask), rel=1e-5
    )


@pytest.mark.parametrize("metric", [ssim, xsim])
def test_similarity_falls_as_noise_grows(metric, truth, mask):
    noise = torch.randn(truth.shape)
    found = [metric(0.1 * truth + level * noise, 0.1 * truth, mask=mask) for level in (0, 0.05, 0.1, 0.2)]
    assert found[0] == 1
    assert all(more - less > 0.1 for more, less in pairwise(found))


@pytest.mark.parametrize("metric", [ssim, xsim, isotropic_hfen])
def test_only_the_masked_maps_count(metric, truth, mask):
    value = truth + 0.1 * torch.randn(truth.shape)
    found = metric(value, truth, mask=mask)
    spoiled = torch.where(mask, value, torch.nan), torch.where(mask, truth, 1e6)
    assert metric(*spoiled, mask=mask) == found
    box = (slice(1, 5), slice(2, 6), slice(1, 7))
    assert metric(value[box], truth[box], mask=mask[box]) == found
    assert metric(value + 3, truth - 5, mask=mask) == pytest.approx(found, rel=1e-4)


def envelope(width):
    """Gaussian in the middle of a grid of 48."""
    return torch.exp(-sum(axis**2 for axis in torch.meshgrid(*AXES, indexing="ij")) / (2 * width**2))


def enveloped_noise(generator, *, smoothing):
    """Noise that fades to nothing before the ends of the grid, norm 1."""
    noise = torch.from_numpy(ndimage.gaussian_filter(generator.standard_normal((48, 48, 48)), smoothing))
    noise = noise * envelope(5)
    return (noise - noise.mean()) / noise.norm()


@pytest.fixture
def generator():
    return np.random.default_rng(5)


@pytest.mark.parametrize("voxel_size", [(1, 1, 1), (0.5, 0.5, 2)])
def test_hfen_is_the_norm_under_the_filter_s_spectrum(voxel_size, generator):
    truth, error = enveloped_noise(generator, smoothing=1), enveloped_noise(generator, smoothing=0)
    waves = torch.meshgrid(*(2 * torch.pi * torch.fft.fftfreq(48, dtype=torch.float64),) * 3, indexing="ij")
    response = sum(wave**2 / edge**2 for wave, edge in zip(waves, voxel_size, strict=True))
    response = response * torch.exp(-(1.5**2) * sum(wave**2 for wave in waves) / 2)
    expected = (response * torch.fft.fftn(error)).norm() / (response * torch.fft.fftn(truth)).norm()
    mask = torch.ones(truth.shape, dtype=torch.bool)
    found = hfen(truth + 0.1 * error + 4, truth, mask=mask, voxel_size=voxel_size)
    assert found == pytest.approx(10 * float(expected), rel=2e-3)


def test_hfen_sees_blur_more_than_nrmse_does_and_smooth_errors_less(generator):
    truth = enveloped_noise(generator, smoothing=1.5)
    mask = torch.ones(truth.shape, dtype=torch.bool)
    blurred = torch.from_numpy(ndimage.gaussian_filter(truth.numpy(), 1.5))
    bump = envelope(8)
    smooth = truth + bump * (blurred - truth).norm() / (bump - bump.mean()).norm()
    error = nrmse(blurred, truth, mask=mask)
    assert nrmse(smooth, truth, mask=mask) == pytest.approx(error, rel=1e-6)
    assert isotropic_hfen(blurred, truth, mask=mask) > error > 4 * isotropic_hfen(smooth, truth, mask=mask)


def test_all_scores_are_those_of_the_functions(truth, mask):
    value = truth + 0.1 * torch.randn(truth.shape)
    found = scores(value, truth, mask=mask, voxel_size=(1, 1, 2), data_range=3)
    assert found == {
        "rmse": rmse(value, truth, mask=mask),
        "nrmse": nrmse(value, truth, mask=mask),
        "psnr": psnr(value, truth, mask=mask, data_range=3),
        "ssim": ssim(value, truth, mask=mask, data_range=3),
        "hfen": hfen(value, truth, mask=mask, voxel_size=(1, 1, 2)),
        "xsim": xsim(value, truth, mask=mask),
    }
