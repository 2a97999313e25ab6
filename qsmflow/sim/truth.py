"""The maps behind a simulated scan, as a BIDS derivative."""

from pathlib import Path

import numpy as np
import torch

from qsmflow.core.motion import scanner_matrix
from qsmflow.sim.canvas import LABELS
from qsmflow.sim.files import packed, write_image, write_text
from qsmflow.sim.study import SimulatedScan, Study

#: What stored values of each unit differ by: well below what noise or any method can tell apart.
STEPS = {"ppm": 5e-5, "1/s": 0.05, "s": 1e-4, "Hz": 0.02, "rad": 2e-3, "arbitrary": 1.0}


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

    def write_map(name: str, image: torch.Tensor, sidecar: dict, *, coarser: int = 1) -> None:
        inside = mask if image.ndim == 3 else mask[..., None]
        values = torch.where(inside, image, torch.zeros_like(image)).cpu().numpy()
        stored, slope = packed(values, step=coarser * STEPS[sidecar["Units"]])
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
    write_map("anat/{prefix}_fieldsteps", result.field_steps.movedim(0, -1), {"Units": "Hz"}, coarser=10)
    labels = torch.where(mask, result.labels, 0).cpu().numpy().astype(np.uint8)
    write("anat/{prefix}_dseg", labels, {})
    write_text(folder / "anat" / f"{plan.prefix}_dseg.tsv", _lookup_table(labels))
    # A fieldmap is valid only beside a magnitude.
    for kind, image in {"total": result.total_field, "local": result.local_field}.items():
        write_map(f"fmap/{{prefix}}_desc-{kind}_fieldmap", image, {"Units": "Hz"})
        write_map(f"fmap/{{prefix}}_desc-{kind}_magnitude", magnitude, {"Units": "arbitrary"})


def _lookup_table(labels: np.ndarray) -> str:
    """What the labels that occur in a segmentation mean."""
    present = set(np.unique(labels).tolist()) - {0}
    rows = [f"{index}\t{name}\n" for name, index in LABELS.items() if index in present]
    return "index\tname\n" + "".join(rows)


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
