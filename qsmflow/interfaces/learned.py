"""Trained networks as stages: susceptibility from the local field, and motion taken out of it."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from nipype.interfaces.base import File, isdefined, traits
from torch import Tensor

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.units import hertz_per_ppm
from qsmflow.interfaces.images import geometry, load, load_mask, save
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec
from qsmflow.nets.bundle import Bundle, load_bundle
from qsmflow.nets.predict import correct_motion, predict_susceptibility
from qsmflow.nets.severity import CERTAIN

#: Severity in per cent from which a map counts as moved: the norm of the artefacts relative to that of the
#: map, both without their means, as the networks estimate it.
MOTION_SEVERITY_THRESHOLD = 100 * CERTAIN


@dataclass(frozen=True)
class Model:
    """A trained network that was chosen for a run.

    As an input of a stage it makes earlier results stale where the weights are others.

    Attributes
    ----------
    location : str
        Name of a shipped one, or absolute path of its folder.
    name : str
        What its card calls it.
    sha256 : str
        Of its weights.

    Examples
    --------
    >>> print(Model("/models/mine", "mine", "0f"))
    mine
    """

    location: str
    name: str
    sha256: str

    def __str__(self) -> str:
        return self.name


class _NetworkInputSpec(StageInputSpec):
    memory_gb = traits.Float(
        nohash=True, desc="memory to keep within, by tiles if needed; no limit by default"
    )


class _PredictSusceptibilityInputSpec(_NetworkInputSpec):
    local_field = File(exists=True, mandatory=True, desc="local field in Hz")
    mask = File(exists=True, mandatory=True, desc="where the field was measured")
    field_strength = traits.Float(mandatory=True, desc="B0 in T")
    model = traits.Any(mandatory=True, desc="Model to apply")


class _PredictSusceptibilityOutputSpec(StageOutputSpec):
    susceptibility = File(desc="susceptibility in ppm, without a reference")


class _NetworkStage(Stage):
    """A stage that applies networks within a given memory."""

    @property
    def _memory_gb(self) -> float | None:
        return self.inputs.memory_gb if isdefined(self.inputs.memory_gb) else None

    def _bundle(self, model: Model) -> Bundle:
        return load_bundle(model.location, device="cuda" if self.inputs.use_gpu else "cpu")


class PredictSusceptibility(_NetworkStage):
    """DeepQSM: dipole inversion by a trained network."""

    input_spec = _PredictSusceptibilityInputSpec
    output_spec = _PredictSusceptibilityOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        use_gpu, field = self.inputs.use_gpu, self.inputs.local_field
        frame = geometry(field)
        bundle = self._bundle(self.inputs.model)
        found = predict_susceptibility(
            load(field, use_gpu=use_gpu) / hertz_per_ppm(self.inputs.field_strength),
            mask=load_mask(self.inputs.mask, use_gpu=use_gpu),
            voxel_size=frame.voxel_size,
            b0_direction=frame.b0_direction,
            bundle=bundle,
            memory_gb=self._memory_gb,
        )
        record = StageRecord(
            stage="Dipole inversion",
            algorithm="DeepQSM, a network trained on simulations",
            parameters={**_described("Model", bundle), "Precision": found.precision},
            references=("bollmann2019deepqsm", "cicek2016unet", "aggarwal2019modl"),
            figures={"Tiles": found.tiles},
            warnings=_resampled(found.resampled_to),
        )
        return {
            "susceptibility": save(found.susceptibility, folder / "susceptibility.nii", like=field),
            "out_record": record.to_dict(),
        }


class _CorrectMotionInputSpec(_NetworkInputSpec):
    susceptibility = File(exists=True, mandatory=True, desc="susceptibility in ppm")
    mask = File(exists=True, mandatory=True, desc="where the susceptibility is known")
    mode = traits.Enum(
        "auto", "on", usedefault=True, desc="auto: accept the result where the motion is severe"
    )
    unet = traits.Any(mandatory=True, desc="Model of the U-Net")
    prenet = traits.Any(mandatory=True, desc="Model of the PReNet, applied to what the U-Net returns")


class _CorrectMotionOutputSpec(StageOutputSpec):
    corrected = File(desc="corrected susceptibility in ppm, accepted or not")
    accepted = traits.Either(None, File, desc="the same where it is accepted")


class CorrectMotion(_NetworkStage):
    """Take artefacts of motion out of a susceptibility map by networks that learned them."""

    input_spec = _CorrectMotionInputSpec
    output_spec = _CorrectMotionOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        use_gpu, source = self.inputs.use_gpu, self.inputs.susceptibility
        frame = _Canonical(source)
        unet, prenet = self._bundle(self.inputs.unet), self._bundle(self.inputs.prenet)
        found = correct_motion(
            frame.turned(load(source, use_gpu=use_gpu)),
            mask=frame.turned(load_mask(self.inputs.mask, use_gpu=use_gpu)),
            voxel_size=frame.voxel_size,
            unet=unet,
            prenet=prenet,
            least_severity=MOTION_SEVERITY_THRESHOLD if self.inputs.mode == "auto" else 0.0,
            memory_gb=self._memory_gb,
        )
        accepted = self.inputs.mode == "on" or found.severity >= MOTION_SEVERITY_THRESHOLD
        record = StageRecord(
            stage="Motion correction",
            algorithm="U-Net and PReNet, learned from simulations",
            parameters={
                "Requested": self.inputs.mode,
                "SeverityThreshold": MOTION_SEVERITY_THRESHOLD,
                **_described("Unet", unet),
                **_described("Prenet", prenet),
                "Precision": found.precision,
            },
            references=("cicek2016unet", "ren2019prenet"),
            figures={
                "SeverityPercent": found.severity,
                "Decision": "a corrected map is written" if accepted else "no corrected map is written",
                "Tiles": found.tiles,
            },
            warnings=_motion_warnings(found.severity) + _resampled(found.resampled_to),
        )
        corrected = save(frame.restored(found.susceptibility), folder / "corrected.nii", like=source)
        return {
            "corrected": corrected,
            "accepted": corrected if accepted else None,
            "out_record": record.to_dict(),
        }


class _Canonical:
    """Turns images on a grid so that their axes are nearest to right, anterior and superior, and back.

    Attributes
    ----------
    voxel_size : tuple of float
        Voxel edge lengths in mm of what is turned.
    """

    def __init__(self, path):
        image = nib.load(path)
        self._stored = nib.io_orientation(image.affine)
        affine = image.affine @ inv_ornt_aff(self._stored, image.shape)
        self.voxel_size = tuple(float(edge) for edge in nib.affines.voxel_sizes(affine))

    def turned(self, values: Tensor) -> Tensor:
        return _oriented(values, self._stored)

    def restored(self, values: Tensor) -> Tensor:
        return _oriented(values, ornt_transform(axcodes2ornt("RAS"), self._stored))


def _oriented(values: Tensor, orientation: np.ndarray) -> Tensor:
    array = nib.apply_orientation(values.cpu().numpy(), orientation)
    return torch.from_numpy(np.ascontiguousarray(array)).to(values.device)


def _described(role: str, bundle: Bundle) -> dict[str, str]:
    card = bundle.card
    return {role: card.name, f"{role}Version": card.version, f"{role}SHA256": card.sha256}


def _resampled(voxel_size: tuple[float, ...] | None) -> tuple[str, ...]:
    if voxel_size is None:
        return ()
    size = " × ".join(f"{edge:.3g}" for edge in voxel_size)
    return (f"voxels are outside the range of the training, so the map was computed on {size} mm and back",)


def _motion_warnings(severity: float) -> tuple[str, ...]:
    if severity < MOTION_SEVERITY_THRESHOLD:
        return ()
    return (
        f"the map looks as if the head had moved (severity {severity:.3g} %), compare it with the "
        "corrected one",
    )
