"""What the gauge must do whatever its weights."""

import pytest
import torch

from qsmflow.nets.severity import LEAST, SeverityGauge, log_severity, severity_of


@pytest.fixture
def gauge() -> SeverityGauge:
    return SeverityGauge((4, 6), fold=2).eval()


def test_what_lies_outside_the_mask_does_not_count(gauge):
    """Far from the mask, beyond the reach of the convolutions."""
    image, mask = torch.randn(1, 1, 48, 8, 8), torch.zeros(1, 1, 48, 8, 8)
    mask[:, :, :8] = 1
    other = image.clone()
    other[:, :, 32:] = 100
    torch.testing.assert_close(gauge(other, mask=mask), gauge(image, mask=mask))


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
