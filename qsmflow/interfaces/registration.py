"""Register a scan to another of the same head."""

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nipype.interfaces.base import File, traits

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.registration import FLIP, register
from qsmflow.interfaces.images import load, load_mask
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec

#: Correlation of the registered magnitudes below which a comparison is not to be believed.
LOW_CORRELATION = 0.7


class _RegisterToReferenceInputSpec(StageInputSpec):
    magnitude = File(exists=True, mandatory=True, desc="magnitude of the scan that is moved")
    mask = File(exists=True, mandatory=True, desc="its brain mask")
    reference = File(exists=True, mandatory=True, desc="magnitude of the reference scan")
    reference_mask = File(exists=True, mandatory=True, desc="its brain mask")


class _RegisterToReferenceOutputSpec(StageOutputSpec):
    matrix = traits.List(traits.List(traits.Float), desc="(4, 4), scan to reference, RAS mm")
    transform = File(desc="the same for ITK, which asks where a point of the reference comes from")
    pose = traits.Dict(desc="translation: way of the brain's centre, mm; rotation: angle, degrees")


class RegisterToReference(Stage):
    """Find the rigid motion between the magnitudes of two scans."""

    input_spec = _RegisterToReferenceInputSpec
    output_spec = _RegisterToReferenceOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        moving, fixed = self.inputs.magnitude, self.inputs.reference
        mask, affine = load_mask(self.inputs.mask), nib.load(moving).affine
        found = register(
            load(moving),
            load(fixed),
            moving_mask=mask,
            fixed_mask=load_mask(self.inputs.reference_mask),
            moving_affine=affine,
            fixed_affine=nib.load(fixed).affine,
            # With one thread a rerun gives the same bytes.
            threads=1,
        )
        centre = (affine @ [*mask.nonzero().double().mean(dim=0).numpy(), 1.0])[:3]
        translation = float(np.linalg.norm(nib.affines.apply_affine(found.matrix, centre) - centre))
        cosine = (np.trace(found.matrix[:3, :3]) - 1) / 2
        rotation = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        record = StageRecord(
            stage="Registration",
            algorithm="Rigid, by the correlation of the magnitudes (SimpleITK)",
            references=("lowekamp2013simpleitk",),
            converged=found.converged,
            figures={"TranslationMM": translation, "RotationDegrees": rotation, "Correlation": found.metric},
            warnings=_warnings(found.metric),
        )
        return {
            "matrix": found.matrix.tolist(),
            "transform": _write_transform(found.matrix, folder / "transform.txt"),
            "pose": {"translation": translation, "rotation": rotation},
            "out_record": record.to_dict(),
        }


def _warnings(correlation: float) -> tuple[str, ...]:
    if correlation >= LOW_CORRELATION:
        return ()
    return (
        f"the registered magnitudes hardly agree (correlation {correlation:.2f}); look at the figure before "
        "you use the comparison",
    )


def _write_transform(matrix: np.ndarray, path: Path) -> str:
    """The motion as ITK and ANTs read it: from the reference to the scan, in LPS."""
    pull = FLIP @ np.linalg.inv(matrix) @ FLIP
    transform = sitk.Euler3DTransform()
    transform.SetMatrix(pull[:3, :3].ravel().tolist(), 1e-6)
    transform.SetTranslation(pull[:3, 3].tolist())
    sitk.WriteTransform(transform, str(path))
    return str(path)
