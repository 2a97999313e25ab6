"""qsmflow: quantitative susceptibility mapping as a BIDS-App."""

import os

# nipype, niworkflows and pydra report usage over the network when imported; qsmflow never does.
os.environ.setdefault("NO_ET", "1")

from qsmflow.version import __version__

__all__ = ["__version__"]
