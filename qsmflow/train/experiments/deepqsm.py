"""The four experiments of DeepQSM: shapes, a brain's field, a measured field, lesions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from qsmflow.core.dipole import b0_direction, dipole_field
from qsmflow.core.inversion.medi import IN_VIVO
from qsmflow.core.metrics import nrmse
from qsmflow.sim.canvas import LABELS
from qsmflow.sim.head import build_head
from qsmflow.sim.lesions import LesionCounts
from qsmflow.sim.mgre import MgreProtocol, simulate_mgre
from qsmflow.sim.protocols import protocol, with_slab
from qsmflow.sim.random_shapes import ShapeSettings, stream_shapes
from qsmflow.sim.subject import draw_subject
from qsmflow.train.experiments.figures import MapFigure, ScatterFigure, error_figure
from qsmflow.train.experiments.inversions import (
    REGULARISATIONS,
    THRESHOLDS,
    LocalField,
    Method,
    Recovered,
    medi,
    recover,
    tkd,
    tuned,
)
from qsmflow.train.experiments.measures import DEFINITIONS, MEASURES, demeaned, measured
from qsmflow.train.experiments.published import (
    CHALLENGE_2016,
    CHALLENGE_PAPER,
    DEEPQSM_PAPER,
    DEEPQSM_SECONDS,
)
from qsmflow.train.experiments.results import Result
from qsmflow.train.experiments.tables import Column, Table
from qsmflow.train.reconstruction import reconstruct

#: Voxels of 1 mm that hold a brain.
BRAIN_SHAPE = (160, 192, 152)
#: Lesions of the subject of the last experiment.
LESIONS = LesionCounts(microbleeds=12, calcifications=4, iron_lesions=5)
LESION_TISSUES = ("microbleed", "calcification", "iron lesion")
#: Fewest voxels of a lesion that is measured.
LEAST_VOXELS = 3
#: Tissues of the table of regions.
REGIONS = (
    "white matter",
    "grey matter",
    "caudate",
    "putamen",
    "globus pallidus",
    "thalamus",
    "red nucleus",
    "substantia nigra",
    "dentate",
)
#: Echo time in s at which a digital head is as bright as its magnitude in the second experiment.
_ECHO_TIME = 0.015
_TIME_NOTE = f"DeepQSM's own time: about {DEEPQSM_SECONDS:g} s a volume on a workstation."


@dataclass(frozen=True)
class Brain:
    """A brain whose susceptibility is known.

    Parameters
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm.
    mask : Tensor
        (x, y, z), bool.
    voxel_size : tuple of float
        mm.
    b0_direction : tuple of float
        B0 in voxel axes.
    magnitude : Tensor, optional
        (x, y, z), any unit.
    """

    susceptibility: Tensor
    mask: Tensor
    voxel_size: tuple[float, float, float]
    b0_direction: tuple[float, float, float]
    magnitude: Tensor | None = None

    def local_field(self) -> LocalField:
        """The field of the susceptibility less its mean in the mask, with nothing outside and no noise."""
        inside = self.susceptibility - self.susceptibility[self.mask].mean()
        field = dipole_field(
            torch.where(self.mask, inside, 0), voxel_size=self.voxel_size, b0_direction=self.b0_direction
        )
        field = torch.where(self.mask, field, 0)
        return LocalField(field, self.mask, self.voxel_size, self.b0_direction, self.magnitude)


def unseen_shapes(
    methods: Mapping[str, Method],
    *,
    samples: int,
    seed: int,
    settings: ShapeSettings | None = None,
    device=None,
) -> Result:
    """Experiment 1: shapes that no network has seen, without noise.

    Parameters
    ----------
    methods : mapping
        By name.
    samples : int
        How many.
    seed : int
        Of the stream of shapes.
    settings : ShapeSettings, optional
        What shapes look like; 64³ voxels of 1 mm unless given.
    device : torch.device, optional
        Where it is computed.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        If there is no sample.
    """
    if samples < 1:
        raise ValueError(f"experiment 1 needs one sample or more, got {samples}")
    settings = settings or ShapeSettings()
    drawn = [*islice(stream_shapes(settings, seed=seed, batch_size=1, device=device), samples)]
    problems = [
        LocalField(
            batch.field[0],
            torch.ones_like(batch.field[0], dtype=torch.bool),
            settings.voxel_size,
            tuple(batch.b0_direction[0].tolist()),
        )
        for batch in drawn
    ]
    found = [recover(methods, problem) for problem in problems]
    rows = []
    for name in methods:
        errors = np.array(
            [
                nrmse(maps[name].susceptibility, batch.susceptibility[0], mask=problem.mask)
                for maps, batch, problem in zip(found, drawn, problems, strict=True)
            ]
        )
        spread = float(errors.std(ddof=1)) if samples > 1 else None
        # The first volume also pays for what is prepared once.
        seconds = float(np.median([maps[name].seconds for maps in found]))
        rows.append((name, samples, float(errors.mean()), spread, float(errors.max()), seconds))
    table = Table(
        "deepqsm-1_shapes",
        "DeepQSM 1: unseen random shapes",
        (
            Column("method"),
            Column("samples"),
            Column("mean NRMSE (%)", 1),
            Column("SD (%)", 1),
            Column("worst (%)", 1),
            Column("median time (s)", 2),
        ),
        tuple(rows),
        (DEFINITIONS["nrmse"], "The paper shows this experiment in pictures.", DEEPQSM_PAPER + "."),
    )
    first = Brain(drawn[0].susceptibility[0], problems[0].mask, settings.voxel_size, problems[0].b0_direction)
    return Result((table,), (_map_figure(table, first, problems[0], found[0]),))


def forward_brain(brain: Brain, methods: Mapping[str, Method], *, against: str) -> Result:
    """Experiment 2: the field that a brain's susceptibility makes, inverted again.

    Parameters
    ----------
    brain : Brain
    methods : mapping
        By name.
    against : str
        Name of the method whose NRMSE the others are compared with.

    Returns
    -------
    Result
    """
    problem = brain.local_field()
    found = recover(methods, problem)
    table = _compared(
        "deepqsm-2_forward",
        "DeepQSM 2: the field of a brain's susceptibility",
        brain=brain,
        found=found,
        against=against,
        notes=(_TIME_NOTE, DEEPQSM_PAPER + "."),
    )
    return Result((table,), (_map_figure(table, brain, problem, found),))


def measured_field(
    problem: LocalField, truth: Tensor, methods: Mapping[str, Method], *, against: str
) -> Result:
    """Experiment 3: a measured local field against a better map of the same brain.

    Beside the methods: division and MEDI with the threshold and λ that the truth likes best.

    Parameters
    ----------
    problem : LocalField
    truth : Tensor
        (x, y, z) in ppm.
    methods : mapping
        By name.
    against : str
        Name of the method whose NRMSE the others are compared with.

    Returns
    -------
    Result
    """
    found = recover(methods, problem)
    edges = "" if problem.magnitude is not None else " without edges (TV)"
    families = {
        "TKD, best threshold {:g}": (tkd, THRESHOLDS),
        f"MEDI{edges}, best λ {{:g}}": (
            lambda value: medi(replace(IN_VIVO, regularisation=value)),
            REGULARISATIONS,
        ),
    }
    notes = ["What is called best was chosen by this truth, which no user has."]
    for name, (family, values) in families.items():
        best = tuned(family, values, problem=problem, truth=truth)
        found[name.format(best.value)] = best.recovered
        if best.at_end:
            notes.append(f"{name.format(best.value)} is the last setting tried; a better one may lie beyond.")
    brain = Brain(truth, problem.mask, problem.voxel_size, problem.b0_direction)
    table = _compared(
        "deepqsm-3_measured",
        "DeepQSM 3: a measured local field",
        brain=brain,
        found=found,
        against=against,
        notes=(*notes, _TIME_NOTE, DEEPQSM_PAPER + "."),
    )
    published = Table(
        "deepqsm-3_published",
        "Demeaned NRMSE (%) that others reached on the field of the 2016 challenge",
        (Column("method"), Column("against COSMOS", 1), Column("against χ33", 1)),
        tuple((name, *values) for name, values in CHALLENGE_2016.items()),
        (
            CHALLENGE_PAPER + ".",
            "To be set beside the table above only if that is the field it was made from.",
        ),
    )
    return Result((table, published), (_map_figure(table, brain, problem, found),))


def lesions(
    scan_protocol: MgreProtocol,
    methods: Mapping[str, Method],
    *,
    against: str,
    seed: int,
    counts: LesionCounts = LESIONS,
    device=None,
) -> Result:
    """Experiment 4: a subject with lesions, scanned with noise and processed from the echoes on.

    Parameters
    ----------
    scan_protocol : MgreProtocol
        How the subject is scanned.
    methods : mapping
        By name; MEDI is that of the chain itself.
    against : str
        Name of the method whose NRMSE the others are compared with.
    seed : int
        Of the subject and the noise.
    counts : LesionCounts
        How many lesions of each kind.
    device : torch.device, optional
        Where it is computed.

    Returns
    -------
    Result
    """
    subject = draw_subject(seed, lesions=counts)
    scan = simulate_mgre(scan_protocol, subject=subject, seed=seed, device=device)
    made = reconstruct(
        scan.signal,
        echo_times=scan_protocol.echo_times,
        affine=scan_protocol.affine,
        field_strength=scan_protocol.field_strength,
    )
    # Voxels that the mask of the scan adds to the brain have no truth.
    mask = made.mask & scan.mask
    space = (scan_protocol.voxel_size, b0_direction(scan_protocol.affine))
    problem = LocalField(made.local_field, made.mask, *space)
    found = {**recover(methods, problem), "MEDI, in-vivo preset": Recovered(made.susceptibility)}
    brain = Brain(scan.susceptibility, mask, *space)
    maps = {name: one.susceptibility for name, one in found.items()}
    lesion_table, agreement, scatter = lesion_tables(maps, brain=brain, labels=scan.labels)
    table = _compared(
        "deepqsm-4_maps",
        "DeepQSM 4: a subject with lesions, whole brain",
        brain=brain,
        found=found,
        against=against,
        notes=("Local field of the whole chain: echo fit, unwrapping, PDF.", DEEPQSM_PAPER + "."),
    )
    figures = (scatter, _map_figure(table, brain, problem, found))
    return Result(
        (agreement, lesion_table, region_table(maps, brain=brain, labels=scan.labels), table), figures
    )


def lesion_regions(labels: Tensor, *, mask: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Each lesion of a map of labels: voxels of one lesion tissue that touch by their faces.

    Parameters
    ----------
    labels : Tensor
        (x, y, z), as in :data:`qsmflow.sim.canvas.LABELS`.
    mask : Tensor
        (x, y, z), bool.

    Yields
    ------
    tuple of str and Tensor
        Tissue, and where it is (x, y, z), bool; lesions of fewer than ``LEAST_VOXELS`` voxels are left out.

    Examples
    --------
    >>> labels = torch.zeros(9, 3, 3, dtype=torch.int8)
    >>> labels[:3], labels[5:] = LABELS["microbleed"], LABELS["microbleed"]
    >>> [int(region.sum()) for _, region in lesion_regions(labels, mask=torch.ones_like(labels) > 0)]
    [27, 36]
    """
    for tissue in LESION_TISSUES:
        parts, count = ndimage.label(((labels == LABELS[tissue]) & mask).cpu().numpy())
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        for part in range(1, count + 1):
            if sizes[part] >= LEAST_VOXELS:
                yield tissue, torch.from_numpy(parts == part).to(labels.device)


