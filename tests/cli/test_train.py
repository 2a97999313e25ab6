"""Training from its command line."""

import json
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from qsmflow.cli import train
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.train import build_parser, main, training_settings
from qsmflow.nets.bundle import ModelCard, load_bundle, save_bundle
from qsmflow.nets.deepqsm import DeepQSM, DeepQSMSettings
from qsmflow.nets.prenet import PReNet, PReNetSettings
from qsmflow.nets.unet import UNet, UNetSettings
from qsmflow.sim.files import write_image, write_json
from qsmflow.train.pairs import PairSettings
from qsmflow.train.settings import PRESETS

TINY = {
    "unet": UNet(UNetSettings(channels=(2,))),
    "prenet": PReNet(PReNetSettings(channels=2, recursions=1, blocks=1)),
    "deepqsm": DeepQSM(DeepQSMSettings(stages=1, channels=(2,))),
}
QUICK = ["--max-steps", "2", "--precision", "float32", "--device", "cpu", "--seed", "3"]


@pytest.fixture(autouse=True)
def without_picture(monkeypatch):
    """Drawing takes longer than all the rest."""
    monkeypatch.setattr("qsmflow.train.fit.draw_curves", lambda rows, path: None)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Three subjects with a map each of lying still and of moving."""
    folder = tmp_path_factory.mktemp("pairs")
    write_json(
        folder / "dataset_description.json", {"Name": "Toy", "GeneratedBy": [{"Name": "qsmflow-train pairs"}]}
    )
    mask = np.ones((16, 16, 16), np.uint8)
    for number in (1, 2, 3):
        label = f"sub-{number:02d}"
        chi = np.random.default_rng(number).normal(0, 0.1, mask.shape).astype(np.float32)
        stem = folder / label / "anat" / f"{label}_acq-still"
        images = {
            f"{stem}_Chimap": chi,
            f"{stem}_desc-brain_mask": mask,
            f"{folder}/{label}/fmap/{label}_acq-still_desc-local_fieldmap": 0.3 * chi,
            f"{folder}/{label}/anat/{label}_acq-motion_Chimap": 0.5 * chi,
            f"{folder}/{label}/anat/{label}_acq-motion_desc-brain_mask": mask,
        }
        for path, image in images.items():
            write_image(path, image, np.eye(4), {"Units": "ppm"})
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of small networks by task."""
    folder = tmp_path_factory.mktemp("models")
    for task, network in TINY.items():
        settings = {"channels": network.settings.channels}
        if task == "prenet":
            settings |= {"recursions": 1, "blocks": 1}
        if task == "deepqsm":
            settings |= {"stages": 1}
        card = ModelCard.untrained(task, settings, name=f"tiny-{task}")
        save_bundle(folder / task, network, card)
    return folder


def test_unet_is_fine_tuned_resumed_and_kept(pairs, models, tmp_path, capsys):
    out = tmp_path / "mine"
    line = ["unet", "--data", str(pairs), "--out", str(out), "--init", str(models / "unet"), *QUICK]
    line += ["--batch-size", "2", "--patch-size", "16", "16", "16"]
    assert main(line) == 0
    assert capsys.readouterr().out.strip() == str(out / "bundle")
    card = load_bundle(out / "bundle").card
    assert (card.name, card.steps, card.seeds) == ("mine", 2, {"training": 3})
    assert card.data["started from"] == "tiny-unet" and card.data["data sets"] == ["Toy"]
    assert card.limits == ("Trained on simulations only.",)
    assert card.command.startswith("qsmflow-train unet --data")
    assert main(line) == ExitCode.CANNOT_WRITE
    assert "--resume" in capsys.readouterr().err
    line[line.index("--max-steps") + 1] = "4"
    assert main([*line, "--resume"]) == 0
    assert load_bundle(out / "bundle").card.steps == 4


def test_prenet_learns_from_what_a_unet_leaves(pairs, models, tmp_path):
    out = tmp_path / "mine"
    line = ["prenet", "--data", str(pairs), "--out", str(out), "--init", str(models / "prenet"), *QUICK]
    assert (
        main([*line, "--batch-size", "2", "--patch-size", "8", "8", "1", "--unet", str(models / "unet")]) == 0
    )
    assert load_bundle(out / "bundle").card.architecture == "prenet"
    # Three maps in motion and three still ones.
    assert len(list((out / "cache").rglob("*.npy"))) == 6


@pytest.mark.parametrize("kind", ["made", "measured", "shapes"])
def test_deepqsm_learns_from_fields_of_each_kind(pairs, models, tmp_path, kind):
    out = tmp_path / "mine"
    line = ["deepqsm", "--out", str(out), "--init", str(models / "deepqsm"), *QUICK]
    if kind == "measured":
        line += ["--data", str(pairs), "--fields", "measured"]
    else:
        line += ["--data", "shapes" if kind == "shapes" else str(pairs)]
        line += ["--batch-size", "1", "--patch-size", "16", "16", "16"]
    assert main(line) == 0
    card = load_bundle(out / "bundle").card
    assert card.architecture == "deepqsm"
    assert card.data["data sets"] == ([] if kind == "shapes" else ["Toy"])


