"""The group level on a synthetic cohort: time, memory and size of the page.

Run ``python benchmarks/group.py [--subjects 500] [--regions 40] [--keep FOLDER]``. Makes the tables of so
many subjects, each with a still and a moving series, in a temporary folder, and runs ``qsmflow … group`` on
them as a process of its own. Prints wall seconds with the start of the program and its imports, CPU seconds,
the most memory that the process held, and what it wrote. One table in a hundred is broken, so the run ends
with exit code 1.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from qsmflow.bids.tables import SERIES, tab_separated

#: Mean, spread, unit and description of what a series has.
QUALITY = {
    "snr_field": (38.0, 6.0, "1", "Median of the field over its noise in the mask"),
    "fit_residual": (0.031, 0.006, "1", "Norm of the echoes' residual over that of the echoes"),
    "phase_residues": (0.8, 0.3, "%", "Loops of four voxels around which the phase does not close"),
    "chi_noise_csf": (0.018, 0.004, "ppm", "Standard deviation of χ in cerebrospinal fluid"),
    "chi_noise_wm": (0.012, 0.002, "ppm", "Standard deviation of χ in deep white matter"),
    "streak_energy": (4.1, 0.9, "%", "Share of the energy of χ in the dipole's cone"),
    "ghost_to_signal": (
        2.2,
        0.5,
        "%",
        "Signal in the background along the phase-encoding axis over that in the head",
    ),
    "entropy": (3.4, 0.2, "1", "Entropy of the magnitude's gradient"),
    "sharpness": (0.42, 0.05, "1", "Gradient of the magnitude at tissue borders"),
    "mask_lost": (6.5, 1.8, "%", "Part of the brain mask that the phase quality takes away"),
    "chi_r2star_correlation": (0.46, 0.06, "1", "Correlation of χ and R2* in the mask"),
    "b0_angle": (12.0, 5.0, "degree", "Angle of the slices' normal to B0"),
}
SCORES = {
    "rmse": (0.0195, 0.78, "ppm"),
    "psnr": (34.3, 1.06, "dB"),
    "ssim": (0.82, 1.035, None),
    "nrmse": (62.0, 0.8, "%"),
    "hfen": (58.0, 0.82, "%"),
    "xsim": (0.55, 1.09, None),
}
MAPS = {"Chimap": 1.0, "desc-motioncorrected_Chimap": 0.97, "R2starmap": 400.0}


def write_table(path: Path, rows: list[dict], columns: dict[str, dict]) -> None:
    """Write a subject's table and its sidecar."""
    path.write_text(tab_separated(rows, columns=list(columns)), "utf-8")
    path.with_suffix(".json").write_text(json.dumps(columns), "utf-8")


def make_subject(folder: Path, *, regions: int, random: np.random.Generator) -> None:
    """Tables, log and report of one subject."""
    name = folder.name
    (folder / "log" / "20260101-120000-0").mkdir(parents=True)
    if random.random() < 0.02:
        (folder / "log" / "20260101-120000-0" / "crash-1.txt").write_text("boom")
    folder.with_suffix(".html").write_text("<!DOCTYPE html><title>report</title>")
    common = {key: {"Description": column.description} for key, column in SERIES.items()}
    series = [
        {"participant_id": name, "acquisition": which, "series": f"{name}_acq-{which}"}
        for which in ("still", "motion")
    ]
    noise = {"still": 1.0, "motion": 1.3}
    quality = [
        {
            **each,
            **{
                measure: mean + spread * noise[each["acquisition"]] * random.standard_t(5)
                for measure, (mean, spread, _, _) in QUALITY.items()
            },
        }
        for each in series
    ]
    told = {measure: {"Description": text, "Units": unit} for measure, (_, _, unit, text) in QUALITY.items()}
    write_table(folder / f"{name}_iqms.tsv", quality, common | told)
    severity = random.lognormal(0, 0.2)
    scores = [
        {
            **series[1],
            "reference": series[0]["series"],
            "map": which,
            "voxels": 1_800_000,
            "translation": 2 * severity,
            "rotation": 3 * severity,
            **{
                score: mean
                * (factor * random.normal(1, 0.02) if which == "corrected" else 1)
                * (severity if unit in ("ppm", "%") else severity**-0.1)
                for score, (mean, factor, unit) in SCORES.items()
            },
        }
        for which in ("uncorrected", "corrected")
    ]
    units = {
        score: {"Description": "", **({"Units": unit} if unit else {})}
        for score, (_, _, unit) in SCORES.items()
    }
    rest = {
        "reference": {},
        "map": {},
        "voxels": {},
        "translation": {"Units": "mm"},
        "rotation": {"Units": "degree"},
    }
    write_table(folder / f"{name}_comparison.tsv", scores, common | rest | units)
    means = [
        {
            **each,
            "atlas": "synthetic",
            "index": index,
            "name": f"Region {index}",
            "map": which,
            "median": mean,
            "mean": mean,
            "sd": 0.03,
            "volume": 2.5,
        }
        for each in series
        for index in range(1, regions + 1)
        for which, factor in MAPS.items()
        if which != "desc-motioncorrected_Chimap" or each["acquisition"] == "motion"
        for mean in [factor * (0.05 * np.sin(index) + 0.01 * random.standard_t(6))]
    ]
    columns = {key: {} for key in ("atlas", "index", "name", "map", "mean", "sd", "median")}
    write_table(folder / f"{name}_regions.tsv", means, common | columns | {"volume": {"Units": "ml"}})
    if random.random() < 0.01:
        (folder / f"{name}_iqms.tsv").write_text("participant_id\tseries\nhalf of a")


def main() -> None:
    """Make the cohort, run the level, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--subjects", type=int, default=500)
    parser.add_argument("--regions", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="new folder for the derivatives")
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.keep.absolute() if arguments.keep else Path(temporary, "out")
        for number in range(1, arguments.subjects + 1):
            make_subject(out / f"sub-{number:03d}", regions=arguments.regions, random=random)
        start = time.perf_counter()
        command = [sys.executable, "-m", "qsmflow", "no-such-input", str(out), "group"]
        done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(done.stderr.strip())
        print(f"{'subjects':>8} {'regions':>8} {'exit':>5} {'s':>7} {'CPU s':>7} {'peak MB':>8}  written MB")
        cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3
        sizes = ", ".join(
            f"{path.name} {path.stat().st_size / 1e6:.2f}" for path in sorted(out.glob("group*"))
        )
        cohort = f"{arguments.subjects:>8} {arguments.regions:>8} {done.returncode:>5}"
        print(f"{cohort} {seconds:>7.1f} {cpu:>7.1f} {peak:>8.0f}  {sizes}")


if __name__ == "__main__":
    main()
