"""The output folder as a BIDS derivative data set."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsmflow.bids.files import replacing, write_json, write_text
from qsmflow.bids.findings import InputProblem
from qsmflow.bids.names import RAW_DATASET
from qsmflow.bids.sidecars import read_object
from qsmflow.bids.tables import TABLES
from qsmflow.version import __version__

PIPELINE = "qsmflow"
BIDS_VERSION = "1.10.0"

#: What the validator must not look at, written as it understands it (``figures/`` would not do).
IGNORED = (
    *("figures", "log", "logs", "*.html", "group_*.tsv", "group_*.json", "*_xfm.txt"),
    *(f"*_{table}.{extension}" for table in TABLES.values() for extension in ("tsv", "json")),
)

README = """\
# Quantitative susceptibility maps

Made by qsmflow {version} from the data set "{source}". Read the report of a subject, `sub-XX.html`, first.

| File | Content |
|---|---|
| `anat/*_Chimap.nii.gz` | magnetic susceptibility, ppm |
| `anat/*_R2starmap.nii.gz`, `*_T2starmap.nii.gz` | transverse relaxation, 1/s and s |
| `anat/*_S0map.nii.gz` | signal at echo time zero, arbitrary |
| `anat/*_desc-brain_mask.nii.gz` | where the maps hold |
| `fmap/*_desc-total_fieldmap.nii.gz` | field of all sources, Hz |
| `fmap/*_desc-local_fieldmap.nii.gz` | field of the sources in the mask, Hz |
| `anat/*_from-orig_to-reference_mode-image_xfm.txt` | where a scan lies to its reference, for ITK |
| `sub-XX_iqms.tsv` | image quality of each series |
| `sub-XX_comparison.tsv` | scores of each map against that of the reference scan |
| `sub-XX_regions.tsv` | susceptibility and R2* of regions |
| `logs/CITATION.md` | methods text and references |

