"""Conversions between the units a field map is met in: Hz, ppm and rad."""

import math

#: Gyromagnetic ratio of the proton over 2π, MHz/T (CODATA 2018).
GYROMAGNETIC_RATIO = 42.577478518


def hertz_per_ppm(field_strength: float) -> float:
    """Frequency shift that one part per million of B0 makes, γ̄·B0.

    Parameters
    ----------
    field_strength : float
        B0 in tesla.

    Returns
    -------
    float
        Hz per ppm.

    Raises
    ------
    ValueError
        If the field strength is not positive.

    Examples
    --------
    >>> round(hertz_per_ppm(3.0), 3)
    127.732
    """
    if not field_strength > 0:
        raise ValueError(f"field strength must be positive, got {field_strength} T")
    return GYROMAGNETIC_RATIO * field_strength


def radian_per_hertz(echo_spacing: float) -> float:
    """Phase that one Hz accrues over an echo spacing, 2π·ΔTE.

    Parameters
    ----------
    echo_spacing : float
        ΔTE in seconds.

    Returns
    -------
    float
        rad per Hz.

    Raises
    ------
    ValueError
        If the spacing is not positive.

    Examples
    --------
    >>> round(radian_per_hertz(0.005), 6)
    0.031416
    """
    if not echo_spacing > 0:
        raise ValueError(f"echo spacing must be positive, got {echo_spacing} s")
    return 2 * math.pi * echo_spacing
