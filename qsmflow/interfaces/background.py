"""Removal of the field whose sources lie outside the mask."""

from pathlib import Path

from nipype.interfaces.base import File, traits

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.background.pdf import remove_background_pdf
from qsmflow.core.background.result import BackgroundRemoval
from qsmflow.core.background.vsharp import remove_background_vsharp
from qsmflow.interfaces.images import geometry, load, load_mask, save
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec, numeric_defaults

_PDF_DEFAULTS = numeric_defaults(remove_background_pdf)


class _BackgroundInputSpec(StageInputSpec):
    total_field = File(exists=True, mandatory=True, desc="unwrapped frequency in Hz")
    mask = File(exists=True, mandatory=True, desc="where the field was measured")


class _BackgroundOutputSpec(StageOutputSpec):
    local_field = File(desc="field of the sources inside the mask in Hz")
    mask = File(desc="where the local field is known")


class _PDFInputSpec(_BackgroundInputSpec):
    frequency_noise = File(exists=True, mandatory=True, desc="standard deviation of the frequency in Hz")
    max_steps = traits.Range(
        low=1, value=_PDF_DEFAULTS["max_steps"], usedefault=True, desc="most steps of the solver"
    )


class RemoveBackgroundByPDF(Stage):
    """Projection onto dipole fields."""

    input_spec = _PDFInputSpec
    output_spec = _BackgroundOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        frame = geometry(self.inputs.total_field)
        use_gpu = self.inputs.use_gpu
        found = remove_background_pdf(
            load(self.inputs.total_field, use_gpu=use_gpu),
            noise=load(self.inputs.frequency_noise, use_gpu=use_gpu),
            mask=load_mask(self.inputs.mask, use_gpu=use_gpu),
            voxel_size=frame.voxel_size,
            b0_direction=frame.b0_direction,
            max_steps=self.inputs.max_steps,
        )
        record = StageRecord(
            stage="Background field removal",
            algorithm="PDF, projection onto dipole fields",
            parameters=_PDF_DEFAULTS | {"max_steps": self.inputs.max_steps},
            references=("liu2011pdf",),
            n_iterations=found.n_iterations,
            converged=found.converged,
            residual=found.residual,
        )
        return _saved(found, record, folder=folder, like=self.inputs.total_field)


class RemoveBackgroundByVSHARP(Stage):
    """Sophisticated harmonic artefact reduction with variable kernel sizes."""

    input_spec = _BackgroundInputSpec
    output_spec = _BackgroundOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        use_gpu = self.inputs.use_gpu
        found = remove_background_vsharp(
            load(self.inputs.total_field, use_gpu=use_gpu),
            mask=load_mask(self.inputs.mask, use_gpu=use_gpu),
            voxel_size=geometry(self.inputs.total_field).voxel_size,
        )
        record = StageRecord(
            stage="Background field removal",
            algorithm="V-SHARP, spherical mean values with variable radii",
            parameters=numeric_defaults(remove_background_vsharp),
            references=("li2011vsharp", "wu2012vsharp"),
            residual=found.residual,
        )
        return _saved(found, record, folder=folder, like=self.inputs.total_field)


def _saved(found: BackgroundRemoval, record: StageRecord, *, folder: Path, like: str) -> dict:
    return {
        "local_field": save(found.local_field, folder / "local_field.nii", like=like),
        "mask": save(found.mask, folder / "local_mask.nii", like=like),
        "out_record": record.to_dict(),
    }
