"""Where the brain is, where its phase can be trusted, and how such masks are combined."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

from qsmflow.core.crop import bounding_box


@dataclass(frozen=True)
class Mask:
    """A mask and what it holds.

    Attributes
    ----------
    mask : Tensor
        (x, y, z), bool.
    volume : float
        Its volume in ml.
    fraction_lost : float
        Part of the first mask's voxels that the combination left out, 0 to 1.
    """

    mask: Tensor
    volume: float
    fraction_lost: float


def brain_mask(
    magnitude: Tensor,
    *,
    voxel_size: Sequence[float],
    relative_threshold: float = 0.5,
    fat_threshold: float = 1.25,
    core_radius: float = 16.0,
    ball_radius: float = 12.0,
    bridge_radius: float = 3.0,
) -> Tensor:
    """Brain of a gradient-echo magnitude, with or without scalp around it.

    On a grid of at most 2 mm: tissue by Otsu's threshold of the logarithm and by comparison with its
    own smooth intensity, which stands for the sensitivity of the coil; of it the thickest part. That
    part's intensity alone is then the yardstick for a second search, from which fat is left out: the
    orbit lies against the frontal lobe with next to no bone between. The thickest part is an opening
    by balls which takes in only balls that lie near a larger one, so that eyes, face and neck, joined
    to the brain by something thinner than themselves, stay behind. Holes are filled. Edges of the
    field of view are not surfaces, so a crop that is all brain is kept whole.

    Parameters
    ----------
    magnitude : Tensor
        (x, y, z), any unit; echoes combined, for instance by root sum of squares.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    relative_threshold : float
        Least intensity of tissue, relative to the mean of the tissue within some 2 cm; one half puts
        the surface where a voxel is half brain, half bone.
    fat_threshold : float
        Relative intensity above which what is thicker than a vessel is fat.
    core_radius : float
        Radius in mm of the balls by which brain is told from other parts; less in a small brain.
    ball_radius : float
        Radius in mm of the balls that the brain is made of; they lie near a ball of the core.
    bridge_radius : float
        Distance in mm from the balls up to which what is tissue belongs to the brain, and half the
        thickness below which it does not.

    Returns
    -------
    Tensor
        (x, y, z), bool.

    Raises
    ------
    ValueError
        If the magnitude is not a finite volume with signal.

    References
    ----------
    Otsu 1979, 10.1109/TSMC.1979.4310076; reconstruction after an opening: Vincent 1993,
    10.1109/83.217222.

    Examples
    --------
    >>> axis = torch.arange(-20.0, 20.0)
    >>> radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    >>> head = (radius < 12) + 0.01
    >>> int((brain_mask(head, voxel_size=(4, 4, 4)) ^ (radius < 12)).sum())
    0
    """
    least, most = (float(value) for value in torch.aminmax(magnitude))
    if magnitude.ndim != 3 or not np.isfinite([least, most]).all():
        raise ValueError(f"brain_mask needs a finite volume (x, y, z), got shape {tuple(magnitude.shape)}")
    if not most > 0:
        raise ValueError("the magnitude holds no signal, so there is no brain to find in it")
    factor = [max(1, int(2 / edge + 1e-6)) for edge in voxel_size]
    size = [step * edge for step, edge in zip(factor, voxel_size, strict=True)]
    coarse = avg_pool3d(magnitude[None].float(), factor, ceil_mode=True, count_include_pad=False)[0]
    coarse = coarse.cpu().numpy()
    tissue = _tissue(coarse, relative_threshold=relative_threshold)
    box = _roomy_box(tissue)
    brain = np.zeros_like(tissue)
    brain[box] = _brain(
        coarse[box],
        tissue[box],
        voxel_size=size,
        relative_threshold=relative_threshold,
        fat_threshold=fat_threshold,
        radii=(core_radius, ball_radius, bridge_radius),
    )
    found = torch.from_numpy(brain).to(magnitude.device)
    if max(factor) == 1:
        return found
    fine = interpolate(
        found.float()[None, None], scale_factor=[float(step) for step in factor], mode="trilinear"
    )
    return (fine[0, 0] > 0.5)[tuple(slice(size) for size in magnitude.shape)].contiguous()


def _tissue(magnitude: np.ndarray, *, relative_threshold: float) -> np.ndarray:
    """Voxels with more signal than air and bone have."""
    # The logarithm parts tissue from air and bone; without it, bright scalp would be a class of its own.
    threshold = np.exp(threshold_otsu(np.log(magnitude[magnitude > 0])))
    # Where no air is in view, Otsu parts grey from white matter: no tissue is that much darker than the rest.
    return magnitude > min(threshold, relative_threshold * np.median(magnitude[magnitude > threshold]))


def _brain(
    magnitude: np.ndarray,
    tissue: np.ndarray,
    *,
    voxel_size: Sequence[float],
    relative_threshold: float,
    fat_threshold: float,
    radii: tuple[float, float, float],
) -> np.ndarray:
    """The brain in the tissue, whatever the sensitivity of the coil does to its intensity."""
    relative = magnitude / _local_mean(magnitude, tissue, voxel_size=voxel_size)
    mostly = _thickest_part(tissue & (relative > relative_threshold), voxel_size=voxel_size, radii=radii)
    relative = magnitude
    for _ in range(2):  # Near the surface, where a mean looks inwards only, the first leaves a rest.
        relative = relative / _local_mean(relative, tissue & mostly, voxel_size=voxel_size)
    # Vessels are as bright as fat, but thin.
    fat = _opened(relative > fat_threshold, 3.0, voxel_size)
    alike = tissue & (relative > relative_threshold) & ~fat
    return _thickest_part(alike, voxel_size=voxel_size, radii=radii)


def _local_mean(image: np.ndarray, where: np.ndarray, *, voxel_size: Sequence[float]) -> np.ndarray:
    """Mean over the voxels of a mask within some 2 cm; far from all of them, the mean over the mask."""
    little = 1e-3
    mean = _blurred(np.where(where, image, 0), 20, voxel_size)
    mean += little * image[where].mean()
    share = _blurred(where.astype(np.float32), 20, voxel_size)
    share += little
    return np.divide(mean, share, out=mean)


def _blurred(image: np.ndarray, width: float, voxel_size: Sequence[float]) -> np.ndarray:
    """An image convolved with a Gaussian of a width in mm, mirrored at the edges of the field of view."""
    # Tens of voxels wide, it costs less as a dense matrix an axis than as a sliding sum.
    across_x, across_y, across_z = (
        torch.from_numpy(ndimage.gaussian_filter1d(np.eye(size, dtype=np.float32), width / edge, axis=0))
        for size, edge in zip(image.shape, voxel_size, strict=True)
    )
    blurred = torch.tensordot(across_x, torch.from_numpy(image), dims=1)
    return (across_y @ blurred @ across_z.T).numpy()


def _thickest_part(
    foreground: np.ndarray, *, voxel_size: Sequence[float], radii: tuple[float, float, float]
) -> np.ndarray:
    """The brain among the parts of the foreground."""
    # Dark ventricles and veins would make the brain shallow; an enclosed skull is larger than they are.
    solid = _filled(foreground, largest=60e3 / np.prod(voxel_size))
    if solid.all():
        return solid
    centres, ball, bridge = _centres_of_balls(solid, voxel_size=voxel_size, radii=radii)
    brain = solid & _near(centres, ball + bridge, voxel_size)
    return _filled(_opened(brain, bridge, voxel_size))


def _centres_of_balls(
    solid: np.ndarray, *, voxel_size: Sequence[float], radii: tuple[float, float, float]
) -> tuple[np.ndarray, float, float]:
    """Where the balls lie that the brain is made of, their radius, and how far they are bridged, in mm."""
    depth = _squared_depth(solid, voxel_size)
    np.sqrt(depth, out=depth)
    core, ball, bridge = np.array(radii) * min(1, 0.45 * float(depth.max()) / max(radii))
    deep, thick = depth > core, depth > ball
    parts, _ = ndimage.label(deep)
    size = np.bincount(parts[deep], weights=depth[deep], minlength=1)
    del depth  # before the next distances, for memory
    # Hemispheres that a dark fissure parts are of like size; neck and face are smaller.
    centres = (size > size.max() / 2)[parts]
    # Where a blunt lobe narrows, it grows shallower by two for three that it grows longer.
    return thick & _near(centres, 1.5 * (core - ball), voxel_size), ball, bridge


def _filled(mask: np.ndarray, *, largest: float = np.inf) -> np.ndarray:
    """A mask with its holes of up to some voxels; what touches the edge of the image is none."""
    holes, number = ndimage.label(~mask)
    size = np.bincount(holes.ravel(), minlength=number + 1)
    inner = size <= largest
    for axis in range(3):
        inner[holes.take([0, -1], axis)] = False
    return mask | inner[holes]


def phase_coherence(phase: Tensor, *, magnitude: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Local agreement of the second differences of a phase.

    Q = Re Σ w exp(iΔ²φ) / Σ w over 3×3×3 voxels and the three axes, with
    Δ²φ = φ(r+1) − 2φ(r) + φ(r−1). Neither wraps nor a linear phase change it; Gaussian phase noise
    of standard deviation σ rad gives exp(−3σ²), and pure noise 0.

    Parameters
    ----------
    phase : Tensor
        (x, y, z), rad, wrapped or not.
    magnitude : Tensor, optional
        (x, y, z), weights w of the voxels; equal unless given.
    mask : Tensor, optional
        (x, y, z), bool; voxels outside take no part.

    Returns
    -------
    Tensor
        (x, y, z), −1 to 1; 0 where no three voxels in a row can be compared.

    References
    ----------
    Second differences as a measure of phase quality: Abdul-Rahman et al. 2007, 10.1364/AO.46.006623.

    Examples
    --------
    >>> ramp = torch.arange(8.0).reshape(8, 1, 1).expand(8, 8, 8)
    >>> round(float(phase_coherence(2.5 * ramp).min()), 3)
    1.0
    """
    weight = torch.ones_like(phase) if magnitude is None else magnitude
    valid = torch.ones_like(phase, dtype=torch.bool) if mask is None else mask
    agreement, total = torch.zeros_like(phase), torch.zeros_like(phase)
    for axis in range(3):
        inner = phase.shape[axis] - 2
        if inner < 1:
            continue
        before, here, after = (slice(start, start + inner) for start in range(3))
        at = [
            tuple(part if other == axis else slice(None) for other in range(3))
            for part in (before, here, after)
        ]
        cosine = (phase[at[0]] + phase[at[2]]).sub_(phase[at[1]], alpha=2).cos_()
        shared = weight[at[1]] * (valid[at[0]] & valid[at[1]] & valid[at[2]])
        agreement[at[1]] += cosine.mul_(shared)
        total[at[1]] += shared
    # Where no weight is, there is no agreement either: what that is divided by does not matter.
    total = _sum_of_neighbours(total).clamp_min_(torch.finfo(total.dtype).tiny)
    return _sum_of_neighbours(agreement).div_(total)


