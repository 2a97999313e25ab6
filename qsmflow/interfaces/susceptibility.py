"""Sign of the field and zero of the susceptibility."""

from pathlib import Path

from nipype.interfaces.base import File, traits

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.phase_sign import PhaseSign, detect_phase_sign
from qsmflow.core.reference import csf_mask, reference_region, reference_susceptibility
from qsmflow.interfaces.images import geometry, load, load_mask, save
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec, numeric_defaults

_REFERENCE_NAMES = {
    "csf": "Mean of ventricular cerebrospinal fluid set to zero",
    "brain": "Mean of the brain mask set to zero",
    "none": "No region was subtracted",
}


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
        local_field = load(self.inputs.local_field)
        given = None if self.inputs.phase_sign == "auto" else int(self.inputs.phase_sign)
        frame = geometry(self.inputs.local_field)
        found = detect_phase_sign(
            local_field,
            r2star=load(self.inputs.r2star) if self.inputs.r2star else None,
            mask=load_mask(self.inputs.mask),
            voxel_size=frame.voxel_size,
            b0_direction=frame.b0_direction,
        )
        sign = found.sign if given is None else given
        origin = "given" if given is not None else "detected" if found.certain else "assumed"
        record = StageRecord(
            stage="Phase sign",
            algorithm="Correlation of susceptibility with R2*" if given is None else "Given by the user",
            parameters={"Requested": self.inputs.phase_sign}
            | (numeric_defaults(detect_phase_sign) if given is None else {}),
            figures={
                "PhaseSign": f"{sign:+d} ({origin})",
                "Correlation": sign * found.correlation,
            },
            warnings=_sign_warnings(found, given=given),
        )
        like = self.inputs.local_field
        return {
            "local_field": save(local_field.mul_(sign), folder / "local_field.nii", like=like),
            "total_field": save(
                load(self.inputs.total_field).mul_(sign), folder / "total_field.nii", like=like
            ),
            "out_record": record.to_dict(),
        }


def _sign_warnings(found: PhaseSign, *, given: int | None) -> tuple[str, ...]:
    """What to tell the user about a sign that is uncertain or speaks against the data."""
    if given is None and not found.certain:
        return (
            "susceptibility and R2* do not tell the sign of the phase, +1 is assumed; "
            "if iron-rich nuclei are dark in the map, use --phase-sign -1",
        )
    if given is not None and found.certain and given != found.sign:
        return (
            f"with the given sign {given:+d} susceptibility falls where R2* rises, as with a wrong sign; "
            "compare with --phase-sign auto",
        )
    return ()


class _ReferenceSusceptibilityInputSpec(StageInputSpec):
    susceptibility = File(exists=True, mandatory=True, desc="susceptibility in ppm")
    mask = File(exists=True, mandatory=True, desc="brain mask")
    r2star = traits.Either(None, File(exists=True), mandatory=True, desc="R2* in 1/s")
    reference = traits.Enum("csf", "brain", "none", usedefault=True, desc="region that becomes zero")


class _ReferenceSusceptibilityOutputSpec(StageOutputSpec):
    susceptibility = File(desc="referenced susceptibility in ppm")


class ReferenceSusceptibility(Stage):
    """Set the zero of susceptibility."""

    input_spec = _ReferenceSusceptibilityInputSpec
    output_spec = _ReferenceSusceptibilityOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        mask = load_mask(self.inputs.mask)
        region = reference_region(
            self.inputs.reference,
            mask=mask,
            r2star=load(self.inputs.r2star) if self.inputs.r2star else None,
            voxel_size=geometry(self.inputs.mask).voxel_size,
        )
        found = reference_susceptibility(load(self.inputs.susceptibility), mask=mask, region=region.region)
        record = StageRecord(
            stage="Referencing",
            algorithm=_REFERENCE_NAMES[region.kind],
            parameters=numeric_defaults(csf_mask) if region.kind == "csf" else {},
            references=("liu2018medi0",) if region.kind == "csf" else (),
            figures={
                "region": region.kind,
                "mean": found.mean,
                "std": found.standard_deviation,
                "n_voxels": found.n_voxels,
            },
            warnings=(f"referenced to the whole brain: {region.shortfall}",) if region.shortfall else (),
        )
        return {
            "susceptibility": save(
                found.susceptibility, folder / "susceptibility.nii", like=self.inputs.susceptibility
            ),
            "out_record": record.to_dict(),
        }
