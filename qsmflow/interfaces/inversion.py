"""From the local field to susceptibility."""

from dataclasses import asdict, replace
from pathlib import Path

from nipype.interfaces.base import File, traits

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.inversion.medi import PRESETS, invert_medi
from qsmflow.core.inversion.result import Inversion
from qsmflow.core.inversion.tkd import invert_tkd
from qsmflow.core.inversion.tv import IN_VIVO, invert_tv
from qsmflow.core.units import hertz_per_ppm, radian_per_hertz
from qsmflow.interfaces.images import geometry, load, load_mask, save
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec


class _InversionInputSpec(StageInputSpec):
    local_field = File(exists=True, mandatory=True, desc="local field in Hz")
    mask = File(exists=True, mandatory=True, desc="where the field was measured")
    field_strength = traits.Float(mandatory=True, desc="B0 in T")


class _InversionOutputSpec(StageOutputSpec):
    susceptibility = File(desc="susceptibility in ppm, without a reference")


class _InvertByTKDInputSpec(_InversionInputSpec):
    threshold = traits.Float(0.19, usedefault=True, desc="smallest dipole kernel magnitude divided by")


class InvertByTKD(Stage):
    """Thresholded k-space division."""

    input_spec = _InvertByTKDInputSpec
    output_spec = _InversionOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        frame = geometry(self.inputs.local_field)
        local_field = load(self.inputs.local_field, use_gpu=self.inputs.use_gpu)
        found = invert_tkd(
            local_field / hertz_per_ppm(self.inputs.field_strength),
            mask=load_mask(self.inputs.mask, use_gpu=self.inputs.use_gpu),
            voxel_size=frame.voxel_size,
            b0_direction=frame.b0_direction,
            threshold=self.inputs.threshold,
        )
        record = StageRecord(
            stage="Dipole inversion",
            algorithm="TKD, thresholded k-space division",
            parameters={"Threshold": self.inputs.threshold},
            references=("shmueli2009",),
            residual=found.residual,
        )
        return _saved(found, record, folder=folder, like=self.inputs.local_field)


class _IterativeInputSpec(_InversionInputSpec):
    frequency_noise = File(exists=True, mandatory=True, desc="standard deviation of the frequency in Hz")
    frequency_period = traits.Float(mandatory=True, desc="ambiguity of the frequency in Hz")
    settings = traits.Dict(usedefault=True, desc="fields of the core's settings that differ from the default")


class _InvertByMEDIInputSpec(_IterativeInputSpec):
    magnitude = File(exists=True, mandatory=True, desc="image whose edges the susceptibility may share")
    csf_mask = traits.Either(None, File(exists=True), usedefault=True, desc="voxels to be uniform (MEDI+0)")
    preset = traits.Str(mandatory=True, desc="name of the MediSettings to start from")


class InvertByMEDI(Stage):
    """Morphology enabled dipole inversion."""

    input_spec = _InvertByMEDIInputSpec
    output_spec = _InversionOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        use_gpu = self.inputs.use_gpu
        frame = geometry(self.inputs.local_field)
        hertz = hertz_per_ppm(self.inputs.field_strength)
        settings = replace(PRESETS[self.inputs.preset], **self.inputs.settings)
        csf_mask = self.inputs.csf_mask
        warnings = ()
        if settings.csf_regularisation and not csf_mask:
            settings = replace(settings, csf_regularisation=0.0)
            warnings = ("no ventricular fluid was found, so it is not made uniform",)
        found = invert_medi(
            load(self.inputs.local_field, use_gpu=use_gpu) / hertz,
            noise=load(self.inputs.frequency_noise, use_gpu=use_gpu) / hertz,
            magnitude=load(self.inputs.magnitude, use_gpu=use_gpu),
            mask=load_mask(self.inputs.mask, use_gpu=use_gpu),
            csf_mask=load_mask(csf_mask, use_gpu=use_gpu) if csf_mask else None,
            voxel_size=frame.voxel_size,
            b0_direction=frame.b0_direction,
            radian_per_ppm=hertz * radian_per_hertz(1 / self.inputs.frequency_period),
            settings=settings,
        )
        record = StageRecord(
            stage="Dipole inversion",
            algorithm="MEDI, morphology enabled dipole inversion",
            parameters={
                "Preset": self.inputs.preset,
                **asdict(settings),
                "regularisation": found.regularisation,
            },
            references=("liu2012medi", "liu2013nonlinear") if settings.nonlinear else ("liu2012medi",),
            n_iterations=found.n_iterations,
            converged=found.converged,
            residual=found.residual,
            warnings=warnings,
        )
        return _saved(found, record, folder=folder, like=self.inputs.local_field)


class InvertByTV(Stage):
    """Nonlinear dipole inversion with total variation."""

    input_spec = _IterativeInputSpec
    output_spec = _InversionOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        use_gpu = self.inputs.use_gpu
        frame = geometry(self.inputs.local_field)
        hertz = hertz_per_ppm(self.inputs.field_strength)
        settings = replace(IN_VIVO, **self.inputs.settings)
        found = invert_tv(
            load(self.inputs.local_field, use_gpu=use_gpu) / hertz,
            noise=load(self.inputs.frequency_noise, use_gpu=use_gpu) / hertz,
            mask=load_mask(self.inputs.mask, use_gpu=use_gpu),
            voxel_size=frame.voxel_size,
            b0_direction=frame.b0_direction,
            radian_per_ppm=hertz * radian_per_hertz(1 / self.inputs.frequency_period),
            settings=settings,
        )
        record = StageRecord(
            stage="Dipole inversion",
            algorithm="TV, nonlinear inversion with total variation",
            parameters=asdict(settings) | {"regularisation": found.regularisation},
            references=("milovic2018",),
            n_iterations=found.n_iterations,
            converged=found.converged,
            residual=found.residual,
        )
        return _saved(found, record, folder=folder, like=self.inputs.local_field)


def _saved(found: Inversion, record: StageRecord, *, folder: Path, like: str) -> dict:
    return {
        "susceptibility": save(found.susceptibility, folder / "susceptibility.nii", like=like),
        "out_record": record.to_dict(),
    }
