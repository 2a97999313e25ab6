"""Level group: the tables of all subjects become one each, and a page shows how they are spread."""

import csv
import os
import reprlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from qsmflow.bids.dataset import check_output_dir
from qsmflow.bids.files import read_json, replacing, write_json
from qsmflow.bids.findings import Finding, InputProblem, format_findings, short_path
from qsmflow.bids.tables import MISSING
from qsmflow.cli.exit_codes import ExitCode, Stop, cannot_write
from qsmflow.reports.group import LABELS, GroupTable, Subject, build_group_page
from qsmflow.workflows.settings import Settings

#: Table of the group, ``group_<name>.tsv``, by that of a subject, ``sub-XX_<name>.tsv``.
TABLES: Mapping[str, str] = MappingProxyType({"iqms": "iqms", "comparison": "motion", "regions": "rois"})
_EMPTY = (MISSING, "", "nan", "NaN")
#: No measure is larger, whatever its unit; the squares of larger ones are no numbers any more.
_LARGEST = 1e100


@dataclass(frozen=True)
class SubjectTable:
    """One table of one subject.

    Attributes
    ----------
    path : Path
        Where it was read.
    rows : list of dict
        Text by column; None is missing.
    columns : mapping
        What its sidecar says of the columns; empty where there is none.
    """

    path: Path
    rows: list[dict[str, str | None]]
    columns: Mapping[str, Mapping[str, Any]]


def run_group(settings: Settings, *, argv: Sequence[str], console: Console) -> ExitCode:
    """Gather what level participant measured.

    Writes ``group_iqms.tsv``, ``group_motion.tsv`` and ``group_rois.tsv``, each with a sidecar and only if
    some subject has such rows, and ``group.html``.

    Parameters
    ----------
    settings : Settings
        Of the run; folders, labels and ``dry_run`` are what this level knows.
    argv : sequence of str
        Arguments as they were given.
    console : rich.console.Console
        Where to tell what could not be used.

    Returns
    -------
    ExitCode
        Done, or some file or subject was left out.

    Raises
    ------
    Stop
        66 if there is nothing to gather, 64 and 73 for an output folder that is none of ours or cannot be
        written to.
    """
    _check_output(settings)
    folders, findings = _find_subjects(settings)
    tables = {}
    for source, target in TABLES.items():
        merged, found = gather(
            [folder / f"{folder.name}_{source}.tsv" for folder in folders],
            labels=LABELS[target],
            sessions=settings.session_label,
        )
        tables |= {} if merged.rows.empty else {target: merged}
        findings += found
    if not (tables or findings):
        raise Stop(
            ExitCode.NO_INPUT,
            f"{settings.out_dir}: no participant has a table to gather; run level participant first",
        )
    if not settings.dry_run:
        page = _write(settings, folders, tables=tables, findings=findings, argv=argv)
        console.print(f"Report: {page}", markup=False, highlight=False)
    for name, each in tables.items():
        participants = each.rows["participant_id"].nunique()
        console.print(
            f"group_{name}.tsv: {len(each.rows)} rows of {participants} participant(s)", highlight=False
        )
    if findings:
        console.print(format_findings(findings), style="red", markup=False, highlight=False)
    return ExitCode.SUBJECT_FAILED if findings else ExitCode.DONE


