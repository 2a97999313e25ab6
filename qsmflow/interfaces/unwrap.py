"""Spatial unwrapping of the fitted frequency."""

from pathlib import Path

from nipype.interfaces.base import File, traits

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.units import radian_per_hertz
from qsmflow.core.unwrap import unwrap_phase
from qsmflow.interfaces.images import load, load_mask, save
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec


class _UnwrapPhaseInputSpec(StageInputSpec):
    frequency = File(exists=True, mandatory=True, desc="wrapped frequency in Hz")
    frequency_period = traits.Float(mandatory=True, desc="ambiguity of the frequency in Hz")
    magnitude = File(exists=True, mandatory=True, desc="weights of the unwrapping")
    mask = File(exists=True, mandatory=True, desc="voxels to unwrap")


class _UnwrapPhaseOutputSpec(StageOutputSpec):
    total_field = File(desc="unwrapped frequency in Hz")


class UnwrapPhase(Stage):
    """Resolve the wraps of the frequency by graph cuts."""

    input_spec = _UnwrapPhaseInputSpec
    output_spec = _UnwrapPhaseOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        hertz_per_radian = 1 / radian_per_hertz(1 / self.inputs.frequency_period)
        found = unwrap_phase(
            load(self.inputs.frequency).div_(hertz_per_radian),
            weights=load(self.inputs.magnitude),
            mask=load_mask(self.inputs.mask),
        )
        record = StageRecord(
            stage="Phase unwrapping",
            algorithm="PUMA, graph cuts with magnitude weights",
            parameters={"FrequencyPeriod": self.inputs.frequency_period},
            references=("bioucasdias2007",),
            n_iterations=found.n_iterations,
            converged=found.converged,
            residual=found.residual,
        )
        total_field = found.phase.mul_(hertz_per_radian)
        return {
            "total_field": save(total_field, folder / "total_field.nii", like=self.inputs.frequency),
            "out_record": record.to_dict(),
        }
