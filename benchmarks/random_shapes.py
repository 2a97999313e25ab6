"""Random shapes: samples a second, and where the time goes.

Usage: python benchmarks/random_shapes.py [--device cuda] [--shape 64] [--batch-size 8] [--seconds 10]

The floor is the field: two Fourier transforms a sample, which no way of drawing shapes can spare. On the CPU
one thread is used.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from qsmflow.sim.random_shapes import (
    ShapeConvolution,
    ShapeSettings,
    draw_shapes,
    render_shapes,
    stream_shapes,
)


def seconds_per_call(action: Callable, *, device: torch.device, at_least: float) -> tuple[float, float]:
    """Mean wall time and CPU time of an action once it is warm."""
    for _ in range(2):
        action()
    synchronise(device)
    wall, cpu, calls = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < at_least:
        action()
        synchronise(device)
        calls += 1
    return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls


def synchronise(device: torch.device) -> None:
    """Wait for a GPU to end what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Print one row a stage, then the stream as a whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", type=int, default=64, help="voxels along each edge")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each stage is measured")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    settings = ShapeSettings(shape=(arguments.shape,) * 3, b0_cone=180)
    frame = {"shape": settings.shape, "voxel_size": settings.voxel_size, "device": device}
    indices = range(arguments.batch_size)
    samples = [draw_shapes(settings, seed=0, index=index) for index in indices]
    susceptibility = render_shapes(samples, **frame)
    direction = torch.stack([sample.b0_direction for sample in samples]).to(device)
    convolve = ShapeConvolution(**frame)
    stream = stream_shapes(settings, batch_size=arguments.batch_size, device=device)
    stages = {
        "draw": lambda: [draw_shapes(settings, seed=0, index=index) for index in indices],
        "render": partial(render_shapes, samples, **frame),
        "kernel and field": partial(convolve, susceptibility, b0_direction=direction),
        "stream": partial(next, stream),
    }
    n_shapes = sum(len(sample.susceptibility) for sample in samples) / len(samples)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"
    print(
        f"{arguments.shape}³ voxels, {n_shapes:.0f} shapes a sample, "
        f"batches of {arguments.batch_size}, {name}"
    )
    print(f"{'stage':20s}{'wall ms/sample':>16s}{'CPU ms/sample':>16s}{'samples/s':>12s}")
    times = {}
    for stage, action in stages.items():
        spent = seconds_per_call(action, device=device, at_least=arguments.seconds)
        wall, cpu = (seconds / arguments.batch_size for seconds in spent)
        times[stage] = wall
        print(f"{stage:20s}{1e3 * wall:16.2f}{1e3 * cpu:16.2f}{1 / wall:12.1f}")
    print(f"the field's share of the stream: {100 * times['kernel and field'] / times['stream']:.0f} %")


if __name__ == "__main__":
    main()
