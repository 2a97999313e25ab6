"""Still and moved scans of the same subjects: simulated pairs on one grid, and pairs that lie apart."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qsmflow.core.motion import MotionProfile, RigidPose, draw_motion, scanner_matrix
from qsmflow.sim.mgre import MgreProtocol, line_times, simulate_mgre
from qsmflow.sim.study import REPOSITIONING
from qsmflow.sim.subject import Subject, draw_subject
from qsmflow.train.experiments.images import tensor_of
from qsmflow.train.motion_data import PairFiles
from qsmflow.train.reconstruction import reconstruct
from qsmflow.train.volumes import (
    UnusableData,
    extension_of,
    mask_path,
    read_mask,
    read_on_grid,
    read_volume,
    stem_of,
)


@dataclass(frozen=True)
class ScannedMap:
    """The map of one scan.

    Parameters
    ----------
    label : str
        Of the scan.
    susceptibility : Tensor
        (x, y, z) in ppm, zero outside the mask.
    mask : Tensor
        (x, y, z), bool.
    affine : numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm; axes go to the right, front and top.
    magnitude : Tensor, optional
        (x, y, z), any unit; what scans are registered by.
    """

    label: str
    susceptibility: Tensor
    mask: Tensor
    affine: np.ndarray
    magnitude: Tensor | None = None

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Voxel edge lengths in mm."""
        return tuple(float(edge) for edge in np.linalg.norm(self.affine[:3, :3], axis=0))

    def to(self, device) -> "ScannedMap":
        """The same on another device."""
        moved = {name: one.to(device) for name, one in vars(self).items() if isinstance(one, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True)
class SubjectScans:
    """One subject, scanned still and in motion.

    Parameters
    ----------
    label : str
        Of the subject.
    still : ScannedMap
    moved : tuple of ScannedMap
    """

    label: str
    still: ScannedMap
    moved: tuple[ScannedMap, ...]


def read_scans(files: PairFiles, *, magnitudes: bool = False, device=None) -> SubjectScans:
    """Maps of a subject from files.

    Parameters
    ----------
    files : PairFiles
        Of :func:`qsmflow.train.motion_data.find_pairs`.
    magnitudes : bool
        Whether to read the magnitudes that ``qsmflow`` writes beside local fields.
    device : torch.device, optional
        Where the maps are put.

    Returns
    -------
    SubjectScans

    Raises
    ------
    UnusableData
        If a file is missing or cannot be used.
    """
    scans = [_read(path, magnitudes=magnitudes).to(device) for path in (files.still, *files.moved)]
    return SubjectScans(files.subject, scans[0], tuple(scans[1:]))


def simulate_separate_pairs(
    protocol: MgreProtocol, *, seed: int, motions: int, motion_model: str = "signal", device=None
) -> SubjectScans:
    """Scan a subject still, and then lying a little elsewhere and moving.

    The header of each scan is that of the protocol: like a scanner, it does not know where the head lies.

    Parameters
    ----------
    protocol : MgreProtocol
        How the subject is scanned.
    seed : int
        Of the subject, its positions, motion and noise.
    motions : int
        Scans in motion.
    motion_model : str
        See :func:`qsmflow.sim.mgre.simulate_mgre`.
    device : torch.device, optional
        Where it is computed.

    Returns
    -------
    SubjectScans

    Examples
    --------
    >>> from qsmflow.sim.protocols import protocol
    >>> simulate_separate_pairs(protocol("classic"), seed=1, motions=2)  # doctest: +SKIP
    """
    rng = np.random.default_rng(seed)
    subject = draw_subject(seed)
    scans = [_scanned("still", protocol, subject, header=protocol.affine, rng=rng, device=device)]
    centre_time = float(line_times(protocol).flatten()[0])
    for run in range(1, motions + 1):
        shifts = rng.uniform(-REPOSITIONING, REPOSITIONING, size=6).tolist()
        pose = RigidPose(translation=tuple(shifts[:3]), rotation=tuple(shifts[3:]))
        moved = scanner_matrix(pose, shape=protocol.shape, affine=protocol.affine)
        scans.append(
            _scanned(
                f"motion {run}",
                # What is drawn on this grid is the head gone from where it lay.
                replace(protocol, affine=np.linalg.inv(moved) @ protocol.affine),
                subject,
                header=protocol.affine,
                rng=rng,
                motion=draw_motion(
                    torch.Generator().manual_seed(int(rng.integers(2**31))), centre_time=centre_time
                ),
                motion_model=motion_model,
                device=device,
            )
        )
    return SubjectScans(f"seed {seed}", scans[0], tuple(scans[1:]))


def _scanned(
    label: str,
    protocol: MgreProtocol,
    subject: Subject,
    *,
    header: np.ndarray,
    rng: np.random.Generator,
    motion: MotionProfile | None = None,
    motion_model: str = "signal",
    device=None,
) -> ScannedMap:
    scan = simulate_mgre(
        protocol,
        subject=subject,
        motion=motion,
        motion_model=motion_model,
        seed=int(rng.integers(2**31)),
        device=device,
    )
    made = reconstruct(
        scan.signal,
        echo_times=protocol.echo_times,
        affine=protocol.affine,
        field_strength=protocol.field_strength,
    )
    magnitude = scan.signal.abs().square().sum(0).sqrt()
    return ScannedMap(label, made.susceptibility, made.mask, header, magnitude)


def _read(path: Path, *, magnitudes: bool) -> ScannedMap:
    stem = stem_of(path)
    image = read_volume(path)
    inside = torch.from_numpy(np.ascontiguousarray(read_mask(image)))
    if not inside.any():
        raise UnusableData(f"{mask_path(path)}: the mask is empty")
    magnitude = None
    if magnitudes:
        beside = path.parent.parent / "fmap" / f"{stem}_desc-local_magnitude{extension_of(path)}"
        magnitude = tensor_of(read_on_grid(beside, like=image))
    susceptibility = torch.where(inside, tensor_of(image), 0)
    return ScannedMap(stem, susceptibility, inside, image.affine, magnitude)
