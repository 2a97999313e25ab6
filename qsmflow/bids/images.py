"""What a NIfTI file holds, read once, without trusting its header."""

import logging
import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nb
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import logger
from nibabel.openers import ImageOpener

from qsmflow.bids.findings import InputProblem

# What the library mends in a header is judged here; its own lines would go to the terminal.
logger.setLevel(logging.CRITICAL)

#: Images that are read at a time; more would take more memory than the stages do.
READERS = 4
#: Voxels enough for the robust extremes of an image.
SAMPLE_SIZE = 1_000_000
#: Voxels enough to tell that an image has many different numbers.
SMALL_SAMPLE = 20_000
#: An image that is smaller than this in memory is read whatever it was squeezed from, bytes.
SMALL = 512 * 2**20
#: Bytes that some programs leave behind the voxels.
PADDING = 2**20
#: Measured images shrink to no less than this fraction: what does is empty, or made to fill the memory.
MOST_COMPRESSION = 100
#: Different numbers up to which they are counted.
MANY_VALUES = 16
#: Units of length by their code in the header.
_UNITS = {1: "metres", 3: "micrometres"}


class UnreadableImage(InputProblem):
    """An image that cannot be used; ``field`` is the part of the header that is to blame."""

    def __init__(self, problem: str, fix: str, *, field: str = "image"):
        super().__init__(problem, fix)
        self.field = field


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
        Size along every axis; without axes of length one behind the third.
    affine : ndarray
        (4, 4) voxel to scanner coordinates in mm.
    voxel_size : tuple of float
        Edges as the header's pixdim states them, mm; of the first three axes.
    oriented : bool
        Whether the header states an orientation (sform or qform).
    slope, intercept : float
        Scaling in the header; 1 and 0 where it has none.
    stored : Extremes
        Of the finite numbers as they lie in the file, before the scaling.
    n_nonfinite : int
        Voxels that are not a number or infinite.
    n_zeros : int
        Voxels that are stored as zero.
    n_values : int
        Different numbers that are stored, counted up to :data:`MANY_VALUES`.
    checksum : int
        Of all numbers as they lie in the file, 64 bits.
    foreign_units : str or None
        Unit of length that the header states where that is not the millimetre.
    displacement : tuple of float
        By how much sform and qform disagree where the header has both: mm, degrees.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    voxel_size: tuple[float, ...]
    oriented: bool
    slope: float
    intercept: float
    stored: Extremes
    n_nonfinite: int
    n_zeros: int = 0
    n_values: int = MANY_VALUES
    checksum: int | None = None
    foreign_units: str | None = None
    displacement: tuple[float, float] = (0.0, 0.0)

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
    return _read_through(path, load_image(path))


def read_images(paths: Iterable[Path]) -> dict[Path, ImageFacts | UnreadableImage]:
    """Read NIfTI files through to their ends, several at a time.

    Parameters
    ----------
    paths : iterable of Path
        NIfTI files.

    Returns
    -------
    dict
        By path, in the order given: what :func:`read_image` returns, or the error that it raises.

    Examples
    --------
    >>> [str(error.problem) for error in read_images([Path("nowhere.nii")]).values()]
    ['the file is a link to content that is not here']
    """
    paths = list(paths)
    with ThreadPoolExecutor(READERS) as readers:
        return dict(zip(paths, readers.map(_read_or_tell, paths), strict=True))


def _read_or_tell(path: Path) -> ImageFacts | UnreadableImage:
    try:
        return read_image(path)
    except UnreadableImage as error:
        return error


