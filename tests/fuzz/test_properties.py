"""What must hold of every name, amount, range and configuration, whatever is in it."""

import argparse
import math
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qsmflow.bids.acquisition import number
from qsmflow.bids.findings import short_path
from qsmflow.bids.images import Extremes, ImageFacts
from qsmflow.bids.names import (
    ACQUISITION_ENTITIES,
    ENTITY_KEYS,
    derivative_name,
    is_label,
    join_name,
    parse_name,
)
from qsmflow.bids.phase_range import KNOWN_RANGES, UnknownPhaseRange, classify_phase_range
from qsmflow.cli.arguments import memory
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.parser import config_arguments, parse_settings

LABELS = st.from_regex(r"[0-9A-Za-z]{1,8}", fullmatch=True)
ENTITIES = st.dictionaries(st.sampled_from(list(ENTITY_KEYS)), LABELS, min_size=1)
SOURCES = st.tuples(LABELS, st.dictionaries(st.sampled_from(ACQUISITION_ENTITIES), LABELS)).map(
    lambda drawn: {"subject": drawn[0], **drawn[1]}
)
#: What JSON and TOML can hold.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(ENTITIES, LABELS, st.sampled_from([".nii", ".nii.gz", ".json"]))
def test_a_name_that_was_joined_comes_apart_again(entities, suffix, extension):
    name = parse_name(f"anywhere/{join_name(entities)}_{suffix}{extension}")
    assert name == (entities, suffix, extension)


@given(st.text(max_size=40))
def test_a_label_is_safe_in_paths_shells_and_pages(text):
    if is_label(text):
        assert not set(text) & set("/\\.<>&'\"$`;|*?~ \n")
        assert text.isascii()
        assert parse_name(f"sub-{text}_MEGRE.nii").entities == {"subject": text}


@given(SOURCES, st.sampled_from([("Chimap", "anat"), ("fieldmap", "fmap"), ("magnitude", "fmap")]))
def test_an_output_lies_in_its_subject_and_bears_its_labels(source, kind):
    suffix, datatype = kind
    desc = None if datatype == "anat" else "local"
    path = derivative_name(source, suffix=suffix, datatype=datatype, desc=desc)
    session = [f"ses-{source['session']}"] if "session" in source else []
    assert path.split("/")[:-1] == [f"sub-{source['subject']}", *session, datatype]
    assert all(label in path.split("/")[-1] for label in source.values())
    assert is_label(parse_name(path).entities.get("acquisition", "none"))


@given(SOURCES, SOURCES)
@example({"subject": "1", "acquisition": "A", "run": "1"}, {"subject": "1", "acquisition": "a", "run": "1"})
def test_different_scans_have_different_outputs(first, second):
    assume(first != second)
    assert derivative_name(first, suffix="Chimap") != derivative_name(second, suffix="Chimap")


def test_case_of_a_label_survives_where_entities_are_folded():
    names = {
        derivative_name(
            {"subject": "1", "acquisition": label, "reconstruction": "x"},
            suffix="fieldmap",
            desc="local",
            datatype="fmap",
        )
        for label in "Aa"
    }
    assert len(names) == 2


@given(st.integers(1, 10**6), st.sampled_from(["", "M", "MB", "mib", "G", "g", "GiB", "T", "tb"]))
def test_memory_is_read_in_every_unit(amount, unit):
    factor = {"": 1e-3, "m": 1e-3, "g": 1, "t": 1e3}[unit[:1].lower()]
    assert memory(f" {amount}{unit} ") == pytest.approx(amount * factor)


@given(st.text(max_size=20))
@example("9" * 400)
@example("٣G")
def test_any_text_is_a_positive_amount_of_memory_or_none(text):
    try:
        assert 0 < memory(text) < math.inf
    except argparse.ArgumentTypeError as error:
        assert "8G" in str(error)


@given(VALUES)
@example(10**400)
def test_a_number_of_the_metadata_is_finite_or_none(value):
    found = number(value)
    assert found is None or (isinstance(found, float) and math.isfinite(found))


@given(st.text())
@example("sub-01/anat/sub-01_acq-a\n\x1b[2J\udcff.nii")
def test_a_path_in_a_message_is_one_line_that_prints(text):
    said = short_path(Path(text))
    assert said.isprintable()
    said.encode("utf-8")


def _facts(low, high, *, slope=1.0, intercept=0.0) -> ImageFacts:
    stored = Extremes(low, high, low, high)
    return ImageFacts((8, 8, 8), np.eye(4), (1.0, 1.0, 1.0), True, slope, intercept, stored, 0)


@given(st.sampled_from(KNOWN_RANGES), st.floats(0, 0.02), st.floats(0, 0.02))
def test_wrapped_phase_in_a_known_range_becomes_one_turn(known, below, above):
    span = known.high - known.low
    found = classify_phase_range([_facts(known.low + below * span, known.high - above * span)])
    turn = found.scale * span
    assert turn == pytest.approx(2 * math.pi, rel=2e-2)


@given(
    *[st.floats(-1e9, 1e9)] * 2, st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.sampled_from([None, "rad"])
)
def test_any_other_range_is_known_or_refused_with_a_reason(low, high, slope, intercept, units):
    low, high = sorted((low, high))
    try:
        found = classify_phase_range([_facts(low, high, slope=slope, intercept=intercept)], units=units)
    except UnknownPhaseRange as error:
        assert error.problem and error.fix
    else:
        assert abs(found.scale * (found.high - found.low)) < 2 * math.pi * 1.1


@given(st.dictionaries(st.text(min_size=1, max_size=12), VALUES.filter(lambda value: value is not None)))
def test_any_configuration_is_read_or_refused(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("config") / "run.toml"
    try:
        path.write_text(tomli_w.dumps(entries), "utf-8")
    except (TypeError, ValueError):
        assume(False)
    try:
        parse_settings(["in", "out", "participant", "--config-file", str(path)])
    except Stop as stop:
        assert stop.code == ExitCode.USAGE


@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("config") / "run.toml"
    path.write_bytes(content)
    try:
        config_arguments(path)
    except Stop as stop:
        assert stop.code == ExitCode.USAGE
        assert "run.toml" in str(stop)
