"""The app itself on a real Slurm."""

import json
from pathlib import Path

import pytest

from qsmflow.cli import run
from qsmflow.cli.batch import main
from qsmflow.cli.exit_codes import ExitCode

QUICK = ["--inversion", "tkd", "--sloppy", "--motion-correction", "off", "--skip-bids-validation"]


def write_echo_time(bids_dir: Path, subject: str, seconds: float) -> None:
    for part in ("mag", "phase"):
        (sidecar,) = bids_dir.glob(f"sub-{subject}/anat/*_echo-2_part-{part}_MEGRE.json")
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "EchoTime": seconds}))


def test_bad_subject_is_named_and_done_when_it_is_mended(slurm, two_subjects, tmp_path, capfd):
    """Tasks keep within the memory that was asked for: more would end them."""
    write_echo_time(two_subjects, "02", 6.0)
    out = tmp_path / "out"
    arguments = [str(two_subjects), str(out), "--scheduler", "slurm", "--submit", *QUICK]
    arguments += ["--work-dir", str(tmp_path / "work")]
    assert main(arguments) == ExitCode.DONE
    slurm.wait_for_all()
    assert (out / "sub-01/log/sub-01_complete.json").is_file()
    assert not list((out / "sub-02").rglob("*_complete.json"))
    assert "sub-01" in (out / "group_iqms.tsv").read_text()

    write_echo_time(two_subjects, "02", 0.006)
    capfd.readouterr()
    assert main(arguments) == ExitCode.DONE
    said = capfd.readouterr().err
    assert "1 task(s) complete, 1 to do" in said
    assert "EchoTime" in next(line for line in said.splitlines() if line.startswith("sub-02: last time: "))
    slurm.wait_for_all()
    assert (out / "sub-02/log/sub-02_complete.json").is_file()
    assert len(list((out / "sub-01/log").glob("*/qsmflow.toml"))) == 1
    assert "sub-02" in (out / "group_iqms.tsv").read_text()


@pytest.fixture
def run_app(slurm, two_subjects, tmp_path):
    """Runs one subject, with its stages as jobs if a plugin is named."""

    def run_it(plugin: str | None = None) -> int:
        flags = ["--participant-label", "01", "-w", str(tmp_path / "work"), "--omp-nthreads", "1", *QUICK]
        if plugin:
            file = tmp_path / "plugin.yml"
            file.write_text(f"plugin: {plugin}\nplugin_args:\n  sbatch_args: --mem=1500M --time=10\n")
            flags += ["--use-plugin", str(file)]
        return run.main([str(two_subjects), str(tmp_path / "out"), "participant", *flags])

    return run_it


@pytest.mark.slow
def test_stages_as_jobs(run_app, tmp_path):
    assert run_app("SLURM") == ExitCode.DONE
    assert (tmp_path / "out/sub-01/anat/sub-01_Chimap.nii.gz").is_file()
    assert list((tmp_path / "work").rglob("slurm-*.out"))


@pytest.mark.slow
def test_graph_of_jobs_is_handed_in_and_the_next_run_reports(slurm, run_app, tmp_path, capfd):
    assert run_app("SLURMGraph") == ExitCode.DONE
    slurm.wait_for_all(seconds=600)
    assert (tmp_path / "out/sub-01/anat/sub-01_Chimap.nii.gz").is_file()
    capfd.readouterr()
    assert run_app() == ExitCode.DONE
    assert "\n0 stages computed" in capfd.readouterr().err
    assert "<figure" in (tmp_path / "out/sub-01.html").read_text()
