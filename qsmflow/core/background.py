"""Removal of the field that sources outside the mask make."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmflow.core.crop import masked_crop, uncropped
from qsmflow.core.dipole import DipoleConvolution
from qsmflow.core.fourier import good_size
from qsmflow.core.solvers import least_squares
from qsmflow.core.weights import noise_weights


@dataclass(frozen=True)
class BackgroundRemoval:
    """A field parted into its sources inside and outside the mask.

    Attributes
    ----------
    local_field : Tensor
        (x, y, z), unit of the total field, zero outside the mask.
    background_field : Tensor
        (x, y, z), unit of the total field, zero outside the mask.
    n_iterations : int
        Steps of conjugate gradients.
    converged : bool
        Whether the noise level was reached before the steps ran out.
    residual : float
        ‖W·local field‖ / ‖W·total field‖, the constant part of the total field left out.
    """

    local_field: Tensor
    background_field: Tensor
    n_iterations: int
    converged: bool
    residual: float


class OutsideDipoles:
    """The linear operator χ_B → W·(d ∗ χ_B) from outside a mask into it, on a padded grid.

    Parameters
    ----------
    weights : Tensor
        (x, y, z), zero wherever the field is not fitted.
    mask : Tensor
        (x, y, z), true where there is no background source.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes.
    padding : sequence of int, optional
        Voxels along each axis; the image size unless given. Sources may lie there, too.

    Examples
    --------
    >>> mask = torch.zeros(8, 8, 8, dtype=torch.bool)
    >>> mask[2:6, 2:6, 2:6] = True
    >>> operator = OutsideDipoles(mask.float(), mask, voxel_size=(1, 1, 1), b0_direction=(0, 0, 1))
    >>> tuple(operator(torch.ones(operator.grid)).shape)
    (16, 16, 16)
    """

    def __init__(
        self,
        weights: Tensor,
        mask: Tensor,
        *,
        voxel_size: Sequence[float],
        b0_direction: Sequence[float],
        padding: Sequence[int] | None = None,
    ):
        if padding is None:
            padding = mask.shape
        self.shape = tuple(mask.shape)
        self.grid = good_size(mask.shape, padding=padding)
        self.weights = self.pad(weights)
        self.outside = 1 - self.pad(mask.to(weights.dtype))
        self.convolve = DipoleConvolution(
            self.grid,
            voxel_size=voxel_size,
            b0_direction=b0_direction,
            padding=(0, 0, 0),
            device=weights.device,
            dtype=weights.dtype,
        )

    def __call__(self, sources: Tensor) -> Tensor:
        """Weighted field of sources, both on the padded grid."""
        return self.convolve(sources).mul_(self.weights)

    def adjoint(self, field: Tensor) -> Tensor:
        """Correlation of a weighted field with each outside dipole."""
        return self.convolve(field * self.weights).mul_(self.outside)

    def gain(self) -> float:
        """Root mean square of ‖Aᴴr‖ / ‖r‖ over white noise r that lives where the weights do.

        The squared Frobenius norm of A is Σ_j∉mask Σ_i w_i² d_(i−j)², one more convolution.
        """
        impulse = torch.fft.irfftn(self.convolve.kernel, s=self.grid)
        kernel = torch.fft.rfftn(impulse.square_())
        power = torch.fft.irfftn(torch.fft.rfftn(self.weights**2).mul_(kernel), s=self.grid)
        squared = power.mul_(self.outside).clamp_(min=0).sum()
        return float((squared / torch.count_nonzero(self.weights)).sqrt())

    def pad(self, image: Tensor) -> Tensor:
        """Image with zeros behind it up to the padded grid."""
        padded = image.new_zeros(self.grid)
        padded[tuple(slice(size) for size in self.shape)] = image
        return padded

    def crop(self, image: Tensor) -> Tensor:
        """The image's part of a padded grid."""
        return image[tuple(slice(size) for size in self.shape)]


def remove_background(
    total_field: Tensor,
    *,
    noise: Tensor,
    mask: Tensor,
    voxel_size: Sequence[float],
    b0_direction: Sequence[float],
    padding: Sequence[int] | None = None,
    rtol: float = 0.1,
    max_steps: int = 200,
) -> BackgroundRemoval:
    """Project a field onto dipoles outside the mask: min ‖W(f − d∗χ_B)‖ over χ_B outside.

    W is the reciprocal noise. The weighted mean of the field, where the scanner put its centre
    frequency, is taken away first: D(0) = 0 makes it the slowest part to be built from dipoles.

    The problem is ill-posed and is regularised by stopping at the noise level. To a projection onto
    outside sources the local field is noise as well, since they cannot explain it, and it is the
    larger part. So the noise level is taken from the residual itself and from ``noise``, whichever is
    larger: the steps end once the dipoles outside see the residual less than ``rtol`` times as well
    as they would see white noise of the same norm. In phantoms that is within a few per cent of the
    step with the smallest error of the local field, at all noise levels from a thirtieth of the local
    field to its size, and it does not depend on the scale of ``noise``.

    Parameters
    ----------
    total_field : Tensor
        (x, y, z), unwrapped, any unit.
    noise : Tensor
        (x, y, z), standard deviation in the unit of the field. A voxel where it is not positive and
        finite is not fitted.
    mask : Tensor
        (x, y, z), true where the local field is wanted; all background sources are outside.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes.
    padding : sequence of int, optional
        Voxels along each axis beyond the mask's bounding box, where sources may lie; the size of that
        box unless given.
    rtol : float
        See above.
    max_steps : int
        Most steps of conjugate gradients.

    Returns
    -------
    BackgroundRemoval
        Local and background field, their sum is the total field in the mask; how the steps ended.

    Raises
    ------
    ValueError
        If the mask is empty, the field is not finite in it, or no voxel of it has a positive finite noise.

    References
    ----------
    Liu et al. 2011, 10.1002/nbm.1670; Paige and Saunders 1982, 10.1145/355984.355989.

    Examples
    --------
    >>> mask = torch.zeros(16, 16, 16, dtype=torch.bool)
    >>> mask[4:12, 4:12, 4:12] = True
    >>> removal = remove_background(
    ...     torch.full((16, 16, 16), 3.0),
    ...     noise=torch.ones(16, 16, 16),
    ...     mask=mask,
    ...     voxel_size=(1, 1, 1),
    ...     b0_direction=(0, 0, 1),
    ... )
    >>> float(removal.local_field.abs().max())
    0.0
    """
    box, inside, field = masked_crop(total_field, mask=mask)
    weights, unit_noise = noise_weights(noise[box], mask=inside)
    squared = weights**2
    centre = float((squared * field).sum() / squared.sum())
    operator = OutsideDipoles(
        weights.to(field.dtype), inside, voxel_size=voxel_size, b0_direction=b0_direction, padding=padding
    )
    solution = least_squares(
        operator,
        operator.adjoint,
        operator.pad(weights * (field - centre)),
        gain=operator.gain(),
        noise=unit_noise * float(torch.count_nonzero(weights)) ** 0.5,
        rtol=rtol,
        max_steps=max_steps,
    )
    background = torch.where(inside, operator.crop(operator.convolve(solution.value)) + centre, 0)
    return BackgroundRemoval(
        uncropped(field - background, box=box, shape=mask.shape),
        uncropped(background, box=box, shape=mask.shape),
        solution.n_iterations,
        solution.converged,
        solution.residual,
    )
