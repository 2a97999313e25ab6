"""A run that is told to stop stops, with its workers, and leaves nothing half-written."""

import os
import signal
import subprocess
import sys
import time

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_ends_at_once(small_dataset, tmp_path, number):
    arguments = [str(small_dataset), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work")]
    arguments += ["--nprocs", "2", "--skip-bids-validation", "--motion-correction", "off"]
    command = [sys.executable, "-m", "qsmflow", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        for line in run.stderr:
            if "done in" in line:
                break
        began = time.monotonic()
        run.send_signal(number)
        said = run.stderr.read()
        assert run.wait() == 128 + number
    assert time.monotonic() - began < 20
    assert "run again with the same --work-dir" in said
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    with pytest.raises(ProcessLookupError):
        for _ in range(50):
            os.killpg(run.pid, 0)
            time.sleep(0.2)
