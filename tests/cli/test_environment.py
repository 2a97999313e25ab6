"""Strange places to be started in."""

import os
import subprocess
import sys

import pytest

from qsmflow.cli.exit_codes import ExitCode

COMMAND = [sys.executable, "-m", "qsmflow", "nowhere größe", "out", "participant"]


def test_a_locale_of_ascii_does_not_matter():
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(COMMAND, env=environment, capture_output=True, check=False)
    assert done.returncode == ExitCode.NO_INPUT
    assert "nowhere größe: no such folder" in done.stderr.decode()


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-"])
def test_nobody_need_listen(closed):
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    assert subprocess.run([*shell, *COMMAND], check=False).returncode == ExitCode.NO_INPUT


@pytest.mark.parametrize(
    "command", [COMMAND, [sys.executable, "-m", "qsmflow.cli.batch", "in", "out", "--scheduler", "slurm"]]
)
def test_a_folder_that_has_gone_is_named_as_the_reason(tmp_path, command):
    here = tmp_path / "here"
    here.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        ["sh", "-c", f'rmdir "{here}" && exec "$@"', "sh", *command],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.NO_INPUT
    assert "the folder that this was started in has gone" in done.stderr
