"""Trained networks applied to the maps of a subject: any size and voxel, in a given memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qsmflow.core.crop import uncropped
from qsmflow.core.dipole import dipole_kernel
from qsmflow.core.fourier import good_size, voxels_along
from qsmflow.nets.budget import MARGIN, Budget, slice_groups
from qsmflow.nets.bundle import Bundle
from qsmflow.nets.resampling import Frame, framed
from qsmflow.nets.severity import CERTAIN, severity_of
from qsmflow.nets.tiling import Progress, run_network, run_tiled, usable_precision

#: Zeros in mm along each axis of the dipole's grid: the far field of one side hardly reaches the other.
PADDING = 20.0
#: Bytes a voxel held beside the networks: of the dipole's grid, and of a volume without one.
DIPOLE_BYTES, VOLUME_BYTES = 120, 100


@dataclass(frozen=True)
class Prediction:
    """Susceptibility that a network made of a local field.

    Attributes
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm, zero outside the mask.
    precision : str
        ``"bfloat16"`` or ``"float32"``.
    tiles : int
        That the volume was cut into.
    resampled_to : tuple of float or None
        Voxel size in mm that the network worked on, if it is not that of the field.
    """

    susceptibility: Tensor
    precision: str
    tiles: int
    resampled_to: tuple[float, ...] | None


@dataclass(frozen=True)
class MotionCorrection:
    """Susceptibility without the artefacts of motion, as networks believe.

    Attributes
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm, zero outside the mask; its mean in the mask is the networks' too.
    severity : float
        Norm of the artefacts over that of the map, both demeaned in the mask, per cent: as the gauge of the
        U-Net estimates it, or what the networks changed if it has none.
    precision, tiles, resampled_to
        As in :class:`Prediction`.
    """

    susceptibility: Tensor
    severity: float
    precision: str
    tiles: int
    resampled_to: tuple[float, ...] | None


def told_severity(
    network: nn.Module, image: Tensor, *, mask: Tensor, dtype: torch.dtype
) -> tuple[Callable[[Tensor], Tensor], float | None]:
    """A U-Net that has been told how much motion there is, and what it was told.

    Parameters
    ----------
    network : nn.Module
        U-Net, with a gauge or without.
    image, mask : Tensor
        (1, 1, x, y, z), ppm without its mean and zero outside the mask; the mask of ones and zeros.
    dtype : torch.dtype
        Of convolutions.

    Returns
    -------
    tuple of callable and float or None
        From a part of the image to what the network makes of it; the severity that the gauge estimates, or
        None without one. Below :data:`qsmflow.nets.severity.CERTAIN` the network is told that there is none,
        which leaves a map without motion as it is.
    """
    if not network.settings.severity:
        return network, None
    with torch.autocast(image.device.type, dtype=dtype, enabled=dtype != torch.float32):
        severity = severity_of(network.gauge(image, mask=mask))
    return partial(network, severity=severity * (severity >= CERTAIN)), float(severity)


@torch.inference_mode()
def predict_susceptibility(
    local_field: Tensor,
    *,
    mask: Tensor,
    voxel_size: Sequence[float],
    b0_direction: Sequence[float],
    bundle: Bundle,
    memory_gb: float | None = None,
    precision: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Invert the dipole by a network.

    The field is cut to the mask. Voxel size and direction of B0 go into the dipole's kernel; only voxels
    that the network has not seen are resampled, and the map brought back.

    Parameters
    ----------
    local_field : Tensor
        (x, y, z) in ppm.
    mask : Tensor
        (x, y, z), true where the field means something.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes.
    bundle : Bundle
        With a ``deepqsm`` network; computed is where it lives.
    memory_gb : float, optional
        That may be used beyond the inputs; without it the volume goes through the network in one piece.
    precision : str
        Of convolutions, see :func:`qsmflow.nets.tiling.usable_precision`.
    progress : callable, optional
        Told after each tile how many steps are done, and of how many.

    Returns
    -------
    Prediction

    Raises
    ------
    ValueError
        If shapes differ, the mask is empty, the field is not finite in it, the network is not for this,
        its result is not finite, or the memory cannot suffice.

    References
    ----------
    Bollmann et al. 2019, 10.1016/j.neuroimage.2019.03.060.

    Examples
    --------
    >>> from qsmflow.nets.bundle import load_bundle
    >>> found = predict_susceptibility(
    ...     field, mask=mask, voxel_size=(1, 1, 1), b0_direction=(0, 0, 1), bundle=load_bundle("deepqsm-head")
    ... )  # doctest: +SKIP
    """
    network = _checked(bundle, "deepqsm")
    frame = framed(local_field, mask=mask, voxel_size=voxel_size, allowed=bundle.card.voxel_range)
    frame = frame.to(bundle.device)
    dtype = usable_precision(precision, device=bundle.device)
    size = _padded_size(frame.mask.shape, stride=network.settings.stride)
    grid = _dipole_grid(frame, size)
    budget = Budget(bundle.card.name, memory_gb, held=DIPOLE_BYTES * math.prod(grid))
    tiles = budget.tiles(network, size, dtype=dtype)
    steps = Progress(tiles.count * len(network.refiners), progress)
    kernel = dipole_kernel(grid, voxel_size=frame.voxel_size, b0_direction=b0_direction, device=bundle.device)
    found = network(
        _padded(frame.image, size),
        mask=_padded(frame.mask.float(), size),
        kernel=kernel[None],
        apply=lambda refiner, image: run_tiled(refiner, image, tiles=tiles, dtype=dtype, progress=steps),
    )
    susceptibility = frame.restored(_unpadded(found, frame.mask.shape), maker=bundle.card.name)
    susceptibility = uncropped(susceptibility, box=frame.box, shape=mask.shape).to(mask.device)
    return Prediction(susceptibility, _name(dtype), tiles.count, frame.resampled_to)


