"""A scan of several echoes, as the rest of the program knows it."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsmflow.bids.names import join_name


@dataclass(frozen=True)
class Echo:
    """One echo: two images and what their sidecars say.

    Attributes
    ----------
    magnitude, phase : Path or None
        None where this half is missing, which `checks.check_acquisition` reports as an error.
    echo_time : float or None
        Seconds, as the sidecars have it.
    metadata, phase_metadata : dict
        Of magnitude and phase, inherited fields included.
    """

    magnitude: Path | None
    phase: Path | None
    echo_time: float | None
    metadata: dict[str, Any] = field(default_factory=dict)
    phase_metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """The images that are there."""
        return tuple(path for path in (self.magnitude, self.phase) if path is not None)


@dataclass(frozen=True)
class Acquisition:
    """The echoes of one scan.

    Attributes
    ----------
    subject : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``.
    entities : dict
        The other entities that tell this scan from the next: acquisition, reconstruction, run, ….
    suffix : str
        MEGRE or T2starw.
    echoes : tuple of Echo
        By echo time.
    duplicates : tuple of Path
        Images that claim an echo and part which another image has already.
    """

    subject: str
    session: str | None
    entities: dict[str, str]
    suffix: str
    echoes: tuple[Echo, ...]
    duplicates: tuple[Path, ...] = ()

    @property
    def all_entities(self) -> dict[str, str | None]:
        """Entities with subject and session, as file names need them."""
        return {"subject": self.subject, "session": self.session, **self.entities}

    @property
    def name(self) -> str:
        """Such as ``sub-01_ses-1_acq-still_run-1``."""
        return join_name(self.all_entities)

    @property
    def subject_and_session(self) -> str:
        """Such as ``sub-01_ses-1``."""
        return join_name({"subject": self.subject, "session": self.session})

    @property
    def echo_times(self) -> tuple[float | None, ...]:
        """Seconds."""
        return tuple(echo.echo_time for echo in self.echoes)

    @property
    def files(self) -> tuple[Path, ...]:
        """The images that are there, echo by echo."""
        return tuple(path for echo in self.echoes for path in echo.files)

    @property
    def magnitudes(self) -> tuple[Path | None, ...]:
        """Magnitude images by echo time."""
        return tuple(echo.magnitude for echo in self.echoes)

    @property
    def phases(self) -> tuple[Path | None, ...]:
        """Phase images by echo time."""
        return tuple(echo.phase for echo in self.echoes)

    @property
    def phase_units(self) -> str:
        """ "rad" if every phase image says so, else "arbitrary"."""
        stated = [echo.phase_metadata.get("Units") for echo in self.echoes if echo.phase is not None]
        return "rad" if stated and all(units == "rad" for units in stated) else "arbitrary"

    @property
    def field_strength(self) -> float | None:
        """B0 in tesla, of the first sidecar that states it as a number."""
        stated = (
            number(metadata.get("MagneticFieldStrength"))
            for echo in self.echoes
            for metadata in (echo.metadata, echo.phase_metadata)
        )
        return next((value for value in stated if value is not None), None)


def number(value: Any) -> float | None:
    """A metadata value as a number, None where it is none that a float can hold.

    Examples
    --------
    >>> number(0.004), number("0.004"), number(True), number([0.004]), number(10**400)
    (0.004, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
