"""Nonlinear total variation inversion."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from qsmflow.core.inversion.medi import MediSettings, invert_medi
from qsmflow.core.inversion.result import Inversion


@dataclass(frozen=True, kw_only=True)
class TvSettings:
    """What steers :func:`invert_tv`.

    Attributes
    ----------
    regularisation : float or None
        λ in ppm·mm. It weighs the regularisation, so more is smoother; the data term has weight one.
        None takes the one that leaves the residual asked for by ``discrepancy``.
    discrepancy : float
        Residual that an automatic λ aims at, over the noise.
    nonlinear : bool
        Compare phasors, which forgives wraps, instead of fields.
    outside_sources : bool
        Let sources around the mask, which are not regularised, correct the background removal.
    tolerance : float
        Stop once five iterations change the objective by less than this fraction of it.
    max_iterations : int
        Most iterations.

    Raises
    ------
    ValueError
        If any value is out of range; all of them are named.

    Examples
    --------
    >>> TvSettings(regularisation=1e-4).nonlinear
    True
    """

    regularisation: float | None = None
    discrepancy: float = 1.0
    nonlinear: bool = True
    outside_sources: bool = False
    tolerance: float = 3e-4
    max_iterations: int = 200

    def __post_init__(self):
        self.without_edges()

    def without_edges(self) -> MediSettings:
        """Settings of the morphology-enabled inversion that leave no gradient free."""
        return MediSettings(edge_fraction=0.0, **asdict(self))


#: For measured fields, where errors of the model and of the background removal outweigh the noise.
IN_VIVO = TvSettings(discrepancy=1.5, outside_sources=True, tolerance=4e-3)


def invert_tv(
    local_field: Tensor,
    *,
    noise: Tensor,
    mask: Tensor,
    voxel_size: Sequence[float],
    b0_direction: Sequence[float],
    settings: TvSettings,
    radian_per_ppm: float | None = None,
) -> Inversion:
    """Least total variation that the field allows, of an image that needs no magnitude.

    min over χ in the mask of ½‖W ρ(d∗χ − b)‖² + λ‖∇χ‖₁

    W is the reciprocal noise, scaled to a mean of one in the mask, and ρ(u) = u, or |exp(iru) − 1|/r for
    the nonlinear data term. Differences between two voxels of the mask count, along each axis on their
    own; those across its border are free. Without outside sources χ is held down outside the mask.

    Parameters
    ----------
    local_field : Tensor
        b, (x, y, z) in ppm.
    noise : Tensor
        (x, y, z), standard deviation of the field in ppm (any unit if λ is given); where it is not
        positive and finite the field is not believed.
    mask : Tensor
        (x, y, z), true where the field means something.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes.
    settings : TvSettings
        Weight, options and stopping.
    radian_per_ppm : float, optional
        r, phase between echoes per ppm of field; the nonlinear data term needs it.

    Returns
    -------
    Inversion
        Susceptibility in ppm, zero outside the mask; iterations; relative weighted residual; λ.

    Raises
    ------
    ValueError
        If the mask is empty, the field is not finite in it, no voxel has a usable noise, or
        ``radian_per_ppm`` is missing.

    References
    ----------
    Milovic et al. 2018, 10.1002/mrm.27073; Bilgic et al. 2014, 10.1002/mrm.25029.

    Examples
    --------
    >>> import torch
    >>> ones = torch.ones(8, 8, 8)
    >>> found = invert_tv(
    ...     0 * ones,
    ...     noise=ones,
    ...     mask=ones > 0,
    ...     voxel_size=(1, 1, 1),
    ...     b0_direction=(0, 0, 1),
    ...     settings=TvSettings(regularisation=1e-4),
    ...     radian_per_ppm=4.0,
    ... )
    >>> float(found.susceptibility.abs().max()), found.converged
    (0.0, True)
    """
    return invert_medi(
        local_field,
        noise=noise,
        magnitude=mask.to(local_field.dtype),
        mask=mask,
        voxel_size=voxel_size,
        b0_direction=b0_direction,
        settings=settings.without_edges(),
        radian_per_ppm=radian_per_ppm,
    )
