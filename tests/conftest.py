"""What all tests share: reproducible noise and the measured data."""

import os
from pathlib import Path

import pytest
import torch

from qsmflow.nets.bundle import ModelCard, VoxelRange, save_bundle

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


@pytest.fixture(scope="session")
def networks(tmp_path_factory) -> dict[str, Path]:
    """Folders of small networks by architecture: fixed random weights, untrained but for their size."""
    folder = tmp_path_factory.mktemp("networks")
    small = {
        "deepqsm": {"stages": 1, "channels": [2, 4]},
        "unet": {"channels": [2, 4]},
        "prenet": {"channels": 4, "recursions": 2, "blocks": 1},
    }
    found = {}
    for kind, settings in small.items():
        card = ModelCard.untrained(
            kind,
            settings,
            name=f"small-{kind}",
            voxel_range=VoxelRange(finest=0.5, coarsest=6.0, anisotropy=4.0),
            limits=("Knows nothing.",),
        )
        torch.manual_seed(0)
        network = card.build()
        if kind == "unet":
            # A fresh one changes nothing; this one adds what depends on the neighbours.
            torch.nn.init.normal_(network.head.weight)
        found[kind] = save_bundle(folder / kind, network, card)
    return found
