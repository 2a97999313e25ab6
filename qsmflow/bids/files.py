"""Write files so that nobody ever sees half of one."""

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qsmflow.bids.findings import InputProblem
from qsmflow.bids.sidecars import read_object

#: Names that :func:`replacing` writes to.
_BESIDE = re.compile(r"\.[0-9a-f]{8}\.")


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Name to write to instead of `path`, which takes its place when all went well.

    The temporary name is a hidden one in the same folder, with the same extensions; folders are made
    as needed. A failure leaves what was there before, and is told of `path`, not of the temporary name.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/new/note.txt") as beside:
    ...         _ = beside.write_text("all of it")
    ...     Path(folder, "new", "note.txt").read_text()
    'all of it'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        if str(error.filename) != str(beside):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def remove_unfinished(folder: Path | str, *, prefix: str) -> None:
    """Remove what a process that was killed had not written to its end.

    Parameters
    ----------
    folder : Path or str
        Searched with all below it.
    prefix : str
        Entities that the names begin with that the files would have got in the end.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in (".0123abcd.sub-1_map.nii.gz", ".0123abcd.sub-10_map.nii.gz", ".bidsignore"):
    ...         Path(folder, name).touch()
    ...     remove_unfinished(folder, prefix="sub-1")
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['.0123abcd.sub-10_map.nii.gz', '.bidsignore']
    """
    for path in Path(folder).rglob(".*"):
        beside = _BESIDE.match(path.name)
        name = path.name[beside.end() :] if beside else ""
        if name.startswith((f"{prefix}_", f"{prefix}.")):
            path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file at once.

    What UTF-8 has not, as in names of files in another encoding, becomes an escape such as ``\\udcff``.
    """
    with replacing(path) as beside:
        beside.write_text(text, "utf-8", errors="backslashreplace")


def write_json(path: Path | str, content: Mapping[str, Any]) -> None:
    """Write a JSON file at once; NaN and infinity, which JSON has not, raise ValueError."""
    write_text(path, _as_json(content))


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON file that has to hold one object which can be written again.

    Parameters
    ----------
    path : path
        The file, UTF-8.

    Returns
    -------
    dict
        What it holds.

    Raises
    ------
    InputProblem
        If it is no such file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "rows.json").write_text('{"rows": NaN}')
    ...     read_json(f"{folder}/rows.json")
    Traceback (most recent call last):
    qsmflow.bids.findings.InputProblem: it holds NaN, infinity or half a character; correct the file, ...
    """
    content, fix = read_object(path), "correct the file, or put the original in its place"
    try:
        _as_json(content).encode("utf-8")
    except ValueError as error:
        raise InputProblem("it holds NaN, infinity or half a character", fix) from error
    except RecursionError as error:  # what can be read may be too deep to be written
        raise InputProblem("its values are nested too deeply", fix) from error
    return content


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
