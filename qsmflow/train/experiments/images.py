"""Images of the user's own, and B0 in the axes that they are read with."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from qsmflow.train.volumes import Volume


def tensor_of(volume: Volume) -> Tensor:
    """Values of an image, which are turned if its file is."""
    return torch.from_numpy(np.ascontiguousarray(volume.values))


def direction_as_read(path: Path, direction: Sequence[float]) -> tuple[float, float, float]:
    """A direction along the axes of a file, along the axes that its image is read with.

    Images are read with axes that point right, forward and up; those of the file may be others.

    Parameters
    ----------
    path : Path
    direction : sequence of float
        In voxel axes of the file.

    Returns
    -------
    tuple of float

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "coronal.nii"
    ...     affine = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    ...     nib.save(nib.Nifti1Image(np.zeros((2, 3, 4)), affine), path)
    ...     direction_as_read(path, (0.5, 1.0, 0.0))
    (-0.5, 0.0, 1.0)
    """
    turned = np.zeros(3)
    for value, (axis, sign) in zip(direction, nib.io_orientation(nib.load(path).affine), strict=True):
        turned[int(axis)] = sign * value
    return tuple((turned + 0.0).tolist())
