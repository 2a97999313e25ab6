"""The regularisation weight from the noise of the field."""

from collections.abc import Callable

import torch
from torch import Tensor

#: Gradient in ppm/mm that ties the first guess of λ to the residual aimed at, its square over it.
GUESS_GRADIENT = 0.005
#: How far, as factors, λ may go below and above the first guess.
RANGE = (4.0, 20.0)
#: Largest factor between two guesses.
LARGEST_STEP = 3.0


def discrepancy_principle(
    weights: Tensor, *, unit_noise: float, discrepancy: float = 1.0
) -> tuple[float, Callable[[float, float], float]]:
    """A first λ and how to change it until the residual is as large as it should be.

    Morozov's principle, mean (W ρ)² = (τσ)² with σ the noise of a voxel of weight one. The squared residual
    grows about in proportion to λ where the noise dominates, so one secant of slope one is the rule.
    λ stays between a quarter and twenty times (τσ)² / (0.005 ppm/mm): a field with errors other than
    noise, which no susceptibility explains, must not end without any regularisation.

    Parameters
    ----------
    weights : Tensor
        W, (x, y, z), reciprocal noise in units of 1 / ``unit_noise``, zero where there is no data.
    unit_noise : float
        σ in ppm.
    discrepancy : float
        τ, above one where errors of the model are expected besides the noise.

    Returns
    -------
    first : float
        λ in ppm·mm.
    adapted : callable
        From λ and the data term ½‖Wρ‖² to the next λ.

    References
    ----------
    Morozov 1984, 10.1007/978-1-4612-5280-1; for susceptibility: Liu et al. 2012,
    10.1016/j.neuroimage.2011.08.082.

    Examples
    --------
    >>> first, adapted = discrepancy_principle(torch.ones(10, 10, 10), unit_noise=1e-3)
    >>> round(first, 6), round(adapted(first, 1e-3), 6)
    (0.0002, 0.0001)
    """
    aim = (discrepancy * unit_noise) ** 2
    first = aim / GUESS_GRADIENT
    expected = int(torch.count_nonzero(weights)) * aim / 2
    smallest, largest = first / RANGE[0], first * RANGE[1]

    def adapted(regularisation: float, data: float) -> float:
        ratio = min(max(expected / data, 1 / LARGEST_STEP), LARGEST_STEP) if data > 0 else LARGEST_STEP
        return min(max(regularisation * ratio, smallest), largest)

    return first, adapted
