"""Quality of what was measured: the echoes, their phase and the field."""

import numpy as np
import torch
from scipy.special import chdtri
from torch import Tensor

from qsmflow.core.crop import masked_crop

#: Standard deviation of a Gaussian over its median absolute deviation.
SD_PER_MAD = 1.4826

#: Share of voxels that noise alone lets exceed the bound of :func:`fit_outliers`.
CHANCE = 0.001


def robust_sd(values: np.ndarray) -> float:
    """Standard deviation by the median absolute deviation, 1.4826 · median |x − median x|.

    Parameters
    ----------
    values : ndarray
        Any shape, not empty.

    Returns
    -------
    float
        Unit of the values; that of a Gaussian whatever a few outliers are.

    Examples
    --------
    >>> robust_sd(np.array([-1.0, 0.0, 1.0, 1000.0]))
    1.4826
    """
    return SD_PER_MAD * float(np.median(np.abs(values - np.median(values))))


def field_snr(local_field: Tensor, *, frequency_noise: Tensor, mask: Tensor) -> float | None:
    """Signal-to-noise ratio of the field map, 1.4826 · MAD(b) / median(σ).

    The spread of the local field b, which is what susceptibility is told by, over the standard deviation
    that the echo fit gives a voxel. Motion and background that was left raise both.

    Parameters
    ----------
    local_field : Tensor
        (x, y, z), any unit.
    frequency_noise : Tensor
        (x, y, z), standard deviation of the field in the same unit.
    mask : Tensor
        (x, y, z), bool, where the local field is known.

    Returns
    -------
    float or None
        Dimensionless; None for data without noise.

    Raises
    ------
    ValueError
        If the mask is empty.

    References
    ----------
    Noise of the field map: Kressler et al. 2010, 10.1109/TMI.2009.2023787.

    Examples
    --------
    >>> field = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0]).reshape(5, 1, 1)
    >>> mask = torch.ones(5, 1, 1, dtype=torch.bool)
    >>> field_snr(field, frequency_noise=0.5 * torch.ones(5, 1, 1), mask=mask)
    5.9304
    """
    field, noise = _within(mask, local_field, frequency_noise)
    typical = float(np.median(noise))
    return robust_sd(field) / typical if typical else None


def fit_residual(relative_residual: Tensor, *, mask: Tensor) -> float:
    """Median over a mask of the echo fit's residual, 100 · ‖S − model‖ / ‖S‖, in per cent.

    Parameters
    ----------
    relative_residual : Tensor
        (x, y, z), norm of data minus model over norm of the data, across echoes.
    mask : Tensor
        (x, y, z), bool.

    Returns
    -------
    float
        Per cent of the signal.

    Raises
    ------
    ValueError
        If the mask is empty.

    References
    ----------
    The model: Liu et al. 2013, 10.1002/mrm.24272.

    Examples
    --------
    >>> residual = torch.tensor([0.25, 0.5, 1.0]).reshape(3, 1, 1)
    >>> fit_residual(residual, mask=residual > 0)
    50.0
    """
    (residual,) = _within(mask, relative_residual)
    return 100 * float(np.median(residual))


def fit_outliers(
    relative_residual: Tensor, *, magnitude: Tensor, mask: Tensor, degrees_of_freedom: int
) -> float | None:
    """Voxels whose echoes depart from the model more than noise lets 1 of 1000 do, in per cent.

    Noise makes r²/σ² of the residual r = ‖S − model‖ follow χ² with the fit's degrees of freedom ν. Its
    median tells σ² = median(r²) / median(χ²_ν), whatever a minority of voxels does, and an outlier has
    r² > σ² · χ²_ν(0.999). Steep fields, flow and motion make outliers; so does noise that is uneven over
    the image, as parallel imaging leaves it.

    Parameters
    ----------
    relative_residual : Tensor
        (x, y, z), norm of data minus model over norm of the data, across echoes.
    magnitude : Tensor
        (x, y, z), norm of the data: root of the sum of squares over the echoes.
    mask : Tensor
        (x, y, z), bool.
    degrees_of_freedom : int
        Of the fit: real numbers measured less those fitted; see :func:`degrees_of_freedom`.

    Returns
    -------
    float or None
        Per cent of the mask's voxels, 0.1 where there is nothing but noise; None without degrees of
        freedom, where every signal fits.

    Raises
    ------
    ValueError
        If the mask is empty.

    References
    ----------
    Pearson 1900, 10.1080/14786440009463897.

    Examples
    --------
    >>> residual = torch.full((10, 1, 1), 0.01)
    >>> residual[0] = 0.1
    >>> ones = torch.ones(10, 1, 1)
    >>> fit_outliers(residual, magnitude=ones, mask=ones > 0, degrees_of_freedom=4)
    10.0
    """
    relative, size = _within(mask, relative_residual, magnitude)
    if degrees_of_freedom <= 0:
        return None
    error = (relative * size) ** 2
    bound = np.median(error) * chdtri(degrees_of_freedom, CHANCE) / chdtri(degrees_of_freedom, 0.5)
    return 100 * float(np.mean(error > bound))


