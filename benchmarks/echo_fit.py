"""Echo fit: time against the time of reading its bytes, and error against the Cramér–Rao bound.

Run as ``python benchmarks/echo_fit.py [--shape 160 160 96] [--echoes 5] [--snr 20] [--device cpu]``. The
floor is one read of the signal and one write of the maps at the bandwidth that a copy reaches here.
"""

import argparse
import math
import time

import torch
from torch import Tensor

from qsmflow.core.echoes import EchoFit, fit_echoes


def simulate(shape: tuple[int, ...], times: Tensor, *, snr: float) -> tuple[Tensor, Tensor]:
    """Signal (echo, x, y, z) with SNR at TE = 0 and frequencies (Hz) over the whole period."""
    frequency = (torch.rand(shape, device=times.device) - 0.5) / float(times[1] - times[0])
    times = times[:, None, None, None]
    signal = torch.polar((-25 * times).exp().expand(-1, *shape), 0.4 + 2 * math.pi * frequency * times)
    return signal.add_(torch.randn_like(signal), alpha=math.sqrt(2) / snr), frequency


def seconds(action, device: torch.device, *, repeats: int) -> float:
    """Shortest wall time of several runs."""
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(time.perf_counter() - start)
    return min(durations)


def bytes_floor(signal: Tensor, fit: EchoFit) -> float:
    """Seconds to move the fit's input and output once."""
    maps = [value for value in vars(fit).values() if isinstance(value, Tensor)]
    moved = signal.nbytes + sum(m.nbytes for m in maps)
    target = torch.empty_like(signal)
    return seconds(lambda: target.copy_(signal), signal.device, repeats=5) * moved / (2 * signal.nbytes)


def main() -> None:
    """Print one row a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 160, 96))
    parser.add_argument("--echoes", type=int, default=5)
    parser.add_argument("--snr", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    spacing = 0.005
    times = 0.004 + spacing * torch.arange(arguments.echoes, device=arguments.device)
    signal, frequency = simulate(tuple(arguments.shape), times, snr=arguments.snr)
    shape = "x".join(map(str, signal.shape[1:]))
    print(f"{shape}, {arguments.echoes} echoes, SNR {arguments.snr:g}, {arguments.device}")
    print(
        f"{'case':10}{'seconds':>9}{'floor':>9}{'ratio':>8}{'ns/voxel':>10}{'error/bound':>13}{'noise/true':>12}"
    )
    cases = {"unipolar": {}} | ({"bipolar": {"bipolar": True}} if arguments.echoes > 2 else {})
    for name, options in cases.items():
        fit = fit_echoes(signal, echo_times=times.tolist(), **options)
        taken = seconds(
            lambda options=options: fit_echoes(signal, echo_times=times.tolist(), **options),
            arguments.device,
            repeats=arguments.repeats,
        )
        floor = bytes_floor(signal, fit)
        error = fit.frequency - frequency
        error = error - fit.frequency_period * (error / fit.frequency_period).round()
        # The fit's map is σ times the bound at the fitted signal; the bound proper has the true σ.
        bound = fit.frequency_noise.square().mean().sqrt() / (fit.noise * arguments.snr)
        print(
            f"{name:10}{taken:9.2f}{floor:9.3f}{taken / floor:8.0f}{taken / frequency.numel() * 1e9:10.0f}"
            f"{float(error.std() / bound):13.3f}{fit.noise * arguments.snr:12.3f}"
        )


if __name__ == "__main__":
    main()
