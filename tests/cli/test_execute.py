"""How a run is handed to Nipype."""

from io import StringIO
from itertools import pairwise
from multiprocessing import forkserver
from pathlib import Path

import pytest
from nipype import config as nipype_config
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe
from rich.console import Console

from qsmflow.cli.execute import configure_nipype, execute, hands_in, load_plugin, write_graph
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.workers import prepare_workers
from qsmflow.workflows.settings import Settings


@pytest.fixture
def make_settings(tmp_path):
    def make(**changed) -> Settings:
        return Settings(tmp_path / "in", tmp_path / "out", work_dir=tmp_path / "work", **changed)

    return make


@pytest.fixture
def nipype_is_restored(tmp_path, monkeypatch):
    """Nipype's configuration is global; take back what a test sets, and write it nowhere else."""
    before = {name: dict(nipype_config._config[name]) for name in nipype_config._config.sections()}
    monkeypatch.setenv("NIPYPE_CONFIG_DIR", str(tmp_path))
    yield
    nipype_config._config.read_dict(before)


def test_one_process_runs_in_line(make_settings):
    assert load_plugin(make_settings(nprocs=1)) == ("Linear", {})


def test_many_processes_share_the_memory(make_settings):
    plugin, arguments = load_plugin(make_settings(nprocs=4, mem_gb=6.5))
    assert plugin == "MultiProc"
    assert (arguments["n_procs"], arguments["memory_gb"]) == (4, 6.5)
    # Where threads wait for one another there is room for one more.
    assert load_plugin(make_settings(nprocs=4, omp_nthreads=4))[1]["n_procs"] == 5
    assert arguments["mp_context"] == "forkserver"


def test_plugin_file_of_the_user_wins(make_settings, tmp_path):
    path = tmp_path / "plugin.yml"
    path.write_text("plugin: SLURM\nplugin_args:\n  sbatch_args: --time=60\n")
    settings = make_settings(use_plugin=path, nprocs=4)
    assert load_plugin(settings) == ("SLURM", {"sbatch_args": "--time=60"})
    path.write_text("plugin: Linear\n")
    assert load_plugin(settings) == ("Linear", {})


@pytest.mark.parametrize(
    "content",
    [
        b"plugin_args: {}",
        b"- plugin",
        b"just words",
        b"",
        b"plugin: [unclosed",
        b"plugin: SLURM\nplugin_args: 3",
        b"plugin: SLURM\nplugin_args: [a, b]",
        b"\xff\xfe\x00binary",
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_malformed_plugin_file_is_a_usage_error(make_settings, tmp_path, content):
    path = tmp_path / "plugin.yml"
    path.write_bytes(content)
    with pytest.raises(Stop) as stop:
        load_plugin(make_settings(use_plugin=path))
    assert stop.value.code == ExitCode.USAGE
    assert f"--use-plugin {path}" in str(stop.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("n_procs: 0", "n_procs: 0 must be a whole number from 1"),
        ("n_procs: many", "n_procs: 'many' must be"),
        ("memory_gb: -1", "memory_gb: -1 must be a number above 0"),
        ("mp_context: banana", "mp_context: 'banana' must be forkserver or spawn"),
    ],
)
def test_arguments_that_no_pool_can_have_are_refused(make_settings, tmp_path, arguments, words):
    path = tmp_path / "plugin.yml"
    path.write_text(f"plugin: MultiProc\nplugin_args:\n  {arguments}\n")
    with pytest.raises(Stop, match=words) as stop:
        load_plugin(make_settings(use_plugin=path))
    assert stop.value.code == ExitCode.USAGE


def test_a_plugin_file_that_stands_for_a_billion_words_is_refused_at_once(make_settings, tmp_path):
    rows = "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghi")
    )
    path = tmp_path / "plugin.yml"
    path.write_text(f"a: &a [{', '.join(['x'] * 9)}]\n{rows}plugin: *i\n")
    with pytest.raises(Stop, match="no plugin named"):
        load_plugin(make_settings(use_plugin=path))


