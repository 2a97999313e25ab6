"""How far the maps of a scan are from that of a reference scan."""

from pathlib import Path

import nibabel as nib
import numpy as np
from nipype.interfaces.base import File, traits

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.metrics import DATA_RANGE, scores
from qsmflow.core.registration import resample
from qsmflow.interfaces.images import geometry, load, load_mask, save
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec

#: Maps that are compared, by what a table calls them.
MAPS = {"uncorrected": "susceptibility", "corrected": "corrected"}


class _ComputeMetricsInputSpec(StageInputSpec):
    susceptibility = File(exists=True, mandatory=True, desc="susceptibility of the scan in ppm")
    corrected = traits.Either(
        None, File(exists=True), usedefault=True, desc="the same without motion, where it was accepted"
    )
    mask = File(exists=True, mandatory=True, desc="where it is known")
    reference = File(exists=True, mandatory=True, desc="susceptibility of the reference scan in ppm")
    reference_mask = File(exists=True, mandatory=True, desc="where that is known")
    matrix = traits.List(traits.List(traits.Float), mandatory=True, desc="(4, 4), scan to reference, RAS mm")


class _ComputeMetricsOutputSpec(StageOutputSpec):
    rows = traits.List(traits.Dict, desc="scores of each map")
    volumes = traits.List(File(exists=True), desc="reference, maps on its grid, and what they differ by")
    labels = traits.List(traits.Str, desc="names of the volumes")
    common_mask = File(exists=True, desc="where all are known, on the grid of the reference")


class ComputeMetrics(Stage):
    """Bring the maps of a scan onto the grid of the reference and score them there.

    A rotation of the head changes the field and not the susceptibility, so maps of two positions may be
    compared once one is turned; each is resampled once, by B-splines.
    """

    input_spec = _ComputeMetricsInputSpec
    output_spec = _ComputeMetricsOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        like = self.inputs.reference
        reference = load(like)
        common = load_mask(self.inputs.reference_mask) & self._moved(
            self.inputs.mask, interpolation="nearest"
        )
        rows, volumes, differences = [], {"reference": reference}, {}
        for name, field in MAPS.items():
            path = getattr(self.inputs, field)
            if path is None:
                continue
            moved = self._moved(path, interpolation="bspline")
            found = scores(moved, reference, mask=common, voxel_size=geometry(like).voxel_size)
            rows.append({"map": name, **found, "voxels": int(common.sum())})
            volumes[name] = moved
            difference = (moved - reference) * common
            if difference.any():
                differences[f"{name} − reference"] = difference
        volumes |= differences
        files = [
            save(values * common, folder / f"volume_{number}.nii", like=like)
            for number, values in enumerate(volumes.values())
        ]
        record = StageRecord(
            stage="Comparison with the reference scan",
            algorithm="Scores in the intersection of the masks, after one resampling by cubic B-splines",
            parameters={"DataRangePPM": DATA_RANGE},
            references=("wang2004ssim", "milovic2025xsim", "langkammer2018challenge"),
            figures={row["map"]: {name: row[name] for name in ("rmse", "psnr", "ssim")} for row in rows},
        )
        return {
            "rows": rows,
            "volumes": files,
            "labels": list(volumes),
            "common_mask": save(common, folder / "mask.nii", like=like),
            "out_record": record.to_dict(),
        }

    def _moved(self, path: str, *, interpolation: str):
        """An image of the scan on the grid of the reference; a mask if its neighbours are not mixed."""
        like = nib.load(self.inputs.reference)
        return resample(
            load_mask(path) if interpolation == "nearest" else load(path),
            affine=nib.load(path).affine,
            matrix=np.array(self.inputs.matrix),
            like_shape=like.shape[:3],
            like_affine=like.affine,
            interpolation=interpolation,
        )
