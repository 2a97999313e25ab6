"""Every classic stage from raw echoes to susceptibility: time, counted floor, memory and error, by size.

Run ``python benchmarks/stages.py [--shapes 96x96x96 160x160x96 256x256x128] [--device cuda] [--threads 2]``.
All stages run in one process, each on what the stages before it made of a simulated scan. Columns:

- s: wall seconds, the shortest of ``--repeats`` runs;
- floor: seconds to move the stage's inputs and results once, as fast as a copy does, and to do as many real
  Fourier transforms of the same grids as the stage did; ratio: seconds over floor;
- volumes: peak memory of the first run beyond the inputs, in float32 images;
- float64: relative difference from the same stage in float64, for the shapes of ``--reference``;
- limit: the same from an iterative stage in float64 that approximates nothing: PDF without its coarse grid,
  MEDI and TV at the same λ far beyond their tolerance;
- CPU: on a graphics card, relative difference from the same stage on the CPU;
- error: against the simulator's truth. A mask's is one less Dice's coefficient; a field's and a
  susceptibility's is the norm of the demeaned difference over that of the demeaned truth, in the mask, and
  after a background removal more than 6 mm inside it.

"exact" are inversions of the true local field with the noise of the fit and nothing else. Below stands the
whole chain in one run, then how the time grows: p of seconds ∝ voxels^p from each shape to the next.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from measure import (
    Measured,
    Problem,
    combined_magnitude,
    copy_seconds,
    counted_transforms,
    deeper_than,
    measured,
    nrmse,
    simulated,
    transforms_seconds,
    wrong_cycles,
)
from torch import Tensor

from qsmflow.core.background.pdf import remove_background_pdf
from qsmflow.core.background.vsharp import remove_background_vsharp
from qsmflow.core.echoes import fit_echoes
from qsmflow.core.inversion import medi, tv
from qsmflow.core.inversion.result import Inversion
from qsmflow.core.inversion.tkd import invert_tkd
from qsmflow.core.masks import brain_mask, combine_masks, phase_quality_mask
from qsmflow.core.phase_sign import detect_phase_sign
from qsmflow.core.reference import reference_region, reference_susceptibility
from qsmflow.core.unwrap import unwrap_phase
from qsmflow.sim.canvas import LABELS

MARGIN = 6.0  # mm
WARM_UP = (64, 64, 48)
TIGHT = {"tolerance": 1e-5, "max_iterations": 300}

#: Images and numbers by name, as the stages hand them on; the first that a stage makes is its result.
Data = dict[str, Tensor | float]


@dataclass(frozen=True)
class Stage:
    """A stage of the chain.

    Attributes
    ----------
    name : str
        As the table has it.
    reads : tuple of str
        What it needs of the data.
    action : callable
        From data and problem to what it makes.
    error : callable
        From the data with what it made, and the problem, to how far that is from the truth, in words.
    limit : callable or None
        From the data with what it made, and the problem, to what it would make without any approximation.
    in_chain : bool
        Whether it lies on the way from raw echoes to susceptibility.
    """

    name: str
    reads: tuple[str, ...]
    action: Callable[[Data, Problem], Data]
    error: Callable[[Data, Problem], str]
    limit: Callable[[Data, Problem], Data] | None = None
    in_chain: bool = True


def radian_per_ppm(data: Data, problem: Problem) -> float:
    """Phase within a period of the frequency per ppm of field."""
    return 2 * math.pi * problem.hertz_per_ppm / data["period"]


def find_brain(data: Data, problem: Problem) -> Data:
    """Brain mask from the magnitude."""
    return {"brain": brain_mask(data["combined"], voxel_size=problem.voxel_size)}


def fit(data: Data, problem: Problem) -> Data:
    """Frequency, its noise and R2* from the echoes."""
    found = fit_echoes(data["signal"], echo_times=problem.protocol.echo_times, mask=data["brain"])
    return {
        "frequency": found.frequency,
        "noise": found.frequency_noise,
        "r2star": found.r2star,
        "period": found.frequency_period,
    }


def refine_mask(data: Data, problem: Problem) -> Data:
    """Brain mask without incoherent phase."""
    phase = data["frequency"] * (2 * math.pi / data["period"])
    quality = phase_quality_mask(phase, magnitude=data["combined"], mask=data["brain"])
    return {"mask": combine_masks(data["brain"], quality, voxel_size=problem.voxel_size).mask}


def unwrap(data: Data, problem: Problem) -> Data:
    """Total field by graph cuts."""
    turn = 2 * math.pi / data["period"]
    found = unwrap_phase(data["frequency"] * turn, weights=data["combined"], mask=data["mask"])
    return {"total_field": found.phase / turn}


def project(data: Data, problem: Problem, **options) -> Data:
    """Local field by PDF."""
    given = {"noise": data["noise"], "mask": data["mask"], **problem.frame, **options}
    return {"unsigned_field": remove_background_pdf(data["total_field"], **given).local_field}


def project_on_voxels(data: Data, problem: Problem) -> Data:
    """Local field by PDF, all steps on the grid of voxels."""
    return project(data, problem, coarsest=0.0, max_steps=400)


def filter_spheres(data: Data, problem: Problem) -> Data:
    """Local field by V-SHARP, and where it knows it."""
    found = remove_background_vsharp(data["total_field"], mask=data["mask"], voxel_size=problem.voxel_size)
    return {"vsharp_field": found.local_field, "vsharp_mask": found.mask}


def detect_sign(data: Data, problem: Problem) -> Data:
    """Local field, paramagnetic where iron is."""
    found = detect_phase_sign(
        data["unsigned_field"], r2star=data["r2star"], mask=data["mask"], **problem.frame
    )
    return {"local_field": data["unsigned_field"] * found.sign, "sign": found.sign}


def divide(data: Data, problem: Problem) -> Data:
    """Susceptibility by thresholded division."""
    field = data["local_field"] / problem.hertz_per_ppm
    return {"tkd": invert_tkd(field, mask=data["mask"], **problem.frame).susceptibility}


def set_zero(data: Data, problem: Problem) -> Data:
    """Susceptibility relative to the ventricles."""
    region = reference_region(
        "csf", mask=data["mask"], r2star=data["r2star"], voxel_size=problem.voxel_size
    ).region
    found = reference_susceptibility(data["medi"], mask=data["mask"], region=region)
    return {"susceptibility": found.susceptibility, "region": region}


def medi_of(field: Tensor, *, noise: Tensor, mask: Tensor, data: Data, **options) -> Inversion:
    """MEDI with the edges of the combined magnitude."""
    return medi.invert_medi(field, noise=noise, mask=mask, magnitude=data["combined"], **options)


def tv_of(field: Tensor, *, noise: Tensor, mask: Tensor, data: Data, **options) -> Inversion:
    """TV, which needs no more than a field."""
    return tv.invert_tv(field, noise=noise, mask=mask, **options)


def inversion(
    title: str,
    result: str,
    invert: Callable[..., Inversion],
    settings: medi.MediSettings | tv.TvSettings,
    *,
    names: Sequence[str] = ("local_field", "noise", "mask"),
    in_chain: bool = False,
) -> Stage:
    """An iterative inversion of a field (Hz) with its noise (Hz) in a mask, given by their names."""

    def action(data: Data, problem: Problem, settings=settings) -> Data:
        field, noise, mask = (data[name] for name in names)
        found = invert(
            field / problem.hertz_per_ppm,
            noise=noise / problem.hertz_per_ppm,
            mask=mask,
            data=data,
            settings=settings,
            radian_per_ppm=radian_per_ppm(data, problem),
            **problem.frame,
        )
        return {result: found.susceptibility, f"{result}_lambda": found.regularisation}

    def limit(data: Data, problem: Problem) -> Data:
        same = replace(settings, regularisation=data[f"{result}_lambda"], **TIGHT)
        return action(data, problem, settings=same)

    magnitude = ("combined",) if invert is medi_of else ()
    reads = (*names, *magnitude, "period")
    return Stage(title, reads, action, susceptibility_error(result, names[-1]), limit, in_chain)


def mask_error(name: str) -> Callable[[Data, Problem], str]:
    """What Dice's coefficient of a mask lacks."""

    def error(data: Data, problem: Problem) -> str:
        found, truth = data[name], problem.scan.mask
        dice = 2 * int((found & truth).sum()) / int(found.sum() + truth.sum())
        return f"{100 * (1 - dice):.2f} %"

    return error


