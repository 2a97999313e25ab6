"""Write files so that nobody ever sees half of one."""

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Names that :func:`replacing` writes to.
_BESIDE = re.compile(r"\.[0-9a-f]{8}\.")


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Name to write to instead of `path`, which takes its place when all went well.

    The temporary name is a hidden one in the same folder, with the same extensions; folders are made
    as needed. A failure leaves what was there before.

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
    """Write a text file at once."""
    with replacing(path) as beside:
        beside.write_text(text, "utf-8")


def write_json(path: Path | str, content: Mapping[str, Any]) -> None:
    """Write a JSON file at once; NaN and infinity, which JSON has not, raise ValueError."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