def _read_through(path: Path, image: nb.Nifti1Image) -> ImageFacts:
    try:
        values = _stored_numbers(path, image) if path.suffix == ".gz" else image.dataobj.get_unscaled()
        voxel_size = tuple(float(edge) for edge in _raw_header(path, type(image.header))["pixdim"][1:4])
    except UnreadableImage:
        raise
    # Whatever a library trips over in a damaged file: zlib's, gzip's and NumPy's own errors among them.
    except Exception as error:
        raise UnreadableImage("the file is truncated or damaged", "copy or convert it again") from error
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
    values = values.ravel(order="K")
    extremes, n_nonfinite = _extremes(values)
    return ImageFacts(
        shape=_shape_without_ones(image.shape),
        affine=np.asarray(image.affine, dtype=float),
        voxel_size=voxel_size,
        oriented=bool(int(image.header["sform_code"]) or int(image.header["qform_code"])),
        slope=slope,
        intercept=intercept,
        stored=extremes,
        n_nonfinite=n_nonfinite,
        n_zeros=values.size - np.count_nonzero(values),
        n_values=_count_values(values),
        checksum=_checksum(values),
        foreign_units=_UNITS.get(int(image.header["xyzt_units"]) & 7),
        displacement=_displacement(image.header),
    )


def load_image(path: Path | str) -> nb.Nifti1Image:
    """Open a NIfTI file whose voxels can be read without harm; they are read later.

    A header may claim terabytes, and a small compressed file may inflate to more than the memory, so
    the claim is held against the size of the file.

    Parameters
    ----------
    path : Path or str
        NIfTI file.

    Returns
    -------
    nibabel.Nifti1Image
        Of real numbers, with at least one voxel.

    Raises
    ------
    UnreadableImage
        If the file is missing, empty, no file or no NIfTI image, too short for what its header claims, or
        holds no real numbers.

    Examples
    --------
    >>> load_image("nowhere.nii")
    Traceback (most recent call last):
    qsmflow.bids.images.UnreadableImage: the file is a link to content that is not here; fetch it, as with \
datalad get
    """
    path = Path(path)
    size = _size(path)
    try:
        image = nb.load(path)
        shape, dtype = image.shape, image.get_data_dtype()
    except ImageFileError as error:
        raise UnreadableImage("the file is no NIfTI image", "convert it again from DICOM") from error
    # A header of random bytes breaks any part of the library, which has many kinds of errors for it.
    except Exception as error:
        _refuse_endless_scaling(path)
        raise UnreadableImage("the file is truncated or damaged", "copy or convert it again") from error
    if not isinstance(image, nb.Nifti1Image):
        raise UnreadableImage("the file is no NIfTI image", "convert it again from DICOM")
    if dtype.kind not in "iuf":
        raise UnreadableImage(
            f"the voxels are of type {dtype.name}, not real numbers",
            "write magnitude and phase as real images",
        )
    _refuse_endless_scaling(path)
    if min(shape, default=0) < 1:
        raise UnreadableImage("the image has no voxels", "convert it again from DICOM")
    _refuse_false_size(math.prod(shape) * dtype.itemsize, size, is_compressed=path.suffix == ".gz")
    return image


def _stored_numbers(path: Path, image: nb.Nifti1Image) -> np.ndarray:
    """Numbers of a compressed image, read to the end of the file, where its checksum is."""
    dtype, offset = image.get_data_dtype(), int(image.dataobj.offset)
    end = offset + math.prod(image.shape) * dtype.itemsize
    with igzip.open(path) as stream:
        content = stream.read(end + PADDING)
        if stream.read(1):
            raise UnreadableImage(
                f"the file goes on after the {end} bytes that its header claims", "copy or convert it again"
            )
    return np.ndarray(image.shape, dtype, buffer=content, offset=offset, order="F")


def _raw_header(path: Path, kind: type[nb.Nifti1Header]) -> nb.Nifti1Header:
    """The header as it is in the file, before the library mends it, as by 1 for a voxel size of 0."""
    with ImageOpener(path) as stream:
        return kind.from_fileobj(stream, check=False)


