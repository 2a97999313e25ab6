"""Digital heads that lie still and that move, reconstructed: the maps that motion correction learns from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qsmflow.core.motion import MotionProfile, draw_motion, gradient_echoes, move_echoes
from qsmflow.core.units import hertz_per_ppm
from qsmflow.sim.files import packed, write_image, write_json
from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.lesions import LesionCounts
from qsmflow.sim.mgre import MgreProtocol, MgreScan, line_times, simulate_series
from qsmflow.sim.protocols import CENTER
from qsmflow.sim.subject import draw_subject
from qsmflow.train.reconstruction import reconstruct

#: Millimetres of the slab: the brain and a little around it.
FIELD_OF_VIEW = (170.0, 204.0, 144.0)
#: Finest stored difference, ppm.
STEP = 2e-5
_DESCRIPTION = {
    "Name": "Simulated pairs of motion-free and motion-corrupted susceptibility maps",
    "BIDSVersion": "1.10.1",
    "DatasetType": "derivative",
    "GeneratedBy": [{"Name": "qsmflow-train pairs"}],
}


@dataclass(frozen=True)
class PairSettings:
    """How heads are scanned for pairs; what is a range is drawn anew for each subject.

    Parameters
    ----------
    motions : int
        Scans in motion of each subject.
    isotropic : tuple of float
        Edge of isotropic voxels, mm.
    in_plane, thickness : tuple of float
        Edges of the voxels of thick slices, mm, which half of the subjects have.
    echoes : tuple of int
        Fewest and most.
    snr : tuple of float
        Of the first echo.
    events : tuple of int
        Movements in a scan.
    translation, rotation : float
        Largest, mm and degrees. Three scans of ten have a limit of their own, drawn below this one.
    lying : float
        Share of the scan, half of it on each side of the centre of k-space, in which nobody moves. Who moves
        there is seen in two places at once, and a network would learn to draw what lies between.
    whole : float
        Share of subjects of whom the whole head is scanned. Of the others it is the brain alone, without what
        background removal leaves where sinuses moved: artefacts are as small as in the motion paper.
    spread : float
        Of anatomy and tissue; above 1 beyond what is published.
    motion_model : str
        See :func:`qsmflow.sim.mgre.simulate_mgre`.
    """

    motions: int = 6
    isotropic: tuple[float, float] = (1.2, 2.8)
    in_plane: tuple[float, float] = (0.9, 1.6)
    thickness: tuple[float, float] = (1.8, 3.2)
    echoes: tuple[int, int] = (4, 6)
    snr: tuple[float, float] = (80.0, 250.0)
    events: tuple[int, int] = (2, 3)
    translation: float = 5.0
    rotation: float = 5.0
    lying: float = 0.1
    whole: float = 0.5
    spread: float = 1.3
    motion_model: str = "signal"


def write_pairs(
    out: Path, *, subjects: range, settings: PairSettings | None = None, seed: int = 1, device=None
) -> Iterator[str]:
    """Write susceptibility maps of each subject lying still and moving, as a BIDS derivative.

    ``sub-XX_acq-still_Chimap`` is the map of the still scan, ``sub-XX_acq-motion_run-NN_Chimap`` one of a
    scan in motion on the same grid, ``sub-XX_acq-still_desc-truth_Chimap`` the susceptibility that was
    simulated and ``*_desc-local_fieldmap`` the local field of each scan, ppm. A subject whose last file is
    there is skipped, so that a stopped run goes on.

    Parameters
    ----------
    out : Path
        Folder of the data set.
    subjects : range
        Numbers of the subjects; a subject depends on the seed and on its number alone.
    settings : PairSettings, optional
        How they are scanned.
    seed : int
        Of everything.
    device : torch.device, optional
        Where it is computed.

    Yields
    ------
    str
        Label of each subject when its files are there.
    """
    settings = settings or PairSettings()
    write_json(out / "dataset_description.json", _DESCRIPTION)
    for number in subjects:
        label = f"sub-{number:03d}"
        last = out / label / "anat" / f"{label}_acq-motion_run-{settings.motions:02d}_Chimap.json"
        if not last.exists():
            _write_subject(out / label, label, settings, seed=_seed(seed, number), device=device)
        yield label


def draw_protocol(settings: PairSettings, rng: np.random.Generator) -> MgreProtocol:
    """An acquisition from the ranges of the settings."""
    if rng.random() < 0.5:
        voxel_size = (float(np.exp(rng.uniform(*np.log(settings.isotropic)))),) * 3
    else:
        edge = rng.uniform(*settings.in_plane)
        voxel_size = (edge, edge, rng.uniform(*settings.thickness))
    # Even sizes, as scanners have.
    shape = tuple(
        2 * round(length / edge / 2) for length, edge in zip(FIELD_OF_VIEW, voxel_size, strict=True)
    )
    rotation = (rng.normal(-10, 8), rng.normal(0, 5), rng.normal(0, 4))
    spacing = rng.uniform(3.5e-3, 5.5e-3)
    first = rng.uniform(3e-3, 6e-3)
    times = tuple(first + spacing * index for index in range(rng.integers(*settings.echoes, endpoint=True)))
    return MgreProtocol(
        shape=shape,
        affine=oblique_affine(shape, voxel_size=voxel_size, rotation=rotation, center=CENTER),
        echo_times=times,
        repetition_time=times[-1] + 0.01,
        snr=float(np.exp(rng.uniform(*np.log(settings.snr)))),
        readout_axis=int(rng.integers(2)),
    )


def draw_motions(
    settings: PairSettings, protocol: MgreProtocol, rng: np.random.Generator
) -> list[MotionProfile]:
    """As many motions as the settings say, in the order of the protocol's k-space."""
    centre_time = float(line_times(protocol).flatten()[0])
    motions = []
    while len(motions) < settings.motions:
        size = 1.0 if rng.random() < 0.7 else rng.uniform(0.1, 1)
        motion = draw_motion(
            torch.Generator().manual_seed(int(rng.integers(2**31))),
            events=settings.events,
            translation=size * settings.translation,
            rotation=size * settings.rotation,
            centre_time=centre_time,
        )
        if all(abs(onset - centre_time) > settings.lying / 2 for onset in motion.onsets):
            motions.append(motion)
    return motions


