"""Quality of the magnitude: ghosts, blur and how focused the image is."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.polynomial.legendre import leggrid3d, legvander3d
from scipy import ndimage
from torch import Tensor

from qsmflow.core.crop import masked_crop
from qsmflow.core.masks import erode

#: Voxels that a trend is fitted to.
SAMPLE_VOXELS = 2**16

#: Contrast, relative to the mean of an image, that may be nothing but rounding.
ROUNDING = 1e-6

#: Fewest voxels that a mean or median of air or of differences is taken of.
FEWEST_VOXELS = 100


def head_mask(magnitude: Tensor, *, brain: Tensor, threshold: float = 0.25) -> Tensor:
    """The head, cavities and all.

    Tissue is brighter than a part of the brain's median; single bright voxels are opened away. The tissue
    that hangs together with the brain is the head, and so is what lies between it along any voxel axis.

    Parameters
    ----------
    magnitude : Tensor
        (x, y, z), any unit; echoes combined, for instance by root sum of squares.
    brain : Tensor
        (x, y, z), bool.
    threshold : float
        Magnitude of the darkest tissue, relative to the brain's median.

    Returns
    -------
    Tensor
        (x, y, z), bool.

    Raises
    ------
    ValueError
        If the brain is empty.

    Examples
    --------
    >>> image = torch.full((9, 9, 9), 1.0)
    >>> image[2:7, 2:7, 2:7] = 100
    >>> image[4, 4, 4] = 1
    >>> int(head_mask(image, brain=image > 50).sum()) == 5**3
    True
    """
    image, inside = magnitude.cpu().numpy(), brain.bool().cpu().numpy()
    if not inside.any():
        raise ValueError("the brain mask is empty")
    tissue = ndimage.binary_opening(image > threshold * np.median(image[inside])) | inside
    parts, number = ndimage.label(tissue)
    with_brain = np.bincount(parts[inside], minlength=number + 1) > 0
    connected = with_brain[parts]
    head = np.logical_or.reduce([_span(connected, axis) for axis in range(3)])
    return torch.from_numpy(head).to(magnitude.device)


def air_mask(
    magnitude: Tensor, *, head: Tensor, voxel_size: Sequence[float], margin: float = 10.0
) -> Tensor | None:
    """Air around the head, where nothing but noise and ghosts should be.

    Parameters
    ----------
    magnitude : Tensor
        (x, y, z), any unit.
    head : Tensor
        (x, y, z), bool; see :func:`head_mask`.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    margin : float
        Distance from the head in mm along the voxel axes that is left out.

    Returns
    -------
    Tensor or None
        (x, y, z), bool, without voxels that are exactly zero. None where there is no air to measure in:
        the head fills the field of view, or most voxels around it are zero, as in an image that was masked.

    Examples
    --------
    >>> image = torch.tensor([5.0, 9.0, 7.0, 5.0, 0.0]).reshape(5, 1, 1)
    >>> head = image > 8
    >>> air_mask(image, head=head, voxel_size=(10, 10, 10)).flatten().tolist()
    [False, False, False, True, False]
    >>> air_mask(image * head, head=head, voxel_size=(10, 10, 10)) is None
    True
    """
    widened = head.bool().cpu().numpy()
    for axis, edge in enumerate(voxel_size):
        reach = round(margin / edge)
        widened = ndimage.maximum_filter1d(widened, 2 * reach + 1, axis=axis, mode="constant")
    outside = ~torch.from_numpy(widened).to(magnitude.device)
    air = outside & (magnitude > 0)
    n_air = int(air.count_nonzero())
    return air if n_air and 2 * n_air >= int(outside.count_nonzero()) else None


def ghost_to_signal(magnitude: Tensor, *, air: Tensor, head: Tensor, brain: Tensor) -> float | None:
    """Ghosts beside the head relative to the brain, max over axes of (A_beside − A_clear) / B.

    A ghost is the head again, shifted along a phase-encoding axis: half the field of view for a
    periodic fault, anywhere for motion. So along the axis of its ghosts, air beside the head (on a line
    of voxels that meets it) is brighter than air that is clear of it. A and B are medians of the
    magnitude in air and brain. As the axes of phase encoding are rarely known, the worst axis counts.

    Parameters
    ----------
    magnitude : Tensor
        (x, y, z), any unit.
    air, head : Tensor
        (x, y, z), bool; see :func:`air_mask` and :func:`head_mask`.
    brain : Tensor
        (x, y, z), bool.

    Returns
    -------
    float or None
        Ratio, near 0 without ghosts. None where along every axis less than 100 voxels of air lie beside
        the head or clear of it.

    Raises
    ------
    ValueError
        If the brain is empty.

    References
    ----------
    Ghost-to-signal ratio for shifts of half the field of view: Giannelli et al. 2010,
    10.1120/jacmp.v11i4.3237.

    Examples
    --------
    >>> image = torch.ones(12, 60, 12)
    >>> image[4:8, 28:32, 4:8] = 100  # the head
    >>> image[4:8, :20, 4:8] = 6  # a ghost along y
    >>> image[4:8, 40:, 4:8] = 6
    >>> head = image > 10
    >>> ghost_to_signal(image, air=~head, head=head, brain=head)
    0.05
    """
    image, outside, inside = (each.cpu().numpy() for each in (magnitude, air.bool(), head.bool()))
    found = []
    for axis in range(3):
        meets = inside.any(axis=axis, keepdims=True)
        beside, clear = image[outside & meets], image[outside & ~meets]
        if min(beside.size, clear.size) >= FEWEST_VOXELS:
            found.append(float(np.median(beside)) - float(np.median(clear)))
    signal = image[brain.bool().cpu().numpy()]
    if not signal.size:
        raise ValueError("the brain mask is empty")
    return max(found) / float(np.median(signal)) if found else None


def entropy_focus(magnitude: Tensor) -> float:
    """Entropy focus criterion of an image, E / E_max with E = −Σ x ln x and x = m / √Σm².

    The sum is over all N voxels, air included, and E_max = √N ln √N is the entropy of an even image. The
    value grows as ghosts and blur spread the signal, and with the share of the field of view that the
    head fills: it compares scans of one protocol.

    Parameters
    ----------
    magnitude : Tensor
        (x, y, z), any unit, not negative and not zero everywhere.

    Returns
    -------
    float
        0 for a single bright voxel, 1 for an even image.

    Raises
    ------
    ValueError
        If the image is zero everywhere, negative or not finite somewhere, or a single voxel.

    References
    ----------
    Atkinson et al. 1997, 10.1109/42.650886; normalised as in MRIQC: Esteban et al. 2017,
    10.1371/journal.pone.0184661.

    Examples
    --------
    >>> round(entropy_focus(torch.ones(4, 4, 4)), 6)
    1.0
    """
    values = magnitude.double()
    energy = float(values.square().sum())
    if not (0 < energy < math.inf) or float(values.min()) < 0 or values.numel() < 2:
        raise ValueError("the entropy needs an image of finite values that are not negative nor all zero")
    brightest = math.sqrt(values.numel())
    # x ln x is 0 at 0, which xlogy knows.
    share = values / math.sqrt(energy)
    return -float(torch.special.xlogy(share, share).sum()) / (brightest * math.log(brightest))


def sharpness_fwhm(
    magnitude: Tensor, *, mask: Tensor, voxel_size: Sequence[float], rim: float = 5.0
) -> float | None:
    r"""Smoothness of an image: width of the Gaussian that makes neighbours as alike as they are, in mm.

    .. math:: FWHM_a = d_a \sqrt{-2 \ln 2 / \ln(1 − ⟨(x_{i+1} − x_i)^2⟩ / (2 \, \mathrm{var} \, x))}

    along an axis of voxels d_a mm apart, and the mean over the axes. The image x is the magnitude without
    its trend, a polynomial of second degree along each axis, which takes off the sensitivity of the coils.
    Blur and coarse voxels widen it, noise makes it narrower, and so it compares scans of one protocol.

    Parameters
    ----------
    magnitude : Tensor
        (x, y, z), any unit.
    mask : Tensor
        (x, y, z), bool, the brain.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    rim : float
        Distance from the mask's surface in mm that is left out.

    Returns
    -------
    float or None
        mm, 0 where neighbours have nothing in common. None where less than 100 pairs of neighbours along
        an axis are left, or the image is even but for its trend.

    Raises
    ------
    ValueError
        If the image is not finite in the mask.

    References
    ----------
    Forman et al. 1995, 10.1002/mrm.1910330508.

    Examples
    --------
    >>> stripes = 10 + torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(4)
    >>> image = stripes[:, None, None] + stripes[:, None] + stripes
    >>> mask = torch.ones(16, 16, 16, dtype=torch.bool)
    >>> sharpness_fwhm(image, mask=mask, voxel_size=(2, 2, 2)) < 4
    True
    """
    inner = erode(mask, radius=rim, voxel_size=voxel_size)
    if not bool(inner.any()):
        return None
    _, inner, image = masked_crop(magnitude, mask=inner)
    inside, image = inner.cpu().numpy(), image.cpu().numpy().astype(np.float64)
    smallest = ROUNDING * float(np.abs(image[inside]).mean())
    image = _without_trend(image, inside)
    variance = float(image[inside].var())
    if variance <= smallest**2:
        return None
    widths = []
    for axis, edge in enumerate(voxel_size):
        pairs = np.logical_and(*_neighbours(inside, axis))
        if np.count_nonzero(pairs) < FEWEST_VOXELS:
            return None
        before, after = _neighbours(image, axis)
        likeness = 1 - float(np.mean((after[pairs] - before[pairs]) ** 2)) / (2 * variance)
        if likeness == 1:
            return None
        widths.append(edge * math.sqrt(-2 * math.log(2) / math.log(likeness)) if likeness > 0 else 0.0)
    return float(np.mean(widths))


def _without_trend(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """An image less the polynomial of second degree along each axis that fits it best inside a mask."""
    places = np.argwhere(inside)
    places = tuple(places[:: max(1, len(places) // SAMPLE_VOXELS)].T)
    axes = [np.linspace(-1, 1, size) for size in image.shape]
    points = [axis[place] for axis, place in zip(axes, places, strict=True)]
    coefficients = np.linalg.lstsq(legvander3d(*points, (2, 2, 2)), image[places])[0]
    return image - leggrid3d(*axes, coefficients.reshape(3, 3, 3))


def _neighbours(image: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """All voxels along an axis but the last, and all but the first."""
    moved = np.moveaxis(image, axis, 0)
    return moved[:-1], moved[1:]


def _span(mask: np.ndarray, axis: int) -> np.ndarray:
    """Voxels from the first to the last one of a mask on each line along an axis."""
    since_first = np.maximum.accumulate(mask, axis=axis)
    until_last = np.flip(np.maximum.accumulate(np.flip(mask, axis), axis=axis), axis)
    return since_first & until_last
