"""The maps behind a simulated scan, as a BIDS derivative."""

from pathlib import Path

import numpy as np
import torch

from qsmflow.core.motion import scanner_matrix
from qsmflow.sim.files import packed, write_image
from qsmflow.sim.study import SimulatedScan, Study


def write_truth(root: Path, scan: SimulatedScan, study: Study, *, magnitude_scale: float) -> None:
    """Write the truth of one scan: maps inside the brain mask, zero elsewhere.

    Parameters
    ----------
    root : Path
        Folder of the derivative data set.
    scan : SimulatedScan
        The scan.
    study : Study
        Its study.
    magnitude_scale : float
        Stored magnitude per unit of signal.
    """
    result, protocol, plan = scan.result, scan.protocol, scan.plan
    folder, mask = root / plan.folder, result.mask
    common = {
        "Sources": _sources(scan),
        "MagneticFieldStrength": protocol.field_strength,
        "SkullStripped": True,
        **_motion_record(scan, study),
    }

    def write(name: str, stored: np.ndarray, sidecar: dict, *, slope: float = 1.0) -> None:
        stem = folder / name.format(prefix=plan.prefix)
        write_image(stem, stored, protocol.affine, {**common, **sidecar}, slope=slope)

    def write_map(name: str, image: torch.Tensor, sidecar: dict) -> None:
        stored, slope = packed(torch.where(mask, image, torch.zeros_like(image)).cpu().numpy())
        write(name, stored, sidecar, slope=slope)

    write("anat/{prefix}_desc-brain_mask", mask.cpu().numpy().astype(np.uint8), {"Type": "Brain"})
    write_map(
        "anat/{prefix}_Chimap", result.susceptibility, {"Units": "ppm", "SusceptibilityReference": "water"}
    )
    write_map("anat/{prefix}_R2starmap", result.r2star, {"Units": "1/s"})
    write_map("anat/{prefix}_T2starmap", 1 / result.r2star.clamp(min=0.1), {"Units": "s"})
    magnitude = magnitude_scale * result.magnitude
    write_map(
        "anat/{prefix}_S0map",
        magnitude,
        {"Units": "arbitrary", "NoiseStandardDeviation": magnitude_scale * result.noise},
    )
    write_map("anat/{prefix}_phaseoffset", result.phase_offset, {"Units": "rad"})
    # A fieldmap is valid only beside a magnitude.
    for kind, image in {"total": result.total_field, "local": result.local_field}.items():
        write_map(f"fmap/{{prefix}}_desc-{kind}_fieldmap", image, {"Units": "Hz"})
        write_map(f"fmap/{{prefix}}_desc-{kind}_magnitude", magnitude, {})


def _sources(scan: SimulatedScan) -> list[str]:
    plan = scan.plan
    stem = f"bids:raw:{plan.folder.as_posix()}/anat/{plan.prefix}"
    return [
        f"{stem}_echo-{number}_part-{part}_MEGRE.nii.gz"
        for number in range(1, len(scan.protocol.echo_times) + 1)
        for part in ("mag", "phase")
    ]


def _motion_record(scan: SimulatedScan, study: Study) -> dict:
    """How the subject moved, for the sidecars; empty when it lay still.

    Each state lasts from its onset to the next one. A pose takes a point of the head, as it lies in the
    maps of the truth, to where it lay then: turned about and shifted along the axes of the image, seen
    from the centre of its grid, or by the matrix in scanner coordinates.
    """
    if scan.motion is None:
        return {}
    protocol, motion = scan.protocol, scan.motion
    states = [
        {
            "Onset": onset,
            "Translation": list(pose.translation),
            "Rotation": list(pose.rotation),
            "ScannerMatrix": scanner_matrix(pose, shape=protocol.shape, affine=protocol.affine).tolist(),
        }
        for onset, pose in zip(motion.onsets, motion.poses, strict=True)
    ]
    return {
        "Motion": {
            "Model": study.motion.model,
            "OnsetUnits": "share of the scan",
            "TranslationUnits": "mm",
            "RotationUnits": "degrees about x, then y, then z",
            "States": states,
        }
    }