def fit_error(data: Data, problem: Problem) -> str:
    """Root mean square error of the frequency without the voxels more than 1 rad off, and their share."""
    mask, period = data["brain"] & problem.scan.mask, data["period"]
    error = (data["frequency"] - problem.scan.total_field)[mask].double()
    error -= period * (error / period).round()
    slips = error.abs() > period / (2 * math.pi)
    ppb = 1e3 * float(error[~slips].square().mean().sqrt()) / problem.hertz_per_ppm
    return f"{ppb:.2f} ppb, {100 * float(slips.double().mean()):.3f} % > 1 rad"


def unwrapping_error(data: Data, problem: Problem) -> str:
    """Share of the voxels in wrong cycles."""
    turn, mask = 2 * math.pi / data["period"], data["mask"] & problem.scan.mask
    wrong = wrong_cycles(turn * data["total_field"], turn * problem.scan.total_field, mask)
    return f"{wrong:.3f} % of voxels"


def field_error(field: str, mask: str) -> Callable[[Data, Problem], str]:
    """Error of a local field far from the mask's surface."""

    def error(data: Data, problem: Problem) -> str:
        deep = deeper_than(data["mask"], MARGIN, voxel_size=problem.voxel_size)
        where = deep & data[mask] & problem.scan.mask
        return f"{nrmse(data[field], problem.scan.local_field, where):.2f} %"

    return error