def lesion_tables(
    maps: Mapping[str, Tensor], *, brain: Brain, labels: Tensor
) -> tuple[Table, Table, ScatterFigure]:
    """Mean susceptibility of each lesion, and how well each method tells it.

    Parameters
    ----------
    maps : mapping
        By method, (x, y, z) in ppm.
    brain : Brain
        The truth.
    labels : Tensor
        (x, y, z), as in :data:`qsmflow.sim.canvas.LABELS`.

    Returns
    -------
    lesion_table : Table
        A row a lesion.
    agreement : Table
        A row a method.
    scatter : ScatterFigure
    """
    truth = demeaned(brain.susceptibility, brain.mask)
    found = {name: demeaned(image, brain.mask) for name, image in maps.items()}
    regions = [*lesion_regions(labels, mask=brain.mask)]
    true = [float(truth[region].mean()) for _, region in regions]
    told = {name: [float(image[region].mean()) for _, region in regions] for name, image in found.items()}
    rows = tuple(
        (tissue, int(region.sum()), true[row], *(values[row] for values in told.values()))
        for row, (tissue, region) in enumerate(regions)
    )
    note = f"Means over lesions of {LEAST_VOXELS} voxels or more, relative to the mean of the brain, ppm."
    lesion_table = Table(
        "deepqsm-4_lesions",
        "DeepQSM 4: susceptibility of each lesion (ppm)",
        (Column("lesion"), Column("voxels"), Column("truth"), *(Column(name) for name in told)),
        rows,
        (note,),
    )
    agreement = Table(
        "deepqsm-4_agreement",
        "DeepQSM 4: recovered against true susceptibility of lesions",
        (
            Column("method"),
            Column("lesions"),
            Column("slope"),
            Column("correlation"),
            Column("mean |error| (ppm)", 4),
        ),
        tuple(
            (name, len(true), *_agreement(np.array(values), np.array(true))) for name, values in told.items()
        ),
        (note, "Slope of a line through zero; 1 where all of a lesion's susceptibility is recovered."),
    )
    scatter = ScatterFigure("deepqsm-4_lesions", "Mean susceptibility of lesions", "ppm", tuple(true), told)
    return lesion_table, agreement, scatter


