"""The part of an image that a mask needs."""

import torch
from torch import Tensor


def bounding_box(mask: Tensor) -> tuple[slice, ...]:
    """Smallest box that holds a mask, one slice an axis.

    Parameters
    ----------
    mask : Tensor
        (x, y, z), true inside.

    Returns
    -------
    tuple of slice
        Index of the box.

    Raises
    ------
    ValueError
        If the mask is empty.

    Examples
    --------
    >>> mask = torch.zeros(6, 6, 6, dtype=torch.bool)
    >>> mask[2:4, 3, 1:6] = True
    >>> bounding_box(mask)
    (slice(2, 4, None), slice(3, 4, None), slice(1, 6, None))
    """
    inside = torch.nonzero(mask)
    if not len(inside):
        raise ValueError("the mask is empty")
    low, high = inside.amin(dim=0).tolist(), inside.amax(dim=0).tolist()
    return tuple(slice(first, last + 1) for first, last in zip(low, high, strict=True))
