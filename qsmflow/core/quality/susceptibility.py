"""Quality of a susceptibility map: noise where tissue is even, and streaks."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from scipy.special import chdtri
from torch import Tensor

from qsmflow.core.crop import masked_crop
from qsmflow.core.dipole import dipole_kernel
from qsmflow.core.fourier import frequencies, good_size
from qsmflow.core.masks import erode
from qsmflow.core.quality.signal import robust_sd

#: Fewest voxels that a noise is estimated from.
FEWEST_VOXELS = 30


def region_noise(susceptibility: Tensor, *, region: Tensor) -> float | None:
    """Noise of χ in a region of one susceptibility, 1.4826 · median |χ − median χ|.

    Ventricular fluid is such a region: it has neither iron nor myelin, so what varies there is noise,
    streaks, background that was left, and a few vessels.

    Parameters
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm.
    region : Tensor
        (x, y, z), bool.

    Returns
    -------
    float or None
        ppm; None for less than 30 voxels.

    References
    ----------
    Fluid as a region of one susceptibility: Liu et al. 2018, 10.1002/mrm.26946.

    Examples
    --------
    >>> chi = torch.linspace(-0.1, 0.1, 101).reshape(101, 1, 1)
    >>> round(region_noise(chi, region=chi > -1), 4)
    0.0741
    """
    values = susceptibility.cpu().numpy()[region.bool().cpu().numpy()]
    return robust_sd(values) if values.size >= FEWEST_VOXELS else None


def deep_tissue(
    r2star: Tensor,
    *,
    mask: Tensor,
    voxel_size: Sequence[float],
    depth: float = 15.0,
    tolerance: float = 0.25,
) -> Tensor:
    """Tissue of moderate R2* deep in the brain, most of it white matter; found without an atlas.

    Voxels farther than a depth from the mask's surface whose R2*, averaged over 3×3×3 voxels, is within a
    tolerance of its median there. That leaves out cortex and skull base, fluid (low R2*), and iron and
    veins (high R2*).

    Parameters
    ----------
    r2star : Tensor
        (x, y, z) in 1/s.
    mask : Tensor
        (x, y, z), bool, the brain.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    depth : float
        mm.
    tolerance : float
        Relative to the median R2*.

    Returns
    -------
    Tensor
        (x, y, z), bool; empty where the mask is nowhere that deep.

    Examples
    --------
    >>> r2star = torch.full((20, 20, 20), 20.0)
    >>> r2star[8:12, 8:12, 8:12] = 60.0
    >>> mask = torch.ones(20, 20, 20, dtype=torch.bool)
    >>> found = deep_tissue(r2star, mask=mask, voxel_size=(1, 1, 1), depth=2)
    >>> bool(found[4, 4, 4]), bool(found[10, 10, 10])
    (True, False)
    """
    deep = erode(mask, radius=depth, voxel_size=voxel_size)
    if not bool(deep.any()):
        return deep
    inside = deep.cpu().numpy()
    mean = ndimage.uniform_filter(r2star.cpu().numpy(), 3)
    middle = np.median(mean[inside])
    return torch.from_numpy(inside & (np.abs(mean - middle) <= tolerance * middle)).to(mask.device)


def local_noise(susceptibility: Tensor, *, region: Tensor) -> float | None:
    """Noise of χ by its variation over 3×3×3 voxels, the median over a region.

    √(Σ(χ − mean)² / median(χ²₂₆)), which is σ for white noise. Looking no farther than the next voxel
    leaves most of the anatomy out; veins and fibres leave some 0.01 ppm in a map that is exact.

    Parameters
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm.
    region : Tensor
        (x, y, z), bool, away from the mask's surface; see :func:`deep_tissue`.

    Returns
    -------
    float or None
        ppm; None for less than 30 voxels.

    Examples
    --------
    >>> chi = 0.02 * torch.randn(12, 12, 12, generator=torch.Generator().manual_seed(0))
    >>> round(local_noise(chi, region=torch.ones(12, 12, 12, dtype=torch.bool)), 3)
    0.02
    """
    inside = region.bool().cpu().numpy()
    if np.count_nonzero(inside) < FEWEST_VOXELS:
        return None
    values = susceptibility.cpu().numpy().astype(np.float64)
    variance = ndimage.uniform_filter(values**2, 3) - ndimage.uniform_filter(values, 3) ** 2
    return math.sqrt(max(0.0, 27 * float(np.median(variance[inside])) / chdtri(26, 0.5)))


def streak_energy(
    susceptibility: Tensor,
    *,
    mask: Tensor,
    voxel_size: Sequence[float],
    b0_direction: Sequence[float],
    cone: float = 0.1,
    longest: float = 33.0,
    shell: float = 0.01,
) -> float | None:
    """Spectral power of χ near the dipole's magic-angle cone over that expected there.

    E = Σ_cone |χ̂|² / Σ_s n_s p_s, where p_s is the mean power in shell s of |k| away from the cone,
    |D(k)| ≥ 2c, and n_s counts the frequencies of the cone, |D(k)| < c, in that shell. Near the cone a
    field says nothing about χ: inversions that divide noise there make streaks, E > 1, and those that
    damp what they do not know make E < 1. An exact map of a head has 0.9 to 1.1.

    Parameters
    ----------
    susceptibility : Tensor
        χ, (x, y, z) in ppm, any reference; the mean over the mask is taken off.
    mask : Tensor
        (x, y, z), bool.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes.
    cone : float
        c.
    longest : float
        Longest wavelength in mm; longer ones show the shape of the mask.
    shell : float
        Width of a shell in 1/mm.

    Returns
    -------
    float or None
        Dimensionless; None for a mask too small or voxels too coarse for any shell, or an even map.

    Raises
    ------
    ValueError
        If the mask is empty or the map is not finite in it.

    References
    ----------
    Power near the cone compared with that elsewhere: Milovic et al. 2021, 10.1002/mrm.28435.

    Examples
    --------
    >>> chi = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> mask = torch.ones(32, 32, 32, dtype=torch.bool)
    >>> round(streak_energy(chi, mask=mask, voxel_size=(1, 1, 1), b0_direction=(0, 0, 1)), 1)
    1.0
    """
    _, inside, values = masked_crop(susceptibility, mask=mask)
    values = torch.where(inside, values.double() - values[inside].double().mean(), 0)
    grid = good_size(values.shape)
    power = torch.fft.rfftn(values, s=grid).abs().square()
    size = sum(axis**2 for axis in frequencies(grid, voxel_size=voxel_size, device=power.device)).sqrt()
    kernel = dipole_kernel(grid, voxel_size=voxel_size, b0_direction=b0_direction, device=power.device)
    # Each frequency of the real transform stands for its mirror image as well, but for the outer planes.
    count = torch.full_like(power, 2)
    count[..., 0] = count[..., -1] = 1
    covered = (size > 1 / longest) & (size < 0.5 / max(voxel_size))
    if not bool(covered.any()):
        return None
    shells = (size / shell).long()

    def totals(part: Tensor) -> tuple[Tensor, Tensor]:
        """Power and number of frequencies by shell."""
        part = part & covered
        number, weight = shells[part], count[part]
        length = int(shells[covered].max()) + 1
        return tuple(torch.bincount(number, each, length) for each in (weight * power[part], weight))

    in_cone, n_cone = totals(kernel.abs() < cone)
    elsewhere, n_elsewhere = totals(kernel.abs() >= 2 * cone)
    both = (n_cone > 0) & (n_elsewhere > 0)
    expected = float((n_cone * elsewhere / n_elsewhere)[both].sum())
    return float(in_cone[both].sum()) / expected if expected else None
