"""What qsmflow-batch finds to do, and the scripts it writes; no scheduler is asked."""

import json
import math
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmflow.cli import batch
from qsmflow.cli.batch import cohort_settings, main, time_limit
from qsmflow.cli.batch_scripts import FOLDER
from qsmflow.cli.exit_codes import ExitCode, Stop

OPTIONS = ["--skip-bids-validation", "--motion-correction", "off"]
#: Prints what it is given, an argument a line.
ECHO = "printf '%s\\n' \"$@\""


def add_scan(
    bids_dir: Path, subject: str, session: str | None = None, *, shape: tuple[int, int, int] = (2, 2, 2)
) -> None:
    """A single echo whose images hold nothing but zeros, which take no room on the disk."""
    name = "_".join(filter(None, (f"sub-{subject}", session and f"ses-{session}")))
    anat = bids_dir / f"sub-{subject}" / (f"ses-{session}" if session else "") / "anat"
    anat.mkdir(parents=True)
    for part in ("mag", "phase"):
        image = nib.Nifti1Image(np.broadcast_to(np.uint8(0), shape), np.eye(4))
        path = anat / f"{name}_part-{part}_T2starw.nii"
        path.write_bytes(image.header.binaryblock + bytes(4))
        # A hole of the size that the header claims.
        os.truncate(path, 352 + math.prod(shape))
        (anat / f"{name}_part-{part}_T2starw.json").write_text(json.dumps({"EchoTime": 0.02}))


@pytest.fixture
def bids_dir(tmp_path) -> Path:
    """Two subjects, the second with two sessions."""
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "dataset_description.json").write_text('{"Name": "cohort", "BIDSVersion": "1.10.0"}')
    add_scan(folder, "01")
    add_scan(folder, "02", "A")
    add_scan(folder, "02", "B")
    return folder


