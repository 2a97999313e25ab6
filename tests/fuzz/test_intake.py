"""Files with wrong bytes in them: read, or refused with a reason, and never anything else."""

import gzip
import json
from pathlib import Path

import nibabel as nb
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qsmflow.bids.acquisition import Acquisition, Echo, number
from qsmflow.bids.checks import check_acquisition, format_findings
from qsmflow.bids.findings import InputProblem
from qsmflow.bids.images import ImageFacts, UnreadableImage, read_image
from qsmflow.bids.phase_range import UnknownPhaseRange, classify_phase_range
from qsmflow.bids.sidecars import read_object

IMAGE = nb.Nifti1Image(
    np.arange(216, dtype=np.int16).reshape(6, 6, 6), np.diag([1.0, 1.0, 2.0, 1.0])
).to_bytes()
SIDECAR = json.dumps(
    {"EchoTime": 0.004, "MagneticFieldStrength": 3, "Units": "rad", "Note": "größe"}
).encode()
#: Metadata as JSON can have it, the fields that matter among them.
METADATA = st.dictionaries(
    st.sampled_from(["EchoTime", "MagneticFieldStrength", "Units", "SliceThickness"]),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=12)
        | st.sampled_from([10**400, "rad", "arbitrary", 0.004, 3]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=4,
    ),
)


@st.composite
def mutated(draw, content: bytes, *, first: int | None = None) -> bytes:
    """Some bytes overwritten, among the `first` ones where given, and perhaps the end cut off."""
    changed = bytearray(content)
    places = st.integers(0, (first or len(content)) - 1)
    for place, byte in draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=12)):
        changed[place] = byte
    kept = draw(st.one_of(st.just(len(changed)), st.integers(0, len(changed))))
    return bytes(changed[:kept])


def judged(path: Path) -> None:
    """Read an image as the checks do."""
    try:
        facts = read_image(path)
    except UnreadableImage as error:
        assert error.problem and error.fix
        return
    assert isinstance(facts, ImageFacts)
    try:
        classify_phase_range([facts])
    except UnknownPhaseRange as error:
        assert error.problem and error.fix


@given(mutated(IMAGE, first=352))
def test_headers_of_wrong_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("image") / "image.nii"
    path.write_bytes(content)
    judged(path)


@given(mutated(IMAGE, first=352))
def test_compressed_headers_of_wrong_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("image") / "image.nii.gz"
    path.write_bytes(gzip.compress(content, compresslevel=1))
    judged(path)


@given(mutated(gzip.compress(IMAGE)))
def test_streams_of_wrong_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("image") / "image.nii.gz"
    path.write_bytes(content)
    judged(path)


@given(mutated(SIDECAR))
def test_sidecars_of_wrong_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("sidecar") / "image.json"
    path.write_bytes(content)
    try:
        assert isinstance(read_object(path), dict)
    except InputProblem as error:
        assert error.problem and error.fix


@given(METADATA, METADATA)
def test_metadata_of_any_kind(tmp_path_factory, magnitude, phase):
    folder = tmp_path_factory.mktemp("metadata")
    paths = [folder / f"sub-01_part-{part}_T2starw.nii" for part in ("mag", "phase")]
    for path in paths:
        path.write_bytes(IMAGE)
    echo = Echo(paths[0], paths[1], number(magnitude.get("EchoTime")), magnitude, phase)
    acquisition = Acquisition("01", None, {}, "T2starw", (echo,))
    for finding in check_acquisition(acquisition):
        line = format_findings([finding])
        assert len(line) < 500
        assert "\n" not in line
        assert finding.field and finding.problem and finding.fix
