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
from qsmflow.reports.viewer import build_motion_slider, build_viewer


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
    outline_files = traits.List(
        traits.Either(None, File(exists=True)), desc="label image for each volume, outlined on it"
    )


class _PlotVolumesOutputSpec(TraitedSpec):
    out_report = File(exists=True, desc="SVG picture")
    out_warnings = traits.List(traits.Str, desc="blank volumes and values that are not finite")


class PlotVolumes(SimpleInterface):
    """Slice mosaic of one volume, or of several on the same slices."""

    input_spec = _PlotVolumesInputSpec
    output_spec = _PlotVolumesOutputSpec

    def _run_interface(self, runtime):
        mask_file, outlines = self.inputs.mask_file, self.inputs.outline_files
        picture = plot_volumes(
            [_volume(path) for path in self.inputs.in_files],
            nib.load(self.inputs.in_files[0]).affine,
            spec=FIGURES[self.inputs.kind],
            mask=load_mask(mask_file).numpy() if mask_file else None,
            labels=self.inputs.labels if isdefined(self.inputs.labels) else (),
            unit=self.inputs.unit,
            outlines=[path and _volume(path) for path in outlines] if isdefined(outlines) else (),
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


class _BuildViewerInputSpec(BaseInterfaceInputSpec):
    susceptibility = File(exists=True, mandatory=True, desc="ppm")
    magnitude = File(exists=True, mandatory=True, desc="echoes combined")
    local_field = File(exists=True, mandatory=True, desc="Hz")
    mask_file = File(exists=True, mandatory=True, desc="brain mask on the same grid")
    corrected = traits.Either(
        None, File(exists=True), usedefault=True, desc="susceptibility corrected for motion, ppm"
    )


class _BuildViewerOutputSpec(TraitedSpec):
    out_viewer = File(exists=True, desc="HTML fragment: slice viewer")
    out_slider = traits.Either(
        None, File(exists=True), desc="HTML fragment: before and after motion correction, if there is one"
    )


class BuildViewer(SimpleInterface):
    """Volumes that the report's page lets its reader scroll through, and a slider over the correction."""

    input_spec = _BuildViewerInputSpec
    output_spec = _BuildViewerOutputSpec

    def _run_interface(self, runtime):
        inputs = self.inputs
        names = ["susceptibility", "magnitude", "local_field", *(["corrected"] if inputs.corrected else [])]
        volumes = {name: _volume(getattr(inputs, name)) for name in names}
        affine = nib.load(inputs.susceptibility).affine
        mask = load_mask(inputs.mask_file).numpy()
        viewer = Path(runtime.cwd) / "viewer.html"
        viewer.write_text(build_viewer(volumes, affine, mask=mask), encoding="utf-8")
        self._results |= {"out_viewer": str(viewer), "out_slider": None}
        if inputs.corrected:
            slider = viewer.with_name("motionslider.html")
            maps = (volumes["susceptibility"], volumes["corrected"])
            slider.write_text(build_motion_slider(*maps, affine, mask=mask), encoding="utf-8")
            self._results["out_slider"] = str(slider)
        return runtime


def _volume(path: str) -> np.ndarray:
    """Values of an image as (x, y, z), whatever axes of length one it has beside them."""
    image = nib.load(path)
    return np.reshape(image.dataobj, image.shape[:3])