@pytest.fixture
def out_dir(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def call(bids_dir, out_dir, tmp_path):
    """Call the command; the exit code comes back."""

    def call_it(*arguments: str, scheduler: str = "slurm", work: Path = tmp_path / "work") -> int:
        return main(
            [str(bids_dir), str(out_dir), "--scheduler", scheduler, "-w", str(work), *OPTIONS, *arguments]
        )

    return call_it


def latest(out_dir: Path) -> Path:
    return max(out_dir.joinpath(*FOLDER).iterdir())


def complete(out_dir: Path, subject: str, name: str, folder: str = "") -> None:
    """Leave behind what a good run leaves."""
    subject_dir = out_dir / f"sub-{subject}"
    for path in (
        subject_dir / "log" / f"{name}_complete.json",
        subject_dir / folder / "anat" / f"{name}_Chimap.nii.gz",
        out_dir / f"sub-{subject}.html",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def run_task(script: Path, index: int, **environment: str) -> subprocess.CompletedProcess:
    names = ("SLURM_ARRAY_TASK_ID", "SGE_TASK_ID", "PBS_ARRAY_INDEX")
    tasks = dict.fromkeys(names, str(index)) | {"SLURM_ARRAY_JOB_ID": "7"}
    return subprocess.run(
        ["bash", str(script)],
        env={"PATH": os.environ["PATH"], **tasks, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_subject_is_a_task(call, out_dir, capsys):
    assert call() == ExitCode.DONE
    folder = latest(out_dir)
    assert (folder / "array-1.txt").read_text() == "01\n02\n"
    script = (folder / "array-1.sh").read_text()
    for line in ("--array=1-2", "--cpus-per-task=1", "--time=4:00:00", "--mem=954M"):
        assert f"\n#SBATCH {line}\n" in script
    assert "--dependency=" in (folder / "submit.sh").read_text()
    assert f"bash {folder / 'submit.sh'}" in capsys.readouterr().err


def test_every_session_is_a_task(call, out_dir):
    assert call("--split", "session") == ExitCode.DONE
    assert (latest(out_dir) / "array-1.txt").read_text() == "01\n02 A\n02 B\n"


def test_what_is_complete_is_left_out(call, out_dir, capsys):
    complete(out_dir, "01", "sub-01")
    complete(out_dir, "02", "sub-02_ses-A", "ses-A")
    assert call() == ExitCode.DONE
    assert (latest(out_dir) / "array-1.txt").read_text() == "02\n"
    assert call("--split", "session") == ExitCode.DONE
    assert (latest(out_dir) / "array-1.txt").read_text() == "02 B\n"
    assert call("--all") == ExitCode.DONE
    assert (latest(out_dir) / "array-1.txt").read_text() == "01\n02\n"
    complete(out_dir, "02", "sub-02_ses-B", "ses-B")
    before = latest(out_dir)
    assert call() == ExitCode.DONE
    assert "nothing is left to do" in capsys.readouterr().err
    assert latest(out_dir) == before


@pytest.mark.parametrize(
    "lost", ["sub-01/log/sub-01_complete.json", "sub-01/anat/sub-01_Chimap.nii.gz", "sub-01.html"]
)
def test_what_lost_its_mark_its_map_or_its_report_is_done_again(call, out_dir, lost):
    complete(out_dir, "01", "sub-01")
    (out_dir / lost).unlink()
    assert call("--participant-label", "01") == ExitCode.DONE
    assert (latest(out_dir) / "array-1.txt").read_text() == "01\n"


def test_reason_of_the_last_failure_is_told(call, out_dir, capsys):
    for time, reason in (("20260101-000000", "ERROR old"), ("20260102-000000", "qsmflow: new\nReport: page")):
        log = out_dir.joinpath(*FOLDER, time, "logs", "sub-02.log")
        log.parent.mkdir(parents=True)
        log.write_text(f"began\n{reason}\n\n")
    assert call() == ExitCode.DONE
    said = capsys.readouterr().err
    assert "sub-02: last time: qsmflow: new\n" in said
    assert "sub-01: last time" not in said


def test_subjects_that_need_more_memory_have_an_array_of_their_own(call, bids_dir, out_dir, capsys):
    add_scan(bids_dir, "03", shape=(256, 256, 128))
    assert call("--nprocs", "2", "--omp-nthreads", "4") == ExitCode.DONE
    folder = latest(out_dir)
    assert (folder / "array-2.txt").read_text() == "03\n"
    needs = [
        next(line for line in (folder / f"array-{number}.sh").read_text().splitlines() if "--mem=" in line)
        for number in (1, 2)
    ]
    # 285 bytes a voxel and 0.5 GB, a fifth more, and the libraries of two processes.
    expected = 1.2 * (0.6 + 285 * 256 * 256 * 128 / 1e9) + 2 * 0.6
    assert int(needs[1].split("=")[1].rstrip("M")) * 2**20 / 1e9 == pytest.approx(expected, abs=0.002)
    assert needs[0] != needs[1]
    assert "#SBATCH --cpus-per-task=4" in (folder / "array-2.sh").read_text()
    dependency = (folder / "submit.sh").read_text()
    assert dependency.count("dependency+=") == 2


def test_a_model_that_is_not_there_is_refused_before_tasks_fail_with_it(call, out_dir, capsys):
    options = ("--inversion", "deepqsm", "--deepqsm-model", "nowhere")
    assert call(*options) == ExitCode.USAGE
    assert "--deepqsm-model" in capsys.readouterr().err
    assert not out_dir.exists()


def test_a_header_that_claims_what_is_not_there_asks_for_no_memory(call, bids_dir, out_dir):
    add_scan(bids_dir, "03", shape=(1024, 1024, 1024))
    for path in bids_dir.glob("sub-03/anat/*.nii"):
        os.truncate(path, 4096)
    assert call() == ExitCode.DONE
    assert (latest(out_dir) / "array-1.txt").read_text() == "01\n02\n03\n"


def test_long_arrays_are_cut(call, out_dir):
    assert call("--max-array", "1", "--max-running", "5") == ExitCode.DONE
    folder = latest(out_dir)
    assert [(folder / f"array-{number}.txt").read_text() for number in (1, 2)] == ["01\n", "02\n"]
    assert "#SBATCH --array=1-1%5\n" in (folder / "array-2.sh").read_text()


def test_subject_that_the_memory_cannot_hold_is_named_and_left_out(call, bids_dir, out_dir, capsys):
    add_scan(bids_dir, "03", shape=(256, 256, 128))
    assert call("--mem", "3G", "--participant-label", "03") == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "sub-03: --mem: 3.00G cannot hold it: stage 'score' needs about 2.99 GB" in said
    assert not out_dir.exists()
    assert call("--mem", "3G") == ExitCode.SUBJECT_FAILED
    assert "sub-03: --mem: 3.00G cannot hold it" in capsys.readouterr().err
    assert (latest(out_dir) / "array-1.txt").read_text() == "01\n02\n"
    assert call("--mem", said.split("give --mem ")[1].split(" ")[0]) == ExitCode.DONE


@pytest.mark.parametrize("scheduler", ["slurm", "sge", "pbs"])
def test_strange_characters_reach_the_app_as_they_are(bids_dir, tmp_path, scheduler):
    """The script is run by a shell, with a command that tells what it got."""
    strange = tmp_path / "a b'c\"d $HOME `id` 50% Größe\nnew line;"
    strange.mkdir()
    bids_dir = bids_dir.rename(strange / "input")
    out_dir, work, tell = strange / "out", strange / "work", strange / "tell it"
    tell.write_text(f"#!/bin/sh\n{ECHO}\n")
    tell.chmod(0o755)
    quoted = "'" + str(tell).replace("'", "'\\''") + "'"
    arguments = [str(bids_dir), str(out_dir), "--scheduler", scheduler, "-w", str(work), *OPTIONS]
    assert main([*arguments, "--split", "session", "--command", f"{quoted} --own 'x y'"]) == ExitCode.DONE
    folder = latest(out_dir)
    ended = run_task(folder / "array-1.sh", 2)
    assert ended.returncode == 0, ended.stderr
    log = folder / "logs" / "sub-02_ses-A.log"
    said = ended.stdout if scheduler == "slurm" else log.read_text()
    expected = ["--own", "x y", bids_dir, out_dir, "participant", "--config-file", folder / "qsmflow.toml"]
    expected += ["--participant-label", "02", "--session-label", "A", "--mem", "601M"]
    expected += ["--work-dir", work / "sub-02_ses-A"]
    assert said.split("\n", 1)[1] == "".join(f"{each}\n" for each in expected)
    if scheduler == "slurm":
        assert log.readlink() == Path("7_2.log")
    ended = subprocess.run(["bash", folder / "group.sh"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"--own\nx y\n{bids_dir}\n{out_dir}\ngroup\n"
    for script in folder.glob("*.sh"):
        subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("discard", [True, False])
@pytest.mark.parametrize("code", [0, 65])
def test_task_ends_with_the_code_of_the_app(call, out_dir, tmp_path, code, discard):
    work = tmp_path / "work" / "sub-01"
    (work / "cache").mkdir(parents=True)
    assert call("--command", f"sh -c 'exit {code}'", *["--discard-work"] * discard) == ExitCode.DONE
    assert run_task(latest(out_dir) / "array-1.sh", 1).returncode == code
    assert work.exists() == (code != 0 or not discard)


def test_task_beyond_the_list_is_an_error(call, out_dir):
    assert call("--command", "true") == ExitCode.DONE
    ended = run_task(latest(out_dir) / "array-1.sh", 3)
    assert ended.returncode == ExitCode.USAGE
    assert "no line 3" in ended.stderr


@pytest.mark.parametrize(
    ("scheduler", "lines"),
    [
        ("sge", ["#$ -t 1-2", "#$ -tc 3", "#$ -pe smp 2", "#$ -l h_rt=36:00:00", "#$ -q long"]),
        ("pbs", ["#PBS -J 1-2%3", "#PBS -l select=1:ncpus=2:mem=954mb", "#PBS -l walltime=36:00:00"]),
    ],
)
def test_other_schedulers_are_asked_for_the_same(call, out_dir, scheduler, lines):
    flags = [
        "--time",
        "1-12:00:00",
        "--max-running",
        "3",
        "--omp-nthreads",
        "2",
        "--scheduler-option=-q long",
    ]
    assert call(*flags, scheduler=scheduler) == ExitCode.DONE
    script = (latest(out_dir) / "array-1.sh").read_text().splitlines()
    assert not set(lines) - set(script)
    # Schedulers read their lines up to the first command.
    first_command = next(number for number, line in enumerate(script) if line and not line.startswith("#"))
    assert not [line for line in script[first_command:] if line.startswith(("#$", "#PBS"))]


@pytest.mark.parametrize("scheduler", ["slurm", "sge", "pbs"])
def test_jobs_are_handed_in_one_after_the_other(call, out_dir, tmp_path, capfd, monkeypatch, scheduler):
    """Stand-ins tell what a scheduler is asked, and answer with a number."""
    programs, asked = tmp_path / "bin", tmp_path / "asked"
    programs.mkdir()
    for name in ("sbatch", "qsub", "squeue", "qstat", "qselect"):
        path = programs / name
        queue = "exit 1" if name == "qstat" else "exit 0"
        submit = f"echo {name} $@ >> {asked}; echo 4$(wc -l < {asked}).x"
        path.write_text(f"#!/bin/sh\n{submit if name in ('sbatch', 'qsub') else queue}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    assert call("--max-array", "1", "--submit", scheduler=scheduler) == ExitCode.DONE
    *arrays, group = asked.read_text().splitlines()
    assert [line.split()[-1] for line in arrays] == ["array-1.sh", "array-2.sh"]
    dependency = {
        "slurm": "--dependency=afterany:41.x:42.x",
        "sge": "-hold_jid 41,42",
        "pbs": "-W depend=afterany:41.x:42.x",
    }
    assert group.endswith(f"{dependency[scheduler]} group.sh")
    assert "group.sh: job 43" in capfd.readouterr().out


def test_scheduler_that_refuses_is_told(call, tmp_path, capfd, monkeypatch):
    for name, does in (("squeue", "true"), ("sbatch", "echo too many jobs >&2; exit 3")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert call("--submit") == ExitCode.INPUT_OUTPUT
    said = capfd.readouterr().err
    assert "too many jobs" in said
    assert "submit.sh" in said.splitlines()[-1]


def test_settings_are_those_that_were_given(call, out_dir, tmp_path, monkeypatch):
    config = tmp_path / "mine.toml"
    config.write_text('inversion = "tkd"\nomp-nthreads = 3\nmem = "5G"\nmedi-smv-radius = 0\n')
    monkeypatch.chdir(tmp_path)
    flags = ["--config-file", "mine.toml", "--inversion", "tv", "--session-label", "A", "B", "-d", "m=x y"]
    (tmp_path / "x y").mkdir()
    assert call(*flags) == ExitCode.DONE
    told = tomllib.loads((latest(out_dir) / "qsmflow.toml").read_text())
    assert (told["inversion"], told["omp_nthreads"], told["nprocs"]) == ("tv", 3, 1)
    assert (told["medi_smv_radius"], told["session_label"]) == (0, ["A", "B"])
    assert told["derivatives"] == {"m": str(tmp_path / "x y")}
    assert "participant_label" not in told
    script = (latest(out_dir) / "array-1.sh").read_text()
    assert "--mem=4769M" in script
    assert "--mem 4167M" in script


def test_one_core_a_task_unless_told_otherwise():
    settings, mem_gb = cohort_settings(["in", "out", "participant"])
    assert (settings.nprocs, settings.omp_nthreads, mem_gb) == (1, 1, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scheduler", "lsf"], "invalid choice"),
        (["--time", "90"], "[D-]HH:MM:SS"),
        (["--time", "0:00:00"], "[D-]HH:MM:SS"),
        (["--command", "'unclosed"], "no command"),
        (["--command", ""], "empty"),
        (["--scheduler-option=a\nrm -rf /"], "not one line"),
        (["--max-running", "0"], "at least 1"),
        (["--reports-only"], "--reports-only is for qsmflow itself"),
        (["--boilerplate-only"], "--boilerplate-only is for qsmflow itself"),
        (["--use-plugin", "x.yml"], "--use-plugin is for qsmflow itself"),
        (["--no-such-flag"], "--no-such-flag"),
        (["group"], "for level participant"),
    ],
)
def test_wrong_arguments_are_usage_errors(call, out_dir, capsys, arguments, words):
    assert call(*arguments) == ExitCode.USAGE
    assert words in capsys.readouterr().err
    assert not out_dir.exists()


def test_nobody_can_submit_without_a_scheduler(call, out_dir, capsys, monkeypatch):
    monkeypatch.setattr(batch.shutil, "which", lambda name: None)
    assert call("--submit") == ExitCode.USAGE
    assert "there is no sbatch on this machine" in capsys.readouterr().err
    assert not out_dir.exists()


def test_nothing_is_written_into_the_input(call, bids_dir, out_dir, capsys):
    assert call(work=bids_dir / "work") == ExitCode.USAGE
    assert "lies inside the input" in capsys.readouterr().err
    assert not out_dir.exists()


def test_dry_run_tells_and_writes_nothing(call, out_dir, capsys):
    assert call("--dry-run") == ExitCode.DONE
    assert "2 task(s): 1.0 GB, 1 core(s), 4:00:00 each" in capsys.readouterr().err
    assert not out_dir.exists()


def test_who_is_not_there_is_refused(call, out_dir, capsys):
    assert call("--participant-label", "01", "99") == ExitCode.NO_INPUT
    assert "sub-99" in capsys.readouterr().err
    assert not out_dir.exists()


def test_damaged_header_leaves_the_others_alone(call, bids_dir, out_dir):
    """The task says what is wrong with it."""
    (bids_dir / "sub-01/anat/sub-01_part-mag_T2starw.nii").write_bytes(b"no image")
    assert call() == ExitCode.DONE
    assert (latest(out_dir) / "array-1.txt").read_text() == "01\n02\n"


def test_time_limits():
    assert [time_limit(text) for text in ("2:30:00", "02:30:00", "2-00:00:10")] == [
        "2:30:00",
        "2:30:00",
        "48:00:10",
    ]


def test_flag_of_many_values_does_not_take_the_level():
    with pytest.raises(Stop):
        cohort_settings(["in", "out", "--participant-label"])
    settings, _ = cohort_settings(["in", "out", "--participant-label", "01", "02"])
    assert settings.participant_label == ("01", "02")


def test_complete_run_is_marked_and_a_later_failure_takes_the_mark_away(
    app, small_dataset, finished, tmp_path, capsys, monkeypatch
):
    out, mark = tmp_path / "out", Path("sub-01", "log", "sub-01_complete.json")
    flags = ["--scheduler", "slurm", *OPTIONS, "-w", str(tmp_path), "--dry-run"]
    assert main([str(small_dataset), str(finished.out_dir), *flags]) == ExitCode.DONE
    assert "1 task(s) complete, 0 to do" in capsys.readouterr().err
    shutil.copytree(finished.out_dir, out)

    def fail(interface, runtime):
        raise ValueError("out of luck")

    monkeypatch.setattr("qsmflow.interfaces.background.RemoveBackgroundByPDF._run_interface", fail)
    assert app(small_dataset, out, tmp_path / "work") == ExitCode.SUBJECT_FAILED
    assert not (out / mark).exists()
    assert main([str(small_dataset), str(out), *flags]) == ExitCode.DONE
    assert "0 task(s) complete, 1 to do" in capsys.readouterr().err


def test_help_comes_before_anything_slow_is_imported():
    script = (
        "import sys\nfrom qsmflow.cli.batch import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "slow = {'torch', 'bids', 'nipype', 'numpy', 'nibabel', 'jinja2'}\n"
        "print(*(slow & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines()[-1] == ""
    assert "--scheduler" in ended.stdout
