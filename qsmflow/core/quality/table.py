"""All image-quality metrics of an acquisition, what they mean and when to look twice."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from qsmflow.core.masks import erode
from qsmflow.core.phase_sign import susceptibility_r2star_correlation
from qsmflow.core.quality.magnitude import air_mask, entropy_focus, ghost_to_signal, head_mask, sharpness_fwhm
from qsmflow.core.quality.signal import (
    degrees_of_freedom,
    field_snr,
    fit_outliers,
    fit_residual,
    mask_lost,
    phase_residues,
)
from qsmflow.core.quality.susceptibility import deep_tissue, local_noise, region_noise, streak_energy
from qsmflow.core.reference import reference_region
from qsmflow.core.units import radian_per_hertz

#: Distance from the mask's surface in mm that χ and R2* are compared at, as for the detection of the sign.
CORRELATION_RIM = 5.0


@dataclass(frozen=True)
class Metric:
    """What a column of the table of metrics holds.

    Attributes
    ----------
    label : str
        Its name for people.
    unit : str
        As BIDS writes it; ``1`` for a pure number.
    description : str
        One sentence.
    more_is_better : bool or None
        None where neither more nor less is better.
    """

    label: str
    unit: str
    description: str
    more_is_better: bool | None


#: Metrics by the name of their column, in the order of the table.
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "field_snr": Metric(
            "SNR of the local field",
            "1",
            "Robust standard deviation of the local field over the median noise of the echo fit.",
            True,
        ),
        "fit_residual": Metric(
            "Residual of the echo fit",
            "percent",
            "Median over the brain of the norm of signal minus fit over the norm of the signal.",
            False,
        ),
        "fit_outliers": Metric(
            "Outliers of the echo fit",
            "percent",
            "Voxels of the brain whose residual of the echo fit noise would exceed in 1 of 1000.",
            False,
        ),
        "phase_residues": Metric(
            "Phase residues",
            "per 1000 loops",
            "Loops of four neighbours in the brain around which the wrapped phase turns.",
            False,
        ),
        "mask_lost": Metric(
            "Mask lost",
            "percent",
            "Part of the brain mask that was left out because its phase does not fit to its neighbours.",
            False,
        ),
        "ghost_to_signal": Metric(
            "Ghost-to-signal ratio",
            "1",
            "Excess magnitude of air beside the head over air clear of it, over the brain, worst axis.",
            False,
        ),
        "entropy_focus": Metric(
            "Entropy focus criterion",
            "1",
            "Entropy of the magnitude over that of an even image of the same size.",
            False,
        ),
        "sharpness_fwhm": Metric(
            "Smoothness",
            "mm",
            "Full width at half maximum of the Gaussian that makes neighbours as alike as they are in the "
            "magnitude.",
            False,
        ),
        "chi_noise_csf": Metric(
            "Noise of χ in fluid",
            "ppm",
            "Robust standard deviation of the susceptibility in the ventricles.",
            False,
        ),
        "chi_noise_tissue": Metric(
            "Noise of χ in deep tissue",
            "ppm",
            "Median variation of the susceptibility over 3×3×3 voxels in deep tissue of moderate R2*.",
            False,
        ),
        "streak_energy": Metric(
            "Streak energy",
            "1",
            "Spectral power of the susceptibility near the dipole's magic-angle cone over that elsewhere at "
            "the same spatial frequencies.",
            None,
        ),
        "chi_r2star_correlation": Metric(
            "Correlation of χ and R2*",
            "1",
            "Rank-biserial correlation of the susceptibility with being among the highest R2*.",
            True,
        ),
        "b0_angle": Metric("B0 angle", "degree", "Angle between B0 and the third voxel axis.", None),
    }
)


@dataclass(frozen=True)
class Hint:
    """When a metric is a reason to look twice, and why.

    Attributes
    ----------
    bound : float
        Unit of the metric.
    direction : {"above", "below"}
        Side of the bound that is unusual.
    sentence : str
        What it may mean.
    """

    bound: float
    direction: Literal["above", "below"]
    sentence: str

    def applies(self, value: float) -> bool:
        """Whether a value lies on the unusual side of the bound."""
        return value > self.bound if self.direction == "above" else value < self.bound


#: Hints by metric. They are no verdicts; docs/quality.md says where the bounds come from.
HINTS: Mapping[str, Hint] = MappingProxyType(
    {
        "field_snr": Hint(2.0, "below", "a quarter or more of the local field's variance is noise"),
        "fit_residual": Hint(10.0, "above", "the echoes are noisy or do not follow one decay and frequency"),
        "fit_outliers": Hint(
            5.0, "above", "many voxels do not follow one decay and frequency: motion, flow or uneven noise"
        ),
        "phase_residues": Hint(1.0, "above", "the unwrapped field may hold jumps of whole cycles"),
        "mask_lost": Hint(5.0, "above", "much of the brain has a phase that cannot be trusted"),
        "ghost_to_signal": Hint(
            0.02, "above", "ghosts lie over the air, and so over the brain: motion or flow"
        ),
        "chi_noise_csf": Hint(
            0.05, "above", "noise and streaks are as large as the contrast of deep grey matter"
        ),
        "chi_noise_tissue": Hint(
            0.03, "above", "noise and streaks hide the contrast of white and grey matter"
        ),
        "streak_energy": Hint(1.5, "above", "streaks along the magic angle are likely"),
        "chi_r2star_correlation": Hint(
            -0.2, "below", "iron came out diamagnetic, which is what a wrong phase sign looks like"
        ),
        "b0_angle": Hint(
            45.0,
            "above",
            "the slab is sagittal or coronal, or a conversion of the images lost their orientation",
        ),
    }
)


def hints(values: Mapping[str, float | None]) -> tuple[str, ...]:
    """Reasons to look twice at an acquisition.

    Parameters
    ----------
    values : mapping of str to float or None
        Metrics by name; those without a value or without a hint are passed over.

    Returns
    -------
    tuple of str
        One sentence a metric beyond its bound, in the order of the table.

    Examples
    --------
    >>> hints({"mask_lost": 7.25, "field_snr": None, "b0_angle": 12.0})
    ('Mask lost 7.25 percent, above 5: much of the brain has a phase that cannot be trusted',)
    """
    found = []
    for name, hint in HINTS.items():
        value = values.get(name)
        if value is not None and hint.applies(value):
            metric = METRICS[name]
            unit = "" if metric.unit == "1" else f" {metric.unit}"
            found.append(
                f"{metric.label} {value:.3g}{unit}, {hint.direction} {hint.bound:g}: {hint.sentence}"
            )
    return tuple(found)


def b0_angle(b0_direction: Sequence[float]) -> float:
    """Angle between B0 and the third voxel axis, acos |b_z|, in degrees.

    Parameters
    ----------
    b0_direction : sequence of float
        B0 in voxel axes, any length but 0.

    Returns
    -------
    float
        0 for straight axial slices, 90 for coronal or sagittal ones.

    Examples
    --------
    >>> round(b0_angle((0, 0.5, 3**0.5 / 2)), 6)
    30.0
    """
    return math.degrees(math.acos(min(1.0, abs(b0_direction[2]) / math.hypot(*b0_direction))))


def chi_r2star_correlation(
    susceptibility: Tensor, *, r2star: Tensor, mask: Tensor, voxel_size: Sequence[float]
) -> float:
    """Rank-biserial correlation of χ with the highest R2*, 5 mm inside the mask where it is that deep.

    See :func:`~qsmflow.core.phase_sign.susceptibility_r2star_correlation` for why it is not one over all
    voxels.

    Parameters
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm, any reference.
    r2star : Tensor
        (x, y, z) in 1/s.
    mask : Tensor
        (x, y, z), bool.
    voxel_size : sequence of float
        Voxel edge lengths in mm.

    Returns
    -------
    float
        −1 to 1; negative where iron came out diamagnetic.

    Raises
    ------
    ValueError
        If the mask is empty.

    References
    ----------
    Cureton 1956, 10.1007/BF02289138; R2* of iron: Langkammer et al. 2010, 10.1148/radiol.10100495.

    Examples
    --------
    >>> import torch
    >>> ramp = torch.arange(1000.0).reshape(10, 10, 10)
    >>> mask = torch.ones(10, 10, 10, dtype=torch.bool)
    >>> chi_r2star_correlation(-ramp, r2star=ramp, mask=mask, voxel_size=(1, 1, 1))
    -1.0
    """
    inner = erode(mask, radius=CORRELATION_RIM, voxel_size=voxel_size)
    return susceptibility_r2star_correlation(susceptibility, r2star, inner if bool(inner.any()) else mask)


def image_quality(
    *,
    magnitude: Tensor,
    frequency: Tensor,
    frequency_period: float,
    frequency_noise: Tensor,
    relative_residual: Tensor | None,
    local_field: Tensor,
    susceptibility: Tensor,
    r2star: Tensor | None,
    brain: Tensor,
    mask: Tensor,
    field_mask: Tensor,
    n_echoes: int,
    bipolar: bool,
    voxel_size: Sequence[float],
    b0_direction: Sequence[float],
) -> dict[str, float | None]:
    """Every metric of :data:`METRICS`.

    Parameters
    ----------
    magnitude : Tensor
        (x, y, z), root of the sum of squares over the echoes, with the air around the head.
    frequency : Tensor
        (x, y, z), wrapped, Hz.
    frequency_period : float
        Ambiguity of the frequency in Hz.
    frequency_noise : Tensor
        (x, y, z), standard deviation of the frequency in Hz.
    relative_residual : Tensor or None
        (x, y, z), residual of the echo fit over the signal; None for a single echo.
    local_field : Tensor
        (x, y, z), Hz.
    susceptibility : Tensor
        (x, y, z), ppm.
    r2star : Tensor or None
        (x, y, z), 1/s; None for a single echo.
    brain : Tensor
        (x, y, z), bool, before voxels of untrustworthy phase were left out.
    mask : Tensor
        (x, y, z), bool, after that.
    field_mask : Tensor
        (x, y, z), bool, where local field and susceptibility are known.
    n_echoes : int
        Echoes that were fitted.
    bipolar : bool
        Whether the fit had a bipolar phase.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes.

    Returns
    -------
    dict of str to float or None
        By the names of :data:`METRICS`, in their order; None for what cannot be computed: without R2* or
        residual of a single echo, without air, without ventricles, or in too few voxels.

    Raises
    ------
    ValueError
        If a mask is empty or a map is not finite in it.
    """
    space = {"voxel_size": voxel_size}
    found = {
        "field_snr": field_snr(local_field, frequency_noise=frequency_noise, mask=field_mask),
        "phase_residues": phase_residues(
            frequency * radian_per_hertz(1 / frequency_period),
            mask=brain,
        ),
        "mask_lost": mask_lost(mask, brain=brain),
        "sharpness_fwhm": sharpness_fwhm(magnitude, mask=brain, **space),
        "streak_energy": streak_energy(susceptibility, mask=field_mask, b0_direction=b0_direction, **space),
        "b0_angle": b0_angle(b0_direction),
    }
    freedom = degrees_of_freedom(n_echoes, bipolar=bipolar)
    if relative_residual is not None and freedom > 0:
        found["fit_residual"] = fit_residual(relative_residual, mask=brain)
        found["fit_outliers"] = fit_outliers(
            relative_residual, magnitude=magnitude, mask=brain, degrees_of_freedom=freedom
        )
    head = head_mask(magnitude, brain=brain)
    air = air_mask(magnitude, head=head, **space)
    if air is not None:
        found["ghost_to_signal"] = ghost_to_signal(magnitude, air=air, head=head, brain=brain)
        found["entropy_focus"] = entropy_focus(magnitude)
    if r2star is not None:
        tissue = deep_tissue(r2star, mask=field_mask, **space)
        found["chi_noise_tissue"] = local_noise(susceptibility, region=tissue)
        found["chi_r2star_correlation"] = chi_r2star_correlation(
            susceptibility, r2star=r2star, mask=field_mask, **space
        )
        fluid = reference_region("csf", mask=field_mask, r2star=r2star, **space)
        if fluid.kind == "csf":
            found["chi_noise_csf"] = region_noise(susceptibility, region=fluid.region)
    return {name: found.get(name) for name in METRICS}