def _write_subject(folder: Path, label: str, settings: PairSettings, *, seed: int, device) -> None:
    rng = np.random.default_rng(seed)
    lesions = LesionCounts(*(int(rng.integers(0, most + 1)) for most in (6, 2, 3)))
    subject = draw_subject(int(rng.integers(2**31)), spread=settings.spread, lesions=lesions)
    protocol = draw_protocol(settings, rng)
    motions = [None, *draw_motions(settings, protocol, rng)]
    seeds = [int(value) for value in rng.integers(2**31, size=len(motions))]
    whole = rng.random() < settings.whole
    scans = simulate_series(
        protocol,
        subject=subject,
        motions=motions if whole else [None],
        motion_model=settings.motion_model,
        seeds=seeds if whole else seeds[:1],
        device=device,
    )
    still = next(scans)
    signals = (scan.signal for scan in chain([still], scans))
    if not whole:
        signals = scan_brain(still, protocol, motions=motions, seeds=seeds)
    scanner = {"echo_times": protocol.echo_times, "affine": protocol.affine}
    sidecar = {"MagneticFieldStrength": protocol.field_strength, "SkullStripped": True, "Seed": seed}

    def write(stem: str, image: Tensor, units: str, step: float = STEP) -> None:
        stored, slope = packed(image.cpu().numpy(), step=step)
        write_image(folder / stem, stored, protocol.affine, sidecar | {"Units": units}, slope=slope)

    def write_mask(stem: str, mask: Tensor) -> None:
        write_image(folder / stem, mask.cpu().numpy().astype(np.uint8), protocol.affine, {"Type": "Brain"})

    truth = torch.where(still.mask, still.susceptibility, 0)
    write(f"anat/{label}_acq-still_desc-truth_Chimap", truth, "ppm")
    for run, signal in enumerate(signals):
        made = reconstruct(signal, field_strength=protocol.field_strength, **scanner)
        prefix = f"{label}_acq-motion_run-{run:02d}" if run else f"{label}_acq-still"
        write(f"fmap/{prefix}_desc-local_fieldmap", made.local_field, "ppm")
        write_mask(f"anat/{prefix}_desc-brain_mask", made.mask)
        write(f"anat/{prefix}_Chimap", made.susceptibility, "ppm")


def scan_brain(
    still: MgreScan, protocol: MgreProtocol, *, motions: Sequence[MotionProfile | None], seeds: Sequence[int]
) -> Iterator[Tensor]:
    """Scans of the brain alone, in its own local field.

    Parameters
    ----------
    still : MgreScan
        Of the whole head; its truth is used.
    protocol : MgreProtocol
        How it was scanned.
    motions : sequence of MotionProfile or None
        None for lying still; the echoes are moved (motion paper, Eq. 5).
    seeds : sequence of int
        Of the noise of each scan.

    Yields
    ------
    Tensor
        (echo, x, y, z), complex.
    """
    echoes = gradient_echoes(
        torch.polar(still.mask * still.magnitude, still.phase_offset),
        r2star=still.r2star,
        field=still.local_field / hertz_per_ppm(protocol.field_strength),
        echo_times=protocol.echo_times,
        field_strength=protocol.field_strength,
    )
    times = line_times(protocol, device=echoes.device)
    for motion, seed in zip(motions, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(echoes.shape, generator=generator, dtype=echoes.dtype).to(echoes.device)
        signal = noise.mul_(still.noise * 2**0.5)  # randn of a complex dtype has variance 1/2 in each part
        if motion is None:
            signal += echoes
        else:
            signal += move_echoes(echoes, profile=motion, voxel_size=protocol.voxel_size, times=times)
        yield signal


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
