"""Prepares worker processes, as early as can be: they need seconds to import what they use."""

import os
from configparser import RawConfigParser
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from qsmflow.workflows.settings import Settings

_LEVELS = {0: "CRITICAL", 1: "INFO", 2: "DEBUG"}


def nipype_options(settings: Settings, *, log_dir: Path) -> dict[str, dict[str, Any]]:
    """What Nipype keeps globally, by the sections of its configuration.

    Parameters
    ----------
    settings : Settings
        Of the run.
    log_dir : Path
        Where crash files go unless a subject has a folder of its own.
    """
    level = _LEVELS[min(settings.verbose, max(_LEVELS))]
    return {
        "execution": {
            # A percent sign means something in this kind of file.
            "crashdump_dir": str(log_dir).replace("%", "%%"),
            "crashfile_format": "txt",
            "stop_on_first_crash": settings.stop_on_first_crash,
            "stop_on_first_rerun": False,
            "remove_unnecessary_outputs": False,
            "check_version": False,
            "create_report": False,
            "poll_sleep_duration": 0.02,
        },
        "logging": {
            "log_to_file": False,
            **{f"{name}_level": level for name in ("workflow", "utils", "interface")},
        },
    }


def prepare_workers(settings: Settings, *, log_dir: Path) -> None:
    """Write what workers read, and let the process that they are forked from import what they need.

    It does so while this one plans the run, and has not computed anything yet: each worker is there at once,
    and shares the memory of the libraries with the others.

    Parameters
    ----------
    settings : Settings
        Of the run.
    log_dir : Path
        As for :func:`nipype_options`, which workers know of only through the file that Nipype reads when it
        is imported.
    """
    configuration = RawConfigParser()
    configuration.read_dict(nipype_options(settings, log_dir=log_dir))
    with Path(os.environ["NIPYPE_CONFIG_DIR"], "nipype.cfg").open("w") as file:
        configuration.write(file)
    if settings.use_plugin is None and settings.nprocs > 1:
        forkserver.set_forkserver_preload(["qsmflow.cli.preload"])
        forkserver.ensure_running()