The JSON file beside each image names the images it was made from, the algorithms and their parameters.
"""


def check_output_dir(output_dir: Path | str, *, bids_dir: Path | str) -> None:
    """Make sure that the output folder can be written to and is not part of the input.

    Parameters
    ----------
    output_dir, bids_dir : path
        Neither is changed.

    Raises
    ------
    ValueError
        If the output would mix with the raw data, or the folder holds some other data set.
    NotADirectoryError
        If the path, or one above it, is a file.
    PermissionError
        If nothing can be written there.

    Examples
    --------
    >>> check_output_dir("/data/study/sub-01", bids_dir="/data/study")
    Traceback (most recent call last):
        ...
    ValueError: /data/study/sub-01 lies inside the input data set; use /data/study/derivatives/qsmflow instead
    """
    output_dir, bids_dir = Path(output_dir).resolve(), Path(bids_dir).resolve()
    own_place = bids_dir / "derivatives"
    if output_dir.is_relative_to(bids_dir) and (
        output_dir == own_place or not output_dir.is_relative_to(own_place)
    ):
        raise ValueError(
            f"{output_dir} lies inside the input data set; use {own_place / PIPELINE} instead"
            if output_dir != bids_dir
            else f"the output folder is the input data set {bids_dir}; use {own_place / PIPELINE} instead"
        )
    existing = next(path for path in (output_dir, *output_dir.parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is a file; choose another output folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{existing} cannot be written to; choose another output folder")
    _refuse_foreign(output_dir / "dataset_description.json")


def write_dataset(
    output_dir: Path | str,
    *,
    bids_dir: Path | str,
    derivatives: Mapping[str, Path | str] | None = None,
) -> None:
    """Write ``dataset_description.json``, ``README`` and ``.bidsignore`` of the output folder.

    Files that a user added to stay: a README is never overwritten, a .bidsignore only grows.

    Parameters
    ----------
    output_dir : path
        Made if it is not there.
    bids_dir : path
        Input data set.
    derivatives : mapping of str to path, optional
        Further data sets that were used, by name.

    Raises
    ------
    ValueError
        If the folder holds some other data set.
    OSError
        If it cannot be written to.
    """
    output_dir, bids_dir = Path(output_dir).resolve(), Path(bids_dir).resolve()
    _refuse_foreign(output_dir / "dataset_description.json")
    raw = _texts(_read_description(bids_dir / "dataset_description.json"))
    description = dataset_description(raw, output_dir=output_dir, bids_dir=bids_dir, derivatives=derivatives)
    write_json(output_dir / "dataset_description.json", description)
    readme = output_dir / "README"
    if not readme.exists():
        write_text(readme, README.format(version=__version__, source=raw.get("Name") or bids_dir.name))
    _add_lines(output_dir / ".bidsignore", IGNORED)


def dataset_description(
    raw: Mapping[str, Any],
    *,
    output_dir: Path,
    bids_dir: Path,
    derivatives: Mapping[str, Path | str] | None = None,
) -> dict[str, Any]:
    """Content of ``dataset_description.json``.

    Parameters
    ----------
    raw : mapping
        Description of the input data set; what is no text in it is left out.
    output_dir, bids_dir : Path
        Absolute; the link to the input is relative where the output lies inside it.
    derivatives : mapping of str to path, optional
        Further data sets that were used, by name.

    Returns
    -------
    dict
        Ready for JSON.

    Examples
    --------
    >>> made = dataset_description(
    ...     {"Name": "Study"}, output_dir=Path("/out"), bids_dir=Path("/data")
    ... )
    >>> made["DatasetLinks"], made["DatasetType"]
    ({'raw': 'file:///data'}, 'derivative')
    """
    raw = _texts(raw)
    inside = output_dir.is_relative_to(bids_dir)
    link = os.path.relpath(bids_dir, output_dir) if inside else bids_dir.as_uri()
    source = {"URL": link, "DOI": raw.get("DatasetDOI")}
    used = {name: Path(path).resolve().as_uri() for name, path in (derivatives or {}).items()}
    kept = {name: raw[name] for name in ("License", "Acknowledgements") if name in raw}
    return {
        "Name": f"qsmflow: quantitative susceptibility maps of {raw.get('Name') or bids_dir.name}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        **kept,
        "GeneratedBy": [{"Name": PIPELINE, "Version": __version__}],
        "SourceDatasets": [{name: value for name, value in source.items() if value}],
        "DatasetLinks": {RAW_DATASET: link, **used},
    }


def _read_description(path: Path) -> dict[str, Any]:
    """A dataset description; empty where there is none or it is unreadable, which the validator reports."""
    try:
        return read_object(path)
    except InputProblem:
        return {}


def _texts(description: Mapping[str, Any]) -> dict[str, str]:
    """Fields that are plain text; others have no place in a description that is to be valid."""
    return {name: value for name, value in description.items() if isinstance(value, str) and _is_plain(value)}


def _is_plain(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a character, which JSON can escape and no file can hold
        return False
    return True


def _add_lines(path: Path, lines: Sequence[str]) -> None:
    """Add the lines that a file lacks; what it holds stays byte for byte, whatever its encoding."""
    held = path.read_bytes() if path.is_file() else b""
    missing = [line for line in lines if line.encode() not in held.splitlines()]
    if missing:
        end = b"" if held.endswith(b"\n") or not held else b"\n"
        with replacing(path) as beside:
            beside.write_bytes(held + end + "".join(f"{line}\n" for line in missing).encode())


def _refuse_foreign(path: Path) -> None:
    """A folder that another program's data set lives in is not for us to write to."""
    if not path.exists():
        return
    if path.is_file() and not os.access(path, os.R_OK):
        raise PermissionError(f"{path} cannot be read; choose another output folder")
    generators = _read_description(path).get("GeneratedBy")
    entries = generators if isinstance(generators, list) else []
    if PIPELINE not in [entry.get("Name") for entry in entries if isinstance(entry, dict)]:
        raise ValueError(f"{path.parent} holds another data set; choose an output folder of its own")
