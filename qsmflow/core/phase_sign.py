"""Which way the scanner counts phase, told by iron."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from qsmflow.core.inversion.tkd import invert_tkd
from qsmflow.core.masks import erode


@dataclass(frozen=True)
class PhaseSign:
    """The sign s of exp(i·s·2π·f·TE) and what speaks for it.

    Attributes
    ----------
    sign : int
        1 or −1; 1 when nothing speaks clearly against it.
    correlation : float
        :func:`susceptibility_r2star_correlation` of the map made with sign 1.
    certain : bool
        Whether the correlation is clear either way.
    """

    sign: int
    correlation: float
    certain: bool


def susceptibility_r2star_correlation(
    susceptibility: Tensor, r2star: Tensor, mask: Tensor, *, highest: float = 0.02
) -> float:
    """Rank-biserial correlation of susceptibility with "R2* is among the highest".

    r = P(χ_high > χ_rest) − P(χ_high < χ_rest) for two voxels drawn at random. What relaxes fastest in
    a brain is iron in deep grey matter and venous blood, both paramagnetic; a correlation over all
    voxels would be diluted by white matter, whose myelin is diamagnetic and relaxes faster than cortex.

    Parameters
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm, any reference.
    r2star : Tensor
        (x, y, z) in 1/s.
    mask : Tensor
        (x, y, z), bool, away from the brain's surface, where R2* is high for other reasons.
    highest : float
        Share of the voxels that count as high; of a brain, iron-rich nuclei and veins are about that.

    Returns
    -------
    float
        −1 to 1, positive when the sign of the phase is right; 0 when R2* does not vary.

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
    >>> susceptibility_r2star_correlation(-ramp, ramp, mask)
    -1.0
    """
    inside = mask.bool().cpu().numpy()
    rates, values = (image.cpu().numpy()[inside] for image in (r2star, susceptibility))
    if not rates.size:
        raise ValueError("the mask is empty")
    high = _highest(rates, highest)
    if high.all() or not high.any():
        return 0.0
    rest, values = np.sort(values[~high]), values[high]
    below = np.searchsorted(rest, values).sum(dtype=np.int64)
    not_above = np.searchsorted(rest, values, side="right").sum(dtype=np.int64)
    # Of all pairs, below are won, not_above − below are drawn, and the others are lost.
    return float((below + not_above) / (rest.size * values.size) - 1)


def _highest(values: np.ndarray, share: float) -> np.ndarray:
    """Whether values are of the highest share by rank, where those that tie have their mean rank."""
    least_rank = (1 - share) * values.size
    middle = min(int(least_rank), values.size - 1)
    limit = np.partition(values, middle)[middle]
    n_below, n_up_to = np.count_nonzero(values < limit), np.count_nonzero(values <= limit)
    return values >= limit if (n_below + 1 + n_up_to) / 2 > least_rank else values > limit


def detect_phase_sign(
    local_field: Tensor,
    *,
    r2star: Tensor | None,
    mask: Tensor,
    voxel_size: Sequence[float],
    b0_direction: Sequence[float],
    rim: float = 5.0,
    least_correlation: float = 0.2,
) -> PhaseSign:
    """Sign of the phase for which iron comes out paramagnetic.

    The local field is inverted by thresholded k-space division as if the sign were 1; a wrong sign
    turns susceptibility over, and with it its correlation with R2*.

    Parameters
    ----------
    local_field : Tensor
        (x, y, z), the field for sign 1, any unit.
    r2star : Tensor or None
        (x, y, z) in 1/s; None for a single echo, which leaves the sign uncertain.
    mask : Tensor
        (x, y, z), bool, where the local field is known.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes.
    rim : float
        Distance from the mask's surface in mm that is left out of the comparison.
    least_correlation : float
        Least absolute correlation that is called clear.

    Returns
    -------
    PhaseSign
        The sign, its correlation, and whether it is certain.

    Raises
    ------
    ValueError
        If the mask is empty.

    Examples
    --------
    >>> import torch
    >>> mask = torch.ones(8, 8, 8, dtype=torch.bool)
    >>> detect_phase_sign(
    ...     torch.zeros(8, 8, 8), r2star=None, mask=mask, voxel_size=(1, 1, 1), b0_direction=(0, 0, 1)
    ... )
    PhaseSign(sign=1, correlation=0.0, certain=False)
    """
    if r2star is None:
        return PhaseSign(1, 0.0, False)
    found = invert_tkd(local_field, mask=mask, voxel_size=voxel_size, b0_direction=b0_direction)
    inner = erode(mask, radius=rim, voxel_size=voxel_size)
    inner = inner if bool(inner.any()) else mask
    correlation = susceptibility_r2star_correlation(found.susceptibility, r2star, inner)
    return PhaseSign(
        sign=-1 if correlation <= -least_correlation else 1,
        correlation=correlation,
        certain=abs(correlation) >= least_correlation,
    )
