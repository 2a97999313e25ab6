"""What a multi-echo gradient-echo scan of a digital head measures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from qsmflow.core.dipole import b0_direction
from qsmflow.core.motion import MotionProfile, acquisition_times, mix_states, move_echoes, scanner_matrix
from qsmflow.core.units import hertz_per_ppm
from qsmflow.sim.coils import Coils, Shim
from qsmflow.sim.field import FieldGrids, HeadField
from qsmflow.sim.grids import block_mean, refined, voxel_centers, voxel_edges
from qsmflow.sim.head import HEAD_BOX, Head, build_head
from qsmflow.sim.subject import Subject

#: Fine voxels come near to this edge, mm.
FINE_EDGE = 1.0
#: Fine voxels whose signal is made together: few enough for a processor's caches, and enough for a GPU.
SLAB_VOXELS = {"cpu": 2**18, "cuda": 2**24}


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
        T.
    repetition_time : float
        s.
    flip_angle : float
        Degrees, in the middle of the head.
    snr : float
        Mean magnitude of the first echo in the brain over the noise's standard deviation in the real
        and in the imaginary part.
    supersampling : int or tuple of int, optional
        The signal is made on voxels this many times smaller, along all or along each axis, then
        averaged. Unless given, the fine voxels come near to 1 mm.
    readout : {"monopolar", "bipolar"}
        Bipolar echoes are read in alternating directions, and their phases alternate.
    readout_axis : int
        Axis along which echoes are read.
    readout_phase : tuple of float
        With a bipolar readout: phase of the first echo in the middle of the field of view, and how much
        it grows from edge to edge along the readout, rad. Even echoes have the opposite phase.
    acquisition_order : str
        In which order the lines of k-space are acquired, see :data:`qsmflow.core.motion.ORDERS`.
    acquired_share : tuple of float
        Central share of k-space along each axis that is acquired; zeros fill the rest.
    receive_bias, transmit_bias, phase_offset : float
        See :class:`qsmflow.sim.coils.Coils`.

    Raises
    ------
    ValueError
        If the echo times do not increase from above 0, or a setting is out of its range.

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
    supersampling: int | tuple[int, int, int] | None = None
    readout: str = "monopolar"
    readout_axis: int = 0
    readout_phase: tuple[float, float] = (0.2, 1.0)
    acquisition_order: str = "sequential"
    acquired_share: tuple[float, float, float] = (1.0, 1.0, 1.0)
    receive_bias: float = 0.3
    transmit_bias: float = 0.1
    phase_offset: float = 1.0

    def __post_init__(self):
        times = (0.0, *self.echo_times)
        if not self.echo_times or any(late <= early for early, late in pairwise(times)):
            raise ValueError(f"echo times must increase from above 0, got {self.echo_times}")
        if self.echo_times[-1] >= self.repetition_time:
            raise ValueError(f"the last echo lies beyond the repetition time of {self.repetition_time} s")
        if self.readout not in READOUT_SIGNS:
            raise ValueError(f"the readout must be one of {', '.join(READOUT_SIGNS)}, got {self.readout!r}")
        if not all(0 < share <= 1 for share in self.acquired_share):
            raise ValueError(f"acquired shares must lie above 0 and up to 1, got {self.acquired_share}")
        if not self.snr > 0:
            raise ValueError(f"the SNR must be positive, got {self.snr}")

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Voxel edge lengths in mm."""
        return voxel_edges(self.affine)

    @property
    def fine_factors(self) -> tuple[int, ...]:
        """Fine voxels along each edge of a voxel."""
        if self.supersampling is not None:
            return tuple(np.broadcast_to(self.supersampling, 3).tolist())
        # Half way between two numbers, the smaller one will do.
        return tuple(max(1, int(np.ceil(edge / FINE_EDGE - 0.5))) for edge in self.voxel_size)


#: By readout: sign of the readout's phase in odd and in even echoes.
READOUT_SIGNS = {"monopolar": (0.0, 0.0), "bipolar": (1.0, -1.0)}


