"""Models on disk: what is written comes back, and what was tampered with does not."""

import json
import re
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from qsmflow.nets.bundle import load_bundle, save_bundle, shipped_models
from qsmflow.nets.card import ModelCard, VoxelRange


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(
        name="small",
        summary="Sharpens | slices.",
        architecture="prenet",
        settings={"channels": 2, "recursions": 1, "blocks": 1},
        voxel_range=VoxelRange(finest=1, coarsest=2, anisotropy=2),
        data={"subjects": 3, "voxels (mm)": [1, 2]},
        seeds={"training": 1},
        steps=10,
        hours=0.1,
        hardware="two cores",
        command="qsmflow-train prenet",
        scores={"held out": {"RMSE (ppm)": 0.01}},
        limits=("Trained on simulations only.",),
        curve=({"step": 0, "loss": 1.0}, {"step": 10, "loss": 0.5}),
    )


@pytest.fixture
def saved(tmp_path, card):
    network = card.build()
    torch.nn.init.normal_(network.exit.weight)
    return save_bundle(tmp_path / "model", network, card), network


def test_the_network_that_was_saved_comes_back(saved, card):
    folder, network = saved
    found = load_bundle(folder)
    image = torch.rand(1, 1, 5, 4)
    assert not found.network.training
    torch.testing.assert_close(found.network(image), network(image))
    assert replace(found.card, sha256="") == card
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "card.json", "weights.safetensors"]


def test_half_precision_is_stored_and_float32_loaded(tmp_path, card):
    network = card.build()
    folder = save_bundle(tmp_path, network, card, float16=True)
    stored = safetensors.torch.load_file(folder / "weights.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    found = load_bundle(folder).network.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(found[name], value.half().float())


def test_what_half_precision_cannot_hold_is_refused(tmp_path, card):
    network = card.build()
    network.exit.bias.data.fill_(1e5)
    with pytest.raises(ValueError, match=r"small are not finite as torch\.float16: exit\.bias"):
        save_bundle(tmp_path / "model", network, card, float16=True)
    assert not (tmp_path / "model").exists()


def test_a_changed_byte_is_found(saved):
    folder, _ = saved
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    expected = json.loads((folder / "card.json").read_text())["sha256"]
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} has SHA-256 .*{expected}.*copy the whole"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "card.json"])
def test_a_missing_file_is_named(saved, name):
    folder, _ = saved
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(folder / name))):
        load_bundle(folder)


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(FileNotFoundError, match=re.escape(", ".join(shipped_models()) or "none")):
        load_bundle("deepqsm-hat")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "the card has unknown fields colour"),
        ({"steps": None}, "the card lacks steps"),
        ({"architecture": "vnet"}, "'vnet' is unknown; use one of deepqsm, unet, prenet"),
        ({"settings": {"channel": 2}}, "settings has unknown fields channel"),
        (
            {"settings": {"channels": 3, "recursions": 1, "blocks": 1}},
            r"does not fit.*blocks\.0\.0\.bias \(expected \(3,\), found \(2,\)\)",
        ),
        ({"voxel_range": {"finest": 1}}, "voxel_range lacks coarsest, anisotropy"),
        ({"voxel_range": {"finest": 2, "coarsest": 1, "anisotropy": 1}}, "0 < finest <= coarsest"),
        ({"output_units": "ppb"}, "output_units are 'ppb'"),
    ],
)
def test_a_wrong_card_is_refused(saved, changes, message):
    folder, _ = saved
    path = folder / "card.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    with pytest.raises(ValueError, match=message) as caught:
        load_bundle(folder)
    assert str(folder) in str(caught.value)


def test_a_card_that_is_no_json_is_refused(saved):
    folder, _ = saved
    (folder / "card.json").write_text("{")
    with pytest.raises(ValueError, match=r"card\.json: Expecting"):
        load_bundle(folder)


def test_weights_of_another_network_are_not_saved(tmp_path, card):
    network = card.build()
    network.register_buffer("added", torch.zeros(1))
    with pytest.raises(ValueError, match=r"does not fit.*: added \(expected none, found \(1,\)\); "):
        save_bundle(tmp_path / "model", network, card)


def test_the_page_tells_what_the_card_holds(saved):
    folder, _ = saved
    page = (folder / "README.md").read_text()
    rows = [
        "| held out | RMSE (ppm) | 0.01 |",
        "| voxels (mm) | 1, 2 |",
        "- Trained on simulations only.",
        "| 10 | 0.5 |",
        "qsmflow-train prenet",
        json.loads((folder / "card.json").read_text())["sha256"],
    ]
    assert [row for row in rows if row not in page] == []


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_load(name):
    assert load_bundle(name).card.name == name


def test_shipped_models_are_small():
    from qsmflow.nets.bundle import SHIPPED

    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 30e6
