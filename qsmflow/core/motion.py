"""Rigid motion during a scan: poses, moved images, and k-space lines that each see another pose.

A multi-echo gradient echo acquires one line of k-space after each excitation, all echoes of it within
one repetition time. A head that moves at random times leaves k-space put together from several images.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import permutations
from math import ceil, pi, prod

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from qsmflow.core.dipole import dipole_field
from qsmflow.core.fourier import good_size
from qsmflow.core.units import hertz_per_ppm

Triple = tuple[float, float, float]

#: Slopes and shifts in voxels that move nothing.
NEGLIGIBLE = 1e-12

#: Voxels over which the values at both ends of an image change into one another.
FADE = 4

#: Voxels that are moved at once: as much as stays in the cache and in the allocator's hands.
CHUNK = 2**21


@dataclass(frozen=True)
class RigidPose:
    """Where a rigid object is: a point p, in mm from the centre of the grid, has gone to R·p + t.

    R = Rz·Ry·Rx, each a right-handed rotation about an axis of the image. ``a @ b`` is the pose of an
    object that moved by ``b`` and then by ``a``.

    Parameters
    ----------
    translation : tuple of float
        t along the image axes, mm.
    rotation : tuple of float
        Degrees about the image axes x, y and z, applied in that order.

    Examples
    --------
    >>> pose = RigidPose(translation=(1, 2, 3), rotation=(0, 0, 90))
    >>> (pose.matrix @ [10, 0, 0, 1]).round(6).tolist()
    [1.0, 12.0, 3.0, 1.0]
    >>> bool(np.allclose((pose @ pose.inverse()).matrix, np.eye(4)))
    True
    """

    translation: Triple = (0.0, 0.0, 0.0)
    rotation: Triple = (0.0, 0.0, 0.0)

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> "RigidPose":
        """Pose of a (4, 4) rigid matrix."""
        angles = Rotation.from_matrix(matrix[:3, :3]).as_euler("xyz", degrees=True)
        return cls(tuple(map(float, matrix[:3, 3])), tuple(map(float, angles)))

    @property
    def matrix(self) -> np.ndarray:
        """(4, 4), float64, mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_euler("xyz", self.rotation, degrees=True).as_matrix()
        matrix[:3, 3] = self.translation
        return matrix

    def inverse(self) -> "RigidPose":
        """The pose that undoes this one."""
        return RigidPose.from_matrix(np.linalg.inv(self.matrix))

    def __matmul__(self, earlier: "RigidPose") -> "RigidPose":
        return RigidPose.from_matrix(self.matrix @ earlier.matrix)


