import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmflow.cli.simulate import main
from qsmflow.sim.dataset import write_dataset
from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.mgre import MgreProtocol
from qsmflow.sim.phase_scaling import PHASE_SCALINGS
from qsmflow.sim.study import Scan, Study, simulate_scan
from qsmflow.sim.truth import STEPS

EXAMPLE = Path(__file__).resolve().parents[2] / "bids_examples" / "digital_heads"
STILL, MOVED = Scan(1, label="still"), Scan(1, label="motion", moves=True)


@pytest.fixture(scope="module")
def study() -> Study:
    shape = (20, 24, 19)
    affine = oblique_affine(shape, voxel_size=(8, 8, 8), rotation=(-15, 12, 0), center=(0, -18, 2))
    protocol = MgreProtocol(shape=shape, affine=affine, echo_times=(0.004, 0.009), supersampling=1)
    return Study(protocol, (STILL, MOVED, Scan(2, session=2)))


def write(folder: Path, study: Study) -> list[Scan]:
    return list(write_dataset(folder, study))


@pytest.fixture(scope="module")
def written(tmp_path_factory, study) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    assert write(folder, study) == list(study.scans)
    return folder


@pytest.fixture(scope="module")
def scans(study) -> dict:
    """The same scans, made without a data set."""
    subjects = {plan.subject: study.subject(plan.subject) for plan in study.scans}
    return {plan: simulate_scan(study, plan, subject=subjects[plan.subject]) for plan in study.scans}


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
    assert validate(written) == []
    assert validate(written / "derivatives" / "truth") == []


def test_committed_example_is_valid_and_small():
    assert validate(EXAMPLE) == []
    assert validate(EXAMPLE / "derivatives" / "truth") == []
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*") if path.is_file()) < 15e6


def test_same_seed_same_bytes(written, study, tmp_path):
    write(tmp_path, study)
    files = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [f for f in files if (written / f).read_bytes() != (tmp_path / f).read_bytes()] == []


def test_names_follow_the_plan(written):
    assert (written / "sub-01/anat/sub-01_acq-motion_echo-2_part-phase_MEGRE.nii.gz").is_file()
    assert (written / "sub-02/ses-02/anat/sub-02_ses-02_echo-1_part-mag_MEGRE.json").is_file()
    assert (
        written / "derivatives/truth/sub-02/ses-02/fmap/sub-02_ses-02_desc-local_fieldmap.nii.gz"
    ).is_file()
    rows = (written / "participants.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows] == ["participant_id", "sub-01", "sub-02"]


@pytest.mark.parametrize("plan", [STILL, MOVED])
def test_echoes_hold_the_signal(written, scans, plan):
    scan, anat = scans[plan], written / "sub-01" / "anat"
    for number, echo_time in enumerate(scan.protocol.echo_times, start=1):
        stem = anat / f"{plan.prefix}_echo-{number}"
        magnitude, phase = (load(f"{stem}_part-{part}_MEGRE.nii.gz") for part in ("mag", "phase"))
        assert magnitude.dtype == phase.dtype == np.int16
        assert phase.min() >= 0 and phase.max() <= 4095
        signal = magnitude * np.exp(1j * PHASE_SCALINGS["unsigned"].decode(phase))
        expected = scan.result.signal[number - 1].numpy() * (4 / scan.result.noise)
        # Half a step of the magnitude, and of the phase at that magnitude.
        assert np.all(np.abs(signal - expected) <= 0.51 + np.abs(expected) * np.pi / 4096)
        sidecar = json.loads(Path(f"{stem}_part-phase_MEGRE.json").read_text())
        assert (sidecar["EchoTime"], sidecar["MagneticFieldStrength"]) == (echo_time, 3.0)
        assert sidecar["Units"] == "arbitrary"
        np.testing.assert_allclose(
            nib.load(f"{stem}_part-mag_MEGRE.nii.gz").affine, scan.protocol.affine, atol=1e-4
        )


def test_truth_comes_back_in_its_units(written, scans):
    truth, result = written / "derivatives" / "truth" / "sub-01", scans[STILL].result
    mask = load(truth / "anat" / "sub-01_acq-still_desc-brain_mask.nii.gz") > 0
    assert np.array_equal(mask, result.mask.numpy())
    for name, expected, units in [
        ("anat/{}_Chimap", result.susceptibility, "ppm"),
        ("anat/{}_R2starmap", result.r2star, "1/s"),
        ("anat/{}_T2starmap", 1 / result.r2star, "s"),
        ("anat/{}_S0map", result.magnitude * 4 / result.noise, "arbitrary"),
        ("anat/{}_phaseoffset", result.phase_offset, "rad"),
        ("fmap/{}_desc-total_fieldmap", result.total_field, "Hz"),
        ("fmap/{}_desc-local_fieldmap", result.local_field, "Hz"),
    ]:
        stem = truth / name.format("sub-01_acq-still")
        image, expected = load(f"{stem}.nii.gz"), expected.numpy()[mask]
        step = max(STEPS[units], np.abs(expected).max() / 32767)
        assert np.abs(image[mask] - expected).max() <= 0.51 * step
        assert not image[~mask].any()
        sidecar = json.loads(Path(f"{stem}.json").read_text())
        assert sidecar["Units"] == units and sidecar["SkullStripped"] is True
        assert all(source.startswith("bids:raw:sub-01/anat/") for source in sidecar["Sources"])
        assert (written / sidecar["Sources"][0].removeprefix("bids:raw:")).is_file()


def test_truth_says_how_the_subject_moved(written, scans):
    sidecars = {
        plan: json.loads((written / f"derivatives/truth/sub-01/anat/{plan.prefix}_Chimap.json").read_text())
        for plan in (STILL, MOVED)
    }
    assert "Motion" not in sidecars[STILL]
    states, motion = sidecars[MOVED]["Motion"]["States"], scans[MOVED].motion
    assert [state["Onset"] for state in states] == list(motion.onsets)
    assert [state["Rotation"] for state in states] == [list(pose.rotation) for pose in motion.poses]
    assert [state["Translation"] for state in states] == [list(pose.translation) for pose in motion.poses]
    still = np.eye(4).tolist()
    assert any(np.allclose(state["ScannerMatrix"], still) for state in states)


def test_unknown_phase_scaling_is_refused(tmp_path, study):
    with pytest.raises(KeyError, match="degrees"):
        write(tmp_path, replace(study, phase_scaling="degrees"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scaling", PHASE_SCALINGS)
def test_phase_comes_back_within_half_a_step(scaling):
    phase = np.linspace(-np.pi, np.pi, 10001)
    scaling = PHASE_SCALINGS[scaling]
    stored = scaling.encode(phase)
    assert stored.dtype == scaling.dtype
    back = scaling.decode(stored)
    step = 2 * np.pi / (scaling.upper - scaling.lower) if scaling.dtype is np.int16 else 1e-6
    assert np.abs(np.angle(np.exp(1j * (back - phase)))).max() <= 0.5001 * step


@pytest.mark.slow
def test_example_is_what_the_command_writes(tmp_path):
    """Other processors round differently: a step of the stored numbers is allowed."""
    assert main([str(tmp_path), "--example", "--threads", "1"]) == 0
    for path in EXAMPLE.rglob("*.nii.gz"):
        committed, made = (
            nib.load(folder / path.relative_to(EXAMPLE)).dataobj.get_unscaled().astype(int)
            for folder in (EXAMPLE, tmp_path)
        )
        # Phase of noise may step over the seam.
        assert np.mean(np.abs(committed - made) > 1) < 1e-4, path.name
