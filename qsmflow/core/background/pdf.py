"""Projection onto dipole fields, with a model of the local field."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from qsmflow.core.background.result import BackgroundRemoval
from qsmflow.core.crop import masked_crop, uncropped
from qsmflow.core.dipole import dipole_kernel
from qsmflow.core.fourier import good_size, voxels_along
from qsmflow.core.solvers import Solution, least_squares
from qsmflow.core.weights import noise_weights


class WeightedDipoles:
    """The linear operator ξ → W·(d ∗ Sξ) from a periodic grid into the box at its origin.

    Every call works in, and returns, one buffer of the operator: use a result before the next call.

    Parameters
    ----------
    weights : Tensor
        (x, y, z), W, zero wherever the field is not fitted.
    scale : Tensor
        (gx, gy, gz), S, the susceptibility to be expected of each voxel; the grid holds the box and a margin.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes.

    Examples
    --------
    >>> operator = WeightedDipoles(
    ...     torch.ones(4, 4, 4), torch.ones(8, 8, 8), voxel_size=(1, 1, 1), b0_direction=(0, 0, 1)
    ... )
    >>> tuple(operator(torch.ones(8, 8, 8)).shape), tuple(operator.adjoint(torch.ones(4, 4, 4)).shape)
    ((4, 4, 4), (8, 8, 8))
    """

    def __init__(
        self,
        weights: Tensor,
        scale: Tensor,
        *,
        voxel_size: Sequence[float],
        b0_direction: Sequence[float],
    ):
        self.weights, self.scale = weights, scale
        self.grid = tuple(scale.shape)
        self.box = tuple(slice(size) for size in weights.shape)
        self.kernel = dipole_kernel(
            self.grid,
            voxel_size=voxel_size,
            b0_direction=b0_direction,
            device=scale.device,
            dtype=scale.dtype,
        )
        self.image = torch.empty_like(scale)
        self.spectrum = torch.fft.rfftn(self.image.zero_())

    def __call__(self, sources: Tensor) -> Tensor:
        """Weighted field in the box of scaled sources on the grid."""
        torch.mul(sources, self.scale, out=self.image)
        return self._convolved()[self.box].mul_(self.weights)

    def adjoint(self, residual: Tensor) -> Tensor:
        """Scaled correlation, on the grid, of a weighted field in the box with each dipole."""
        torch.mul(residual, self.weights, out=self.image.zero_()[self.box])
        return self._convolved().mul_(self.scale)

    def field(self, susceptibility: Tensor) -> Tensor:
        """Field in the box of a susceptibility on the grid."""
        self.image.copy_(susceptibility)
        return self._convolved()[self.box]

    def gain(self) -> float:
        """Root mean square of ‖Aᴴr‖ / ‖r‖ over white noise r that lives where the weights do.

        The squared Frobenius norm of A is Σ_j s_j² Σ_i w_i² d_(i−j)², one more convolution.
        """
        torch.fft.irfftn(self.kernel, s=self.grid, out=self.image)
        squared_dipole = torch.fft.rfftn(self.image.square_())
        torch.mul(self.weights, self.weights, out=self.image.zero_()[self.box])
        torch.fft.rfftn(self.image, out=self.spectrum).mul_(squared_dipole)
        torch.fft.irfftn(self.spectrum, s=self.grid, out=self.image)
        squared = self.image.mul_(self.scale).mul_(self.scale).sum()
        return float((squared / torch.count_nonzero(self.weights)).sqrt())

    def _convolved(self) -> Tensor:
        """The buffer's image, convolved with the dipole in place."""
        torch.fft.rfftn(self.image, out=self.spectrum).mul_(self.kernel)
        return torch.fft.irfftn(self.spectrum, s=self.grid, out=self.image)


@dataclass(frozen=True)
class _Problem:
    """A field to be explained on one grid, by sources inside and outside a mask.

    ``field`` and ``weights`` have the box's size, ``inside`` the grid's; lengths are in mm, ``noise`` is that
    of a voxel of weight one, and ``ratio`` is the susceptibility to be expected inside over that outside.
    """

    field: Tensor
    weights: Tensor
    inside: Tensor
    noise: float
    ratio: float
    voxel_size: tuple[float, ...]
    b0_direction: tuple[float, ...]

    def operator(self) -> WeightedDipoles:
        """From sources of unit size to the weighted field."""
        scale = torch.ones_like(self.inside, dtype=self.field.dtype).masked_fill_(self.inside, self.ratio)
        return WeightedDipoles(
            self.weights, scale, voxel_size=self.voxel_size, b0_direction=self.b0_direction
        )

    def coarser(self, factors: tuple[int, ...]) -> "_Problem":
        """The same on blocks of voxels; a block with any voxel of the mask is inside."""
        grid = self.inside.shape
        box = tuple(slice(size) for size in self.field.shape)

        def block_means(image: Tensor) -> Tensor:
            padded = image.new_zeros(grid)
            padded[box] = image
            return avg_pool3d(padded[None, None], factors)[0, 0]

        squared = self.weights**2
        power = block_means(squared)
        field = block_means(squared.mul_(self.field)) / torch.where(power > 0, power, 1)
        inside = avg_pool3d(self.inside[None, None].to(field.dtype), factors)[0, 0] > 0
        # The mean over n voxels of a block has 1/√n of their noise; only its ratio to the field counts.
        noise = self.noise / float(torch.tensor(factors).prod()) ** 0.5
        edges = tuple(edge * factor for edge, factor in zip(self.voxel_size, factors, strict=True))
        return _Problem(field, power.sqrt_(), inside, noise, self.ratio, edges, self.b0_direction)

    def solved(
        self, operator: WeightedDipoles, *, start: Tensor | None, rtol: float, max_steps: int
    ) -> tuple[Tensor, Solution]:
        """Susceptibility on the grid, corrected from a start by at most so many steps."""
        data = self.weights * (self.field if start is None else self.field - operator.field(start))
        solution = least_squares(
            operator,
            operator.adjoint,
            data,
            gain=operator.gain() if rtol else 0.0,
            noise=self.noise * float(torch.count_nonzero(self.weights)) ** 0.5,
            rtol=rtol,
            max_steps=max_steps,
        )
        susceptibility = solution.value.mul_(operator.scale)
        return susceptibility if start is None else susceptibility.add_(start), solution


