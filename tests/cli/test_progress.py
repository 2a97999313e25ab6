"""What a run tells: a line a stage in a log, a bar on a terminal."""

import os
import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe
from rich.console import Console

from qsmflow.cli.progress import RunProgress, node_title

FIT = "qsmflow_wf.sub_01_wf.sub_01_wf.field_wf.fit"


@dataclass
class Stage:
    """What the progress asks of a node."""

    folder: Path
    fullname: str = FIT
    run_without_submitting: bool = False

    @property
    def name(self) -> str:
        return self.fullname.rsplit(".", 1)[-1]

    def output_dir(self) -> str:
        return str(self.folder)

    def leave_result(self, *, age: float) -> None:
        """The file in which Nipype keeps a node's result, some seconds old."""
        result = self.folder / f"result_{self.name}.pklz"
        result.touch()
        os.utime(result, (result.stat().st_mtime - age,) * 2)


@pytest.fixture
def written():
    return StringIO()


@pytest.fixture
def progress(written):
    """Progress of two nodes into a log."""
    with RunProgress(2, console=Console(file=written, force_terminal=False, width=200)) as progress:
        yield progress


def run(progress, stage, *, end: str = "end") -> None:
    """What Nipype tells of a node that computes."""
    progress.callback(stage, "start")
    stage.leave_result(age=-1)
    progress.callback(stage, end)


def test_a_stage_leaves_one_plain_line(progress, written, tmp_path):
    stage = Stage(tmp_path)
    progress.callback(stage, "start")
    assert written.getvalue() == ""
    stage.leave_result(age=-1)
    progress.callback(stage, "end")
    assert re.fullmatch(r"\d\d:\d\d:\d\d sub-01 field fit: done in \d+\.\d s\n", written.getvalue())
    assert progress.n_computed == 1


def test_failure_is_said_even_of_the_smallest_node(progress, written, tmp_path):
    run(progress, Stage(tmp_path, run_without_submitting=True), end="exception")
    assert "sub-01 field fit: FAILED" in written.getvalue()


def test_small_nodes_are_neither_counted_nor_told(progress, written, tmp_path):
    run(progress, Stage(tmp_path, run_without_submitting=True))
    assert written.getvalue() == ""
    assert progress.n_computed == 0


def test_result_of_an_earlier_run_is_not_counted(progress, written, tmp_path):
    stage = Stage(tmp_path)
    stage.leave_result(age=60)
    progress.callback(stage, "start")
    progress.callback(stage, "end")
    assert written.getvalue() == ""
    assert progress.n_computed == 0


def test_nodes_that_never_ran_are_not_counted(progress, written, tmp_path):
    """Nipype ends with an exception also those that wait for a failed one."""
    progress.callback(Stage(tmp_path), "exception")
    assert written.getvalue() == ""
    assert progress.n_computed == 0


def test_terminal_gets_a_bar_and_no_lines(written, tmp_path):
    console = Console(file=written, force_terminal=True, width=100)
    with RunProgress(1, console=console) as progress:
        run(progress, Stage(tmp_path))
    assert "1/1" in written.getvalue()
    assert "done in" not in written.getvalue()


def twice(value: int) -> int:
    return 2 * value


def test_nipype_s_own_nodes_are_followed(tmp_path):
    """Two runs of a workflow: the second computes nothing, a changed input only what hangs on it."""

    def run_workflow(value: int) -> tuple[int, int]:
        workflow = pe.Workflow(name="all", base_dir=str(tmp_path))
        first, second, other = (
            pe.Node(Function(["value"], ["out"], function=twice), name=name)
            for name in ("first", "second", "other")
        )
        first.inputs.value, other.inputs.value = value, 5
        workflow.connect(first, "out", second, "value")
        workflow.add_nodes([other])
        written = StringIO()
        with RunProgress(3, console=Console(file=written, force_terminal=False)) as progress:
            workflow.run(plugin="Linear", plugin_args={"status_callback": progress.callback})
        return progress.n_computed, written.getvalue().count("done")

    assert run_workflow(1) == (3, 3)
    assert run_workflow(1) == (0, 0)
    assert run_workflow(2) == (2, 2)


@pytest.mark.parametrize(
    ("fullname", "title"),
    [
        (FIT, "sub-01 field fit"),
        ("qsmflow_wf.sub_01_wf.sub_01_ses_a_acq_b_wf.report_wf.facts", "sub-01_ses-a_acq-b report facts"),
        ("qsmflow_wf.other", "other"),
    ],
)
def test_titles_are_readable(fullname, title):
    assert node_title(fullname) == title
