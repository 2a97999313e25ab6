"""One acquisition of a run, and what was settled about it."""

from dataclasses import dataclass
from pathlib import Path

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.atlases import Atlas
from qsmflow.bids.phase_range import PhaseRange


@dataclass(frozen=True)
class AcquisitionJob:
    """One acquisition with all that was settled about it before the run.

    Attributes
    ----------
    acquisition : Acquisition
        Files and metadata.
    phase_range : PhaseRange
        What the stored phase values mean.
    field_strength : float
        Tesla.
    mask_file : Path or None
        Brain mask of the user.
    memory : dict
        GB by stage.
    reference : Acquisition or None
        What it is compared with.
    atlases : tuple of Atlas
        Label images in whose regions its maps are measured.
    """

    acquisition: Acquisition
    phase_range: PhaseRange
    field_strength: float
    mask_file: Path | None
    memory: dict[str, float]
    reference: Acquisition | None = None
    atlases: tuple[Atlas, ...] = ()
