"""Label images that a user gives with ``-d atlas=FOLDER``: of the subjects, or of a template."""

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.findings import InputProblem
from qsmflow.bids.images import UnreadableImage, load_image, read_image
from qsmflow.bids.layout import same_label
from qsmflow.bids.names import parse_name

#: Name of the data set among those of ``--derivatives``.
ATLAS = "atlas"
#: Images of a template that labels can be carried from, the best for a gradient echo first.
TEMPLATE_SUFFIXES = ("T2star", "T2starw", "T2w", "PDw", "T1w")
_IMAGES = (".nii.gz", ".nii")
#: What the numbers of regions are kept in.
LABELS = np.iinfo(np.int32)
#: Entities that tell label images of one scan apart; the first that is there names it.
_OF_LABELS = ("atlas", "seg", "segmentation", "desc")


@dataclass(frozen=True)
class Atlas:
    """A label image for an acquisition.

    Attributes
    ----------
    name : str
        What tables call it.
    labels : Path
        NIfTI file of whole numbers.
    names : mapping
        Names of the regions by label, as far as a table beside the image gives them.
    template : Path or None
        Brain of the template in whose space the labels are; None where that is the subject's.
    """

    name: str
    labels: Path
    names: Mapping[int, str] = field(default_factory=dict)
    template: Path | None = None


def find_atlases(folder: Path, acquisitions: Sequence[Acquisition]) -> dict[str, tuple[Atlas, ...]]:
    """Label images for each acquisition.

    In the subject's space: ``sub-XX[/ses-YY]/…/sub-XX…_dseg.nii.gz``, none of whose entities disagrees with
    the acquisition's, which leaves out those in another space. In a template's: ``tpl-NAME…_dseg.nii.gz``
    anywhere in the folder, beside an image of the template's brain, ``tpl-NAME…_desc-brain_T1w.nii.gz`` or
    another of :data:`TEMPLATE_SUFFIXES`, as TemplateFlow names them.

    Parameters
    ----------
    folder : Path
        The data set.
    acquisitions : sequence of Acquisition
        What is to be measured.

    Returns
    -------
    dict
        By the acquisition's name; an empty tuple where there is none.

    Raises
    ------
    InputProblem
        If a label image, its table or its template's brain cannot be used, or two for one acquisition would
        have one name.
    """
    of_template = [
        _read(path, _readable(template))
        for path in _images(folder, "tpl-*_dseg")
        if (template := _template(path)) is not None
    ]
    return {
        each.name: _distinct([*_of_subject(folder, each), *of_template], name=each.name)
        for each in acquisitions
    }


def _of_subject(folder: Path, acquisition: Acquisition) -> list[Atlas]:
    wanted = acquisition.all_entities
    return [
        _read(path)
        for path in _images(folder / f"sub-{acquisition.subject}", "sub-*_dseg")
        if all(
            same_label(label, wanted.get(name))
            for name, label in parse_name(path).entities.items()
            if name not in _OF_LABELS
        )
    ]


def _distinct(atlases: Sequence[Atlas], *, name: str) -> tuple[Atlas, ...]:
    """Atlases by name, once it is sure that no two share one."""
    shared = [called for called, count in Counter(each.name for each in atlases).items() if count > 1]
    if shared:
        paths = ", ".join(str(each.labels) for each in atlases if each.name == shared[0])
        raise InputProblem(
            f"{name} has several label images called '{shared[0]}' ({paths})",
            "keep one, or tell them apart by seg-<label>",
        )
    return tuple(sorted(atlases, key=lambda each: each.name))


def _images(folder: Path, name: str) -> list[Path]:
    found = (path for extension in _IMAGES for path in folder.glob(f"**/{name}{extension}"))
    try:
        return sorted(path for path in found if path.is_file())
    except OSError as error:
        raise InputProblem(
            f"{error.filename}: it cannot be looked at ({error.strerror})", "give yourself the permission"
        ) from error


def _template(labels: Path) -> Path | None:
    """Image of the brain that the labels of a template lie on."""
    wanted = parse_name(labels).entities["tpl"]
    for suffix in TEMPLATE_SUFFIXES:
        for path in _images(labels.parent, f"tpl-{wanted}_*desc-brain*_{suffix}"):
            entities = parse_name(path).entities
            if entities["tpl"] == wanted and entities["desc"] == "brain":
                return path
    return None


def _readable(template: Path) -> Path:
    """The brain of a template, which has been looked at."""
    try:
        facts = read_image(template)
    except UnreadableImage as error:
        raise InputProblem(f"{template}: the template's brain: {error.problem}", error.fix) from error
    problem = (
        f"{facts.n_nonfinite} voxels are NaN or infinite"
        if facts.n_nonfinite
        else f"every voxel is {facts.scaled.low:g}"
        if facts.stored.low == facts.stored.high
        else f"it is {facts.shape}, not one volume"
        if len(facts.shape) != 3
        else None
    )
    if problem is not None:
        raise InputProblem(f"{template}: the template's brain: {problem}", "replace the file")
    return template


def _read(path: Path, template: Path | None = None) -> Atlas:
    """The atlas of a file, whose labels have been looked at."""
    try:
        values = np.asanyarray(load_image(path).dataobj)
    except Exception as error:
        raise InputProblem(f"{path}: the label image cannot be read: {error}", "replace the file") from error
    if (
        values.ndim < 3
        or values.size != math.prod(values.shape[:3])
        or not np.array_equal(values, np.rint(values))
    ):
        raise InputProblem(
            f"{path}: labels must be one volume of whole numbers, it is {values.shape} of {values.dtype}",
            "give a discrete segmentation (dseg)",
        )
    low, high = values.min(), values.max()
    if low < LABELS.min or high > LABELS.max:
        raise InputProblem(
            f"{path}: labels must be whole numbers up to {LABELS.max}, they are {low:g} … {high:g}",
            "number the regions from 1 on",
        )
    entities = parse_name(path).entities
    name = next((entities[key] for key in _OF_LABELS if key in entities), "dseg")
    return Atlas(name, path, _region_names(path), template)


def _region_names(labels: Path) -> dict[int, str]:
    """Names by label from the table of the same name, or ``dseg.tsv``, as BIDS has them."""
    stem = labels.name.removesuffix(".gz").removesuffix(".nii")
    for path in (labels.with_name(f"{stem}.tsv"), labels.with_name("dseg.tsv")):
        if path.is_file():
            try:
                with path.open(newline="", encoding="utf-8-sig") as lines:
                    names = {int(row["index"]): row["name"] for row in csv.DictReader(lines, delimiter="\t")}
                if None in names.values():
                    raise ValueError("a row without a name")
                return names
            except (KeyError, TypeError, ValueError, OSError, csv.Error) as error:
                raise InputProblem(
                    f"{path}: the table of regions cannot be read: {error!r}",
                    "give it columns 'index' with whole numbers and 'name', separated by tabs",
                ) from error
    return {}
