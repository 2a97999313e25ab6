"""Errors against closed forms."""

import math

import pytest
import torch

from qsmflow.core.metrics import nrmse, rmse


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


@pytest.mark.parametrize("metric", [nrmse, rmse])
def test_what_cannot_be_compared_is_refused(metric, truth, mask):
    with pytest.raises(ValueError, match="empty"):
        metric(truth, truth, mask=torch.zeros_like(mask))
    with pytest.raises(ValueError, match="not finite"):
        metric(torch.where(mask, torch.inf, truth), truth, mask=mask)


def test_a_constant_truth_is_refused(truth, mask):
    with pytest.raises(ValueError, match="constant"):
        nrmse(truth, torch.ones_like(truth), mask=mask)
