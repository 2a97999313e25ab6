"""Iterative solvers that say how they ended."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """What an iterative solver found and how it got there.

    Attributes
    ----------
    value : Tensor
        The solution.
    n_iterations : int
        Steps taken.
    converged : bool
        Whether the tolerance was met before the steps ran out.
    residual : float
        Norm of the residual over the norm of the right-hand side.
    """

    value: Tensor
    n_iterations: int
    converged: bool
    residual: float


def least_squares(
    operator: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    data: Tensor,
    *,
    gain: float,
    noise: float = 0.0,
    rtol: float = 1.0,
    max_steps: int = 200,
) -> Solution:
    """Minimise ‖b − A x‖ by conjugate gradients, as far as the residual has structure.

    The gradient Aᴴr of a residual r of white noise has a norm of about gain·‖r‖. Once it is no more
    than that, what is left in r cannot be told from something A does not explain, and further steps
    only fit noise. Early stopping is what regularises an ill-posed problem here. Where A explains all but
    the noise, the residual is to be small as well.

    Parameters
    ----------
    operator, adjoint : callable
        Tensor to tensor, A x and Aᴴ r. Each result is used up before the next call, so both may write to
        the same buffer.
    data : Tensor
        b, any shape.
    gain : float
        Root mean square of ‖Aᴴr‖ / ‖r‖ over white noise r, or a fraction of it.
    noise : float
        Norm of the noise in b; a smaller residual is not believed.
    rtol : float
        Stop once ‖Aᴴr‖ ≤ gain·max(‖r‖, noise) and ‖r‖ ≤ max(rtol·‖b‖, noise).
    max_steps : int
        Most steps.

    Returns
    -------
    Solution
        Solution, steps, whether the tolerance was met, relative residual.

    References
    ----------
    Hestenes and Stiefel 1952, 10.6028/jres.049.044; the stopping rule is the second one of
    Paige and Saunders 1982, 10.1145/355984.355989.

    Examples
    --------
    >>> matrix = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    >>> found = least_squares(
    ...     lambda x: matrix @ x, lambda r: matrix.T @ r, torch.ones(3), gain=1e-5
    ... )
    >>> [round(v, 4) for v in found.value.tolist()], found.n_iterations
    ([1.0, 0.5], 2)
    """
    residual = data.clone()
    gradient = adjoint(residual)
    value = torch.zeros_like(gradient)
    direction = gradient.clone()
    norm, error, slope = float(data.norm()), float(residual.norm()), float(gradient.norm())

    def unfinished() -> bool:
        return slope > 0 and (slope > gain * max(error, noise) or error > max(rtol * norm, noise))

    steps = 0
    while unfinished() and steps < max_steps:
        applied = operator(direction)
        step = (slope / float(applied.norm())) ** 2
        value.add_(direction, alpha=step)
        residual.sub_(applied, alpha=step)
        gradient = adjoint(residual)
        previous, slope, error = slope, float(gradient.norm()), float(residual.norm())
        direction.mul_((slope / previous) ** 2).add_(gradient)
        steps += 1
    return Solution(value, steps, not unfinished(), error / norm if norm else 0.0)
