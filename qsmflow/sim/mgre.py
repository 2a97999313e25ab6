"""What a multi-echo gradient-echo scan of a digital head measures."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qsmflow.core.dipole import b0_direction, dipole_field
from qsmflow.core.units import hertz_per_ppm
from qsmflow.sim.grids import (
    block_mean,
    box_indices,
    enlarged,
    oblique_affine,
    refined,
    smeared,
    spline_refined,
    voxel_centers,
    voxel_edges,
)
from qsmflow.sim.head import HEAD_BOX, Head, build_head
from qsmflow.sim.tissues import TISSUES


@dataclass(frozen=True)
class MgreProtocol:
    """How a head is scanned.

    Parameters
    ----------
    shape : tuple of int
        Voxels.
    affine : numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm; B0 lies along the scanner's z.
    echo_times : tuple of float
        s.
    field_strength : float
        T. The relaxation times of the tissues are those of 3 T.
    repetition_time : float
        s.
    flip_angle : float
        Degrees.
    snr : float
        Mean magnitude of the first echo in the brain over the noise's standard deviation in the real
        and in the imaginary part.
    supersampling : int
        The signal is made on voxels this many times smaller along each axis, then averaged.

    Examples
    --------
    >>> protocol = MgreProtocol(shape=(8, 8, 8), affine=np.eye(4), echo_times=(0.004, 0.009))
    >>> protocol.field_strength
    3.0
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    echo_times: tuple[float, ...]
    field_strength: float = 3.0
    repetition_time: float = 0.040
    flip_angle: float = 15.0
    snr: float = 80.0
    supersampling: int = 2


#: The acquisition of ``bids_examples/simple_head``: 2 mm voxels, a slab oblique about two axes.
SIMPLE_HEAD = MgreProtocol(
    shape=(80, 92, 74),
    affine=oblique_affine((80, 92, 74), voxel_size=(2, 2, 2), rotation=(-15, 12, 0), center=(0, -18, 2)),
    echo_times=(0.004, 0.009, 0.014, 0.019, 0.024),
)


@dataclass(frozen=True)
class MgreScan:
    """A simulated scan and the truth behind it, all maps (x, y, z) on the grid of the scan.

    Parameters
    ----------
    signal : Tensor
        (echo, x, y, z), complex, with noise.
    noise : float
        Standard deviation of the noise in the real and in the imaginary part.
    susceptibility : Tensor
        ppm relative to water.
    total_field : Tensor
        Hz, after shimming.
    local_field : Tensor
        Hz, of the susceptibility in the mask less its mean there.
    r2star : Tensor
        1/s, weighted by the signal within a voxel.
    magnitude : Tensor
        Of the signal at TE = 0, arbitrary units.
    phase_offset : Tensor
        rad, phase at TE = 0.
    mask : Tensor
        bool, voxels more than half inside the brain.
    """

    signal: Tensor
    noise: float
    susceptibility: Tensor
    total_field: Tensor
    local_field: Tensor
    r2star: Tensor
    magnitude: Tensor
    phase_offset: Tensor
    mask: Tensor


def simulate_mgre(protocol: MgreProtocol, *, seed: int = 0, device=None) -> MgreScan:
    """Scan a digital head, S(TE) = m·exp(−TE·R2*)·exp(i·(φ0 + 2π·f·TE)) with f > 0 where the field is raised.

    Signal and field are made on finer voxels and the complex signal is averaged, which also dephases it
    where the field is steep; within a fine voxel the field is taken as linear.

    Parameters
    ----------
    protocol : MgreProtocol
        How the head is scanned.
    seed : int
        Of the subject and of the noise.
    device : torch.device, optional
        Where it is computed.

    Returns
    -------
    MgreScan

    Examples
    --------
    >>> affine = oblique_affine((12, 12, 12), voxel_size=(16, 16, 16), center=(0, -18, 5))
    >>> scan = simulate_mgre(MgreProtocol(shape=(12, 12, 12), affine=affine, echo_times=(0.004,)))
    >>> scan.signal.shape
    torch.Size([1, 12, 12, 12])
    """
    factor = protocol.supersampling
    near = _NearGrid.around(protocol)
    head = build_head(shape=near.fine_shape, affine=near.fine_affine, seed=seed, device=device)
    field = near.crop(_head_field(head, near, seed=seed))
    susceptibility, r2star, brain = (near.crop(m) for m in (head.susceptibility, head.r2star, head.brain))
    mask = block_mean(brain, factor=factor) > 0.5

    scale = hertz_per_ppm(protocol.field_strength)
    centers = voxel_centers(*refined(protocol.shape, protocol.affine, factor=factor), device=device)
    fine_mask = mask.repeat_interleave(factor, 0).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    frequency = scale * (field - shim_field(field, centers=centers, mask=fine_mask))
    inner = torch.where(fine_mask, susceptibility - susceptibility[fine_mask].mean(), 0.0)
    local = scale * _field_of(inner, near.fine_affine)
    bias, offset = receive_bias(centers), coil_phase(centers)
    magnitude = bias * steady_state(near.crop(head.proton_density), near.crop(head.t1), protocol)
    signal = _averaged_echoes(magnitude, r2star, offset, frequency, protocol)
    noise = float(signal[0][mask].abs().mean()) / protocol.snr
    generator = torch.Generator().manual_seed(seed)
    # randn of a complex dtype has variance 1/2 in each part.
    white = torch.randn(signal.shape, generator=generator, dtype=torch.complex64).to(signal.device)
    mean_magnitude = block_mean(magnitude, factor=factor)
    return MgreScan(
        signal=signal + noise * 2**0.5 * white,
        noise=noise,
        susceptibility=block_mean(susceptibility, factor=factor),
        total_field=block_mean(frequency, factor=factor),
        local_field=block_mean(local, factor=factor),
        r2star=block_mean(r2star * magnitude, factor=factor) / mean_magnitude.clamp(min=1e-6),
        magnitude=mean_magnitude,
        phase_offset=block_mean(offset, factor=factor),
        mask=mask,
    )


