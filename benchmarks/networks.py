"""Seconds and peak memory of the networks on one volume.

Run ``python benchmarks/networks.py [--shape 160x160x160] [--device cuda] [--threads 2] [--memory-gb 1 ...]``.
A row a task (DeepQSM; U-Net and PReNet against motion), mask (an ellipsoid as a head fills its box, and the
whole box), precision and memory limit. Each run has a process of its own: seconds of its first and its second
prediction, those of the U-Net in the first, and the peak of its memory above what it held before. Models that
are not shipped get random weights.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import product

# Whatever is heavy is imported in the processes that are measured: on Linux a process starts with the
# peak of the one that started it.
MODELS = {"deepqsm-head": "deepqsm", "motion-unet": "unet", "motion-prenet": "prenet"}
#: Half axes of the ellipsoid over those of the box, of which it then fills six tenths.
HALF_AXES = 1.05


def bundle(name: str, *, device: str):
    """A shipped model, or one with random weights."""
    from qsmflow.nets.bundle import load_bundle, save_bundle, shipped_models
    from qsmflow.nets.card import ModelCard
    from qsmflow.train.settings import FRESH

    if name in shipped_models():
        return load_bundle(name, device=device)
    card = ModelCard.untrained(MODELS[name], FRESH.get((MODELS[name], "default")))
    with tempfile.TemporaryDirectory() as folder:
        return load_bundle(save_bundle(folder, card.build(), card), device=device)


def measure(
    *,
    task: str,
    mask: str,
    shape: list[int],
    precision: str,
    memory_gb: float | None,
    device: str,
    threads: int,
) -> dict:
    """Run one task in this process."""
    import torch
    from measure import measured

    from qsmflow.nets.predict import correct_motion, predict_susceptibility

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    image = 0.05 * torch.randn(shape, device=device)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size, device=device) for size in shape], indexing="ij")
    radius = sum(axis**2 for axis in axes).sqrt()
    inside = radius < HALF_AXES if mask == "head" else torch.ones_like(radius, dtype=torch.bool)
    steps = []
    common = {
        "mask": inside,
        "voxel_size": (1.0, 1.0, 1.0),
        "precision": precision,
        "memory_gb": memory_gb,
        "progress": lambda done, total: steps.append(time.perf_counter()),
    }
    if task == "deepqsm":
        common |= {"b0_direction": (0.1, 0.2, 0.97), "bundle": bundle("deepqsm-head", device=device)}
        predict = predict_susceptibility
    else:
        common |= {key: bundle(f"motion-{key}", device=device) for key in ("unet", "prenet")}
        predict = correct_motion
    start = time.perf_counter()
    first = measured(lambda: predict(image, **common), device=device)
    volume_network = steps[first.value.tiles - 1] - start
    second = measured(lambda: predict(image, **common), device=device)
    return {
        "precision": first.value.precision,
        "tiles": first.value.tiles,
        "share": float(inside.float().mean()),
        "first": first.seconds,
        "second": second.seconds,
        "volume_network": volume_network if task == "motion" else None,
        "gb": first.peak / 1e9,
    }


def main() -> None:
    """Print one row a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", default="160x160x160")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", default=["deepqsm", "motion"])
    parser.add_argument("--masks", nargs="+", default=["head", "full"], choices=["head", "full"])
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument(
        "--memory-gb", type=float, nargs="+", default=[None], help="limits; none unless given"
    )
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(measure(**options.run)))
        return
    shape = [int(size) for size in options.shape.split("x")]
    print(f"{options.shape}, {options.device}, {options.threads} threads")
    print(
        f"{'task':10}{'mask':14}{'precision':11}{'tiles':>6}"
        f"{'first s':>9}{'U-Net s':>9}{'second s':>9}{'GB':>7}"
    )
    for run in product(options.tasks, options.masks, options.precisions, options.memory_gb):
        given = dict(zip(("task", "mask", "precision", "memory_gb"), run, strict=True))
        given |= {"shape": shape, "device": options.device, "threads": options.threads}
        command = [sys.executable, __file__, "--run", json.dumps(given)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        mask = f"{given['mask']} {100 * found['share']:.0f} %"
        unet = "" if found["volume_network"] is None else f"{found['volume_network']:.2f}"
        print(
            f"{given['task']:10}{mask:14}{found['precision']:11}{found['tiles']:6}{found['first']:9.2f}"
            f"{unet:>9}{found['second']:9.2f}{found['gb']:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
