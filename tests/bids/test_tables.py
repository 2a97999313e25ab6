import json

import pytest

from qsmflow.bids.findings import InputProblem
from qsmflow.bids.tables import SERIES, Column, series_cells, write_rows, write_subject_tables

COLUMNS = {**SERIES, "rmse": Column("Error", "ppm"), "map": Column("Which")}


def _row(acquisition: str, rmse: float | None) -> dict:
    cells = series_cells({"subject": "01", "acquisition": acquisition}, name=f"sub-01_acq-{acquisition}")
    return {**cells, "rmse": rmse, "map": "corrected"}


@pytest.fixture
def subject(tmp_path):
    """Folder with the rows of two series."""
    for acquisition, rmse in (("b", 0.1 + 0.2), ("a", None)):
        path = tmp_path / "sub-01" / "figures" / f"sub-01_acq-{acquisition}_desc-comparison_MEGRE.json"
        write_rows(path, [_row(acquisition, rmse)], columns=COLUMNS)
    return tmp_path / "sub-01"


def test_rows_of_all_series_make_a_table_that_keeps_every_digit(subject):
    (path,) = write_subject_tables(subject)
    header, first, second = (line.split("\t") for line in path.read_text().splitlines())
    assert path.name == "sub-01_comparison.tsv"
    assert header == list(COLUMNS)
    assert [first[header.index("series")], second[header.index("series")]] == [
        "sub-01_acq-a",
        "sub-01_acq-b",
    ]
    assert first[header.index("rmse")] == "n/a"
    assert float(second[header.index("rmse")]) == 0.1 + 0.2


def test_the_sidecar_describes_the_columns(subject):
    (path,) = write_subject_tables(subject)
    columns = json.loads(path.with_suffix(".json").read_text())
    assert columns["rmse"] == {"Description": "Error", "Units": "ppm"}
    assert columns["map"] == {"Description": "Which"}


def test_a_table_without_rows_is_taken_away(subject):
    (path,) = write_subject_tables(subject)
    for rows in subject.glob("figures/*.json"):
        rows.unlink()
    assert write_subject_tables(subject) == []
    assert not path.exists()
    assert not path.with_suffix(".json").exists()


def test_a_cell_that_nothing_describes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no column describes psnr"):
        write_rows(tmp_path / "rows.json", [{"psnr": 1.0}], columns=COLUMNS)


def test_infinity_is_a_missing_value(tmp_path):
    write_rows(tmp_path / "rows.json", [{"rmse": float("inf")}], columns=COLUMNS)
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == [{"rmse": None}]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"columns": [], "rows": {}}', "[" * 10**5, b"\xff"])
def test_damaged_rows_are_named_or_left_out(subject, content):
    path = subject / "figures" / "sub-01_acq-c_desc-comparison_MEGRE.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputProblem):
        write_subject_tables(subject)
    (table,) = write_subject_tables(subject, without=[path])
    assert len(table.read_text().splitlines()) == 3
