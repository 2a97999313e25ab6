"""A small data set of pairs with a flaw that a small network can learn to take away."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from qsmflow.nets.bundle import ModelCard, load_bundle, save_bundle
from qsmflow.nets.unet import UNet, UNetSettings
from qsmflow.sim.files import write_image, write_json

SUBJECTS = 6
SHAPE = (20, 18, 16)


def write_subject(folder: Path, number: int, *, shape=SHAPE, motions: int = 2) -> None:
    """Smooth maps; in motion they are 0.6 times as large and lie beside their mean."""
    rng = np.random.default_rng(number)
    label = f"sub-{number:02d}"
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    mask = np.zeros(shape, np.uint8)
    mask[2:-2, 2:-2, 1:-1] = 1
    coarse = rng.normal(size=(5, 5, 4))
    still = 0.1 * np.kron(coarse, np.ones((4, 4, 4)))[: shape[0], : shape[1], : shape[2]].astype(np.float32)
    sidecar = {"Units": "ppm", "MagneticFieldStrength": 3.0}

    def write(name: str, image: np.ndarray) -> None:
        write_image(folder / label / name, image, affine, sidecar)

    write(f"anat/{label}_acq-still_Chimap", still * mask + 0.5)
    write(f"anat/{label}_acq-still_desc-brain_mask", mask)
    write(f"anat/{label}_acq-still_desc-truth_Chimap", still * mask)
    write(f"fmap/{label}_acq-still_desc-local_fieldmap", (0.3 * still * mask).astype(np.float32))
    for run in range(1, motions + 1):
        prefix = f"anat/{label}_acq-motion_run-{run:02d}"
        write(f"{prefix}_Chimap", 0.6 * still * mask - 0.2)
        smaller = mask.copy()
        smaller[:, :, :run] = 0
        write(f"{prefix}_desc-brain_mask", smaller)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    """A derivatives data set of six subjects with two maps in motion each."""
    folder = tmp_path_factory.mktemp("pairs")
    made_by = {"Name": "Toy", "GeneratedBy": [{"Name": "qsmflow-train pairs"}]}
    write_json(folder / "dataset_description.json", made_by)
    for number in range(1, SUBJECTS + 1):
        write_subject(folder, number)
    return folder


@pytest.fixture
def changed(pairs, tmp_path):
    """A copy of the data set that a test may change."""
    copied = tmp_path / "copied"
    shutil.copytree(pairs, copied)
    return copied


@pytest.fixture
def tiny_unet(tmp_path):
    """A bundle of a U-Net that changes nothing yet."""
    network = UNet(UNetSettings(channels=(2, 4)))
    card = ModelCard.untrained("unet", {"channels": (2, 4)}, name="tiny")
    return load_bundle(save_bundle(tmp_path / "tiny", network, card))
