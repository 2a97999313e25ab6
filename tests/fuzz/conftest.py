"""Settings of hypothesis: the same examples every time, and no file left beside the sources."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(Path(tempfile.gettempdir(), "hypothesis"))
settings.register_profile("qsmflow", derandomize=True, database=None, deadline=None, max_examples=150)
settings.load_profile("qsmflow")
