"""The sign of the field and the zero of susceptibility."""

import numpy as np
import pytest

from qsmflow.interfaces.background import RemoveBackgroundByPDF
from qsmflow.interfaces.echoes import FitEchoes, ScaleEchoes
from qsmflow.interfaces.inversion import InvertByTKD
from qsmflow.interfaces.susceptibility import DetectPhaseSign, ReferenceSusceptibility
from qsmflow.interfaces.unwrap import UnwrapPhase


@pytest.fixture
def detect(head, maps, tmp_path):
    """Run the detection on the true fields, or on those of a scanner that counts the other way."""

    def run(*, scanner=1, **change):
        inputs = {
            name: head.write(f"{name}-scanner", scanner * head.read(maps[name]))
            for name in ("total_field", "local_field")
        }
        inputs |= {"r2star": maps["r2star"], "mask": maps["mask"], **change}
        return DetectPhaseSign(**inputs).run(cwd=str(tmp_path)).outputs

    return run


def fields(head, found):
    return head.read(found.total_field), head.read(found.local_field)


@pytest.mark.parametrize("scanner", [1, -1])
def test_sign_is_detected_and_both_fields_turned(head, maps, detect, scanner):
    found = detect(scanner=scanner)
    for field, name in zip(fields(head, found), ("total_field", "local_field"), strict=True):
        np.testing.assert_allclose(field, head.read(maps[name]), rtol=1e-5)
    record = found.out_record
    assert record["stage"] == "Phase sign"
    assert record["figures"]["PhaseSign"] == f"{scanner:+d} (detected)"
    assert record["figures"]["Correlation"] > 0.2
    assert record["warnings"] == []


@pytest.mark.parametrize("given", ["+1", "-1"])
def test_given_sign_is_obeyed(head, maps, detect, given):
    found = detect(scanner=int(given), phase_sign=given)
    for field, name in zip(fields(head, found), ("total_field", "local_field"), strict=True):
        np.testing.assert_allclose(field, head.read(maps[name]), rtol=1e-5)
    assert found.out_record["figures"]["PhaseSign"] == f"{given} (given)"
    assert found.out_record["warnings"] == []


@pytest.mark.parametrize("given", ["+1", "-1"])
def test_wrong_sign_is_obeyed_with_a_warning(head, maps, detect, given):
    found = detect(scanner=-int(given), phase_sign=given)
    np.testing.assert_allclose(fields(head, found)[1], -head.read(maps["local_field"]), rtol=1e-5)
    (warning,) = found.out_record["warnings"]
    assert f"given sign {given}" in warning
    assert "  " not in warning
    assert found.out_record["figures"]["Correlation"] < -0.2


def test_without_decay_the_sign_is_assumed_and_said_to_be(head, maps, detect):
    found = detect(r2star=None)
    np.testing.assert_allclose(fields(head, found)[1], head.read(maps["local_field"]), rtol=1e-5)
    (warning,) = found.out_record["warnings"]
    assert "+1 is assumed" in warning


@pytest.mark.parametrize(("reference", "region"), [("csf", "ventricles"), ("brain", "brain")])
def test_zero_is_the_mean_of_the_region(head, maps, tmp_path, reference, region):
    inputs = {name: maps[name] for name in ("susceptibility", "mask", "r2star")}
    found = ReferenceSusceptibility(**inputs, reference=reference).run(cwd=str(tmp_path)).outputs
    chi, truth = head.read(found.susceptibility), head.susceptibility
    voxels = head.mask if region == "brain" else head.r2star == 1
    expected = np.where(head.mask, truth - truth[voxels].mean(), 0)
    np.testing.assert_allclose(chi, expected, atol=1e-6)
    record = found.out_record
    assert record["stage"] == "Referencing"
    assert record["figures"]["region"] == reference
    assert record["figures"]["mean"] == pytest.approx(truth[voxels].mean(), abs=1e-6)
    assert record["figures"]["std"] == pytest.approx(truth[voxels].std(), abs=1e-6)
    assert record["references"] == (["liu2018medi0"] if reference == "csf" else [])
    assert record["warnings"] == []


def test_without_reference_nothing_is_subtracted(head, maps, tmp_path):
    inputs = {name: maps[name] for name in ("susceptibility", "mask", "r2star")}
    found = ReferenceSusceptibility(**inputs, reference="none").run(cwd=str(tmp_path)).outputs
    np.testing.assert_allclose(head.read(found.susceptibility), head.read(maps["susceptibility"]))
    assert found.out_record["figures"] == {"region": "none", "mean": 0, "std": 0, "n_voxels": 0}


def test_single_echo_goes_from_phase_to_susceptibility(head, echoes, maps, tmp_path):
    """Without R2* the sign is assumed and the brain is the reference, both with a warning."""

    def run(stage, **inputs):
        folder = tmp_path / stage.__name__
        folder.mkdir()
        return stage(**inputs).run(cwd=str(folder)).outputs

    mask = maps["mask"]
    one = {part: files[1:2] for part, files in echoes.items()}
    scaled = run(ScaleEchoes, **one, phase_range=head.phase_range)
    times = [head.echo_times[1]]
    fit = run(FitEchoes, magnitude=scaled.magnitude, phase=scaled.phase, mask=mask, echo_times=times)
    period = fit.frequency_period
    total = run(
        UnwrapPhase,
        frequency=fit.frequency,
        frequency_period=period,
        magnitude=scaled.combined,
        mask=mask,
    ).total_field
    local = run(RemoveBackgroundByPDF, total_field=total, frequency_noise=fit.frequency_noise, mask=mask)
    sign = run(
        DetectPhaseSign, total_field=total, local_field=local.local_field, r2star=fit.r2star, mask=mask
    )
    chi = run(InvertByTKD, local_field=sign.local_field, mask=mask, field_strength=head.field_strength)
    found = run(ReferenceSusceptibility, susceptibility=chi.susceptibility, mask=mask, r2star=fit.r2star)
    assert np.corrcoef(head.read(found.susceptibility)[head.mask], head.susceptibility[head.mask])[0, 1] > 0.6
    assert found.out_record["figures"]["region"] == "brain"
    assert "single echo" in found.out_record["warnings"][0]
    assert "+1 is assumed" in sign.out_record["warnings"][0]
