"""Find the gradient-echo acquisitions of a data set."""

import errno
import json
import math
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids.config import get_option
from bids.layout import BIDSLayout, BIDSLayoutIndexer
from sqlalchemy.exc import OperationalError

from qsmflow.bids.acquisition import Acquisition, Echo, number
from qsmflow.bids.findings import Finding, InputProblem, short_path
from qsmflow.bids.names import ENTITY_KEYS, is_label, parse_name
from qsmflow.bids.sidecars import GRADIENT_ECHO_SUFFIXES, IGNORED, Sidecars, check_sidecars, read_object

#: Suffixes of the images that are looked for in derivatives.
DERIVATIVE_SUFFIXES = ("mask",)
#: Name of the file in which pybids keeps an index.
DATABASE = "layout_index.sqlite"
#: Configurations of pybids: that of raw data, and what derivatives add to it.
BASES = ("bids", "derivatives")
#: The one query of a filter file.
FILTER_NAME = "megre"


class UnreadableDataset(ValueError):
    """A data set that cannot be indexed; ``findings`` says why, file by file."""

    def __init__(self, findings: Sequence[Finding]):
        super().__init__("\n".join(map(str, findings)))
        self.findings = tuple(findings)


class Index(BIDSLayout):
    """A data set as pybids indexes it; ``findings`` says why some subjects are missing in it."""

    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Collected:
    """Acquisitions that were asked for, and what stood in the way."""

    acquisitions: tuple[Acquisition, ...]
    findings: tuple[Finding, ...]


def open_layout(
    bids_dir: Path | str,
    *,
    database_dir: Path | str | None = None,
    derivatives: Mapping[str, Path | str] | None = None,
    participants: Iterable[str] = (),
) -> Index:
    """Index a data set without writing into it.

    A subject whose sidecars cannot be read is left out; `collect_acquisitions` tells why.

    Parameters
    ----------
    bids_dir : path
        Root of the data set.
    database_dir : path, optional
        Where the index is kept for the next run; in memory unless given.
    derivatives : mapping of str to path, optional
        Derivative data sets by the name they are to have in queries.
    participants : iterable of str
        Labels of those who are asked for, to spare the others; all are indexed without any, and for a
        database, which is to serve other runs.

    Returns
    -------
    Index
        With anatomical images and the sidecars that apply to them.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a folder is not there.
    UnreadableDataset
        If files that concern all subjects are no valid JSON, those of all subjects are not, or the database
        is damaged or belongs to another data set.
    """
    root = _existing_folder(bids_dir)
    folders = {name: _existing_folder(path) for name, path in (derivatives or {}).items()}
    wanted = "|".join(re.escape(_bare(label, "sub")) for label in participants)
    spares = wanted and database_dir is None
    ignored = (*IGNORED, *([re.compile(rf"^/sub-(?!({wanted})(/|$))")] if spares else ()))
    layout = _index(root, database_dir=database_dir, ignored=ignored)
    for name, folder in folders.items():
        database = None if database_dir is None else Path(database_dir) / name
        layout.derivatives[name] = _index(folder, database_dir=database, ignored=ignored, is_derivative=True)
    return layout


