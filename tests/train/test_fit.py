"""Trainings from start to bundle, on a toy that can be learned in seconds."""

import csv
import json
import os
import signal

import pytest
import torch
from rich.console import Console

from qsmflow.nets.bundle import load_bundle
from qsmflow.nets.prenet import PReNet, PReNetSettings
from qsmflow.nets.unet import UNet, UNetSettings
from qsmflow.train import fit as fit_module
from qsmflow.train.fit import Diverged, Ended, RunSettings, Schedule, export_bundle, fit
from qsmflow.train.motion_data import find_pairs, motion_lesson
from qsmflow.train.settings import TrainingSettings

SETTINGS = TrainingSettings(
    batch_size=4,
    patch_size=(8, 8, 8),
    learning_rate=1e-2,
    warmup=3,
    average=0.9,
    augments=False,
    still_share=0.0,
)


@pytest.fixture(autouse=True)
def without_picture(request, monkeypatch):
    """Drawing takes longer than all the rest."""
    if "picture" not in request.node.name:
        monkeypatch.setattr(fit_module, "draw_curves", lambda rows, path: None)


@pytest.fixture
def lesson(pairs):
    """Maps in motion that are 0.6 times what they should be."""
    return motion_lesson(find_pairs([pairs]), settings=SETTINGS, seed=1)


def tiny(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(UNetSettings(channels=(8,), fold=1))


def trained(lesson, out, *, settings=SETTINGS, network=None, **run):
    return fit(
        network or tiny(),
        lesson,
        architecture="unet",
        out=out,
        settings=settings,
        run=RunSettings(precision="float32", **run),
    )


def same_weights(one, other) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def checkpoint(out):
    return torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)


def current_weights(out):
    return checkpoint(out)["current_model_state"]


def stopping(lesson, *, batch: int, number: int):
    """The lesson with a signal sent while a batch is made."""
    stream = lesson.stream
    whole = stream.batch

    def signalling(index: int):
        if index == batch:
            os.kill(os.getpid(), number)
        return whole(index)

    stream.batch = signalling
    return lesson


def test_error_falls(lesson, tmp_path):
    fitted = trained(lesson, tmp_path, steps=60)
    assert fitted.steps == 60
    assert fitted.scores["input_nrmse"] == pytest.approx(40, abs=1)
    assert fitted.scores["nrmse"] < 0.5 * fitted.scores["input_nrmse"]
    assert [row["step"] for row in fitted.rows if "nrmse" in row] == [20, 40, 60]


def test_table_and_picture_are_written(lesson, tmp_path):
    trained(lesson, tmp_path, steps=25, validate_every=20)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [20, 25]
    assert all(float(row["loss"]) > 0 and float(row["nrmse"]) > 0 for row in rows)
    assert float(rows[-1]["rate"]) < 1e-4
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_resumed_training_ends_where_the_uninterrupted_one_does(pairs, lesson, tmp_path, number):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    whole = trained(lesson, tmp_path / "whole", steps=16, validate_every=6)
    stopped = trained(
        stopping(motion_lesson(find_pairs([pairs]), settings=SETTINGS, seed=1), batch=8, number=number),
        tmp_path / "parts",
        steps=16,
        validate_every=6,
    )
    assert stopped.stopped_by == number and stopped.steps in (8, 9)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    resumed = trained(
        motion_lesson(find_pairs([pairs]), settings=SETTINGS, seed=1),
        tmp_path / "parts",
        network=tiny(seed=5),
        steps=16,
        validate_every=6,
        resume=True,
    )
    assert resumed.steps == 16 and resumed.stopped_by is None
    assert same_weights(whole.network, resumed.network)
    ends = [current_weights(tmp_path / name) for name in ("whole", "parts")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert resumed.scores == whole.scores
    assert resumed.hours > stopped.hours


def test_resume_from_a_checkpoint_in_between(pairs, lesson, tmp_path, monkeypatch):
    """As after a power cut: the last checkpoint is older than the last step."""
    settings = TrainingSettings(**(vars(SETTINGS) | {"decays": False}))
    whole = trained(lesson, tmp_path / "whole", settings=settings, steps=30)
    monkeypatch.setattr(fit_module.Checkpoints, "on_train_end", lambda *ignored: None)
    trained(lesson, tmp_path / "cut", settings=settings, steps=17, save_every=0.0)
    assert checkpoint(tmp_path / "cut")["global_step"] == 10
    resumed = trained(lesson, tmp_path / "cut", settings=settings, network=tiny(3), steps=30, resume=True)
    assert same_weights(whole.network, resumed.network)
    assert [row["step"] for row in resumed.rows if "nrmse" in row][-1] == 30


def test_finished_training_goes_on_with_more_steps(lesson, tmp_path):
    settings = TrainingSettings(**(vars(SETTINGS) | {"decays": False}))
    whole = trained(lesson, tmp_path / "whole", settings=settings, steps=14)
    trained(lesson, tmp_path / "parts", settings=settings, steps=7)
    resumed = trained(lesson, tmp_path / "parts", settings=settings, network=tiny(3), steps=14, resume=True)
    assert same_weights(whole.network, resumed.network)
    again = trained(lesson, tmp_path / "parts", settings=settings, steps=14, resume=True)
    assert again.steps == 14 and same_weights(again.network, resumed.network)


def test_resume_without_checkpoint_is_refused(lesson, tmp_path):
    with pytest.raises(FileNotFoundError, match="leave out --resume"):
        trained(lesson, tmp_path, steps=1, resume=True)


def test_time_ends_the_training(lesson, tmp_path):
    fitted = trained(lesson, tmp_path, seconds=1.0)
    assert 3600 * fitted.hours >= 1
    rates = [row["rate"] for row in fitted.rows if "rate" in row]
    assert fitted.steps > 3 and rates[-1] == pytest.approx(0, abs=1e-4)


def test_rate_rises_then_falls_with_progress():
    schedule = Schedule(SETTINGS, RunSettings(steps=100))
    assert [schedule.rate(step, 0.0) for step in range(4)] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2])
    assert schedule.rate(50, 0.5) == pytest.approx(5e-3)
    assert schedule.rate(100, 1.0) == pytest.approx(0)
    constant = TrainingSettings(**(vars(SETTINGS) | {"decays": False, "warmup": 0}))
    assert Schedule(constant, RunSettings(steps=1)).rate(0, 0.9) == 1e-2


