"""What the coils of a scanner add: uneven excitation and reception, their phase, and the shim."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class SmoothField:
    """Smooth random field of zero mean and unit variance: a few plane waves longer than a head is wide.

    Parameters
    ----------
    waves : Tensor
        (waves, 3), wave vectors in rad/mm.
    phases : Tensor
        (waves,), rad.

    Examples
    --------
    >>> field = SmoothField.draw(torch.Generator().manual_seed(0))
    >>> field(torch.zeros(3, 4, 5)).shape
    torch.Size([4, 5])
    """

    waves: Tensor
    phases: Tensor

    @classmethod
    def draw(cls, generator: torch.Generator, *, count: int = 6) -> "SmoothField":
        """Draw waves of 180 to 400 mm in all directions."""
        direction = torch.randn(count, 3, generator=generator)
        length = 180 + 220 * torch.rand(count, 1, generator=generator)
        waves = 2 * np.pi / length * direction / direction.norm(dim=1, keepdim=True)
        return cls(waves, 2 * np.pi * torch.rand(count, generator=generator))

    def __call__(self, centers: Tensor) -> Tensor:
        """Value at points (3, ...) in mm."""
        arguments = torch.tensordot(self.waves.to(centers), centers, dims=1)
        arguments += self.phases.to(centers).reshape(-1, *[1] * (centers.ndim - 1))
        return arguments.cos_().sum(dim=0) * (2 / len(self.waves)) ** 0.5


@dataclass(frozen=True)
class Coils:
    """Transmit and receive coils of one scan; they stay where they are when the head moves.

    Parameters
    ----------
    receive_bias : float
        How much stronger reception is at the rim of a head than in its middle.
    transmit_bias : float
        How much lower the flip angle is at the rim of a head than in its middle.
    phase_offset : float
        Standard deviation of the phase at TE = 0, rad.
    fields : tuple of SmoothField
        What is random of reception, transmission and phase.

    Examples
    --------
    >>> coils = Coils.draw(torch.Generator().manual_seed(0))
    >>> coils.sensitivity(torch.zeros(3, 1)).shape
    torch.Size([1])
    """

    receive_bias: float
    transmit_bias: float
    phase_offset: float
    fields: tuple[SmoothField, SmoothField, SmoothField]

    @classmethod
    def draw(
        cls,
        generator: torch.Generator,
        *,
        receive_bias: float = 0.3,
        transmit_bias: float = 0.1,
        phase_offset: float = 1.0,
    ) -> "Coils":
        """Draw coils of given strengths."""
        fields = tuple(SmoothField.draw(generator) for _ in range(3))
        return cls(receive_bias, transmit_bias, phase_offset, fields)

    def sensitivity(self, centers: Tensor) -> Tensor:
        """Relative sensitivity at points (3, ...) in mm: higher near the elements round the head."""
        return torch.exp(self.receive_bias * (_remoteness(centers) + 0.3 * self.fields[0](centers)))

    def flip_scale(self, centers: Tensor) -> Tensor:
        """Flip angle at points (3, ...) in mm over the nominal one: highest in the middle of the head."""
        middle = 0.5 - _remoteness(centers) + 0.2 * self.fields[1](centers)
        return (1 + self.transmit_bias * middle).clamp(min=0.05)

    def phase(self, centers: Tensor) -> Tensor:
        """Phase at TE = 0 at points (3, ...) in mm, rad."""
        return self.phase_offset * self.fields[2](centers)


def _remoteness(centers: Tensor) -> Tensor:
    """0 in the middle of a head and 1 at its rim, mm."""
    x, y, z = centers
    return (x / 80) ** 2 + ((y + 18) / 100) ** 2 + (z / 120) ** 2


@dataclass(frozen=True)
class Shim:
    """Field of the shim coils to second order.

    Parameters
    ----------
    weights : Tensor
        (9,), of the solid harmonics of order 0 to 2 over 100 mm.

    Examples
    --------
    >>> x = torch.linspace(-50, 50, 9)
    >>> points = torch.stack(torch.meshgrid(x, x, x, indexing="ij"))
    >>> shim = Shim.fitted(points[0] * points[2], centers=points, mask=torch.ones(9, 9, 9, dtype=bool))
    >>> bool((shim(points) - points[0] * points[2]).abs().max() < 1)
    True
    """

    weights: Tensor

    @classmethod
    def fitted(cls, field: Tensor, *, centers: Tensor, mask: Tensor) -> "Shim":
        """Shim that fits a field best in a mask.

        Parameters
        ----------
        field : Tensor
            (x, y, z), any unit.
        centers : Tensor
            (3, x, y, z), scanner coordinates in mm.
        mask : Tensor
            (x, y, z), bool.

        Returns
        -------
        Shim
        """
        harmonics = _harmonics(centers[:, mask])
        design = torch.stack([term.expand(harmonics[1].shape) for term in harmonics], dim=1).double()
        normal, right = design.T @ design, design.T @ field[mask].double()
        return cls(torch.linalg.solve(normal, right).to(field.dtype))

    def __call__(self, centers: Tensor) -> Tensor:
        """Field at points (3, ...) in mm, in the unit of what was fitted."""
        return sum(weight * term for weight, term in zip(self.weights, _harmonics(centers), strict=True))


def _harmonics(centers: Tensor) -> tuple[Tensor, ...]:
    x, y, z = centers / 100
    return (torch.ones_like(x[:1]), x, y, z, x * y, y * z, x * z, x**2 - y**2, 2 * z**2 - x**2 - y**2)
