"""Maps of BIDS derivatives as they are read for training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

#: That read files at a time.
READING_THREADS = 4
#: Farthest that corners of two grids may lie apart, in voxels.
_SAME_GRID = 0.1


class UnusableData(ValueError):
    """Data that cannot be trained on; the message names file and fix."""


@dataclass(frozen=True)
class Volume:
    """A map as it lies in a file, with axes that point right, forward and up as nearly as they can.

    Parameters
    ----------
    path : Path
        The file.
    values : numpy.ndarray
        (x, y, z), float32.
    affine : numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm.
    """

    path: Path
    values: np.ndarray
    affine: np.ndarray

    @property
    def voxel_size(self) -> tuple[float, ...]:
        """Edges in mm."""
        return tuple(float(edge) for edge in nib.affines.voxel_sizes(self.affine))


def read_volume(path: Path) -> Volume:
    """Read a map.

    Raises
    ------
    UnusableData
        If the file is damaged, no volume, or not finite.
    """
    return as_volume(path, load_image(path))


def load_image(path: Path) -> nib.Nifti1Image:
    """An image whose values are not read yet, its axes as in :class:`Volume`."""
    try:
        return nib.as_closest_canonical(nib.load(path))
    except FileNotFoundError:
        raise UnusableData(f"{path} is missing") from None
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise UnusableData(f"{path} cannot be read ({error}); make it again or leave it out") from error


def as_volume(path: Path, image: nib.Nifti1Image) -> Volume:
    """Read the values of an image; errors as in :func:`read_volume`."""
    try:
        values = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError) as error:
        raise UnusableData(f"{path} cannot be read ({error}); make it again or leave it out") from error
    if values.ndim != 3:
        raise UnusableData(f"{path} has shape {values.shape}; want a volume of three axes")
    if not np.isfinite(values).all():
        raise UnusableData(f"{path} has values that are not finite; leave it out or set them to zero")
    return Volume(path, values, image.affine)


def check_grid(volume: Volume, reference: Volume) -> Volume:
    """The volume, if it lies on the grid of another one."""
    if volume.values.shape != reference.values.shape:
        differ = f"{volume.values.shape} and {reference.values.shape} voxels"
    elif _farthest_corner(volume, reference) > _SAME_GRID * min(reference.voxel_size):
        differ = "different affines"
    else:
        return volume
    raise UnusableData(
        f"{reference.path} and {volume.path} lie on different grids ({differ}); resample one to the other, "
        "or copy the affine if only a header is wrong"
    )


def _farthest_corner(volume: Volume, reference: Volume) -> float:
    """Millimetres between the same corner of two grids of one shape."""
    corners = np.array([[0, 0, 0], np.array(volume.values.shape) - 1])
    ours, theirs = (nib.affines.apply_affine(one.affine, corners) for one in (volume, reference))
    return float(np.abs(ours - theirs).max())


def read_on_grid(path: Path, *, like: Volume) -> Volume:
    """Read an image that must lie on the grid of another one; errors as in :func:`read_volume`."""
    return check_grid(read_volume(path), like)


def read_mask(volume: Volume) -> np.ndarray:
    """Brain mask that lies beside a map, on its grid."""
    return read_on_grid(mask_path(volume.path), like=volume).values > 0.5


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Smallest box that holds a mask; all of it if the mask is empty."""
    if not mask.any():
        return tuple(slice(0, size) for size in mask.shape)
    return tuple(slice(int(index.min()), int(index.max()) + 1) for index in np.nonzero(mask))


def find_maps(folders: Sequence[Path], suffix: str) -> list[Path]:
    """Files of all subjects that end so, as ``_Chimap``."""
    found = (path for folder in folders for path in folder.glob(f"sub-*/**/sub-*{suffix}.nii*"))
    return sorted(found)


def entities_of(path: Path) -> set[str]:
    """Entities in the name of a file, such as ``acq-still``."""
    return set(path.name.split("_")[:-1])


def subject_of(path: Path) -> str:
    """Label of the subject in the name of a file, with ``sub-``."""
    return path.name.split("_")[0]


def mask_path(chi: Path) -> Path:
    """Where the brain mask of a map lies."""
    return chi.with_name(f"{stem_of(chi)}_desc-brain_mask{extension_of(chi)}")


def stem_of(chi: Path) -> str:
    """Entities of a map but its ``desc``."""
    return chi.name.split("_desc-")[0].removesuffix(f"_Chimap{extension_of(chi)}")


def extension_of(path: Path) -> str:
    """With that of the compression."""
    return ".nii.gz" if path.name.endswith(".gz") else ".nii"
