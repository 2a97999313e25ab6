"""The simulator from its command line."""

import json

import nibabel as nib
import numpy as np
import pytest

from qsmflow.cli import simulate
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.simulate import build_parser, main, study_of


def study(*arguments: str):
    return study_of(build_parser().parse_args(["out", *arguments]))


def test_every_flag_reaches_the_study():
    made = study(
        *["--subjects", "2", "--sessions", "1", "--motion", "only", "--seed", "5"],
        *["--spread", "2", "--microbleeds", "3", "--calcifications", "1", "--iron-lesions", "2"],
        *["--motion-model", "field", "--motion-events", "1", "4"],
        *["--max-translation", "2.5", "--max-rotation", "1", "--phase-scaling", "signed"],
        *["--echo-times", "0.003", "0.008", "--field-strength", "7"],
        *["--snr", "40", "--readout", "bipolar", "--sloppy", "--acquired-share", "1", "0.8", "0.7"],
        *[
            "--acquisition-order",
            "centric",
            "--matrix",
            "20",
            "22",
            "24",
            "--voxel-size",
            "6",
            "7",
            "8",
            "--rotation",
            "0",
            "0",
            "90",
        ],
    )
    assert [plan.prefix for plan in made.scans] == ["sub-01_ses-01", "sub-02_ses-01"]
    assert all(plan.moves for plan in made.scans)
    assert (made.seed, made.spread, made.phase_scaling) == (5, 2.0, "signed")
    lesions, motion, protocol = made.lesions, made.motion, made.protocol
    assert (lesions.microbleeds, lesions.calcifications, lesions.iron_lesions) == (3, 1, 2)
    assert (motion.model, motion.events, motion.translation, motion.rotation) == ("field", (1, 4), 2.5, 1.0)
    assert (protocol.echo_times, protocol.field_strength) == ((0.003, 0.008), 7.0)
    assert (protocol.shape, protocol.acquired_share) == ((20, 22, 24), (1.0, 0.8, 0.7))
    np.testing.assert_allclose(protocol.affine[:3, :3], [[0, -7, 0], [6, 0, 0], [0, 0, 8]], atol=1e-9)
    assert (protocol.snr, protocol.readout) == (40.0, "bipolar")
    assert protocol.acquisition_order == "centric"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--subjects", "0"], "at least 1"),
        (["--protocol", "magic"], "invalid choice"),
        (["--echo-times", "-1"], "greater than 0"),
        (["--motion-events", "3", "2"], "must not be the larger"),
        (["--example", "--subjects", "2", "--motion", "only"], "leave out --subjects, --motion"),
        (["--echo-times", "0.01", "0.005"], "echo times must increase"),
        (["--acquired-share", "1", "1", "2"], "acquired shares"),
        (["--unknown"], "unrecognized"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(Stop, match=message) as stop:
        study(*arguments)
    assert stop.value.code == ExitCode.USAGE


def test_example_is_a_still_a_moved_and_two_sessions():
    assert [plan.prefix for plan in study("--example", "--seed", "3").scans] == [
        "sub-01_acq-still",
        "sub-01_acq-motion",
        "sub-02_ses-01",
        "sub-02_ses-02",
    ]


def test_command_writes_a_data_set(tmp_path, capsys):
    out = tmp_path / "heads"
    assert main([str(out), "--sloppy", "--echo-times", "0.004", "0.009", "--field-strength", "1.5"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    sidecar = json.loads((out / "sub-01/anat/sub-01_echo-2_part-mag_MEGRE.json").read_text())
    assert (sidecar["EchoTime"], sidecar["MagneticFieldStrength"]) == (0.009, 1.5)
    assert nib.load(out / "derivatives/truth/sub-01/anat/sub-01_Chimap.nii.gz").get_fdata().any()
    assert "--field-strength 1.5" in (out / "README.md").read_text()
    assert str(tmp_path) not in (out / "README.md").read_text()


def test_folder_in_use_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(simulate, "write_dataset", lambda *arguments, **options: iter(()))
    (tmp_path / "note.txt").write_text("mine")
    assert main([str(tmp_path)]) == ExitCode.CANNOT_WRITE
    assert "--overwrite" in capsys.readouterr().err
    assert main([str(tmp_path), "--overwrite"]) == ExitCode.DONE
    assert main([str(tmp_path / "note.txt")]) == ExitCode.CANNOT_WRITE
