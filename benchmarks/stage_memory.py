"""Memory of each stage's interface beside what the workflows reserve for it.

Run as ``python benchmarks/stage_memory.py [--shapes 96x96x96 144x144x96] [--echoes 3 6] [--stages fit]``.
Every run has a process of its own, whose peak above the imports is counted. The mask fills the image but for
a rim, which no real brain exceeds; solvers make few steps, as their arrays do not grow with them.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from qsmflow.workflows.memory import BYTES_PER_VOXEL, LOW_MEMORY_FIT, PROCESS_GB

# Whatever is heavy is imported in the processes that are measured: on Linux a process starts with the
# peak of the one that started it.
_RESERVED = {**BYTES_PER_VOXEL, "fit --low-mem": LOW_MEMORY_FIT}
_MANY_ECHOES = ("scale", "fit", "fit --low-mem")


def peak() -> int:
    """Largest resident memory of this process so far in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def write_inputs(folder: Path, *, shape: tuple[int, ...], n_echoes: int) -> None:
    """Images of an acquisition with a smooth field, and the maps that the stages hand on."""
    import nibabel as nib
    import numpy as np

    random = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in shape), indexing="ij")
    field = 300 * (x**2 - y * z)
    mask = np.zeros(shape, np.float32)
    mask[(slice(2, -2),) * 3] = 1
    r2star = np.where(x**2 + y**2 + z**2 < 0.05, 1, 20 + field / 60).astype(np.float32)
    magnitude = 50 + 900 * np.exp(-2 * (x**2 + y**2 + z**2))
    maps = {
        "mask": mask,
        "combined": magnitude,
        "total_field": field,
        # As incoherent as the mask of phase quality admits, which costs the unwrapping most.
        "frequency": (field + random.normal(0, 15, shape) + 100) % 200 - 100,
        "noise": np.full(shape, 1, np.float32) + mask,
        "local_field": field * mask / 100,
        "r2star": r2star,
        "susceptibility": field * mask / 1000,
    }
    for echo in range(n_echoes):
        time = 0.004 + 0.005 * echo
        phase = (2 * math.pi * field * time + math.pi) % (2 * math.pi) - math.pi
        maps[f"phase-{echo}"], maps[f"magnitude-{echo}"] = phase, magnitude * np.exp(-time * r2star)
    for part in ("phase", "magnitude"):
        maps[part] = np.stack([maps[f"{part}-{echo}"] for echo in range(n_echoes)], axis=3)
    for name, values in maps.items():
        image = nib.Nifti1Image(values.astype(np.float32), np.eye(4))
        of_scanner = "-" in name
        if of_scanner:
            image.set_data_dtype(np.int16)
        nib.save(image, folder / f"{name}.nii{'.gz' if of_scanner else ''}")


def interfaces(folder: Path, *, n_echoes: int) -> dict[str, tuple]:
    """The interfaces of each stage with their inputs in a folder, the costliest variants of each."""
    import numpy as np

    from qsmflow.bids.phase_range import PhaseRange
    from qsmflow.interfaces import (
        background,
        comparison,
        echoes,
        inversion,
        masks,
        quality,
        regions,
        registration,
        reports,
        residual,
        susceptibility,
        unwrap,
    )

    def files(*same: str, **renamed: str) -> dict[str, str]:
        names = {name: name for name in same} | renamed
        return {trait: str(folder / f"{name}.nii") for trait, name in names.items()}

    each = {
        part: [str(folder / f"{part}-{n}.nii.gz") for n in range(n_echoes)] for part in ("magnitude", "phase")
    }
    radians = PhaseRange("−π … π rad", "scaled", 1.0, 0.0, -math.pi, math.pi)
    fitted = files("magnitude", "phase", "mask")
    fitted |= {"echo_times": [0.004 + 0.005 * n for n in range(n_echoes)], "bipolar": n_echoes > 2}
    measured = files("mask", magnitude="combined")
    wrapped = {**files("frequency"), "frequency_period": 200.0}
    zero = files("susceptibility", "mask", "r2star")
    field = {**files("local_field", "mask"), "field_strength": 3.0}
    noise = files(frequency_noise="noise")
    iterative = {**field, **noise, "frequency_period": 200.0}
    few_steps = {"max_iterations": 5}
    costly = {"smv_radius": 5.0, "csf_regularisation": 1e-3, "merit": True, "outside_sources": False}
    medi = {**iterative, **files(magnitude="combined", csf_mask="mask")}
    total = files("total_field", "mask")
    reference = files(reference="combined", reference_mask="mask")
    identity = np.eye(4).tolist()
    judged = files("frequency", "local_field", "susceptibility", "r2star", **{
        "magnitude": "combined", "frequency_noise": "noise", "relative_residual": "mask"
    }, brain_mask="mask", mask="mask", field_mask="mask")  # fmt: skip
    viewed = files("susceptibility", "local_field", magnitude="combined", mask_file="mask")
    return {
        "scale": (echoes.ScaleEchoes(**each, phase_range=radians),),
        "mask": (
            masks.MaskBrain(**files(magnitude="combined")),
            masks.RefineMask(**measured, **wrapped),
            masks.SegmentCSF(**files("r2star", "mask")),
            susceptibility.ReferenceSusceptibility(**zero),
        ),
        "fit": (echoes.FitEchoes(**fitted),),
        "fit --low-mem": (echoes.FitEchoes(**fitted, slabs=8),),
        "unwrap": (unwrap.UnwrapPhase(**measured, **wrapped),),
        "background": (
            background.RemoveBackgroundByPDF(**total, **noise, max_steps=3),
            background.RemoveBackgroundByVSHARP(**total),
        ),
        "sign": (susceptibility.DetectPhaseSign(**files("total_field", "local_field", "r2star", "mask")),),
        "invert": (
            inversion.InvertByTKD(**field),
            inversion.InvertByTV(**iterative, settings=few_steps),
            inversion.InvertByMEDI(**medi, preset="in-vivo", settings=few_steps),
            inversion.InvertByMEDI(**medi, preset="in-vivo", settings=few_steps | costly),
        ),
        "residual": (
            residual.MeasureResidual(
                **files("susceptibility", "local_field", "mask"), **noise, field_strength=3.0
            ),
        ),
        "quality": (quality.MeasureQuality(**judged, frequency_period=200.0, n_echoes=n_echoes),),
        "register": (registration.RegisterToReference(**measured, **reference),),
        "score": (
            comparison.ComputeMetrics(
                **files("susceptibility", "mask", corrected="r2star"),
                **files(reference="total_field", reference_mask="mask"),
                matrix=identity,
            ),
        ),
        "regions": tuple(
            regions.MeasureRegions(
                **files("susceptibility", "mask", field_mask="mask", corrected="r2star", r2star="r2star"),
                **files(magnitude="combined", labels="mask"),
                atlas="brain",
                template=template,
            )
            for template in (None, str(folder / "combined.nii"))
        ),
        "viewer": (reports.BuildViewer(**viewed, **files(corrected="susceptibility")),),
        "figure": tuple(
            reports.PlotVolumes(
                kind=kind,
                in_files=list(files("frequency", "total_field").values()),
                **files(mask_file="mask"),
            )
            for kind in ("phase", "motion")
        ),
    }