@pytest.mark.parametrize(("verbose", "level"), [(0, "CRITICAL"), (1, "INFO"), (2, "DEBUG"), (9, "DEBUG")])
def test_workers_read_the_configuration_of_the_run(
    make_settings, tmp_path, nipype_is_restored, verbose, level
):
    settings = make_settings(verbose=verbose, stop_on_first_crash=True)
    prepare_workers(settings, log_dir=tmp_path / "crash")
    configure_nipype(settings, log_dir=tmp_path / "crash")
    text = (tmp_path / "nipype.cfg").read_text()
    assert f"workflow_level = {level}" in text
    assert f"crashdump_dir = {tmp_path / 'crash'}" in text
    assert "stop_on_first_crash = True" in text
    assert nipype_config.get("execution", "crashfile_format") == "txt"


def reciprocal(value: int) -> float:
    return 1 / value


@pytest.fixture
def make_workflow(tmp_path):
    """Two nodes in a row, the second of which fails for zero."""

    def make(value: int):
        workflow = pe.Workflow(name="all", base_dir=str(tmp_path / "work"))
        workflow.config["execution"]["crashdump_dir"] = str(tmp_path / "crash")
        workflow.config["execution"]["crashfile_format"] = "txt"
        first, second = (
            pe.Node(Function(["value"], ["out"], function=reciprocal), name=name)
            for name in ("first", "second")
        )
        first.inputs.value = value
        workflow.connect(first, "out", second, "value")
        return workflow

    return make


def test_run_tells_what_it_reused(make_settings, make_workflow):
    said = []
    for _ in range(2):
        written = StringIO()
        console = Console(file=written, force_terminal=False, soft_wrap=True)
        assert execute(make_workflow(4), make_settings(), console=console) is None
        said.append(written.getvalue())
    assert said[0].count("done") == 2
    assert "reused" not in said[0]
    assert "0 stages computed, 2 reused" in said[1]


def test_failure_is_returned_with_its_crash_file(make_settings, make_workflow, tmp_path):
    written = StringIO()
    console = Console(file=written, force_terminal=False, soft_wrap=True)
    failure = execute(make_workflow(0), make_settings(), console=console)
    assert isinstance(failure, RuntimeError)
    assert "FAILED" in written.getvalue()
    assert "reused" not in written.getvalue()
    (crash,) = (tmp_path / "crash").iterdir()
    assert "ZeroDivisionError" in crash.read_text()


@pytest.mark.parametrize("graphviz", [None, "/usr/bin/dot"])
def test_graph_is_left_as_source_without_graphviz(make_settings, make_workflow, monkeypatch, graphviz):
    asked = []
    monkeypatch.setattr("qsmflow.cli.execute.shutil.which", lambda name: graphviz)
    workflow, settings = make_workflow(4), make_settings()
    monkeypatch.setattr(
        workflow, "write_graph", lambda **inputs: asked.append(inputs) or inputs["dotfilename"]
    )
    assert write_graph(workflow, settings) == Path(settings.out_dir / "logs" / "graph.dot")
    assert asked[0]["format"] == ("svg" if graphviz else None)
    assert (settings.out_dir / "logs").is_dir()


@pytest.mark.parametrize(("plugin", "expected"), [("SLURMGraph", True), ("SLURM", False), ("Linear", False)])
def test_plugins_that_do_not_wait_are_known(make_settings, tmp_path, plugin, expected):
    path = tmp_path / "plugin.yml"
    path.write_text(f"plugin: {plugin}\n")
    assert hands_in(make_settings(use_plugin=path)) is expected
    assert not hands_in(make_settings(nprocs=4))


@pytest.mark.parametrize("nprocs", [1, 2])
def test_workers_have_imported_everything_before_they_start(make_settings, tmp_path, monkeypatch, nprocs):
    monkeypatch.setenv("NIPYPE_CONFIG_DIR", str(tmp_path))
    called = []
    monkeypatch.setattr(forkserver, "set_forkserver_preload", called.extend)
    monkeypatch.setattr(forkserver, "ensure_running", lambda: called.append("running"))
    prepare_workers(make_settings(nprocs=nprocs), log_dir=tmp_path / "crash")
    assert called == (["qsmflow.cli.preload", "running"] if nprocs > 1 else [])
