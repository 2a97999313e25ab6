import pytest

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.references import find_references

STILL = {"acquisition": "still"}


def _scan(subject: str = "01", session: str | None = None, **entities) -> Acquisition:
    return Acquisition(subject, session, entities, "MEGRE", ())


def _names(found) -> dict[str, str]:
    return {name: reference.name for name, reference in found.of.items()}


def test_each_scan_is_compared_with_that_of_its_own_head():
    scans = [_scan(s, acquisition=a) for s in ("01", "02") for a in ("still", "motion")]
    found = find_references(scans, wanted=STILL)
    assert _names(found) == {
        "sub-01_acq-motion": "sub-01_acq-still",
        "sub-02_acq-motion": "sub-02_acq-still",
    }
    assert not found.findings


def test_the_session_goes_before_the_subject():
    scans = [_scan(session=s, acquisition="still") for s in ("1", "2")]
    found = find_references([*scans, _scan(session="2", acquisition="motion")], wanted=STILL)
    assert _names(found) == {"sub-01_ses-2_acq-motion": "sub-01_ses-2_acq-still"}


def test_a_reference_of_another_session_will_do():
    scans = [_scan(session="1", acquisition="still"), _scan(session="2", acquisition="motion")]
    assert _names(find_references(scans, wanted=STILL)) == {
        "sub-01_ses-2_acq-motion": "sub-01_ses-1_acq-still"
    }


@pytest.mark.parametrize(
    ("references", "problem"),
    [((), "no scan of the subject matches acquisition=still"), (("1", "2"), "all match acquisition=still")],
)
def test_none_and_several_are_told(references, problem):
    scans = [_scan(acquisition="still", run=run) for run in references]
    found = find_references([*scans, _scan(acquisition="motion")], wanted=STILL)
    assert not found.of
    (finding,) = found.findings
    assert problem in str(finding)
    assert finding.severity == "warning"


def test_leading_zeros_do_not_matter():
    scans = [_scan(run="01"), _scan(run="02")]
    assert _names(find_references(scans, wanted={"run": "1"})) == {"sub-01_run-02": "sub-01_run-01"}


def test_without_a_filter_nothing_is_compared():
    found = find_references([_scan(acquisition="still"), _scan(acquisition="motion")], wanted={})
    assert not found.of
    assert not found.findings