def test_same_seed_gives_same_weights(pairs, tmp_path):
    line = ["unet", "--data", str(pairs), *QUICK, "--batch-size", "2", "--patch-size", "16", "16", "16"]
    weights = []
    for name in ("one", "two"):
        assert main([*line, "--out", str(tmp_path / name)]) == 0
        weights.append(load_bundle(tmp_path / name / "bundle").network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"--data": "nowhere"}, ExitCode.NO_INPUT, "nowhere: no such folder"),
        ({"--data": "shapes"}, ExitCode.USAGE, "is for deepqsm"),
        ({"--still": "acq-quiet"}, ExitCode.NO_INPUT, "acq-quiet"),
        ({"--init": "nothing"}, ExitCode.NO_INPUT, "--init: no model 'nothing'"),
        ({"--init": "PRENET"}, ExitCode.USAGE, "is a prenet; name a model that is a unet"),
        ({"--resume": None}, ExitCode.NO_INPUT, "leave out --resume"),
        ({"--max-time": "soon"}, ExitCode.USAGE, "not a number"),
        ({"--max-time": "0"}, ExitCode.USAGE, "no time to train in"),
        ({"--preset": "fast"}, ExitCode.USAGE, "invalid choice"),
        ({"--learning-rate": "0"}, ExitCode.USAGE, "greater than 0"),
    ],
)
def test_what_is_wrong_is_named(pairs, models, tmp_path, capsys, change, code, message):
    flags = {"--data": str(pairs), "--out": str(tmp_path / "out"), "--max-steps": "1"}
    flags |= {"--init": str(models / "unet"), "--device": "cpu"} | change
    flags = {name: str(models / "prenet") if value == "PRENET" else value for name, value in flags.items()}
    line = [part for flag in flags.items() for part in flag if part is not None]
    assert main(["unet", *line]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["unet", "--patch-size", "12", "12", "12"], "must be multiples of 16"),
        (["prenet", "--unet", "x", "--patch-size", "16", "16", "16"], "must end in 1"),
        (["deepqsm", "--fields", "measured", "--batch-size", "2"], "leave out --batch-size"),
    ],
)
def test_sizes_that_do_not_fit_are_named(pairs, tmp_path, capsys, line, message):
    assert main([*line, "--data", str(pairs), "--out", str(tmp_path), "--device", "cpu"]) == ExitCode.USAGE
    assert message in capsys.readouterr().err


def test_data_that_cannot_be_used_stop_it(tmp_path, capsys):
    write_image(tmp_path / "in/sub-01/anat/sub-01_acq-still_Chimap", np.ones((4, 4, 4)), np.eye(4), {})
    write_image(tmp_path / "in/sub-01/anat/sub-01_acq-motion_Chimap", np.ones((4, 4, 4)), np.eye(4), {})
    line = ["unet", "--data", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(line) == ExitCode.BAD_DATA
    assert "at least two" in capsys.readouterr().err


def test_flags_change_the_preset():
    line = ["prenet", "--data", "a", "--out", "b", "--unet", "c", "--preset", "paper"]
    assert training_settings(build_parser().parse_args(line)) == PRESETS["prenet"]["paper"]
    line += ["--batch-size", "3", "--learning-rate", "0.5", "--patch-size", "8", "16", "1"]
    changed = training_settings(build_parser().parse_args(line))
    assert (changed.batch_size, changed.learning_rate, changed.patch_size) == (3, 0.5, (8, 16, 1))
    with pytest.raises(Stop, match="invalid choice"):
        build_parser().parse_args(["deepqsm", "--data", "a", "--out", "b", "--preset", "paper"])


class Calls:
    """Stands for a maker of subjects in another process: notes in a file what it was asked for."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, task, out, subject, options):
        if subject == 5:
            raise ValueError("no head")
        stated = {name: str(value) for name, value in options.items()}
        (self.folder / f"{task}-{subject}.json").write_text(json.dumps(stated))


def test_makers_get_subjects_and_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(train, "_make_one", Calls(tmp_path))
    line = ["--out", str(tmp_path / "out"), "--subjects", "2", "--device", "cpu", "--seed", "9"]
    assert main(["pairs", *line, "--first-subject", "3", "--motions", "4", "--spread", "2"]) == 0
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == ["pairs-3", "pairs-4"]
    stated = json.loads((tmp_path / "pairs-3.json").read_text())
    assert stated == {"seed": "9", "device": "cpu", "settings": str(PairSettings(motions=4, spread=2.0))}
    assert main(["heads", *line, "--first-subject", "4"]) == ExitCode.SUBJECT_FAILED
    assert json.loads((tmp_path / "heads-4.json").read_text()) == {"seed": "9", "device": "cpu"}
    assert "subject 5: FAILED: ValueError: no head" in capsys.readouterr().err


class InThisProcess:
    """A pool without processes."""

    def __init__(self, *ignored):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        pass

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except ValueError as error:
            future.set_exception(error)
        return future
