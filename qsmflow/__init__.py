"""qsmflow: quantitative susceptibility mapping as a BIDS-App."""

import os

# nipype, niworkflows and pydra report usage over the network when imported; qsmflow never does.
os.environ.setdefault("NO_ET", "1")
# Threads that spin while they wait are slower than one thread where cores are shared; OpenMP reads this once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from qsmflow.version import __version__

__all__ = ["__version__"]