def read_filters(path: Path | str) -> dict[str, dict[str, Any]]:
    """Read a ``--bids-filter-file``.

    The file names entities and the values wanted, under the key ``megre``:
    ``{"megre": {"acquisition": "still", "run": [1, 2], "reconstruction": null}}``. A list means any of
    them, ``null`` that the entity is absent, ``"*"`` that it is there. Magnitude and phase are
    always filtered alike.

    Raises
    ------
    UnreadableDataset
        If the file is no JSON object of objects.
    FileNotFoundError
        If it is not there.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        filters = read_object(path)
    except InputProblem as error:
        raise UnreadableDataset([_filter_finding(path.name, error.problem)]) from error
    if not all(isinstance(query, dict) for query in filters.values()):
        raise UnreadableDataset([_filter_finding(path.name, "it is no JSON object of objects")])
    return filters


def collect_acquisitions(
    layout: Index,
    *,
    participants: Iterable[str] = (),
    sessions: Iterable[str] = (),
    filters: Mapping[str, Mapping[str, Any]] | None = None,
) -> Collected:
    """Group the images of the chosen participants into acquisitions.

    Images belong together when all their entities but ``echo``, ``part`` and ``coil`` agree.
    A magnitude without ``part-`` counts as one. Acquisitions that hold no phase at all are left out
    with a warning where the participant has others.

    Parameters
    ----------
    layout : Index
        From `open_layout`.
    participants, sessions : iterable of str
        Labels with or without ``sub-`` and ``ses-``; all unless given.
    filters : mapping, optional
        As `read_filters` returns them.

    Returns
    -------
    Collected
        Acquisitions by name, to be checked with `checks.check_acquisition`, and findings about the request.
    """
    participants = tuple(participants)
    subjects, findings = _choose_participants(layout, participants)
    wanted_sessions, more = _choose_sessions(layout, subjects, tuple(sessions))
    findings += more
    query, more = _read_query(filters or {})
    findings += more
    acquisitions: list[Acquisition] = []
    without: dict[str, bool] = {}
    indexed = (layout, *layout.derivatives.values())
    broken = [finding for each in indexed for finding in each.findings if finding.subject in subjects]
    findings += broken
    for subject in sorted(set(subjects) - {finding.subject for finding in broken}):
        named, more = _well_named(_echo_images(layout, subject), subject=subject, root=Path(layout.root))
        findings += more
        images = [image for image in named if _in_sessions(image, wanted_sessions)]
        asked = [image for image in images if _matches(image, query)]
        found, left_out = _usable(_group(asked))
        acquisitions += found
        findings += left_out
        if not found and (named or not more):
            without[subject] = len(asked) < len(images)
    severity = "error" if participants or not acquisitions else "warning"
    findings += [
        _nothing_found(subject, severity, filtered=filtered, root=Path(layout.root))
        for subject, filtered in without.items()
    ]
    return Collected(tuple(sorted(acquisitions, key=lambda each: each.name)), tuple(findings))


def entities_below(folder: Path, config: str) -> dict[str, Any]:
    """A configuration of pybids that reads entities in what of a path lies below a folder.

    Those of pybids read whole paths: in ``/data/ses-2/study`` all images would be of session 2.

    Parameters
    ----------
    folder : Path
        Absolute.
    config : str
        Name that pybids knows the configuration by.

    Returns
    -------
    dict
        As ``BIDSLayout`` takes it.
    """
    content = json.loads(Path(get_option("config_paths")[config]).read_text("utf-8"))
    below = f"^{re.escape(str(folder))}.*?"
    for entity in content["entities"]:
        if "pattern" in entity:
            entity["pattern"] = below + entity["pattern"]
    return content


def _existing_folder(path: Path | str) -> Path:
    # Without "..", but links stay: resolving them would lead from a data set into its annex.
    path = Path(os.path.abspath(path))  # noqa: PTH100
    if not path.exists():
        raise FileNotFoundError(f"there is no folder {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, not the folder of a data set")
    return path


def _index(
    root: Path,
    *,
    database_dir: Path | str | None,
    ignored: Sequence[re.Pattern],
    is_derivative: bool = False,
) -> Index:
    suffixes = DERIVATIVE_SUFFIXES if is_derivative else GRADIENT_ECHO_SUFFIXES
    sidecars = check_sidecars(root, ignored=ignored, suffixes=suffixes)
    subjects = {
        label
        for label in _labels(root, "sub")
        if not any(pattern.search(f"/sub-{label}") for pattern in ignored)
    }
    _refuse_hopeless(sidecars.findings, () if is_derivative else subjects)
    _refuse_damaged_database(database_dir)
    # An index without some subjects is not kept: the next run finds their files mended.
    database = None if sidecars.findings else database_dir
    is_old = database is not None and Path(database, DATABASE).exists()
    try:
        layout = _layout(root, database, ignored, sidecars, is_derivative)
    # pybids trusts files in more ways than can be foreseen.
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (
            None,
            errno.EACCES,
        ):  # the disk, not what is on it
            raise
        if database is not None and (is_old or isinstance(error, OperationalError)):
            problem = f"it cannot be used ({getattr(error, 'orig', error)})"
            raise UnreadableDataset([_bad_database(database, problem)]) from error
        found = _not_indexable(root, subjects, ignored, sidecars, is_derivative)
        if not found:
            raise UnreadableDataset([_broken_dataset(root, str(error))]) from error
        sidecars = Sidecars((*sidecars.findings, *found), sidecars.needless)
        _refuse_hopeless(sidecars.findings, () if is_derivative else subjects)
        layout = _layout(root, None, ignored, sidecars, is_derivative)
    layout.findings = sidecars.findings
    if Path(layout.root) != root:
        problem = f"it indexes {layout.root}, not {root}"
        fix = "choose another --bids-database-dir or remove this one"
        raise UnreadableDataset(
            [Finding("error", str(database_dir), "database", problem, fix, category="input")]
        )
    return layout


def _refuse_hopeless(findings: Collection[Finding], subjects: Collection[str]) -> None:
    """Refuse what concerns all, or leaves none of the subjects, if there are any."""
    left_out = {finding.subject for finding in findings}
    if None in left_out or (subjects and left_out.issuperset(subjects)):
        raise UnreadableDataset(findings)


def _layout(
    root: Path,
    database_dir: Path | str | None,
    ignored: Sequence[re.Pattern],
    sidecars: Sidecars,
    is_derivative: bool,
) -> Index:
    """The index of what is not ignored and not broken."""
    left_out = {finding.subject for finding in sidecars.findings}
    without = [re.compile(rf"^/sub-{re.escape(subject)}(/|$)") for subject in sorted(left_out)]
    needless = [
        re.compile(rf"^/{re.escape(each.relative_to(root).as_posix())}$") for each in sidecars.needless
    ]
    indexer = BIDSLayoutIndexer(validate=False, ignore=[*ignored, *without, *needless])
    database = None if database_dir is None else Path(database_dir, DATABASE)
    is_kept = database is None or database.exists()
    try:
        layout = Index(
            root,
            validate=False,
            database_path=database_dir,
            indexer=indexer,
            is_derivative=is_derivative,
            config=[entities_below(root, name) for name in (BASES if is_derivative else BASES[:1])],
        )
        is_kept = True
        return layout
    finally:
        # The next run would take half an index for a whole one.
        if not is_kept:
            database.unlink(missing_ok=True)


def _not_indexable(
    root: Path,
    subjects: Collection[str],
    ignored: Sequence[re.Pattern],
    sidecars: Sidecars,
    is_derivative: bool,
) -> list[Finding]:
    """Subjects whose files pybids stumbles over, tried one by one, as it does not say whose they are."""
    findings = []
    for subject in sorted(set(subjects) - {finding.subject for finding in sidecars.findings}):
        others = re.compile(rf"^/sub-(?!{re.escape(subject)}(/|$))")
        try:
            _layout(root, None, [*ignored, others], sidecars, is_derivative)
        except Exception as error:
            problem = f"it cannot be indexed ({type(error).__name__}: {error})".replace("\n", " ")
            fix = "correct the sidecar that is meant"
            findings.append(
                Finding("error", f"sub-{subject}", "data set", problem, fix, subject, category="bids")
            )
    return findings


def _refuse_damaged_database(folder: Path | str | None) -> None:
    """Refuse a file that is no database, or only a part of one."""
    if folder is None or not Path(folder, DATABASE).is_file():
        return
    try:
        with closing(sqlite3.connect(Path(folder, DATABASE))) as database:
            found = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        raise UnreadableDataset([_bad_database(folder, f"it cannot be used ({error})")]) from error
    if found != ("ok",):
        raise UnreadableDataset([_bad_database(folder, "it is damaged")])


def _bad_database(folder: Path | str, problem: str) -> Finding:
    fix = "remove this folder, or choose another --bids-database-dir"
    return Finding("error", str(folder), "database", problem, fix, category="input")


def _broken_dataset(root: Path, problem: str) -> Finding:
    fix = "correct the file that is named"
    return Finding("error", root.name, "data set", problem.rstrip("."), fix, category="bids")


def _bare(label: str, key: str) -> str:
    return label.removeprefix(f"{key}-")


def _labels(folder: Path, key: str) -> list[str]:
    return sorted(_bare(path.name, key) for path in folder.glob(f"{key}-*") if path.is_dir())


def _choose_participants(layout: BIDSLayout, participants: Sequence[str]) -> tuple[list[str], list[Finding]]:
    available = _labels(Path(layout.root), "sub")
    if not available:
        problem, fix = "it holds no sub-* folder", "give the root folder of a BIDS data set"
        return [], [Finding("error", layout.root, "data set", problem, fix, category="input")]
    wanted = list(dict.fromkeys(_bare(label, "sub") for label in participants)) or available
    findings = [
        _misnamed(Path(f"sub-{label}"), f"{label!r} is no label", subject=label)
        for label in wanted
        if label in available and not is_label(label)
    ]
    available = [label for label in available if is_label(label)]
    findings += [
        _unknown_label(f"sub-{label}", "--participant-label", "participant", available)
        for label in wanted
        if label not in available and is_label(label)
    ]
    return [label for label in wanted if label in available], findings


def _well_named(images: Iterable, *, subject: str, root: Path) -> tuple[list, list[Finding]]:
    """Images whose names can become those of maps, and what is wrong with the others."""
    good, findings = [], []
    for image in images:
        path = Path(image.path)
        entities = parse_name(path).entities
        bad = [f"{key}-{label}" for key, label in entities.items() if not is_label(label)]
        wanted = [
            f"{key}-{entities[name]}" for name, key in list(ENTITY_KEYS.items())[:2] if name in entities
        ]
        stated = [part for part in path.relative_to(root).parts[:-1] if part.startswith(("sub-", "ses-"))]
        if bad:
            findings.append(_misnamed(path, f"{bad[0]!r} holds no label", subject=subject))
        elif stated != wanted:
            problem = f"it lies in {'/'.join(stated)}, its name says {'/'.join(wanted)}"
            findings.append(_misnamed(path, problem, subject=subject))
        else:
            good.append(image)
    return good, findings


def _misnamed(path: Path, problem: str, *, subject: str) -> Finding:
    fix = "rename it: labels are letters and digits, those of subject and session the same as of the folders"
    return Finding("error", short_path(path), "file name", problem, fix, subject)


def _choose_sessions(
    layout: BIDSLayout, subjects: Sequence[str], sessions: Sequence[str]
) -> tuple[set[str], list[Finding]]:
    wanted = {_bare(label, "ses") for label in sessions}
    available = sorted(
        {label for each in subjects for label in _labels(Path(layout.root, f"sub-{each}"), "ses")}
    )
    findings = [
        _unknown_label(f"ses-{label}", "--session-label", "session", available)
        for label in sorted(wanted - set(available))
        if subjects
    ]
    return wanted, findings


def _unknown_label(file: str, option: str, kind: str, available: Sequence[str]) -> Finding:
    problem = f"the data set has no such {kind}" if available else f"the data set has no {kind}s"
    fix = f"choose from {', '.join(available)}" if available else f"leave {option} out"
    return Finding("error", file, option, problem, fix, category="input")


def _filter_finding(file: str, problem: str, severity: str = "error") -> Finding:
    fix = f'write it as {{"{FILTER_NAME}": {{"acquisition": "still"}}}}'
    return Finding(severity, file, "--bids-filter-file", problem, fix, category="filter")


def _read_query(filters: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], list[Finding]]:
    """The query for gradient echoes; queries for other kinds of image are of no concern here."""
    known = ({"suffix", *ENTITY_KEYS}) - {"part", "coil", "desc", "space"}
    query = dict(filters.get(FILTER_NAME, {}))
    findings = [
        _filter_finding(name, f"only the query {FILTER_NAME} is read, this one is not", "warning")
        for name in filters
        if name != FILTER_NAME
    ]
    findings += [
        _filter_finding(name, f"it is no entity to filter by, those are {', '.join(sorted(known))}")
        for name in query
        if name not in known
    ]
    return {name: value for name, value in query.items() if name in known}, findings


def same_label(value: str | None, wanted: Any) -> bool:
    """Whether a label is the wanted one; leading zeros of numbers do not matter."""
    if value is None or wanted is None:
        return value is wanted
    value, wanted = str(value), str(wanted)
    return value == wanted or (value.isdecimal() and wanted.isdecimal() and int(value) == int(wanted))


def _matches(image, query: Mapping[str, Any]) -> bool:
    name = parse_name(image.path)
    labels = {**name.entities, "suffix": name.suffix}
    return all(
        any(
            labels.get(key) is not None if value == "*" else same_label(labels.get(key), value)
            for value in (wanted if isinstance(wanted, list) else [wanted])
        )
        for key, wanted in query.items()
    )


def _in_sessions(image, sessions: set[str]) -> bool:
    return not sessions or parse_name(image.path).entities.get("session") in sessions


def _echo_images(layout: BIDSLayout, subject: str) -> list:
    """Images that are gradient echoes by their suffix, or that say they are magnitude or phase."""
    images = layout.get(scope="self", subject=subject, datatype="anat", extension=[".nii", ".nii.gz"])
    names = [(image, parse_name(image.path)) for image in images]
    return [
        image
        for image, name in names
        if name.entities.get("part", "mag" if name.suffix in GRADIENT_ECHO_SUFFIXES else None)
        in ("mag", "phase")
    ]


def _group(images: Iterable) -> list[Acquisition]:
    grouped: dict[tuple, list] = defaultdict(list)
    for image in images:
        name = parse_name(image.path)
        others = {key: value for key, value in name.entities.items() if key not in ("echo", "part", "coil")}
        grouped[(name.suffix, *sorted(others.items()))].append(image)
    return [_acquisition(group) for group in grouped.values()]


def _acquisition(images: Sequence) -> Acquisition:
    halves: dict[str, dict[str, Any]] = defaultdict(dict)
    duplicates = []
    for image in sorted(images, key=lambda each: each.path):
        entities = parse_name(image.path).entities
        label, part = entities.get("echo", "").lstrip("0"), entities.get("part", "mag")
        if part in halves[label]:
            duplicates.append(Path(image.path))
        else:
            halves[label][part] = image
    echoes = [_echo(pair.get("mag"), pair.get("phase")) for pair in halves.values()]
    echoes.sort(key=lambda echo: math.inf if echo.echo_time is None else echo.echo_time)
    name = parse_name(images[0].path)
    own = ("subject", "session", "echo", "part", "coil")
    return Acquisition(
        subject=name.entities["subject"],
        session=name.entities.get("session"),
        entities={key: value for key, value in name.entities.items() if key not in own},
        suffix=name.suffix,
        echoes=tuple(echoes),
        duplicates=tuple(duplicates),
    )


def _echo(magnitude, phase) -> Echo:
    metadata, phase_metadata = (
        {} if image is None else dict(image.get_metadata()) for image in (magnitude, phase)
    )
    echo_time = number(metadata.get("EchoTime"))
    return Echo(
        magnitude=None if magnitude is None else Path(magnitude.path),
        phase=None if phase is None else Path(phase.path),
        echo_time=number(phase_metadata.get("EchoTime")) if echo_time is None else echo_time,
        metadata=metadata,
        phase_metadata=phase_metadata,
    )


def _usable(acquisitions: Sequence[Acquisition]) -> tuple[list[Acquisition], list[Finding]]:
    """Drop what cannot be meant, as long as the participant has something else."""
    findings = []
    meant = [each for each in acquisitions if each.suffix in GRADIENT_ECHO_SUFFIXES]
    with_phase = [each for each in meant if any(each.phases)]
    if not with_phase:
        misnamed = [each for each in acquisitions if each not in meant and any(each.phases)]
        return misnamed or meant, findings
    for each in meant:
        if not any(each.phases):
            problem, fix = (
                "it has no phase images and is left out",
                "add part-phase images if it is meant for QSM",
            )
            findings.append(_left_out(each, "part", problem, fix))
    chosen: dict[str, Acquisition] = {}
    for each in sorted(with_phase, key=lambda each: GRADIENT_ECHO_SUFFIXES.index(each.suffix)):
        if each.name in chosen:
            problem = (
                f"its maps would bear the names of those from {chosen[each.name].suffix}; it is left out"
            )
            findings.append(_left_out(each, "suffix", problem, "give the two different acq- labels"))
        else:
            chosen[each.name] = each
    return list(chosen.values()), findings


def _left_out(acquisition: Acquisition, field: str, problem: str, fix: str) -> Finding:
    return Finding(
        "warning", f"{acquisition.name}_{acquisition.suffix}", field, problem, fix, acquisition.subject
    )


def _nothing_found(subject: str, severity: str, *, filtered: bool, root: Path) -> Finding:
    if filtered:
        problem, fix = "the filters leave no gradient echo", "loosen --bids-filter-file"
    else:
        problem = "it has no gradient-echo images in the chosen sessions"
        fix = "name them anat/sub-…_echo-N_part-mag_MEGRE.nii.gz and …_part-phase_MEGRE.nii.gz"
        unread = _unread(root / f"sub-{subject}")
        if unread:
            file, fix = unread
            problem += f"; those as {short_path(file)} are not read"
    category = "filter" if filtered else "input"
    return Finding(severity, f"sub-{subject}", "anat", problem, fix, subject, category)


def _unread(folder: Path) -> tuple[Path, str] | None:
    """A file that holds gradient echoes in a way that is not read, and what to do about it."""
    names = (path for path in sorted(folder.rglob("*")) if not path.name.endswith(".json"))
    echoes = [path for path in names if re.search(rf"_({'|'.join(GRADIENT_ECHO_SUFFIXES)})\.", path.name)]
    for path in echoes:
        if re.search(r"_part-(real|imag)_", path.name):
            return path, "convert real and imaginary part to magnitude and phase"
    for path in echoes:
        if not path.name.endswith((".nii", ".nii.gz")):
            return path, "convert them to NIfTI (.nii.gz)"
    return None