def _refuse_endless_scaling(path: Path) -> None:
    """Refuse a scaling that is infinite or not a number; only a slope that is none stands for none at all."""
    try:
        header = _raw_header(path, nb.Nifti1Header)
    except Exception:  # whatever else is wrong is said by the caller
        return
    if int(header["sizeof_hdr"]) != header.sizeof_hdr:
        return
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    is_scaled = slope != 0 and not math.isnan(slope)
    for field, value in (("scl_slope", slope), ("scl_inter", intercept)):
        if is_scaled and not math.isfinite(value):
            raise UnreadableImage(
                f"the header's scaling is {value:g}", "write 1 for scl_slope and 0 for scl_inter", field=field
            )


def _size(path: Path) -> int:
    """Bytes of a file that can be read."""
    if not path.exists():
        raise UnreadableImage(
            "the file is a link to content that is not here", "fetch it, as with datalad get"
        )
    # A pipe or a device would be waited for.
    if not path.is_file():
        raise UnreadableImage("it is no file", "put the image in its place")
    if not os.access(path, os.R_OK):
        raise UnreadableImage("the file may not be read", "give yourself the permission, as with chmod u+r")
    size = path.stat().st_size
    if size == 0:
        raise UnreadableImage("the file is empty (0 bytes)", "put the image in its place")
    return size


def _refuse_false_size(claimed: int, size: int, *, is_compressed: bool) -> None:
    """Refuse an image of `claimed` bytes that cannot, or should not, come out of a file of `size` bytes."""
    if claimed > size and not is_compressed:
        raise UnreadableImage(
            f"the file is truncated or damaged: {size} bytes of {claimed} that the header claims",
            "copy or convert it again",
        )
    if claimed > max(SMALL, MOST_COMPRESSION * size):
        raise UnreadableImage(
            f"its header claims {claimed / 2**30:.3g} GiB, which a measured image does not squeeze into "
            f"{size} bytes",
            "copy or convert it again",
        )


def _shape_without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the axes of length one that some programs write behind the third.

    Examples
    --------
    >>> _shape_without_ones((8, 8, 1, 1, 1)), _shape_without_ones((8, 8, 8, 1, 2, 1))
    ((8, 8, 1), (8, 8, 8, 1, 2))
    """
    shape = [int(size) for size in shape]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return tuple(shape)


def _checksum(values: np.ndarray) -> int:
    """64 bits that tell copies; two quick sums that have nothing to do with each other."""
    content = values.view(np.uint8)
    return isal_zlib.crc32(content) << 32 | isal_zlib.adler32(content)


def _count_values(values: np.ndarray) -> int:
    """Different numbers of a sample, no more than :data:`MANY_VALUES`, which few voxels settle mostly."""
    for size in (SMALL_SAMPLE, SAMPLE_SIZE):
        found = np.unique(values[:: max(1, values.size // size)]).size
        if found >= MANY_VALUES:
            break
    return min(found, MANY_VALUES)


def _displacement(header: nb.Nifti1Header) -> tuple[float, float]:
    """Distance in mm and angle in degrees between the grids of sform and qform, where both are valid."""
    if not (int(header["sform_code"]) and int(header["qform_code"])):
        return 0.0, 0.0
    try:
        sform, qform = header.get_sform(), header.get_qform()
    except (nb.spatialimages.HeaderDataError, ValueError):  # a quaternion that is none, and is not used
        return 0.0, 0.0
    with np.errstate(all="ignore"):  # what is no number is judged with the affine
        axes = [grid[:3, :3] / np.linalg.norm(grid[:3, :3], axis=0) for grid in (sform, qform)]
    cosine = np.clip((axes[0] * axes[1]).sum(axis=0).min(), -1, 1)
    found = float(np.linalg.norm(sform[:3, 3] - qform[:3, 3])), math.degrees(math.acos(cosine))
    return found if all(map(math.isfinite, found)) else (0.0, 0.0)


def _extremes(values: np.ndarray) -> tuple[Extremes, int]:
    n_nonfinite = 0
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
