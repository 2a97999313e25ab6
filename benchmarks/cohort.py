"""Throughput of the app on a simulated cohort, beside the bare functions of the core on the same echoes.

Run as ``python benchmarks/cohort.py [--protocol classic] [--subjects 2] [--nprocs 2] [--omp-nthreads 1]
[--repeats 3] [-- options of qsmflow]``. Prints

- subjects an hour, and the wall seconds of the run;
- the seconds from its start until the first stage began;
- CPU efficiency: seconds of the bare functions, the subjects shared among as many processes as work on
  them, over wall seconds;
- overhead: what the run took longer than that ideal, in per cent of it;
- the app's own seconds by stage, and those of the bare functions;
- bytes a subject in work and output folder.

The bare functions run with as many threads as a stage of the app has; reading the images counts, writing
does not. They are those of the default chain: masks, echo fit, unwrapping, PDF, sign, MEDI, reference, data
residual, image quality, and the networks that look for motion.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from operator import truediv
from pathlib import Path
from statistics import median

DONE = re.compile(r"^(?P<ended>[\d:]{8}) (?P<series>sub-\S+) (?P<stage>.+): done in (?P<seconds>[\d.]+) s$")


def simulate(folder: Path, *, protocol: str, subjects: int) -> None:
    """A still scan of each subject."""
    from qsmflow.sim.dataset import write_dataset
    from qsmflow.sim.protocols import PROTOCOLS
    from qsmflow.sim.study import Study, cohort

    for _ in write_dataset(folder, Study(PROTOCOLS[protocol], cohort(subjects=subjects))):
        pass


def bare(bids_dir: Path, *, share: slice, threads: int) -> dict[str, float]:
    """Seconds of the core's functions by stage, over a share of the subjects."""
    import nibabel as nib
    import numpy as np
    import torch

    from qsmflow.bids.layout import collect_acquisitions, open_layout
    from qsmflow.bids.phase_range import detect_phase_range, scale_phase
    from qsmflow.core.background.pdf import remove_background_pdf
    from qsmflow.core.dipole import b0_direction
    from qsmflow.core.echoes import fit_echoes
    from qsmflow.core.inversion.medi import IN_VIVO, invert_medi
    from qsmflow.core.inversion.residual import data_residual
    from qsmflow.core.masks import brain_mask, combine_masks, phase_quality_mask
    from qsmflow.core.phase_sign import detect_phase_sign
    from qsmflow.core.quality.table import image_quality
    from qsmflow.core.reference import reference_region, reference_susceptibility
    from qsmflow.core.units import hertz_per_ppm, radian_per_hertz
    from qsmflow.core.unwrap import unwrap_phase
    from qsmflow.interfaces.learned import MOTION_SEVERITY_THRESHOLD
    from qsmflow.nets.bundle import load_bundle
    from qsmflow.nets.predict import correct_motion

    torch.set_num_threads(threads)
    seconds: dict[str, float] = defaultdict(float)
    started = time.perf_counter()

    def clocked(stage: str) -> None:
        nonlocal started
        now = time.perf_counter()
        seconds[stage] += now - started
        started = now

    acquisitions = collect_acquisitions(open_layout(bids_dir)).acquisitions[share]
    bundles = {name: load_bundle(f"motion-{name}") for name in ("unet", "prenet")}
    for acquisition in acquisitions:
        started = time.perf_counter()
        images = [nib.load(path) for path in acquisition.magnitudes]
        affine = images[0].affine
        phase_range = detect_phase_range(acquisition.phases, units=acquisition.phase_units)
        signal = torch.stack([
            torch.polar(
                torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)),
                torch.from_numpy(scale_phase(path, phase_range)).float(),
            )
            for image, path in zip(images, acquisition.phases, strict=True)
        ])  # fmt: skip
        frame = {
            "voxel_size": [float(edge) for edge in nib.affines.voxel_sizes(affine)],
            "b0_direction": b0_direction(affine),
        }
        magnitude = signal.abs().square().sum(0).sqrt()
        clocked("read")
        brain = brain_mask(magnitude, voxel_size=frame["voxel_size"])
        clocked("mask")
        fit = fit_echoes(signal, echo_times=acquisition.echo_times, mask=brain)
        clocked("fit")
        turn = radian_per_hertz(1 / fit.frequency_period)
        coherent = phase_quality_mask(fit.frequency * turn, magnitude=magnitude, mask=brain)
        mask = combine_masks(brain, coherent, voxel_size=frame["voxel_size"]).mask
        clocked("refine")
        total = unwrap_phase(fit.frequency * turn, weights=magnitude, mask=mask).phase / turn
        clocked("unwrap")
        local = remove_background_pdf(total, noise=fit.frequency_noise, mask=mask, **frame).local_field
        clocked("background")
        local = local * detect_phase_sign(local, r2star=fit.r2star, mask=mask, **frame).sign
        clocked("sign")
        ppm = hertz_per_ppm(acquisition.field_strength)
        region = reference_region("csf", mask=mask, r2star=fit.r2star, voxel_size=frame["voxel_size"]).region
        found = invert_medi(
            local / ppm,
            noise=fit.frequency_noise / ppm,
            magnitude=magnitude,
            mask=mask,
            csf_mask=region,
            radian_per_ppm=ppm * turn,
            settings=IN_VIVO,
            **frame,
        )
        clocked("invert")
        chi = reference_susceptibility(found.susceptibility, mask=mask, region=region).susceptibility
        data_residual(chi, local_field=local / ppm, noise=fit.frequency_noise, mask=mask, **frame)
        clocked("reference, residual")
        image_quality(
            magnitude=magnitude,
            frequency=fit.frequency,
            frequency_period=fit.frequency_period,
            frequency_noise=fit.frequency_noise,
            relative_residual=fit.relative_residual,
            local_field=local,
            susceptibility=chi,
            r2star=fit.r2star,
            brain=brain,
            mask=mask,
            field_mask=mask,
            n_echoes=len(images),
            bipolar=False,
            **frame,
        )
        clocked("quality")
        correct_motion(
            chi,
            mask=mask,
            voxel_size=frame["voxel_size"],
            least_severity=MOTION_SEVERITY_THRESHOLD,
            **bundles,
        )
        clocked("motion")
    return dict(seconds)


