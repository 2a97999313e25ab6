"""What all tests share: reproducible noise and the measured data."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def seeded():
    """Start every test from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of measured data; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("QSMFLOW_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no measured data at {folder}; set QSMFLOW_TEST_DATA")
    return folder
