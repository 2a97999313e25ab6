"""Images in and out of the stages: NIfTI files to tensors and back, geometry kept."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from qsmflow.core.dipole import b0_direction


@dataclass(frozen=True)
class Geometry:
    """What the numerics need to know of an image's frame.

    Attributes
    ----------
    voxel_size : tuple of float
        Voxel edge lengths in mm.
    b0_direction : tuple of float
        Unit vector of B0 in voxel axes.
    """

    voxel_size: tuple[float, float, float]
    b0_direction: tuple[float, float, float]


def geometry(path) -> Geometry:
    """Voxel size and B0 direction of an image, from its affine.

    Parameters
    ----------
    path : path-like
        NIfTI file.

    Returns
    -------
    Geometry
        Voxel size in mm, unit B0 vector in voxel axes.

    Raises
    ------
    ValueError
        If the affine's axes are degenerate or not orthogonal.
    """
    affine = nib.load(path).affine
    voxel_size = tuple(float(edge) for edge in nib.affines.voxel_sizes(affine))
    return Geometry(voxel_size, b0_direction(affine))


def load(path, *, use_gpu: bool = False) -> Tensor:
    """Read an image; a 4-D file (x, y, z, echo) comes as (echo, x, y, z).

    Parameters
    ----------
    path : path-like
        NIfTI file.
    use_gpu : bool
        Whether the tensor goes to the GPU.

    Returns
    -------
    Tensor
        float32.
    """
    values = np.asarray(nib.load(path).dataobj, dtype=np.float32)
    if values.ndim == 4:
        values = np.moveaxis(values, 3, 0)
    return torch.from_numpy(np.ascontiguousarray(values)).to("cuda" if use_gpu else "cpu")


def load_mask(path, *, use_gpu: bool = False) -> Tensor:
    """Read a mask (x, y, z), true where the image is above one half; arguments as in :func:`load`."""
    inside = np.asanyarray(nib.load(path).dataobj) > 0.5
    return torch.from_numpy(np.ascontiguousarray(inside)).to("cuda" if use_gpu else "cpu")


def save(values: Tensor | np.ndarray, path, *, like) -> str:
    """Write float32 (bool as uint8) with the affine and header frame of another image.

    Parameters
    ----------
    values : Tensor or ndarray
        (x, y, z), or (echo, x, y, z), which is written as (x, y, z, echo).
    path : path-like
        File to write; uncompressed unless it ends in .gz.
    like : path-like
        Image whose geometry is kept.

    Returns
    -------
    str
        Absolute path written.

    Raises
    ------
    ValueError
        If the values are not finite, or zero everywhere: such a map is a failure, not a result.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    array = array.astype(np.uint8 if array.dtype == bool else np.float32, copy=False)
    # A sum is finite only if all values are, and needs no volume of its own.
    if not np.isfinite(array.sum(dtype=np.float64)):
        raise ValueError(f"{Path(path).name}: the computed map has values that are not finite")
    if not array.any():
        raise ValueError(f"{Path(path).name}: the computed map is zero everywhere")
    if array.ndim == 4:
        array = np.moveaxis(array, 0, 3)
    source = nib.load(like)
    image = nib.Nifti1Image(array, source.affine)
    image.set_sform(source.affine, int(source.header["sform_code"]) or 1)
    image.set_qform(source.affine, int(source.header["qform_code"]) or 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return str(Path(path).resolve())