@torch.inference_mode()
def correct_motion(
    susceptibility: Tensor,
    *,
    mask: Tensor,
    voxel_size: Sequence[float],
    unet: Bundle,
    prenet: Bundle,
    least_severity: float = 0.0,
    memory_gb: float | None = None,
    precision: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> MotionCorrection:
    """Remove the artefacts of motion from a map, by a U-Net on the volume and PReNet on its slices.

    What the networks change is brought back to the grid of the map and added to it, so the map itself is
    never smoothed by resampling. Networks see it without its mean in the mask.

    Parameters
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm; the third axis goes from slice to slice, as in axial slices.
    mask : Tensor
        (x, y, z), true where the map means something.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    unet, prenet : Bundle
        With a ``unet`` and a ``prenet``, on the same device, where it is computed.
    least_severity : float
        Per cent. If the U-Net's gauge finds less, the map is returned as it is.
    memory_gb, precision, progress
        As in :func:`predict_susceptibility`.

    Returns
    -------
    MotionCorrection

    Raises
    ------
    ValueError
        If shapes differ, the mask is empty, the map is not finite in it or has one value only, a network
        is not for this, its result is not finite, or the memory cannot suffice.

    Examples
    --------
    >>> from qsmflow.nets.bundle import load_bundle
    >>> found = correct_motion(
    ...     chi,
    ...     mask=mask,
    ...     voxel_size=(1, 1, 1),
    ...     unet=load_bundle("motion-unet"),
    ...     prenet=load_bundle("motion-prenet"),
    ... )  # doctest: +SKIP
    """
    volume_network, slice_network = _checked(unet, "unet"), _checked(prenet, "prenet")
    allowed = unet.card.voxel_range.common(prenet.card.voxel_range)
    frame = framed(susceptibility, mask=mask, voxel_size=voxel_size, allowed=allowed).to(unet.device)
    inside = mask.bool()
    contrast = _contrast(susceptibility[inside])
    if not contrast:
        raise ValueError("the map has the same value everywhere in the mask; there is nothing to correct")
    level = frame.image[frame.mask].mean()
    dtype = usable_precision(precision, device=unet.device)
    size = _padded_size(frame.mask.shape, stride=volume_network.settings.stride)
    held = VOLUME_BYTES * math.prod(size)
    tiles = Budget(unet.card.name, memory_gb, held=held).tiles(volume_network, size, dtype=dtype)
    known = _padded(frame.mask.float(), size)
    budget = Budget(prenet.card.name, memory_gb, held=held)
    batches = budget.batches(slice_network, slice_groups(known[0, 0]))
    steps = Progress(tiles.count + len(batches), progress)
    moved = _padded(torch.where(frame.mask, frame.image - level, 0), size)
    told, severity = told_severity(volume_network, moved, mask=known, dtype=dtype)
    if severity is not None and 100 * severity < least_severity:
        unchanged = torch.where(inside, susceptibility, 0)
        return MotionCorrection(unchanged, 100 * severity, _name(dtype), 0, frame.resampled_to)
    still = known * run_tiled(told, moved, tiles=tiles, dtype=dtype, progress=steps)
    refined = torch.zeros_like(still)
    for batch in batches:
        slices = still[0, 0][batch].permute(2, 0, 1)[:, None]  # (b, 1, h, w)
        slices = run_network(slice_network, slices, dtype=dtype, progress=steps)
        refined[0, 0][batch] = slices[:, 0].permute(1, 2, 0)
    refined *= known
    change = _unpadded(refined - moved, frame.mask.shape)
    change = frame.restored(change, maker=f"{unet.card.name} or {prenet.card.name}")
    change = uncropped(change, box=frame.box, shape=mask.shape).to(mask.device)
    corrected = torch.where(inside, susceptibility, 0) + change
    if severity is None:
        severity = _contrast(change[inside]) / contrast
    return MotionCorrection(corrected, 100 * severity, _name(dtype), tiles.count, frame.resampled_to)


def _checked(bundle: Bundle, architecture: str) -> nn.Module:
    if bundle.card.architecture != architecture:
        raise ValueError(
            f"model {bundle.card.name} is a {bundle.card.architecture}; "
            f"this takes one whose card has the architecture {architecture}"
        )
    return bundle.network


def _padded_size(shape: Sequence[int], *, stride: int) -> tuple[int, ...]:
    """The shape with margins, in multiples of a network's stride."""
    return tuple(math.ceil((size + 2 * MARGIN) / stride) * stride for size in shape)


def _padded(image: Tensor, size: Sequence[int]) -> Tensor:
    """Volume (x, y, z) as a batch (1, 1, x, y, z) with zeros around it."""
    both = [(MARGIN, whole - MARGIN - part) for part, whole in zip(image.shape, size, strict=True)]
    return F.pad(image, [zeros for pair in reversed(both) for zeros in pair])[None, None]


def _unpadded(batch: Tensor, shape: Sequence[int]) -> Tensor:
    return batch[0, 0][tuple(slice(MARGIN, MARGIN + size) for size in shape)]


def _dipole_grid(frame: Frame, size: Sequence[int]) -> tuple[int, ...]:
    """Grid of the kernel for a padded image, whose own zeros count."""
    wanted = voxels_along(PADDING, voxel_size=frame.voxel_size)
    pairs = zip(frame.mask.shape, wanted, size, strict=True)
    return good_size(size, padding=[max(part + zeros - padded, 0) for part, zeros, padded in pairs])


def _contrast(values: Tensor) -> float:
    """Norm of values without their mean."""
    return float((values - values.mean()).double().norm())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