def region_table(maps: Mapping[str, Tensor], *, brain: Brain, labels: Tensor) -> Table:
    """Mean susceptibility of tissues, truth beside each method.

    Parameters
    ----------
    maps, brain, labels
        As in :func:`lesion_tables`.

    Returns
    -------
    Table
    """
    images = {"truth": brain.susceptibility, **maps}
    images = {name: demeaned(image, brain.mask) for name, image in images.items()}
    regions = {tissue: (labels == LABELS[tissue]) & brain.mask for tissue in REGIONS}
    return Table(
        "deepqsm-4_regions",
        "DeepQSM 4: mean susceptibility of regions (ppm)",
        (Column("region"), Column("voxels"), *(Column(name, 4) for name in images)),
        tuple(
            (tissue, int(region.sum()), *(float(image[region].mean()) for image in images.values()))
            for tissue, region in regions.items()
            if region.any()
        ),
        ("Relative to the mean of the brain.",),
    )


def brain_protocol(*, sloppy: bool = False) -> MgreProtocol:
    """Scan of a whole brain at 1 mm and 3 T, oblique; or a few coarse voxels, for tests."""
    if sloppy:
        return protocol("classic", sloppy=True)
    return with_slab(protocol("classic"), shape=BRAIN_SHAPE, voxel_size=(1, 1, 1))