@dataclass(frozen=True)
class MgreScan:
    """A simulated scan and the truth behind it, all maps (x, y, z) on the grid of the scan.

    Field, phase offset and R2* are means weighted by the signal at TE = 0, so that
    ``magnitude·exp(−TE·R2*)·exp(i·(phase_offset + 2π·total_field·TE))`` is the signal as far as the voxel
    is uniform; multiplied by Π sinc(ΔF·TE) with ``field_steps`` ΔF, also where the field is steep.

    Parameters
    ----------
    signal : Tensor
        (echo, x, y, z), complex, with noise and motion.
    noise : float
        Standard deviation of the noise in the real and in the imaginary part.
    susceptibility : Tensor
        ppm relative to water.
    total_field : Tensor
        Hz, after shimming, chemical shift included.
    local_field : Tensor
        Hz, of the susceptibility in the mask less its mean there.
    field_steps : Tensor
        (3, x, y, z), Hz from face to face of a voxel along each of its axes.
    r2star : Tensor
        1/s.
    magnitude : Tensor
        Of the signal at TE = 0, arbitrary units.
    phase_offset : Tensor
        rad, phase at TE = 0.
    mask : Tensor
        bool, voxels more than half inside the brain.
    labels : Tensor
        int8, index in :data:`qsmflow.sim.canvas.LABELS` of the tissue that fills most of the voxel.
    """

    signal: Tensor
    noise: float
    susceptibility: Tensor
    total_field: Tensor
    local_field: Tensor
    field_steps: Tensor
    r2star: Tensor
    magnitude: Tensor
    phase_offset: Tensor
    mask: Tensor
    labels: Tensor


def simulate_mgre(
    protocol: MgreProtocol,
    *,
    subject: Subject,
    motion: MotionProfile | None = None,
    motion_model: str = "signal",
    seed: int = 0,
    coil_seed: int | None = None,
    device=None,
) -> MgreScan:
    """Scan a digital head, S(TE) = m·exp(−TE·R2*)·exp(i·(φ0 + 2π·f·TE)) with f > 0 where the field is raised.

    Signal and field are made on finer voxels and the complex signal is averaged, which also dephases it
    where the field is steep; within a fine voxel the field is taken as linear.

    Parameters
    ----------
    protocol : MgreProtocol
        How the head is scanned.
    subject : Subject
        Who is scanned.
    motion : MotionProfile, optional
        How the subject moves; the truth is that of the identity pose.
    motion_model : str
        A key of :data:`MOTION_MODELS`: ``"signal"`` moves the complex echoes (motion paper, Eq. 5),
        ``"field"`` moves the head, makes its field anew, and leaves coils and shim where they are (Eq. 4).
    seed : int
        Of the noise.
    coil_seed : int, optional
        Of the coils; that of the noise unless given.
    device : torch.device, optional
        Where it is computed.

    Returns
    -------
    MgreScan

    Raises
    ------
    KeyError
        If there is no such motion model.

    Examples
    --------
    >>> from qsmflow.sim.grids import oblique_affine
    >>> from qsmflow.sim.subject import draw_subject
    >>> affine = oblique_affine((12, 12, 12), voxel_size=(16, 16, 16), center=(0, -18, 5))
    >>> protocol = MgreProtocol(shape=(12, 12, 12), affine=affine, echo_times=(0.004,), supersampling=1)
    >>> scan = simulate_mgre(protocol, subject=draw_subject(0))
    >>> scan.signal.shape
    torch.Size([1, 12, 12, 12])
    """
    [scan] = simulate_series(
        protocol,
        subject=subject,
        motions=[motion],
        motion_model=motion_model,
        seeds=[seed],
        coil_seed=coil_seed,
        device=device,
    )
    return scan


