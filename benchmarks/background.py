"""Seconds, transforms, memory and errors of PDF and V-SHARP on the comparison problem.

Run ``python benchmarks/background.py [NXxNYxNZ ...] [--device cuda]``; 160x160x96 unless given. Each line
is one removal from the true total field with the noise of a fit: wall seconds, transforms (a forward or an
inverse one of the grid counts one half of a pair) and the time that these alone take, their ratio, peak
memory in float32 volumes beyond the inputs, error of the local field (norm of the demeaned difference over
that of the demeaned truth) at 6 mm or more from the mask's surface and in the whole of the mask returned.
"""

import argparse
from collections import Counter
from unittest import mock

import numpy as np
import torch
from measure import measured, nrmse, simulated, transform_seconds
from scipy.ndimage import distance_transform_edt

from qsmflow.core.background.pdf import remove_background_pdf
from qsmflow.core.background.vsharp import remove_background_vsharp
from qsmflow.core.echoes import fit_echoes

MARGIN = 6.0  # mm
REPEATS = 3


def removals(problem, device):
    """Each removal by name, as a function without arguments, and the voxels far from the surface."""
    scan = problem.scan
    mask = scan.mask.to(device)
    fit = fit_echoes(scan.signal, echo_times=problem.protocol.echo_times, mask=scan.mask)
    noise = torch.where(scan.mask, fit.frequency_noise, 0).to(device)
    draw = torch.Generator().manual_seed(0)
    field = scan.total_field.to(device) + noise * torch.randn(mask.shape, generator=draw).to(device)
    padded = np.pad(scan.mask.cpu().numpy(), 1)
    depth = distance_transform_edt(padded, sampling=problem.voxel_size)[1:-1, 1:-1, 1:-1]
    deep = torch.from_numpy(depth > MARGIN).to(device)
    pdf = {"noise": noise, "mask": mask, **problem.frame}
    outer_only = {"inside_ratio": 0.0, "margin": 32.0, "coarsest": 0.0, "max_steps": 60}
    tight = {"rtol": 1e-3, "max_steps": 400, "refinements": 20}
    return deep, {
        "PDF": lambda: remove_background_pdf(field, **pdf),
        "PDF, far beyond its tolerance": lambda: remove_background_pdf(field, **pdf, **tight),
        "PDF, outer sources only, 60 steps": lambda: remove_background_pdf(field, **pdf, **outer_only),
        "V-SHARP": lambda: remove_background_vsharp(field, mask=mask, voxel_size=problem.frame["voxel_size"]),
    }


def counted_floor(action, device):
    """Transforms of one removal, and the seconds that as many of the same sizes take by themselves."""
    sizes = Counter()
    forward, backward = torch.fft.rfftn, torch.fft.irfftn

    def counting_forward(image, s=None, **options):
        sizes[tuple(s or image.shape)] += 1
        return forward(image, s=s, **options)

    def counting_backward(spectrum, s=None, **options):
        sizes[tuple(s)] += 1
        return backward(spectrum, s=s, **options)

    with mock.patch("torch.fft.rfftn", counting_forward), mock.patch("torch.fft.irfftn", counting_backward):
        action()
    seconds = sum(count / 2 * transform_seconds(size, device=device) for size, count in sizes.items())
    return sum(sizes.values()), seconds


def main():
    """Print one table a shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", default=["160x160x96"], help="grids, as in 160x160x96")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for text in options.shapes:
        shape = tuple(int(size) for size in text.split("x"))
        problem = simulated(shape)
        truth = problem.scan.local_field.to(options.device)
        deep, actions = removals(problem, options.device)
        volume = 4 * truth.numel()
        print(f"{text}, {options.device}, {torch.get_num_threads()} threads")
        columns = f"{'s':>6} {'FFTs':>5} {'floor':>6} {'ratio':>5} {'volumes':>7} {'deep %':>6} {'all %':>6}"
        print(f"{'':34} {columns}")
        for name, action in actions.items():
            count, floor = counted_floor(action, options.device)
            repeats = REPEATS if name in ("PDF", "V-SHARP") else 1
            runs = [measured(action, device=options.device) for _ in range(repeats)]
            seconds, peak = min(run.seconds for run in runs), max(run.peak for run in runs)
            found = runs[0].value
            inner = nrmse(found.local_field, truth, deep & found.mask)
            whole = nrmse(found.local_field, truth, found.mask)
            print(
                f"{name:34} {seconds:6.2f} {count:5d} {floor:6.2f} {seconds / floor:5.1f} "
                f"{peak / volume:7.1f} {inner:6.1f} {whole:6.1f}  "
                f"{found.n_iterations} steps{'' if found.converged else ', not converged'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
