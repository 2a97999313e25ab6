"""In which of the many ranges a phase image is stored, and how to make radians of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nb
import numpy as np

from qsmflow.bids.findings import InputProblem
from qsmflow.bids.images import Extremes, ImageFacts, read_image

#: A range counts as filled when the values come this near to both of its ends (fraction of its span).
FILLED = 0.05
#: Values may pass the ends of a range by this fraction of its span (rounding, 4096 for 4095).
OVERSHOOT = 0.01


@dataclass(frozen=True)
class KnownRange:
    """A way in which scanners and converters store phase: ``radians = scale · value + offset``."""

    name: str
    low: float
    high: float
    scale: float
    offset: float = 0.0

    def holds(self, values: Extremes) -> bool:
        """Whether the values lie inside, stray voxels aside."""
        margin = OVERSHOOT * (self.high - self.low)
        return values.robust_low >= self.low - margin and values.robust_high <= self.high + margin

    def is_filled_by(self, values: Extremes) -> bool:
        """Whether the values lie inside and reach both ends, as wrapped phase does."""
        near = FILLED * (self.high - self.low)
        return (
            self.holds(values)
            and values.robust_low <= self.low + near
            and values.robust_high >= self.high - near
        )


RADIAN_RANGES = (
    KnownRange("−π … π rad", -math.pi, math.pi, 1.0),
    KnownRange("0 … 2π rad", 0.0, 2 * math.pi, 1.0),
)
KNOWN_RANGES = (
    *RADIAN_RANGES,
    KnownRange("−180 … 180 degrees", -180.0, 180.0, math.pi / 180),
    KnownRange("0 … 360 degrees", 0.0, 360.0, math.pi / 180),
    KnownRange("−2048 … 2047", -2048.0, 2047.0, math.pi / 2048),
    KnownRange("0 … 4095", 0.0, 4095.0, math.pi / 2048, -math.pi),
    KnownRange("−1000π … 1000π", -1000 * math.pi, 1000 * math.pi, 1e-3),
    KnownRange("−4096 … 4095", -4096.0, 4095.0, math.pi / 4096),
    KnownRange("−32768 … 32767", -32768.0, 32767.0, math.pi / 32768),
    KnownRange("0 … 65535", 0.0, 65535.0, math.pi / 32768, -math.pi),
)


class UnknownPhaseRange(InputProblem):
    """A phase range that cannot be told."""


@dataclass(frozen=True)
class PhaseRange:
    """How the numbers of a phase image become radians.

    Attributes
    ----------
    name : str
        The range, for people.
    values : {"scaled", "stored"}
        Whether the header's scaling is applied to the numbers first.
    scale, offset : float
        ``radians = scale · value + offset``, then wrapped to −π … π.
    low, high : float
        Extremes that were seen.
    warnings : tuple of str
        What the user should know.
    """

    name: str
    values: Literal["scaled", "stored"]
    scale: float
    offset: float
    low: float
    high: float
    warnings: tuple[str, ...] = ()


def detect_phase_range(images: Path | str | Sequence[Path | str], *, units: str | None = None) -> PhaseRange:
    """Tell the range of a phase image, or of the echoes of an acquisition together.

    Wrapped phase fills its range to both ends, so the extremes give the range away. They are looked
    at with and without the header's scaling: converters leave slopes behind that turn ±π into ±0.0037.

    Parameters
    ----------
    images : path or sequence of paths
        Phase images of one acquisition; longer echoes help where the first does not wrap.
    units : {"rad", "arbitrary"}, optional
        What the metadata says. "rad" settles images that do not fill a range.

    Returns
    -------
    PhaseRange
        For `scale_phase`.

    Raises
    ------
    UnknownPhaseRange
        If no range or more than one can be meant.
    UnreadableImage
        If an image cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> ramp = np.linspace(0, 4095, 64).reshape(4, 4, 4).astype(np.int16)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nb.save(nb.Nifti1Image(ramp, np.eye(4)), f"{folder}/phase.nii")
    ...     detect_phase_range(f"{folder}/phase.nii", units="arbitrary").name
    '0 … 4095'
    """
    paths = [images] if isinstance(images, (str, Path)) else list(images)
    return classify_phase_range([read_image(path) for path in paths], units=units)


def classify_phase_range(facts: Sequence[ImageFacts], *, units: str | None = None) -> PhaseRange:
    """As `detect_phase_range`, for images that were read already."""
    scaled = _pooled([image.scaled for image in facts])
    stored = _pooled([image.stored for image in facts])
    _refuse_mixed(facts)
    filled = _first_filled(scaled, stored)
    if filled is not None:
        source, known, values = filled
        return _phase_range(source, known, values, warnings=_warnings(source, known, values, scaled, units))
    if units == "rad":
        return _declared_radians(facts, scaled, stored)
    candidates = [known.name for known in KNOWN_RANGES if known.holds(scaled)]
    raise UnknownPhaseRange(
        f"the phase spans {scaled.low:.6g} … {scaled.high:.6g}, which fills none of the known ranges"
        + (f" and could lie in {' or '.join(candidates)}" if candidates else ""),
        "check that this is wrapped phase; rescale it to −π … π and set Units to rad",
    )


def scale_phase(image: Path | str, phase_range: PhaseRange) -> np.ndarray:
    """Phase in radians, wrapped to −π … π.

    Parameters
    ----------
    image : path
        NIfTI file.
    phase_range : PhaseRange
        From `detect_phase_range`.

    Returns
    -------
    ndarray
        float32, of the image's shape, rad.

    Examples
    --------
    >>> import tempfile
    >>> ramp = np.linspace(0, 4095, 64).reshape(4, 4, 4).astype(np.int16)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nb.save(nb.Nifti1Image(ramp, np.eye(4)), f"{folder}/phase.nii")
    ...     radians = scale_phase(f"{folder}/phase.nii", detect_phase_range(f"{folder}/phase.nii"))
    >>> print(radians.dtype, f"{radians.min():.3f} … {radians.max():.3f}")
    float32 -3.142 … 3.140
    """
    data = nb.load(image).dataobj
    numbers = data.get_unscaled() if phase_range.values == "stored" else data
    radians = np.asarray(numbers, dtype=np.float32) * np.float32(phase_range.scale)
    radians += np.float32(phase_range.offset)
    cycle = np.float32(2 * math.pi)
    return radians - cycle * np.round(radians / cycle)


def _pooled(values: Sequence[Extremes]) -> Extremes:
    return Extremes(
        min(each.low for each in values),
        max(each.high for each in values),
        min(each.robust_low for each in values),
        max(each.robust_high for each in values),
    )


def _first_filled(scaled: Extremes, stored: Extremes) -> tuple[str, KnownRange, Extremes] | None:
    """The range that the values fill; what readers return goes before what the file stores."""
    return next(
        (
            (source, known, values)
            for source, values in (("scaled", scaled), ("stored", stored))
            for known in KNOWN_RANGES
            if known.is_filled_by(values)
        ),
        None,
    )


def _refuse_mixed(facts: Sequence[ImageFacts]) -> None:
    """Echoes that fill different ranges were not converted alike."""
    found = [_first_filled(image.scaled, image.stored) for image in facts]
    names = sorted({f"{known.name} ({source} values)" for source, known, _ in filter(None, found)})
    if len(names) > 1:
        raise UnknownPhaseRange(
            f"the echoes are stored in different ranges: {' and '.join(names)}", "convert all echoes alike"
        )


def _declared_radians(facts: Sequence[ImageFacts], scaled: Extremes, stored: Extremes) -> PhaseRange:
    """Phase that fills no range but is said to be in rad; refused where the slope makes that doubtful."""
    held = {
        source: next((known for known in RADIAN_RANGES if known.holds(values)), None)
        for source, values in (("scaled", scaled), ("stored", stored))
    }
    if held["scaled"] is None:
        raise UnknownPhaseRange(
            f"Units is rad, but the values span {scaled.low:.6g} … {scaled.high:.6g}, unlike wrapped phase",
            "store wrapped phase in rad, or set Units to arbitrary where it is scanner units",
        )
    if held["stored"] is not None and any(image.has_scaling for image in facts):
        raise UnknownPhaseRange(
            f"stored numbers ({stored.low:.4g} … {stored.high:.4g}) and header-scaled values "
            f"({scaled.low:.4g} … {scaled.high:.4g}) could both be radians",
            "write the phase in rad with scl_slope 1 and scl_inter 0",
        )
    return _phase_range("scaled", held["scaled"], scaled, warnings=())


def _warnings(
    source: str, known: KnownRange, values: Extremes, scaled: Extremes, units: str | None
) -> tuple[str, ...]:
    said = {
        f"the header's slope makes {scaled.low:.4g} … {scaled.high:.4g} of phase stored as {known.name}; "
        "the slope is ignored": source == "stored",
        f"Units is rad, but the phase is stored as {known.name}; it is scaled as such": (
            units == "rad" and known not in RADIAN_RANGES
        ),
        f"a few voxels lie outside {known.name} ({values.low:.6g} … {values.high:.6g})": (
            not known.holds(Extremes(values.low, values.high, values.low, values.high))
        ),
    }
    return tuple(text for text, applies in said.items() if applies)


def _phase_range(source, known: KnownRange, values: Extremes, *, warnings: tuple[str, ...]) -> PhaseRange:
    return PhaseRange(known.name, source, known.scale, known.offset, values.low, values.high, warnings)