def scanner_matrix(pose: RigidPose, *, shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """The motion of a pose in scanner coordinates.

    What is drawn as a function of the point in the scanner is drawn moved on a grid whose affine is
    ``inv(matrix) @ affine``.

    Parameters
    ----------
    pose : RigidPose
        About the centre of the grid, along its axes.
    shape : sequence of int
        Voxels of the grid.
    affine : array_like
        (4, 4), voxel to scanner coordinates in mm.

    Returns
    -------
    numpy.ndarray
        (4, 4), float64, scanner coordinates before to scanner coordinates after the motion, mm.

    Examples
    --------
    >>> affine = np.array([[0.0, 0, 3, 0], [2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
    >>> scanner_matrix(RigidPose(translation=(0, 0, 5)), shape=(9, 9, 9), affine=affine)[:3, 3].tolist()
    [5.0, 0.0, 0.0]
    """
    affine = np.asarray(affine, dtype=float)
    from_center = np.eye(4)
    from_center[:3, :3] = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    from_center[:3, 3] = affine[:3, :3] @ ((np.asarray(shape) - 1) / 2) + affine[:3, 3]
    return from_center @ pose.matrix @ np.linalg.inv(from_center)


@dataclass(frozen=True)
class MotionProfile:
    """Poses in which the object lies still, one after the other.

    Parameters
    ----------
    onsets : tuple of float
        When each pose is taken, as a share of the scan: 0 first, then increasing and below 1.
    poses : tuple of RigidPose
        One for each onset.

    Raises
    ------
    ValueError
        If onsets and poses do not fit together or are out of order.

    Examples
    --------
    >>> nod = MotionProfile(onsets=(0.0, 0.4), poses=(RigidPose(), RigidPose(rotation=(5, 0, 0))))
    >>> len(nod.poses)
    2
    """

    onsets: tuple[float, ...]
    poses: tuple[RigidPose, ...]

    def __post_init__(self):
        if len(self.onsets) != len(self.poses) or not self.onsets:
            raise ValueError(f"{len(self.onsets)} onsets do not go with {len(self.poses)} poses")
        increasing = all(a < b for a, b in zip(self.onsets, (*self.onsets[1:], 1.0), strict=True))
        if self.onsets[0] != 0 or not increasing:
            raise ValueError(f"onsets must start at 0, increase and stay below 1, got {self.onsets}")


def draw_motion(
    generator: torch.Generator,
    *,
    events: tuple[int, int] = (2, 3),
    translation: float = 5.0,
    rotation: float = 5.0,
    reference: str = "centre",
    centre_time: float = 0.5,
) -> MotionProfile:
    """Sudden motion at random times: at each event the object takes a new pose.

    The object first lies at the identity. Number of events, onsets and the six parameters of each new pose
    are uniform in their ranges.

    Parameters
    ----------
    generator : torch.Generator
        On the CPU; decides everything.
    events : tuple of int
        Fewest and most events.
    translation, rotation : float
        Largest size of each translation in mm and of each angle in degrees.
    reference : {"centre", "start"}
        What counts as unmoved: the pose in which the centre of k-space is acquired, so that the corrupted
        image lies on the still one, or the pose at the start. With "centre" the parameters of other poses
        reach twice the limits, as those of any two drawn poses do relative to each other.
    centre_time : float
        When the centre of k-space is acquired, as a share of the scan; see :func:`acquisition_times`.

    Returns
    -------
    MotionProfile

    Raises
    ------
    KeyError
        If there is no such reference.

    Examples
    --------
    >>> profile = draw_motion(torch.Generator().manual_seed(1), reference="start")
    >>> profile.poses[0] == RigidPose(), 3 <= len(profile.poses) <= 4
    (True, True)
    """
    n_events = int(torch.randint(events[0], events[1] + 1, (), generator=generator))
    onsets = torch.rand(n_events, generator=generator, dtype=torch.float64).sort().values.tolist()
    limits = torch.tensor([translation] * 3 + [rotation] * 3, dtype=torch.float64)
    drawn = (2 * torch.rand(n_events, 6, generator=generator, dtype=torch.float64) - 1) * limits
    poses = [RigidPose(), *(RigidPose(tuple(row[:3]), tuple(row[3:])) for row in drawn.tolist())]
    in_centre = sum(onset <= centre_time for onset in onsets)
    unmoved = {"centre": poses[in_centre], "start": poses[0]}[reference]
    relative = tuple(RigidPose() if pose is unmoved else pose @ unmoved.inverse() for pose in poses)
    return MotionProfile(onsets=(0.0, *onsets), poses=relative)


#: Orders in which the lines along one phase-encoding axis are acquired: the line with the smallest key first.
#: A key is made of the line numbers, 0 in the centre of k-space.
ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "sequential": lambda line: line,
    "centric": lambda line: 2 * line.abs() + (line > 0),
    "interleaved": lambda line: line + (line % 2) * 2 * len(line),
}


def acquisition_times(
    shape: Sequence[int], *, readout_axis: int = 0, order: str = "sequential", device=None
) -> Tensor:
    """When each line of Cartesian k-space is acquired.

    A line along the readout is read at once. Of the two phase-encoding axes the first one is the inner
    loop, the second one the outer loop.

    Parameters
    ----------
    shape : sequence of int
        Voxels.
    readout_axis : int
        Axis that is read out.
    order : str
        A key of :data:`ORDERS`, for both loops.
    device : torch.device, optional
        Of the result.

    Returns
    -------
    Tensor
        Broadcastable over (x, y, z) with size 1 along the readout, laid out as by ``torch.fft.fftn``;
        share of the scan in [0, 1), float64. Its first element is the time of the centre of k-space.

    Raises
    ------
    KeyError
        If there is no such order.

    Examples
    --------
    >>> acquisition_times((8, 2, 4)).squeeze(0)
    tensor([[0.6250, 0.8750, 0.1250, 0.3750],
            [0.5000, 0.7500, 0.0000, 0.2500]], dtype=torch.float64)
    """
    key = ORDERS[order]
    inner_axis, outer_axis = (axis for axis in range(3) if axis != readout_axis % 3)
    inner, outer = (_ranks(shape[axis], key) for axis in (inner_axis, outer_axis))
    times = (outer * len(inner) + inner[:, None]).to(torch.float64) / (len(inner) * len(outer))
    return times.unsqueeze(readout_axis % 3).to(device)


