"""How far a map is from the truth."""

import torch
from torch import Tensor


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


def _within(value: Tensor, truth: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps in the mask, in double precision."""
    mask = mask.bool()
    value, truth = value[mask].double(), truth[mask].double()
    if not value.numel():
        raise ValueError("the mask of the comparison is empty")
    if not bool(torch.isfinite(value).all() and torch.isfinite(truth).all()):
        raise ValueError("a map of the comparison is not finite in the mask")
    return value, truth
