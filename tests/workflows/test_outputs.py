"""What is promised of the derivatives holds before anything runs."""

import ast
import inspect

import pytest
from pybtex.database import parse_file

from qsmflow.bids.names import derivative_name
from qsmflow.interfaces import background, echoes, inversion, learned, masks, susceptibility, unwrap
from qsmflow.reports.figures import FIGURES
from qsmflow.reports.methods import BIBLIOGRAPHY
from qsmflow.reports.motion import CORRECTION, RESIDUALS
from qsmflow.workflows.outputs import DERIVATIVES, init_outputs_wf

MODULES = (echoes, masks, unwrap, background, susceptibility, inversion, learned)
FULL = {
    "subject": "01",
    "session": "a",
    "acquisition": "still",
    "ceagent": "gd",
    "reconstruction": "norm",
    "run": "1",
}


def records() -> list[dict[str, ast.expr]]:
    """Arguments of every StageRecord that an interface makes."""
    calls = (node for module in MODULES for node in ast.walk(ast.parse(inspect.getsource(module))))
    return [
        {keyword.arg: keyword.value for keyword in call.keywords}
        for call in calls
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "StageRecord"
    ]


@pytest.mark.parametrize("entities", [{"subject": "01"}, FULL])
def test_names_are_valid_and_differ(entities):
    names = [
        derivative_name(entities, suffix=each.suffix, desc=each.desc, datatype=each.datatype)
        for each in DERIVATIVES
    ]
    names += [
        derivative_name(entities, suffix=figure.suffix, desc=kind, datatype="figures", extension=".svg")
        for kind, figure in FIGURES.items()
    ]
    assert len(set(names)) == len(names)
    assert all(name.startswith("sub-01/") for name in names)


def test_every_derivative_comes_from_a_stage_that_exists():
    stages = {record["stage"].value for record in records()}
    assert len(stages) >= 10
    assert {each.last_stage for each in DERIVATIVES} - {None, *RESIDUALS} <= stages
    assert CORRECTION in stages


def test_every_reference_of_a_record_is_in_the_bibliography():
    keys = {
        key.value
        for record in records()
        for group in ast.walk(record.get("references", ast.Tuple([])))
        if isinstance(group, ast.Tuple)
        for key in group.elts
    }
    assert len(keys) >= 7
    assert keys <= set(parse_file(str(BIBLIOGRAPHY)).entries)


@pytest.mark.parametrize("motion_correction", [False, True])
@pytest.mark.parametrize("n_echoes", [1, 4])
def test_each_derivative_is_written_and_described(make_job, tmp_path, n_echoes, motion_correction):
    job = make_job(n_echoes=n_echoes)
    workflow = init_outputs_wf(
        acquisition=job.acquisition,
        field_strength=3.0,
        bids_dir=tmp_path,
        out_dir=tmp_path / "out",
        motion_correction=motion_correction,
    )
    expected = [each for each in DERIVATIVES if n_echoes > 1 or not each.several_echoes]
    found = [
        (node.inputs.suffix, node.inputs.desc, node.inputs.datatype)
        for node in workflow._get_all_nodes()
        if node.name.startswith("write_")
    ]
    assert sorted(map(str, found)) == sorted(
        str((each.suffix, each.desc, each.datatype)) for each in expected
    )
    described = [node for node in workflow._get_all_nodes() if node.name.startswith("describe_")]
    assert len(described) == len(expected) - (not motion_correction)
    assert {node.inputs.bids_dir for node in described} == {str(tmp_path)}
    sources = [node.inputs.extra["Sources"] for node in described if "Sources" in node.inputs.extra]
    assert sources == [["bids::sub-01/anat/sub-01_Chimap.nii.gz"]] * motion_correction