def sign_error(data: Data, problem: Problem) -> str:
    """Whether the sign is that of the simulator, which is 1."""
    return f"{data['sign']:+d}, {'right' if data['sign'] == 1 else 'wrong'}"


def susceptibility_error(susceptibility: str, mask: str) -> Callable[[Data, Problem], str]:
    """Error of a susceptibility in a mask."""

    def error(data: Data, problem: Problem) -> str:
        where = data[mask] & problem.scan.mask
        return f"{nrmse(data[susceptibility], problem.scan.susceptibility, where):.2f} %"

    return error


def region_error(data: Data, problem: Problem) -> str:
    """Share of the region of reference that is no fluid."""
    fluid = problem.scan.labels[data["region"]] == LABELS["csf"]
    return f"{100 * (1 - float(fluid.double().mean())):.2f} % no fluid"


EXACT = ("exact_field", "exact_noise", "exact_mask")
STAGES = (
    Stage("brain mask", ("combined",), find_brain, mask_error("brain")),
    Stage("echo fit", ("signal", "brain"), fit, fit_error),
    Stage("phase quality", ("frequency", "combined", "brain", "period"), refine_mask, mask_error("mask")),
    Stage("unwrapping", ("frequency", "combined", "mask", "period"), unwrap, unwrapping_error),
    Stage(
        "PDF",
        ("total_field", "noise", "mask"),
        project,
        field_error("unsigned_field", "mask"),
        limit=project_on_voxels,
    ),
    Stage(
        "V-SHARP",
        ("total_field", "mask"),
        filter_spheres,
        field_error("vsharp_field", "vsharp_mask"),
        in_chain=False,
    ),
    Stage("phase sign", ("unsigned_field", "r2star", "mask"), detect_sign, sign_error),
    Stage("TKD", ("local_field", "mask"), divide, susceptibility_error("tkd", "mask"), in_chain=False),
    inversion("TV", "tv", tv_of, tv.IN_VIVO),
    inversion("MEDI", "medi", medi_of, medi.IN_VIVO, in_chain=True),
    Stage("reference", ("medi", "r2star", "mask"), set_zero, region_error),
    inversion("TV, exact", "exact_tv", tv_of, tv.TvSettings(), names=EXACT),
    inversion("MEDI, exact", "exact_medi", medi_of, medi.SIMULATION, names=EXACT),
)


