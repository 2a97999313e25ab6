"""Process-wide settings that must stand before the heavy libraries are imported."""

import locale
import os
import sys
from pathlib import Path


def ensure_utf8() -> None:
    """Start this process again in Python's UTF-8 mode where files and messages would be in another encoding.

    An old cluster's locale cannot hold the signs that names and reports need, and libraries write in it.
    """
    if locale.getencoding().lower() not in ("utf-8", "utf8") and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def prepare_environment(cache: Path, *, threads: int) -> None:
    """Keep libraries from reporting usage and from writing to the home folder.

    Parameters
    ----------
    cache : Path
        Existing folder that takes what libraries want to store.
    threads : int
        Threads of the numerical libraries in one process.
    """
    os.environ["NO_ET"] = "1"
    os.environ["NIPYPE_NO_MATLAB"] = "1"
    os.environ["MPLBACKEND"] = "Agg"
    for name in ("TEMPLATEFLOW_HOME", "MPLCONFIGDIR", "NIPYPE_CONFIG_DIR", "XDG_CACHE_HOME", "DENO_DIR"):
        os.environ[name] = str(cache / name.lower())
        Path(os.environ[name]).mkdir(parents=True, exist_ok=True)
    # Nipype's plugins for clusters make the names of jobs with it; containers and cron jobs lack it.
    os.environ.setdefault("LOGNAME", str(os.getuid()))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
