"""A small head whose susceptibility, field and signal are known, as files on an oblique grid."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmflow.bids.phase_range import PhaseRange
from qsmflow.core.dipole import dipole_field
from qsmflow.core.units import hertz_per_ppm
from qsmflow.sim.grids import oblique_affine

SHAPE = (26, 28, 22)
VOXEL = (4.0, 4.0, 5.0)
NOISE = 4.0
SCALE = PhaseRange("−4096 … 4095", "stored", math.pi / 4096, 0.0, -4096, 4095, ("slope is ignored",))


@dataclass(frozen=True)
class Head:
    """Truth and files of the head.

    Attributes
    ----------
    folder : Path
        Where its files lie.
    echo_times : tuple of float
        Seconds.
    field_strength : float
        Tesla.
    affine : ndarray
        (4, 4), oblique, voxels of 4 × 4 × 5 mm.
    mask : ndarray
        The brain.
    susceptibility, r2star, magnitude : ndarray
        ppm, 1/s, signal at echo time zero.
    """

    folder: Path
    echo_times: tuple[float, ...]
    field_strength: float
    affine: np.ndarray
    mask: np.ndarray
    susceptibility: np.ndarray
    r2star: np.ndarray
    magnitude: np.ndarray

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        return VOXEL

    @property
    def phase_range(self) -> PhaseRange:
        return SCALE

    @property
    def noise(self) -> float:
        """Standard deviation of each channel of the signal."""
        return NOISE

    @property
    def period(self) -> float:
        """Ambiguity of the frequency in Hz."""
        return 1 / (self.echo_times[1] - self.echo_times[0])

    @cached_property
    def b0_direction(self) -> tuple[float, ...]:
        """The scanner's z axis in voxel axes: the third row of the rotation."""
        return tuple(float(v) for v in self.affine[2, :3] / VOXEL)

    @cached_property
    def local_field(self) -> np.ndarray:
        """Hz, of the sources in the brain."""
        return self._field(self.susceptibility)

    @cached_property
    def total_field(self) -> np.ndarray:
        """Hz, with an air-filled sinus below the brain and an offset of the centre frequency."""
        return self.local_field + self._field(4.5 * (_ball((0, -45, -50), 30) & ~self.mask)) + 70

    def _field(self, susceptibility: np.ndarray) -> np.ndarray:
        ppm = dipole_field(
            torch.from_numpy(susceptibility),
            voxel_size=VOXEL,
            b0_direction=self.b0_direction,
            padding=SHAPE,
        )
        return ppm.numpy() * hertz_per_ppm(self.field_strength)

    def write(self, name: str, values: np.ndarray, *, dtype=np.float32, slope: float | None = None) -> str:
        """Path of a new image with the head's geometry."""
        image = nib.Nifti1Image(np.asarray(values).astype(dtype), self.affine)
        image.set_qform(self.affine, code=1)
        image.set_sform(self.affine, code=1)
        image.header.set_xyzt_units("mm")
        image.header.set_slope_inter(slope, 0 if slope else None)
        path = self.folder / f"{name}.nii"
        nib.save(image, path)
        return str(path)

    def read(self, path: str, *, dtype=np.float32) -> np.ndarray:
        """Values of an output, which must have the head's geometry and the type of its kind."""
        image = nib.load(path)
        assert image.get_data_dtype() == dtype
        assert image.shape[:3] == SHAPE
        assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
        np.testing.assert_allclose(image.affine, self.affine, atol=1e-5)
        assert [int(image.header[code]) for code in ("qform_code", "sform_code")] == [1, 1]
        assert image.header.get_xyzt_units()[0] == "mm"
        return np.asarray(image.dataobj)


def _ball(centre: tuple[float, ...], radius: float) -> np.ndarray:
    """Voxels within a radius in mm of a point relative to the middle of the grid."""
    return _squared(centre) <= radius**2


def _squared(centre=(0, 0, 0), semi_axes=(1, 1, 1)) -> np.ndarray:
    axes = [
        ((np.arange(size) - (size - 1) / 2) * edge - point) / semi
        for size, edge, point, semi in zip(SHAPE, VOXEL, centre, semi_axes, strict=True)
    ]
    return sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True))


@pytest.fixture(scope="session")
def head(tmp_path_factory) -> Head:
    """The head without files."""
    brain = _squared(semi_axes=(44, 48, 46)) <= 1
    iron = _ball((18, 0, 0), 9) | _ball((-18, 0, 0), 9)
    ventricles = _ball((0, 8, 5), 9)
    return Head(
        folder=tmp_path_factory.mktemp("head"),
        echo_times=(0.004, 0.008, 0.012, 0.016),
        field_strength=3.0,
        affine=oblique_affine(SHAPE, voxel_size=VOXEL, rotation=(-20, 10, 0), center=(3, -7, 2)),
        mask=brain,
        susceptibility=0.25 * iron - 0.04 * (brain & ~iron),
        r2star=np.where(iron, 70.0, np.where(ventricles, 1.0, 20.0)) * brain,
        magnitude=500.0 * brain,
    )


@pytest.fixture(scope="session")
def echoes(head) -> dict[str, list[str]]:
    """Magnitude and phase files, one an echo; the phase as integers with a slope that lies."""
    random = np.random.default_rng(0)
    files = {"magnitude": [], "phase": []}
    for number, time in enumerate(head.echo_times, start=1):
        signal = head.magnitude * np.exp(-time * head.r2star)
        signal = signal * np.exp(1j * (0.6 + 2 * np.pi * head.total_field * time))
        signal += NOISE * (random.normal(size=SHAPE) + 1j * random.normal(size=SHAPE))
        files["magnitude"].append(head.write(f"magnitude-{number}", np.abs(signal)))
        counts = np.clip(np.rint(np.angle(signal) * 4096 / np.pi), -4096, 4095)
        files["phase"].append(head.write(f"phase-{number}", counts, dtype=np.int16, slope=1e-6))
    return files


@pytest.fixture(scope="session")
def maps(head) -> dict[str, str]:
    """Files of the true maps, by the names that the stages give them."""
    noise = np.where(head.mask, 0.3, 30.0)
    return {
        "mask": head.write("mask", head.mask, dtype=np.uint8),
        "magnitude": head.write("magnitude", head.magnitude + NOISE),
        "frequency": head.write(
            "frequency", (head.total_field + head.period / 2) % head.period - head.period / 2
        ),
        "frequency_noise": head.write("frequency_noise", noise),
        "total_field": head.write("total_field", head.total_field * head.mask),
        "local_field": head.write("local_field", head.local_field * head.mask),
        "r2star": head.write("r2star", head.r2star),
        "susceptibility": head.write("susceptibility", head.susceptibility * head.mask),
    }


@pytest.fixture
def scaled(head, echoes) -> dict[str, str]:
    """All echoes in one file each, the phase in rad."""
    magnitude = np.stack([nib.load(path).get_fdata() for path in echoes["magnitude"]], axis=3)
    phase = np.stack([nib.load(path).dataobj.get_unscaled() for path in echoes["phase"]], axis=3)
    return {
        "magnitude": head.write("magnitude-all", magnitude),
        "phase": head.write("phase-all", phase * SCALE.scale),
    }


@pytest.fixture(autouse=True)
def threads_are_restored():
    """Stages set the threads of the whole process; take that back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
