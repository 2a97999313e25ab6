"""Sophisticated harmonic artefact reduction with spheres of varying radius."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsmflow.core.background.result import BackgroundRemoval
from qsmflow.core.crop import masked_crop, uncropped
from qsmflow.core.fourier import good_size, spherical_mean_kernel, voxels_along


def sphere_radii(largest: float, smallest: float, *, voxel_size: Sequence[float]) -> tuple[float, ...]:
    """Radii from the largest to the smallest in equal steps of at most one voxel.

    A sphere of less than a voxel's longest edge is none, so the smallest radius is that at least.

    Parameters
    ----------
    largest, smallest : float
        mm.
    voxel_size : sequence of float
        Voxel edge lengths in mm; the longest is the step, as no shorter one changes every axis.

    Returns
    -------
    tuple of float
        mm, falling, both ends among them.

    Raises
    ------
    ValueError
        If the largest is less than the smallest or than the longest voxel edge.

    Examples
    --------
    >>> sphere_radii(6, 2, voxel_size=(1, 1, 2))
    (6.0, 4.0, 2.0)
    """
    step = max(float(edge) for edge in voxel_size)
    if not 0 < max(smallest, step) <= largest:
        raise ValueError(f"no radii fall from {largest} to {smallest} mm with voxel edges of {step} mm")
    smallest = max(smallest, step)
    count = math.ceil((largest - smallest) / step - 1e-6)
    return tuple(largest + (smallest - largest) * index / max(1, count) for index in range(count + 1))


def remove_background_vsharp(
    total_field: Tensor,
    *,
    mask: Tensor,
    voxel_size: Sequence[float],
    largest_radius: float = 12.0,
    smallest_radius: float = 2.0,
    threshold: float = 0.05,
) -> BackgroundRemoval:
    """Take away what equals its own mean over spheres, f_L = C⁻¹ · M_r (1 − S_r) f.

    A field without sources in a sphere equals its mean at the centre, so 1 − S_r leaves only the part of
    the sources inside. Each voxel takes the largest sphere that fits the mask around it, and what that
    sphere did to the local field is undone by dividing by C = 1 − S of the largest radius, wherever it
    exceeds the threshold.

    Parameters
    ----------
    total_field : Tensor
        (x, y, z), unwrapped, any unit.
    mask : Tensor
        (x, y, z), true where the field was measured.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    largest_radius, smallest_radius : float
        mm. The mask loses what is nearer to its surface than the smallest radius.
    threshold : float
        Least |C| that is divided by; frequencies below it are lost.

    Returns
    -------
    BackgroundRemoval
        Local field, the eroded mask; no iterations, converged.

    Raises
    ------
    ValueError
        If the mask is empty or does not hold the smallest sphere, the field is not finite in it, or the
        radii do not fall.

    References
    ----------
    Schweser et al. 2011, 10.1016/j.neuroimage.2010.10.070; Li, Wu and Liu 2011,
    10.1016/j.neuroimage.2010.11.088; Wu et al. 2012, 10.1002/mrm.23000.

    Examples
    --------
    >>> axis = torch.arange(-8.0, 9.0)
    >>> x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    >>> removal = remove_background_vsharp(
    ...     x * y + z, mask=x**2 + y**2 + z**2 <= 64, voxel_size=(1, 1, 1), largest_radius=4
    ... )
    >>> bool(removal.local_field.abs().max() < 1e-3)
    True
    """
    radii = sphere_radii(largest_radius, smallest_radius, voxel_size=voxel_size)
    box, inside, field = masked_crop(total_field, mask=mask)
    # One sphere of zeros, so that none reaches round to the other side.
    grid = good_size(inside.shape, padding=voxels_along(largest_radius, voxel_size=voxel_size))
    part = tuple(slice(size) for size in inside.shape)
    field.sub_(field.sum() / torch.count_nonzero(inside)).mul_(inside)
    spectrum = torch.fft.rfftn(field, s=grid)
    mask_spectrum = torch.fft.rfftn(inside.to(field.dtype), s=grid)
    filtered = torch.zeros_like(field)
    valid = torch.zeros_like(inside)
    deconvolution = None
    for radius in radii:
        kernel = spherical_mean_kernel(
            grid, voxel_size=voxel_size, radius=radius, device=field.device, dtype=field.dtype
        )
        if deconvolution is None:
            deconvolution = 1 - kernel
        share = torch.fft.irfftn(mask_spectrum * kernel, s=grid)[part]
        # Rounding of the transforms, far less than one voxel of any sphere.
        fresh = (share > 1 - 1e-5) & inside & ~valid
        means = torch.fft.irfftn(spectrum * kernel, s=grid)[part]
        filtered = torch.where(fresh, field - means, filtered)
        valid |= fresh
    if not valid.any():
        raise ValueError(f"the mask holds no sphere of {smallest_radius} mm")
    passed = deconvolution.abs() > threshold
    inverse = torch.where(passed, 1 / torch.where(passed, deconvolution, 1), 0)
    local = torch.fft.irfftn(torch.fft.rfftn(filtered, s=grid) * inverse, s=grid)[part] * valid
    total = float(field.norm())
    return BackgroundRemoval(
        uncropped(local, box=box, shape=mask.shape),
        uncropped(valid, box=box, shape=mask.shape),
        0,
        True,
        float(local.norm()) / total if total else 0.0,
    )
