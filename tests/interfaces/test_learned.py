"""Networks as stages: units, frames, decision and record, with small networks that know nothing."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmflow.core.units import hertz_per_ppm
from qsmflow.interfaces import learned
from qsmflow.interfaces.images import load, load_mask
from qsmflow.interfaces.learned import CorrectMotion, Model, PredictSusceptibility
from qsmflow.nets.bundle import load_bundle, save_bundle
from qsmflow.nets.predict import correct_motion, predict_susceptibility


@pytest.fixture(scope="module")
def models(networks) -> dict[str, Model]:
    """The small networks as a run would choose them."""
    cards = {kind: load_bundle(folder).card for kind, folder in networks.items()}
    return {kind: Model(str(networks[kind]), card.name, card.sha256) for kind, card in cards.items()}


@pytest.fixture
def correct(maps, models, tmp_path):
    """Run the motion correction with some inputs changed."""

    def run(**change):
        inputs = {name: maps[name] for name in ("susceptibility", "mask")}
        inputs |= {name: models[name] for name in ("unet", "prenet")}
        return CorrectMotion(**inputs | change).run(cwd=str(tmp_path)).outputs

    return run


def test_prediction_is_the_network_s_in_ppm_and_voxel_axes(head, maps, models, networks, tmp_path):
    inputs = {name: maps[name] for name in ("local_field", "mask")}
    stage = PredictSusceptibility(**inputs, field_strength=head.field_strength, model=models["deepqsm"])
    found = stage.run(cwd=str(tmp_path)).outputs
    expected = predict_susceptibility(
        load(maps["local_field"]) / hertz_per_ppm(head.field_strength),
        mask=load_mask(maps["mask"]),
        voxel_size=head.voxel_size,
        b0_direction=head.b0_direction,
        bundle=load_bundle(networks["deepqsm"]),
    )
    np.testing.assert_allclose(head.read(found.susceptibility), expected.susceptibility.numpy(), atol=1e-4)
    record = found.out_record
    assert (record["stage"], record["references"][0]) == ("Dipole inversion", "bollmann2019deepqsm")
    assert record["parameters"] == {
        "Model": "small-deepqsm",
        "ModelVersion": "1",
        "ModelSHA256": models["deepqsm"].sha256,
        "Precision": expected.precision,
    }
    assert record["figures"] == {"Tiles": 1}
    assert record["warnings"] == []


def test_resampled_voxels_are_told(head, maps, networks, tmp_path):
    bundle = load_bundle(networks["deepqsm"])
    fine = replace(bundle.card.voxel_range, finest=0.5, coarsest=4.5)
    folder = save_bundle(tmp_path / "fine", bundle.network, replace(bundle.card, voxel_range=fine))
    inputs = {name: maps[name] for name in ("local_field", "mask")}
    model = Model(str(folder), "fine", load_bundle(folder).card.sha256)
    stage = PredictSusceptibility(**inputs, field_strength=head.field_strength, model=model)
    (warning,) = stage.run(cwd=str(tmp_path)).outputs.out_record["warnings"]
    assert "outside the range" in warning
    assert " × 4.5 mm" in warning


@pytest.mark.parametrize("threshold", [0.0, 1e9])
def test_motion_is_corrected_where_it_is_severe(head, maps, correct, monkeypatch, threshold):
    monkeypatch.setattr(learned, "MOTION_SEVERITY_THRESHOLD", threshold)
    found = correct()
    record = found.out_record
    severity = record["figures"]["SeverityPercent"]
    assert severity > 1
    assert record["parameters"]["SeverityThreshold"] == threshold
    change = (head.read(found.corrected) - head.read(maps["susceptibility"]))[head.mask]
    chi = head.susceptibility[head.mask]
    measured = 100 * np.linalg.norm(change - change.mean()) / np.linalg.norm(chi - chi.mean())
    assert measured == pytest.approx(severity, rel=0.01)
    if threshold:
        assert found.accepted is None
        assert record["figures"]["Decision"] == "no corrected map is written"
        assert record["warnings"] == []
    else:
        assert found.accepted == found.corrected
        assert record["figures"]["Decision"] == "a corrected map is written"
        assert "had moved" in record["warnings"][0]


def test_correction_can_be_demanded(correct, models, monkeypatch):
    monkeypatch.setattr(learned, "MOTION_SEVERITY_THRESHOLD", 1e9)
    found = correct(mode="on")
    assert found.accepted == found.corrected
    parameters = found.out_record["parameters"]
    assert (parameters["Unet"], parameters["Prenet"]) == ("small-unet", "small-prenet")
    assert parameters["UnetSHA256"] == models["unet"].sha256
    assert parameters["PrenetSHA256"] == models["prenet"].sha256
    assert found.out_record["references"] == ["cicek2016unet", "ren2019prenet"]


def test_network_that_changes_nothing_finds_no_motion(head, maps, correct, networks, tmp_path):
    bundle = load_bundle(networks["unet"])
    torch.nn.init.zeros_(bundle.network.head.weight)
    folder = save_bundle(tmp_path / "idle", bundle.network, bundle.card)
    found = correct(unet=Model(str(folder), "idle", ""))
    assert found.out_record["figures"]["SeverityPercent"] == pytest.approx(0, abs=0.05)
    assert found.accepted is None
    np.testing.assert_allclose(head.read(found.corrected), head.read(maps["susceptibility"]), atol=1e-4)


@pytest.mark.parametrize("axes", ["PSR", "LAI", "SRA"])
def test_slices_are_axial_however_the_image_is_stored(head, maps, networks, models, tmp_path, axes):
    """A map stored along other axes is corrected as the same map along the usual ones."""
    turn = nib.orientations.axcodes2ornt(axes)
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), turn)
    upright = {name: nib.as_closest_canonical(nib.load(maps[name])) for name in ("susceptibility", "mask")}
    stored = {}
    for name, image in upright.items():
        stored[name] = str(tmp_path / f"{name}.nii")
        nib.save(image.as_reoriented(back), stored[name])
    assert "".join(nib.aff2axcodes(nib.load(stored["mask"]).affine)) == axes
    stage = CorrectMotion(**stored, unet=models["unet"], prenet=models["prenet"])
    image = nib.load(stage.run(cwd=str(tmp_path)).outputs.corrected)
    np.testing.assert_allclose(image.affine, nib.load(stored["mask"]).affine, atol=1e-4)
    chi, mask = (torch.from_numpy(np.asarray(upright[name].dataobj)) for name in ("susceptibility", "mask"))
    expected = correct_motion(
        chi.float(),
        mask=mask.bool(),
        voxel_size=nib.affines.voxel_sizes(upright["mask"].affine).tolist(),
        unet=load_bundle(networks["unet"]),
        prenet=load_bundle(networks["prenet"]),
    )
    found = np.asarray(nib.as_closest_canonical(image).dataobj)
    np.testing.assert_allclose(found, expected.susceptibility.numpy(), atol=1e-5)


def test_memory_reaches_the_networks(correct):
    with pytest.raises(ValueError, match="GB"):
        correct(memory_gb=1e-6)
