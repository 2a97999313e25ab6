"""Simulated studies as BIDS data sets, with the truth as their derivative."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from qsmflow.core.units import GYROMAGNETIC_RATIO
from qsmflow.sim.files import write_image, write_json, write_text
from qsmflow.sim.mgre import MgreProtocol
from qsmflow.sim.phase_scaling import PHASE_SCALINGS, PhaseScaling
from qsmflow.sim.study import Scan, SimulatedScan, Study, simulate_scan
from qsmflow.sim.truth import write_truth
from qsmflow.version import __version__

BIDS_VERSION = "1.10.0"
GENERATED_BY = [{"Name": "qsmflow-simulate", "Version": __version__}]
AUTHORS = ["the qsmflow developers"]

README = """# Simulated heads

Digital heads, scanned by qsmflow's own simulator: multi-echo gradient-echo magnitude and phase at
{field_strength:g} T, with complex noise, phase wraps, coil phase, and a background field from air spaces,
skull and neck. No human was scanned. Phase grows with echo time where the field is raised.

The truth lies in `derivatives/truth`, in the brain mask and zero elsewhere: susceptibility χ (ppm,
relative to water), total field f and local field (Hz), R2*, T2*, the signal S0 at TE = 0 and its phase φ0
(rad), and the steps g (Hz) of the field from face to face of a voxel along its three axes. Up to noise, and
as far as a voxel is one tissue, the raw echoes are

    S(TE) = S0 · exp(−TE·R2*) · exp(i·(φ0 + 2π·f·TE)) · sinc(g₁·TE) · sinc(g₂·TE) · sinc(g₃·TE)

with sinc(x) = sin(πx)/(πx), which is the signal lost where the field is steep. The standard deviation of
the noise in the real and in the imaginary part stands in the sidecar of S0. `dseg` names the tissue that
fills most of each voxel.

The local field is that of the susceptibility inside the mask less its mean there, because a constant
inside the mask cannot be told from sources outside. Compare a map x with the truth t after removing their
means inside the mask: NRMSE = ||x - t|| / ||t||, in per cent.

Where a subject moved, the sidecars of its truth say when and how. The truth is that of the head as it lay
when the centre of k-space was acquired.

The anatomy starts from the ICBM 2009a nonlinear symmetric template (Copyright (C) 1993-2004 Louis Collins,
McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University).

