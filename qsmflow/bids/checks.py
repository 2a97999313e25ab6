"""Everything about an acquisition that has to be right before work starts."""

import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from qsmflow.bids.acquisition import Acquisition, number
from qsmflow.bids.findings import Finding, format_findings, short_path
from qsmflow.bids.images import MANY_VALUES, ImageFacts, UnreadableImage, read_images
from qsmflow.bids.layout import GRADIENT_ECHO_SUFFIXES
from qsmflow.bids.phase_range import PhaseRange, UnknownPhaseRange, classify_phase_range

__all__ = ["Finding", "check_acquisition", "format_findings"]

#: Weakest and strongest magnet whose images anyone might bring, tesla.
FIELDS = (0.01, 25.0)
#: Edges of voxels that anyone might bring, from microscopy to spectroscopy, mm.
VOXEL_EDGES = (0.005, 50.0)
#: Longest echo time that is believed to be in seconds.
LONGEST_ECHO_TIME = 1.0
#: Shortest echo time of a scanner, and shortest time in which a field turns the phase, seconds.
SHORTEST_ECHO_TIME = 1e-4
#: Voxels along an axis: fewer than these are refused, fewer than those make the field of a dipole guesswork.
FEWEST_SLICES, FEW_SLICES = 6, 8
#: Between which the largest value of a magnitude must lie: single precision holds the squares of these.
MAGNITUDES = (1e-15, 1e15)
#: Fraction of zeros above which a magnitude is nearly empty.
NEARLY_EMPTY = 0.99
#: Difference of the voxel sizes in pixdim and affine that is no rounding, as a fraction.
SIZE_TOLERANCE = 0.05
#: Difference of sform and qform that moves the map or turns B0, mm and degrees.
FORM_TOLERANCE = (5.0, 5.0)
#: Largest difference of two affines that is rounding, mm.
GRID_TOLERANCE = 1e-3


def check_acquisition(
    acquisition: Acquisition,
    *,
    field_strength: float | None = None,
    images: Mapping[Path, ImageFacts | UnreadableImage] | None = None,
) -> list[Finding]:
    """Check metadata, grids and values of an acquisition; report all that is wrong at once.

    Parameters
    ----------
    acquisition : Acquisition
        From `layout.collect_acquisitions`.
    field_strength : float, optional
        B0 in tesla, where the user gives it; the sidecars need not have it then.
    images : mapping, optional
        From `images.read_images`, of all files of the acquisition, where they were read already.

    Returns
    -------
    list of Finding
        Errors and warnings; none for an acquisition without fault.
    """
    if not any(acquisition.phases):
        return list(_check_halves(acquisition))
    return [
        *_check_suffix(acquisition),
        *_check_halves(acquisition),
        *_check_duplicates(acquisition),
        *_check_echo_times(acquisition),
        *_check_field_strength(acquisition, field_strength),
        *_check_units(acquisition),
        *_check_images(acquisition, read_images(acquisition.files) if images is None else images),
    ]


def _finding(
    acquisition: Acquisition, path: Path, field: str, problem: str, fix: str, *, severity="error"
) -> Finding:
    return Finding(severity, short_path(path), field, problem, fix, acquisition.subject)


def _sidecars(acquisition: Acquisition) -> list[tuple[Path, dict]]:
    """Every image with its metadata."""
    pairs = [
        pair
        for echo in acquisition.echoes
        for pair in ((echo.magnitude, echo.metadata), (echo.phase, echo.phase_metadata))
    ]
    return [(path, metadata) for path, metadata in pairs if path is not None]


def _check_suffix(acquisition: Acquisition) -> Iterator[Finding]:
    if acquisition.suffix not in GRADIENT_ECHO_SUFFIXES:
        for path in acquisition.files:
            yield _finding(
                acquisition,
                path,
                "suffix",
                f"magnitude and phase named {acquisition.suffix} are not read as gradient echoes",
                "if this is a gradient-echo scan, rename images and sidecars to end in _T2starw (one echo) "
                "or _echo-N_part-…_MEGRE (several)",
            )


def _check_halves(acquisition: Acquisition) -> Iterator[Finding]:
    if not any(acquisition.phases):
        yield _finding(
            acquisition,
            acquisition.files[0],
            "part",
            f"no phase images beside {len(acquisition.echoes)} magnitude image(s), "
            "and QSM needs the phase of every echo",
            "export the phase from the scanner and add it as _part-phase_ (magnitude as _part-mag_)",
        )
        return
    for echo in acquisition.echoes:
        if echo.phase is None:
            yield _finding(
                acquisition, echo.magnitude, "part", "the magnitude has no phase", "add the part-phase image"
            )
        if echo.magnitude is None:
            yield _finding(
                acquisition, echo.phase, "part", "the phase has no magnitude", "add the part-mag image"
            )


