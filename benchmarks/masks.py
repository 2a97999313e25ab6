"""The small stages: masks, the ventricles, the zero of susceptibility and the sign of the phase.

Run as ``python benchmarks/masks.py [--shapes 96x96x96 160x160x96 256x256x128] [--threads 2]``. Each run has
a process of its own. The floor is one read of the inputs at the bandwidth of a copy; the peak is in float32
volumes of the image beyond the inputs. Last comes what the result is worth against the simulator's truth.
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from measure import copy_seconds, measured, simulated
from torch import Tensor

from qsmflow.core.masks import brain_mask, combine_masks, erode, phase_quality_mask
from qsmflow.core.phase_sign import detect_phase_sign
from qsmflow.core.reference import csf_mask, reference_susceptibility
from qsmflow.sim.canvas import LABELS

_FRAME = ("voxel_size", "b0_direction")


def _dice(found: Tensor, truth: Tensor) -> str:
    return f"Dice {2 * int((found & truth).sum()) / int(found.sum() + truth.sum()):.4f}"


def _refined(data: dict):
    quality = phase_quality_mask(data["phase"], magnitude=data["magnitude"], mask=data["mask"])
    return combine_masks(data["mask"], quality, voxel_size=data["voxel_size"])


def _in_fluid(found: Tensor, data: dict) -> str:
    fluid = (data["labels"][found] == LABELS["csf"]).double().mean()
    return f"{100 * float(fluid):.1f} % fluid"


@dataclass(frozen=True)
class Stage:
    """A stage, the volumes that it reads, and what its result is worth."""

    reads: Sequence[str]
    run: Callable[[dict], object]
    worth: Callable[[object, dict], str]


STAGES = {
    "brain mask": Stage(
        ("magnitude",),
        lambda data: brain_mask(data["magnitude"], voxel_size=data["voxel_size"]),
        lambda found, data: _dice(found, data["mask"]),
    ),
    "phase quality": Stage(
        ("phase", "magnitude", "mask"), _refined, lambda found, data: _dice(found.mask, data["mask"])
    ),
    "erosion by 5 mm": Stage(
        ("mask",),
        lambda data: erode(data["mask"], radius=5, voxel_size=data["voxel_size"]),
        lambda found, data: f"{100 * int(found.sum()) / int(data['mask'].sum()):.1f} % left",
    ),
    "ventricles": Stage(
        ("r2star", "mask"),
        lambda data: csf_mask(data["r2star"], mask=data["mask"], voxel_size=data["voxel_size"]),
        _in_fluid,
    ),
    "reference": Stage(
        ("susceptibility", "mask"),
        lambda data: reference_susceptibility(data["susceptibility"], mask=data["mask"], region=data["mask"]),
        lambda found, data: f"mean {1000 * found.mean:.1f} ppb",
    ),
    "phase sign": Stage(
        ("local_field", "r2star", "mask"),
        lambda data: detect_phase_sign(
            data["local_field"],
            r2star=data["r2star"],
            mask=data["mask"],
            **{name: data[name] for name in _FRAME},
        ),
        lambda found, _: f"{found.sign:+d}, correlation {found.correlation:.2f}",
    ),
}


def inputs(shape: tuple[int, ...]) -> dict:
    """What the stages read, from a simulated scan: noisy maps as the chain makes them, and the truth."""
    problem = simulated(shape)
    scan, times = problem.scan, problem.protocol.echo_times
    first, second, last = scan.signal[0], scan.signal[1], scan.signal[-1]
    rate = (first.abs() / last.abs().clamp_min(1e-6)).log() / (times[-1] - times[0])
    noise = scan.noise / (2 * math.pi * times[-1] * last.abs().clamp_min(scan.noise))
    return {
        "magnitude": scan.signal.abs().square().sum(0).sqrt(),
        "phase": (second * first.conj()).angle(),
        "r2star": rate.clamp(0, 500),
        "local_field": scan.local_field + scan.mask * noise * torch.randn(scan.mask.shape),
        "susceptibility": scan.susceptibility,
        "labels": scan.labels,
        "mask": scan.mask,
        **problem.frame,
    }


def row(path: str, name: str, threads: int) -> str:
    """Figures of one stage, run in this process."""
    torch.set_num_threads(threads)
    data, stage = torch.load(path), STAGES[name]
    peak = measured(lambda: stage.run(data)).peak
    runs = [measured(lambda: stage.run(data)) for _ in range(3)]
    seconds = min(run.seconds for run in runs)
    floor = copy_seconds(sum(data[read].nbytes for read in stage.reads), device="cpu")
    shape = "x".join(map(str, data["mask"].shape))
    return (
        f"{name:16}{shape:>13}{seconds:9.3f}{1000 * floor:9.2f}{seconds / floor:8.0f}"
        f"{peak / (4 * data['mask'].numel()):9.1f}  {stage.worth(runs[0].value, data)}"
    )


def main() -> None:
    """Print one row a stage and shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["96x96x96", "160x160x96", "256x256x128"])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{'stage':16}{'shape':>13}{'s':>9}{'floor ms':>9}{'ratio':>8}{'volumes':>9}  result")
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes:
            path = str(Path(folder) / "inputs.pt")
            torch.save(inputs(tuple(map(int, shape.split("x")))), path)
            # A process for each, since memory that one stage gave back would serve the next unseen.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
                for name in STAGES:
                    print(pool.submit(row, path, name, arguments.threads).result(), flush=True)


if __name__ == "__main__":
    main()
