"""A cohort on a real Slurm: no task takes another one down, and the next call does what is missing."""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmflow.cli.batch import main
from qsmflow.cli.exit_codes import ExitCode

#: Ends as the subject's label says, the second time well; as quick as only a script can be.
STAND_IN = """#!{python} -S
import subprocess, sys, time
from pathlib import Path

out, level = Path(sys.argv[2]), sys.argv[3]
if level == "group":
    running = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout
    (out / "group.html").write_text(running)
    sys.exit()
options = dict(zip(sys.argv[4::2], sys.argv[5::2]))
label = options["--participant-label"]
with (out / "ran.txt").open("a") as file:
    file.write(label + chr(10))
Path(options["--work-dir"]).mkdir(parents=True, exist_ok=True)
if not (out / "mended").exists():
    if label == "bad":
        print("sub-bad FAILED: input: EchoTime is in milliseconds", file=sys.stderr)
        sys.exit(65)
    if label == "greedy":
        hoard = b"x" * 2_000_000_000
    if label in ("greedy", "slow", "unwanted"):
        time.sleep(300)
for name in ("log/sub-{{}}_complete.json", "anat/sub-{{}}_Chimap.nii.gz", "../sub-{{}}.html"):
    path = out / ("sub-" + label) / name.format(label)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
"""
LABELS = [*(f"{number:02d}" for number in range(1, 27)), "bad", "greedy", "slow", "unwanted"]


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Thirty subjects with one small echo each, in a folder whose name needs quotes."""
    folder = tmp_path / "Müller's 50% $HOME"
    folder.mkdir()
    (folder / "dataset_description.json").write_text('{"Name": "cohort", "BIDSVersion": "1.10.0"}')
    for label in LABELS:
        anat = folder / f"sub-{label}" / "anat"
        anat.mkdir(parents=True)
        for part in ("mag", "phase"):
            stem = anat / f"sub-{label}_part-{part}_T2starw"
            nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)), f"{stem}.nii")
            Path(f"{stem}.json").write_text(json.dumps({"EchoTime": 0.02}))
    return folder


@pytest.fixture
def stand_in(tmp_path) -> Path:
    """A program in the place of qsmflow."""
    path = tmp_path / "a container" / "stand-in"
    path.parent.mkdir()
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_what_fails_is_named_and_done_by_the_next_call(slurm, dataset, stand_in, tmp_path, capfd):
    out, work = tmp_path / "out `x` 'y'", tmp_path / "work; folder"
    arguments = [str(dataset), str(out), "--scheduler", "slurm", "--submit", "--time", "0:01:00"]
    arguments += ["--skip-bids-validation", "--work-dir", str(work), "--command", f"'{stand_in}'"]
    arguments += ["--discard-work", "--motion-correction", "off", "--scheduler-option=--comment='two words'"]
    ran = out / "ran.txt"

    assert main(arguments) == ExitCode.DONE
    said = capfd.readouterr()
    assert "0 task(s) complete, 30 to do" in said.err
    array, group = (line.split()[-1] for line in said.out.splitlines())
    assert f"afterany:{array}" in slurm.ask("squeue", "--noheader", "--format=%E", f"--jobs={group}")
    assert slurm.ask("squeue", "--noheader", "--format=%k", f"--jobs={group}") == "two words"
    assert main(arguments) == ExitCode.INPUT_OUTPUT
    assert "still write into this output folder" in capfd.readouterr().err

    slurm.wait(lambda: ran.exists() and "unwanted" in ran.read_text().split())
    slurm.ask("scancel", f"{array}_{LABELS.index('unwanted') + 1}")
    slurm.wait_for_all()
    assert sorted(ran.read_text().split()) == LABELS
    # When the group level ran, nothing else did.
    assert (out / "group.html").read_text().split()[0] == group
    assert len((out / "group.html").read_text().splitlines()) == 1
    assert sorted(path.name for path in work.iterdir()) == [
        "sub-bad",
        "sub-greedy",
        "sub-slow",
        "sub-unwanted",
    ]

    (out / "mended").touch()
    assert main(arguments) == ExitCode.DONE
    reasons = {
        line.split(": last time: ")[0]: line
        for line in capfd.readouterr().err.splitlines()
        if "last time" in line
    }
    assert set(reasons) == {"sub-bad", "sub-greedy", "sub-slow", "sub-unwanted"}
    assert "EchoTime is in milliseconds" in reasons["sub-bad"]
    assert "memory" in reasons["sub-greedy"]
    assert "DUE TO TIME LIMIT" in reasons["sub-slow"]
    assert "CANCELLED" in reasons["sub-unwanted"]
    slurm.wait_for_all()
    assert sorted(ran.read_text().split()) == sorted([*LABELS, "bad", "greedy", "slow", "unwanted"])
    assert not list(work.iterdir())
    assert main(arguments) == ExitCode.DONE
    assert "nothing is left to do" in capfd.readouterr().err


@pytest.mark.slow
def test_tasks_of_a_dead_node_run_again(slurm, dataset, stand_in, tmp_path):
    out, labels = tmp_path / "out", ["01", "slow", "unwanted"]
    arguments = [str(dataset), str(out), "--scheduler", "slurm", "--submit", "--skip-bids-validation"]
    arguments += ["--work-dir", str(tmp_path / "work"), "--command", f"'{stand_in}'"]
    assert main([*arguments, "--participant-label", *labels]) == ExitCode.DONE
    ran = out / "ran.txt"
    slurm.wait(lambda: ran.exists() and set(ran.read_text().split()) == set(labels))
    slurm.wait(lambda: len(slurm.ask("squeue", "--noheader", "-r", "--states=RUNNING").splitlines()) == 2)
    slurm.kill_node()
    (out / "mended").touch()
    slurm.start_node()
    slurm.wait_for_all(seconds=400)
    assert sorted(ran.read_text().split()) == ["01", "slow", "slow", "unwanted", "unwanted"]
    assert len(list(out.glob("sub-*/log/*_complete.json"))) == 3
    assert (out / "group.html").exists()