def test_average_forgets_the_first_weights(lesson, tmp_path):
    """With a decay of 0 the average is the last weights, else it lies behind them."""
    for decay in (0.0, 0.9):
        out = tmp_path / str(decay)
        settings = TrainingSettings(**(vars(SETTINGS) | {"average": decay}))
        fitted = trained(lesson, out, settings=settings, steps=8)
        ends = current_weights(out)
        alike = all(torch.equal(w, ends[f"network.{n}"]) for n, w in fitted.network.state_dict().items())
        assert alike == (decay == 0.0)


def test_weights_that_are_not_finite_end_it_and_keep_the_checkpoint(lesson, tmp_path):
    trained(lesson, tmp_path, steps=2)
    kept = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    settings = TrainingSettings(**(vars(SETTINGS) | {"learning_rate": 1e30, "clip": None, "decays": False}))
    with pytest.raises(Diverged, match="--learning-rate"):
        trained(lesson, tmp_path, settings=settings, steps=40, resume=True, validate_every=5)
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == kept


def test_bundle_predicts_what_the_average_does(lesson, tmp_path):
    out = tmp_path / "motion-toy"
    fitted = trained(lesson, out, steps=6)
    folder = export_bundle(
        out,
        fitted,
        architecture="unet",
        summary="Toy.",
        lesson=lesson,
        settings=SETTINGS,
        seeds={"training": 1},
        command="qsmflow-train unet",
        limits=("Trained on simulations only.",),
    )
    bundle = load_bundle(folder)
    image = torch.rand(1, 1, 8, 8, 8)
    with torch.inference_mode():
        assert torch.equal(bundle.network(image), fitted.network.eval()(image))
    card = bundle.card
    assert (card.name, card.steps) == ("motion-toy", 6)
    assert card.build().settings == fitted.network.settings
    assert (card.voxel_range.finest, card.voxel_range.coarsest, card.voxel_range.anisotropy) == (1, 2, 2)
    assert card.scores["subjects held out"]["nrmse"] == fitted.scores["nrmse"]
    assert card.curve[-1]["step"] == 6
    assert json.loads((folder / "card.json").read_text())["data"]["training"]["batch_size"] == 4


def test_prenet_learns_slices(pairs, tmp_path):
    settings = TrainingSettings(**(vars(SETTINGS) | {"patch_size": (8, 8, 1), "batch_size": 8}))
    network = PReNet(PReNetSettings(channels=4, recursions=2, blocks=1))
    fitted = fit(
        network,
        motion_lesson(find_pairs([pairs]), settings=settings, seed=1),
        architecture="prenet",
        out=tmp_path,
        settings=settings,
        run=RunSettings(steps=60, precision="float32"),
    )
    assert fitted.scores["nrmse"] < 0.6 * fitted.scores["input_nrmse"]


def test_bfloat16_changes_little(lesson, tmp_path):
    plain = trained(lesson, tmp_path / "plain", steps=4)
    run = RunSettings(steps=4, precision="bfloat16")
    rounded = fit(tiny(), lesson, architecture="unet", out=tmp_path / "rounded", settings=SETTINGS, run=run)
    assert rounded.scores["nrmse"] == pytest.approx(plain.scores["nrmse"], rel=0.02)
    assert rounded.scores["nrmse"] != plain.scores["nrmse"]


def test_console_gets_a_line_a_validation_and_nothing_else_is_printed(lesson, tmp_path, capfd):
    with (tmp_path / "log").open("w") as file:
        fit(
            tiny(),
            lesson,
            architecture="unet",
            out=tmp_path / "out",
            settings=SETTINGS,
            run=RunSettings(steps=4, validate_every=2, precision="float32"),
            console=Console(file=file, width=200),
        )
    lines = (tmp_path / "log").read_text().strip().splitlines()
    assert ["step 2 " in lines[0], "step 4 " in lines[1], len(lines)] == [True, True, 2]
    assert all("nrmse" in line for line in lines)
    assert capfd.readouterr() == ("", "")


def test_compiling_changes_nothing_but_speed(lesson, tmp_path, monkeypatch):
    """What is compiled is what is trained, averaged and saved; the compiler itself is left out."""
    monkeypatch.setattr("torch.compile", lambda call, **options: call)
    plain = trained(lesson, tmp_path / "plain", steps=3)
    compiled = trained(lesson, tmp_path / "compiled", steps=3, compiled=True)
    assert same_weights(plain.network, compiled.network)


def test_signal_before_the_first_step_is_told(lesson, tmp_path, monkeypatch):
    start = fit_module.Schedule.on_train_start

    def signalled(self, trainer, module):
        os.kill(os.getpid(), signal.SIGTERM)
        start(self, trainer, module)

    monkeypatch.setattr(fit_module.Schedule, "on_train_start", signalled)
    with pytest.raises(Ended, match="before the first step"):
        trained(lesson, tmp_path, steps=3)
