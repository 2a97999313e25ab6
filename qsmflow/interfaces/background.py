"""Removal of the field whose sources lie outside the mask."""

from pathlib import Path

from nipype.interfaces.base import File, traits

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.background import remove_background
from qsmflow.interfaces.images import geometry, load, load_mask, save
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec, numeric_defaults


class _RemoveBackgroundInputSpec(StageInputSpec):
    total_field = File(exists=True, mandatory=True, desc="unwrapped frequency in Hz")
    frequency_noise = File(exists=True, mandatory=True, desc="standard deviation of the frequency in Hz")
    mask = File(exists=True, mandatory=True, desc="where the field was measured")
    max_steps = traits.Range(low=1, value=200, usedefault=True, desc="most steps of the solver")


class _RemoveBackgroundOutputSpec(StageOutputSpec):
    local_field = File(desc="field of the sources inside the mask in Hz")


class RemoveBackground(Stage):
    """Projection onto dipole fields (PDF)."""

    input_spec = _RemoveBackgroundInputSpec
    output_spec = _RemoveBackgroundOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        frame = geometry(self.inputs.total_field)
        use_gpu = self.inputs.use_gpu
        found = remove_background(
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
            parameters=numeric_defaults(remove_background) | {"max_steps": self.inputs.max_steps},
            references=("liu2011pdf",),
            n_iterations=found.n_iterations,
            converged=found.converged,
            residual=found.residual,
        )
        return {
            "local_field": save(found.local_field, folder / "local_field.nii", like=self.inputs.total_field),
            "out_record": record.to_dict(),
        }