def _check_duplicates(acquisition: Acquisition) -> Iterator[Finding]:
    for path in acquisition.duplicates:
        coil = "coil-" in path.name
        yield _finding(
            acquisition,
            path,
            "coil" if coil else "file name",
            "the coils are not combined" if coil else "another image has the same entities",
            "combine the coils first, phase included" if coil else "remove one of the two",
        )


def _check_echo_times(acquisition: Acquisition) -> Iterator[Finding]:
    for path, metadata in _sidecars(acquisition):
        problem = _echo_time_problem(metadata.get("EchoTime"))
        if problem is not None:
            yield _finding(acquisition, path, "EchoTime", *problem)
    for echo in acquisition.echoes:
        stated = [metadata.get("EchoTime") for metadata in (echo.metadata, echo.phase_metadata)]
        times = [number(value) for value in stated if _echo_time_problem(value) is None]
        if len(times) == 2 and not math.isclose(*times, rel_tol=1e-3):
            yield _finding(
                acquisition,
                echo.phase,
                "EchoTime",
                f"magnitude has {times[0]:g} s and phase {times[1]:g} s",
                "give both sidecars the echo time of the scan",
            )
    timed = [echo for echo in acquisition.echoes if _echo_time_problem(echo.echo_time) is None]
    for first, second in pairwise(timed):
        if math.isclose(first.echo_time, second.echo_time, rel_tol=1e-6):
            problem = f"{second.echo_time:g} s is also that of {first.files[0].name}"
            fix = "give every echo its own echo time; coils or repetitions are not echoes"
        elif second.echo_time - first.echo_time < SHORTEST_ECHO_TIME:
            problem = (
                f"{second.echo_time:g} s is so near to {first.echo_time:g} s of {first.files[0].name} "
                "that no field shows in between"
            )
            fix = "write the echo times of the scan in seconds"
        else:
            continue
        yield _finding(acquisition, second.files[0], "EchoTime", problem, fix)


def _echo_time_problem(value) -> tuple[str, str] | None:
    seconds = number(value)
    if value is None:
        return "it is missing", "add the echo time in seconds to the JSON sidecar"
    if seconds is None or seconds <= 0:
        return f"{reprlib.repr(value)} is no positive number", "write one echo time in seconds"
    if seconds > LONGEST_ECHO_TIME:
        return f"{seconds:g} looks like milliseconds", f"write it in seconds: {seconds / 1000:g}"
    if seconds < SHORTEST_ECHO_TIME:
        problem = f"{seconds:g} looks like no echo time in seconds, it would be {seconds * 1e6:.3g} µs"
        return problem, "write the echo time of the scan in seconds, such as 0.004"
    return None


def _check_field_strength(acquisition: Acquisition, given: float | None) -> Iterator[Finding]:
    sidecars = _sidecars(acquisition)
    if given is not None:
        stated = acquisition.field_strength
        if stated is not None and not math.isclose(stated, given, rel_tol=0.05):
            problem = f"the sidecar says {stated:g} T, the option {given:g} T, which is used"
            yield _finding(
                acquisition,
                sidecars[0][0],
                "MagneticFieldStrength",
                problem,
                "check --field-strength",
                severity="warning",
            )
        return
    values = {}
    for path, metadata in sidecars:
        value = metadata.get("MagneticFieldStrength")
        tesla = number(value)
        if value is None:
            problem = "it is missing"
        elif tesla is None or not FIELDS[0] <= tesla <= FIELDS[1]:
            problem = f"{reprlib.repr(value)} is no field of a scanner in tesla"
        else:
            values[path] = tesla
            continue
        yield _finding(
            acquisition, path, "MagneticFieldStrength", problem, "write it in tesla, or give --field-strength"
        )
    if values and max(values.values()) > 1.01 * min(values.values()):
        low, high = min(values, key=values.get), max(values, key=values.get)
        yield _finding(
            acquisition,
            high,
            "MagneticFieldStrength",
            f"{values[high]:g} T here but {values[low]:g} T in {low.name}",
            "correct the wrong one, or give --field-strength",
        )


def _check_units(acquisition: Acquisition) -> Iterator[Finding]:
    fix = 'write "rad" for radians or "arbitrary" for scanner units'
    for echo in acquisition.echoes:
        if echo.phase is None:
            continue
        units = echo.phase_metadata.get("Units")
        if units is None:
            problem = "it is missing; the range of the values decides"
            yield _finding(acquisition, echo.phase, "Units", problem, fix, severity="warning")
        elif units not in ("rad", "arbitrary"):
            yield _finding(
                acquisition, echo.phase, "Units", f"{reprlib.repr(units)} is no unit of phase in BIDS", fix
            )