def _averaged_echoes(
    magnitude: Tensor, r2star: Tensor, offset: Tensor, frequency: Tensor, protocol: MgreProtocol
) -> Tensor:
    """Complex signal (echo, x, y, z) of fine maps, averaged over the scan's voxels.

    A field linear across a voxel scales its signal by sinc(ΔF·TE) along each axis, with ΔF the
    difference in Hz from face to face.
    """
    steps = torch.gradient(frequency)
    echoes = []
    for echo_time in protocol.echo_times:
        dephasing = torch.stack([torch.sinc(step * echo_time) for step in steps]).prod(dim=0)
        amplitude = magnitude * dephasing * torch.exp(-echo_time * r2star)
        fine = torch.polar(amplitude, offset + 2 * np.pi * echo_time * frequency)
        echoes.append(block_mean(fine, factor=protocol.supersampling))
    return torch.stack(echoes)


@dataclass(frozen=True)
class _NearGrid:
    """The scan's grid with a rim, on which the field is made with fine voxels.

    Sources beyond the rim are met on voxels twice as large as the scan's: the rim keeps them away.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    rim: int
    factor: int
    scan_shape: tuple[int, ...]

    @classmethod
    def around(cls, protocol: MgreProtocol, *, width: float = 16.0) -> "_NearGrid":
        """Add a rim of this width in mm, and fill up to even sizes."""
        rim = 2 * int(np.ceil(width / min(voxel_edges(protocol.affine)) / 2))
        after = [rim + size % 2 for size in protocol.shape]
        shape, affine = enlarged(protocol.shape, protocol.affine, before=[rim] * 3, after=after)
        return cls(shape, affine, rim, protocol.supersampling, protocol.shape)

    @property
    def fine_shape(self) -> tuple[int, ...]:
        return refined(self.shape, self.affine, factor=self.factor)[0]

    @property
    def fine_affine(self) -> np.ndarray:
        return refined(self.shape, self.affine, factor=self.factor)[1]

    def crop(self, image: Tensor) -> Tensor:
        """The scan's field of view of a fine map."""
        return image[
            tuple(slice(self.rim * self.factor, (self.rim + size) * self.factor) for size in self.scan_shape)
        ]


