"""Measure the maps of a scan in the regions of a label image."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nipype.interfaces.base import File, traits
from torch import Tensor

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.regions import measure_regions
from qsmflow.core.registration import resample
from qsmflow.core.template import carry_labels
from qsmflow.interfaces.images import geometry, load, load_mask, save
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec
from qsmflow.reports.regions import UNITS

#: Input that holds each map.
_INPUTS = dict(zip(UNITS, ("susceptibility", "corrected", "r2star"), strict=True))


class _MeasureRegionsInputSpec(StageInputSpec):
    susceptibility = File(exists=True, mandatory=True, desc="susceptibility in ppm")
    corrected = traits.Either(
        None, File(exists=True), usedefault=True, desc="the same without motion, where it was accepted"
    )
    r2star = traits.Either(None, File(exists=True), usedefault=True, desc="R2* in 1/s")
    field_mask = File(exists=True, mandatory=True, desc="where the susceptibility is known")
    magnitude = File(exists=True, mandatory=True, desc="magnitude combined over the echoes")
    mask = File(exists=True, mandatory=True, desc="brain mask")
    atlas = traits.Str(mandatory=True, desc="name of the label image in tables")
    labels = File(exists=True, mandatory=True, desc="label image")
    names = traits.Dict(traits.Int, traits.Str, usedefault=True, desc="names of the regions by label")
    template = traits.Either(
        None, File(exists=True), usedefault=True, desc="brain of the template whose space the labels have"
    )


class _MeasureRegionsOutputSpec(StageOutputSpec):
    rows = traits.List(traits.Dict, desc="a row for each region and map")
    carried = traits.Either(None, File(exists=True), desc="labels on the grid of the maps; None without any")


class MeasureRegions(Stage):
    """Bring labels to the grid of the maps, from a template by registration, and measure the maps there."""

    input_spec = _MeasureRegionsInputSpec
    output_spec = _MeasureRegionsOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        inputs = self.inputs
        like, labels_file = inputs.susceptibility, Path(inputs.labels)
        labels, agreement = self._labels()
        mask, voxel_size = load_mask(inputs.field_mask), geometry(like).voxel_size
        rows = []
        for name, field in _INPUTS.items():
            path = getattr(inputs, field)
            if path is None:
                continue
            found = measure_regions(load(path), labels=labels, mask=mask, voxel_size=voxel_size)
            rows += [
                {
                    "atlas": inputs.atlas,
                    "index": region.index,
                    "name": inputs.names.get(region.index),
                    "map": name,
                    "mean": region.mean,
                    "sd": region.sd,
                    "median": region.median,
                    "volume": region.volume,
                    "voxels": region.voxels,
                }
                for region in found
            ]
        record = StageRecord(
            stage=f"Regions of {inputs.atlas}",
            algorithm="Labels of a template, by an affine and a B-spline registration (SimpleITK)"
            if inputs.template
            else "Labels in the space of the subject",
            parameters={"Labels": labels_file.name},
            references=("lowekamp2013simpleitk", "mattes2003") if inputs.template else (),
            figures={"Regions": len({row["index"] for row in rows}), **agreement},
            warnings=() if rows else (f"no region of {labels_file.name} lies in the brain",),
        )
        carried = save(labels.float(), folder / "labels.nii", like=like) if rows else None
        return {"rows": rows, "carried": carried, "out_record": record.to_dict()}

    def _labels(self) -> tuple[Tensor, dict[str, float]]:
        """Labels on the grid of the maps, and how well a template agrees with the scan."""
        like, image = nib.load(self.inputs.susceptibility), nib.load(self.inputs.labels)
        values = np.reshape(image.dataobj, image.shape[:3]).astype(np.int32)
        if self.inputs.template is None:
            moved = resample(
                torch.from_numpy(values),
                affine=image.affine,
                matrix=np.eye(4),
                like_shape=like.shape[:3],
                like_affine=like.affine,
                interpolation="nearest",
            )
            return moved, {}
        template = nib.load(self.inputs.template)
        found = carry_labels(
            values,
            labels_affine=image.affine,
            template=torch.from_numpy(np.reshape(template.dataobj, template.shape[:3]).astype(np.float32)),
            template_affine=template.affine,
            image=load(self.inputs.magnitude),
            mask=load_mask(self.inputs.mask),
            affine=like.affine,
        )
        return found.labels, {"MutualInformation": found.information}
