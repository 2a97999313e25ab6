"""Where the susceptibility has to be smooth: differences within a mask, less the edges of a magnitude."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsmflow.core.fourier import gradient


def inner_differences(mask: Tensor) -> Tensor:
    """Gradient components that lie within a mask: a voxel and the next one are both in it.

    Parameters
    ----------
    mask : Tensor
        (x, y, z), boolean.

    Returns
    -------
    Tensor
        (3, x, y, z), boolean.

    Examples
    --------
    >>> mask = torch.tensor([True, True, False]).reshape(3, 1, 1)
    >>> inner_differences(mask)[0].flatten().tolist()
    [True, False, False]
    """
    inside = torch.zeros((3, *mask.shape), dtype=torch.bool, device=mask.device)
    for axis, size in enumerate(mask.shape):
        here, behind = mask.narrow(axis, 0, size - 1), mask.narrow(axis, 1, size - 1)
        inside[axis].narrow(axis, 0, size - 1).copy_(here & behind)
    return inside


def edge_free(
    magnitude: Tensor, *, mask: Tensor, voxel_size: Sequence[float], edge_fraction: float
) -> Tensor:
    """Where the susceptibility has to be smooth: the gradient components without an edge.

    Each of the three components of a voxel is judged on its own. Only differences between two voxels
    of the mask count; of these, the ``edge_fraction`` with the largest magnitude gradient are edges.
    (A threshold that counts edges in all three components until they are 90 % of the number of
    voxels, as is common, makes 30 % of the components edges.)

    Parameters
    ----------
    magnitude : Tensor
        (x, y, z), any unit.
    mask : Tensor
        (x, y, z), boolean.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    edge_fraction : float
        Between 0 and 1.

    Returns
    -------
    Tensor
        (3, x, y, z), boolean, false at edges and across the border of the mask.

    References
    ----------
    Liu et al. 2012, 10.1016/j.neuroimage.2011.08.082.

    Examples
    --------
    >>> magnitude = torch.ones(4, 4, 4)
    >>> magnitude[2:] = 2
    >>> mask = torch.ones(4, 4, 4, dtype=torch.bool)
    >>> smooth = edge_free(magnitude, mask=mask, voxel_size=(1, 1, 1), edge_fraction=0.2)
    >>> smooth[0, :, 0, 0].tolist()
    [True, False, True, False]
    """
    inside = inner_differences(mask)
    steepness = gradient(magnitude, voxel_size=voxel_size).abs_()
    judged = steepness[inside]
    n_smooth = math.ceil((1 - edge_fraction) * len(judged))
    if n_smooth == 0:
        return torch.zeros_like(inside)
    return inside.logical_and_(steepness <= judged.kthvalue(n_smooth).values)