def digital_brain(scan_protocol: MgreProtocol, *, seed: int, device=None) -> Brain:
    """Brain of a digital head, with the magnitude of a gradient echo.

    Parameters
    ----------
    scan_protocol : MgreProtocol
        Whose slab it is drawn on; B0 lies as in it.
    seed : int
        Of the subject.
    device : torch.device, optional
        Where it is drawn.

    Returns
    -------
    Brain

    Examples
    --------
    >>> digital_brain(brain_protocol(sloppy=True), seed=3).susceptibility.shape  # doctest: +SKIP
    torch.Size([30, 34, 24])
    """
    head = build_head(
        draw_subject(seed),
        shape=scan_protocol.shape,
        affine=scan_protocol.affine,
        field_strength=scan_protocol.field_strength,
        maps=("susceptibility", "proton_density", "r2star"),
        device=device,
    )
    return Brain(
        head.susceptibility,
        head.brain > 0.5,
        scan_protocol.voxel_size,
        b0_direction(scan_protocol.affine),
        head.proton_density * torch.exp(-_ECHO_TIME * head.r2star),
    )


def _compared(
    name: str,
    title: str,
    *,
    brain: Brain,
    found: Mapping[str, Recovered],
    against: str,
    notes: Sequence[str],
) -> Table:
    """A row of measures a method."""
    values = {
        label: measured(
            one.susceptibility, brain.susceptibility, mask=brain.mask, voxel_size=brain.voxel_size
        )
        for label, one in found.items()
    }
    columns = (
        Column("method"),
        *(Column(measure.heading, measure.digits) for measure in MEASURES.values()),
        Column(f"NRMSE / that of {against}", 2),
        Column("time (s)", 1),
    )
    unit = values[against]["nrmse"]
    rows = tuple(
        (
            label,
            *(one[key] for key in MEASURES),
            one["nrmse"] / unit if unit else None,
            found[label].seconds,
        )
        for label, one in values.items()
    )
    return Table(name, title, columns, rows, (*DEFINITIONS.values(), *notes))


def _agreement(found: np.ndarray, true: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """Slope of a line through zero, correlation, and mean size of the error."""
    if not len(true):
        return None, None, None
    correlation = float(np.corrcoef(found, true)[0, 1]) if len(true) > 1 else None
    return float(found @ true / (true @ true)), correlation, float(np.abs(found - true).mean())


def _map_figure(table: Table, brain: Brain, problem: LocalField, found: Mapping[str, Recovered]) -> MapFigure:
    def array(image: Tensor) -> np.ndarray:
        return image.cpu().numpy()

    return error_figure(
        table.name,
        table.title,
        truth=array(brain.susceptibility),
        beside={"local field": array(problem.field)},
        maps={name: array(one.susceptibility) for name, one in found.items()},
        mask=array(brain.mask),
        voxel_size=brain.voxel_size,
    )
