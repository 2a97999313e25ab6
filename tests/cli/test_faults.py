"""A run that is cut short, whatever cuts it, is completed by the next one, byte for byte."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from qsmflow.bids.acquisition import Acquisition
from qsmflow.cli.cache import drop_damaged
from qsmflow.cli.exit_codes import ExitCode
from qsmflow.cli.reservation import reserved, reserved_output
from qsmflow.workflows.settings import WORKFLOW_NAME

QUICK = ("--omp-nthreads", "1", "--inversion", "tkd", "--sloppy", "--motion-correction", "off")


def contents(out: Path) -> dict[str, str]:
    """Hashes of all that a run writes, but for logs and what bears a date."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((out / "sub-01").rglob("*"))
        if path.is_file() and "log" not in path.relative_to(out).parts
    }


@contextmanager
def started(bids_dir: Path, folder: Path, *arguments: str):
    """The app as a process of its own, whose group is gone at the end."""
    command = [sys.executable, "-m", "qsmflow", str(bids_dir), str(folder / "out"), "participant"]
    command += ["-w", str(folder / "work"), "--skip-bids-validation", *QUICK, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        try:
            yield run
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)


def wait_for(run: subprocess.Popen, stage: str) -> None:
    """Read what the app says until a stage is done."""
    said = []
    for line in run.stderr:
        said.append(line)
        if f" {stage}: done in" in line:
            return
    pytest.fail(f"{stage} was never done:\n{''.join(said)}")


def is_gone(group: int) -> bool:
    """Whether all processes of a group have ended, soon."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def killed_after(stage: str, bids_dir: Path, folder: Path, *arguments: str) -> None:
    """Start the app and kill it, without warning, as soon as a stage is done."""
    with started(bids_dir, folder, *arguments) as run:
        wait_for(run, stage)
        run.kill()
        run.wait()
        assert is_gone(run.pid), "workers outlive the run"


def is_whole(out: Path) -> bool:
    """Whether no file lies there that was being written."""
    return {path.name for path in out.rglob(".*")} <= {".bidsignore"}


def complete(bids_dir: Path, folder: Path) -> str:
    """Let the app run to its end and return what it says.

    In a process of its own, as the runs that are cut short: sums in as many threads have the same last
    digits.
    """
    with started(bids_dir, folder, "--nprocs", "1") as run:
        said = run.stderr.read()
        assert run.wait() == ExitCode.DONE, said
    return said


@pytest.fixture(scope="module")
def undisturbed(small_dataset, tmp_path_factory) -> Path:
    """Folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    complete(small_dataset, folder)
    return folder


@pytest.mark.parametrize(
    "stage",
    [
        "field fit",
        *(
            pytest.param(stage, marks=pytest.mark.slow)
            for stage in ("field scale", "field unwrap", "susceptibility background", "measures quality")
        ),
    ],
)
def test_killed_run_is_completed(small_dataset, undisturbed, tmp_path, stage):
    killed_after(stage, small_dataset, tmp_path, "--nprocs", "1")
    complete(small_dataset, tmp_path)
    assert contents(tmp_path / "out") == contents(undisturbed / "out")
    assert is_whole(tmp_path / "out")


def test_workers_of_a_killed_run_end_with_it(small_dataset, undisturbed, tmp_path):
    killed_after("field mask", small_dataset, tmp_path, "--nprocs", "2")
    complete(small_dataset, tmp_path)
    assert contents(tmp_path / "out") == contents(undisturbed / "out")


def test_damaged_results_are_computed_anew(small_dataset, undisturbed, tmp_path):
    shutil.copytree(undisturbed / "work", tmp_path / "work", symlinks=True)
    work = tmp_path / "work"
    harmed = [
        next(work.rglob(pattern))
        for pattern in ("field_wf/fit/frequency.nii", "result_unwrap.pklz", "table_summary/summary.html")
    ]
    for path, left in zip(harmed, (0.6, 0.5, 0), strict=True):
        path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    assert complete(small_dataset, tmp_path).count("damaged, will be computed anew") == 3
    assert contents(tmp_path / "out") == contents(undisturbed / "out")


