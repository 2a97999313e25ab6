"""Weights of voxels from the noise of their field."""

import torch
from torch import Tensor


def noise_weights(noise: Tensor, *, mask: Tensor) -> tuple[Tensor, float]:
    """Reciprocal noise, scaled to a mean of one over the voxels that have any.

    The scale makes a regularisation weight mean the same thing at any signal-to-noise ratio. A voxel
    without a positive finite noise was never measured, so it gets no weight.

    Parameters
    ----------
    noise : Tensor
        (x, y, z), standard deviation in any unit.
    mask : Tensor
        (x, y, z), true where the field means something.

    Returns
    -------
    weights : Tensor
        (x, y, z), dimensionless, zero outside the mask.
    unit_noise : float
        The noise of a voxel of weight one, so that noise = unit_noise / weights.

    Raises
    ------
    ValueError
        If no voxel of the mask has a positive finite noise.

    Examples
    --------
    >>> noise = torch.tensor([1.0, 2.0, 0.0, float("inf"), 1.0])
    >>> weights, unit = noise_weights(noise, mask=torch.tensor([1, 1, 1, 1, 0]))
    >>> [round(value, 3) for value in weights.tolist()], round(unit, 3)
    ([1.333, 0.667, 0.0, 0.0, 0.0], 1.333)
    """
    usable = mask.bool() & torch.isfinite(noise) & (noise > 0)
    if not usable.any():
        raise ValueError("no voxel of the mask has a positive finite noise")
    reciprocal = torch.where(usable, 1 / torch.where(usable, noise, 1), 0)
    mean = float(reciprocal[usable].double().mean())
    return reciprocal / mean, 1 / mean
