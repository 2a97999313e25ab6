"""The experiments from their command line, with networks that were never trained."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmflow.cli import experiments
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.experiments import build_parser, check_arguments, held_out_seed
from qsmflow.core.dipole import dipole_field
from qsmflow.core.inversion.tkd import invert_tkd
from qsmflow.core.metrics import nrmse
from qsmflow.nets.bundle import ModelCard, save_bundle
from qsmflow.train.experiments.scans import ScannedMap, SubjectScans
from qsmflow.train.splits import split_subjects

#: Per ppm, at 3 T.
HERTZ = 127.732435554
SHAPE, B0 = (20, 18, 16), (0.6, 0.0, 0.8)
MASK = torch.zeros(SHAPE, dtype=torch.bool)
MASK[2:-2, 2:-2, 2:-2] = True


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """Folders of fresh networks: motion correction changes nothing."""
    settings = {
        "deepqsm": {"stages": 1, "channels": [2, 4]},
        "unet": {"channels": [2, 4]},
        "prenet": {"channels": 2, "recursions": 1, "blocks": 1},
    }
    folder = tmp_path_factory.mktemp("models")
    for architecture, own in settings.items():
        card = ModelCard.untrained(architecture, own, name=f"fresh-{architecture}")
        save_bundle(folder / architecture, card.build(), card)
    return {architecture: str(folder / architecture) for architecture in settings}


def main(arguments: list[str]) -> int:
    """Run on one thread: with more of them small arrays wait for their neighbours."""
    return experiments.main([*arguments, "--threads", "1"])


def save(path: Path, values, affine=None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.asarray(values, dtype=np.float32), np.eye(4) if affine is None else affine)
    nib.save(image, path)
    return str(path)


def rows(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def bumps(seed: int = 0) -> torch.Tensor:
    """Smooth susceptibility in the mask."""
    noise = 3 * torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return torch.where(MASK, torch.nn.functional.avg_pool3d(noise, 5, 1, 2)[0, 0], 0)


def test_measured_field_in_hertz_with_b0_of_the_files(tmp_path, models, monkeypatch, capsys):
    """Images whose first axis points left, B0 given in their axes: as good as in the axes of the files."""
    monkeypatch.setattr(experiments.deepqsm, "REGULARISATIONS", (1e-3,))
    left = np.diag([-1.0, 1.0, 1.0, 1.0])
    chi = bumps()
    field = dipole_field(chi, voxel_size=(1, 1, 1), b0_direction=B0) * HERTZ
    files = {"field": field, "truth": chi, "mask": MASK, "magnitude": chi}
    own = []
    for name, values in files.items():
        own += [f"--{name}", save(tmp_path / f"{name}.nii", values, left)]
    options = ["--field-units", "Hz", "--field-strength", "3", "--b0-direction", *map(str, B0)]
    out = tmp_path / "out"
    code = main(
        ["deepqsm", "--out", str(out), "--only", "3", "--deepqsm-model", models["deepqsm"], *own, *options]
    )
    assert code == ExitCode.DONE
    found = {row["method"]: float(row["NRMSE (%)"]) for row in rows(out / "deepqsm-3_measured.tsv")}
    assert list(found)[:2] == ["fresh-deepqsm", "TKD 0.19"]
    division = invert_tkd(field / HERTZ, mask=MASK, voxel_size=(1, 1, 1), b0_direction=B0).susceptibility
    assert found["TKD 0.19"] == pytest.approx(nrmse(division, chi, mask=MASK), rel=1e-4)
    assert (out / "deepqsm-3_measured.png").stat().st_size > 10_000
    assert "10.1002/mrm.26830" in json.loads((out / "deepqsm-3_published.json").read_text())["Notes"][0]
    assert "TKD, best threshold" in capsys.readouterr().out


def test_shapes_and_own_brain(tmp_path, models, capsys):
    """Without the files of experiment 3 it is left out, and the reason is told."""
    own = ["--chi", save(tmp_path / "chi.nii", bumps()), "--mask", save(tmp_path / "mask.nii", MASK)]
    out = tmp_path / "out"
    run = ["--only", "1", "2", "3", "--samples", "2", "--sloppy", "--deepqsm-model", models["deepqsm"], *own]
    assert main(["deepqsm", "--out", str(out), *run]) == ExitCode.DONE
    shapes = {row["method"]: row for row in rows(out / "deepqsm-1_shapes.tsv")}
    assert shapes["TKD 0.19"]["samples"] == "2" and float(shapes["fresh-deepqsm"]["mean NRMSE (%)"]) > 0
    brain = [row["method"] for row in rows(out / "deepqsm-2_forward.tsv")]
    assert brain == [
        "fresh-deepqsm",
        "fresh-deepqsm, refitted to the exact field",
        "TKD 0.19",
        "MEDI without edges (TV), simulation preset",
    ]
    messages = capsys.readouterr()
    assert "experiment 3 is left out: give --field, --truth and --mask" in messages.err
    assert messages.out.strip().endswith(str(out))


def write_pairs_data(root: Path, label: str) -> None:
    """A still map and two corrupted ones."""
    anat = root / label / "anat"
    for seed, stem in enumerate(["acq-still", "acq-motion_run-01", "acq-motion_run-02"]):
        values = bumps() + 0.02 * torch.where(MASK, torch.randn(SHAPE), 0) * seed
        save(anat / f"{label}_{stem}_Chimap.nii.gz", values)
        save(anat / f"{label}_{stem}_desc-brain_mask.nii.gz", MASK)
        save(root / label / "fmap" / f"{label}_{stem}_desc-local_magnitude.nii.gz", 1 + bumps(7).abs())


def test_pairs_of_the_test_only(tmp_path, models, capsys):
    """Networks that change nothing leave all as it was; subjects of training are not looked at."""
    labels = [f"sub-{number:03d}" for number in range(1, 30)]
    parts = split_subjects(labels)
    chosen = [min(parts.test), min(parts.training), min(parts.validation)]
    for label in chosen:
        write_pairs_data(tmp_path / "data", label)
    networks = ["--motion-models", models["unet"], models["prenet"]]
    run = ["motion", "--out", str(tmp_path / "out"), "--only", "6", *networks, "--pairs-data"]
    assert main([*run, str(tmp_path / "data")]) == ExitCode.DONE
    scans = rows(tmp_path / "out" / "motion-6_scans.tsv")
    assert {row["subject"] for row in scans} == {min(parts.test)} and len(scans) == 6
    [rmse] = [row for row in rows(tmp_path / "out" / "motion-6_means.tsv") if row["measure"] == "RMSE (ppm)"]
    assert float(rmse["change (%)"]) == pytest.approx(0, abs=1e-3)
    assert (rmse["paper, corrupted"], rmse["paper, corrected"]) == ("0.018", "0.0141")
    still = rows(tmp_path / "out" / "motion-6_still.tsv")[-1]
    assert float(still["U-Net + PReNet"]) == pytest.approx(0, abs=1e-3)
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "motion-3_maps.png",
        "motion-6_boxes.png",
    }
    assert main([*run, str(tmp_path / "data"), "--all-subjects"]) == ExitCode.DONE
    assert len(rows(tmp_path / "out" / "motion-6_scans.tsv")) == 18
    capsys.readouterr()


def test_simulated_subjects_get_seeds_of_their_own(tmp_path, models, monkeypatch):
    """What is simulated follows the flags; nothing is simulated here."""
    asked = []

    def simulate(protocol, *, seed, motions, motion_model, device):
        asked.append((seed, motions, motion_model))
        values = bumps() + 0.01 * torch.where(MASK, torch.randn(SHAPE), 0)
        scan = ScannedMap("still", values, MASK, np.eye(4), 1 + bumps(7).abs())
        return SubjectScans(f"seed {seed}", scan, (scan,) * motions)

    monkeypatch.setattr(experiments, "simulate_separate_pairs", simulate)
    monkeypatch.setattr(experiments.motion, "registered", experiments.motion.on_one_grid)
    networks = ["--motion-models", models["unet"], models["prenet"]]
    flags = ["--subjects", "2", "--motions", "1", "--motion-model", "field", "--seed", "3"]
    assert main(["motion", "--out", str(tmp_path), "--only", "7", *networks, *flags]) == ExitCode.DONE
    assert asked == [(held_out_seed(3, 7, subject), 1, "field") for subject in (1, 2)]
    means = rows(tmp_path / "motion-7_means.tsv")
    assert means[0]["paper, corrupted"] == "0.0195"


def test_own_pairs_are_registered(tmp_path, models):
    write_pairs_data(tmp_path / "own", "sub-01")
    networks = ["--motion-models", models["unet"], models["prenet"]]
    run = ["motion", "--out", str(tmp_path / "out"), "--only", "7", *networks]
    assert main([*run, "--pairs", str(tmp_path / "own")]) == ExitCode.DONE
    found = [row["map"] for row in rows(tmp_path / "out" / "motion-7_scans.tsv")]
    assert found == 2 * ["corrupted", "U-Net", "U-Net + PReNet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deepqsm", "--chi", "x"], "--chi needs --mask"),
        (["deepqsm", "--field", "x", "--mask", "x"], "--field needs --truth and --mask"),
        (["deepqsm", "--truth", "x"], "--truth needs --field"),
        (["deepqsm", "--b0-direction", "0", "0", "1"], "--b0-direction need --chi or --field"),
        (["deepqsm", "--chi", "x", "--mask", "x", "--b0-direction", "0", "0", "0"], "needs a length"),
        (["deepqsm", "--field-units", "Hz"], "--field-units Hz needs"),
        (["deepqsm", "--field-strength", "3"], "--field-strength is for"),
        (["deepqsm", "--chi", "x", "--mask", "x", "--only", "1"], "--chi is for experiment 2"),
        (["deepqsm", "--samples", "0"], "at least 1"),
        (["deepqsm", "--mem", "much"], "no amount of memory"),
        (["motion", "--all-subjects"], "needs --pairs-data"),
        (["motion", "--still", "acq-a"], "--still and --moved are for"),
        (["motion", "--pairs-data", "x", "--only", "7"], "--pairs-data is for figure 6"),
        (["motion", "--pairs", "x", "--only", "7", "--subjects", "2"], "nothing is simulated"),
        (["motion", "--motion-models", "one"], "expected 2 arguments"),
        ([], "required"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(Stop, match=message) as stop:
        given = build_parser().parse_args([*arguments, *(["--out", "x"] if arguments else [])])
        check_arguments(given)
    assert stop.value.code == ExitCode.USAGE


def test_missing_and_broken_input_is_named(tmp_path, models, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["deepqsm", *out, "--deepqsm-model", "deepqsm-hat"]) == ExitCode.NO_INPUT
    assert "deepqsm-hat" in capsys.readouterr().err
    twice = [models["deepqsm"], models["deepqsm"]]
    assert main(["deepqsm", *out, "--deepqsm-model", *twice]) == ExitCode.USAGE
    networks = ["--motion-models", models["unet"], models["prenet"]]
    (tmp_path / "empty").mkdir()
    run = ["motion", *out, *networks, "--only", "6", "--pairs-data", str(tmp_path / "empty")]
    assert main(run) == ExitCode.NO_INPUT
    nothing = save(tmp_path / "nothing.nii", np.zeros(SHAPE))
    own = ["--chi", save(tmp_path / "chi.nii", bumps()), "--mask", nothing, "--only", "2"]
    assert main(["deepqsm", *out, "--deepqsm-model", models["deepqsm"], *own]) == ExitCode.BAD_DATA
    assert "nothing.nii: the mask is empty" in capsys.readouterr().err


@pytest.mark.slow
def test_every_experiment_on_coarse_heads(tmp_path, models):
    """Digital brain and lesions, simulated and reconstructed."""
    run = ["--out", str(tmp_path), "--only", "2", "4", "--sloppy", "--deepqsm-model", models["deepqsm"]]
    assert main(["deepqsm", *run]) == ExitCode.DONE
    regions = [row["region"] for row in rows(tmp_path / "deepqsm-4_regions.tsv")]
    assert {"white matter", "grey matter"} <= set(regions)
    assert rows(tmp_path / "deepqsm-2_forward.tsv")[-1]["method"] == "MEDI, simulation preset"
