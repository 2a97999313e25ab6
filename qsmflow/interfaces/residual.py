"""What a map leaves of the measured field."""

from pathlib import Path

from nipype.interfaces.base import File, traits

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.inversion.residual import data_residual
from qsmflow.core.units import hertz_per_ppm
from qsmflow.interfaces.images import geometry, load, load_mask
from qsmflow.interfaces.stage import Stage, StageInputSpec
from qsmflow.reports.motion import RESIDUALS


class _MeasureResidualInputSpec(StageInputSpec):
    susceptibility = File(exists=True, mandatory=True, desc="susceptibility in ppm")
    local_field = File(exists=True, mandatory=True, desc="local field in Hz")
    frequency_noise = File(exists=True, mandatory=True, desc="standard deviation of the frequency in Hz")
    mask = File(exists=True, mandatory=True, desc="where the field was measured")
    field_strength = traits.Float(mandatory=True, desc="B0 in T")
    stage = traits.Enum(*RESIDUALS, usedefault=True, desc="name of the record, which tells the map")


class MeasureResidual(Stage):
    """Misfit between the measured field and the one that a map makes."""

    input_spec = _MeasureResidualInputSpec

    def _run_stage(self, folder: Path) -> dict:
        use_gpu = self.inputs.use_gpu
        frame = geometry(self.inputs.susceptibility)
        found = data_residual(
            load(self.inputs.susceptibility, use_gpu=use_gpu),
            local_field=load(self.inputs.local_field, use_gpu=use_gpu)
            / hertz_per_ppm(self.inputs.field_strength),
            noise=load(self.inputs.frequency_noise, use_gpu=use_gpu),
            mask=load_mask(self.inputs.mask, use_gpu=use_gpu),
            voxel_size=frame.voxel_size,
            b0_direction=frame.b0_direction,
        )
        record = StageRecord(
            stage=self.inputs.stage,
            algorithm="Misfit ‖W(d∗χ − b)‖ / ‖W b‖ of the map, up to a constant",
            residual=found.residual,
            figures={"FittedConstant": found.offset},
        )
        return {"out_record": record.to_dict()}
