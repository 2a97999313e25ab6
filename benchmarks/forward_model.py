"""Do the truth maps of a simulated data set explain its raw echoes? Told without qsmflow.

Usage: python benchmarks/forward_model.py [BIDS_DIR]

Reads the files with nibabel, numpy and scipy only. For each scan that did not move it prints
- the share of brain voxels, all and two voxels inside the mask, whose raw signal differs from
  S0 exp(-TE R2*) exp(i(phi0 + 2 pi f TE)) sinc(g1 TE) sinc(g2 TE) sinc(g3 TE) by less than three standard
  deviations of the noise, for the first and the last echo (98.9 % if nothing but noise differs), and the
  median of that difference;
- the difference of the local field from the dipole field of chi, in per cent.
"""

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import fft
from scipy.ndimage import binary_erosion

EXAMPLE = Path(__file__).resolve().parents[1] / "bids_examples" / "digital_heads"
GAMMA_BAR = 42.577478518e6


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def sidecar(path: Path) -> dict:
    return json.loads(Path(str(path).replace(".nii.gz", ".json")).read_text())


def dipole_field(chi: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Field of chi by the dipole kernel in k-space on a grid padded to twice its size.

    Each voxel is a uniform cube of 2 x 2 x 2 finer ones, over which the field is averaged: on voxels
    themselves, the kernel of an oblique field jumps at the ends of k-space and rings.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    b = affine[2, :3] / edges
    fine = chi.repeat(2, 0).repeat(2, 1).repeat(2, 2).astype(np.float32)
    shape = [2 * size for size in fine.shape]
    axes = [np.fft.fftfreq(n, edge / 2) for n, edge in zip(shape[:2], edges[:2], strict=True)]
    axes.append(np.fft.rfftfreq(shape[2], edges[2] / 2))
    k = np.meshgrid(*(axis.astype(np.float32) for axis in axes), indexing="ij", sparse=True)
    squared = sum(axis**2 for axis in k)
    squared[0, 0, 0] = 1
    kernel = 1 / 3 - sum(axis * part for axis, part in zip(k, b, strict=True)) ** 2 / squared
    kernel[0, 0, 0] = 0
    field = fft.irfftn(kernel * fft.rfftn(fine, shape), shape)[tuple(slice(size) for size in fine.shape)]
    return field.reshape(*(part for size in chi.shape for part in (size, 2))).mean(axis=(1, 3, 5))


def check(chi_path: Path, root: Path) -> None:
    anat, prefix = chi_path.parent, chi_path.name.removesuffix("_Chimap.nii.gz")
    fmap, raw = anat.parent / "fmap", root / anat.relative_to(root / "derivatives" / "truth")
    mask = read(anat / f"{prefix}_desc-brain_mask.nii.gz") > 0
    inner = binary_erosion(mask, iterations=2)
    s0_path = anat / f"{prefix}_S0map.nii.gz"
    noise = sidecar(s0_path)["NoiseStandardDeviation"]
    s0, r2star, offset = (
        read(anat / f"{prefix}_{name}.nii.gz") for name in ("S0map", "R2starmap", "phaseoffset")
    )
    total, local = (read(fmap / f"{prefix}_desc-{kind}_fieldmap.nii.gz") for kind in ("total", "local"))
    steps = read(anat / f"{prefix}_fieldsteps.nii.gz")
    print(f"{prefix}: {mask.sum()} brain voxels, {inner.sum()} two voxels inside")
    magnitudes = sorted(
        raw.glob(f"{prefix}_echo-*_part-mag_MEGRE.nii.gz"), key=lambda p: sidecar(p)["EchoTime"]
    )
    for path in (magnitudes[0], magnitudes[-1]):
        echo_time = sidecar(path)["EchoTime"]
        phase = read(Path(str(path).replace("part-mag", "part-phase"))) * 2 * np.pi / 4096 - np.pi
        signal = read(path) * np.exp(1j * phase)
        model = s0 * np.exp(-echo_time * r2star + 1j * (offset + 2 * np.pi * total * echo_time))
        model *= np.sinc(echo_time * steps).prod(axis=-1)
        deviation = np.abs(signal - model) / noise
        within = [100 * np.mean(deviation[where] < 3) for where in (mask, inner)]
        print(
            f"  TE {1e3 * echo_time:.1f} ms: within three sigma {within[0]:.1f} % of the brain, "
            f"{within[1]:.1f} % inside; median {np.median(deviation[inner]):.2f} (noise alone: 1.18)"
        )
    image = nib.load(chi_path)
    chi = read(chi_path)
    field = dipole_field(np.where(mask, chi - chi[mask].mean(), 0), image.affine)
    field *= GAMMA_BAR * 1e-6 * sidecar(chi_path)["MagneticFieldStrength"]
    error = np.linalg.norm((field - local)[inner]) / np.linalg.norm(local[inner])
    print(f"  dipole field of chi against the local field: {100 * error:.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids_dir", type=Path, nargs="?", default=EXAMPLE)
    root = parser.parse_args().bids_dir
    for path in sorted((root / "derivatives" / "truth").rglob("*_Chimap.nii.gz")):
        if "Motion" not in sidecar(path):
            check(path, root)


if __name__ == "__main__":
    main()
