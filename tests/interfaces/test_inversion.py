"""Interfaces of the inversions hand units, frame and settings on to the core."""

import math

import numpy as np
import pytest
import torch

from qsmflow.core.inversion.medi import PRESETS
from qsmflow.core.inversion.tkd import invert_tkd
from qsmflow.core.units import hertz_per_ppm
from qsmflow.interfaces.inversion import InvertByMEDI, InvertByTKD, InvertByTV


@pytest.fixture
def field(head, maps):
    return {name: maps[name] for name in ("local_field", "mask")} | {"field_strength": head.field_strength}


@pytest.fixture
def medi(head, maps, field):
    inputs = {name: maps[name] for name in ("frequency_noise", "magnitude")}
    return {**field, **inputs, "frequency_period": head.period, "preset": "simulation"}


def test_division_is_the_core_s_in_ppm_and_voxel_axes(head, field, tmp_path):
    found = InvertByTKD(**field, threshold=0.25).run(cwd=str(tmp_path)).outputs
    expected = invert_tkd(
        torch.from_numpy(head.local_field * head.mask).float() / hertz_per_ppm(head.field_strength),
        mask=torch.from_numpy(head.mask),
        voxel_size=head.voxel_size,
        b0_direction=head.b0_direction,
        threshold=0.25,
    )
    chi = head.read(found.susceptibility)
    np.testing.assert_allclose(chi, expected.susceptibility.numpy(), atol=1e-4)
    assert np.corrcoef(chi[head.mask], head.susceptibility[head.mask])[0, 1] > 0.85
    record = found.out_record
    assert (record["stage"], record["references"]) == ("Dipole inversion", ["shmueli2009"])
    assert record["parameters"] == {"Threshold": 0.25}


@pytest.mark.parametrize("nonlinear", [True, False])
def test_medi_finds_the_iron(head, medi, tmp_path, nonlinear):
    changed = {"nonlinear": nonlinear, "max_iterations": 60, "regularisation": 1e-4}
    found = InvertByMEDI(**medi, settings=changed).run(cwd=str(tmp_path)).outputs
    chi = head.read(found.susceptibility)
    assert np.corrcoef(chi[head.mask], head.susceptibility[head.mask])[0, 1] > 0.95
    iron = head.susceptibility > 0
    contrast = chi[iron].mean() - chi[head.mask & ~iron].mean()
    assert contrast == pytest.approx(0.29, rel=0.2)
    record = found.out_record
    assert record["stage"] == "Dipole inversion"
    assert record["references"] == ["liu2012medi", "liu2013nonlinear"][: 1 + nonlinear]
    assert record["parameters"]["Preset"] == "simulation"
    assert {name: record["parameters"][name] for name in changed} == changed
    assert 0 < record["n_iterations"] <= 60


def test_the_weight_that_was_found_is_recorded(medi, tmp_path):
    assert PRESETS["simulation"].regularisation is None
    records = []
    for scale in (1.0, 2.0):
        settings = {"discrepancy": scale}
        records.append(InvertByMEDI(**medi, settings=settings).run(cwd=str(tmp_path)).outputs.out_record)
    smaller, larger = (record["parameters"]["regularisation"] for record in records)
    assert 0 < smaller < larger


def test_total_variation_finds_the_iron(head, maps, field, tmp_path):
    inputs = {**field, "frequency_noise": maps["frequency_noise"], "frequency_period": head.period}
    found = InvertByTV(**inputs, settings={"regularisation": 2e-4}).run(cwd=str(tmp_path)).outputs
    chi = head.read(found.susceptibility)
    assert np.corrcoef(chi[head.mask], head.susceptibility[head.mask])[0, 1] > 0.9
    record = found.out_record
    assert (record["stage"], record["references"]) == ("Dipole inversion", ["milovic2018"])
    assert record["parameters"]["regularisation"] == 2e-4
    assert record["parameters"]["outside_sources"] is True


def test_phase_wraps_count_by_the_period_of_the_frequency(head, maps, medi, tmp_path):
    """A local field that is off by whole periods is the same to the nonlinear data term."""
    field = head.local_field * head.mask
    field[10:12, 10:12, 10:12] += head.period
    wrapped = {**medi, "local_field": head.write("local-wrapped", field)}
    first, second = (tmp_path / name for name in ("first", "second"))
    maps_ = []
    for folder, inputs in ((first, medi), (second, wrapped)):
        folder.mkdir()
        stage = InvertByMEDI(**inputs, settings={"max_iterations": 60})
        maps_.append(head.read(stage.run(cwd=str(folder)).outputs.susceptibility))
    difference = (maps_[1] - maps_[0])[head.mask]
    assert math.sqrt(np.mean(difference**2)) < 0.1 * maps_[0][head.mask].std()


def test_fluid_is_made_uniform(head, maps, medi, tmp_path):
    """The fluid's own field varies; its mask and weight make the susceptibility in it vary less."""
    fluid = head.r2star == 1
    noise = np.random.default_rng(0).normal(0, 4, head.mask.shape)
    medi["local_field"] = head.write("local-noisy", (head.local_field + noise) * head.mask)
    spread = []
    for weight in (0.0, 100.0):
        stage = InvertByMEDI(
            **medi,
            csf_mask=head.write("csf", fluid, dtype=np.uint8),
            settings={"csf_regularisation": weight, "max_iterations": 60},
        )
        spread.append(head.read(stage.run(cwd=str(tmp_path)).outputs.susceptibility)[fluid].std())
    assert spread[1] < 0.5 * spread[0]


def test_unknown_setting_is_refused(medi, tmp_path):
    with pytest.raises(TypeError, match="no_such"):
        InvertByMEDI(**medi, settings={"no_such": 1}).run(cwd=str(tmp_path))
