"""Simulated scans as a BIDS data set, with the truth as its derivative."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from qsmflow.core.units import GYROMAGNETIC_RATIO
from qsmflow.sim.mgre import PHASE_SCALINGS, SIMPLE_HEAD, MgreProtocol, MgreScan, simulate_mgre
from qsmflow.version import __version__

BIDS_VERSION = "1.10.0"
GENERATED_BY = [{"Name": "qsmflow simulator", "Version": __version__}]

README = """# A simulated head

One digital head, scanned by qsmflow's own simulator: multi-echo gradient-echo magnitude and phase of an
oblique slab at {field_strength:g} T, with complex noise, phase wraps, coil phase, and a background field
from air spaces, skull and neck. No human was scanned. Phase grows with echo time where the field is
raised.

The truth lies in `derivatives/truth`: susceptibility (ppm, relative to water), total and local field
(Hz), R2*, T2* and the brain mask. The local field is that of the susceptibility inside the mask less its
mean there, because a constant inside the mask cannot be told from sources outside. Compare a map x with
the truth t after removing their means inside the mask: NRMSE = ||x - t|| / ||t||, in percent.

Made anew, byte for byte, by

    python -m qsmflow.sim OUT --seed {seed}
"""


def write_dataset(
    out: Path,
    *,
    protocol: MgreProtocol = SIMPLE_HEAD,
    subject: str = "01",
    seed: int = 1,
    phase_scaling: str = "unsigned",
) -> MgreScan:
    """Simulate one subject and write raw data and truth.

    The same seed writes the same bytes, given the same number of threads: sums in another order differ in
    their last digits.

    Parameters
    ----------
    out : Path
        Folder of the data set; made if missing, files of the same names are replaced.
    protocol : MgreProtocol
        How the head is scanned.
    subject : str
        Label without ``sub-``.
    seed : int
        Of the subject and of the noise.
    phase_scaling : str
        A key of :data:`qsmflow.sim.mgre.PHASE_SCALINGS`.

    Returns
    -------
    MgreScan
        What was written.

    Raises
    ------
    KeyError
        If there is no such phase scaling.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from qsmflow.sim.grids import oblique_affine
    >>> affine = oblique_affine((12, 12, 12), voxel_size=(16, 16, 16), center=(0, -18, 5))
    >>> small = MgreProtocol(shape=(12, 12, 12), affine=affine, echo_times=(0.004, 0.009))
    >>> with TemporaryDirectory() as folder:
    ...     scan = write_dataset(Path(folder), protocol=small)
    ...     len(list(Path(folder).glob("sub-01/anat/*_MEGRE.nii.gz")))
    4
    """
    out, scaling = Path(out), PHASE_SCALINGS[phase_scaling]
    scan = simulate_mgre(protocol, seed=seed)
    _write_dataset_files(out, protocol, subject=subject, seed=seed)
    sequence = _sequence_metadata(protocol)
    magnitude, phase = scan.signal.abs().numpy(), scan.signal.angle().numpy()
    # A few steps to the noise's standard deviation are enough, and keep the files small.
    magnitude = np.rint(magnitude * (4 / scan.noise)).astype(np.int16)
    for number, echo_time in enumerate(protocol.echo_times, start=1):
        stem = out / f"sub-{subject}" / "anat" / f"sub-{subject}_echo-{number}"
        echo = {**sequence, "EchoNumber": number, "EchoTime": echo_time}
        _write_image(f"{stem}_part-mag_MEGRE", magnitude[number - 1], protocol.affine, echo)
        phase_metadata = {**echo, "Units": scaling.units}
        _write_image(
            f"{stem}_part-phase_MEGRE", scaling.encode(phase[number - 1]), protocol.affine, phase_metadata
        )
    _write_truth(out / "derivatives" / "truth", scan, protocol, subject=subject)
    return scan


def _sequence_metadata(protocol: MgreProtocol) -> dict:
    return {
        "Manufacturer": "none (simulated)",
        "MagneticFieldStrength": protocol.field_strength,
        "ImagingFrequency": GYROMAGNETIC_RATIO * protocol.field_strength,
        "MRAcquisitionType": "3D",
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "PulseSequenceType": "multi-echo gradient echo, monopolar readout",
        "RepetitionTimeExcitation": protocol.repetition_time,
        "RepetitionTime": protocol.repetition_time,
        "FlipAngle": protocol.flip_angle,
    }


def _write_dataset_files(out: Path, protocol: MgreProtocol, *, subject: str, seed: int) -> None:
    common = {"BIDSVersion": BIDS_VERSION, "License": "CC0", "Authors": ["the qsmflow developers"]}
    _write_json(
        out / "dataset_description.json",
        {"Name": "qsmflow simulated head", "DatasetType": "raw", **common, "GeneratedBy": GENERATED_BY},
    )
    _write_text(out / "README.md", README.format(field_strength=protocol.field_strength, seed=seed))
    _write_text(out / "CHANGES", "1.0.0 2025-01-01\n  - First version.\n")
    _write_text(out / "participants.tsv", f"participant_id\tspecies\tseed\nsub-{subject}\tn/a\t{seed}\n")
    _write_json(
        out / "participants.json",
        {
            "species": {"Description": "Species; n/a, the subject is a digital phantom."},
            "seed": {"Description": "Seed of the simulated anatomy and noise."},
        },
    )
    truth = out / "derivatives" / "truth"
    _write_json(
        truth / "dataset_description.json",
        {
            "Name": "truth behind the qsmflow simulated head",
            "DatasetType": "derivative",
            **common,
            "GeneratedBy": GENERATED_BY,
            "SourceDatasets": [{"URL": "../.."}],
            "DatasetLinks": {"raw": "../.."},
        },
    )
    _write_text(truth / "README.md", "The maps from which the scan two folders up was simulated.\n")


def _write_truth(truth: Path, scan: MgreScan, protocol: MgreProtocol, *, subject: str) -> None:
    """Maps inside the brain mask, zero elsewhere."""
    mask = scan.mask
    folder = truth / f"sub-{subject}"
    echoes = range(1, len(protocol.echo_times) + 1)
    sources = [
        f"bids:raw:sub-{subject}/anat/sub-{subject}_echo-{n}_part-{part}_MEGRE.nii.gz"
        for n in echoes
        for part in ("mag", "phase")
    ]
    common = {
        "Sources": sources,
        "MagneticFieldStrength": protocol.field_strength,
        "SkullStripped": True,
    }

    def inside(image: torch.Tensor) -> np.ndarray:
        return torch.where(mask, image, torch.zeros_like(image)).numpy()

    def write(name: str, image: np.ndarray, metadata: dict) -> None:
        _write_image(
            str(folder / name.format(subject=subject)), image, protocol.affine, {**common, **metadata}
        )

    write("anat/sub-{subject}_desc-brain_mask", mask.numpy().astype(np.uint8), {"Type": "Brain"})
    write(
        "anat/sub-{subject}_Chimap",
        _packed(inside(scan.susceptibility)),
        {"Units": "ppm", "SusceptibilityReference": "water"},
    )
    write("anat/sub-{subject}_R2starmap", _packed(inside(scan.r2star)), {"Units": "1/s"})
    write("anat/sub-{subject}_T2starmap", _packed(inside(1 / scan.r2star.clamp(min=0.1))), {"Units": "s"})
    # A fieldmap is valid only beside a magnitude: the one without decay.
    magnitude = np.rint(inside(scan.magnitude) * (4 / scan.noise)).astype(np.int16)
    for kind, field in {"total": scan.total_field, "local": scan.local_field}.items():
        name = f"fmap/sub-{{subject}}_desc-{kind}_"
        write(name + "fieldmap", _packed(inside(field)), {"Units": "Hz"})
        write(name + "magnitude", magnitude, {})


def _packed(image: np.ndarray) -> tuple[np.ndarray, float]:
    """A map as int16 and the slope that gives its values back; zero stays zero."""
    slope = float(np.abs(image).max()) / 32767 or 1.0
    return np.rint(image / slope).astype(np.int16), slope


def _write_image(stem: str, image, affine: np.ndarray, metadata: dict) -> None:
    """NIfTI and sidecar. The compressed bytes hold neither name nor time, so they depend on content alone."""
    stored, slope = image if isinstance(image, tuple) else (image, 1.0)
    nifti = nib.Nifti1Image(stored, affine)
    nifti.header.set_slope_inter(slope, 0.0)
    nifti.header.set_xyzt_units("mm", "sec")
    nifti.set_qform(affine, code=1)
    nifti.set_sform(affine, code=1)
    path = Path(f"{stem}.nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(nifti.to_bytes(), compresslevel=9, mtime=0))
    _write_json(Path(f"{stem}.json"), metadata)


def _write_json(path: Path, content: dict) -> None:
    _write_text(path, json.dumps(content, indent=2) + "\n")


def _write_text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