def measure(folder: Path, *, stage: str, variant: int, n_echoes: int) -> dict[str, float]:
    """Run one interface in this process: GB of the imports and bytes of the peak above them."""
    import qsmflow.cli.finalise
    import qsmflow.cli.run
    import qsmflow.workflows.base  # noqa: F401

    interface = interfaces(folder, n_echoes=n_echoes)[stage][variant]
    imported = peak()
    with tempfile.TemporaryDirectory() as results:
        interface.run(cwd=results)
    return {"interface": type(interface).__name__, "imports": imported / 1e9, "bytes": peak() - imported}


def in_child(**task) -> dict:
    """What this script prints for a task in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--task", json.dumps(task)], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_task(task: dict) -> dict:
    """Do what a child process was started for."""
    folder = Path(task.pop("folder"))
    if "shape" in task:
        write_inputs(folder, **task)
        return {"variants": {name: len(all_) for name, all_ in interfaces(folder, n_echoes=1).items()}}
    return measure(folder, **task)


def main() -> None:
    """Print one row a run, then the figures to reserve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["96x96x96", "144x144x96"])
    parser.add_argument("--echoes", type=int, nargs=2, default=(3, 6))
    parser.add_argument("--stages", nargs="+", choices=_RESERVED, default=list(_RESERVED))
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(run_task(arguments.task)))
        return
    print(
        f"{'stage':15}{'interface':25}{'shape':>13}{'echoes':>8}{'GB':>8}{'bytes/voxel':>13}{'reserved':>10}"
    )
    imports, found = [], {}
    for shape in arguments.shapes:
        size = tuple(map(int, shape.split("x")))
        for n_echoes in arguments.echoes:
            with tempfile.TemporaryDirectory() as folder:
                variants = in_child(folder=folder, shape=size, n_echoes=n_echoes)["variants"]
                stages = [s for s in arguments.stages if s in _MANY_ECHOES or n_echoes == arguments.echoes[0]]
                for stage in stages:
                    for variant in range(variants[stage]):
                        run = in_child(folder=folder, stage=stage, variant=variant, n_echoes=n_echoes)
                        per_voxel = run["bytes"] / math.prod(size)
                        reserved = _RESERVED[stage][0] + n_echoes * _RESERVED[stage][1]
                        print(
                            f"{stage:15}{run['interface']:25}{shape:>13}{n_echoes:>8}"
                            f"{run['bytes'] / 1e9:8.2f}{per_voxel:13.0f}{reserved:10.0f}",
                            flush=True,
                        )
                        imports.append(run["imports"])
                        key = (stage, shape, n_echoes)
                        found[key] = max(found.get(key, 0), per_voxel)
    print(f"\nimports {max(imports):.2f} GB, reserved {PROCESS_GB:.2f} GB; bytes per voxel:")
    few, many = arguments.echoes
    for stage in arguments.stages:
        lines = []
        for shape in arguments.shapes:
            low, high = found[stage, shape, few], found.get((stage, shape, many))
            slope = 0 if high is None else (high - low) / (many - few)
            lines.append((low - few * slope, slope))
        measured = "   ".join(f"{constant:.0f} + {slope:.0f} an echo" for constant, slope in lines)
        print(f"{stage:15}{measured}   reserved {_RESERVED[stage][0]} + {_RESERVED[stage][1]} an echo")


if __name__ == "__main__":
    main()