def run_app(bids_dir: Path, folder: Path, *, arguments: list[str]) -> tuple[float, float, dict[str, float]]:
    """Wall seconds of a run, those until its first stage began, and its stages' own seconds."""
    work = folder / "work"
    command = [sys.executable, "-m", "qsmflow", str(bids_dir), str(folder / "out"), "participant"]
    before, clock = time.time(), time.perf_counter()
    ended = subprocess.run(
        [*command, "--work-dir", str(work), *arguments], capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - clock
    if ended.returncode:
        sys.exit(f"{' '.join(command)} ended with {ended.returncode}\n{ended.stderr}")
    first = min(path.stat().st_mtime for path in work.rglob("_node.pklz")) - before
    stages: dict[str, float] = defaultdict(float)
    for line in ended.stderr.splitlines():
        if found := DONE.match(line):
            stages[found["stage"]] += float(found["seconds"])
    return wall, first, dict(stages)


def run_bare(bids_dir: Path, *, lanes: int, threads: list[str]) -> list[dict[str, float]]:
    """:func:`bare` in as many processes at once as work on subjects in the app."""
    command = [sys.executable, __file__, "--bare", str(bids_dir), *threads]
    processes = [
        subprocess.Popen([*command, "--share", str(lane), str(lanes)], stdout=subprocess.PIPE, text=True)
        for lane in range(lanes)
    ]
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--protocol", default="classic", help="of qsmflow.sim.protocols")
    parser.add_argument("--subjects", type=int, default=2)
    parser.add_argument("--nprocs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--omp-nthreads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps the data and the results")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--share", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments, options = parser.parse_known_args()
    if arguments.bare:
        share = slice(arguments.share[0], None, arguments.share[1])
        print(json.dumps(bare(arguments.bare, share=share, threads=arguments.omp_nthreads)))
        return
    threads = ["--omp-nthreads", str(arguments.omp_nthreads)]
    given = [*threads, "--nprocs", str(arguments.nprocs), *(each for each in options if each != "--")]
    lanes = min(arguments.nprocs, arguments.subjects)
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        bids_dir = folder / "bids"
        if not bids_dir.exists():
            simulate(bids_dir, protocol=arguments.protocol, subjects=arguments.subjects)
        # One after the other: the speed of a machine changes from minute to minute.
        for number in range(arguments.repeats):
            run = folder / f"run-{number}"
            runs.append(
                (*run_app(bids_dir, run, arguments=given), run_bare(bids_dir, lanes=lanes, threads=threads))
            )
        work, out = (size(run / name) / 1e9 / arguments.subjects for name in ("work", "out"))
    walls, firsts, stages, kernels = zip(*runs, strict=True)
    ideal = [max(sum(lane.values()) for lane in run) for run in kernels]
    wall = median(walls)
    print(f"{arguments.subjects} subjects of '{arguments.protocol}', {arguments.nprocs} processes, "
          f"{arguments.omp_nthreads} threads a stage; medians of {arguments.repeats}")  # fmt: skip
    print(f"{3600 * arguments.subjects / wall:.0f} subjects an hour, {wall:.1f} s; "
          f"first stage after {median(firsts):.1f} s")  # fmt: skip
    print(f"bare functions {median(ideal):.1f} s in {lanes} processes at once, CPU efficiency "
          f"{100 * median(map(truediv, ideal, walls)):.0f} %, overhead "
          f"{100 * (median(map(truediv, walls, ideal)) - 1):.0f} %")  # fmt: skip
    print(f"a subject: {work:.2f} GB in the work folder, {out:.3f} GB of output")
    for title, seconds in (
        ("stages of the app", stages[-1]),
        ("bare functions of one process", kernels[-1][0]),
    ):
        longest = sorted(seconds.items(), key=lambda item: -item[1])[:14]
        print(f"{title}, {sum(seconds.values()):.1f} s: " + ", ".join(f"{k} {v:.1f}" for k, v in longest))


if __name__ == "__main__":
    main()