def degrees_of_freedom(n_echoes: int, *, bipolar: bool) -> int:
    """Real numbers that the echo fit has left over in a voxel, 2N − 4, or 2N − 5 with a bipolar phase.

    N complex echoes against magnitude, phase offset, frequency, R2* and, if fitted, the bipolar phase.

    Parameters
    ----------
    n_echoes : int
        N.
    bipolar : bool
        Whether odd and even echoes have phase offsets of their own.

    Returns
    -------
    int
        0 or less where nothing is left over.

    Examples
    --------
    >>> degrees_of_freedom(4, bipolar=False), degrees_of_freedom(4, bipolar=True)
    (4, 3)
    """
    return 2 * n_echoes - (5 if bipolar else 4)


def phase_residues(phase: Tensor, *, mask: Tensor) -> float | None:
    """Residues of a wrapped phase in a mask, per thousand loops.

    A loop is a square of four neighbours in any of the three planes, all in the mask. The wrapped
    differences around it add up to zero, or to ±2π where the phase turns around a point: a residue. No
    unwrapping is right there, and cuts between residues are what it has to guess.

    Parameters
    ----------
    phase : Tensor
        (x, y, z), rad, wrapped or not.
    mask : Tensor
        (x, y, z), bool.

    Returns
    -------
    float or None
        Residues per 1000 loops; 0 for any smooth phase, 333 for nothing but noise. None where the mask
        holds no loop.

    Raises
    ------
    ValueError
        If the mask is empty or the phase is not finite in it.

    References
    ----------
    Goldstein et al. 1988, 10.1029/RS023i004p00713; in three dimensions: Huntley 2001, 10.1364/AO.40.003901.

    Examples
    --------
    >>> phase = torch.tensor([[0.0, 0.5], [1.5, 1.0]])[..., None] * torch.pi
    >>> phase_residues(phase, mask=torch.ones(2, 2, 1, dtype=torch.bool))
    1000.0
    """
    _, inside, phase = masked_crop(phase, mask=mask)
    steps = []
    for axis in range(3):
        cycles = phase.diff(dim=axis) / (2 * torch.pi)
        steps.append(cycles - cycles.round())
    n_loops = n_residues = 0
    for first, second in ((0, 1), (0, 2), (1, 2)):
        # Along the first axis, then the second, and back: the sum of four steps as two differences.
        turns = steps[second].diff(dim=first) - steps[first].diff(dim=second)
        edges = _both(inside, first)
        loops = _both(edges, second)
        n_loops += int(loops.count_nonzero())
        n_residues += int((loops & (turns.abs() > 0.5)).count_nonzero())
    return 1000 * n_residues / n_loops if n_loops else None


def mask_lost(mask: Tensor, *, brain: Tensor) -> float:
    """Part of the brain that a mask leaves out, 100 · (1 − |mask ∩ brain| / |brain|), in per cent.

    Parameters
    ----------
    mask : Tensor
        (x, y, z), bool, the voxels whose phase can be trusted.
    brain : Tensor
        (x, y, z), bool, the mask before voxels were left out.

    Returns
    -------
    float
        Per cent.

    Raises
    ------
    ValueError
        If the brain is empty.

    Examples
    --------
    >>> brain = torch.ones(4, 1, 1, dtype=torch.bool)
    >>> mask_lost(brain.cumsum(0) > 1, brain=brain)
    25.0
    """
    (kept,) = _within(brain, mask.bool())
    return 100 * (1 - float(kept.mean()))


def _both(inside: Tensor, axis: int) -> Tensor:
    """Whether a voxel and the next one along an axis are both inside."""
    size = inside.shape[axis] - 1
    return inside.narrow(axis, 0, size) & inside.narrow(axis, 1, size)


def _within(mask: Tensor, *images: Tensor) -> list[np.ndarray]:
    """Images in a mask, in double precision where they are not boolean."""
    inside = mask.bool().cpu().numpy()
    if not inside.any():
        raise ValueError("the mask is empty")
    values = [image.cpu().numpy()[inside] for image in images]
    return [each if each.dtype == bool else each.astype(np.float64) for each in values]
