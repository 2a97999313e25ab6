"""Loss, its gradient, and what the modules make of a batch."""

import pytest
import torch

from qsmflow.core.metrics import nrmse, rmse
from qsmflow.nets.deepqsm import DeepQSM, DeepQSMSettings
from qsmflow.nets.severity import severity_of
from qsmflow.nets.unet import UNet, UNetSettings
from qsmflow.train.fields import FieldBatches, FieldSettings, ShapeSources
from qsmflow.train.modules import FLOOR, LOSSES, FieldTraining, MotionTraining, total_loss
from qsmflow.train.settings import PRESETS, TrainingSettings

SETTINGS = TrainingSettings(batch_size=2, patch_size=(8, 8, 8), loss="absolute", sharpness=0.0)


@pytest.mark.parametrize("kind", LOSSES)
def test_loss_sees_the_mask_only(kind):
    error, before = torch.randn(2, 2, 1, 6, 5, 4)
    mask = (torch.rand(2, 1, 6, 5, 4) > 0.3).float()
    outside = 100 * (1 - mask)
    losses = [
        total_loss(e, b, mask, kind=kind, sharpness=0.5).item()
        for e, b in ((error, before), (error + outside, before), (error, before - outside))
    ]
    assert losses[0] > 0.1
    assert losses == pytest.approx(losses[:1] * 3, rel=1e-5)


def test_absolute_loss_is_the_mean_error_and_that_of_the_steps():
    error = torch.tensor([1.0, -3.0, 100.0, 5.0]).reshape(1, 1, 4, 1, 1)
    mask = torch.tensor([1.0, 1.0, 0.0, 1.0]).reshape(1, 1, 4, 1, 1)
    assert total_loss(error, error, mask, kind="absolute", sharpness=0.0).item() == pytest.approx(3)
    # One pair of neighbours lies in the mask; they differ by 4.
    assert total_loss(error, error, mask, kind="absolute", sharpness=0.5).item() == pytest.approx(3 + 0.5 * 4)


def test_relative_loss_counts_samples_alike_down_to_the_floor():
    ones = torch.ones(2, 1, 4, 4)
    before = torch.stack([100 * ones[0], 1000 * ones[0]])
    halved = total_loss(0.5 * before, before, ones, kind="relative", sharpness=0.0).item()
    assert halved == pytest.approx(0.5, rel=1e-2)
    # A still map that is changed by as much as the floor loses as much as one whose artefacts stay.
    spoilt = total_loss(FLOOR * ones, 0 * ones, ones, kind="relative", sharpness=0.0).item()
    assert spoilt == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize("kind", LOSSES)
def test_empty_mask_costs_nothing(kind):
    nothing = torch.zeros(1, 1, 2, 2, 2)
    assert total_loss(nothing + 1, nothing, nothing, kind=kind, sharpness=1.0).item() == 0


def test_sharpness_punishes_what_a_constant_does_not():
    mask = torch.ones(1, 1, 6, 6)
    stripes = torch.tensor([1.0, -1.0]).repeat(3).expand(1, 1, 6, 6)
    flat = torch.ones(1, 1, 6, 6)
    frame = {"kind": "absolute", "sharpness": 1.0}
    assert total_loss(flat, flat, mask, **frame).item() == pytest.approx(1)
    assert total_loss(stripes, flat, mask, **frame).item() == pytest.approx(1 + 2 / 2)


def test_step_scores_the_error_in_the_units_of_the_network():
    module = MotionTraining(UNet(UNetSettings(channels=(2, 4), scale=10)), SETTINGS)
    image = torch.rand(2, 1, 8, 8, 8)
    batch = {"image": image, "truth": image + 0.02, "mask": torch.ones_like(image)}
    # A fresh residual network gives its input back.
    assert module.training_step(batch, 0).item() == pytest.approx(0.2, rel=1e-5)


def test_validation_names_scores_by_test(monkeypatch):
    module = MotionTraining(UNet(UNetSettings(channels=(2, 4))), SETTINGS, tests=("", "still_"))
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, value, **options: logged.update({name: value}))
    image, truth = torch.rand(2, 2, 1, 8, 8, 8)
    batch = {"image": image, "truth": truth, "mask": (truth > 0.2).float()}
    with torch.no_grad():
        module.validation_step(batch, 0, 0)
        module.validation_step(batch | {"image": truth}, 0, 1)
    inside = {"mask": truth > 0.2}
    assert logged["rmse"] == logged["input_rmse"] == pytest.approx(rmse(image, truth, **inside))
    assert logged["nrmse"] == pytest.approx(nrmse(image, truth, **inside))
    assert logged["still_nrmse"] == 0 and "still_input_nrmse" not in logged


@pytest.fixture
def gauged():
    """A training of a U-Net with a gauge, and a batch."""
    module = MotionTraining(UNet(UNetSettings(channels=(2, 4), severity=(2, 3))), SETTINGS)
    image = torch.rand(2, 1, 8, 8, 8)
    batch = {"image": image, "truth": image + 0.02, "mask": torch.ones_like(image)}
    return module, batch | {"severity": torch.tensor([0.0, 0.8])}


def test_gauge_learns_the_severity_beside_the_network(gauged):
    module, batch = gauged
    learned = torch.optim.Adam(module.network.gauge.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = module.training_step(batch, 0)
        learned.zero_grad()
        loss.backward()
        learned.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    # The error of the map, which the network cannot see, stays.
    assert losses[-1] > 0.2


def test_validation_tells_the_network_what_the_gauge_says(gauged):
    module, batch = gauged
    torch.nn.init.normal_(module.network.head.weight)
    module.eval()
    with torch.no_grad():
        told = severity_of(module.network.gauge(batch["image"], mask=batch["mask"]))
        expected = module.network(batch["image"], severity=told)
        assert torch.equal(module.predict(batch), expected)
        assert not torch.equal(module.train().predict(batch), expected)


def test_field_training_gives_the_network_field_mask_and_kernel():
    fields = FieldSettings(shapes=((16, 16, 16),))
    stream = FieldBatches([ShapeSources()], weights=[1], settings=fields, batch_size=2, seed=0)
    batch = stream.batch(0)
    network = DeepQSM(DeepQSMSettings(stages=1, channels=(2, 4)))
    module = FieldTraining(network, SETTINGS)
    with torch.no_grad():
        wanted = network(batch["field"], mask=batch["mask"], kernel=batch["kernel"])
        error = (wanted - batch["susceptibility"]) * network.settings.scale
        loss = module.training_step(batch, 0)
    assert loss.item() == pytest.approx(
        (error.abs() * batch["mask"]).sum().item() / batch["mask"].sum().item()
    )


def test_paper_preset_is_that_of_the_paper():
    for network, batch_size in (("unet", 28), ("prenet", 60)):
        paper = PRESETS[network]["paper"]
        assert (paper.optimizer, paper.learning_rate, paper.batch_size) == ("adam", 5e-5, batch_size)
        assert not (paper.decays or paper.sharpness or paper.average or paper.clip)
        module = MotionTraining(UNet(UNetSettings(channels=(2, 4))), paper)
        assert type(module.configure_optimizers()) is torch.optim.Adam


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "sgd"},
        {"batch_size": 0},
        {"average": 1.0},
        {"patch_size": (0, 8, 8)},
        {"still_share": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingSettings(**({"batch_size": 1, "patch_size": (8, 8, 8)} | wrong))