def inputs(problem: Problem) -> Data:
    """Echoes with their combined magnitude, and the true local field with the noise of a fit."""
    scan = problem.scan
    noise = fit_echoes(scan.signal, echo_times=problem.protocol.echo_times, mask=scan.mask).frequency_noise
    draw = torch.Generator().manual_seed(0)
    return {
        "signal": scan.signal,
        "combined": combined_magnitude(scan.signal),
        "exact_field": scan.local_field + noise * torch.randn(noise.shape, generator=draw),
        "exact_noise": noise,
        "exact_mask": scan.mask,
    }


def on(data: Data, device: str) -> Data:
    """The data on a device."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in data.items()}


def precise(data: Data) -> Data:
    """The data in float64 and complex128."""

    def converted(value: Tensor | float) -> Tensor | float:
        if not isinstance(value, Tensor) or value.dtype == torch.bool:
            return value
        return value.to(torch.complex128 if value.is_complex() else torch.float64)

    return {name: converted(value) for name, value in data.items()}


def difference(found: Data, wanted: Data) -> float:
    """Relative difference of two results of a stage: of masks the share of voxels, else demeaned norms."""
    value, truth = (next(iter(result.values())).cpu() for result in (found, wanted))
    if value.dtype == torch.bool:
        return int((value ^ truth).sum()) / int(truth.sum())
    if "period" in found:  # a frequency is known up to that
        turns = ((value - truth) / found["period"]).round()
        value = value - found["period"] * turns
    return nrmse(value, truth, truth != 0) / 100


def in_one_go(data: Data, problem: Problem) -> Data:
    """Raw echoes to susceptibility; what no later stage reads is dropped."""
    stages = [stage for stage in STAGES if stage.in_chain]
    for index, stage in enumerate(stages):
        later = {name for following in stages[index + 1 :] for name in following.reads}
        made = stage.action(data, problem)
        data = {name: value for name, value in (data | made).items() if name in later} or made
    return data


@dataclass(frozen=True)
class Row:
    """What was measured of a stage on a shape; differences are None where nothing was compared."""

    run: Measured
    floor: float
    error: str
    from_float64: float | None
    from_limit: float | None
    from_cpu: float | None

    def text(self, name: str, problem: Problem) -> str:
        """One line of the table."""
        volumes = self.run.peak / (4 * problem.scan.mask.numel())
        compared = (self.from_float64, self.from_limit, self.from_cpu)
        far = "".join(f"{'-':>9}" if value is None else f"{value:9.1e}" for value in compared)
        seconds = f"{self.run.seconds:9.3f}{self.floor:9.4f}{self.run.seconds / self.floor:8.1f}"
        return f"{name:16}{seconds}{volumes:9.1f}{far}  {self.error}"


def watched(
    stage: Stage, data: Data, problem: Problem, arguments: argparse.Namespace, *, exactly: bool
) -> Row:
    """Run a stage on data, into which its results go, and measure it."""
    device = arguments.device
    given = {name: data[name] for name in stage.reads}

    def action() -> Data:
        return stage.action(given, problem)

    with counted_transforms() as transforms:
        first = measured(action, device=device)
    others = [measured(action, device=device).seconds for _ in range(arguments.repeats - 1)]
    made = first.value
    moved = sum(value.nbytes for value in [*given.values(), *made.values()] if isinstance(value, Tensor))
    floor = copy_seconds(moved, device=device) + transforms_seconds(transforms, device=device)
    references = {
        "from_float64": lambda: stage.action(precise(given), problem) if exactly else None,
        "from_limit": lambda: (
            stage.limit(precise(given | made), problem) if exactly and stage.limit else None
        ),
        "from_cpu": lambda: stage.action(on(given, "cpu"), problem) if device != "cpu" else None,
    }
    wanted = {name: reference() for name, reference in references.items()}
    differences = {name: difference(made, other) if other else None for name, other in wanted.items()}
    data |= made
    names = {"brain", "mask", "period"} & data.keys()
    error = stage.error(on({name: data[name] for name in names} | given | made, "cpu"), problem)
    run = replace(first, seconds=min([first.seconds, *others]))
    return Row(run, floor, error, **differences)


def table(shape: tuple[int, ...], arguments: argparse.Namespace, *, exactly: bool) -> dict[str, float]:
    """Print the rows of a shape; seconds by name."""
    problem = simulated(shape)
    data = on(inputs(problem), arguments.device)
    echoes = {name: data[name] for name in ("signal", "combined")}
    size = "x".join(map(str, shape))
    heads = f"{'s':>9}{'floor':>9}{'ratio':>8}{'volumes':>9}{'float64':>9}{'limit':>9}{'CPU':>9}"
    print(f"\n{size:16}{heads}  error")
    whole = measured(lambda: in_one_go(echoes, problem), device=arguments.device)
    found = on(whole.value, "cpu")
    seconds = {}
    for stage in STAGES:
        row = watched(stage, data, problem, arguments, exactly=exactly)
        print(row.text(stage.name, problem), flush=True)
        seconds[stage.name] = row.run.seconds
    best = sum(seconds[stage.name] for stage in STAGES if stage.in_chain)
    inside = problem.scan.mask & (found["susceptibility"] != 0)
    off = nrmse(found["susceptibility"], problem.scan.susceptibility, inside)
    print(
        f"whole chain, raw echoes to chi: {whole.seconds:.2f} s in one run, {best:.2f} s as the sum of its "
        f"rows, {off:.2f} % off\nits peak memory: {whole.peak / 1e9:.2f} GB beyond the echoes, "
        f"{whole.highest / 1e9:.2f} GB in all with {scan_bytes(problem) / 1e9:.2f} GB of echoes and truth",
        flush=True,
    )
    return seconds | {"whole chain": whole.seconds}


def scan_bytes(problem: Problem) -> int:
    """What the simulated scan takes."""
    return sum(value.nbytes for value in vars(problem.scan).values() if isinstance(value, Tensor))


def growth(shapes: Sequence[tuple[int, ...]], seconds: Sequence[dict[str, float]]) -> None:
    """Print the exponents of time over voxels between each shape and the next."""
    print(f"\n{'p of s ~ voxels^p':20}" + "".join(f"{'to ' + 'x'.join(map(str, s)):>16}" for s in shapes[1:]))
    voxels = [math.prod(shape) for shape in shapes]
    for name in seconds[0]:
        exponents = [
            math.log(seconds[n][name] / seconds[n - 1][name]) / math.log(voxels[n] / voxels[n - 1])
            for n in range(1, len(shapes))
        ]
        print(f"{name:20}" + "".join(f"{exponent:16.2f}" for exponent in exponents))


def machine(device: str) -> str:
    """Name of the processor that does the work."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


def parsed_shape(text: str) -> tuple[int, ...]:
    """Shape from 160x160x96."""
    return tuple(int(size) for size in text.split("x"))


def main() -> None:
    """Print a table a shape, and how time grows with size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    shapes = [(96, 96, 96), (160, 160, 96), (256, 256, 128)]
    parser.add_argument("--shapes", type=parsed_shape, nargs="+", default=shapes)
    parser.add_argument("--reference", type=parsed_shape, nargs="*", default=shapes[:1])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{machine(arguments.device)}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    # Libraries load and set themselves up now.
    small = simulated(WARM_UP)
    in_one_go(on(inputs(small), arguments.device), small)
    seconds = [table(shape, arguments, exactly=shape in arguments.reference) for shape in arguments.shapes]
    if len(seconds) > 1:
        growth(arguments.shapes, seconds)


if __name__ == "__main__":
    main()