def _ranks(n_lines: int, key: Callable[[Tensor], Tensor]) -> Tensor:
    """Place in time of each line, (n_lines,), in the layout of the transform."""
    lines = torch.fft.fftfreq(n_lines, d=1 / n_lines, dtype=torch.float64).round().long()
    return key(lines).argsort().argsort()


@dataclass(frozen=True)
class _Shear:
    """A displacement along one axis that grows linearly along the two others.

    The sheared image at u is the image at u + (slopes · (u, 1)) along the axis, in voxels from the centre.
    """

    axis: int
    slopes: np.ndarray

    @property
    def matrix(self) -> np.ndarray:
        matrix = np.eye(4)
        matrix[self.axis] += self.slopes
        return matrix


def move_image(
    image: Tensor, pose: RigidPose, *, voxel_size: Sequence[float], periodic: bool = False
) -> Tensor:
    """Image of an object that has moved, resampled without blur.

    Every rigid motion is a product of at most four shears, each along one axis; a translation is up to three
    shifts. A shear is a phase ramp on the transform along its axis, so the image keeps its spectrum:
    moving back gives the image again. Meant for heads: angles up to some 45 degrees.

    Beyond its ends the image goes on with the values it has there, so that a slab that cuts the head makes
    neither a step, which would ring, nor a second head coming in from the other side.

    Parameters
    ----------
    image : Tensor
        (..., x, y, z), real or complex.
    pose : RigidPose
        The motion, about the centre of the grid.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    periodic : bool
        The image repeats itself beyond its ends instead: what leaves on one side enters on the other.

    Returns
    -------
    Tensor
        As the image; the image itself where the pose is the identity. Differentiable in the image.

    Raises
    ------
    ValueError
        If shears cannot make the rotation, as at 180 degrees.

    References
    ----------
    Unser, Thévenaz and Yaroslavsky 1995, 10.1109/83.465102; Larkin, Oldfield and Klemm 1997,
    10.1016/S0030-4018(97)00097-7; four shears in 3-D: Welling, Eddy and Young 2006, Graphical Models 68, 356.

    Examples
    --------
    >>> image = torch.zeros(8, 8, 8)
    >>> image[4, 4, 4] = 1
    >>> moved = move_image(image, RigidPose(translation=(2, 0, 0)), voxel_size=(1, 1, 2))
    >>> round(float(moved[6, 4, 4]), 4)
    1.0
    """
    shape = image.shape[-3:]
    shears = _shears(pose, shape=shape, voxel_size=voxel_size)
    if not shears:
        return image
    margins = (0, 0, 0) if periodic else _margins(shears, shape=shape)
    grid = _Grid(tuple(shape), tuple(_length(*sizes) for sizes in zip(shape, margins, strict=True)))
    ramps = [_ramp(shear, grid, like=image) for shear in shears]
    moved = []
    for part in image.reshape(-1, *shape).split(max(1, CHUNK // prod(grid.extended))):
        part = _extended(part, grid, margins=margins)
        for shear, ramp in zip(shears, ramps, strict=True):
            part = _sheared(part, ramp, axis=shear.axis + 1)
        moved.append(part[(slice(None), *grid.box)])
    return torch.cat(moved).reshape(image.shape)


def _shears(pose: RigidPose, *, shape: Sequence[int], voxel_size: Sequence[float]) -> list[_Shear]:
    """Shears that move an image to a pose, in the order in which they are done.

    Of the orders of axes i, j, k, i the one is taken that displaces the corners of the grid least. For the
    inverse pose that is the same order backwards, so that moving back undoes each shear.
    """
    scale = np.diag([*voxel_size, 1.0])
    # An image is moved by looking up, at each voxel, where its content came from.
    origin = np.linalg.solve(scale, np.linalg.solve(pose.matrix, scale))
    reach = (np.asarray(shape) - 1) / 2
    found = [shears for order in permutations(range(3)) if (shears := _factored(origin, *order)) is not None]
    if not found:
        raise ValueError(f"no product of shears makes the rotation by {pose.rotation} degrees")
    best = min(found, key=lambda shears: max(float(np.abs(shear.slopes[:3]) @ reach) for shear in shears))
    return [shear for shear in best if shear.slopes.any()]


def _factored(origin: np.ndarray, i: int, j: int, k: int) -> list[_Shear] | None:
    """The matrix as a product of shears along i, j, k and i again; none where that order cannot make it.

    With S(v) = 1 + e·vᵀ and A the matrix, row i of S_i(a)⁻¹·A = S_j(b)·S_k(c)·S_i(d) and the element (k, k)
    of A·S_i(d)⁻¹, which must be one, give a and d; what is then left of A gives b and c.
    """
    a, d = np.zeros((2, 4))
    if abs(origin[k, i]) > NEGLIGIBLE:
        d[k] = (origin[k, k] - 1) / origin[k, i]
    system = np.array([[origin[j, i], origin[k, i]], [origin[j, k], origin[k, k]]])
    a[[j, k]] = np.linalg.lstsq(system, [origin[i, i] - 1, origin[i, k] - d[k]], rcond=NEGLIGIBLE)[0]
    d[j] = origin[i, j] - a[j] * origin[j, j] - a[k] * origin[k, j]
    shift = origin[i, 3] - a[j] * origin[j, 3] - a[k] * origin[k, 3]
    # Half of it in each shear along i, so that the inverse pose has them negative; a mere shift is done once.
    d[3] = shift / 2 if np.abs(d).max() > NEGLIGIBLE else 0
    a[3] = shift - d[3]
    middle = np.linalg.solve(_Shear(i, a).matrix, origin) @ np.linalg.inv(_Shear(i, d).matrix)
    c = middle[k] - np.eye(4)[k]
    b = middle[j] - np.eye(4)[j] - middle[j, k] * c
    # Rounding leaves a trace on the diagonal, where a shear has none.
    b[j] = c[k] = 0
    shears = [
        _Shear(axis, np.where(np.abs(v) > NEGLIGIBLE, v, 0))
        for axis, v in zip((i, j, k, i), (a, b, c, d), strict=True)
    ]
    product = reduce(np.matmul, (shear.matrix for shear in shears))
    return shears if np.allclose(product, origin, rtol=0, atol=1e-9) else None


def _margins(shears: Sequence[_Shear], *, shape: Sequence[int]) -> tuple[int, ...]:
    """Voxels to add at each end of each axis, to hold what one shear pushes out and the next pulls in."""
    half = (np.asarray(shape) - 1) / 2
    corners = np.stack(np.meshgrid(*((-h, h) for h in half), [1.0]), axis=-1).reshape(-1, 4).T
    forth, back, reach = corners, corners, half
    for shear, reverse in zip(shears, reversed(shears), strict=True):
        forth, back = np.linalg.solve(shear.matrix, forth), reverse.matrix @ back
        reach = np.maximum(reach, np.maximum(abs(forth), abs(back)).max(axis=1)[:3])
    return tuple(ceil(margin - 1e-6) for margin in reach - half)


@dataclass(frozen=True)
class _Grid:
    """An image in the middle of a longer one."""

    shape: tuple[int, ...]
    extended: tuple[int, ...]

    @property
    def before(self) -> tuple[int, ...]:
        return tuple((long - short) // 2 for long, short in zip(self.extended, self.shape, strict=True))

    @property
    def box(self) -> tuple[slice, ...]:
        return tuple(slice(b, b + size) for b, size in zip(self.before, self.shape, strict=True))

    def along(self, values: Tensor, axis: int) -> Tensor:
        """Values along one axis, broadcastable over (x, y, z)."""
        return values.reshape([-1 if other == axis else 1 for other in range(3)])

    def places(self, axis: int, *, device: torch.device) -> Tensor:
        """Voxels from the centre of the image."""
        places = torch.arange(self.extended[axis], dtype=torch.float64, device=device)
        return self.along(places - (self.before[axis] + (self.shape[axis] - 1) / 2), axis)


def _length(size: int, margin: int) -> int:
    """Voxels of an axis with its margins and, between them, room for one end to change into the other."""
    return good_size((size,), padding=(2 * margin + FADE,))[0] if margin else size


def _extended(image: Tensor, grid: _Grid, *, margins: Sequence[int]) -> Tensor:
    """The image made longer, its ends kept over the margins and joined smoothly beyond, (n, x, y, z)."""
    for axis, (size, margin) in enumerate(zip(grid.shape, margins, strict=True)):
        added = grid.extended[axis] - size
        if not added:
            continue
        steps = torch.arange(1, added + 1, dtype=torch.float64, device=image.device)
        share = ((steps - margin) / (added + 1 - 2 * margin)).clamp(0, 1)
        weight = grid.along(((1 - torch.cos(pi * share)) / 2).to(image.real.dtype), axis)
        dim, before = axis + 1, grid.before[axis]
        first, last = image.narrow(dim, 0, 1), image.narrow(dim, size - 1, 1)
        between = last + (first - last) * weight
        # The transform joins the two ends of the grid: what lies between is shared out to both.
        parts = [between.narrow(dim, added - before, before), image, between.narrow(dim, 0, added - before)]
        image = torch.cat(parts, dim=dim)
    return image


def _ramp(shear: _Shear, grid: _Grid, *, like: Tensor) -> Tensor:
    """What a shear multiplies the transform along its axis by, (x, y, z), one-sided for real images."""
    axis, size, device = shear.axis, grid.extended[shear.axis], like.device
    make = torch.fft.fftfreq if like.is_complex() else torch.fft.rfftfreq
    angular = grid.along(2 * pi * make(size, dtype=torch.float64, device=device), axis)
    angles = [angular * float(shear.slopes[3])]
    angles += [
        angular * grid.places(other, device=device) * float(shear.slopes[other])
        for other in range(3)
        if shear.slopes[other]
    ]
    # One small table an axis; their product is the ramp.
    dtype = like.dtype if like.is_complex() else like.dtype.to_complex()
    ramp = reduce(torch.mul, (torch.polar(torch.ones_like(angle), angle).to(dtype) for angle in angles))
    if size % 2 == 0:
        # The highest frequency stands for both signs at once: the mean of both keeps real images real.
        torch.view_as_real(ramp).narrow(axis, size // 2, 1)[..., 1] = 0
    return ramp


def _sheared(image: Tensor, ramp: Tensor, *, axis: int) -> Tensor:
    """The image displaced along one axis by its ramp."""
    if image.is_complex():
        return torch.fft.ifft(torch.fft.fft(image, dim=axis).mul_(ramp), dim=axis)
    return torch.fft.irfft(torch.fft.rfft(image, dim=axis).mul_(ramp), n=image.shape[axis], dim=axis)


def mix_states(states: Iterable[Tensor], *, profile: MotionProfile, times: Tensor) -> Tensor:
    """Image whose k-space lines each come from the state in which they are acquired.

    image = s₀ + F⁻¹ Σₙ Mₙ F (sₙ − s₀), where Mₙ selects the lines acquired while state n lasts. The readout
    needs no transform.

    Parameters
    ----------
    states : iterable of Tensor
        (..., x, y, z), complex or real, one for each pose of the profile; taken one at a time.
    profile : MotionProfile
        Its onsets say when each state begins.
    times : Tensor
        As made by :func:`acquisition_times`.

    Returns
    -------
    Tensor
        (..., x, y, z), complex; the state itself if there is but one.

    Raises
    ------
    ValueError
        If there are not as many states as poses.

    Examples
    --------
    >>> profile = MotionProfile((0.0, 0.5), (RigidPose(), RigidPose()))
    >>> mixed = mix_states([torch.ones(4, 4, 4), 3 * torch.ones(4, 4, 4)], profile=profile,
    ...                    times=acquisition_times((4, 4, 4)))
    >>> round(float(mixed.real.mean()), 4)
    3.0
    """
    axes = tuple(axis for axis in (-3, -2, -1) if times.shape[axis] > 1)
    first, spectrum = None, None
    ends = (*profile.onsets[1:], 1.0)
    for state, start, end in zip(states, profile.onsets, ends, strict=True):
        if first is None:
            first = state
            continue
        acquired = (times >= start) & (times < end)
        change = torch.fft.fftn(state - first, dim=axes) * acquired
        spectrum = change if spectrum is None else spectrum + change
    return first if spectrum is None else first + torch.fft.ifftn(spectrum, dim=axes)


def move_echoes(
    echoes: Tensor,
    *,
    profile: MotionProfile,
    voxel_size: Sequence[float],
    times: Tensor,
    periodic: bool = False,
) -> Tensor:
    """Echoes of an object that moves during the scan, its field moving along with it.

    Each pose moves the complex images of all echoes; each line of k-space is then taken from the pose in
    which it is acquired (motion paper, Eq. 5). That the field of a turned object is the turned field holds
    for translations and for rotations about B0 only; :func:`move_sources` does without it.

    Parameters
    ----------
    echoes : Tensor
        (..., x, y, z), complex.
    profile : MotionProfile
        Poses and when they are taken.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    times : Tensor
        As made by :func:`acquisition_times`.
    periodic : bool
        As in :func:`move_image`.

    Returns
    -------
    Tensor
        As the echoes.

    Examples
    --------
    >>> echoes = torch.ones(2, 8, 8, 8, dtype=torch.complex64)
    >>> profile = draw_motion(torch.Generator().manual_seed(0))
    >>> moved = move_echoes(echoes, profile=profile, voxel_size=(2, 2, 2), times=acquisition_times((8, 8, 8)))
    >>> bool(torch.allclose(moved, echoes, atol=1e-5))
    True
    """
    states = (move_image(echoes, pose, voxel_size=voxel_size, periodic=periodic) for pose in profile.poses)
    return mix_states(states, profile=profile, times=times)


def gradient_echoes(
    magnitude: Tensor, *, r2star: Tensor, field: Tensor, echo_times: Sequence[float], field_strength: float
) -> Tensor:
    """Signal of the maps, S(TE) = m·exp(−TE·R2*)·exp(2πi·γ̄·B0·f·TE).

    Parameters
    ----------
    magnitude : Tensor
        m, (x, y, z), real, or complex where the coil adds a phase.
    r2star : Tensor
        (x, y, z), 1/s.
    field : Tensor
        f, (x, y, z), ppm of B0.
    echo_times : sequence of float
        s.
    field_strength : float
        B0 in T.

    Returns
    -------
    Tensor
        (echo, x, y, z), complex.

    Examples
    --------
    >>> one = torch.ones(1, 1, 1)
    >>> echoes = gradient_echoes(one, r2star=20 * one, field=0 * one, echo_times=(0.05,), field_strength=3)
    >>> round(float(echoes.abs()), 4)
    0.3679
    """
    times = torch.as_tensor(echo_times, dtype=field.dtype, device=field.device).reshape(-1, 1, 1, 1)
    return magnitude * torch.exp(
        times * torch.complex(-r2star, 2 * pi * hertz_per_ppm(field_strength) * field)
    )


def move_sources(
    magnitude: Tensor,
    *,
    susceptibility: Tensor,
    r2star: Tensor,
    profile: MotionProfile,
    times: Tensor,
    echo_times: Sequence[float],
    field_strength: float,
    voxel_size: Sequence[float],
    b0_direction: Sequence[float],
    periodic: bool = False,
) -> Tensor:
    """Echoes of an object that moves during the scan, its field made anew at each pose.

    Each pose moves the maps of the tissue; the dipole convolution and the signal follow from the moved maps;
    each line of k-space is then taken from the pose in which it is acquired (motion paper, Eq. 4).

    Parameters
    ----------
    magnitude : Tensor
        (x, y, z), signal at TE = 0.
    susceptibility : Tensor
        (x, y, z), ppm.
    r2star : Tensor
        (x, y, z), 1/s.
    profile : MotionProfile
        Poses and when they are taken.
    times : Tensor
        As made by :func:`acquisition_times`.
    echo_times : sequence of float
        s.
    field_strength : float
        B0 in T.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes; it stays where it is.
    periodic : bool
        The object repeats itself beyond the ends of the grid.

    Returns
    -------
    Tensor
        (echo, x, y, z), complex.

    Examples
    --------
    >>> maps = torch.zeros(3, 8, 8, 8)
    >>> profile = draw_motion(torch.Generator().manual_seed(0))
    >>> move_sources(maps[0], susceptibility=maps[1], r2star=maps[2], profile=profile,
    ...              times=acquisition_times((8, 8, 8)), echo_times=(0.01, 0.02), field_strength=3,
    ...              voxel_size=(1, 1, 1), b0_direction=(0, 0, 1)).shape
    torch.Size([2, 8, 8, 8])
    """
    maps = torch.stack([magnitude, r2star, susceptibility])
    padding = (0, 0, 0) if periodic else None

    def echoes(pose: RigidPose) -> Tensor:
        moved = move_image(maps, pose, voxel_size=voxel_size, periodic=periodic)
        field = dipole_field(moved[2], voxel_size=voxel_size, b0_direction=b0_direction, padding=padding)
        return gradient_echoes(
            moved[0], r2star=moved[1], field=field, echo_times=echo_times, field_strength=field_strength
        )

    return mix_states(map(echoes, profile.poses), profile=profile, times=times)
