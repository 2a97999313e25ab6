"""The experiments of the motion paper: one subject in pictures, simulated pairs, pairs that lie apart."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qsmflow.core.metrics import nrmse
from qsmflow.core.registration import register, resample
from qsmflow.nets.bundle import Bundle
from qsmflow.nets.predict import correct_motion
from qsmflow.nets.prenet import PReNet, PReNetSettings
from qsmflow.train.experiments.figures import BoxFigure, MapFigure, error_figure
from qsmflow.train.experiments.measures import DEFINITIONS, MEASURES, demeaned, measured
from qsmflow.train.experiments.published import MOTION_PAPER, MOTION_SIMULATED, MOTION_VOLUNTEERS, BeforeAfter
from qsmflow.train.experiments.results import Result
from qsmflow.train.experiments.scans import ScannedMap, SubjectScans
from qsmflow.train.experiments.tables import Column, Table
from qsmflow.train.volumes import UnusableData

#: Name of the maps that were not corrected.
CORRUPTED = "corrupted"
#: Names of the corrections, the whole one last.
UNET, WHOLE = "U-Net", "U-Net + PReNet"

#: Least share of a resampled voxel that the mask of the moved scan must cover.
_WHOLLY_INSIDE = 0.99

Corrector = Callable[[ScannedMap], Tensor]


@dataclass(frozen=True)
class Scored:
    """Measures of the maps of one moved scan against the still one.

    Parameters
    ----------
    subject, scan : str
    values : mapping
        By map (``CORRUPTED`` or a correction), then by key of :data:`MEASURES`.
    """

    subject: str
    scan: str
    values: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class StillChange:
    """How much corrections change the map of a still scan.

    Parameters
    ----------
    subject : str
    values : mapping
        By correction: NRMSE in per cent.
    """

    subject: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Compared:
    """Maps of one moved scan on the grid of the still one.

    Parameters
    ----------
    subject, scan : str
    reference : Tensor
        (x, y, z) in ppm, of the still scan.
    maps : mapping
        By name: (x, y, z) in ppm.
    mask : Tensor
        (x, y, z), bool, where both scans know the susceptibility.
    voxel_size : tuple of float
        mm.
    """

    subject: str
    scan: str
    reference: Tensor
    maps: Mapping[str, Tensor]
    mask: Tensor
    voxel_size: tuple[float, float, float]

    def scored(self) -> Scored:
        """Measures of every map."""
        frame = {"mask": self.mask, "voxel_size": self.voxel_size}
        values = {name: measured(image, self.reference, **frame) for name, image in self.maps.items()}
        return Scored(self.subject, self.scan, values)


def correctors(unet: Bundle, prenet: Bundle, *, memory_gb: float | None = None) -> dict[str, Corrector]:
    """U-Net alone, and U-Net with PReNet.

    Parameters
    ----------
    unet, prenet : Bundle
        Of :func:`qsmflow.nets.bundle.load_bundle`.
    memory_gb : float, optional
        Most memory that they may take.

    Returns
    -------
    dict of str to callable
        From a scan to its corrected map.
    """
    # One that was never trained leaves slices as they are.
    idle = PReNet(PReNetSettings(channels=1, recursions=1, blocks=0)).to(unet.device).eval()

    def corrector(slices: Bundle) -> Corrector:
        return lambda scan: (
            correct_motion(
                scan.susceptibility,
                mask=scan.mask,
                voxel_size=scan.voxel_size,
                unet=unet,
                prenet=slices,
                memory_gb=memory_gb,
            ).susceptibility
        )

    return {UNET: corrector(replace(prenet, network=idle)), WHOLE: corrector(prenet)}


def on_one_grid(
    still: ScannedMap, moved: ScannedMap, corrections: Mapping[str, Corrector], *, subject: str
) -> Compared:
    """Correct a scan that lies on the grid of the still one.

    Parameters
    ----------
    still, moved : ScannedMap
    corrections : mapping
        By name.
    subject : str

    Returns
    -------
    Compared

    Raises
    ------
    UnusableData
        If it lies on another one.
    """
    if moved.mask.shape != still.mask.shape or not np.allclose(moved.affine, still.affine, atol=1e-2):
        raise UnusableData(
            f"{moved.label} is not on the grid of {still.label}; compare them as separate scans"
        )
    maps, mask = _maps(moved, corrections), still.mask & moved.mask
    return Compared(subject, moved.label, still.susceptibility, maps, mask, still.voxel_size)


def registered(
    still: ScannedMap, moved: ScannedMap, corrections: Mapping[str, Corrector], *, subject: str
) -> Compared:
    """Correct a scan where it was made, and bring all its maps onto the still one alike.

    Parameters
    ----------
    still, moved : ScannedMap
        With magnitudes, by which they are registered.
    corrections : mapping
        By name.
    subject : str

    Returns
    -------
    Compared
    """
    found = register(
        moved.magnitude,
        still.magnitude,
        moving_mask=moved.mask,
        fixed_mask=still.mask,
        moving_affine=moved.affine,
        fixed_affine=still.affine,
    )

    def carried(image: Tensor) -> Tensor:
        return resample(
            image,
            affine=moved.affine,
            matrix=found.matrix,
            like_shape=tuple(still.mask.shape),
            like_affine=still.affine,
        )

    mask = still.mask & (carried(moved.mask.float()) > _WHOLLY_INSIDE)
    maps = {name: carried(image) for name, image in _maps(moved, corrections).items()}
    return Compared(subject, moved.label, still.susceptibility, maps, mask, still.voxel_size)


def simulated_pairs(subjects: Iterable[SubjectScans], corrections: Mapping[str, Corrector]) -> Result:
    """Figures 3 and 6: simulated pairs on one grid, and what becomes of the still maps.

    Parameters
    ----------
    subjects : iterable of SubjectScans
        None of whom the networks have seen.
    corrections : mapping
        By name; the last one is compared with the paper.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        If there is no subject.
    """
    picture, found, changes = None, [], []
    for subject in subjects:
        pairs = [
            on_one_grid(subject.still, moved, corrections, subject=subject.label) for moved in subject.moved
        ]
        scored = [pair.scored() for pair in pairs]
        picture = picture or _picture("motion-3_maps", "Motion paper, Figure 3", pairs, scored)
        found += scored
        changes.append(_still_change(subject, corrections))
    title = "Motion paper, Figure 6: simulated pairs"
    tables, boxes = _tables("motion-6", title, found, MOTION_SIMULATED)
    return Result((*tables, still_table(changes)), (picture, boxes))


def separate_pairs(subjects: Iterable[SubjectScans], corrections: Mapping[str, Corrector]) -> Result:
    """Figure 7: still and moved scans with the head in different places, registered.

    Parameters
    ----------
    subjects : iterable of SubjectScans
        With magnitudes.
    corrections : mapping
        By name; the last one is compared with the paper.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        If there is no subject.
    """
    picture, found = None, []
    for subject in subjects:
        pairs = [
            registered(subject.still, moved, corrections, subject=subject.label) for moved in subject.moved
        ]
        scored = [pair.scored() for pair in pairs]
        picture = picture or _picture("motion-7_maps", "Motion paper, Figure 7", pairs, scored)
        found += scored
    title = "Motion paper, Figure 7: pairs that were registered"
    tables, boxes = _tables("motion-7", title, found, MOTION_VOLUNTEERS)
    return Result(tables, (picture, boxes))


def mean_table(name: str, title: str, found: Sequence[Scored], published: Mapping[str, BeforeAfter]) -> Table:
    """Mean of each measure over all scans, the paper's beside it.

    Parameters
    ----------
    name, title : str
        Of the table.
    found : sequence of Scored
    published : mapping
        By key of :data:`MEASURES`.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        If there is no scan.

    Examples
    --------
    >>> values = {"corrupted": dict.fromkeys(MEASURES, 2.0), "U-Net": dict.fromkeys(MEASURES, 1.0)}
    >>> table = mean_table("means", "Means", [Scored("sub-01", "01", values)], {})
    >>> table.column("corrupted")[0], table.column("U-Net")[0], table.column("change (%)")[0]
    (2.0, 1.0, -50.0)
    """
    if not found:
        raise ValueError(f"{title}: there is no moved scan to look at")
    names = [*found[0].values]
    rows = []
    for key, measure in MEASURES.items():
        means = [float(np.mean([one.values[series][key] for one in found])) for series in names]
        cells = _published_cells(published.get(key))
        rows.append((measure.heading, *means, *_change(means[0], means[-1]), *cells))
    headings = (
        "change",
        "change (%)",
        "paper, corrupted",
        "paper, corrected",
        "paper, change",
        "paper, change (%)",
    )
    columns = [Column(heading, 1 if "%" in heading else 4) for heading in headings]
    subjects = len({one.subject for one in found})
    notes = (
        f"{len(found)} moved scans of {subjects} subjects; change: of {names[-1]} against {names[0]}. "
        "The reference is the map of the still scan, the mask what both scans have in common; both maps are "
        "demeaned in it.",
        *DEFINITIONS.values(),
        MOTION_PAPER + "; it states neither range nor mask.",
    )
    return Table(
        name, title, (Column("measure"), *(Column(one, 4) for one in names), *columns), tuple(rows), notes
    )


def subject_table(name: str, found: Sequence[Scored]) -> Table:
    """RMSE of each subject, mean over its scans, and how much each correction changes it.

    Parameters
    ----------
    name : str
        Of the table.
    found : sequence of Scored

    Returns
    -------
    Table
        Last row: the subject with the worst change of each correction.
    """
    corrections = [one for one in found[0].values if one != CORRUPTED]
    rows = []
    for subject in dict.fromkeys(one.subject for one in found):
        own = [one.values for one in found if one.subject == subject]
        means = {series: float(np.mean([values[series]["rmse"] for values in own])) for series in own[0]}
        changes = [_change(means[CORRUPTED], means[correction])[1] for correction in corrections]
        rows.append((subject, len(own), *means.values(), *changes))
    worst = [max(row[index] for row in rows) for index in range(-len(corrections), 0)]
    rows.append(("worst change", None, *[None] * (1 + len(corrections)), *worst))
    return Table(
        name,
        "RMSE (ppm) of each subject",
        (
            Column("subject"),
            Column("scans"),
            *(Column(one, 4) for one in found[0].values),
            *(Column(f"{one}, change (%)", 1) for one in corrections),
        ),
        tuple(rows),
        ("Means over the scans of a subject; a change above zero makes the map worse.",),
    )


def scan_table(name: str, found: Sequence[Scored]) -> Table:
    """Every measure of every map, a row each.

    Parameters
    ----------
    name : str
        Of the table.
    found : sequence of Scored

    Returns
    -------
    Table
    """
    return Table(
        name,
        "Every scan",
        (
            Column("subject"),
            Column("scan"),
            Column("map"),
            *(Column(one.heading, one.digits) for one in MEASURES.values()),
        ),
        tuple(
            (one.subject, one.scan, series, *(values[key] for key in MEASURES))
            for one in found
            for series, values in one.values.items()
        ),
    )


def still_table(changes: Sequence[StillChange]) -> Table:
    """How much corrections change maps that need none.

    Parameters
    ----------
    changes : sequence of StillChange

    Returns
    -------
    Table
        Last row: the mean.
    """
    names = [*changes[0].values]
    means = [float(np.mean([one.values[name] for one in changes])) for name in names]
    return Table(
        "motion-6_still",
        "Change of the map of the still scan, NRMSE (%)",
        (Column("subject"), *(Column(name, 2) for name in names)),
        (*((one.subject, *one.values.values()) for one in changes), ("mean", *means)),
        ("Corrected against uncorrected map of the still scan: zero if nothing is changed.",),
    )


def _maps(moved: ScannedMap, corrections: Mapping[str, Corrector]) -> dict[str, Tensor]:
    """The map of a scan as it is and corrected, zero outside its mask and without a mean in it."""
    maps = {CORRUPTED: moved.susceptibility, **{name: one(moved) for name, one in corrections.items()}}
    return {name: torch.where(moved.mask, demeaned(image, moved.mask), 0) for name, image in maps.items()}


def _still_change(subject: SubjectScans, corrections: Mapping[str, Corrector]) -> StillChange:
    still = subject.still
    values = {
        name: nrmse(correct(still), still.susceptibility, mask=still.mask)
        for name, correct in corrections.items()
    }
    return StillChange(subject.label, values)


def _tables(
    stem: str, title: str, found: Sequence[Scored], published: Mapping[str, BeforeAfter]
) -> tuple[tuple[Table, ...], BoxFigure]:
    """Means, subjects and scans, and the spread over scans as boxes."""
    means = mean_table(f"{stem}_means", title, found, published)
    tables = (means, subject_table(f"{stem}_subjects", found), scan_table(f"{stem}_scans", found))
    names = [*found[0].values]
    boxes = BoxFigure(
        f"{stem}_boxes",
        f"{title} (boxes: quartiles; triangles: means; red: means of the paper)",
        {
            measure.heading: {name: [one.values[name][key] for one in found] for name in names}
            for key, measure in MEASURES.items()
        },
        {
            MEASURES[key].heading: {names[0]: one.corrupted, names[-1]: one.corrected}
            for key, one in published.items()
        },
    )
    return tables, boxes


def _picture(name: str, title: str, pairs: Sequence[Compared], scored: Sequence[Scored]) -> MapFigure:
    """Maps of the scan of a subject whose corrupted map is neither among the best nor the worst."""
    order = np.argsort([one.values[CORRUPTED]["nrmse"] for one in scored], kind="stable")
    chosen = pairs[int(order[len(order) // 2])]
    return error_figure(
        name,
        f"{title}: {chosen.subject}, {chosen.scan}",
        truth=chosen.reference.cpu().numpy(),
        maps={label: image.cpu().numpy() for label, image in chosen.maps.items()},
        mask=chosen.mask.cpu().numpy(),
        voxel_size=chosen.voxel_size,
    )


def _change(before: float, after: float) -> tuple[float, float]:
    """Difference, and the difference in per cent of what was before."""
    return after - before, 100 * (after - before) / before if before else 0.0


def _published_cells(published: BeforeAfter | None) -> tuple[float | None, ...]:
    if published is None:
        return None, None, None, None
    return (
        published.corrupted,
        published.corrected,
        *_change(published.corrupted, published.corrected),
    )
