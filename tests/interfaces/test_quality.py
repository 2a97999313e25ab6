"""The quality metrics of a small head, from its files."""

import numpy as np
import pytest

from qsmflow.bids.provenance import StageRecord
from qsmflow.core.quality.table import METRICS
from qsmflow.interfaces.echoes import FitEchoes, ScaleEchoes
from qsmflow.interfaces.quality import MeasureQuality


@pytest.fixture
def measure(head, maps, echoes, scaled, tmp_path):
    combined = ScaleEchoes(**echoes, phase_range=head.phase_range).run(cwd=str(tmp_path)).outputs.combined
    fit = FitEchoes(**scaled, mask=maps["mask"], echo_times=list(head.echo_times)).run(cwd=str(tmp_path))

    def run(**change):
        inputs = {
            **{name: maps[name] for name in ("local_field", "susceptibility", "mask")},
            **{
                name: getattr(fit.outputs, name)
                for name in (
                    "frequency",
                    "frequency_noise",
                    "frequency_period",
                    "r2star",
                    "relative_residual",
                )
            },
            "magnitude": combined,
            "brain_mask": maps["mask"],
            "field_mask": maps["mask"],
            "n_echoes": len(head.echo_times),
        }
        return MeasureQuality(**inputs | change).run(cwd=str(tmp_path)).outputs

    return run


def test_metrics_and_record_of_a_clean_head(head, measure):
    found = measure()
    assert list(found.metrics) == list(METRICS)
    record = StageRecord.from_dict(found.out_record)
    assert record.stage == "Image quality"
    assert record.figures == found.metrics
    assert record.warnings == ()
    # Rotations of −20° about x and 10° about y tilt the third axis by acos(cos 20° cos 10°).
    tilt = np.degrees(np.arccos(np.cos(np.radians(20)) * np.cos(np.radians(10))))
    assert found.metrics["b0_angle"] == pytest.approx(tilt, abs=1e-3)
    assert found.metrics["phase_residues"] == 0
    assert found.metrics["mask_lost"] == 0
    assert found.metrics["fit_outliers"] < 0.5
    assert found.metrics["chi_r2star_correlation"] > 0.9


def test_noise_of_the_echoes_is_the_residual(head, measure):
    """median √χ²₄ times the noise, over the norm of the echoes."""
    signal = np.exp(-20 * np.array(head.echo_times)) * 500
    expected = 100 * np.sqrt(3.357) * head.noise / np.linalg.norm(signal)
    assert measure().metrics["fit_residual"] == pytest.approx(expected, rel=0.05)


def test_lost_voxels_are_told_and_hinted_at(head, maps, measure):
    smaller = head.mask.copy()
    smaller[:10] = False
    found = measure(mask=head.write("smaller", smaller, dtype=np.uint8))
    assert found.metrics["mask_lost"] == pytest.approx(100 * head.mask[:10].sum() / head.mask.sum())
    assert [text.startswith("Mask lost") for text in found.out_record["warnings"]] == [True]


def test_a_single_echo_leaves_gaps(measure):
    found = measure(r2star=None, relative_residual=None, n_echoes=1)
    assert found.metrics["fit_residual"] is None
    assert found.metrics["chi_r2star_correlation"] is None
    assert found.metrics["field_snr"] > 0