{made_by}"""


def write_dataset(out: Path, study: Study, *, made_by: str = "", device=None) -> Iterator[Scan]:
    """Simulate a study, scan by scan, and write raw data and truth.

    The same seed writes the same bytes, given the same number of threads: sums in another order differ in
    their last digits.

    Parameters
    ----------
    out : Path
        Folder of the data set; made if missing, files of the same names are replaced.
    study : Study
        Who is scanned, and how.
    made_by : str
        Last paragraph of the README: how to make the data set anew.
    device : torch.device, optional
        Where it is computed.

    Yields
    ------
    Scan
        Each scan when its files are there.

    Raises
    ------
    KeyError
        If there is no such phase scaling.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from qsmflow.sim.grids import oblique_affine
    >>> from qsmflow.sim.study import cohort
    >>> affine = oblique_affine((12, 12, 12), voxel_size=(16, 16, 16), center=(0, -18, 5))
    >>> small = MgreProtocol((12, 12, 12), affine, echo_times=(0.004, 0.009), supersampling=1)
    >>> with TemporaryDirectory() as folder:
    ...     for scan in write_dataset(Path(folder), Study(small, cohort())):
    ...         len(list(Path(folder, scan.folder).rglob("*_MEGRE.nii.gz")))
    4
    """
    out, scaling = Path(out), PHASE_SCALINGS[study.phase_scaling]
    truth = out / "derivatives" / "truth"
    _write_raw_description(out, study, made_by=made_by)
    _write_truth_description(truth)
    for number, plans in groupby(study.scans, key=lambda plan: plan.subject):
        subject = study.subject(number)
        for plan in plans:
            scan = simulate_scan(study, plan, subject=subject, device=device)
            scale = _magnitude_scale(scan)
            _write_echoes(out, scan, scaling=scaling, magnitude_scale=scale)
            write_truth(truth, scan, study, magnitude_scale=scale)
            yield plan


def _magnitude_scale(scan: SimulatedScan) -> float:
    """Stored magnitude per unit of signal.

    A few steps to the noise's standard deviation are enough, and keep the files small; but all must fit
    into 16 bits.
    """
    largest = float(scan.result.signal.abs().max())
    fits = 32000 / largest
    return min(4 / scan.result.noise, fits) if scan.result.noise > 0 else fits


def _write_echoes(out: Path, scan: SimulatedScan, *, scaling: PhaseScaling, magnitude_scale: float) -> None:
    protocol, plan = scan.protocol, scan.plan
    sequence = _sequence_metadata(protocol)
    for number, (echo_time, signal) in enumerate(
        zip(protocol.echo_times, scan.result.signal, strict=True), start=1
    ):
        stem = out / plan.folder / "anat" / f"{plan.prefix}_echo-{number}"
        echo = {**sequence, "EchoNumber": number, "EchoTime": echo_time}
        magnitude = np.rint(signal.abs().cpu().numpy() * magnitude_scale).astype(np.int16)
        phase = scaling.encode(signal.angle().cpu().numpy())
        write_image(f"{stem}_part-mag_MEGRE", magnitude, protocol.affine, echo)
        write_image(f"{stem}_part-phase_MEGRE", phase, protocol.affine, {**echo, "Units": scaling.units})


def _sequence_metadata(protocol: MgreProtocol) -> dict:
    return {
        "Manufacturer": "none (simulated)",
        "MagneticFieldStrength": protocol.field_strength,
        "ImagingFrequency": GYROMAGNETIC_RATIO * protocol.field_strength,
        "MRAcquisitionType": "3D",
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "PulseSequenceType": f"multi-echo gradient echo, {protocol.readout} readout",
        "RepetitionTimeExcitation": protocol.repetition_time,
        "RepetitionTime": protocol.repetition_time,
        "FlipAngle": protocol.flip_angle,
    }


def _write_raw_description(out: Path, study: Study, *, made_by: str) -> None:
    write_json(
        out / "dataset_description.json",
        {
            "Name": "qsmflow simulated heads",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "License": "CC0",
            "Authors": AUTHORS,
            "GeneratedBy": GENERATED_BY,
        },
    )
    write_text(
        out / "README.md", README.format(field_strength=study.protocol.field_strength, made_by=made_by)
    )
    write_text(out / "CHANGES", "1.0.0 2025-01-01\n  - First version.\n")
    subjects = dict.fromkeys(plan.subject for plan in study.scans)
    rows = [f"sub-{number:02d}\tn/a\t{study.subject_seed(number)}\n" for number in subjects]
    write_text(out / "participants.tsv", "participant_id\tspecies\tseed\n" + "".join(rows))
    write_json(
        out / "participants.json",
        {
            "species": {"Description": "Species; n/a, the subject is a digital phantom."},
            "seed": {"Description": "Seed of the simulated anatomy."},
        },
    )


def _write_truth_description(truth: Path) -> None:
    write_json(
        truth / "dataset_description.json",
        {
            "Name": "truth behind the qsmflow simulated heads",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "License": "CC0",
            "Authors": AUTHORS,
            "GeneratedBy": GENERATED_BY,
            "SourceDatasets": [{"URL": "../.."}],
            "DatasetLinks": {"raw": "../.."},
        },
    )
    write_text(truth / "README.md", "The maps from which the scans two folders up were simulated.\n")
    # BIDS has no names for the phase at TE = 0 and for how steep the field is.
    write_text(truth / ".bidsignore", "*_phaseoffset.*\n*_fieldsteps.*\n")