def remove_background_pdf(
    total_field: Tensor,
    *,
    noise: Tensor,
    mask: Tensor,
    voxel_size: Sequence[float],
    b0_direction: Sequence[float],
    margin: float = 10.0,
    inside_ratio: float = 0.035,
    coarsest: float = 2.1,
    rtol: float = 0.015,
    max_steps: int = 100,
    refinements: int = 4,
) -> BackgroundRemoval:
    """Project a field onto dipoles outside the mask, beside which dipoles inside may explain it, too.

    Among all susceptibilities that explain the field f, min ‖W(f − d∗χ)‖, the one of least
    ‖χ outside‖² + ‖χ inside‖² / ``inside_ratio``² is sought and the field of its outer part taken away.
    W is the reciprocal noise. A projection onto the outer dipoles alone takes the local field for white
    noise and what part of it is harmonic for background; with the ratio at which tissue differs from air,
    a field is background only where outer sources are the likelier ones. That lowers the error of the
    local field by a quarter. With a ratio of zero it is that of the first reference, ended by ``max_steps``.

    The weighted mean of the field, where the scanner put its centre frequency, is taken away first: D(0) = 0
    makes it the slowest part to be built from dipoles. The problem is ill-posed and is regularised by
    stopping: the steps end once the dipoles see the residual no better than white noise of its norm, and
    it is less than ``rtol`` of the total field, a small part of a local field. ``noise`` counts by its
    scale only where it is the larger part of the residual.

    Sources repeat with the period of the grid and need little room: all that matters of them is the
    harmonic field in the mask, which sources near it can make. Where blocks of 2×2×2 voxels are small
    enough, most steps are taken on these; their sources, each a cube, start a few steps on the voxels
    themselves, which only the field near the surface needs.

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
    margin : float
        mm between the mask's bounding box and its next periodic image, where sources may lie. With 4 mm
        there is too little room, and inner sources take over; from 8 mm on the error does not depend on it.
    inside_ratio : float
        Standard deviation of the susceptibility inside the mask over that outside.
    coarsest : float
        Longest edge in mm of two voxels that may be solved for as one.
    rtol : float
        Largest residual over the total field; the noise is not fitted, whatever is asked.
    max_steps : int
        Most steps of conjugate gradients on the grid of blocks, or of voxels where there are no blocks.
    refinements : int
        Steps on the grid of voxels after those on the blocks.

    Returns
    -------
    BackgroundRemoval
        Local field with the noise in it, the mask unchanged, how the steps on the first grid ended.

    Raises
    ------
    ValueError
        If the mask is empty, the field is not finite in it, or no voxel of it has a positive finite noise.

    References
    ----------
    Liu et al. 2011, 10.1002/nbm.1670; Paige and Saunders 1982, 10.1145/355984.355989; the joint estimate of
    outer and inner sources: Liu et al. 2017, 10.1002/mrm.26331.

    Examples
    --------
    >>> mask = torch.zeros(16, 16, 16, dtype=torch.bool)
    >>> mask[4:12, 4:12, 4:12] = True
    >>> removal = remove_background_pdf(
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
    weights = weights.to(field.dtype)
    squared = weights**2
    field.sub_(float((squared * field).sum() / squared.sum())).mul_(inside)
    total = float((weights * field).norm())
    edges = tuple(float(edge) for edge in voxel_size)
    grid = good_size(inside.shape, padding=voxels_along(margin, voxel_size=edges))
    padded = inside.new_zeros(grid)
    padded[tuple(slice(size) for size in inside.shape)] = inside
    voxels = _Problem(field, weights, padded, unit_noise, inside_ratio, edges, tuple(b0_direction))
    factors = tuple(2 if 2 * edge <= coarsest else 1 for edge in edges)
    blocks, first = None, None
    if max(factors) > 1:
        coarse = voxels.coarser(factors)
        blocks, first = coarse.solved(coarse.operator(), start=None, rtol=rtol, max_steps=max_steps)
        del coarse
        for axis, factor in enumerate(factors):
            blocks = blocks.repeat_interleave(factor, dim=axis)
        rtol, max_steps = 0.0, refinements
    operator = voxels.operator()
    susceptibility, last = voxels.solved(operator, start=blocks, rtol=rtol, max_steps=max_steps)
    local = field.sub_(operator.field(susceptibility.masked_fill_(padded, 0))).mul_(inside)
    return BackgroundRemoval(
        uncropped(local, box=box, shape=mask.shape),
        mask.bool(),
        last.n_iterations + (first.n_iterations if first else 0),
        (first or last).converged,
        float((weights * local).norm()) / total if total else 0.0,
    )
