"""Where the brain is, where its phase can be trusted, and where its fluid is."""

from pathlib import Path

from nipype.interfaces.base import File, traits

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.masks import brain_mask, combine_masks, phase_quality_mask
from qsmflow.core.reference import reference_region
from qsmflow.core.units import radian_per_hertz
from qsmflow.interfaces.images import geometry, load, load_mask, save
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec, numeric_defaults


class _MaskBrainInputSpec(StageInputSpec):
    magnitude = File(exists=True, mandatory=True, desc="magnitude combined over the echoes")
    mask_file = traits.Either(
        None, File(exists=True), usedefault=True, desc="mask of the user, kept as it is"
    )


class _MaskOutputSpec(StageOutputSpec):
    mask = File(desc="mask")


class MaskBrain(Stage):
    """Extract the brain from the magnitude, or take the user's mask."""

    input_spec = _MaskBrainInputSpec
    output_spec = _MaskOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        like = self.inputs.magnitude
        if self.inputs.mask_file:
            mask = load_mask(self.inputs.mask_file).squeeze()
            record = StageRecord(
                stage="Brain mask", algorithm="Given", parameters={"File": self.inputs.mask_file}
            )
        else:
            mask = brain_mask(load(like), voxel_size=geometry(like).voxel_size)
            record = StageRecord(
                stage="Brain mask",
                algorithm="Thresholds, opening and reconstruction on the combined magnitude",
                parameters=numeric_defaults(brain_mask),
                references=("otsu1979", "vincent1993"),
            )
        return {"mask": save(mask, folder / "mask.nii", like=like), "out_record": record.to_dict()}


class _RefineMaskInputSpec(StageInputSpec):
    mask = File(exists=True, mandatory=True, desc="brain mask")
    magnitude = File(exists=True, mandatory=True, desc="magnitude combined over the echoes")
    frequency = File(exists=True, mandatory=True, desc="wrapped frequency in Hz")
    frequency_period = traits.Float(mandatory=True, desc="ambiguity of the frequency in Hz")
    keep_whole = traits.Bool(False, usedefault=True, desc="leave the mask as it is")


class RefineMask(Stage):
    """Leave voxels out of the brain mask whose phase does not fit to their neighbours."""

    input_spec = _RefineMaskInputSpec
    output_spec = _MaskOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        mask = load_mask(self.inputs.mask)
        if self.inputs.keep_whole:
            refined, lost, algorithm = mask, 0.0, "None: the given mask is kept whole"
        else:
            phase = load(self.inputs.frequency).mul_(radian_per_hertz(1 / self.inputs.frequency_period))
            quality = phase_quality_mask(phase, magnitude=load(self.inputs.magnitude), mask=mask)
            voxel_size = geometry(self.inputs.mask).voxel_size
            found = combine_masks(mask, quality, voxel_size=voxel_size)
            refined, lost = found.mask, found.fraction_lost
            algorithm = "Local coherence of the phase; holes filled"
        record = StageRecord(
            stage="Phase quality mask",
            algorithm=algorithm,
            parameters={} if self.inputs.keep_whole else numeric_defaults(phase_quality_mask),
            figures={"FractionLost": lost},
        )
        return {
            "mask": save(refined, folder / "mask.nii", like=self.inputs.mask),
            "out_record": record.to_dict(),
        }


class _SegmentCSFInputSpec(StageInputSpec):
    r2star = traits.Either(None, File(exists=True), mandatory=True, desc="R2* in 1/s; None finds no fluid")
    mask = File(exists=True, mandatory=True, desc="brain mask")


class _SegmentCSFOutputSpec(StageOutputSpec):
    csf_mask = traits.Either(None, File(), desc="ventricular fluid, None where none was found")


class SegmentCSF(Stage):
    """Find the fluid of the ventricles by its slow relaxation."""

    input_spec = _SegmentCSFInputSpec
    output_spec = _SegmentCSFOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        mask = load_mask(self.inputs.mask)
        found = reference_region(
            "csf",
            mask=mask,
            r2star=load(self.inputs.r2star) if self.inputs.r2star else None,
            voxel_size=geometry(self.inputs.mask).voxel_size,
        )
        record = StageRecord(
            stage="CSF mask",
            algorithm="Low R2* in the middle of the brain",
            references=("liu2018medi0",),
            warnings=(found.shortfall,) if found.shortfall else (),
        )
        csf = None if found.shortfall else save(found.region, folder / "csf.nii", like=self.inputs.mask)
        return {"csf_mask": csf, "out_record": record.to_dict()}
