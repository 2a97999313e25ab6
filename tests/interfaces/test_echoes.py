"""From the files of an acquisition to fitted maps."""

import numpy as np
import pytest

from qsmflow.interfaces.echoes import FitEchoes, ScaleEchoes


def wrapped(difference, period):
    return difference - period * np.round(difference / period)


@pytest.fixture
def fit(head, scaled, maps, tmp_path):
    """Fit with some inputs changed, each in a folder of its own."""

    def run(**change):
        given = {**scaled, "mask": maps["mask"], "echo_times": list(head.echo_times), **change}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return FitEchoes(**given).run(cwd=str(folder)).outputs

    return run


def test_phase_becomes_radians_and_echoes_keep_their_order(head, echoes, scaled, tmp_path):
    stage = ScaleEchoes(**echoes, phase_range=head.phase_range)
    found = stage.run(cwd=str(tmp_path)).outputs
    phase, magnitude = head.read(found.phase), head.read(found.magnitude)
    np.testing.assert_allclose(wrapped(phase - head.read(scaled["phase"]), 2 * np.pi), 0, atol=1e-5)
    assert np.abs(phase).max() <= np.pi + 1e-5
    for number, path in enumerate(echoes["magnitude"]):
        np.testing.assert_array_equal(magnitude[..., number], head.read(path))
    np.testing.assert_allclose(head.read(found.combined), np.linalg.norm(magnitude, axis=3), rtol=1e-5)
    record = found.out_record
    assert (record["stage"], record["parameters"]) == (
        "Phase scaling",
        {"PhaseRange": head.phase_range.name},
    )
    assert record["warnings"] == ["slope is ignored"]


def test_fit_finds_the_head(head, fit):
    found = fit()
    frequency, noise, r2star, t2star, s0 = (
        head.read(getattr(found, name)) for name in ("frequency", "frequency_noise", "r2star", "t2star", "s0")
    )
    inside = head.mask
    error = wrapped(frequency - head.total_field, head.period)[inside]
    # The noise map is the standard deviation: errors over it are a standard normal.
    assert (error / noise[inside]).std() == pytest.approx(1, abs=0.05)
    assert np.abs(frequency[inside]).max() <= head.period / 2 * (1 + 1e-5)
    assert np.median(np.abs(r2star - head.r2star)[inside]) < 1
    assert np.median(s0[inside]) == pytest.approx(500, rel=0.01)
    np.testing.assert_allclose(t2star[inside], 1 / np.maximum(r2star[inside], 1), rtol=1e-5)
    assert not t2star[~inside].any()
    assert not frequency[~inside].any()
    assert found.frequency_period == pytest.approx(head.period)


def test_record_tells_the_fit(head, fit):
    record = fit().out_record
    assert record["stage"] == "Echo fit"
    told = {"EchoTimes": list(head.echo_times), "bipolar": False, "max_steps": 30}
    assert record["parameters"] | told == record["parameters"]
    assert record["references"] == ["kressler2010", "liu2013nonlinear"]
    assert record["converged"] is True
    assert record["n_iterations"] > 0
    assert record["figures"]["SignalNoise"] == pytest.approx(head.noise, rel=0.05)
    assert record["figures"]["FrequencyPeriod"] == pytest.approx(head.period)
    assert 0 < record["residual"] < 0.1


@pytest.mark.parametrize("slabs", [4, 1000])
def test_slabs_change_nothing(head, fit, slabs):
    """Slabs share the noise of all; that and the iteration's end are all that may differ."""
    whole, parts = fit(), fit(slabs=slabs)
    assert np.abs(head.read(whole.frequency) - head.read(parts.frequency)).max() < 1e-3
    for name in ("frequency_noise", "r2star", "s0", "relative_residual"):
        expected, got = (head.read(getattr(found, name)) for found in (whole, parts))
        np.testing.assert_allclose(got, expected, rtol=5e-3, atol=1e-3)
    assert parts.out_record["figures"]["SignalNoise"] == pytest.approx(
        whole.out_record["figures"]["SignalNoise"], rel=5e-3
    )


def test_bipolar_readout_is_fitted(head, scaled, fit):
    """A phase that alternates with the readout ruins the plain fit and not the one that knows of it."""
    phase = head.read(scaled["phase"]) + 0.5 * np.array([1, -1, 1, -1])
    scaled["phase"] = head.write("phase-bipolar", phase)
    plain, aware = fit(phase=scaled["phase"]), fit(phase=scaled["phase"], bipolar=True)
    assert aware.frequency_period == pytest.approx(head.period / 2)
    error = wrapped(head.read(aware.frequency) - head.total_field, aware.frequency_period)[head.mask]
    assert np.median(np.abs(error)) < 1
    assert plain.out_record["residual"] > 5 * aware.out_record["residual"]


def test_single_echo_has_frequency_and_no_decay(head, echoes, maps, tmp_path):
    one = {part: files[:1] for part, files in echoes.items()}
    scaled = ScaleEchoes(**one, phase_range=head.phase_range).run(cwd=str(tmp_path)).outputs
    found = (
        FitEchoes(
            magnitude=scaled.magnitude,
            phase=scaled.phase,
            mask=maps["mask"],
            echo_times=list(head.echo_times[:1]),
            slabs=3,
        )
        .run(cwd=str(tmp_path))
        .outputs
    )
    assert found.r2star is None
    assert found.t2star is None
    assert found.frequency_period == pytest.approx(1 / head.echo_times[0])
    # A single echo cannot tell the phase offset of 0.6 rad from a frequency.
    offset = 0.6 / (2 * np.pi * head.echo_times[0])
    error = wrapped(head.read(found.frequency) - head.total_field - offset, found.frequency_period)
    assert np.abs(error[head.mask]).max() < 5
    assert head.read(found.frequency_noise)[head.mask].min() > 0
    assert found.out_record["references"] == []
    assert found.out_record["algorithm"] == "Phase over echo time"
