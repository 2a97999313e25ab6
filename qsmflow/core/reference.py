"""The region in which susceptibility is called zero."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


class NoCsfError(ValueError):
    """No ventricular cerebrospinal fluid was found."""


@dataclass(frozen=True)
class ReferenceRegion:
    """Where susceptibility is set to zero.

    Attributes
    ----------
    kind : str
        What the region is: csf, brain or none.
    region : Tensor or None
        (x, y, z), bool; None where nothing is subtracted.
    shortfall : str or None
        Why the region is not of the kind that was asked for; None if it is.
    """

    kind: str
    region: Tensor | None
    shortfall: str | None = None


@dataclass(frozen=True)
class Referenced:
    """A susceptibility relative to a region.

    Attributes
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm, zero outside the mask.
    mean : float
        What was subtracted: the mean over the region before referencing, ppm.
    standard_deviation : float
        Over the region, ppm.
    n_voxels : int
        Size of the region.
    """

    susceptibility: Tensor
    mean: float
    standard_deviation: float
    n_voxels: int


def csf_mask(
    r2star: Tensor,
    *,
    mask: Tensor,
    voxel_size: Sequence[float],
    threshold: float = 5.0,
    central_radius: float = 30.0,
    n_parts: int = 2,
    least_volume: float = 0.25,
) -> Tensor:
    """Cerebrospinal fluid of the ventricles: low R2* in the middle of the brain.

    Voxels whose R2*, median filtered over 3×3×3, is below the threshold, within a sphere around the
    brain's centre of mass; of their connected parts the largest. Unlike in the paper, the parts are
    not followed out of the sphere, where they join the fluid of the sulci at the mask's rim.

    Parameters
    ----------
    r2star : Tensor
        (x, y, z) in 1/s.
    mask : Tensor
        (x, y, z), bool, the brain.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    threshold : float
        R2* in 1/s below which a voxel may be fluid.
    central_radius : float
        Radius of the sphere in mm.
    n_parts : int
        Most connected parts kept; the lateral ventricles are two.
    least_volume : float
        Least volume of a part in ml.

    Returns
    -------
    Tensor
        (x, y, z), bool, within the mask.

    Raises
    ------
    NoCsfError
        If no part is large enough, or the mask is hardly larger than the sphere: a crop of a brain
        has no middle to look in.
    ValueError
        If the mask is empty.

    References
    ----------
    MEDI+0: Liu et al. 2018, 10.1002/mrm.26946.

    Examples
    --------
    >>> r2star = torch.full((16, 16, 16), 20.0)
    >>> r2star[6:10, 6:10, 6:10] = 1
    >>> mask = torch.ones(16, 16, 16, dtype=torch.bool)
    >>> int(csf_mask(r2star, mask=mask, voxel_size=(5, 5, 5)).sum())
    32
    """
    if not bool(mask.any()):
        raise ValueError("the brain mask is empty")
    millilitre = float(np.prod(voxel_size)) / 1000  # per voxel
    brain_volume = int(torch.count_nonzero(mask)) * millilitre
    if brain_volume < 3 * (4 / 3 * np.pi * central_radius**3 / 1000):
        raise NoCsfError(
            f"no ventricle was looked for: the mask holds {brain_volume:.0f} ml, too little of a brain "
            f"to tell its middle, {central_radius:g} mm around its centre, from the rest"
        )
    box, central = _ball_in_the_middle(mask.bool(), voxel_size=voxel_size, radius=central_radius)
    low = central & _median_is_below(r2star, threshold, box)
    parts, _ = ndimage.label(low.cpu().numpy(), structure=np.ones((3, 3, 3)))
    volume = np.bincount(parts.ravel()) * millilitre
    volume[0] = 0
    largest = np.argsort(volume)[::-1][:n_parts]
    large = largest[volume[largest] >= least_volume]
    if not large.size:
        raise NoCsfError(
            f"no ventricle found: R2* below {threshold:g} 1/s within {central_radius:g} mm of the brain's "
            f"centre fills {volume.max():.2f} ml in one piece, at least {least_volume:g} ml are needed"
        )
    found = torch.zeros_like(mask, dtype=torch.bool)
    found[box] = torch.from_numpy(np.isin(parts, large)).to(mask.device)
    return found


def _ball_in_the_middle(
    mask: Tensor, *, voxel_size: Sequence[float], radius: float
) -> tuple[tuple[slice, ...], Tensor]:
    """Box around the centre of mass, and in it the voxels of a mask within a radius in mm of it."""
    # NumPy counts without widening the mask to eight bytes a voxel first.
    across_x = np.count_nonzero(mask.cpu().numpy(), axis=0)
    counts = (np.count_nonzero(mask.cpu().numpy(), axis=(1, 2)), across_x.sum(axis=1), across_x.sum(axis=0))
    box, squared = [], torch.zeros((1, 1, 1), dtype=torch.float64, device=mask.device)
    for axis, (count, edge) in enumerate(zip(counts, voxel_size, strict=True)):
        centre = float(np.average(np.arange(len(count)), weights=count))
        places = torch.arange(len(count), dtype=torch.float64, device=mask.device)
        distance = (places - centre) * edge
        near = torch.nonzero(distance.abs() <= radius).flatten()
        box.append(slice(int(near[0]), int(near[-1]) + 1))
        squared = squared + distance[box[-1]].square().reshape([-1 if a == axis else 1 for a in range(3)])
    return tuple(box), mask[tuple(box)] & (squared <= radius**2)


def _median_is_below(image: Tensor, threshold: float, box: tuple[slice, ...]) -> Tensor:
    """Whether the median over 3×3×3 voxels is below a threshold, in a box of the image.

    It is where 14 of the 27 are. Beyond the edge of the image its last voxels are repeated.
    """
    below = image
    for axis, part in enumerate(box):
        places = torch.arange(part.start - 1, part.stop + 1, device=image.device)
        below = below.index_select(axis, places.clamp(0, image.shape[axis] - 1))
    count = (below < threshold).to(torch.uint8)
    for axis in range(3):
        inner = count.shape[axis] - 2
        count = sum(count.narrow(axis, start, inner) for start in range(3))
    return count >= 14


def reference_region(
    kind: str, *, mask: Tensor, r2star: Tensor | None, voxel_size: Sequence[float]
) -> ReferenceRegion:
    """Region for a choice of reference; the whole brain where no fluid can be found.

    Parameters
    ----------
    kind : str
        ``csf`` (ventricles), ``brain`` (whole mask) or ``none``.
    mask : Tensor
        (x, y, z), bool, the brain.
    r2star : Tensor or None
        (x, y, z) in 1/s; None for a single echo.
    voxel_size : sequence of float
        Voxel edge lengths in mm.

    Returns
    -------
    ReferenceRegion
        The region, what it is, and why if it is not what was asked for.

    Raises
    ------
    ValueError
        If the kind is unknown.

    Examples
    --------
    >>> mask = torch.ones(4, 4, 4, dtype=torch.bool)
    >>> found = reference_region("csf", mask=mask, r2star=None, voxel_size=(1, 1, 1))
    >>> found.kind, found.shortfall
    ('brain', 'ventricles are found by R2*, which a single echo does not give')
    """

    def ventricles() -> ReferenceRegion:
        if r2star is None:
            return ReferenceRegion(
                "brain", mask.bool(), "ventricles are found by R2*, which a single echo does not give"
            )
        try:
            return ReferenceRegion("csf", csf_mask(r2star, mask=mask, voxel_size=voxel_size))
        except NoCsfError as error:
            return ReferenceRegion("brain", mask.bool(), str(error))

    choices: dict[str, Callable[[], ReferenceRegion]] = {
        "csf": ventricles,
        "brain": lambda: ReferenceRegion("brain", mask.bool()),
        "none": lambda: ReferenceRegion("none", None),
    }
    if kind not in choices:
        raise ValueError(f"the reference must be one of {', '.join(choices)}, got {kind!r}")
    return choices[kind]()


def reference_susceptibility(
    susceptibility: Tensor, *, mask: Tensor, region: Tensor | None = None
) -> Referenced:
    """Subtract the mean over a region from the susceptibility in the mask.

    Parameters
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm.
    mask : Tensor
        (x, y, z), bool, where susceptibility is known.
    region : Tensor, optional
        (x, y, z), bool; its part within the mask is used. Nothing is subtracted unless given.

    Returns
    -------
    Referenced
        Susceptibility, and what was subtracted; zeros for the latter without a region.

    Raises
    ------
    ValueError
        If the region has no voxel in the mask.

    Examples
    --------
    >>> mask = torch.tensor([[[True, True, False]]])
    >>> found = reference_susceptibility(torch.tensor([[[1.0, 3.0, 5.0]]]), mask=mask, region=mask)
    >>> found.susceptibility.flatten().tolist(), found.mean, found.standard_deviation
    ([-1.0, 1.0, 0.0], 2.0, 1.0)
    """
    mask = mask.bool()
    if region is None:
        return Referenced(torch.where(mask, susceptibility, 0), 0.0, 0.0, 0)
    # NumPy picks the values without listing their indices, which PyTorch would, in 24 bytes a voxel.
    values = susceptibility.cpu().numpy()[(mask & region.bool()).cpu().numpy()]
    if not values.size:
        raise ValueError("the reference region has no voxel in the mask")
    mean = float(values.mean(dtype=np.float64))
    return Referenced(
        susceptibility=torch.where(mask, susceptibility - mean, 0),
        mean=mean,
        standard_deviation=float(values.std(dtype=np.float64)),
        n_voxels=values.size,
    )
