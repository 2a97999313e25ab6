"""One subject of 128 × 128 × 48 voxels of 1.5 × 1.5 × 3 mm and five echoes, moving: seconds by stage.

Run as ``python benchmarks/simulate.py [--threads 2] [--device cpu]``. The floor is what no rearrangement of
the same work avoids: the real transforms of both grids of the field, and one read and one write of the
fine maps and of the echoes at the bandwidth that a copy reaches here.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from qsmflow.core.motion import draw_motion
from qsmflow.sim import mgre
from qsmflow.sim.field import HeadField
from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.mgre import MOTION_MODELS, MgreProtocol, simulate_mgre
from qsmflow.sim.subject import draw_subject

SHAPE = (128, 128, 48)
VOXEL_SIZE = (1.5, 1.5, 3.0)
PROTOCOL = MgreProtocol(
    shape=SHAPE,
    affine=oblique_affine(SHAPE, voxel_size=VOXEL_SIZE, rotation=(-15, 4, 2), center=(0, -18, 10)),
    echo_times=(0.004, 0.009, 0.014, 0.019, 0.024),
    snr=100,
)
#: Stages by where they are called.
STAGES = (
    (mgre, "build_head", "head"),
    (HeadField, "__init__", "field, set up"),
    (HeadField, "__call__", "field"),
    (mgre._Scanner, "echoes", "signal"),
    (mgre._Scanner, "truth", "truth (local field included)"),
    (mgre, "move_echoes", "motion of the echoes"),
    (mgre, "_acquired", "noise"),
)


def clock(device: torch.device) -> float:
    """Wall time once all work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def timed_stages(device: torch.device) -> Iterator[dict[str, float]]:
    """Add up the seconds of each stage."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(action: Callable, stage: str) -> Callable:
        def run(*arguments, **settings):
            start = clock(device)
            result = action(*arguments, **settings)
            seconds[stage] += clock(device) - start
            return result

        return run

    patches = [
        mock.patch.object(owner, name, timed(getattr(owner, name), stage)) for owner, name, stage in STAGES
    ]
    for patch in patches:
        patch.start()
    try:
        yield seconds
    finally:
        for patch in patches:
            patch.stop()


def best(action: Callable, device: torch.device, *, repeats: int = 3) -> float:
    """Shortest seconds of several runs."""
    durations = []
    for _ in range(repeats):
        start = clock(device)
        action()
        durations.append(clock(device) - start)
    return min(durations)


def floor(device: torch.device) -> float:
    """Seconds of the transforms of one pose's total field, and of moving its maps and echoes once."""
    affine = PROTOCOL.affine
    grids = mgre.FieldGrids.around(
        *mgre.refined(SHAPE, affine, factor=PROTOCOL.fine_factors), box=mgre.HEAD_BOX
    )
    operator = HeadField(grids, b0_direction=(0, 0, 1), device=device)
    transforms = 0.0
    for size in (operator.fine_size, operator.coarse_size):
        image = torch.zeros(size, device=device)
        spectrum = torch.fft.rfftn(image)
        transforms += best(lambda image=image: torch.fft.rfftn(image), device)
        transforms += best(lambda spectrum=spectrum, size=size: torch.fft.irfftn(spectrum, s=size), device)
    fine = torch.zeros(grids.shape, device=device)
    echoes = torch.zeros((len(PROTOCOL.echo_times), *SHAPE), dtype=torch.complex64, device=device)
    copies = best(lambda: fine.clone(), device) * len(mgre.Head.__dataclass_fields__)
    return transforms + copies + best(lambda: echoes.clone(), device)


def main() -> None:
    """Print one column a motion model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    shape = "x".join(map(str, SHAPE))
    print(f"{shape}, {len(PROTOCOL.echo_times)} echoes, {device}, {arguments.threads} threads")
    motion = draw_motion(torch.Generator().manual_seed(3))
    draw_subject(0)
    start = clock(device)
    subject = draw_subject(1)
    drawn = clock(device) - start
    simulate_mgre(PROTOCOL, subject=subject, device=device)
    names = {"signal": "echoes moved (Eq. 5)", "field": f"head moved (Eq. 4), {len(motion.poses)} poses"}
    for model in MOTION_MODELS:
        with timed_stages(device) as seconds:
            start = clock(device)
            simulate_mgre(PROTOCOL, subject=subject, motion=motion, motion_model=model, device=device)
            total = clock(device) - start
        rows = {"subject": drawn, **seconds, "all": drawn + total}
        print(f"\n{names[model]}")
        print("\n".join(f"  {stage:30}{taken:8.2f} s" for stage, taken in rows.items()))
    print(f"\nfloor of one pose{floor(device):17.2f} s")


if __name__ == "__main__":
    main()