def _check_images(
    acquisition: Acquisition, images: Mapping[Path, ImageFacts | UnreadableImage]
) -> Iterator[Finding]:
    for path, image in images.items():
        if isinstance(image, UnreadableImage):
            yield _finding(acquisition, path, image.field, image.problem, image.fix)
    facts = {path: image for path, image in images.items() if isinstance(image, ImageFacts)}
    for path, image in facts.items():
        for field, problem, fix, severity in (*_grid_problems(image), *_value_problems(image)):
            yield _finding(acquisition, path, field, problem, fix, severity=severity)
    yield from _check_same_grid(acquisition, facts)
    yield from _check_values(acquisition, facts)
    yield from _check_copies(acquisition, facts)


def _grid_problems(image: ImageFacts) -> Iterator[tuple[str, str, str, str]]:
    """Field, problem, fix and severity of what is wrong with a grid."""
    if len(image.shape) != 3:
        yield (
            "shape",
            f"it has {len(image.shape)} dimensions {image.shape}, so coils or echoes are stacked in it",
            "combine the coils, and store every echo as a 3-D file of its own",
            "error",
        )
    thinnest = min(image.shape[:3])
    if len(image.shape) < 3 or thinnest == 1:
        yield "shape", f"a single slice {image.shape} has no dipole field", "bring a 3-D acquisition", "error"
    elif thinnest < FEWEST_SLICES:
        problem = f"{thinnest} voxels along one axis are too few for the field of a dipole"
        yield "shape", problem, "bring a thicker slab", "error"
    elif thinnest < FEW_SLICES:
        problem = f"{thinnest} voxels along one axis are few for the field of a dipole"
        yield "shape", problem, "trust the map only in the middle, or bring a thicker slab", "warning"
    axes = image.affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.all(np.isfinite(axes)) or np.any(lengths == 0):
        yield "affine", "a voxel axis has no length", "convert the image again from DICOM", "error"
        return
    if not np.all(np.isfinite(image.affine)):
        problem = "the affine holds numbers that are not finite"
        yield "affine", problem, "convert the image again from DICOM", "error"
        return
    yield from _size_problems(image, lengths)
    cosines = axes.T @ axes / np.outer(lengths, lengths) - np.eye(3)
    if np.abs(cosines).max() > np.sin(np.deg2rad(1)):
        yield (
            "affine",
            "the voxel axes are not at right angles",
            "resample the image to an orthogonal grid",
            "error",
        )
    if not image.oriented:
        problem = "the header has no orientation, so B0 is taken along the third axis of the image"
        yield "affine", problem, "convert with a tool that writes sform or qform", "warning"
    if any(found > limit for found, limit in zip(image.displacement, FORM_TOLERANCE, strict=True)):
        distance, angle = image.displacement
        problem = f"sform and qform disagree by {distance:.3g} mm and {angle:.3g} degrees; the sform is used"
        yield "affine", problem, "nothing if the sform is right, else write it anew", "warning"


def _size_problems(image: ImageFacts, lengths: np.ndarray) -> Iterator[tuple[str, str, str, str]]:
    """As `_grid_problems`, about the edges of the voxels."""
    by_pixdim, by_affine = (
        " × ".join(f"{edge:.3g}" for edge in found) for found in (image.voxel_size, lengths)
    )
    said = f"pixdim says {by_pixdim} mm, the affine {by_affine} mm"
    if image.foreign_units is not None:
        yield "voxel size", f"the header says {image.foreign_units}", "write millimetres", "error"
    elif not all(VOXEL_EDGES[0] <= edge <= VOXEL_EDGES[1] for edge in (*lengths, *image.voxel_size)):
        yield "voxel size", f"{said}, which are no voxels", "write both in millimetres", "error"
    elif not np.allclose(image.voxel_size, lengths, rtol=SIZE_TOLERANCE, atol=0):
        fix = "nothing if the affine is right, else convert the image again"
        yield "voxel size", f"{said}; the affine is used", fix, "warning"


def _value_problems(image: ImageFacts) -> Iterator[tuple[str, str, str, str]]:
    """Field, problem, fix and severity of what is wrong with the values."""
    if image.n_nonfinite:
        problem = f"{image.n_nonfinite} voxels are NaN or infinite"
        yield (
            "values",
            problem,
            "convert the image again, or set them to zero in magnitude and phase",
            "error",
        )
    if image.stored.low == image.stored.high:
        yield "values", f"every voxel is {image.scaled.low:g}", "put the measured image in its place", "error"


