"""What every removal of a background field returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BackgroundRemoval:
    """A field without the part that sources outside the mask make.

    Attributes
    ----------
    local_field : Tensor
        (x, y, z), unit of the total field, zero outside the mask.
    mask : Tensor
        (x, y, z), bool, true where the local field means something.
    n_iterations : int
        Steps taken, on all grids together; zero for a closed form.
    converged : bool
        Whether the tolerance was met before the steps ran out.
    residual : float
        ‖W·local field‖ / ‖W·total field‖ over the mask, the constant part of the total field left out.
    """

    local_field: Tensor
    mask: Tensor
    n_iterations: int
    converged: bool
    residual: float
