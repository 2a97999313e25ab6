"""How scanners store phase."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PhaseScaling:
    """How a scanner stores phase: −π and π lie at two stored values.

    Parameters
    ----------
    lower, upper : float
        Stored values of −π and π.
    units : str
        What BIDS calls them: ``rad`` or ``arbitrary``.
    dtype : type
        Of the stored numbers.

    Examples
    --------
    >>> scaling = PHASE_SCALINGS["unsigned"]
    >>> scaling.encode(np.array([-np.pi, 0.0, 3.1415])).tolist()
    [0, 2048, 0]
    """

    lower: float
    upper: float
    units: str
    dtype: type

    def encode(self, phase: np.ndarray) -> np.ndarray:
        """Stored values of a wrapped phase in rad."""
        stored = self.lower + (phase + np.pi) / (2 * np.pi) * (self.upper - self.lower)
        if np.issubdtype(self.dtype, np.integer):
            stored = np.rint(stored)
            # π is −π: the last step is not stored.
            stored = np.where(stored >= self.upper, self.lower, stored)
        return stored.astype(self.dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Phase in rad of stored values."""
        return (stored.astype(np.float64) - self.lower) / (self.upper - self.lower) * 2 * np.pi - np.pi


#: Phase in radians, as 0..4095 and as -4096..4095.
PHASE_SCALINGS = {
    "radian": PhaseScaling(-np.pi, np.pi, "rad", np.float32),
    "unsigned": PhaseScaling(0, 4096, "arbitrary", np.int16),
    "signed": PhaseScaling(-4096, 4096, "arbitrary", np.int16),
}
