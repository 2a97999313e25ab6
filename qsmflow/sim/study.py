"""What a simulated study holds: subjects, sessions, and how each of them is scanned."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from qsmflow.core.motion import MotionProfile, RigidPose, draw_motion, scanner_matrix
from qsmflow.sim.lesions import LesionCounts
from qsmflow.sim.mgre import MgreProtocol, MgreScan, line_times, simulate_mgre
from qsmflow.sim.subject import Subject, draw_subject

#: How far a head lies from where it lay in the session before: mm and degrees, along each axis.
REPOSITIONING = 4.0


@dataclass(frozen=True)
class MotionSettings:
    """How subjects move who do not lie still.

    Parameters
    ----------
    events : tuple of int
        Fewest and most movements in a scan.
    translation, rotation : float
        Largest, mm and degrees, in each direction.
    model : str
        ``"signal"``: the complex echoes are moved (Eq. 5). ``"field"``: the head is moved and its field
        made anew (Eq. 4).
    """

    events: tuple[int, int] = (2, 3)
    translation: float = 5.0
    rotation: float = 5.0
    model: str = "signal"


@dataclass(frozen=True)
class Scan:
    """One acquisition of one subject.

    Parameters
    ----------
    subject : int
        Number, from 1.
    session : int, optional
        Number, from 1; None where the study has no sessions.
    label : str, optional
        ``acq-`` entity.
    moves : bool
        Whether the subject moves.

    Examples
    --------
    >>> scan = Scan(1, session=2, label="still")
    >>> scan.prefix, scan.folder.as_posix()
    ('sub-01_ses-02_acq-still', 'sub-01/ses-02')
    """

    subject: int
    session: int | None = None
    label: str | None = None
    moves: bool = False

    @property
    def entities(self) -> dict[str, str]:
        """BIDS entities with their labels."""
        session = {} if self.session is None else {"ses": f"{self.session:02d}"}
        return {"sub": f"{self.subject:02d}", **session, **({"acq": self.label} if self.label else {})}

    @property
    def prefix(self) -> str:
        """Beginning of all file names."""
        return "_".join(f"{key}-{label}" for key, label in self.entities.items())

    @property
    def folder(self) -> Path:
        """Folder of the subject and session within a data set."""
        return Path(*(f"{key}-{label}" for key, label in self.entities.items() if key != "acq"))


#: The acquisitions of one session, by how subjects move: their labels, and whether they do.
ACQUISITIONS = {
    "none": ((None, False),),
    "paired": (("still", False), ("motion", True)),
    "only": ((None, True),),
}


@dataclass(frozen=True)
class Study:
    """Who is scanned, and how.

    Parameters
    ----------
    protocol : MgreProtocol
        How heads are scanned; from the second session on the slab lies a little differently.
    scans : tuple of Scan
        In the order in which they are made.
    seed : int
        Of all that is random. What it makes of a subject does not depend on the other subjects.
    spread : float
        Of anatomy and tissue: 1 for published ranges, more for training beyond what is real.
    lesions : LesionCounts
        Of each subject.
    motion : MotionSettings
        Of those who move.
    phase_scaling : str
        A key of :data:`qsmflow.sim.phase_scaling.PHASE_SCALINGS`.
    """

    protocol: MgreProtocol
    scans: tuple[Scan, ...]
    seed: int = 1
    spread: float = 1.0
    lesions: LesionCounts = field(default_factory=LesionCounts)
    motion: MotionSettings = field(default_factory=MotionSettings)
    phase_scaling: str = "unsigned"

    def subject_seed(self, subject: int) -> int:
        """Seed of a subject's anatomy."""
        return _seed(self.seed, subject)

    def subject(self, number: int) -> Subject:
        """Draw a subject's anatomy."""
        return draw_subject(self.subject_seed(number), spread=self.spread, lesions=self.lesions)


#: Who is scanned in ``bids_examples``.
EXAMPLE_SCANS = (
    Scan(1, label="still"),
    Scan(1, label="motion", moves=True),
    Scan(2, session=1),
    Scan(2, session=2),
)


def cohort(
    *, subjects: int = 1, first_subject: int = 1, sessions: int = 0, motion: str = "none"
) -> tuple[Scan, ...]:
    """Scans of a study in which all subjects are scanned alike.

    Parameters
    ----------
    subjects : int
        How many.
    first_subject : int
        Number of the first one.
    sessions : int
        Of each; 0 for a data set without sessions.
    motion : str
        A key of :data:`ACQUISITIONS`: nobody moves, each is scanned still and moving, or all move.

    Returns
    -------
    tuple of Scan

    Examples
    --------
    >>> [scan.prefix for scan in cohort(sessions=1, motion="paired")]
    ['sub-01_ses-01_acq-still', 'sub-01_ses-01_acq-motion']
    """
    return tuple(
        Scan(subject, session=session, label=label, moves=moves)
        for subject in range(first_subject, first_subject + subjects)
        for session in (range(1, sessions + 1) if sessions else (None,))
        for label, moves in ACQUISITIONS[motion]
    )


@dataclass(frozen=True)
class SimulatedScan:
    """A scan that was made: its plan, protocol, motion and signal.

    Parameters
    ----------
    plan : Scan
        Whose scan it is.
    protocol : MgreProtocol
        With the slab where it lay.
    motion : MotionProfile or None
        None when the subject lay still.
    result : MgreScan
        Signal and truth.
    """

    plan: Scan
    protocol: MgreProtocol
    motion: MotionProfile | None
    result: MgreScan


def simulate_scan(study: Study, plan: Scan, *, subject: Subject, device=None) -> SimulatedScan:
    """Make one scan of a study.

    Parameters
    ----------
    study : Study
        The study.
    plan : Scan
        One of its scans.
    subject : Subject
        Whose scan it is: ``study.subject(plan.subject)``, drawn once for all scans of a subject.
    device : torch.device, optional
        Where it is computed.

    Returns
    -------
    SimulatedScan
    """
    session = plan.session or 1
    acquisition = [scan for scan in study.scans if scan.folder == plan.folder].index(plan)
    session_seed = _seed(study.seed, plan.subject, session)
    scan_seed = _seed(study.seed, plan.subject, session, acquisition + 1)
    protocol = study.protocol if session == 1 else _repositioned(study.protocol, seed=session_seed)
    settings = study.motion
    motion = None
    if plan.moves:
        motion = draw_motion(
            torch.Generator().manual_seed(scan_seed),
            events=settings.events,
            translation=settings.translation,
            rotation=settings.rotation,
            centre_time=float(line_times(protocol).flatten()[0]),
        )
    result = simulate_mgre(
        protocol,
        subject=subject,
        motion=motion,
        motion_model=settings.model,
        seed=scan_seed,
        coil_seed=session_seed,
        device=device,
    )
    return SimulatedScan(plan, protocol, motion, result)


def _seed(*numbers: int) -> int:
    """One seed of several numbers, such that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _repositioned(protocol: MgreProtocol, *, seed: int) -> MgreProtocol:
    """The protocol with its slab turned and shifted a little."""
    shifts = REPOSITIONING * (2 * torch.rand(6, generator=torch.Generator().manual_seed(seed)) - 1)
    pose = RigidPose(translation=tuple(shifts[:3].tolist()), rotation=tuple(shifts[3:].tolist()))
    matrix = scanner_matrix(pose, shape=protocol.shape, affine=protocol.affine)
    return replace(protocol, affine=matrix @ protocol.affine)
