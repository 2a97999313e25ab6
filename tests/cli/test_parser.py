"""Arguments and configuration file become settings; wrong ones get the usage exit code."""

import subprocess
import sys

import pytest

from qsmflow.cli.arguments import memory
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.finalise import settings_toml
from qsmflow.cli.parser import parse_settings

BASE = ["in", "out", "participant"]


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [("1.5G", 1.5), ("8g", 8), ("4000", 4), ("500M", 0.5), ("2GiB", 2), (".5T", 500), (" 3 GB ", 3)],
)
def test_memory_is_understood(text, gigabytes):
    assert memory(text) == pytest.approx(gigabytes)
    assert parse_settings([*BASE, "--mem", text]).mem_gb == pytest.approx(gigabytes)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mem", "lots"],
        ["--mem", "0"],
        ["--nprocs", "0"],
        ["--nprocs", "two"],
        ["--inversion", "magic"],
        ["--motion-correction", "maybe"],
        ["--motion-models", "only-one"],
        ["--tkd-threshold", "0"],
        ["--field-strength", "-3"],
        ["--participant-label", "../01"],
        ["--derivatives", "nopath"],
        ["--derivatives", "../x=masks"],
        ["--derivatives", "raw=masks"],
        ["--nprocs", "9" * 500],
        ["--work-dir", ""],
        ["--work-dir", "no\udcffutf8"],
        ["--no-such-flag"],
        ["--medi", "1"],
    ],
)
def test_wrong_arguments_are_usage_errors(arguments):
    with pytest.raises(Stop) as stop:
        parse_settings([*BASE, *arguments])
    assert stop.value.code == ExitCode.USAGE
    assert "--help" in str(stop.value)


def test_labels_may_carry_their_prefix():
    settings = parse_settings([*BASE, "--participant-label", "sub-01", "02", "--session-id", "ses-A"])
    assert settings.participant_label == ("01", "02")
    assert settings.session_label == ("A",)


def test_configuration_file_is_read_and_flags_win(tmp_path):
    config = tmp_path / "qsmflow.toml"
    config.write_text(
        'inversion = "tkd"\nlow-mem = true\nmedi_merit = false\nmem = "2G"\n'
        'participant_label = ["01", "02"]\n[derivatives]\nmasks = "/masks"\n'
    )
    settings = parse_settings([*BASE, "--config-file", str(config), "--mem", "3G", "--no-low-mem"])
    assert settings.inversion == "tkd"
    assert settings.participant_label == ("01", "02")
    assert settings.medi_merit is False
    assert str(settings.derivatives["masks"]) == "/masks"
    assert settings.mem_gb == 3
    assert settings.low_mem is False


@pytest.mark.parametrize(
    ("content", "code"),
    [("inversion = ", ExitCode.USAGE), ("no_such_key = 1", ExitCode.USAGE), (None, ExitCode.NO_INPUT)],
)
def test_bad_configuration_file_is_named(tmp_path, content, code):
    config = tmp_path / "bad.toml"
    if content is not None:
        config.write_text(content)
    with pytest.raises(Stop) as stop:
        parse_settings([*BASE, "--config-file", str(config)])
    assert stop.value.code == code


def test_settings_survive_the_file_that_a_run_leaves(tmp_path):
    argv = [*BASE, "--inversion", "tkd", "--mem", "2.5G", "--phase-sign=-1", "--sloppy", "-v"]
    argv += [
        "--participant-label",
        "01",
        "--derivatives",
        "masks=/m",
        "--medi-lambda",
        "0.5",
        "--nprocs",
        "3",
    ]
    settings = parse_settings(argv)
    config = tmp_path / "qsmflow.toml"
    config.write_text(settings_toml(settings, argv=argv))
    assert parse_settings([*BASE, "--config-file", str(config)]) == settings


def test_models_are_names_or_absolute_folders(tmp_path, monkeypatch):
    assert parse_settings(BASE).motion_models == ("motion-unet", "motion-prenet")
    monkeypatch.chdir(tmp_path)
    argv = [*BASE, "--mem", "2G", "--deepqsm-model", "deepqsm-shapes"]
    argv += ["--motion-models", "./mine", "models/other"]
    settings = parse_settings(argv)
    assert settings.deepqsm_model == "deepqsm-shapes"
    assert settings.motion_models == (str(tmp_path / "mine"), str(tmp_path / "models" / "other"))
    config = tmp_path / "qsmflow.toml"
    config.write_text(settings_toml(settings, argv=argv))
    assert parse_settings([*BASE, "--config-file", str(config)]) == settings


def test_notrack_is_accepted_and_changes_nothing():
    assert parse_settings([*BASE, "--notrack"]) == parse_settings(BASE)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["in", "out", "participant", "--mem", "0"]])
def test_answers_come_before_anything_slow_is_imported(arguments):
    """torch takes seconds to import, pybids and nipype one each."""
    script = (
        "import sys\nfrom qsmflow.cli.run import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print(*({'torch', 'bids', 'nipype', 'numpy', 'nibabel'} & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines()[-1] == ""
