"""How far a map is from the truth.

Each score is one number over the voxels of a mask. Those that look at neighbourhoods (SSIM, XSIM, HFEN) and
NRMSE take the mean over the mask off each map first, since a susceptibility is known up to a constant;
RMSE and PSNR do not. Neighbours outside the mask count as zero, whatever the maps hold there.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity
from torch import Tensor

from qsmflow.core.crop import masked_crop

#: Range of values in ppm that PSNR and SSIM take for the whole. It is fixed because the range of a brain's
#: map is that of its worst vein or streak: 2 to 12 ppm in simulated heads. The motion paper states none, but
#: its pairs of RMSE and PSNR do, PSNR = 20 log10(range / RMSE): 1.06 (0.0180 ppm, 35.37 dB) and 1.05 ppm
#: (0.0141, 37.45) in simulations, 1.01 (0.0195, 34.26) and 1.00 ppm (0.0152, 36.39) in volunteers. At that
#: range its SSIM agrees too: errors of simulated motion, scaled to 0.018 ppm, score 0.80 to 0.97, on average
#: the paper's 0.90.
DATA_RANGE = 1.0

#: Standard deviation in voxels of the Gaussian windows of SSIM, XSIM and HFEN.
SIGMA = 1.5

#: Farthest neighbours that SSIM, XSIM and HFEN look at, voxels.
SSIM_RADIUS, XSIM_RADIUS, HFEN_RADIUS = 5, 3, 7

#: Constants K1 and K2 of XSIM, and its range L in ppm.
XSIM_CONSTANTS, XSIM_RANGE = (0.01, 0.001), 1.0


def rmse(value: Tensor, truth: Tensor, *, mask: Tensor) -> float:
    """Root mean square error in a mask, √(mean (x − y)²).

    Parameters
    ----------
    value, truth : Tensor
        (x, y, z), any unit but the same.
    mask : Tensor
        (x, y, z), bool.

    Returns
    -------
    float
        Unit of the maps.

    Raises
    ------
    ValueError
        If the mask is empty or a map is not finite in it.

    Examples
    --------
    >>> mask = torch.ones(2, 2, 2, dtype=torch.bool)
    >>> rmse(torch.full((2, 2, 2), 3.0), torch.zeros(2, 2, 2), mask=mask)
    3.0
    """
    value, truth = _within(value, truth, mask)
    return float((value - truth).square().mean().sqrt())


def nrmse(value: Tensor, truth: Tensor, *, mask: Tensor) -> float:
    """Demeaned normalised root mean square error in a mask, in per cent.

    100 · ‖(x − x̄) − (y − ȳ)‖ / ‖y − ȳ‖ with the means over the mask, since a susceptibility is
    known up to a constant. A map of nothing scores 100.

    Parameters
    ----------
    value, truth : Tensor
        (x, y, z), any unit but the same.
    mask : Tensor
        (x, y, z), bool.

    Returns
    -------
    float
        Per cent.

    Raises
    ------
    ValueError
        If the mask is empty, a map is not finite in it, or the truth is constant there.

    References
    ----------
    QSM Challenge 2.0, report: 10.1002/mrm.28754; its phantom: Marques et al. 2021, 10.1002/mrm.28716.

    Examples
    --------
    >>> truth = torch.arange(8.0).reshape(2, 2, 2)
    >>> mask = torch.ones(2, 2, 2, dtype=torch.bool)
    >>> nrmse(0.75 * truth + 5, truth, mask=mask)
    25.0
    """
    value, truth = _within(value, truth, mask)
    value, truth = value - value.mean(), truth - truth.mean()
    norm = float(truth.norm())
    if norm == 0:
        raise ValueError("the truth is constant in the mask, so no error can be normalised by it")
    return 100 * float((value - truth).norm()) / norm


def psnr(value: Tensor, truth: Tensor, *, mask: Tensor, data_range: float = DATA_RANGE) -> float:
    """Peak signal-to-noise ratio in a mask, 20 log10(range / RMSE), in dB.

    The means stay in, so that it says the same as `rmse`.

    Parameters
    ----------
    value, truth : Tensor
        (x, y, z) in ppm.
    mask : Tensor
        (x, y, z), bool.
    data_range : float
        Range of values, ppm; see `DATA_RANGE` for where the usual one comes from.

    Returns
    -------
    float
        dB; infinite for equal maps.

    Raises
    ------
    ValueError
        If the mask is empty, a map is not finite in it, or the range is not above 0.

    Examples
    --------
    >>> mask = torch.ones(2, 2, 2, dtype=torch.bool)
    >>> round(psnr(torch.full((2, 2, 2), 0.01), torch.zeros(2, 2, 2), mask=mask), 4)
    40.0
    """
    _check_range(data_range)
    error = rmse(value, truth, mask=mask)
    return 20 * math.log10(data_range / error) if error else math.inf


def ssim(value: Tensor, truth: Tensor, *, mask: Tensor, data_range: float = DATA_RANGE) -> float:
    """Structural similarity of two maps, the mean over a mask.

    The index of Wang et al. in three dimensions with their constants, K1 = 0.01 and K2 = 0.03, and Gaussian
    windows of 1.5 voxels cut at 5. Both maps are demeaned over the mask and zero outside it; windows that
    reach over the edge of the mask or of the image see those zeros.

    Parameters
    ----------
    value, truth : Tensor
        (x, y, z) in ppm.
    mask : Tensor
        (x, y, z), bool.
    data_range : float
        Range of values, ppm; see `DATA_RANGE` for where the usual one comes from.

    Returns
    -------
    float
        1 for maps that differ by a constant, less for any others.

    Raises
    ------
    ValueError
        If the mask is empty, a map is not finite in it, or the range is not above 0.

    References
    ----------
    Wang et al. 2004, 10.1109/TIP.2003.819861.

    Examples
    --------
    >>> truth = torch.linspace(-0.1, 0.1, 216).reshape(6, 6, 6)
    >>> mask = torch.ones(6, 6, 6, dtype=torch.bool)
    >>> round(ssim(truth + 0.5, truth, mask=mask), 6)
    1.0
    """
    _check_range(data_range)
    value, truth, inside = _surrounded_by_zeros(value, truth, mask, margin=SSIM_RADIUS)
    _, similarity = structural_similarity(
        truth,
        value,
        data_range=data_range,
        gaussian_weights=True,
        sigma=SIGMA,
        use_sample_covariance=False,
        full=True,
    )
    return float(similarity[inside].mean())


def xsim(value: Tensor, truth: Tensor, *, mask: Tensor) -> float:
    """Structural similarity made for susceptibility, the mean over a mask.

    SSIM of the maps in ppm as they are, neither rescaled nor clipped, with L = 1 ppm, K1 = 0.01 and
    K2 = 0.001, and Gaussian windows of 1.5 voxels cut at 3: the small K2 makes it see streaks that SSIM does
    not. Constants, window and mean over the mask are those of the authors' program (``compute_xsim`` of
    their FANSI toolbox). They leave the maps as they come; here each is demeaned over the mask and zero
    outside it.

    Parameters
    ----------
    value, truth : Tensor
        (x, y, z) in ppm.
    mask : Tensor
        (x, y, z), bool.

    Returns
    -------
    float
        1 for maps that differ by a constant, less for any others.

    Raises
    ------
    ValueError
        If the mask is empty or a map is not finite in it.

    References
    ----------
    Milovic et al. 2025, 10.1002/mrm.30271.

    Examples
    --------
    >>> truth = torch.linspace(-0.1, 0.1, 216).reshape(6, 6, 6)
    >>> mask = torch.ones(6, 6, 6, dtype=torch.bool)
    >>> round(xsim(truth + 0.5, truth, mask=mask), 6)
    1.0
    """
    value, truth, inside = _surrounded_by_zeros(value, truth, mask, margin=XSIM_RADIUS)
    small_mean, small_variance = ((constant * XSIM_RANGE) ** 2 for constant in XSIM_CONSTANTS)
    mean_value, mean_truth = _window(value)[inside], _window(truth)[inside]
    variances = _window(value**2 + truth**2)[inside] - mean_value**2 - mean_truth**2
    covariance = _window(value * truth)[inside] - mean_value * mean_truth
    luminance = (2 * mean_value * mean_truth + small_mean) / (mean_value**2 + mean_truth**2 + small_mean)
    structure = (2 * covariance + small_variance) / (variances + small_variance)
    return float((luminance * structure).mean())


def hfen(value: Tensor, truth: Tensor, *, mask: Tensor, voxel_size: Sequence[float]) -> float:
    """High-frequency error norm in a mask, 100 · ‖LoG(x − y)‖ / ‖LoG(y)‖, in per cent.

    The Laplacian of a Gaussian of 1.5 voxels cut at 7, as in the QSM challenge of 2016; being counted in
    voxels, it compares maps of one resolution only. The second derivatives are those in mm, so that where
    voxels are anisotropic the finer axes weigh more. Both maps are demeaned over the mask and zero outside
    it before they are filtered, and the norms are taken in the mask; the challenge's are over the image.

    Parameters
    ----------
    value, truth : Tensor
        (x, y, z) in ppm.
    mask : Tensor
        (x, y, z), bool.
    voxel_size : sequence of float
        Voxel edge lengths in mm.

    Returns
    -------
    float
        Per cent; 0 for maps that differ by a constant.

    Raises
    ------
    ValueError
        If the mask is empty, a map is not finite in it, or the truth is constant there.

    References
    ----------
    Ravishankar and Bresler 2011, 10.1109/TMI.2010.2090538; Langkammer et al. 2018, 10.1002/mrm.26830.

    Examples
    --------
    >>> truth = torch.linspace(-0.1, 0.1, 216).reshape(6, 6, 6)
    >>> mask = torch.ones(6, 6, 6, dtype=torch.bool)
    >>> round(hfen(0.75 * truth + 5, truth, mask=mask, voxel_size=(1, 1, 2)), 3)
    25.0
    """
    value, truth, inside = _surrounded_by_zeros(value, truth, mask, margin=HFEN_RADIUS)
    if not np.ptp(truth[inside]):
        raise ValueError("the truth is constant in the mask, so no error can be normalised by it")
    details = _laplacian_of_gaussian(truth, voxel_size)[inside]
    errors = _laplacian_of_gaussian(value - truth, voxel_size)[inside]
    return 100 * float(np.linalg.norm(errors) / np.linalg.norm(details))


def scores(
    value: Tensor,
    truth: Tensor,
    *,
    mask: Tensor,
    voxel_size: Sequence[float],
    data_range: float = DATA_RANGE,
) -> dict[str, float]:
    """Every score of a map.

    Parameters
    ----------
    value, truth : Tensor
        (x, y, z) in ppm.
    mask : Tensor
        (x, y, z), bool.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    data_range : float
        Range of values of PSNR and SSIM, ppm.

    Returns
    -------
    dict of str to float
        ``rmse`` in ppm, ``nrmse`` in per cent, ``psnr`` in dB, ``ssim``, ``hfen`` in per cent, ``xsim``.

    Raises
    ------
    ValueError
        If the mask is empty, a map is not finite in it, the truth is constant there, or the range is not
        above 0.

    Examples
    --------
    >>> truth = torch.linspace(-0.1, 0.1, 216).reshape(6, 6, 6)
    >>> mask = torch.ones(6, 6, 6, dtype=torch.bool)
    >>> found = scores(0.75 * truth, truth, mask=mask, voxel_size=(1, 1, 1))
    >>> {name: round(score, 2) for name, score in found.items()}
    {'rmse': 0.01, 'nrmse': 25.0, 'psnr': 36.77, 'ssim': 0.95, 'hfen': 25.0, 'xsim': 0.93}
    """
    return {
        "rmse": rmse(value, truth, mask=mask),
        "nrmse": nrmse(value, truth, mask=mask),
        "psnr": psnr(value, truth, mask=mask, data_range=data_range),
        "ssim": ssim(value, truth, mask=mask, data_range=data_range),
        "hfen": hfen(value, truth, mask=mask, voxel_size=voxel_size),
        "xsim": xsim(value, truth, mask=mask),
    }


def _window(image: np.ndarray) -> np.ndarray:
    """Mean in XSIM's window around every voxel."""
    return ndimage.gaussian_filter(image, SIGMA, radius=XSIM_RADIUS, mode="constant")


