"""Variants of PDF, and V-SHARP: seconds, transforms, memory and errors on the comparison problem.

Run ``python benchmarks/background.py [NXxNYxNZ ...] [--device cuda]``; 160x160x96 unless given. Each line
is one removal from the true total field with the noise of a fit: wall seconds, transforms (a forward or an
inverse one of the grid counts one half of a pair) and the time that these alone take, their ratio, peak
memory in float32 volumes beyond the inputs, error of the local field (norm of the demeaned difference over
that of the demeaned truth) at 6 mm or more from the mask's surface and in the whole of the mask returned.
"""

import argparse

import torch
from measure import counted_transforms, deeper_than, measured, nrmse, simulated, transforms_seconds

from qsmflow.core.background.pdf import remove_background_pdf
from qsmflow.core.background.vsharp import remove_background_vsharp
from qsmflow.core.echoes import fit_echoes

MARGIN = 6.0  # mm
REPEATS = 2


def removals(problem, device):
    """Each removal by name, as a function without arguments."""
    scan = problem.scan
    mask = scan.mask.to(device)
    fit = fit_echoes(scan.signal, echo_times=problem.protocol.echo_times, mask=scan.mask)
    noise = torch.where(scan.mask, fit.frequency_noise, 0).to(device)
    draw = torch.Generator().manual_seed(0)
    field = scan.total_field.to(device) + noise * torch.randn(mask.shape, generator=draw).to(device)
    pdf = {"noise": noise, "mask": mask, **problem.frame}
    outer_only = {"inside_ratio": 0.0, "margin": 32.0, "coarsest": 0.0, "max_steps": 60}
    tight = {"rtol": 1e-3, "max_steps": 400, "refinements": 20}
    return {
        "PDF": lambda: remove_background_pdf(field, **pdf),
        "PDF, no coarse grid": lambda: remove_background_pdf(field, **pdf, coarsest=0.0),
        "PDF, far beyond its tolerance": lambda: remove_background_pdf(field, **pdf, **tight),
        "PDF, outer sources only, 60 steps": lambda: remove_background_pdf(field, **pdf, **outer_only),
        "V-SHARP": lambda: remove_background_vsharp(field, mask=mask, voxel_size=problem.voxel_size),
    }


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
        deep = deeper_than(problem.scan.mask, MARGIN, voxel_size=problem.voxel_size).to(options.device)
        volume = 4 * truth.numel()
        # A first call loads libraries, which is no memory of the stage.
        torch.fft.irfftn(torch.fft.rfftn(torch.zeros(8, 8, 8, device=options.device)), s=(8, 8, 8))
        print(f"{text}, {options.device}, {torch.get_num_threads()} threads")
        columns = f"{'s':>6} {'FFTs':>5} {'floor':>6} {'ratio':>5} {'volumes':>7} {'deep %':>6} {'all %':>6}"
        print(f"{'':34} {columns}")
        for name, action in removals(problem, options.device).items():
            with counted_transforms() as transforms:
                runs = [measured(action, device=options.device)]
            runs += [measured(action, device=options.device) for _ in range(REPEATS - 1)]
            floor = transforms_seconds(transforms, device=options.device)
            seconds = min(run.seconds for run in runs)
            found = runs[0].value
            inner = nrmse(found.local_field, truth, deep & found.mask)
            whole = nrmse(found.local_field, truth, found.mask)
            print(
                f"{name:34} {seconds:6.2f} {transforms.total():5d} {floor:6.2f} {seconds / floor:5.1f} "
                f"{runs[0].peak / volume:7.1f} {inner:6.1f} {whole:6.1f}  "
                f"{found.n_iterations} steps{'' if found.converged else ', not converged'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
