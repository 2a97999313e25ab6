"""How far the maps of a run on simulated data are from the truth.

Usage: python benchmarks/example_accuracy.py OUT_DIR [--bids-dir DIR] [--limit PERCENT]

Prints, for every scan, the demeaned normalised root-mean-square error of χ, the local field and R2* in the
run's mask, eroded by two voxels. With --limit the exit code is 1 if χ of a subject that lay still is worse.
"""

import argparse
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import binary_erosion

from qsmflow.core.metrics import nrmse

EXAMPLE = Path(__file__).resolve().parents[1] / "bids_examples" / "digital_heads"
MAPS = {
    "Chimap": "anat/{prefix}_Chimap",
    "local fieldmap": "fmap/{prefix}_desc-local_fieldmap",
    "R2starmap": "anat/{prefix}_R2starmap",
}
MASK = "anat/{prefix}_desc-brain_mask"
ERODED_VOXELS = 2


def read(folder: Path, name: str, prefix: str) -> np.ndarray:
    path = folder / f"{name.format(prefix=prefix)}.nii.gz"
    return np.asarray(nib.load(path).dataobj, dtype=np.float32)


def check(found_folder: Path, truth_folder: Path, prefix: str) -> float:
    """Print how far the maps of one scan are off; return the error of χ in per cent."""
    mask, brain = (read(folder, MASK, prefix) > 0 for folder in (found_folder, truth_folder))
    inside = torch.from_numpy(binary_erosion(mask & brain, iterations=ERODED_VOXELS))
    print(f"{prefix}: Dice of the brain mask {2 * (mask & brain).sum() / (mask.sum() + brain.sum()):.3f}")
    errors = {}
    for label, name in MAPS.items():
        found, truth = (
            torch.from_numpy(read(folder, name, prefix)) for folder in (found_folder, truth_folder)
        )
        errors[label] = nrmse(found, truth, mask=inside)
        slope = np.polyfit(truth[inside], found[inside], 1)[0]
        print(f"  {label}: NRMSE {errors[label]:.1f} % (demeaned), slope against the truth {slope:.2f}")
    return errors["Chimap"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path)
    parser.add_argument(
        "--bids-dir", type=Path, default=EXAMPLE, help="simulated data set that was processed"
    )
    parser.add_argument("--limit", type=float, help="largest error of χ in per cent")
    arguments = parser.parse_args()

    root, still = arguments.bids_dir / "derivatives" / "truth", []
    for path in sorted(root.rglob("*_Chimap.nii.gz")):
        prefix, folder = path.name.removesuffix("_Chimap.nii.gz"), path.parents[1]
        found = arguments.out_dir / folder.relative_to(root)
        if not (found / "anat" / path.name).exists():
            print(f"{prefix}: not in this run")
            continue
        error = check(found, folder, prefix)
        if "Motion" not in json.loads(path.with_name(f"{prefix}_Chimap.json").read_text()):
            still.append(error)
    if not still:
        print("no scan of a subject that lay still", file=sys.stderr)
        return 1
    if arguments.limit is not None and max(still) > arguments.limit:
        print(f"χ is worse than {arguments.limit} %", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
