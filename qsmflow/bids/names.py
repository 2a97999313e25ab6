"""File names: read those of the input, make those of the output."""

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

#: Name of the input in ``DatasetLinks``, as in ``bids:raw:sub-01/…``.
RAW_DATASET = "raw"
#: Entity → its key in a file name, in the order in which BIDS puts them.
ENTITY_KEYS = {
    "subject": "sub",
    "session": "ses",
    "task": "task",
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "direction": "dir",
    "run": "run",
    "echo": "echo",
    "flip": "flip",
    "inv": "inv",
    "mt": "mt",
    "part": "part",
    "coil": "coil",
    "space": "space",
    "chunk": "chunk",
    "desc": "desc",
}

#: Entities that tell the acquisitions of a subject apart.
ACQUISITION_ENTITIES = tuple(
    name for name in ENTITY_KEYS if name not in ("subject", "echo", "part", "coil", "desc", "space")
)

#: Entities of the source that a derivative of each datatype may carry.
KEPT_ENTITIES = {
    "anat": ("task", "acquisition", "ceagent", "reconstruction", "run", "chunk"),
    "fmap": ("acquisition", "run", "chunk"),
    "figures": ("task", "acquisition", "ceagent", "reconstruction", "run", "chunk"),
}

PATH_PATTERNS = json.loads(files("qsmflow").joinpath("data", "path_patterns.json").read_text("utf-8"))


class FileName(NamedTuple):
    """Parts of a BIDS file name."""

    entities: dict[str, str]
    suffix: str
    extension: str


def is_label(text: str) -> bool:
    """Whether BIDS allows a text as the label of an entity: letters and digits of ASCII, and plus signs.

    Examples
    --------
    >>> [is_label(text) for text in ("01", "preContrast", "", "é", "../..", "<script>")]
    [True, True, False, False, False, False]
    """
    return re.fullmatch(r"[0-9A-Za-z+]+", text) is not None


def parse_name(path: Path | str) -> FileName:
    """Take a BIDS file name apart; entities that BIDS does not know keep their key as name.

    Parameters
    ----------
    path : Path or str
        Only the last part is read.

    Returns
    -------
    FileName
        Entities as text (``run-01`` stays ``"01"``), suffix and extension.

    Examples
    --------
    >>> parse_name("sub-01_acq-still_coil-3_echo-2_part-mag_MEGRE.nii.gz").entities
    {'subject': '01', 'acquisition': 'still', 'coil': '3', 'echo': '2', 'part': 'mag'}
    """
    names = {key: name for name, key in ENTITY_KEYS.items()}
    stem, dot, extension = Path(path).name.partition(".")
    *pairs, suffix = stem.split("_")
    split = (pair.partition("-") for pair in pairs)
    return FileName({names.get(key, key): value for key, _, value in split}, suffix, dot + extension)


def join_name(entities: Mapping[str, str | None]) -> str:
    """Entities as the beginning of a BIDS file name, in the order of the standard.

    Examples
    --------
    >>> join_name({"run": "1", "subject": "01", "session": None, "acquisition": "still"})
    'sub-01_acq-still_run-1'
    """
    order = list(ENTITY_KEYS)
    known = sorted(entities, key=lambda name: order.index(name) if name in order else len(order))
    return "_".join(f"{ENTITY_KEYS.get(name, name)}-{entities[name]}" for name in known if entities[name])


def derivative_name(
    entities: Mapping[str, str | None],
    *,
    suffix: str,
    desc: str | None = None,
    datatype: str = "anat",
    extension: str = ".nii.gz",
) -> str:
    """Path of an output below the output folder.

    What tells two acquisitions apart must survive in the name. Where BIDS allows an entity for the
    source but not for this datatype (a fieldmap has no ``rec-``), it is folded into ``acq-``.

    Parameters
    ----------
    entities : mapping
        Of the source: subject, session, acquisition, …; empty ones, ``echo`` and ``part`` are left out.
    suffix : str
        Chimap, R2starmap, T2starmap, S0map, mask, fieldmap, magnitude; any for a figure.
    desc : str, optional
        The ``desc-`` entity.
    datatype : {"anat", "fmap", "figures"}
        Folder.
    extension : str
        With its dot.

    Returns
    -------
    str
        Relative path with forward slashes.

    Raises
    ------
    ValueError
        If no pattern of this program has such a name.

    Examples
    --------
    >>> source = {"subject": "01", "acquisition": "still", "reconstruction": "norm", "run": "1"}
    >>> derivative_name(source, suffix="Chimap")
    'sub-01/anat/sub-01_acq-still_rec-norm_run-1_Chimap.nii.gz'
    >>> derivative_name(source, suffix="fieldmap", desc="local", datatype="fmap")
    'sub-01/fmap/sub-01_acq-stillRecnorm_run-1_desc-local_fieldmap.nii.gz'
    """
    # Imported here: it takes a second, and the command line is to answer at once.
    from bids.layout.writing import build_path

    source = {name: value for name, value in entities.items() if value and name not in ("echo", "part")}
    kept = ("subject", "session", *KEPT_ENTITIES.get(datatype, ()))
    folded = "".join(
        f"{ENTITY_KEYS.get(name, name).capitalize()}{source[name]}" for name in source if name not in kept
    )
    chosen = {name: source[name] for name in kept if name in source}
    if folded:
        first = chosen.get("acquisition") or folded[0].lower()
        chosen["acquisition"] = first + folded[0 if "acquisition" in chosen else 1 :]
    wanted = {**chosen, "desc": desc, "suffix": suffix, "datatype": datatype, "extension": extension}
    path = build_path(wanted, PATH_PATTERNS, strict=True)
    if path is None:
        raise ValueError(f"no output of this program is named {datatype}/{suffix}{extension} (desc {desc})")
    return path
