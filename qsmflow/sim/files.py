"""Write files of a data set so that the same content gives the same bytes and nobody sees half of one."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside, then rename; folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write a text as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON; NaN and infinity, which it has not, raise ValueError."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_image(
    stem: Path | str,
    stored: np.ndarray,
    affine: np.ndarray,
    sidecar: Mapping[str, Any],
    *,
    slope: float = 1.0,
) -> None:
    """Write ``STEM.nii.gz`` and ``STEM.json``.

    Parameters
    ----------
    stem : Path or str
        Path without extensions.
    stored : numpy.ndarray
        (x, y, z), the numbers as they are stored.
    affine : numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm.
    sidecar : mapping
        Content of the JSON file.
    slope : float
        Values are stored numbers times this.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_image(f"{folder}/half", np.ones((2, 2, 2), np.int16), np.eye(4), {}, slope=0.5)
    ...     float(nib.load(f"{folder}/half.nii.gz").get_fdata().max())
    0.5
    """
    nifti = nib.Nifti1Image(stored, affine)
    nifti.header.set_slope_inter(slope, 0.0)
    nifti.header.set_xyzt_units("mm", "sec")
    nifti.set_qform(affine, code=1)
    nifti.set_sform(affine, code=1)
    # The compressed bytes hold neither name nor time.
    write_bytes(Path(f"{stem}.nii.gz"), gzip.compress(nifti.to_bytes(), compresslevel=6, mtime=0))
    write_json(Path(f"{stem}.json"), sidecar)


def packed(image: np.ndarray, *, step: float) -> tuple[np.ndarray, float]:
    """A map as int16 and the slope that gives its values back; zero stays zero.

    Parameters
    ----------
    image : numpy.ndarray
        The map.
    step : float
        What two stored numbers differ by: no finer than is of use, because noise does not compress. It is
        larger where 16 bits would not hold the largest value.

    Returns
    -------
    tuple of numpy.ndarray and float

    Examples
    --------
    >>> stored, slope = packed(np.array([0.0, -0.5, 1.0]), step=0.25)
    >>> stored.tolist(), slope
    ([0, -2, 4], 0.25)
    """
    slope = max(step, float(np.abs(image).max()) / 32767)
    return np.rint(image / slope).astype(np.int16), slope
