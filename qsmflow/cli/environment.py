"""Process-wide settings that must stand before the heavy libraries are imported."""

import os
from pathlib import Path


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
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
