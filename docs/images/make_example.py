"""Draw the picture of README from a run on the example.

Usage: python docs/images/make_example.py OUT_DIR docs/images/example.png
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from nibabel.processing import resample_to_output

PANELS = (
    ("Total field", "fmap/sub-01_acq-still_desc-total_fieldmap.nii.gz", (-60, 60), "Hz"),
    ("Local field", "fmap/sub-01_acq-still_desc-local_fieldmap.nii.gz", (-4, 4), "Hz"),
    ("R2*", "anat/sub-01_acq-still_R2starmap.nii.gz", (0, 50), "1/s"),
    ("Susceptibility", "anat/sub-01_acq-still_Chimap.nii.gz", (-0.1, 0.15), "ppm"),
)
HEIGHT_MM = 1.0
MIDDLE_MM = 2.0


def main(out_dir: str, picture: str) -> None:
    figure, axes = plt.subplots(2, len(PANELS), figsize=(11, 5.4), facecolor="black", layout="constrained")
    for (title, name, window, unit), (above, below) in zip(PANELS, axes.T, strict=True):
        image = resample_to_output(nib.load(Path(out_dir, "sub-01", name)), (1, 1, 1), order=1)
        values = np.asarray(image.dataobj)
        to_voxel = np.linalg.inv(image.affine)
        x, _, z = (to_voxel @ (MIDDLE_MM, 0, HEIGHT_MM, 1))[:3].round().astype(int)
        for axis, plane in ((above, values[:, :, z]), (below, values[x])):
            drawn = axis.imshow(plane.T, cmap="gray", origin="lower", vmin=window[0], vmax=window[1])
            axis.axis("off")
        above.set_title(title, color="white")
        bar = figure.colorbar(drawn, ax=below, orientation="horizontal", fraction=0.05, pad=0.02)
        bar.ax.tick_params(colors="white", labelsize=8)
        bar.set_label(unit, color="white", fontsize=8)
    figure.savefig(picture, dpi=90, facecolor="black")


if __name__ == "__main__":
    main(*sys.argv[1:])
