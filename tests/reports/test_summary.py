"""Tables and hints: complete, in the units a reader expects, escaped."""

import pytest

from qsmflow.reports.html import format_value, table
from qsmflow.reports.motion import RESIDUALS, motion_table
from qsmflow.reports.summary import FRAGMENTS, convergence_table, summary, trust_hints

EVIL = "<script>alert('x')</script>"
ACQUISITION = {
    "EchoTimes": [0.004, 0.0095],
    "MagneticFieldStrength": 3.0,
    "VoxelSize": (1.0, 1.0, 2.0),
    "PhaseRange": "−4096 … 4095",
    "Manufacturer": EVIL,
    EVIL: EVIL,
}
RECORDS = [
    {
        "stage": "Background field",
        "algorithm": "PDF",
        "parameters": {"RelativeTolerance": 0.01, "note": EVIL},
        "references": ("liu2011pdf", EVIL),
        "n_iterations": 30,
        "converged": False,
        "residual": 0.25,
        "warnings": (EVIL,),
        "software": "qsmflow",
        "version": "",
    },
    {
        "stage": "Reference",
        "algorithm": "Mean subtracted",
        "parameters": {"region": "csf"},
        "figures": {"mean": 0.0123, "std": 0.031},
        "software": "OR-Tools",
        "version": "9.15",
    },
]


@pytest.mark.parametrize("kind", FRAGMENTS)
def test_everything_is_escaped(kind):
    fragment = FRAGMENTS[kind](ACQUISITION, RECORDS)
    assert "<script" not in fragment
    assert fragment.count("<table") == fragment.count("</table>")


@pytest.mark.parametrize("kind", FRAGMENTS)
def test_nothing_known_is_no_crash(kind):
    assert FRAGMENTS[kind]({}, [])


def test_hints_name_warnings_and_solvers_that_stopped_short():
    hints = trust_hints(RECORDS, ["Local field: blank image", "Local field: blank image"])
    assert hints == (
        f"Background field: {EVIL}",
        "Background field: stopped after 30 steps before it reached its tolerance (residual 0.25)",
        "Local field: blank image",
    )


def test_summary_is_calm_only_without_hints():
    assert "Look twice: 2 warnings" in summary(ACQUISITION, RECORDS)
    calm = summary(ACQUISITION, RECORDS[1:])
    assert "Nothing unusual" in calm
    assert "Look twice" not in calm
    assert "Look twice: 1 warning." in summary(ACQUISITION, RECORDS[1:], ["blank"])


@pytest.mark.parametrize("records", [RECORDS, RECORDS[1:]])
def test_summary_gives_hints_and_no_verdict(records):
    assert "no verdict" in summary(ACQUISITION, records)


def test_summary_says_what_was_done_at_a_glance_and_in_full():
    records = [
        {"stage": "Echo fit", "algorithm": "Least <squares>"},
        {"stage": "Dipole inversion", "algorithm": "MEDI"},
    ]
    fragment = summary({"EchoTimes": [0.004], "B0Angle": 0.0, "PhaseSign": None}, records)
    glance, steps = fragment.split("<details")
    assert "<dt>Dipole inversion</dt><dd>MEDI</dd>" in glance
    assert "<dt>Echo times</dt><dd>4 ms</dd>" in glance
    assert "<dd>0 degrees</dd>" in glance
    assert "Echo fit" not in glance
    assert "Phase sign" not in glance
    assert "Every step (2)" in steps
    assert "<strong>Echo fit</strong> Least &lt;squares&gt;" in steps


def test_acquisition_has_units_of_the_trade():
    fragment = FRAGMENTS["acquisition"](ACQUISITION, RECORDS)
    for text in ("4, 9.5 ms", "3 T", "1 × 1 × 2 mm", "−4096 … 4095"):
        assert text in fragment


def test_convergence_says_yes_no_and_nothing():
    fragment = convergence_table({}, [*RECORDS, {"stage": "Fit", "algorithm": "a", "converged": True}])
    assert (fragment.count("✗ no"), fragment.count("✓ yes")) == (1, 1)
    assert "mean = 0.0123; std = 0.031" in fragment


def test_consensus_list_has_what_the_paper_asks_for():
    fragment = FRAGMENTS["consensus"](ACQUISITION, RECORDS)
    for text in (
        "OR-Tools 9.15",
        "relative tolerance = 0.01",
        "10.1002/mrm.30006",
        "10.1002/nbm.1670",
        "Liu 2011",
    ):
        assert text in fragment
    assert "region = csf; mean ± SD = 0.0123 ± 0.031 ppm" in fragment
    assert "No reference region" in FRAGMENTS["consensus"]({}, RECORDS[:1])


def motion_records(severity: float, decision: str) -> list[dict]:
    correction = {
        "stage": "Motion correction",
        "algorithm": "U-Net",
        "parameters": {"SeverityThreshold": 8.0},
        "figures": {"SeverityPercent": severity, "Decision": decision},
    }
    before, after = RESIDUALS
    return [{"stage": before, "residual": 0.31}, correction, {"stage": after, "residual": 0.352}]


def test_motion_is_told_with_its_decision_caveat_and_residuals():
    fragment = motion_table({}, motion_records(9.512, "a <corrected> map is written"))
    for text in (
        "Severity 9.512 %, a &lt;corrected&gt; map is written",
        "from 8 % on",
        "learned from simulations and is not a measurement",
        "<td>0.31</td>",
        "<td>0.352</td>",
    ):
        assert text in fragment


def test_consensus_list_has_the_correction_and_no_measurement_of_it():
    fragment = FRAGMENTS["consensus"]({}, motion_records(9.5, ""))
    assert "Algorithm: Motion correction" in fragment
    assert "Data residual" not in fragment


def test_without_motion_correction_the_residual_is_still_told():
    fragment = motion_table({}, motion_records(9.5, "")[:1])
    assert "switched off" in fragment
    assert "<td>0.31</td>" in fragment
    assert "measurement" not in fragment


def test_table_refuses_ragged_rows():
    with pytest.raises(ValueError, match="zip"):
        table(("a", "b"), [("x",)], caption="c")


@pytest.mark.parametrize(
    ("value", "text"), [(False, "no"), (12, "12"), ({"a_b": [1.0, None]}, "a b = 1, not stated"), ("x", "x")]
)
def test_values_are_written_for_people(value, text):
    assert format_value(value) == text