def gather(
    paths: Sequence[Path], *, labels: Sequence[str], sessions: Sequence[str] = ()
) -> tuple[GroupTable, list[Finding]]:
    """Put the tables of all subjects below each other.

    Columns are those of any table, in the order in which they are met. A table is left out, with a finding,
    if it cannot be read, gives a column in another unit than the tables before it, or has text or what is not
    finite where others have numbers.

    Parameters
    ----------
    paths : sequence of Path
        One a subject; those that are not there are passed over.
    labels : sequence of str
        Columns that every table must have.
    sessions : sequence of str, optional
        Only their rows; all unless given.

    Returns
    -------
    GroupTable
        Without rows where there are none.
    list of Finding
        One for each file that was not used.
    """
    parts, findings = [], []
    for path in paths:
        columns, found = _read_sidecar(path.with_suffix(".json"))
        findings += found
        if not os.path.lexists(path):
            continue
        try:
            rows = read_table(path, labels=labels)
        except InputProblem as problem:
            findings.append(_finding(path, "table", problem.problem))
            continue
        except (OSError, ValueError, csv.Error) as error:
            findings.append(_finding(path, "table", f"it cannot be read ({error})"))
            continue
        chosen = [row for row in rows if not sessions or row["session"] in sessions]
        parts.append(SubjectTable(path, chosen, columns))
    for check in (_other_units, partial(_no_measures, labels=labels)):
        found = check(parts)
        findings += found.values()
        parts = [part for part in parts if part.path not in found]
    columns = {name: told for part in reversed(parts) for name, told in part.columns.items()}
    merged = _below_each_other(parts, labels=labels)
    return GroupTable(merged, {name: columns[name] for name in merged if name in columns}), findings


def _below_each_other(parts: Sequence[SubjectTable], *, labels: Sequence[str] = ()) -> pd.DataFrame:
    names = dict.fromkeys([*labels, *(name for part in parts for row in part.rows[:1] for name in row)])
    rows = [[row.get(name) for name in names] for part in parts for row in part.rows]
    return pd.DataFrame(rows, columns=list(names), dtype="str")


def read_table(path: Path, *, labels: Sequence[str]) -> list[dict[str, str | None]]:
    """Read the table of a subject, strictly, without turning text into numbers.

    Parameters
    ----------
    path : Path
        Tab-separated; the participant is the name of its folder.
    labels : sequence of str
        Columns that it must have.

    Returns
    -------
    list of dict
        Text by column; ``n/a`` and empty cells are None.

    Raises
    ------
    InputProblem
        If it is no such table of this participant.
    OSError, ValueError, csv.Error
        If it cannot be read as text.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "sub-01", "sub-01_iqms.tsv")
    ...     path.parent.mkdir()
    ...     _ = path.write_text("participant_id\\trun\\tsnr\\nsub-01\\t01\\tn/a\\n")
    ...     read_table(path, labels=["participant_id"])
    [{'participant_id': 'sub-01', 'run': '01', 'snr': None}]
    """
    if not path.is_file():
        raise _broken(path, "it cannot be read (it is no file, or a link to content that is not here)")
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [row for row in csv.reader(file, delimiter="\t") if row]
    if not lines:
        raise _broken(path, "it is empty")
    header, *rows = lines
    absent = [name for name in labels if name not in header]
    if absent:
        raise _broken(path, f"it has no column {', '.join(absent)}")
    if len(set(header)) < len(header):
        raise _broken(path, "two of its columns have one name")
    ragged = [number for number, row in enumerate(rows, start=2) if len(row) != len(header)]
    if ragged:
        raise _broken(path, f"row {ragged[0]} has {len(rows[ragged[0] - 2])} cells for {len(header)} columns")
    found = [
        {name: None if cell in _EMPTY else cell for name, cell in zip(header, row, strict=True)}
        for row in rows
    ]
    strange = [row["participant_id"] for row in found if row["participant_id"] != path.parent.name]
    if strange:
        raise _broken(path, f"it holds rows of {strange[0] or 'nobody'}")
    return found


def _broken(path: Path, problem: str) -> InputProblem:
    return InputProblem(problem, _fix(path))


def _finding(path: Path, field: str, problem: str) -> Finding:
    label = path.parent.name.removeprefix("sub-")
    return Finding("error", short_path(path), field, problem, _fix(path), subject=label)


def _fix(path: Path) -> str:
    label = path.parent.name.removeprefix("sub-")
    return f"write it again: level participant with --participant-label {label} --reports-only"


def _read_sidecar(path: Path) -> tuple[dict[str, dict], list[Finding]]:
    """What a table's columns mean; without a file nothing, and no complaint."""
    if not os.path.lexists(path):
        return {}, []
    try:
        told = read_json(path)
    except InputProblem as problem:
        return {}, [_finding(path, "JSON", f"it cannot be read ({problem.problem})")]
    if not all(isinstance(each, dict) for each in told.values()):
        return {}, [_finding(path, "JSON", "it does not describe columns")]
    return told, []


