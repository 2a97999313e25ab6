"""Jobs without images: to build a graph, empty files do."""

from pathlib import Path

import pytest

from qsmflow.bids.acquisition import Acquisition, Echo
from qsmflow.bids.phase_range import PhaseRange
from qsmflow.workflows.job import AcquisitionJob
from qsmflow.workflows.memory import stage_memory
from qsmflow.workflows.settings import Settings


@pytest.fixture
def make_job(tmp_path):
    """A job of a subject with some echoes, perhaps with a mask."""

    def make(*, subject: str = "01", n_echoes: int = 4, own_mask: bool = False, **entities) -> AcquisitionJob:
        folder = tmp_path / "raw" / f"sub-{subject}" / "anat"
        echoes = tuple(
            Echo(folder / f"mag-{n}.nii.gz", folder / f"phase-{n}.nii.gz", 0.004 * n, {})
            for n in range(1, n_echoes + 1)
        )
        mask = tmp_path / "mask.nii"
        folder.mkdir(parents=True, exist_ok=True)
        for path in (mask, *(path for echo in echoes for path in echo.files)):
            path.touch()
        return AcquisitionJob(
            acquisition=Acquisition(subject, entities.pop("session", None), entities, "MEGRE", echoes),
            phase_range=PhaseRange("0 … 4095", "stored", 1.0, 0.0, 0, 4095),
            field_strength=3.0,
            mask_file=mask if own_mask else None,
            memory=stage_memory((64, 64, 32), n_echoes=n_echoes, networks=("motion",)),
        )

    return make


@pytest.fixture
def make_settings(tmp_path):
    """Settings of a run in a folder that is taken away."""

    def make(**changed) -> Settings:
        folders = {name: tmp_path / Path(name) for name in ("raw", "out", "work")}
        return Settings(folders["raw"], folders["out"], work_dir=folders["work"], **changed)

    return make
