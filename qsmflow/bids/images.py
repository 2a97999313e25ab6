"""What a NIfTI file holds, read once, without trusting its header."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nb
import numpy as np
from nibabel.filebasedimages import ImageFileError

from qsmflow.bids.findings import InputProblem

#: Voxels enough for the robust extremes of an image.
SAMPLE_SIZE = 1_000_000


class UnreadableImage(InputProblem):
    """An image that cannot be used."""


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest value, and the 0.1 and 99.9 percentiles, which stray voxels do not move."""

    low: float
    high: float
    robust_low: float
    robust_high: float

    def mapped(self, slope: float, intercept: float) -> "Extremes":
        """Extremes of ``slope · value + intercept``.

        Examples
        --------
        >>> Extremes(0, 4, 1, 3).mapped(-2, 1)
        Extremes(low=-7, high=1, robust_low=-5, robust_high=-1)
        """
        low, high, robust_low, robust_high = (
            slope * value + intercept for value in (self.low, self.high, self.robust_low, self.robust_high)
        )
        return Extremes(
            min(low, high), max(low, high), min(robust_low, robust_high), max(robust_low, robust_high)
        )


@dataclass(frozen=True)
class ImageFacts:
    """Grid and values of an image file.

    Attributes
    ----------
    shape : tuple of int
        Size along every axis.
    affine : ndarray
        (4, 4) voxel to scanner coordinates in mm.
    oriented : bool
        Whether the header states an orientation (sform or qform).
    slope, intercept : float
        Scaling in the header; 1 and 0 where it has none.
    stored : Extremes
        Of the finite numbers as they lie in the file, before the scaling.
    n_nonfinite : int
        Voxels that are not a number or infinite.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    oriented: bool
    slope: float
    intercept: float
    stored: Extremes
    n_nonfinite: int

    @property
    def scaled(self) -> Extremes:
        """Extremes of the values as readers return them."""
        return self.stored.mapped(self.slope, self.intercept)

    @property
    def has_scaling(self) -> bool:
        """Whether the header scales the stored numbers at all."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def read_image(path: Path | str) -> ImageFacts:
    """Read a NIfTI file through to its end and tell what is in it.

    Parameters
    ----------
    path : Path or str
        NIfTI file.

    Returns
    -------
    ImageFacts
        Grid, header scaling and extremes of the stored numbers.

    Raises
    ------
    UnreadableImage
        If the file is missing, empty, truncated, no NIfTI image, or holds no real numbers.

    Examples
    --------
    >>> import tempfile
    >>> image = nb.Nifti1Image(np.arange(8, dtype=np.float32).reshape(2, 2, 2), np.eye(4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nb.save(image, f"{folder}/image.nii")
    ...     read_image(f"{folder}/image.nii").stored.high
    7.0
    """
    path = Path(path)
    if not path.exists():
        raise UnreadableImage(
            "the file is a link to content that is not here", "fetch it, as with datalad get"
        )
    if path.stat().st_size == 0:
        raise UnreadableImage("the file is empty (0 bytes)", "put the image in its place")
    try:
        image = nb.load(path)
        values = np.asanyarray(image.dataobj.get_unscaled())
    except ImageFileError as error:
        raise UnreadableImage("the file is no NIfTI image", "convert it again from DICOM") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UnreadableImage("the file is truncated or damaged", "copy or convert it again") from error
    if values.dtype.kind not in "iuf":
        raise UnreadableImage(
            f"the voxels are of type {values.dtype.name}, not real numbers",
            "write magnitude and phase as real images",
        )
    if values.size == 0:
        raise UnreadableImage("the image has no voxels", "convert it again from DICOM")
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
    extremes, n_nonfinite = _extremes(values)
    return ImageFacts(
        shape=tuple(int(size) for size in image.shape),
        affine=np.asarray(image.affine, dtype=float),
        oriented=bool(int(image.header["sform_code"]) or int(image.header["qform_code"])),
        slope=slope,
        intercept=intercept,
        stored=extremes,
        n_nonfinite=n_nonfinite,
    )


def _extremes(values: np.ndarray) -> tuple[Extremes, int]:
    n_nonfinite = 0
    values = values.ravel(order="K")
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        n_nonfinite = int(finite.size - np.count_nonzero(finite))
        if n_nonfinite == values.size:
            return Extremes(0.0, 0.0, 0.0, 0.0), n_nonfinite
        values = values[finite] if n_nonfinite else values
    sample = values[:: max(1, values.size // SAMPLE_SIZE)]
    robust_low, robust_high = np.quantile(sample, (0.001, 0.999))
    extremes = Extremes(float(values.min()), float(values.max()), float(robust_low), float(robust_high))
    return extremes, n_nonfinite