def _other_units(parts: Sequence[SubjectTable]) -> dict[Path, Finding]:
    """Tables that give a column in another unit than the first table that describes it."""
    units, found = {}, {}
    for part in parts:
        for name, told in part.columns.items():
            unit = told.get("Units")
            known = units.setdefault(name, unit)
            if unit != known:
                problem = f"it is in {unit or 'no unit'}, in other tables in {known or 'no unit'}"
                found.setdefault(part.path, _finding(part.path, name, problem))
    return found


def _no_measures(parts: Sequence[SubjectTable], *, labels: Sequence[str]) -> dict[Path, Finding]:
    """Tables with what is not finite among measures, or words where numbers stand at least as often."""
    rows = _below_each_other(parts)
    owners = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
    found = {}
    for name, text in rows.drop(columns=list(labels), errors="ignore").items():
        numbers = pd.to_numeric(text, errors="coerce").astype(float)
        words = text.notna() & numbers.isna()
        wrong = (numbers.abs() > _LARGEST) | (words & (words.sum() <= text.notna().sum() / 2))
        for number in np.unique(owners[wrong]):
            path, row = parts[number].path, np.flatnonzero(wrong & (owners == number))[0]
            told = "not a number" if words.iloc[row] else "too large for a measure"
            found.setdefault(path, _finding(path, name, f"{reprlib.repr(text.iloc[row])} is {told}"))
    return found


def _check_output(settings: Settings) -> None:
    try:
        check_output_dir(settings.out_dir, bids_dir=settings.bids_dir)
    except ValueError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    except OSError as error:
        raise Stop(ExitCode.CANNOT_WRITE, str(error)) from error


def _find_subjects(settings: Settings) -> tuple[list[Path], list[Finding]]:
    """Folders of the subjects asked for, and those asked for that are not there."""
    found = sorted(path for path in settings.out_dir.glob("sub-*") if path.is_dir())
    folders = [path for path in found if path.name.isprintable()]
    asked = [f"sub-{label}" for label in settings.participant_label]
    chosen = [folder for folder in folders if not asked or folder.name in asked]
    if not chosen:
        wanted = ", ".join(asked) or "sub-*"
        raise Stop(ExitCode.NO_INPUT, f"{settings.out_dir}: no folder {wanted}; run level participant first")
    there = {folder.name for folder in chosen}
    strange = [
        Finding("error", short_path(path), "folder", "it holds characters that no label has", "rename it")
        for path in found
        if path not in folders and not asked
    ]
    return chosen, strange + [
        Finding(
            "error",
            name,
            "folder",
            "it is not there",
            "run level participant for it",
            subject=name.removeprefix("sub-"),
            category="input",
        )
        for name in asked
        if name not in there
    ]


def _write(
    settings: Settings,
    folders: Sequence[Path],
    *,
    tables: Mapping[str, GroupTable],
    findings: Sequence[Finding],
    argv: Sequence[str],
) -> Path:
    """Write the group's tables and page; a table that nobody has rows for any more goes."""
    try:
        for name in TABLES.values():
            path = settings.out_dir / f"group_{name}.tsv"
            if name in tables:
                write_json(path.with_suffix(".json"), tables[name].columns)
                with replacing(path) as beside:
                    tables[name].rows.to_csv(beside, sep="\t", na_rep=MISSING, index=False)
            else:
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)
        return build_group_page(
            settings.out_dir,
            subjects=[_subject(folder) for folder in folders],
            tables=tables,
            findings=findings,
            command_line=shlex.join(["qsmflow", *argv]),
        )
    except OSError as error:
        raise cannot_write(settings.out_dir, error) from error


def _subject(folder: Path) -> Subject:
    """Whether a subject has a report, and how its latest run ended."""
    runs = sorted(path for path in folder.glob("log/*") if path.is_dir())
    return Subject(
        name=folder.name,
        has_report=folder.with_suffix(".html").is_file(),
        failed_steps=len(list(runs[-1].glob("crash*"))) if runs else None,
    )
