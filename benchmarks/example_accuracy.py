"""How far the maps of a run on the example are from the truth.

Usage: python benchmarks/example_accuracy.py OUT_DIR [--limit PERCENT]

Prints the demeaned normalised root-mean-square error of χ, the local field and R2* in the run's mask,
eroded by two voxels. With --limit the exit code is 1 if χ is worse than that.
"""

import argparse
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import binary_erosion

from qsmflow.core.metrics import nrmse

EXAMPLE = Path(__file__).resolve().parents[1] / "bids_examples" / "simple_head"
MAPS = {
    "Chimap": "anat/sub-01_Chimap.nii.gz",
    "local fieldmap": "fmap/sub-01_desc-local_fieldmap.nii.gz",
    "R2starmap": "anat/sub-01_R2starmap.nii.gz",
}
ERODED_VOXELS = 2


def read(folder: Path, name: str) -> np.ndarray:
    return np.asarray(nib.load(folder / "sub-01" / name).dataobj, dtype=np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--truth", type=Path, default=EXAMPLE / "derivatives" / "truth")
    parser.add_argument("--limit", type=float, help="largest error of χ in per cent")
    arguments = parser.parse_args()

    mask_name = "anat/sub-01_desc-brain_mask.nii.gz"
    mask = read(arguments.out_dir, mask_name) > 0
    brain = read(arguments.truth, mask_name) > 0
    print(f"brain mask: Dice {2 * (mask & brain).sum() / (mask.sum() + brain.sum()):.3f}")
    inside = torch.from_numpy(binary_erosion(mask & brain, iterations=ERODED_VOXELS))
    errors = {}
    for label, name in MAPS.items():
        found, truth = (
            torch.from_numpy(read(folder, name)) for folder in (arguments.out_dir, arguments.truth)
        )
        errors[label] = nrmse(found, truth, mask=inside)
        slope = np.polyfit(truth[inside], found[inside], 1)[0]
        print(f"{label}: NRMSE {errors[label]:.1f} % (demeaned), slope against the truth {slope:.2f}")
    if arguments.limit is not None and not errors["Chimap"] < arguments.limit:
        print(f"χ is worse than {arguments.limit} %", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
