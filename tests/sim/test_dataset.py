import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmflow.sim import __main__ as command
from qsmflow.sim.dataset import write_dataset
from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.mgre import PHASE_SCALINGS, MgreProtocol

EXAMPLE = Path(__file__).resolve().parents[2] / "bids_examples" / "simple_head"


@pytest.fixture(scope="module")
def protocol() -> MgreProtocol:
    shape = (20, 24, 19)
    affine = oblique_affine(shape, voxel_size=(8, 8, 8), rotation=(-15, 12, 0), center=(0, -18, 2))
    return MgreProtocol(shape=shape, affine=affine, echo_times=(0.004, 0.009))


@pytest.fixture(scope="module")
def written(tmp_path_factory, protocol):
    folder = tmp_path_factory.mktemp("head")
    return folder, write_dataset(folder, protocol=protocol, seed=1)


def validate(folder: Path) -> list[str]:
    """Messages of the official validator that are errors."""
    program = (
        shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) or "bids-validator-deno"
    )
    output = subprocess.run([program, "--json", str(folder)], capture_output=True, text=True).stdout
    issues = json.loads(output)["issues"]["issues"]
    return [f"{i['code']} {i.get('location')}" for i in issues if i["severity"] == "error"]


def load(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_raw_and_truth_are_valid_bids(written):
    folder, _ = written
    assert validate(folder) == []
    assert validate(folder / "derivatives" / "truth") == []


def test_committed_example_is_valid_and_small():
    assert validate(EXAMPLE) == []
    assert validate(EXAMPLE / "derivatives" / "truth") == []
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*") if path.is_file()) < 10e6


def test_same_seed_same_bytes(written, protocol, tmp_path):
    folder, _ = written
    write_dataset(tmp_path, protocol=protocol, seed=1)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [f for f in files if (folder / f).read_bytes() != (tmp_path / f).read_bytes()] == []


def test_echoes_hold_the_signal(written, protocol):
    folder, scan = written
    anat = folder / "sub-01" / "anat"
    for number, echo_time in enumerate(protocol.echo_times, start=1):
        stem = anat / f"sub-01_echo-{number}"
        magnitude, phase = (load(f"{stem}_part-{part}_MEGRE.nii.gz") for part in ("mag", "phase"))
        assert magnitude.dtype == phase.dtype == np.int16
        assert phase.min() >= 0 and phase.max() <= 4095
        signal = magnitude * np.exp(1j * PHASE_SCALINGS["unsigned"].decode(phase))
        expected = scan.signal[number - 1].numpy() * (4 / scan.noise)
        # Half a step of the magnitude, and of the phase at that magnitude.
        assert np.all(np.abs(signal - expected) <= 0.51 + np.abs(expected) * np.pi / 4096)
        sidecar = json.loads(Path(f"{stem}_part-phase_MEGRE.json").read_text())
        assert (sidecar["EchoTime"], sidecar["MagneticFieldStrength"]) == (echo_time, 3.0)
        assert sidecar["Units"] == "arbitrary"
        np.testing.assert_allclose(
            nib.load(f"{stem}_part-mag_MEGRE.nii.gz").affine, protocol.affine, atol=1e-4
        )


def test_truth_comes_back_in_its_units(written):
    folder, scan = written
    truth = folder / "derivatives" / "truth" / "sub-01"
    mask = load(truth / "anat" / "sub-01_desc-brain_mask.nii.gz") > 0
    assert np.array_equal(mask, scan.mask.numpy())
    for name, expected, units in [
        ("anat/sub-01_Chimap", scan.susceptibility, "ppm"),
        ("anat/sub-01_R2starmap", scan.r2star, "1/s"),
        ("anat/sub-01_T2starmap", 1 / scan.r2star, "s"),
        ("fmap/sub-01_desc-total_fieldmap", scan.total_field, "Hz"),
        ("fmap/sub-01_desc-local_fieldmap", scan.local_field, "Hz"),
    ]:
        image, expected = load(truth / f"{name}.nii.gz"), expected.numpy()[mask]
        assert np.abs(image[mask] - expected).max() <= 0.51 * np.abs(expected).max() / 32767
        assert not image[~mask].any()
        sidecar = json.loads((truth / f"{name}.json").read_text())
        assert sidecar["Units"] == units and sidecar["SkullStripped"] is True
        assert all(source.startswith("bids:raw:sub-01/anat/") for source in sidecar["Sources"])
        assert (folder / sidecar["Sources"][0].removeprefix("bids:raw:")).is_file()


def test_unknown_phase_scaling_is_refused(tmp_path, protocol):
    with pytest.raises(KeyError, match="degrees"):
        write_dataset(tmp_path, protocol=protocol, phase_scaling="degrees")
    assert not list(tmp_path.iterdir())


def test_command_passes_its_arguments_on(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(command, "write_dataset", lambda out, **options: calls.append((out, options)))
    command.main([str(tmp_path), "--seed", "7"])
    command.main([str(tmp_path)])
    assert calls == [(tmp_path, {"seed": 7}), (tmp_path, {"seed": 1})]


@pytest.mark.slow
def test_example_is_what_the_command_writes(tmp_path):
    """Other processors round differently: a step of the stored numbers is allowed."""
    command.main([str(tmp_path)])
    for path in EXAMPLE.rglob("*.nii.gz"):
        committed, made = (
            nib.load(folder / path.relative_to(EXAMPLE)).dataobj.get_unscaled().astype(int)
            for folder in (EXAMPLE, tmp_path)
        )
        # Phase of noise may step over the seam.
        assert np.mean(np.abs(committed - made) > 1) < 1e-4, path.name