def _sum_of_neighbours(image: Tensor) -> Tensor:
    """Sum over 3×3×3 voxels; those beyond the edge of the image are zero."""
    for axis, size in enumerate(image.shape):
        along = image.clone()
        along.narrow(axis, 1, size - 1).add_(image.narrow(axis, 0, size - 1))
        along.narrow(axis, 0, size - 1).add_(image.narrow(axis, 1, size - 1))
        image = along
    return image


def phase_quality_mask(
    phase: Tensor,
    *,
    magnitude: Tensor | None = None,
    mask: Tensor | None = None,
    threshold: float = 0.5,
) -> Tensor:
    """Voxels whose phase is smooth enough to be unwrapped and inverted.

    Parameters
    ----------
    phase : Tensor
        (x, y, z), rad, wrapped or not; a frequency becomes one by 2π over its period.
    magnitude : Tensor, optional
        (x, y, z), weights of the voxels in :func:`phase_coherence`.
    mask : Tensor, optional
        (x, y, z), bool; the result lies within it.
    threshold : float
        Least :func:`phase_coherence`. The default stands for a phase noise of 0.48 rad.

    Returns
    -------
    Tensor
        (x, y, z), bool.

    Examples
    --------
    >>> noise = torch.zeros(8, 8, 8)
    >>> noise[4:] = torch.rand(4, 8, 8) * 6.28
    >>> good = phase_quality_mask(noise)
    >>> bool(good[:3].all()), bool(good[5:].any())
    (True, False)
    """
    if mask is None:
        return phase_coherence(phase, magnitude=magnitude) > threshold
    good = torch.zeros_like(mask, dtype=torch.bool)
    if not bool(mask.any()):
        return good
    across_x, *rest = bounding_box(mask)
    # Slabs stay in the processor's cache; the coherence of a voxel hangs on two more to each side.
    thickness = max(4, 2**18 // phase[0].numel())
    for start in range(across_x.start, across_x.stop, thickness):
        stop, first = min(start + thickness, across_x.stop), max(start - 2, 0)
        slab = (slice(first, stop + 2), *rest)
        inside = mask[slab].bool()
        weight = None if magnitude is None else magnitude[slab]
        coherence = phase_coherence(phase[slab], magnitude=weight, mask=inside)
        within = slice(start - first, stop - first)
        good[(slice(start, stop), *rest)] = (coherence[within] > threshold) & inside[within]
    return good


def combine_masks(
    *masks: Tensor, voxel_size: Sequence[float], opening_radius: float = 1.5, least_part: float = 0.1
) -> Mask:
    """Intersection of masks, made fit for a field solver: opened, in one piece, without holes.

    Parameters
    ----------
    *masks : Tensor
        (x, y, z), bool.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    opening_radius : float
        Radius in mm of the sphere that must fit into every part; 0 leaves the intersection as it is.
    least_part : float
        Least volume of a separate part relative to the largest one.

    Returns
    -------
    Mask
        The mask, its volume, and what it lost of the first one.

    Raises
    ------
    ValueError
        If there is no mask, the shapes differ, or nothing is left.

    Examples
    --------
    >>> ball = torch.zeros(9, 9, 9, dtype=torch.bool)
    >>> ball[2:7, 2:7, 2:7] = True
    >>> holed = ball.clone()
    >>> holed[4, 4, 4] = False
    >>> combined = combine_masks(ball, holed, voxel_size=(2, 2, 2))
    >>> bool(combined.mask[4, 4, 4]), combined.volume, combined.fraction_lost
    (True, 1.0, 0.0)
    """
    if not masks or len({mask.shape for mask in masks}) > 1:
        raise ValueError(f"masks of one shape are needed, got {[tuple(mask.shape) for mask in masks]}")
    joint = reduce(torch.logical_and, masks).bool().cpu().numpy()
    if not joint.any():
        sizes = ", ".join(str(int(mask.sum())) for mask in masks)
        raise ValueError(f"the masks have no voxel in common (they hold {sizes} voxels)")
    box = _roomy_box(joint)
    whole = _filled(joint[box])
    core = _deeper_than(whole, opening_radius, voxel_size)
    if not core.any():
        raise ValueError(
            f"nothing is left of the mask after an opening by {opening_radius:g} mm: "
            f"its {int(whole.sum())} voxels are nowhere thicker than that"
        )
    opened = whole & _near(core, opening_radius, voxel_size)
    parts, _ = ndimage.label(opened)
    size = np.bincount(parts.ravel())
    size[0] = 0
    kept = np.zeros_like(joint)
    kept[box] = (size >= max(1, least_part * size.max()))[parts]
    first = masks[0].bool()
    mask = torch.from_numpy(kept).to(first.device)
    return Mask(
        mask=mask,
        volume=int(torch.count_nonzero(mask)) * float(np.prod(voxel_size)) / 1000,
        fraction_lost=int(torch.count_nonzero(first & ~mask)) / int(torch.count_nonzero(first)),
    )


def erode(mask: Tensor, *, radius: float, voxel_size: Sequence[float]) -> Tensor:
    """Voxels of a mask farther than a radius from every voxel outside it.

    The edges of the field of view do not count as outside.

    Parameters
    ----------
    mask : Tensor
        (x, y, z), bool.
    radius : float
        Distance in mm between voxel centres; one voxel edge takes off one layer.
    voxel_size : sequence of float
        Voxel edge lengths in mm.

    Returns
    -------
    Tensor
        (x, y, z), bool; may be empty.

    Raises
    ------
    ValueError
        If the radius is negative.

    Examples
    --------
    >>> cube = torch.zeros(9, 9, 9, dtype=torch.bool)
    >>> cube[2:7, 2:7, 2:7] = True
    >>> int(erode(cube, radius=2, voxel_size=(2, 2, 2)).sum())
    27
    """
    if not radius >= 0:
        raise ValueError(f"the radius of an erosion must not be negative, got {radius} mm")
    inside = mask.bool().cpu().numpy()
    eroded = np.zeros_like(inside)
    if inside.any():
        box = _roomy_box(inside)
        eroded[box] = _deeper_than(inside[box], radius, voxel_size)
    return torch.from_numpy(eroded).to(mask.device)


def _roomy_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Bounding box with one more voxel to each side, where the image has one."""
    return tuple(
        slice(max(0, part.start - 1), part.stop + 1) for part in bounding_box(torch.from_numpy(mask))
    )


def _deeper_than(mask: np.ndarray, radius: float, voxel_size: Sequence[float]) -> np.ndarray:
    """Voxels farther than a radius from the nearest voxel outside; all of a mask without outside."""
    # A distance of exactly the radius must not hang on how its square is rounded.
    least = (radius * (1 + 1e-6)) ** 2
    return _squared_depth(mask, voxel_size, enough=1.001 * least + 1e-6) > least


def _squared_depth(mask: np.ndarray, voxel_size: Sequence[float], *, enough: float = np.inf) -> np.ndarray:
    """Squared distance to the nearest voxel outside, in mm²; nowhere more than is enough.

    One axis at a time, the lower envelope of the parabolas that start at the values so far
    (Felzenszwalb and Huttenlocher 2012, 10.4086/toc.2012.v008a019), here by as many shifts of the image
    as the depth asks for. Two axes are done slab by slab, which stay in the processor's cache.
    """
    steps = np.where(mask, np.int16(16384), np.int16(0))  # longer than any image
    for here, before in zip(steps[1:], steps[:-1], strict=True):
        np.minimum(here, before + 1, out=here)
    for here, behind in zip(steps[-2::-1], steps[:0:-1], strict=True):
        np.minimum(here, behind + 1, out=here)
    squared = steps.astype(np.float32)
    squared *= np.float32(voxel_size[0])
    np.minimum(np.square(squared, out=squared), np.float32(enough), out=squared)
    thickness = max(1, 2**15 // squared[0].size)
    for start in range(0, len(squared), thickness):
        for axis in (1, 2):
            _lower_to_envelope(squared[start : start + thickness], axis, voxel_size[axis])
    return squared


def _lower_to_envelope(values: np.ndarray, axis: int, edge: float) -> None:
    """Lower each value, in place, to the lowest of the parabolas that start at the others of its row."""
    start, risen = values.copy(), np.empty_like(values)
    lowered, parabola = values.swapaxes(0, axis), risen.swapaxes(0, axis)
    for shift in range(1, len(lowered)):
        rise = (shift * edge) ** 2
        if rise >= values.max():
            break
        np.add(start, np.float32(rise), out=risen)
        np.minimum(lowered[:-shift], parabola[shift:], out=lowered[:-shift])
        np.minimum(lowered[shift:], parabola[:-shift], out=lowered[shift:])


def _near(mask: np.ndarray, radius: float, voxel_size: Sequence[float]) -> np.ndarray:
    """Voxels no farther than a radius from a mask."""
    return ~_deeper_than(~mask, radius, voxel_size)


def _opened(mask: np.ndarray, radius: float, voxel_size: Sequence[float]) -> np.ndarray:
    """The parts of a mask in which a ball fits."""
    return mask & _near(_deeper_than(mask, radius, voxel_size), radius, voxel_size)
