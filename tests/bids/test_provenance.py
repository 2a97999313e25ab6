"""Records of the stages and the sidecars made of them."""

import json
import math

import numpy as np
import pytest

from qsmflow.bids.layout import collect_acquisitions, open_layout
from qsmflow.bids.provenance import StageRecord, bids_uri, sidecar

RECORDS = (
    StageRecord(
        "echo fit",
        "nonlinear complex fit",
        parameters={"max_steps": 30},
        references=("kressler2010", "liu2013"),
        n_iterations=7,
        converged=np.bool_(True),
        residual=math.nan,
        figures={"noise": np.float32(0.5)},
        version="0.1.0",
    ),
    StageRecord(
        "inversion", "TKD", parameters={"threshold": 0.19}, references=("liu2013",), software="other"
    ),
)


def test_records_survive_json():
    record = StageRecord.from_dict(json.loads(json.dumps(RECORDS[0].to_dict(), allow_nan=False)))
    assert record.references == RECORDS[0].references
    assert record.residual is None and record.converged is True and record.figures == {"noise": 0.5}


def test_sidecar_tells_how_the_map_came_about(study):
    study.add_scan(echo_times=(0.008, 0.004))
    (acquisition,) = collect_acquisitions(open_layout(study.root)).acquisitions
    made = sidecar(
        [RECORDS[0], RECORDS[1].to_dict()],
        acquisition=acquisition,
        bids_dir=study.root,
        units="ppm",
        skull_stripped=True,
        b0_direction=np.array([0.0, 0.6, 0.8]),
        reference={"region": "csf", "mean": 0.0, "std": np.float32(0.25)},
    )
    assert made == json.loads(json.dumps(made, allow_nan=False))
    assert made["Sources"] == [
        f"bids:raw:sub-01/anat/sub-01_echo-{echo}_part-{part}_MEGRE.nii.gz"
        for echo in (2, 1)
        for part in ("mag", "phase")
    ]
    assert (made["Units"], made["SkullStripped"], made["MagneticFieldStrength"]) == ("ppm", True, 3.0)
    assert made["EchoTimes"] == [0.004, 0.008]
    assert made["B0Direction"] == [0.0, 0.6, 0.8]
    assert made["ReferenceRegion"] == {"region": "csf", "mean": 0.0, "std": 0.25}
    assert made["EstimationAlgorithm"] == "nonlinear complex fit; TKD"
    assert made["EstimationReference"] == "kressler2010, liu2013"
    assert made["EstimationParameters"] == {
        "echo fit": {
            "Algorithm": "nonlinear complex fit",
            "Parameters": {"max_steps": 30},
            "NumberOfIterations": 7,
            "Converged": True,
            "Measured": {"noise": 0.5},
            "Software": "qsmflow 0.1.0",
        },
        "inversion": {"Algorithm": "TKD", "Parameters": {"threshold": 0.19}, "Software": "other"},
    }


def test_sidecar_of_a_mask_has_no_units(study):
    study.add_scan()
    (acquisition,) = collect_acquisitions(open_layout(study.root)).acquisitions
    made = sidecar([], acquisition=acquisition, bids_dir=study.root, units=None, skull_stripped=False)
    assert sorted(made) == ["EchoTimes", "MagneticFieldStrength", "SkullStripped", "Sources"]


def test_uris_of_files_elsewhere_are_refused():
    assert bids_uri("/data/a/../sub-01 b.nii", root="/data/") == "bids:raw:sub-01%20b.nii"
    with pytest.raises(ValueError, match="not in the data set"):
        bids_uri("/elsewhere/sub-01_Chimap.nii", root="/data")
