"""Measurements as BIDS tables: rows of one series, tables of a subject made of them."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsmflow.bids.files import read_json, write_json, write_text
from qsmflow.bids.findings import InputProblem
from qsmflow.bids.provenance import plain

#: What BIDS writes where there is no value.
MISSING = "n/a"
#: Tables of a subject by the ``desc`` of the rows that they are made of.
TABLES = {"quality": "iqms", "comparison": "comparison", "regions": "regions"}
#: Suffix of rows, as of the other fragments of a report.
ROWS_SUFFIX = "MEGRE"


@dataclass(frozen=True)
class Column:
    """What a column of a table holds.

    Attributes
    ----------
    description : str
        One sentence.
    units : str or None
        Of its values; None for text and pure numbers.
    label : str or None
        Name for people, where that of the column does not say it.
    """

    description: str
    units: str | None = None
    label: str | None = None


#: Columns that every table begins with: which series a row is of.
SERIES = {
    "participant_id": Column("Participant"),
    "session": Column("Session label"),
    "acquisition": Column("Acquisition label"),
    "run": Column("Run label"),
    "series": Column("Name of the series, as in its files"),
}


def series_cells(entities: Mapping[str, str | None], *, name: str) -> dict[str, str | None]:
    """Cells that tell which series a row is of.

    Parameters
    ----------
    entities : mapping
        Of the series.
    name : str
        Of the series.

    Examples
    --------
    >>> series_cells({"subject": "01", "acquisition": "still"}, name="sub-01_acq-still")["participant_id"]
    'sub-01'
    """
    labels = {key: entities.get(key) for key in ("session", "acquisition", "run")}
    return {"participant_id": f"sub-{entities['subject']}", **labels, "series": name}


def write_rows(path: Path, rows: Iterable[Mapping], *, columns: Mapping[str, Column]) -> None:
    """Write rows of one series, to be put into its subject's table later.

    Parameters
    ----------
    path : Path
        JSON file.
    rows : iterable of mapping
        Cells by column; numbers keep all their digits, None is a missing value.
    columns : mapping
        What the cells mean, in their order.

    Raises
    ------
    ValueError
        If a row has a cell without a column.
    """
    rows = [plain(row) for row in rows]
    unknown = {name for row in rows for name in row} - set(columns)
    if unknown:
        raise ValueError(f"{path.name}: no column describes {', '.join(sorted(unknown))}")
    write_json(
        path, {"columns": {name: _described(column) for name, column in columns.items()}, "rows": rows}
    )


def read_rows(path: Path) -> dict[str, Any]:
    """Read what :func:`write_rows` wrote.

    Parameters
    ----------
    path : Path
        JSON file.

    Returns
    -------
    dict
        ``columns``, told by name, and ``rows``, each a dict.

    Raises
    ------
    InputProblem
        If it holds anything else.
    """
    content = read_json(path)
    columns, rows = content.get("columns"), content.get("rows")
    each = [*columns.values(), *rows] if isinstance(columns, dict) and isinstance(rows, list) else [None]
    if not all(isinstance(entry, dict) for entry in each):
        raise InputProblem("it holds no rows of a table", "write it again")
    return content


def is_rows(path: Path) -> bool:
    """Whether a file of a subject's figures is by its name one that :func:`write_rows` wrote.

    Examples
    --------
    >>> is_rows(Path("sub-1_desc-quality_MEGRE.json")), is_rows(Path("sub-1_desc-mask_MEGRE.json"))
    (True, False)
    """
    return path.name.endswith(tuple(f"_desc-{desc}_{ROWS_SUFFIX}.json" for desc in TABLES))


def write_subject_tables(folder: Path, *, without: Collection[Path] = ()) -> list[Path]:
    """Make the tables of a subject from the rows of its series.

    ``sub-XX_iqms.tsv``, ``sub-XX_comparison.tsv`` and ``sub-XX_regions.tsv``, each with a sidecar that
    describes its columns; those without rows are removed.

    Parameters
    ----------
    folder : Path
        The subject's, ``sub-XX``, with rows in ``figures``.
    without : collection of Path, optional
        Rows that are left out.

    Returns
    -------
    list of Path
        Tables that were written.

    Raises
    ------
    InputProblem
        If a file that is not left out holds no rows.
    OSError
        If a table cannot be written.
    """
    written = []
    for desc, table in TABLES.items():
        target = folder / f"{folder.name}_{table}.tsv"
        files = sorted(folder.glob(f"figures/*_desc-{desc}_{ROWS_SUFFIX}.json"))
        contents = [read_rows(path) for path in files if path not in without]
        columns = {name: column for content in contents for name, column in content["columns"].items()}
        rows = [row for content in contents for row in content["rows"]]
        if not rows:
            target.unlink(missing_ok=True)
            target.with_suffix(".json").unlink(missing_ok=True)
            continue
        write_json(target.with_suffix(".json"), columns)
        write_text(target, tab_separated(rows, columns=list(columns)))
        written.append(target)
    return written


def tab_separated(rows: Iterable[Mapping], *, columns: Sequence[str]) -> str:
    """Rows as the text of a BIDS table.

    Parameters
    ----------
    rows : iterable of mapping
        Cells by column.
    columns : sequence of str
        In their order; cells that a row lacks, and those that are None, are ``n/a``.

    Examples
    --------
    >>> tab_separated([{"a": 0.1, "b": None}], columns=["a", "b", "c"]).splitlines()
    ['a\\tb\\tc', '0.1\\tn/a\\tn/a']
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value) -> str:
    return MISSING if value is None or value == "" else str(value)


def _described(column: Column) -> dict[str, str]:
    fields = {"LongName": column.label, "Description": column.description, "Units": column.units}
    return {name: text for name, text in fields.items() if text}
