"""Pictures and tables of the report as workflow nodes."""

from pathlib import Path

import nibabel as nib
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from qsmflow.interfaces.images import load_mask
from qsmflow.reports.figures import FIGURES, plot_volumes
from qsmflow.reports.summary import FRAGMENTS


class _PlotVolumesInputSpec(BaseInterfaceInputSpec):
    in_files = InputMultiObject(
        File(exists=True), mandatory=True, desc="3-D volumes on one grid, drawn in rows"
    )
    kind = traits.Enum(*FIGURES, mandatory=True, desc="which picture; also its desc entity")
    mask_file = traits.Either(None, File(exists=True), usedefault=True, desc="brain mask on the same grid")
    labels = traits.List(traits.Str, desc="names of the volumes instead of the usual ones")
    unit = traits.Either(
        None, traits.Str, usedefault=True, desc="unit of the values instead of the usual one"
    )


class _PlotVolumesOutputSpec(TraitedSpec):
    out_report = File(exists=True, desc="SVG picture")
    out_warnings = traits.List(traits.Str, desc="blank volumes and values that are not finite")


class PlotVolumes(SimpleInterface):
    """Slice mosaic of one volume, or of several on the same slices."""

    input_spec = _PlotVolumesInputSpec
    output_spec = _PlotVolumesOutputSpec

    def _run_interface(self, runtime):
        images = [nib.load(path) for path in self.inputs.in_files]
        mask_file = self.inputs.mask_file
        picture = plot_volumes(
            [np.reshape(image.dataobj, image.shape[:3]) for image in images],
            images[0].affine,
            spec=FIGURES[self.inputs.kind],
            mask=load_mask(mask_file).numpy() if mask_file else None,
            labels=self.inputs.labels if isdefined(self.inputs.labels) else (),
            unit=self.inputs.unit,
        )
        path = Path(runtime.cwd) / f"{self.inputs.kind}.svg"
        path.write_text(picture.svg, encoding="utf-8")
        self._results["out_report"] = str(path)
        self._results["out_warnings"] = list(picture.warnings)
        return runtime


class _SummaryReportletInputSpec(BaseInterfaceInputSpec):
    kind = traits.Enum(*FRAGMENTS, mandatory=True, desc="which table; also its desc entity")
    acquisition = traits.Dict(mandatory=True, desc="facts of the series by BIDS name, times in seconds")
    records = InputMultiObject(
        traits.Dict, mandatory=True, desc="StageRecords as dictionaries, in the order the stages ran"
    )
    warnings = traits.List(traits.Str, desc="further reasons to look twice, shown by the summary")


class _SummaryReportletOutputSpec(TraitedSpec):
    out_report = File(exists=True, desc="HTML fragment")


class SummaryReportlet(SimpleInterface):
    """What was scanned and done, how the solvers ended, and what a paper should report."""

    input_spec = _SummaryReportletInputSpec
    output_spec = _SummaryReportletOutputSpec

    def _run_interface(self, runtime):
        kind, given = self.inputs.kind, self.inputs.warnings
        extra = {"warnings": given} if kind == "summary" and isdefined(given) else {}
        fragment = FRAGMENTS[kind](self.inputs.acquisition, self.inputs.records, **extra)
        path = Path(runtime.cwd) / f"{kind}.html"
        path.write_text(fragment, encoding="utf-8")
        self._results["out_report"] = str(path)
        return runtime
