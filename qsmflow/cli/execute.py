"""Runs a workflow on Nipype's engine."""

import reprlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from nipype import config as nipype_config
from nipype import logging as nipype_logging
from nipype.pipeline import plugins
from nipype.pipeline.engine.utils import generate_expanded_graph
from nipype.pipeline.plugins.base import GraphPluginBase
from rich.console import Console

from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.progress import RunProgress
from qsmflow.cli.scheduler import LocalScheduler
from qsmflow.cli.workers import nipype_options
from qsmflow.workflows.settings import Settings


def configure_nipype(settings: Settings, *, log_dir: Path) -> None:
    """Set what Nipype keeps globally, before a workflow is built.

    Parameters
    ----------
    settings : Settings
        Of the run.
    log_dir : Path
        Where crash files go unless a subject has a folder of its own.
    """
    nipype_config.update_config(nipype_options(settings, log_dir=log_dir))
    nipype_logging.update_logging(nipype_config)


def load_plugin(settings: Settings) -> tuple[str, dict]:
    """Nipype plugin and its arguments, from the file of the user or from the resources.

    Parameters
    ----------
    settings : Settings
        Of the run.

    Returns
    -------
    tuple of str and dict
        As ``Workflow.run`` takes them.

    Raises
    ------
    Stop
        If the plugin file is not a mapping with the key ``plugin``.
    """
    if settings.use_plugin is not None:
        try:
            content = yaml.safe_load(settings.use_plugin.read_text())
            name, arguments = content["plugin"], dict(content.get("plugin_args", {}))
        except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise Stop(
                ExitCode.USAGE,
                f"--use-plugin {settings.use_plugin}: must be YAML with the key 'plugin' "
                f"({reprlib.repr(error)})",
            ) from error
        # Not repr: a short file can stand for a value without end.
        if not (isinstance(name, str) and hasattr(plugins, f"{name}Plugin")):
            shown = reprlib.repr(name)
            raise Stop(
                ExitCode.USAGE, f"--use-plugin {settings.use_plugin}: Nipype has no plugin named {shown}"
            )
        if name == "MultiProc":
            _check_multiproc(arguments, settings.use_plugin)
        return name, arguments
    if settings.nprocs == 1:
        return "Linear", {}
    # The threads of a stage wait for one another now and then: beside it there is room for a picture.
    beside = int((settings.omp_nthreads or 1) > 1)
    return "MultiProc", {
        "n_procs": settings.nprocs + beside,
        "memory_gb": settings.mem_gb,
        "raise_insufficient": False,
        # A forked child of a process that has used threads may hang.
        "mp_context": "forkserver",
    }


def _check_multiproc(arguments: Mapping[str, Any], file: Path) -> None:
    """Refuse arguments of MultiProc that its pool of workers would trip over."""
    wanted = {
        "n_procs": ("a whole number from 1", lambda value: isinstance(value, int) and value >= 1),
        "memory_gb": ("a number above 0", lambda value: isinstance(value, int | float) and value > 0),
        "mp_context": ("forkserver or spawn", lambda value: value in ("forkserver", "spawn")),
    }
    for name, (expected, is_right) in wanted.items():
        if name in arguments and not is_right(arguments[name]):
            shown = reprlib.repr(arguments[name])
            raise Stop(ExitCode.USAGE, f"--use-plugin {file}: {name}: {shown} must be {expected}")


def hands_in(settings: Settings) -> bool:
    """Whether the plugin hands in all stages at once and does not wait for them, as SLURMGraph does."""
    plugin, _ = load_plugin(settings)
    return issubclass(getattr(plugins, f"{plugin}Plugin"), GraphPluginBase)


def execute(workflow, settings: Settings, *, console: Console) -> RuntimeError | None:
    """Run a workflow to its end.

    Parameters
    ----------
    workflow : nipype.pipeline.engine.Workflow
        The whole run.
    settings : Settings
        Resources, plugin, what to do on a crash.
    console : rich.console.Console
        Takes the progress.

    Returns
    -------
    RuntimeError or None
        What Nipype raised at the end when nodes failed; their crash files say more.
    """
    plugin, arguments = load_plugin(settings)
    nodes = generate_expanded_graph(workflow._create_flat_graph()).nodes
    with RunProgress(len(nodes), console=console) as progress:
        failure = None
        try:
            arguments = {**arguments, "status_callback": progress.callback}
            runner = LocalScheduler(arguments) if plugin == "MultiProc" else plugin
            workflow.run(plugin=runner, plugin_args=arguments)
        except RuntimeError as error:
            failure = error
    reused = sum(not node.run_without_submitting for node in nodes) - progress.n_computed
    if reused and failure is None:
        console.print(f"{progress.n_computed} stages computed, {reused} reused from {settings.work_dir}")
    return failure


def write_graph(workflow, settings: Settings) -> Path:
    """Draw the workflow into the output's logs: SVG where Graphviz is installed, else its source.

    Parameters
    ----------
    workflow : nipype.pipeline.engine.Workflow
        The whole run.
    settings : Settings
        Says where the output is.

    Returns
    -------
    Path
        The picture or the .dot file.
    """
    target = settings.out_dir / "logs" / "graph.dot"
    target.parent.mkdir(parents=True, exist_ok=True)
    drawing = "svg" if shutil.which("dot") else None
    return Path(workflow.write_graph(graph2use="colored", dotfilename=str(target), format=drawing))
