"""What morphology-enabled dipole inversion minimises, with its derivatives."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmflow.core.fourier import gradient, gradient_adjoint


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
    ordered = steepness[inside].sort().values
    n_smooth = math.ceil((1 - edge_fraction) * len(ordered))
    if n_smooth == 0:
        return torch.zeros_like(inside)
    return inside & (steepness <= ordered[n_smooth - 1])


@dataclass(frozen=True)
class MorphologyObjective:
    """½‖W ρ(d∗χ − b)‖² + λ‖M_G∇χ‖₁ + ½λ_C‖M_C(χ − mean_C χ)‖² over χ in a mask.

    The modulus is smoothed to √(g² + ε²). With the nonlinear data term |ρ(u)| = |exp(iru) − 1| / r,
    the distance of two phasors, else ρ(u) = u; both agree for small phases, so λ means the same.

    Attributes
    ----------
    convolve : callable
        χ to field, (x, y, z) to (x, y, z), its own adjoint.
    field : Tensor
        b, (x, y, z) in ppm.
    weights : Tensor
        W, (x, y, z), zero where there is no data.
    support : Tensor
        (x, y, z), boolean, where χ may differ from zero.
    smooth : Tensor
        M_G, (3, x, y, z), boolean.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    regularisation : float
        λ in ppm·mm.
    smoothing : float
        ε in ppm/mm.
    csf_mask : Tensor or None
        (x, y, z), boolean.
    csf_regularisation : float
        λ_C, dimensionless.
    radian_per_ppm : float or None
        r of the nonlinear data term; the linear one if None.
    """

    convolve: Callable[[Tensor], Tensor]
    field: Tensor
    weights: Tensor
    support: Tensor
    smooth: Tensor
    voxel_size: Sequence[float]
    regularisation: float
    smoothing: float
    csf_mask: Tensor | None = None
    csf_regularisation: float = 0.0
    radian_per_ppm: float | None = None

    def misfit(self, susceptibility: Tensor) -> Tensor:
        """|ρ(d∗χ − b)| in ppm, (x, y, z), not weighted."""
        difference = self.convolve(susceptibility).sub_(self.field)
        if self.radian_per_ppm is None:
            return difference.abs_()
        return difference.mul_(self.radian_per_ppm / 2).sin_().abs_().mul_(2 / self.radian_per_ppm)

    def energy(self, susceptibility: Tensor) -> float:
        """The objective's value, summed in double precision."""
        data = (self.weights * self.misfit(susceptibility)).double().square().sum() / 2
        slope = gradient(susceptibility, voxel_size=self.voxel_size)[self.smooth].double()
        roughness = (slope.square() + self.smoothing**2).sqrt().sum()
        energy = data + self.regularisation * roughness
        if self.csf_mask is not None:
            deviation = self._csf_deviation(susceptibility).double()
            energy = energy + self.csf_regularisation / 2 * deviation.square().sum()
        return float(energy)

    def gradient(self, susceptibility: Tensor) -> Tensor:
        """Derivative of the energy, (x, y, z), zero outside the support."""
        difference = self.convolve(susceptibility).sub_(self.field)
        if self.radian_per_ppm is not None:
            difference.mul_(self.radian_per_ppm).sin_().div_(self.radian_per_ppm)
        data = self.convolve(difference.mul_(self.weights**2))
        stiffness = self._stiffness(susceptibility)
        return self._restricted(data, susceptibility, stiffness)

    def curvature(self, susceptibility: Tensor) -> Callable[[Tensor], Tensor]:
        """Gauss–Newton operator of the data term with the modulus' curvature held as it is at χ.

        It bounds the energy from above, so minimising the quadratic never raises the energy.
        """
        stiffness = self._stiffness(susceptibility)
        squared = self.weights**2

        def apply(change: Tensor) -> Tensor:
            data = self.convolve(self.convolve(change).mul_(squared))
            return self._restricted(data, change, stiffness)

        return apply

    def _stiffness(self, susceptibility: Tensor) -> Tensor:
        """λ M_G / √((∇χ)² + ε²), (3, x, y, z)."""
        slope = gradient(susceptibility, voxel_size=self.voxel_size)
        slope.square_().add_(self.smoothing**2).rsqrt_()
        return slope.mul_(self.smooth).mul_(self.regularisation)

    def _restricted(self, data: Tensor, image: Tensor, stiffness: Tensor) -> Tensor:
        """Data part plus the regularisation of an image, within the support."""
        flux = gradient(image, voxel_size=self.voxel_size).mul_(stiffness)
        total = data + gradient_adjoint(flux, voxel_size=self.voxel_size)
        if self.csf_mask is not None:
            total.add_(self._csf_deviation(image), alpha=self.csf_regularisation)
        return total.mul_(self.support)

    def _csf_deviation(self, image: Tensor) -> Tensor:
        """M_C(χ − mean_C χ), an orthogonal projection."""
        return torch.where(self.csf_mask, image - image[self.csf_mask].mean(), 0)