def _laplacian_of_gaussian(image: np.ndarray, voxel_size: Sequence[float]) -> np.ndarray:
    """Sum of the second derivatives in mm of an image smoothed by 1.5 voxels."""
    total = np.zeros_like(image)
    for order, edge in zip(np.eye(3, dtype=int) * 2, voxel_size, strict=True):
        total += ndimage.gaussian_filter(image, SIGMA, order, radius=HFEN_RADIUS, mode="constant") / edge**2
    return total


def _surrounded_by_zeros(
    value: Tensor, truth: Tensor, mask: Tensor, *, margin: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both maps demeaned over the mask and zero around it, and the mask, in its box and a margin of zeros.

    The margin makes the score that of the masked maps alone, whatever the grid around them.
    """
    maps = []
    for image in (value, truth):
        _, inside, values = masked_crop(image, mask=mask)
        values = torch.where(inside, values.double() - values[inside].double().mean(), 0)
        maps.append(np.pad(values.cpu().numpy(), margin))
    return *maps, np.pad(inside.cpu().numpy(), margin)


def _check_range(data_range: float) -> None:
    if not data_range > 0:
        raise ValueError(f"data_range must be above 0 ppm, got {data_range}")


def _within(value: Tensor, truth: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps in the mask, in double precision."""
    mask = mask.bool()
    value, truth = value[mask].double(), truth[mask].double()
    if not value.numel():
        raise ValueError("the mask of the comparison is empty")
    if not bool(torch.isfinite(value).all() and torch.isfinite(truth).all()):
        raise ValueError("a map of the comparison is not finite in the mask")
    return value, truth
