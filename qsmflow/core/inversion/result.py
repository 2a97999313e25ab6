"""What every inversion returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Inversion:
    """A susceptibility and how it was found.

    Attributes
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm, zero outside the mask, not referenced: its zero is arbitrary.
    n_iterations : int
        Iterations; one for a direct inversion.
    converged : bool
        Whether the tolerance was met before the steps ran out.
    residual : float
        ‖W(d∗χ − b)‖ / ‖W b‖ in the mask, with W = 1 for a direct inversion.
    regularisation : float or None
        The λ that was used, in ppm·mm; None for a direct inversion.
    """

    susceptibility: Tensor
    n_iterations: int
    converged: bool
    residual: float
    regularisation: float | None = None
