"""Echo fit: time against the time of moving its bytes once, and errors against the Cramér–Rao bounds.

Run as ``python benchmarks/echo_fit.py [--shape 160 160 96] [--echoes 5] [--snr 20 100] [--device cpu]``. The
floor is one read of the signal and one write of the maps at the bandwidth that a copy reaches here. Memory is
what the fit takes at most beyond its input, in float32 images, its maps included. Errors are standard
deviations over their bounds at the true signal; a slip is a frequency more than eight bounds off.
"""

import argparse
import math

import torch
from measure import copy_seconds, measured
from torch import Tensor

from qsmflow.core.echoes import EchoFit, fit_echoes

R2STAR = 25.0
UNEVEN_STRETCH = 1.3
SLIP_BOUNDS = 8


def trains(n_echoes: int, device: torch.device) -> dict[str, tuple[Tensor, bool]]:
    """Echo times (s) and whether the readout alternates, by case."""
    even = 0.004 + 0.005 * torch.arange(n_echoes, dtype=torch.float64, device=device)
    cases = {"unipolar": (even, False)}
    if n_echoes > 2:
        uneven = even.clone()
        uneven[-1] += (UNEVEN_STRETCH - 1) * 0.005
        cases |= {"bipolar": (even, True), "uneven": (uneven, False)}
    return cases


def simulate(shape: tuple[int, ...], times: Tensor, *, snr: float) -> tuple[Tensor, Tensor]:
    """Signal (echo, x, y, z) with SNR at TE = 0 and frequencies (Hz) over a period of the first spacing."""
    frequency = (torch.rand(shape, device=times.device) - 0.5) / float(times[1] - times[0])
    signal = torch.empty(len(times), *shape, dtype=torch.complex64, device=times.device)
    for echo, echo_time in zip(signal, times.tolist(), strict=True):
        size = frequency.new_tensor(math.exp(-R2STAR * echo_time)).expand(shape)
        torch.polar(size, 0.4 + 2 * math.pi * echo_time * frequency, out=echo)
        echo.add_(torch.randn_like(echo), alpha=math.sqrt(2) / snr)
    return signal, frequency


def bounds(times: Tensor, *, snr: float, bipolar: bool) -> tuple[float, float]:
    """Cramér–Rao bounds of frequency (Hz) and R2* (1/s): the slopes' variances in two weighted lines."""
    weights = (-2 * R2STAR * times).exp()

    def information(groups: int) -> float:
        total = 0.0
        for first in range(groups):
            weight, echo_time = weights[first::groups], times[first::groups]
            centre = (weight * echo_time).sum() / weight.sum()
            total += float((weight * (echo_time - centre).square()).sum())
        return total

    turn = 1 / math.sqrt(information(2 if bipolar else 1))
    return turn / (2 * math.pi * snr), 1 / (math.sqrt(information(1)) * snr)


def report(name: str, arguments: argparse.Namespace, *, snr: float) -> None:
    """Print the row of one case."""
    times, bipolar = trains(arguments.echoes, arguments.device)[name]
    signal, frequency = simulate(tuple(arguments.shape), times, snr=snr)

    def run(part: Tensor) -> EchoFit:
        return fit_echoes(part, echo_times=times.tolist(), bipolar=bipolar)

    device = str(arguments.device)
    run(signal[:, :4, :4, :4].contiguous())  # libraries load now
    runs = [measured(lambda: run(signal), device=device) for _ in range(arguments.repeats)]
    fit, images = runs[0].value, runs[0].peak / (4 * signal[0].numel())
    taken = min(run.seconds for run in runs)
    maps = [value for value in vars(fit).values() if isinstance(value, Tensor)]
    floor = copy_seconds(signal.nbytes + sum(image.nbytes for image in maps), device=device)
    error = fit.frequency - frequency
    error -= fit.frequency_period * (error / fit.frequency_period).round()
    frequency_bound, r2star_bound = bounds(times, snr=snr, bipolar=bipolar)
    slips = error.abs() > SLIP_BOUNDS * frequency_bound
    print(
        f"{name:10}{snr:5g}{taken:9.2f}{floor:9.3f}{taken / floor:8.1f}{images:8.1f}{fit.n_iterations:7d}"
        f"{float(error[~slips].std()) / frequency_bound:11.4f}{float(fit.r2star.std()) / r2star_bound:9.4f}"
        f"{int(slips.sum()):7d}{fit.noise * snr:12.4f}",
        flush=True,
    )


def main() -> None:
    """Print one row a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 160, 96))
    parser.add_argument("--echoes", type=int, default=5)
    parser.add_argument("--snr", type=float, nargs="+", default=(20.0, 100.0))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    shape = "x".join(map(str, arguments.shape))
    print(f"{shape}, {arguments.echoes} echoes, {arguments.device}, {torch.get_num_threads()} threads")
    print(
        f"{'case':10}{'SNR':>5}{'seconds':>9}{'floor':>9}{'ratio':>8}{'images':>8}{'steps':>7}"
        f"{'frequency':>11}{'R2*':>9}{'slips':>7}{'noise/true':>12}",
        flush=True,
    )
    for name in trains(arguments.echoes, arguments.device):
        for snr in arguments.snr:
            report(name, arguments, snr=snr)


if __name__ == "__main__":
    main()
