"""A small simulated data set and a finished run on it, shared by the tests of the app."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from qsmflow.cli.run import main
from qsmflow.sim.dataset import write_dataset
from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.mgre import MgreProtocol
from qsmflow.sim.study import Study, cohort


@pytest.fixture(autouse=True)
def environment_is_restored():
    """The app sets environment variables and threads for the whole process; take them back."""
    before, threads = dict(os.environ), torch.get_num_threads()
    yield
    os.environ.clear()
    os.environ.update(before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory) -> Path:
    """One subject with four echoes on a coarse oblique grid."""
    folder = tmp_path_factory.mktemp("input") / "small"
    shape = (40, 46, 37)
    affine = oblique_affine(shape, voxel_size=(4, 4, 4), rotation=(-15, 12, 0), center=(0, -18, 2))
    times = (0.003, 0.006, 0.009, 0.012)
    protocol = MgreProtocol(shape=shape, affine=affine, echo_times=times, supersampling=2)
    for _ in write_dataset(folder, Study(protocol, cohort())):
        pass
    return folder


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@dataclass(frozen=True)
class Run:
    """A run of the app: its folders and exit code, and the input's files before and after it."""

    bids_dir: Path
    out_dir: Path
    work_dir: Path
    code: int
    input_before: dict
    input_after: dict

    def again(self, *arguments: str, out_dir: Path | None = None) -> int:
        """Run once more on the same work folder."""
        return run_app(self.bids_dir, out_dir or self.out_dir, self.work_dir, *arguments)


def run_app(bids_dir: Path, out_dir: Path, work_dir: Path, *arguments: str) -> int:
    """Run the app in this process with what makes it quick."""
    quick = ["--nprocs", "1", "--omp-nthreads", "1", "--inversion", "tkd", "--sloppy"]
    quick += ["--motion-correction", "off"]
    return main([str(bids_dir), str(out_dir), "participant", "-w", str(work_dir), *quick, *arguments])


@pytest.fixture(scope="session")
def finished(small_dataset, tmp_path_factory) -> Run:
    """A complete run with thresholded k-space division."""
    folder = tmp_path_factory.mktemp("run")
    before = state(small_dataset)
    code = run_app(small_dataset, folder / "out", folder / "work")
    return Run(small_dataset, folder / "out", folder / "work", code, before, state(small_dataset))


@pytest.fixture(scope="session")
def app():
    """The function that runs the app."""
    return run_app


@pytest.fixture(scope="session")
def state_of():
    """The function that tells what lies in a folder."""
    return state
