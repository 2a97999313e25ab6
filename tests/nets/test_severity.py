"""What the gauge must do whatever its weights."""

import pytest
import torch

from qsmflow.nets.severity import LEAST, SeverityGauge, log_severity, severity_of


@pytest.fixture
def gauge() -> SeverityGauge:
    return SeverityGauge((4, 6), fold=2).eval()


def test_zeros_around_do_not_count(gauge):
    """Beyond the reach of the convolutions."""
    mask = torch.zeros(1, 1, 48, 8, 8)
    mask[:, :, :8] = 1
    image = mask * torch.randn(mask.shape)
    wide, within = (torch.cat([one, torch.zeros_like(one)], dim=2) for one in (image, mask))
    torch.testing.assert_close(gauge(wide, mask=within), gauge(image, mask=mask))


def test_severity_has_no_unit(gauge):
    image = torch.randn(1, 1, 16, 8, 8)
    mask = torch.ones_like(image)
    torch.testing.assert_close(gauge(3 * image, mask=mask), gauge(image, mask=mask))


def test_a_map_twice_is_gauged_like_the_map(gauge):
    """Zeros in between keep the halves apart."""
    half = torch.zeros(1, 1, 32, 8, 8)
    half[:, :, 12:20] = torch.randn(1, 1, 8, 8, 8)
    mask = torch.zeros_like(half)
    mask[:, :, 12:20] = 1
    twice, both = torch.cat([half, half], dim=2), torch.cat([mask, mask], dim=2)
    torch.testing.assert_close(gauge(twice, mask=both), gauge(half, mask=mask), rtol=1e-3, atol=1e-4)


def test_empty_mask_is_gauged_to_a_number(gauge):
    image = torch.randn(2, 1, 8, 8, 8)
    assert torch.isfinite(gauge(image, mask=torch.zeros_like(image))).all()


def test_little_severity_is_none():
    assert log_severity(torch.tensor(0.0)).exp().item() == pytest.approx(LEAST)
    assert severity_of(torch.tensor(-9.0)).item() == 0
