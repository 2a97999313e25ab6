"""Conversions against the constants they stand for."""

import math

import pytest

from qsmflow.core.units import GYROMAGNETIC_RATIO, hertz_per_ppm, radian_per_hertz


def test_gyromagnetic_ratio_is_the_proton_s():
    """γ/2π in MHz/T from γ = 2.6752218744e8 rad/(s·T), CODATA 2018."""
    assert pytest.approx(2.6752218744e8 / (2 * math.pi) / 1e6, rel=1e-9) == GYROMAGNETIC_RATIO


@pytest.mark.parametrize(("tesla", "hertz"), [(1.0, 42.577478518), (1.5, 63.866217777), (7.0, 298.042349626)])
def test_a_ppm_of_the_larmor_frequency(tesla, hertz):
    assert hertz_per_ppm(tesla) == pytest.approx(hertz, rel=1e-12)


def test_one_turn_is_one_over_the_echo_spacing():
    assert radian_per_hertz(0.004) * 250 == pytest.approx(2 * math.pi)


@pytest.mark.parametrize("convert", [hertz_per_ppm, radian_per_hertz])
@pytest.mark.parametrize("value", [0, -3.0, math.nan])
def test_what_is_not_positive_is_refused(convert, value):
    with pytest.raises(ValueError, match=f"positive, got {value}"):
        convert(value)