def simulate_series(
    protocol: MgreProtocol,
    *,
    subject: Subject,
    motions: Sequence[MotionProfile | None],
    seeds: Sequence[int],
    motion_model: str = "signal",
    coil_seed: int | None = None,
    device=None,
) -> Iterator[MgreScan]:
    """Scan a head several times, each time moving in another way; the still head is drawn only once.

    Parameters
    ----------
    protocol, subject, motion_model, device
        As in :func:`simulate_mgre`.
    motions : sequence of MotionProfile or None
        How the subject moves in each scan; None for a still one.
    seeds : sequence of int
        Of the noise of each scan.
    coil_seed : int, optional
        Of the coils; the first seed unless given.

    Yields
    ------
    MgreScan
        All share the tensors of their truth.

    Raises
    ------
    KeyError
        If there is no such motion model.
    ValueError
        If there are not as many seeds as motions.

    Examples
    --------
    >>> from qsmflow.sim.grids import oblique_affine
    >>> from qsmflow.sim.subject import draw_subject
    >>> affine = oblique_affine((12, 12, 12), voxel_size=(16, 16, 16), center=(0, -18, 5))
    >>> protocol = MgreProtocol(shape=(12, 12, 12), affine=affine, echo_times=(0.004,), supersampling=1)
    >>> scans = list(simulate_series(protocol, subject=draw_subject(0), motions=[None, None], seeds=[1, 2]))
    >>> scans[0].susceptibility is scans[1].susceptibility, torch.equal(scans[0].signal, scans[1].signal)
    (True, False)
    """
    coils = Coils.draw(
        torch.Generator().manual_seed(seeds[0] if coil_seed is None else coil_seed),
        receive_bias=protocol.receive_bias,
        transmit_bias=protocol.transmit_bias,
        phase_offset=protocol.phase_offset,
    )
    still = _PosedHead.placed(protocol, subject, affine=protocol.affine, device=device)
    factors = protocol.fine_factors
    mask = block_mean(still.head.brain, factor=factors) > 0.5
    centers = voxel_centers(protocol.shape, protocol.affine, device=device)
    shim = Shim.fitted(block_mean(still.scanned(still.field), factor=factors), centers=centers, mask=mask)
    scanner = _Scanner(protocol, coils, shim)
    still_echoes = scanner.echoes(still)
    noise = float(still_echoes[0][mask].abs().mean()) / protocol.snr
    truth = scanner.truth(still, mask)
    labels = build_head(
        subject, shape=protocol.shape, affine=protocol.affine, maps=("labels",), device=device
    ).labels
    for motion, seed in zip(motions, seeds, strict=True):
        echoes = still_echoes
        if motion is not None:
            echoes = MOTION_MODELS[motion_model](still_echoes, scanner, subject, motion)
        echoes = echoes * _readout_phases(protocol, device=echoes.device)
        signal = _acquired(echoes, protocol.acquired_share, noise=noise, seed=seed)
        yield MgreScan(signal=signal, noise=noise, mask=mask, labels=labels, **truth)


@dataclass(frozen=True)
class _PosedHead:
    """A head in one pose on the fine voxels of the scan, and the field it makes.

    The maps of the head are cut to the scan; the field in ppm keeps the rim of its grid.
    """

    head: Head
    field: Tensor
    operator: HeadField

    @classmethod
    def placed(cls, protocol: MgreProtocol, subject: Subject, *, affine: np.ndarray, device) -> "_PosedHead":
        """Draw a head. ``affine`` leads from voxels into the head; B0 lies in the scanner."""
        fine = refined(protocol.shape, affine, factor=protocol.fine_factors)
        grids = FieldGrids.around(*fine, box=HEAD_BOX)
        settings = {"field_strength": protocol.field_strength, "device": device}
        head = build_head(subject, shape=grids.shape, affine=grids.affine, **settings)
        surroundings = build_head(
            subject,
            shape=grids.coarse_shape,
            affine=grids.coarse_affine,
            maps=("susceptibility",),
            **settings,
        )
        operator = HeadField(grids, b0_direction=b0_direction(protocol.affine), device=device)
        # Relative to the air around, susceptibility ends where the head ends.
        air = subject.tissues["air"].susceptibility
        field = operator(head.susceptibility - air, surroundings.susceptibility - air)
        maps = {name: value[grids.inner] for name, value in vars(head).items() if isinstance(value, Tensor)}
        return cls(Head(**{**vars(head), **maps, "affine": fine[1]}), field, operator)

    def scanned(self, image: Tensor, rows: slice = slice(None), *, halo: int = 0) -> Tensor:
        """Rows of the scan, with voxels beyond them, of a map that has the rim."""
        x, y, z = self.operator.grids.inner
        inner = range(x.start, x.stop)[rows]
        x = slice(inner.start, inner.stop)
        return image[tuple(slice(part.start - halo, part.stop + halo) for part in (x, y, z))]


