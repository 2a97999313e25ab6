"""How good an acquisition and its maps are, without a reference."""

from pathlib import Path

from nipype.interfaces.base import File, traits

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.quality.table import METRICS, hints, image_quality
from qsmflow.interfaces.images import geometry, load, load_mask
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec

#: Name of the record.
STAGE = "Image quality"


class _MeasureQualityInputSpec(StageInputSpec):
    magnitude = File(exists=True, mandatory=True, desc="magnitude combined over the echoes, not masked")
    frequency = File(exists=True, mandatory=True, desc="wrapped frequency in Hz")
    frequency_period = traits.Float(mandatory=True, desc="ambiguity of the frequency in Hz")
    frequency_noise = File(exists=True, mandatory=True, desc="standard deviation of the frequency in Hz")
    relative_residual = traits.Either(
        None, File(exists=True), usedefault=True, desc="residual of the echo fit over the signal"
    )
    local_field = File(exists=True, mandatory=True, desc="local field in Hz")
    susceptibility = File(exists=True, mandatory=True, desc="susceptibility in ppm")
    r2star = traits.Either(None, File(exists=True), usedefault=True, desc="R2* in 1/s")
    brain_mask = File(exists=True, mandatory=True, desc="brain before voxels of poor phase were left out")
    mask = File(exists=True, mandatory=True, desc="brain after that")
    field_mask = File(exists=True, mandatory=True, desc="where local field and susceptibility are known")
    n_echoes = traits.Range(low=1, mandatory=True, desc="number of echoes")
    bipolar = traits.Bool(False, usedefault=True, desc="the fit had a phase of alternating readouts")


class _MeasureQualityOutputSpec(StageOutputSpec):
    metrics = traits.Dict(
        traits.Enum(*METRICS), traits.Either(None, traits.Float), desc="metrics by name; None where unknown"
    )


class MeasureQuality(Stage):
    """Image-quality metrics of one acquisition, and hints where one is unusual."""

    input_spec = _MeasureQualityInputSpec
    output_spec = _MeasureQualityOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        inputs = self.inputs
        frame = geometry(inputs.susceptibility)
        metrics = image_quality(
            **{
                name: load(getattr(inputs, name))
                for name in ("magnitude", "frequency", "frequency_noise", "local_field", "susceptibility")
            },
            **{
                name: load(getattr(inputs, name)) if getattr(inputs, name) else None
                for name in ("relative_residual", "r2star")
            },
            brain=load_mask(inputs.brain_mask),
            mask=load_mask(inputs.mask),
            field_mask=load_mask(inputs.field_mask),
            frequency_period=inputs.frequency_period,
            n_echoes=inputs.n_echoes,
            bipolar=inputs.bipolar,
            voxel_size=frame.voxel_size,
            b0_direction=frame.b0_direction,
        )
        record = StageRecord(
            stage=STAGE,
            algorithm="Metrics without a reference",
            figures=metrics,
            warnings=hints(metrics),
        )
        return {"metrics": metrics, "out_record": record.to_dict()}