def _head_field(head: Head, near: _NearGrid, *, seed: int) -> Tensor:
    """Field in ppm of all tissue in the head and neck, on the fine near grid.

    Susceptibility is taken relative to the air around, so that it ends where the head ends.
    """
    air = TISSUES["air"].susceptibility
    field = _field_of(head.susceptibility - air, near.fine_affine)
    first, stop = box_indices(near.shape, near.affine, *HEAD_BOX)
    # Whole coarse voxels on either side, so that coarse and near voxels share their faces.
    before = [2 * int(np.ceil(max(-a, 0) / 2)) for a in first]
    after = [2 * int(np.ceil(max(b - size, 0) / 2)) for b, size in zip(stop, near.shape, strict=True)]
    shape, affine = refined(*enlarged(near.shape, near.affine, before=before, after=after), factor=0.5)
    far = build_head(shape=shape, affine=affine, seed=seed, device=field.device).susceptibility - air
    block = tuple(slice(b // 2, (b + size) // 2) for b, size in zip(before, near.shape, strict=True))
    far[block] = 0
    # Seen from outside, a source spread round its place makes the same field, without the ringing that
    # sharp edges have on a coarse grid.
    far_field = _field_of(smeared(far), affine)[block]
    return field + spline_refined(far_field, factor=2 * near.factor)


def _field_of(susceptibility: Tensor, affine: np.ndarray) -> Tensor:
    """Dipole field, padded to twice the grid so that nothing wraps round."""
    return dipole_field(
        susceptibility,
        voxel_size=voxel_edges(affine),
        b0_direction=b0_direction(affine),
        padding=susceptibility.shape,
    )


def shim_field(field: Tensor, *, centers: Tensor, mask: Tensor) -> Tensor:
    """Field of the shim coils to second order that best fits a field in a mask.

    Parameters
    ----------
    field : Tensor
        (x, y, z), any unit.
    centers : Tensor
        (3, x, y, z), scanner coordinates in mm.
    mask : Tensor
        (x, y, z), bool.

    Returns
    -------
    Tensor
        (x, y, z), sum of the solid harmonics of order 0 to 2; unit of the field.

    Examples
    --------
    >>> centers = voxel_centers((4, 4, 4), np.eye(4))
    >>> mask = torch.ones(4, 4, 4, dtype=torch.bool)
    >>> shim = shim_field(centers[0] * centers[2], centers=centers, mask=mask)
    >>> bool((shim - centers[0] * centers[2]).abs().max() < 1e-3)
    True
    """
    x, y, z = centers / 100
    terms = (torch.ones_like(x), x, y, z, x * y, y * z, x * z, x**2 - y**2, 2 * z**2 - x**2 - y**2)
    design = torch.stack([term[mask] for term in terms], dim=1).double()
    normal, right = design.T @ design, design.T @ field[mask].double()
    weights = torch.linalg.solve(normal, right).to(field.dtype)
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


def steady_state(proton_density: Tensor, t1: Tensor, protocol: MgreProtocol) -> Tensor:
    """Magnetisation of a spoiled gradient echo, ρ·sin α·(1 − E1)/(1 − E1·cos α) with E1 = exp(−TR/T1).

    Parameters
    ----------
    proton_density, t1 : Tensor
        (x, y, z); relative, and s.
    protocol : MgreProtocol
        Gives TR and the flip angle.

    Returns
    -------
    Tensor
        (x, y, z), units of the proton density.

    Examples
    --------
    >>> protocol = MgreProtocol(shape=(1, 1, 1), affine=np.eye(4), echo_times=(0.004,), flip_angle=90)
    >>> float(steady_state(torch.tensor(1.0), torch.tensor(1e-6), protocol))
    1.0
    """
    alpha = np.deg2rad(protocol.flip_angle)
    recovery = torch.exp(-protocol.repetition_time / t1)
    return proton_density * float(np.sin(alpha)) * (1 - recovery) / (1 - float(np.cos(alpha)) * recovery)


def receive_bias(centers: Tensor) -> Tensor:
    """Smooth sensitivity of a head coil: higher at its rim, and a little higher on one side.

    Examples
    --------
    >>> float(receive_bias(torch.zeros(3, 1)))
    1.0
    """
    x, y, z = centers / 100
    return 1 + 0.35 * (x**2 + y**2 + 0.5 * z**2) + 0.10 * x - 0.12 * y


def coil_phase(centers: Tensor) -> Tensor:
    """Phase of transmit and receive coils at TE = 0, rad: smooth, a few radians over the head.

    Examples
    --------
    >>> round(float(coil_phase(torch.zeros(3, 1))), 1)
    0.6
    """
    x, y, z = centers / 100
    return 0.6 + 0.8 * x - 1.1 * y + 0.5 * z + 0.9 * x * y - 0.7 * z**2


@dataclass(frozen=True)
class PhaseScaling:
    """How a scanner stores phase: −π and π lie at two stored values.

    Parameters
    ----------
    lower, upper : float
        Stored values of −π and π.
    units : str
        What BIDS calls them: ``rad`` or ``arbitrary``.
    dtype : type
        Of the stored numbers.

    Examples
    --------
    >>> scaling = PHASE_SCALINGS["unsigned"]
    >>> scaling.encode(np.array([-np.pi, 0.0, 3.1415])).tolist()
    [0, 2048, 0]
    """

    lower: float
    upper: float
    units: str
    dtype: type

    def encode(self, phase: np.ndarray) -> np.ndarray:
        """Stored values of a wrapped phase in rad."""
        stored = self.lower + (phase + np.pi) / (2 * np.pi) * (self.upper - self.lower)
        if np.issubdtype(self.dtype, np.integer):
            stored = np.rint(stored)
            # π is −π: the last step is not stored.
            stored = np.where(stored >= self.upper, self.lower, stored)
        return stored.astype(self.dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Phase in rad of stored values."""
        return (stored.astype(np.float64) - self.lower) / (self.upper - self.lower) * 2 * np.pi - np.pi


#: Phase in radians, as 0..4095 and as -4096..4095.
PHASE_SCALINGS = {
    "radian": PhaseScaling(-np.pi, np.pi, "rad", np.float32),
    "unsigned": PhaseScaling(0, 4096, "arbitrary", np.int16),
    "signed": PhaseScaling(-4096, 4096, "arbitrary", np.int16),
}
