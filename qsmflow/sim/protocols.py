"""Acquisitions of published studies, and small ones for tests."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.mgre import MgreProtocol

#: Middle of a slab that covers the brain, scanner coordinates in mm.
CENTER = (0.0, -18.0, 10.0)


def _slab(
    shape: tuple[int, int, int], voxel_size: Sequence[float], rotation: Sequence[float], **settings
) -> MgreProtocol:
    affine = oblique_affine(shape, voxel_size=voxel_size, rotation=rotation, center=CENTER)
    return MgreProtocol(shape=shape, affine=affine, **settings)


def _echoes(first: float, spacing: float, number: int) -> tuple[float, ...]:
    """Echo times in s, of a first one and a spacing in ms."""
    return tuple(round((first + spacing * index) / 1000, 6) for index in range(number))


#: Axial slabs lie along the line between the commissures, nodded and turned a little as heads lie.
_OBLIQUE = (-15.0, 4.0, 2.0)
# 11 echoes at 3 T: the first one at 3.5 to 6.3 ms, 3.8 to 5.5 ms apart in the motion paper.
_ELEVEN_ECHOES = {"echo_times": _echoes(4.5, 4.6, 11), "repetition_time": 0.055, "flip_angle": 15.0}
# 1 mm at 7 T; four echoes as in the second QSM challenge, 10.1002/mrm.28754.
_SEVEN_TESLA = {"field_strength": 7.0, "transmit_bias": 0.4, "phase_offset": 1.5, "repetition_time": 0.050}

#: Protocols by name.
PROTOCOLS = {
    "classic": _slab(
        (160, 160, 96), (1, 1, 1), (-15, 12, 0), echo_times=_echoes(4, 5, 5), repetition_time=0.035, snr=100
    ),
    "clinical": _slab((512, 512, 48), (0.4688, 0.4688, 3), _OBLIQUE, **_ELEVEN_ECHOES, snr=40),
    "clinical-resampled": _slab((320, 320, 48), (0.75, 0.75, 3), _OBLIQUE, **_ELEVEN_ECHOES, snr=60),
    "submillimetre": _slab(
        (288, 288, 304),
        (0.8, 0.8, 0.5),
        _OBLIQUE,
        echo_times=_echoes(6.69, 3.6, 10),
        repetition_time=0.045,
        snr=40,
    ),
    "challenge": _slab(
        (164, 205, 205), (1, 1, 1), (0, 0, 0), echo_times=_echoes(4, 8, 4), snr=100, **_SEVEN_TESLA
    ),
    "seven-tesla": _slab(
        (192, 224, 160), (1, 1, 1), _OBLIQUE, echo_times=_echoes(4, 5, 5), snr=100, **_SEVEN_TESLA
    ),
    "example": _slab((60, 70, 47), (2.8, 2.8, 2.8), (-15, 12, 0), echo_times=_echoes(4, 5, 4), snr=80),
}


def protocol(name: str, *, sloppy: bool = False, **changes) -> MgreProtocol:
    """A protocol by name, with changes.

    Parameters
    ----------
    name : str
        A key of :data:`PROTOCOLS`: ``classic`` (1 mm, 3 T, five echoes), ``clinical`` (0.47 × 0.47 × 3 mm,
        3 T, eleven echoes) and its 0.75 × 0.75 × 3 mm resampling, ``submillimetre`` (0.8 × 0.8 × 0.5 mm,
        3 T, ten echoes), ``challenge`` (1 mm, 7 T, four echoes), ``seven-tesla`` (1 mm, five echoes),
        ``example`` (the one of ``bids_examples``).
    sloppy : bool
        The same slab with few coarse voxels and few echoes, for tests.
    **changes
        Other values of fields of :class:`qsmflow.sim.mgre.MgreProtocol`.

    Returns
    -------
    MgreProtocol

    Raises
    ------
    KeyError
        If there is no such protocol.
    TypeError
        If a change is of no field of a protocol.

    Examples
    --------
    >>> protocol("clinical", sloppy=True, snr=200.0).shape
    (30, 34, 24)
    """
    chosen = PROTOCOLS[name]
    return replace(_sloppy(chosen) if sloppy else chosen, **changes)


def with_slab(
    full: MgreProtocol,
    *,
    shape: Sequence[int] | None = None,
    voxel_size: Sequence[float] | None = None,
    rotation: Sequence[float] | None = None,
) -> MgreProtocol:
    """A protocol with another slab about the same middle.

    Parameters
    ----------
    full : MgreProtocol
        What is kept of it: all but the slab.
    shape : sequence of int, optional
        Voxels; unless given, as many as fill the field of view.
    voxel_size : sequence of float, optional
        mm; that of the protocol unless given.
    rotation : sequence of float, optional
        Degrees about the scanner's x, y and z axes; the axes of the protocol unless given.

    Returns
    -------
    MgreProtocol

    Examples
    --------
    >>> with_slab(PROTOCOLS["classic"], voxel_size=(2, 2, 3), rotation=(0, 0, 0)).shape
    (80, 80, 32)
    """
    edges = np.array(full.voxel_size)
    voxel_size = edges if voxel_size is None else np.array(voxel_size, dtype=float)
    if shape is None:
        shape = np.maximum(np.rint(np.array(full.shape) * edges / voxel_size), 1)
    shape = tuple(int(size) for size in shape)
    center = full.affine[:3] @ [*(np.array(full.shape) - 1) / 2, 1]
    affine = oblique_affine(shape, voxel_size=voxel_size, rotation=rotation or (0, 0, 0), center=center)
    if rotation is None:
        affine[:3, :3] = full.affine[:3, :3] / edges * voxel_size
        affine[:3, 3] = center - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return replace(full, shape=shape, affine=affine)


def _sloppy(full: MgreProtocol) -> MgreProtocol:
    """Three echoes on 7 mm voxels with the axes, the middle and the field strength of a protocol."""
    slab = with_slab(full, shape=(30, 34, 24), voxel_size=(7, 7, 7))
    return replace(slab, echo_times=full.echo_times[:3], supersampling=1)
