"""What the sidecars and the report say of a map and of its acquisition."""

from pathlib import Path

import numpy as np
import pytest

from qsmflow.bids.acquisition import Acquisition, Echo
from qsmflow.bids.provenance import StageRecord
from qsmflow.interfaces.provenance import DescribeAcquisition, DescribeMap

RECORDS = [
    StageRecord("Echo fit", "Least squares", references=("kressler2010",), n_iterations=9).to_dict(),
    StageRecord("Phase sign", "Correlation", figures={"PhaseSign": "-1 (detected)"}).to_dict(),
    StageRecord("Referencing", "CSF", figures={"region": "csf", "mean": 0.02}).to_dict(),
]


@pytest.fixture
def acquisition(head, echoes) -> Acquisition:
    """The head's files with what their sidecars would say."""
    metadata = {"FlipAngle": 15, "Manufacturer": "Maker", "PatientName": "Nobody"}
    return Acquisition(
        subject="01",
        session=None,
        entities={},
        suffix="MEGRE",
        echoes=tuple(
            Echo(Path(magnitude), Path(phase), time, metadata)
            for magnitude, phase, time in zip(
                echoes["magnitude"], echoes["phase"], head.echo_times, strict=True
            )
        ),
    )


@pytest.fixture
def describe(head, maps, acquisition):
    """Sidecar of the susceptibility map with some inputs changed."""

    def run(**change):
        given = {
            "in_file": maps["susceptibility"],
            "records": RECORDS,
            "acquisition": acquisition,
            "bids_dir": str(head.folder),
            "field_strength": 3.0,
            "units": "ppm",
            "description": "Magnetic susceptibility",
        }
        return DescribeMap(**{**given, **change}).run().outputs.meta

    return run


def test_sidecar_of_the_last_map_tells_everything(head, echoes, describe):
    meta = describe()
    assert (meta["Units"], meta["Description"], meta["SkullStripped"]) == (
        "ppm",
        "Magnetic susceptibility",
        True,
    )
    names = [Path(path).name for pair in zip(*echoes.values(), strict=True) for path in pair]
    assert meta["Sources"] == [f"bids:raw:{name}" for name in names]
    assert list(meta["EstimationParameters"]) == ["Echo fit", "Phase sign", "Referencing"]
    assert meta["EstimationReference"] == "kressler2010"
    assert meta["ReferenceRegion"] == {"region": "csf", "mean": 0.02}
    assert meta["B0Direction"] == pytest.approx(head.b0_direction, abs=1e-5)


def test_sidecar_of_an_earlier_map_stops_at_its_stage(describe):
    meta = describe(last_stage="Echo fit", units=None, skull_stripped=False)
    assert list(meta["EstimationParameters"]) == ["Echo fit"]
    assert not {"ReferenceRegion", "Units"} & set(meta)
    assert meta["SkullStripped"] is False


def test_stage_that_did_not_run_is_an_error(describe):
    with pytest.raises(ValueError, match="No such stage"):
        describe(last_stage="No such stage")


def test_facts_of_the_acquisition(head, acquisition):
    facts = (
        DescribeAcquisition(
            acquisition=acquisition, phase_range="0 … 4095", field_strength=3.0, records=RECORDS
        )
        .run()
        .outputs.facts
    )
    assert facts["MatrixSize"] == list(head.mask.shape)
    assert facts["VoxelSize"] == pytest.approx(head.voxel_size, abs=1e-4)
    assert facts["B0Angle"] == pytest.approx(np.rad2deg(np.arccos(abs(head.b0_direction[2]))), abs=0.01)
    assert facts["EchoTimes"] == list(head.echo_times)
    assert (facts["PhaseRange"], facts["PhaseSign"]) == ("0 … 4095", "-1 (detected)")
    assert (facts["FlipAngle"], facts["SourceFiles"]) == (15, 8)
    assert "PatientName" not in facts


def test_facts_without_a_sign(acquisition):
    stage = DescribeAcquisition(
        acquisition=acquisition, phase_range="0 … 4095", field_strength=3.0, records=RECORDS[:1]
    )
    assert stage.run().outputs.facts["PhaseSign"] is None
