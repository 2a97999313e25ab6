"""How a map came about: records of the stages, and the sidecars made of them."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.names import RAW_DATASET


@dataclass(frozen=True)
class StageRecord:
    """What one stage did.

    Attributes
    ----------
    stage : str
        Such as "echo fit".
    algorithm : str
        One line, for people.
    parameters : dict
        Everything that was chosen, by name.
    references : tuple of str
        Keys in the bibliography.
    n_iterations : int or None
        Steps of an iterative algorithm.
    converged : bool or None
        Whether its tolerance was met.
    residual : float or None
        Relative residual at the end.
    figures : dict
        Measured numbers, such as ``{"noise": 0.8}``.
    warnings : tuple of str
        What the user should know.
    software, version : str
        Program that did it.

    Examples
    --------
    >>> record = StageRecord("inversion", "TKD", parameters={"threshold": 0.19}, references=("shmueli2009",))
    >>> StageRecord.from_dict(record.to_dict()) == record
    True
    """

    stage: str
    algorithm: str
    parameters: dict[str, Any] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    n_iterations: int | None = None
    converged: bool | None = None
    residual: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    software: str = "qsmflow"
    version: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The record in types that JSON has; NaN and infinity become None."""
        return plain(asdict(self))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "StageRecord":
        """The record that `to_dict` made a dictionary of."""
        return cls(
            **{
                **record,
                "references": tuple(record.get("references", ())),
                "warnings": tuple(record.get("warnings", ())),
            }
        )


def plain(value: Any) -> Any:
    """A value in types that JSON has; NaN and infinity, which it has not, become None.

    Examples
    --------
    >>> plain({"te": np.array([0.004, np.nan]), "n": np.int64(3), "file": Path("a.nii")})
    {'te': [0.004, None], 'n': 3, 'file': 'a.nii'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def bids_uri(path: Path | str, *, root: Path | str, dataset: str = RAW_DATASET) -> str:
    """Name of a file in a data set that does not change when the data set moves.

    Parameters
    ----------
    path, root : path
        File, and the data set that holds it.
    dataset : str
        Key in ``DatasetLinks``; empty for the data set itself.

    Raises
    ------
    ValueError
        If the file is not in the data set.

    Examples
    --------
    >>> bids_uri("/data/study/sub-01/anat/sub-01_Chimap.nii.gz", root="/data/study")
    'bids:raw:sub-01/anat/sub-01_Chimap.nii.gz'
    """
    relative = Path(os.path.relpath(path, root)).as_posix()
    if relative.startswith("../"):
        raise ValueError(f"{path} is not in the data set {root}")
    return f"bids:{dataset}:{quote(relative)}"


def sidecar(
    records: Iterable[StageRecord | Mapping[str, Any]],
    *,
    acquisition: Acquisition,
    bids_dir: Path | str,
    units: str | None,
    skull_stripped: bool,
    description: str | None = None,
    field_strength: float | None = None,
    b0_direction: Sequence[float] | None = None,
    reference: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """JSON sidecar of one output.

    Parameters
    ----------
    records : iterable of StageRecord or dict
        The stages that lead to this output, first one first.
    acquisition : Acquisition
        What it was made of.
    bids_dir : path
        Root of the input data set.
    units : str or None
        Unit of the values; None for a mask.
    skull_stripped : bool
        Whether voxels outside the brain are zero.
    description : str, optional
        What the image shows, one sentence.
    field_strength : float, optional
        B0 in tesla, where it is not that of the acquisition's sidecars.
    b0_direction : sequence of float, optional
        Unit vector of B0 in voxel axes.
    reference : mapping, optional
        Region that χ is referenced to, such as ``{"region": "csf", "mean": …, "std": …, "n_voxels": …}``.
    extra : mapping, optional
        More fields; they win.

    Returns
    -------
    dict
        Ready for JSON.
    """
    stages = [
        record if isinstance(record, StageRecord) else StageRecord.from_dict(record) for record in records
    ]
    sources = [path for echo in acquisition.echoes for path in echo.files]
    fields = {
        "Description": description,
        "Sources": [bids_uri(path, root=bids_dir) for path in sources],
        "Units": units,
        "SkullStripped": skull_stripped,
        "EchoTimes": acquisition.echo_times,
        "MagneticFieldStrength": field_strength if field_strength is not None else acquisition.field_strength,
        "B0Direction": b0_direction,
        "ReferenceRegion": reference,
        "EstimationAlgorithm": "; ".join(stage.algorithm for stage in stages) or None,
        "EstimationReference": ", ".join(dict.fromkeys(key for stage in stages for key in stage.references))
        or None,
        "EstimationParameters": {stage.stage: _stage_fields(stage) for stage in stages} or None,
        **(extra or {}),
    }
    return {name: value for name, value in plain(fields).items() if value is not None}


def _stage_fields(stage: StageRecord) -> dict[str, Any]:
    fields = {
        "Algorithm": stage.algorithm,
        "Parameters": stage.parameters or None,
        "NumberOfIterations": stage.n_iterations,
        "Converged": stage.converged,
        "RelativeResidual": stage.residual,
        "Measured": stage.figures or None,
        "Warnings": stage.warnings or None,
        "Software": f"{stage.software} {stage.version}".strip(),
    }
    return {name: value for name, value in plain(fields).items() if value is not None}
