"""Sign of the field and zero of the susceptibility."""

from pathlib import Path

from nipype.interfaces.base import File, traits

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.phase_sign import detect_phase_sign
from qsmflow.interfaces.images import geometry, load, load_mask, save
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec


class _DetectPhaseSignInputSpec(StageInputSpec):
    total_field = File(exists=True, mandatory=True, desc="total field in Hz, as the phase has it")
    local_field = File(exists=True, mandatory=True, desc="local field in Hz, as the phase has it")
    r2star = traits.Either(None, File(exists=True), mandatory=True, desc="R2* in 1/s")
    mask = File(exists=True, mandatory=True, desc="brain mask")
    phase_sign = traits.Enum("auto", "+1", "-1", usedefault=True, desc="the user's word, or auto")


class _DetectPhaseSignOutputSpec(StageOutputSpec):
    total_field = File(desc="total field in Hz, positive where B0 is raised")
    local_field = File(desc="local field in Hz, positive where B0 is raised")


class DetectPhaseSign(Stage):
    """Turn the field so that paramagnetic tissue raises it."""

    input_spec = _DetectPhaseSignInputSpec
    output_spec = _DetectPhaseSignOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        raise NotImplementedError
