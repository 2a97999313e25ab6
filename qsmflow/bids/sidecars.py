"""JSON files of a data set, read before the index reads them: what is wrong with each, subject by subject."""

import json
import os
import re
import reprlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from qsmflow.bids.findings import Finding, InputProblem, short_path
from qsmflow.bids.names import ENTITY_KEYS, parse_name

#: What the index leaves out: all but subjects and the sidecars that they inherit, folders of theirs that hold
#: no anatomical image, and hidden files.
IGNORED = (
    re.compile(r"^/(?!sub-)(?![^/]*(MEGRE|T2starw)\.json$)"),
    re.compile(r"/(beh|dwi|eeg|emg|fmap|func|ieeg|meg|micr|motion|mrs|nirs|perf|pet)(/|$)"),
    re.compile(r"/\."),
)
#: Longest sidecar that is believed to be one, bytes.
LONGEST = 16 * 2**20
#: Fields that the index takes for entities of the file name.
_ENTITIES = ("datatype", "extension", "suffix", *ENTITY_KEYS)


def read_object(path: Path | str) -> dict[str, Any]:
    """Read a JSON file that has to hold one object.

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
        If it is no file, not readable, no JSON, no object, or says one thing twice.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "echo.json").write_text('{"EchoTime": 0.004, "EchoTime": 0.008}')
    ...     read_object(f"{folder}/echo.json")
    Traceback (most recent call last):
    qsmflow.bids.findings.InputProblem: 'EchoTime' stands there twice; correct the file, or put the ...
    """
    path, fix = Path(path), "correct the file, or put the original in its place"
    if not path.is_file():
        raise InputProblem("it is no file, or a link to content that is not here", fix)
    try:
        if path.stat().st_size > LONGEST:
            raise InputProblem(f"it has {path.stat().st_size} bytes, no sidecar is that long", fix)
        content = json.loads(path.read_text("utf-8"), object_pairs_hook=_without_repeats)
    except RecursionError as error:
        raise InputProblem("its values are nested too deeply", fix) from error
    except _Repeated as error:
        raise InputProblem(f"{error.args[0]!r} stands there twice", fix) from error
    except OSError as error:
        raise InputProblem(f"it cannot be read ({error.strerror})", fix) from error
    except ValueError as error:
        raise InputProblem(f"it is no valid JSON ({error})", fix) from error
    if not isinstance(content, dict):
        raise InputProblem("it is no JSON object", fix)
    return content


class _Repeated(Exception):
    """A key of an object that is there more than once."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise _Repeated(key)
        found[key] = value
    return found


def check_sidecars(root: Path | str, *, ignored: Collection[re.Pattern] = IGNORED) -> list[Finding]:
    """Everything that would keep a data set from being indexed, or its index from ever ending.

    Parameters
    ----------
    root : path
        Of the data set.
    ignored : collection of re.Pattern
        What is not looked at, by its path from the root on.

    Returns
    -------
    list of Finding
        Broken JSON files, names that cannot be printed and folders that lead back into themselves; of the
        subject whose they are, of none where they concern all.
    """
    root = Path(root)
    description = root / "dataset_description.json"
    return [
        *(_check_file(description, root=root) if os.path.lexists(description) else ()),
        *_check_folder(root, root=root, above=frozenset(), ignored=ignored),
    ]


def _check_folder(
    folder: Path, *, root: Path, above: Collection[Path], ignored: Collection[re.Pattern]
) -> Iterator[Finding]:
    """Findings of a folder and those in it; `above` are the folders on the way, without links."""
    own = folder.resolve()
    if own in above:
        problem, fix = "the link leads back to a folder above it", "remove the link"
        yield _finding(folder, root=root, field="folder", problem=InputProblem(problem, fix))
        return
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        problem = InputProblem(f"it cannot be listed ({error.strerror})", "give yourself the permission")
        yield _finding(folder, root=root, field="folder", problem=problem)
        return
    for path in paths:
        inside = f"/{path.relative_to(root).as_posix()}"
        if any(pattern.search(inside) for pattern in ignored):
            continue
        if not path.name.isprintable() or "\\" in path.name:
            problem = InputProblem("it holds characters that no label has", "rename it")
            yield _finding(path, root=root, field="file name", problem=problem)
        elif path.suffix == ".json":
            yield from _check_file(path, root=root)
        elif path.is_dir() and path.name.endswith((".nii", ".nii.gz")):
            problem = InputProblem("it is a folder", "put the image in its place")
            yield _finding(path, root=root, field="image", problem=problem)
        elif path.is_dir():
            yield from _check_folder(path, root=root, above={*above, own}, ignored=ignored)


def _check_file(path: Path, *, root: Path) -> Iterator[Finding]:
    try:
        content = read_object(path)
    except InputProblem as problem:
        yield _finding(path, root=root, field="JSON", problem=problem)
        return
    name = parse_name(path)
    said = {**name.entities, "suffix": name.suffix}
    for entity in _ENTITIES:
        if entity in content and str(content[entity]) != said.get(entity):
            problem = f"{reprlib.repr(content[entity])} is not what the file name says"
            fix = "remove the field; names tell entities"
            yield _finding(path, root=root, field=entity, problem=InputProblem(problem, fix))


def _finding(path: Path, *, root: Path, field: str, problem: InputProblem) -> Finding:
    first = path.relative_to(root).parts[:1]
    of_subject = path.parent != root or path.is_dir()
    subject = first[0].removeprefix("sub-") if first and of_subject else None
    return Finding("error", short_path(path), field, problem.problem, problem.fix, subject, category="bids")
