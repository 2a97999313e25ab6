"""Tables of a subject against what numpy, scipy, scikit-image and SimpleITK make of the written maps.

Run as ``python benchmarks/recompute_tables.py OUT [--atlas FOLDER]`` on the output of a run with
``--reference-filter`` and ``-d atlas=FOLDER``, whose label images are those of the subjects. Prints the
largest difference of each column and checks that the report shows the same numbers; exits with 1 if one
differs by more than 1e-6. XSIM, which none of these packages has, is left out.
"""

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from skimage.metrics import structural_similarity

TOLERANCE = 1e-6
DATA_RANGE = 1.0  # ppm
MAPS = {"uncorrected": "Chimap", "corrected": "desc-motioncorrected_Chimap"}


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a BIDS table."""
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def array(image: sitk.Image) -> np.ndarray:
    """Values as (x, y, z), in double precision."""
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(float)


def scores(value: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """The measures of docs/methods.md, from their definitions."""
    rmse = np.sqrt(((value - truth)[mask] ** 2).mean())
    # Outside of the image there is nothing, as outside of the mask.
    flat, flat_truth = (np.pad(np.where(mask, each - each[mask].mean(), 0), 8) for each in (value, truth))
    mask = np.pad(mask, 8)
    _, ssim = structural_similarity(
        flat, flat_truth, data_range=DATA_RANGE, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    sharp, sharp_truth = (
        ndimage.gaussian_laplace(each, 1.5, mode="constant", radius=7)[mask]
        for each in (flat - flat_truth, flat_truth)
    )
    return {
        "rmse": rmse,
        "psnr": 20 * np.log10(DATA_RANGE / rmse),
        "ssim": ssim[mask].mean(),
        "nrmse": 100 * np.linalg.norm((flat - flat_truth)[mask]) / np.linalg.norm(flat_truth[mask]),
        "hfen": 100 * np.linalg.norm(sharp) / np.linalg.norm(sharp_truth),
    }


def compared(folder: Path, row: dict[str, str]) -> dict[str, float]:
    """Scores of a row of the comparison: the scan is brought to the reference by the written transform."""
    names = (f"{row['series']}_{MAPS[row['map']]}", f"{row['series']}_Chimap", f"{row['reference']}_Chimap")
    value, known, reference = (
        sitk.ReadImage(str(folder / f"{name}.nii.gz"), sitk.sitkFloat64) for name in names
    )
    (transform,) = folder.glob(f"{row['series']}_from-orig_to-reference*_xfm.txt")
    moved, inside = (
        array(sitk.Resample(image, reference, sitk.ReadTransform(str(transform)), how, 0.0))
        for image, how in (
            (value, sitk.sitkBSpline),
            # Maps are zero where they are not known, and nowhere else.
            (sitk.Cast(known != 0, sitk.sitkUInt8), sitk.sitkNearestNeighbor),
        )
    )
    truth = array(reference)
    return scores(moved, truth, (inside > 0) & (truth != 0))


def measured(folder: Path, atlas: Path, row: dict[str, str]) -> dict[str, float]:
    """Values of a row of the regions, of labels on the grid of the map."""
    image = nib.load(folder / f"{row['series']}_{row['map']}.nii.gz")
    known = nib.load(folder / f"{row['series']}_Chimap.nii.gz").get_fdata() != 0
    (labels,) = atlas.glob(f"**/{row['series']}_dseg.nii.gz")
    values = image.get_fdata()[known & (nib.load(labels).get_fdata() == int(row["index"]))]
    volume = len(values) * abs(np.linalg.det(image.affine[:3, :3])) / 1000
    found = {"mean": values.mean(), "sd": values.std(), "median": np.median(values), "volume": volume}
    return found | {"voxels": len(values)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--atlas", type=Path)
    arguments = parser.parse_args()
    differences, seen = defaultdict(float), 0
    for subject in sorted(arguments.out.glob("sub-*/")):
        report = (arguments.out / f"{subject.name}.html").read_text(encoding="utf-8")
        for kind in ("comparison", "regions"):
            table = subject / f"{subject.name}_{kind}.tsv"
            for row in rows_of(table) if table.is_file() else ():
                folder = next(subject.glob(f"**/{row['series']}_Chimap.nii.gz")).parent
                found = (
                    compared(folder, row)
                    if kind == "comparison"
                    else measured(folder, arguments.atlas / subject.name, row)
                )
                for name, value in found.items():
                    key = f"{kind} {name}"
                    differences[key] = max(differences[key], abs(value - float(row[name])))
                seen += 1
                shown = found["rmse" if kind == "comparison" else "mean"]
                if f"{shown:.4g}" not in report:
                    print(f"{row['series']} {row['map']}: {shown:.4g} is not in the report")
                    differences["report"] = np.inf
    for name, value in differences.items():
        print(f"{name:20s} {value:.1e}")
    print(f"{seen} rows")
    return int(not seen or max(differences.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
