"""The official validator, called offline."""

import sys

import numpy as np
import pytest

from qsmflow.bids import validator
from qsmflow.bids.validator import find_validator, validate

pytestmark = pytest.mark.skipif(find_validator() is None, reason="bids-validator-deno is not installed")


def test_a_sound_data_set(study):
    study.add_scan()
    assert validate(study.root) == []


def test_errors_are_findings_of_their_subject(study):
    study.add_scan()
    study.write_image("sub-02/anat/sub-02_echo-1_part-mag_MEGRES.nii.gz", np.ones((4, 4, 4), np.int16))
    (finding,) = [each for each in validate(study.root) if each.file.endswith("MEGRES.nii.gz")]
    assert (finding.severity, finding.category, finding.subject) == ("error", "bids", "02")
    assert not [each for each in validate(study.root, participants=["01"]) if each.subject == "02"]


def test_public_example_with_empty_images(test_data):
    fields = {finding.field for finding in validate(test_data / "bids_layouts" / "qmri_qsm")}
    assert fields == {"EMPTY_FILE", "NIFTI_HEADER_UNREADABLE"}


def test_nothing_is_written_to_home(study, tmp_path, monkeypatch):
    study.add_scan()
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv("DENO_DIR", raising=False)
    before = study.tree()
    assert validate(study.root) == []
    assert list(home.iterdir()) == []
    assert study.tree() == before


def test_a_missing_validator_is_a_warning(study, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = validate(study.root)
    assert finding.severity == "warning" and "not installed" in finding.problem


@pytest.mark.parametrize(
    ("script", "words"),
    [("#!/bin/sh\necho boom >&2; exit 3\n", "code 3 and no report (boom)"), ("", "cannot be started")],
)
def test_a_failing_validator_is_a_warning(study, monkeypatch, tmp_path, script, words):
    broken = tmp_path / "bids-validator"
    broken.write_text(script or "#!/no/such/interpreter\n")
    broken.chmod(0o755)
    monkeypatch.setattr(validator, "find_validator", lambda: str(broken))
    (finding,) = validate(study.root)
    assert finding.severity == "warning" and words in finding.problem


def test_a_validator_that_hangs_is_given_up(study, monkeypatch, tmp_path):
    slow = tmp_path / "bids-validator"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setattr(validator, "find_validator", lambda: str(slow))
    (finding,) = validate(study.root, timeout=0.2)
    assert finding.severity == "warning" and "0.2 s" in finding.problem
