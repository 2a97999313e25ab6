"""How much of a measured field a susceptibility leaves unexplained."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmflow.core.crop import masked_crop
from qsmflow.core.dipole import DipoleConvolution
from qsmflow.core.weights import noise_weights


@dataclass(frozen=True)
class DataResidual:
    """What :func:`data_residual` found.

    Attributes
    ----------
    residual : float
        ‖W(d∗(χ + c M) − b)‖ / ‖W b‖; 0 for a map that explains all, 1 for one that explains nothing.
    offset : float
        c in ppm.
    """

    residual: float
    offset: float


def data_residual(
    susceptibility: Tensor,
    *,
    local_field: Tensor,
    noise: Tensor,
    mask: Tensor,
    voxel_size: Sequence[float],
    b0_direction: Sequence[float],
) -> DataResidual:
    """Weighted misfit of the field that a map makes, min over c of ‖W(d∗(χ + c M) − b)‖ / ‖W b‖.

    A susceptibility is known up to a constant c in the mask M, which a reference region sets. As only an
    ellipsoid is without a field of its own, c would change the misfit; the one that fits best is taken, so
    that maps compare whatever they are referenced to. Sources outside the mask, which some inversions
    admit, are not in the map and count as misfit. The far field wraps around a grid half as large again as
    the mask, which leaves about 0.03 of an exact map.

    Parameters
    ----------
    susceptibility : Tensor
        χ, (x, y, z) in ppm; taken as zero outside the mask.
    local_field : Tensor
        b, (x, y, z) in ppm.
    noise : Tensor
        1 / W, (x, y, z), standard deviation of the field in any unit.
    mask : Tensor
        M, (x, y, z), true where the field means something.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes.

    Returns
    -------
    DataResidual
        Relative misfit and the constant.

    Raises
    ------
    ValueError
        If the mask is empty, a map is not finite in it, no voxel has a noise, or the field is zero.

    Examples
    --------
    >>> field, ones = torch.rand(8, 8, 8), torch.ones(8, 8, 8)
    >>> data_residual(
    ...     0 * ones,
    ...     local_field=field - field.mean(),
    ...     noise=ones,
    ...     mask=ones > 0,
    ...     voxel_size=(1, 1, 1),
    ...     b0_direction=(0, 0, 1),
    ... ).residual > 0.9
    True
    """
    box, inside, field = masked_crop(local_field, mask=mask)
    _, _, inner = masked_crop(susceptibility, mask=mask)
    weights, _ = noise_weights(noise[box], mask=inside)
    norm = _norm(weights * field)
    if norm == 0:
        raise ValueError("the local field is zero in the mask, so no misfit can be normalised by it")
    convolve = DipoleConvolution(
        inner.shape,
        voxel_size=voxel_size,
        b0_direction=b0_direction,
        device=inner.device,
        dtype=inner.dtype,
    )
    misfit = convolve(inner).sub_(field).mul_(weights)
    uniform = convolve(inside.to(inner)).mul_(weights)
    power = _norm(uniform) ** 2
    offset = -float((uniform * misfit).sum(dtype=torch.float64)) / power if power else 0.0
    return DataResidual(_norm(misfit.add_(uniform, alpha=offset)) / norm, offset)


def _norm(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64))