def test_nothing_whole_is_dropped(undisturbed):
    assert drop_damaged(undisturbed / "work" / WORKFLOW_NAME, ["01"]) == []
    assert list((undisturbed / "work" / WORKFLOW_NAME).rglob("result_fit.pklz"))


def test_two_runs_on_one_subject_are_refused_and_on_two_are_not(app, small_dataset, tmp_path, capsys):
    work = tmp_path / "work"
    with reserved(work, ["01"]):
        code = app(small_dataset, tmp_path / "out", work)
        assert "another run is at work on sub-01" in capsys.readouterr().err
        assert code == ExitCode.CANNOT_WRITE
        assert app(small_dataset, tmp_path / "out", work, "--clean-workdir") == ExitCode.CANNOT_WRITE
        with reserved(work, ["02"]):
            pass
    with reserved(work, ["01"]):
        pass


def test_two_runs_into_one_output_are_refused_whatever_their_work_folders(
    app, small_dataset, tmp_path, capsys
):
    out = tmp_path / "out"
    mine = Acquisition("01", None, {}, "MEGRE", ())
    with reserved_output(out, [mine]):
        assert app(small_dataset, out, tmp_path / "work") == ExitCode.CANNOT_WRITE
        assert f"{out}: another run is at work on sub-01 there" in capsys.readouterr().err
        # Other subjects, and other sessions, are nobody's yet.
        with reserved_output(out, [replace(mine, subject="02"), replace(mine, session="1")]):
            pass
    assert not list(out.rglob("*.nii.gz"))


def test_input_that_vanishes_fails_its_subject_and_a_rerun_completes_it(small_dataset, undisturbed, tmp_path):
    bids_dir = tmp_path / "in"
    shutil.copytree(small_dataset, bids_dir)
    victim = next(bids_dir.glob("sub-01/anat/*echo-3_part-phase*.nii.gz"))
    kept = victim.rename(tmp_path / "kept.nii.gz")
    # Seen by the plan, gone when the echoes are read.
    victim.symlink_to(kept)
    with started(bids_dir, tmp_path, "--nprocs", "1") as run:
        for line in run.stderr:
            if "acquisition(s)" in line:
                victim.unlink()
                break
        said = run.stderr.read()
        # What is noticed while stages run concerns one subject, what is noticed before, all.
        assert run.wait() in (ExitCode.SUBJECT_FAILED, ExitCode.NO_INPUT)
    assert victim.name in said and "internal error" not in said
    kept.rename(victim)
    complete(bids_dir, tmp_path)
    written, expected = (
        {name: found for name, found in contents(out).items() if name.endswith((".nii.gz", ".tsv"))}
        for out in (tmp_path / "out", undisturbed / "out")
    )
    assert written == expected


@contextmanager
def small_disk(folder: Path, *options: str):
    """A disk of its own, as far as this user may have one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", *(("-o", ",".join(options)) if options else ()), "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("full", ["out", "work"])
def test_full_disk_is_told_and_a_rerun_completes(small_dataset, undisturbed, tmp_path, full):
    with small_disk(tmp_path / full, "size=1500k"):
        with started(small_dataset, tmp_path, "--nprocs", "1") as run:
            said = run.stderr.read()
            assert run.wait() in (ExitCode.SUBJECT_FAILED, ExitCode.INPUT_OUTPUT, ExitCode.CANNOT_WRITE)
        assert "No space left on device" in said
        assert "internal error" not in said
        subprocess.run(["mount", "-o", "remount,size=500m", str(tmp_path / full)], check=True)
        complete(small_dataset, tmp_path)
        assert contents(tmp_path / "out") == contents(undisturbed / "out")
        assert is_whole(tmp_path / "out")


@pytest.mark.parametrize("closed", ["out", "work"])
def test_read_only_folder_is_refused_before_any_work(app, small_dataset, tmp_path, capsys, closed):
    with small_disk(tmp_path / closed, "ro"):
        assert app(small_dataset, tmp_path / "out", tmp_path / "work") == ExitCode.CANNOT_WRITE
        assert str(tmp_path / closed) in capsys.readouterr().err
