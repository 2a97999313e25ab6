"""From the files of an acquisition to frequency, R2* and their noise."""

from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nipype.interfaces.base import File, InputMultiObject, traits

from qsmflow.bids.phase_range import PhaseRange, scale_phase
from qsmflow.bids.provenance import StageRecord
from qsmflow.core.echoes import EchoFit, fit_echoes
from qsmflow.interfaces.images import load, load_mask, save
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec, numeric_defaults

#: R2* in 1/s below which T2* cannot be told from echo times of some ten milliseconds.
_SLOWEST_RELAXATION = 1.0


class _ScaleEchoesInputSpec(StageInputSpec):
    magnitude = InputMultiObject(File(exists=True), mandatory=True, desc="magnitude images by echo time")
    phase = InputMultiObject(File(exists=True), mandatory=True, desc="phase images by echo time")
    phase_range = traits.Instance(PhaseRange, mandatory=True, desc="what the stored phase means")


class _ScaleEchoesOutputSpec(StageOutputSpec):
    magnitude = File(desc="magnitude of all echoes (x, y, z, echo)")
    phase = File(desc="phase of all echoes in rad (x, y, z, echo)")
    combined = File(desc="root of the sum of squares of the magnitudes")


class ScaleEchoes(Stage):
    """Bring magnitude and phase of all echoes into one file each, the phase in rad."""

    input_spec = _ScaleEchoesInputSpec
    output_spec = _ScaleEchoesOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        like = self.inputs.magnitude[0]
        phase_range = self.inputs.phase_range
        shape = nib.load(like).shape[:3]
        magnitude, phase = (np.empty((len(self.inputs.phase), *shape), np.float32) for _ in range(2))
        for echo, paths in enumerate(zip(self.inputs.magnitude, self.inputs.phase, strict=True)):
            magnitude[echo] = load(paths[0]).numpy().reshape(shape)
            phase[echo] = scale_phase(paths[1], phase_range).reshape(shape)
        record = StageRecord(
            stage="Phase scaling",
            algorithm="Linear map of the stored values to rad",
            parameters={"PhaseRange": phase_range.name},
            warnings=tuple(phase_range.warnings),
        )
        return {
            "magnitude": save(magnitude, folder / "magnitude.nii", like=like),
            "phase": save(phase, folder / "phase.nii", like=like),
            "combined": save(
                np.sqrt(np.einsum("exyz,exyz->xyz", magnitude, magnitude)), folder / "combined.nii", like=like
            ),
            "out_record": record.to_dict(),
        }


class _FitEchoesInputSpec(StageInputSpec):
    magnitude = File(exists=True, mandatory=True, desc="magnitude of all echoes (x, y, z, echo)")
    phase = File(exists=True, mandatory=True, desc="phase of all echoes in rad (x, y, z, echo)")
    mask = File(exists=True, mandatory=True, desc="voxels to fit")
    echo_times = traits.List(traits.Float, mandatory=True, desc="echo times in s")
    bipolar = traits.Bool(False, usedefault=True, desc="alternating readout gradients")
    slabs = traits.Range(low=1, value=1, usedefault=True, desc="parts that are fitted one after the other")


class _FitEchoesOutputSpec(StageOutputSpec):
    frequency = File(desc="frequency in Hz, wrapped to half its period")
    frequency_noise = File(desc="standard deviation of the frequency in Hz")
    frequency_period = traits.Float(desc="ambiguity of the frequency in Hz")
    relative_residual = traits.Either(None, File(), desc="residual over the signal; none with one echo")
    s0 = File(desc="signal at echo time zero")
    r2star = traits.Either(None, File(), desc="R2* in 1/s; none with one echo")
    t2star = traits.Either(None, File(), desc="T2* in s; none with one echo")


class FitEchoes(Stage):
    """Fit the complex signal of all echoes in every voxel of the mask."""

    input_spec = _FitEchoesInputSpec
    output_spec = _FitEchoesOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        mask = load_mask(self.inputs.mask)
        slices = [
            slice(start, stop)
            for start, stop in pairwise(np.linspace(0, mask.shape[2], self.inputs.slabs + 1).astype(int))
            if mask[:, :, start:stop].any()
        ]
        fits = [self._fit(mask, part) for part in slices]
        voxels = np.array([int(mask[:, :, part].sum()) for part in slices])
        noise = float(np.sqrt(np.average([fit.noise**2 for fit in fits], weights=voxels)))

        def joined(name: str, scales=None) -> np.ndarray:
            values = np.zeros(mask.shape, dtype=np.float32)
            for index, (part, fit) in enumerate(zip(slices, fits, strict=True)):
                values[:, :, part] = getattr(fit, name).cpu().numpy() * (scales[index] if scales else 1)
            return values

        maps = {
            "frequency": joined("frequency"),
            "frequency_noise": joined("frequency_noise", [noise / fit.noise for fit in fits]),
            "s0": joined("magnitude"),
        }
        if fits[0].r2star is not None:
            maps["relative_residual"] = joined("relative_residual")
            maps["r2star"] = joined("r2star")
            maps["t2star"] = np.where(mask, 1 / np.maximum(maps["r2star"], _SLOWEST_RELAXATION), 0)
        like = self.inputs.mask
        outputs = {name: save(values, folder / f"{name}.nii", like=like) for name, values in maps.items()}
        return (
            dict.fromkeys(("relative_residual", "r2star", "t2star"))
            | outputs
            | {
                "frequency_period": fits[0].frequency_period,
                "out_record": self._record(fits, noise=noise, voxels=voxels).to_dict(),
            }
        )

    def _fit(self, mask: torch.Tensor, part: slice) -> EchoFit:
        """Fit the slices of one slab, the only ones that are read."""
        magnitude, phase = (
            torch.from_numpy(
                np.moveaxis(np.asarray(nib.load(path).dataobj[:, :, part], dtype=np.float32), 3, 0).copy()
            )
            for path in (self.inputs.magnitude, self.inputs.phase)
        )
        device = "cuda" if self.inputs.use_gpu else "cpu"
        return fit_echoes(
            torch.polar(magnitude, phase).to(device),
            echo_times=self.inputs.echo_times,
            mask=mask[:, :, part].to(device),
            bipolar=self.inputs.bipolar,
        )

    def _record(self, fits: list[EchoFit], *, noise: float, voxels: np.ndarray) -> StageRecord:
        single = len(self.inputs.echo_times) == 1
        algorithm = "Phase over echo time" if single else "Nonlinear least squares on the complex signal"
        return StageRecord(
            stage="Echo fit",
            algorithm=algorithm,
            parameters=numeric_defaults(fit_echoes)
            | {"EchoTimes": list(self.inputs.echo_times), "bipolar": self.inputs.bipolar},
            references=() if single else ("kressler2010", "liu2013nonlinear"),
            n_iterations=max(fit.n_iterations for fit in fits),
            converged=all(fit.converged for fit in fits),
            residual=float(np.average([fit.residual for fit in fits], weights=voxels)),
            figures={"SignalNoise": noise, "FrequencyPeriod": fits[0].frequency_period},
        )
