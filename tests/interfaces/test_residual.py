"""The data residual of maps that are known to explain the field, or not."""

import pytest

from qsmflow.interfaces.residual import MeasureResidual


@pytest.fixture
def measure(head, maps, tmp_path):
    def run(**change):
        inputs = {name: maps[name] for name in ("susceptibility", "local_field", "frequency_noise", "mask")}
        stage = MeasureResidual(**inputs | change, field_strength=head.field_strength)
        return stage.run(cwd=str(tmp_path)).outputs.out_record

    return run


def test_true_map_explains_the_field_and_half_of_it_half(head, maps, measure):
    record = measure()
    assert record["stage"] == "Data residual"
    assert record["residual"] < 0.04
    half = head.write("half", head.read(maps["susceptibility"]) / 2)
    assert measure(susceptibility=half)["residual"] == pytest.approx(0.5, abs=0.02)


def test_record_names_the_map(measure):
    stage = "Data residual after motion correction"
    assert measure(stage=stage)["stage"] == stage
