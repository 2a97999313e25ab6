"""JSON files of a data set, read before the index reads them: what is wrong with each, subject by subject."""

import json
import os
import re
import reprlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsmflow.bids.findings import Finding, InputProblem, short_path
from qsmflow.bids.names import ENTITY_KEYS, parse_name

#: Suffixes whose magnitude and phase are gradient echoes.
GRADIENT_ECHO_SUFFIXES = ("MEGRE", "T2starw")
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


@dataclass(frozen=True)
class Sidecars:
    """What stands in the way of an index.

    Attributes
    ----------
    findings : tuple of Finding
        Of the subject whose file it is, of none where all are concerned.
    needless : tuple of Path
        Files that are broken as well, but which no image that is wanted inherits.
    """

    findings: tuple[Finding, ...]
    needless: tuple[Path, ...] = ()


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
    try:
        if not path.is_file():
            raise InputProblem("it is no file, or a link to content that is not here", fix)
        if path.stat().st_size > LONGEST:
            raise InputProblem(f"it has {path.stat().st_size} bytes, no sidecar is that long", fix)
        content = json.loads(path.read_text("utf-8"), object_pairs_hook=_without_repeats)
    except InputProblem:
        raise
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


def check_sidecars(
    root: Path | str,
    *,
    ignored: Collection[re.Pattern] = IGNORED,
    suffixes: Collection[str] = GRADIENT_ECHO_SUFFIXES,
) -> Sidecars:
    """Everything that would keep a data set from being indexed, or its index from ever ending.

    Parameters
    ----------
    root : path
        Of the data set.
    ignored : collection of re.Pattern
        What is not looked at, by its path from the root on.
    suffixes : collection of str
        Of the images that are wanted; broken sidecars of others harm nobody.

    Returns
    -------
    Sidecars
        Broken JSON files, names that cannot be printed and folders that lead back into themselves.
    """
    root = Path(root)
    description = root / "dataset_description.json"
    findings: list[Finding] = []
    needless: list[Path] = []
    for path, found in _check_tree(root, description=description, ignored=ignored):
        if path.suffix == ".json" and found.field != "file name" and not _concerns(path, suffixes):
            needless.append(path)
        else:
            findings.append(found)
    return Sidecars(tuple(findings), tuple(dict.fromkeys(needless)))


def _concerns(path: Path, suffixes: Collection[str]) -> bool:
    """Whether images with these suffixes may inherit a file; one whose name tells nothing counts."""
    name = parse_name(path)
    return "subject" not in name.entities or name.suffix in suffixes


def _check_tree(
    root: Path, *, description: Path, ignored: Collection[re.Pattern]
) -> Iterator[tuple[Path, Finding]]:
    if os.path.lexists(description):
        yield from _check_file(description, root=root)
    yield from _check_folder(root, root=root, above=frozenset(), ignored=ignored)


def _check_folder(
    folder: Path, *, root: Path, above: Collection[Path], ignored: Collection[re.Pattern]
) -> Iterator[tuple[Path, Finding]]:
    """Findings of a folder and those in it; `above` are the folders on the way, without links."""
    own = folder.resolve()
    if own in above:
        problem, fix = "the link leads back to a folder above it", "remove the link"
        yield _finding(folder, root=root, field="folder", problem=InputProblem(problem, fix))
        return
    try:
        paths = sorted(folder.iterdir())
        # What is ignored may lie where nobody may look, or where nobody answers.
        paths = [path for path in paths if not _is_ignored(path, root=root, ignored=ignored)]
        folders = {path for path in paths if path.is_dir()}
    except OSError as error:
        problem = InputProblem(f"it cannot be listed ({error.strerror})", "give yourself the permission")
        yield _finding(folder, root=root, field="folder", problem=problem)
        return
    for path in paths:
        if not path.name.isprintable() or "\\" in path.name:
            problem = InputProblem("it holds characters that no label has", "rename it")
            yield _finding(path, root=root, field="file name", problem=problem)
        elif path.suffix == ".json":
            yield from _check_file(path, root=root)
        elif path in folders and path.name.endswith((".nii", ".nii.gz")):
            problem = InputProblem("it is a folder", "put the image in its place")
            yield _finding(path, root=root, field="image", problem=problem)
        elif path in folders:
            yield from _check_folder(path, root=root, above={*above, own}, ignored=ignored)


def _is_ignored(path: Path, *, root: Path, ignored: Collection[re.Pattern]) -> bool:
    inside = f"/{path.relative_to(root).as_posix()}"
    return any(pattern.search(inside) for pattern in ignored)


def _check_file(path: Path, *, root: Path) -> Iterator[tuple[Path, Finding]]:
    try:
        content = read_object(path)
        if path != root / "dataset_description.json":  # which no database takes
            _refuse_half_characters(content)
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
    intended = content.get("IntendedFor", [])
    if not all(isinstance(each, str) for each in (intended if isinstance(intended, list) else [intended])):
        problem = f"{reprlib.repr(intended)} is no path of a file, nor a list of them"
        fix = "write BIDS URIs, as bids::sub-01/anat/sub-01_T1w.nii.gz, or remove the field"
        yield _finding(path, root=root, field="IntendedFor", problem=InputProblem(problem, fix))


def _refuse_half_characters(content: dict[str, Any]) -> None:
    """Half of a pair of surrogates is JSON, but no text that a file or a database could hold."""
    try:
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        problem = f"it holds {error.object[error.start]!a}, half of a character"
        raise InputProblem(problem, "correct the file, or put the original in its place") from error


def _finding(path: Path, *, root: Path, field: str, problem: InputProblem) -> tuple[Path, Finding]:
    first = path.relative_to(root).parts[:1]
    of_subject = path.parent != root or path.is_dir()
    subject = first[0].removeprefix("sub-") if first and of_subject else None
    found = Finding("error", short_path(path), field, problem.problem, problem.fix, subject, category="bids")
    return path, found