def _check_same_grid(acquisition: Acquisition, facts: dict[Path, ImageFacts]) -> Iterator[Finding]:
    if not facts:
        return
    reference, *others = facts
    first = facts[reference]
    for path in others:
        image = facts[path]
        if image.shape != first.shape:
            field, problem = "shape", f"{image.shape} differs from {first.shape} of {reference.name}"
        elif not np.allclose(image.affine, first.affine, rtol=0, atol=GRID_TOLERANCE, equal_nan=True):
            distance = np.abs(image.affine - first.affine).max()
            field, problem = "affine", f"it differs by {distance:.3g} mm from that of {reference.name}"
        else:
            continue
        fix = "bring magnitude and phase of all echoes on one grid, as the scanner made them"
        yield _finding(acquisition, path, field, problem, fix)


def _check_values(acquisition: Acquisition, facts: dict[Path, ImageFacts]) -> Iterator[Finding]:
    magnitudes = {path: facts[path] for path in acquisition.magnitudes if path in facts}
    phases = {path: facts[path] for path in acquisition.phases if path in facts}
    found = _range_of(phases.values(), acquisition.phase_units)
    if isinstance(found, UnknownPhaseRange):
        first = next(iter(phases))
        if isinstance(_range_of(magnitudes.values(), "arbitrary"), PhaseRange):
            problem, fix = "magnitude and phase look swapped", "rename part-mag to part-phase and the reverse"
            yield _finding(acquisition, first, "part", problem, fix)
            return
        yield _finding(acquisition, first, "phase range", found.problem, found.fix)
    for warning in found.warnings if isinstance(found, PhaseRange) else ():
        fix = "nothing if that is right, else rescale the phase to rad"
        yield _finding(acquisition, next(iter(phases)), "phase range", warning, fix, severity="warning")
    for path, image in magnitudes.items():
        yield from (_finding(acquisition, path, "values", *found) for found in _magnitude_errors(image))
        zeros = image.n_zeros / math.prod(image.shape)
        if NEARLY_EMPTY < zeros < 1:
            problem = f"{100 * zeros:.4g} % of the voxels are zero"
            fix = "nothing if that is right, else bring the whole image"
            yield _finding(acquisition, path, "values", problem, fix, severity="warning")
    for path, image in phases.items():
        if 1 < image.n_values < MANY_VALUES:
            problem = f"only {image.n_values} different values, so the phase was rounded away"
            fix = "convert the phase again, with the numbers of the scanner"
            yield _finding(acquisition, path, "values", problem, fix)


def _magnitude_errors(image: ImageFacts) -> Iterator[tuple[str, str]]:
    """Problem and fix of a magnitude that cannot be one."""
    low, high = image.scaled.low, image.scaled.high
    largest = max(abs(low), abs(high))
    if low < -0.05 * abs(high):
        problem = f"a magnitude with negative values ({low:g} … {high:g})"
        yield problem, "put the magnitude image in its place"
    elif low < high and not MAGNITUDES[0] <= largest <= MAGNITUDES[1]:
        yield (
            f"the largest is {largest:g}, whose square single precision cannot hold",
            "rescale the magnitude",
        )


def _check_copies(acquisition: Acquisition, facts: dict[Path, ImageFacts]) -> Iterator[Finding]:
    """Images that are the same to the last bit, as no two that were measured are."""
    known = {
        path: image
        for path, image in facts.items()
        if image.checksum is not None and image.stored.low < image.stored.high
    }
    copied = set()
    for echo in acquisition.echoes:
        if _are_copies(known.get(echo.magnitude), known.get(echo.phase)):
            copied |= {echo.magnitude, echo.phase}
            problem, fix = "magnitude and phase are the same image", "put the phase image in its place"
            yield _finding(acquisition, echo.phase, "part", problem, fix)
    # Magnitudes of a phantom without noise and decay are alike; phases that are alike hold no field.
    for images, severity in ((acquisition.magnitudes, "warning"), (acquisition.phases, "error")):
        for first, second in combinations([path for path in images if path in known], 2):
            is_scaled_alike = known[first].scaled == known[second].scaled
            if second not in copied and is_scaled_alike and _are_copies(known[first], known[second]):
                copied.add(second)
                problem, fix = f"it is the same image as {first.name}", "every echo needs its own image"
                yield _finding(acquisition, second, "values", problem, fix, severity=severity)


def _are_copies(first: ImageFacts | None, second: ImageFacts | None) -> bool:
    if first is None or second is None:
        return False
    return first.checksum == second.checksum and first.stored == second.stored


def _range_of(images: Iterable[ImageFacts], units: str) -> PhaseRange | UnknownPhaseRange | None:
    """The phase range of those images that are not constant, or why they have none."""
    varied = [image for image in images if image.stored.low < image.stored.high]
    try:
        return classify_phase_range(varied, units=units) if varied else None
    except UnknownPhaseRange as error:
        return error