@dataclass(frozen=True)
class _FineMaps:
    """Maps of some rows of fine voxels; ``steps`` is the field in Hz from face to face along each axis."""

    magnitude: Tensor
    r2star: Tensor
    offset: Tensor
    frequency: Tensor
    steps: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Scanner:
    """What is the same for all poses: sequence, coils and shim."""

    protocol: MgreProtocol
    coils: Coils
    shim: Shim

    def slabs(self, posed: _PosedHead) -> Iterator[tuple[slice, _FineMaps]]:
        """Fine maps of a few rows of voxels after the other, and which rows they are."""
        protocol, head = self.protocol, posed.head
        factors = protocol.fine_factors
        shape, affine = refined(protocol.shape, protocol.affine, factor=factors)
        scale = hertz_per_ppm(protocol.field_strength)
        per_row = factors[0] * shape[1] * shape[2]
        rows = max(1, SLAB_VOXELS[head.brain.device.type] // per_row)
        for first in range(0, protocol.shape[0], rows):
            voxels = slice(first, min(first + rows, protocol.shape[0]))
            fine = slice(voxels.start * factors[0], voxels.stop * factors[0])
            moved = affine.copy()
            moved[:3, 3] += affine[:3] @ [fine.start - 1, -1, -1, 0]
            # One voxel more on each side, for differences.
            around = (fine.stop - fine.start + 2, shape[1] + 2, shape[2] + 2)
            centers = voxel_centers(around, moved, device=head.brain.device)
            field = scale * (posed.scanned(posed.field, fine, halo=1) - self.shim(centers))
            centers = centers[:, 1:-1, 1:-1, 1:-1]
            steps = tuple(_central_difference(field, axis) for axis in range(3))
            frequency = field[1:-1, 1:-1, 1:-1] + scale * head.chemical_shift[fine]
            magnetisation = steady_state(
                head.proton_density[fine],
                head.t1[fine],
                repetition_time=protocol.repetition_time,
                flip_angle=protocol.flip_angle * self.coils.flip_scale(centers),
            )
            yield (
                voxels,
                _FineMaps(
                    magnitude=magnetisation * self.coils.sensitivity(centers),
                    r2star=head.r2star[fine],
                    offset=self.coils.phase(centers),
                    frequency=frequency,
                    steps=steps,
                ),
            )

    def echoes(self, posed: _PosedHead) -> Tensor:
        """Complex signal (echo, x, y, z) without noise, averaged over the scan's voxels."""
        protocol = self.protocol
        result = posed.field.new_empty((len(protocol.echo_times), *protocol.shape), dtype=torch.complex64)
        for rows, maps in self.slabs(posed):
            for number, fine in enumerate(_fine_echoes(maps, protocol.echo_times)):
                result[number, rows] = block_mean(fine, factor=protocol.fine_factors)
        return result

    def truth(self, posed: _PosedHead, mask: Tensor) -> dict[str, Tensor]:
        """Maps of :class:`MgreScan` by name."""
        factors = self.protocol.fine_factors
        names = ("magnitude", "r2star", "phase_offset", "total_field")
        maps = {name: posed.field.new_empty(self.protocol.shape) for name in names}
        steps = posed.field.new_empty((3, *self.protocol.shape))
        for rows, fine in self.slabs(posed):
            magnitude = maps["magnitude"][rows] = block_mean(fine.magnitude, factor=factors)
            # Where there is no signal, all fine voxels count alike.
            weight = fine.magnitude + 1e-6
            weighted = {"r2star": fine.r2star, "phase_offset": fine.offset, "total_field": fine.frequency}
            for name, image in weighted.items():
                maps[name][rows] = block_mean(weight * image, factor=factors) / (magnitude + 1e-6)
            for axis, step in enumerate(fine.steps):
                steps[axis, rows] = factors[axis] * block_mean(step, factor=factors)
        return {
            "susceptibility": block_mean(posed.head.susceptibility, factor=factors),
            "local_field": self.local_field(posed, mask),
            "field_steps": steps,
            **maps,
        }

    def local_field(self, posed: _PosedHead, mask: Tensor) -> Tensor:
        """Field in Hz of the susceptibility in a mask, less its mean there."""
        factors = self.protocol.fine_factors
        for axis, factor in enumerate(factors):
            mask = mask.repeat_interleave(factor, axis)
        inside = posed.head.susceptibility
        sources = torch.zeros_like(posed.field)
        # Writes into the scan's part of the grid.
        posed.scanned(sources)[mask] = inside[mask] - inside[mask].mean()
        local = posed.scanned(posed.operator(sources))
        return hertz_per_ppm(self.protocol.field_strength) * block_mean(local, factor=factors)


def _central_difference(image: Tensor, axis: int) -> Tensor:
    """Half the difference of the two neighbours along an axis, without the outermost voxels."""
    inner = [slice(1, -1)] * 3
    before, after = list(inner), list(inner)
    before[axis], after[axis] = slice(None, -2), slice(2, None)
    return 0.5 * (image[tuple(after)] - image[tuple(before)])


def _fine_echoes(maps: _FineMaps, echo_times: tuple[float, ...]) -> Iterator[Tensor]:
    """Signal of fine voxels, echo after echo, each from the one before.

    A field linear across a voxel scales its signal by sinc(ΔF·TE) along each axis, with ΔF the
    difference in Hz from face to face.
    """
    signal = torch.polar(maps.magnitude, maps.offset)
    previous, spacing, turn = 0.0, None, None
    for echo_time in echo_times:
        if spacing is None or abs(echo_time - previous - spacing) > 1e-9:
            spacing = echo_time - previous
            turn = torch.polar(torch.exp(-spacing * maps.r2star), (2 * np.pi * spacing) * maps.frequency)
        signal = signal * turn
        previous = echo_time
        dephasing = torch.ones_like(maps.magnitude)
        for step in maps.steps:
            dephasing *= torch.sinc(echo_time * step)
        yield signal * dephasing


def _moved_signal(echoes: Tensor, scanner: _Scanner, subject: Subject, motion: MotionProfile) -> Tensor:
    protocol = scanner.protocol
    return move_echoes(
        echoes,
        profile=motion,
        voxel_size=protocol.voxel_size,
        times=line_times(protocol, device=echoes.device),
    )


def _moved_head(echoes: Tensor, scanner: _Scanner, subject: Subject, motion: MotionProfile) -> Tensor:
    protocol = scanner.protocol

    def state(pose) -> Tensor:
        if pose == type(pose)():
            return echoes
        matrix = scanner_matrix(pose, shape=protocol.shape, affine=protocol.affine)
        affine = np.linalg.inv(matrix) @ protocol.affine
        return scanner.echoes(_PosedHead.placed(protocol, subject, affine=affine, device=echoes.device))

    states = (state(pose) for pose in motion.poses)
    return mix_states(states, profile=motion, times=line_times(protocol, device=echoes.device))


#: How a moving head is simulated: by its complex echoes or by the head itself.
MOTION_MODELS = {"signal": _moved_signal, "field": _moved_head}


def line_times(protocol: MgreProtocol, *, device=None) -> Tensor:
    """When each line of k-space is acquired, see :func:`qsmflow.core.motion.acquisition_times`."""
    return acquisition_times(
        protocol.shape, readout_axis=protocol.readout_axis, order=protocol.acquisition_order, device=device
    )


def _readout_phases(protocol: MgreProtocol, *, device) -> Tensor:
    """exp(i·phase) that eddy currents leave in each echo, (echo, x, y, z), size 1 off the readout axis."""
    constant, linear = protocol.readout_phase
    size = protocol.shape[protocol.readout_axis]
    position = (torch.arange(size, device=device) - (size - 1) / 2) / size
    shape = [1, 1, 1, 1]
    shape[1 + protocol.readout_axis] = size
    signs = [READOUT_SIGNS[protocol.readout][number % 2] for number in range(len(protocol.echo_times))]
    signs = torch.tensor(signs, device=device).reshape(-1, 1, 1, 1)
    return torch.exp(1j * signs * (constant + linear * position).reshape(shape))


def _acquired(echoes: Tensor, shares: tuple[float, float, float], *, noise: float, seed: int) -> Tensor:
    """Echoes with white noise, of which only the central share of k-space along each axis is kept."""
    sizes = echoes.shape[1:]
    kept = [max(1, round(share * size)) for share, size in zip(shares, sizes, strict=True)]
    remaining = np.prod(kept) / np.prod(sizes)
    # randn of a complex dtype has variance 1/2 in each part.
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(echoes.shape, generator=generator, dtype=torch.complex64).to(echoes.device)
    signal = echoes.add_(white, alpha=noise * float(np.sqrt(2 / remaining)))
    for axis, (size, number) in enumerate(zip(sizes, kept, strict=True), start=1):
        if number < size:
            lines = torch.fft.fftfreq(size, d=1 / size, device=echoes.device).round()
            # As many lines on both sides of the centre, one more below it if their number is even.
            inside = (lines >= -(number // 2)) & (lines < number - number // 2)
            shape = [1, 1, 1, 1]
            shape[axis] = size
            signal = torch.fft.ifft(torch.fft.fft(signal, dim=axis) * inside.reshape(shape), dim=axis)
    return signal


def steady_state(
    proton_density: Tensor, t1: Tensor, *, repetition_time: float, flip_angle: float | Tensor
) -> Tensor:
    """Magnetisation of a spoiled gradient echo, ρ·sin α·(1 − E1)/(1 − E1·cos α) with E1 = exp(−TR/T1).

    Parameters
    ----------
    proton_density, t1 : Tensor
        (x, y, z); relative, and s.
    repetition_time : float
        s.
    flip_angle : float or Tensor
        Degrees, one value or (x, y, z).

    Returns
    -------
    Tensor
        (x, y, z), units of the proton density.

    Examples
    --------
    >>> density, t1 = torch.tensor(1.0), torch.tensor(1e-6)
    >>> float(steady_state(density, t1, repetition_time=0.04, flip_angle=90.0))
    1.0
    """
    alpha = torch.deg2rad(torch.as_tensor(flip_angle).to(t1))
    recovery = torch.exp(-repetition_time / t1)
    return proton_density * torch.sin(alpha) * (1 - recovery) / (1 - torch.cos(alpha) * recovery)
