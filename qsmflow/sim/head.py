"""A digital head: the maps of one subject's tissues on any grid, in any pose.

Head space is in mm, x to the right, y to the front, z to the top, with its origin at the anterior
commissure, so that positions are those of the MNI template that every subject is warped to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qsmflow.sim.atlas import load_atlas
from qsmflow.sim.brain import paint_brain
from qsmflow.sim.canvas import Canvas, Palette, ramp, tube_share
from qsmflow.sim.grids import voxel_edges
from qsmflow.sim.shapes import Point, Tube
from qsmflow.sim.subject import VARIATIONS, Subject
from qsmflow.sim.surroundings import (
    PARTS,
    TEMPLES,
    Ground,
    Part,
    air_sinuses,
    paint_parts,
    paint_surroundings,
    place_parts,
    skin_distance,
)
from qsmflow.sim.template import load_template
from qsmflow.sim.warp import Knots, Warp

#: Lower and upper corner of a box that holds every head with its neck, mm.
HEAD_BOX: tuple[Point, Point] = ((-100.0, -130.0, -200.0), (100.0, 125.0, 112.0))

PROPERTIES = ("susceptibility", "r2star", "proton_density", "t1", "chemical_shift")

#: Voxels that are painted together on the CPU, so that they stay in its caches.
_SLAB = 600_000


@dataclass(frozen=True)
class Head:
    """Tissue properties of one subject on a grid; maps that were not asked for are None.

    Parameters
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm relative to water; +9.4 in air.
    r2star : Tensor
        (x, y, z) in 1/s, at the field strength of the head.
    proton_density : Tensor
        (x, y, z) relative to water.
    t1 : Tensor
        (x, y, z) in s, at the field strength of the head.
    chemical_shift : Tensor
        (x, y, z) in ppm of frequency against water; −3.4 in fat.
    brain : Tensor
        (x, y, z), share of each voxel that lies within the brain's outer surface, 0 to 1.
    affine : numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm.
    labels : Tensor
        (x, y, z) int8, index in :data:`~qsmflow.sim.canvas.LABELS` of what fills most of the voxel.
    """

    susceptibility: Tensor | None
    r2star: Tensor | None
    proton_density: Tensor | None
    t1: Tensor | None
    chemical_shift: Tensor | None
    brain: Tensor
    affine: np.ndarray
    labels: Tensor | None = None


def build_head(
    subject: Subject,
    *,
    shape: Sequence[int],
    affine: np.ndarray,
    field_strength: float = 3.0,
    maps: Sequence[str] = PROPERTIES,
    device=None,
) -> Head:
    """Draw the head of one subject on a grid.

    Everything is a function of the point in head space: a coarse and a fine grid show the same head, and
    ``affine=inverse_pose @ affine`` shows it moved.

    Parameters
    ----------
    subject : Subject
        Whose head.
    shape : sequence of int
        Voxels.
    affine : numpy.ndarray
        (4, 4), voxel to head space in mm.
    field_strength : float
        T, for R2* and T1.
    maps : sequence of str
        Which of :data:`PROPERTIES`, and ``"labels"``, are wanted; the fewer, the faster.
    device : torch.device, optional
        Where the maps are drawn.

    Returns
    -------
    Head

    Raises
    ------
    ValueError
        If a map is unknown.

    Examples
    --------
    >>> from qsmflow.sim.subject import draw_subject
    >>> head = build_head(draw_subject(0), shape=(8, 8, 8), affine=np.diag([20.0, 20, 20, 1]))
    >>> head.susceptibility.shape
    torch.Size([8, 8, 8])
    """
    if unknown := set(maps) - {*PROPERTIES, "labels"}:
        raise ValueError(f"no such maps: {sorted(unknown)}; known are {[*PROPERTIES, 'labels']}")
    device = torch.device(device or "cpu")
    shape, affine = tuple(shape), np.asarray(affine, dtype=float)
    palette = Palette.of(
        subject.tissues,
        properties=[name for name in PROPERTIES if name in maps],
        field_strength=field_strength,
        device=device,
    )
    canvas = Canvas.filled(palette, "air", shape, labelled="labels" in maps)
    groups = {
        "temples": TEMPLES,
        "parts": (*PARTS, *air_sinuses(subject)),
        "lesions": [
            Part(x.tissue, x.solid, strength=x.strength) for x in (*subject.calcifications, *subject.lesions)
        ],
    }
    placed = {k: place_parts(v, warp=subject.warp, shape=shape, affine=affine) for k, v in groups.items()}
    veins = _placed(subject.veins, subject.warp)
    subject = subject.to(device)
    brain = torch.empty(shape, device=device)
    for ground in _slabs(subject, shape, affine, device):
        slab = slice(ground.first, ground.first + len(ground.hull))
        _paint_slab(canvas.part((slab,)), ground, subject, **placed)
        brain[slab] = ramp(ground.hull, ground.edge)
    canvas.paint("vein", tube_share(veins, shape=shape, affine=affine, device=device))
    return Head(
        **dict.fromkeys(PROPERTIES) | dict(zip(palette.properties, canvas.values, strict=True)),
        brain=brain,
        affine=affine,
        labels=canvas.labels,
    )


def _slabs(
    subject: Subject, shape: Sequence[int], affine: np.ndarray, device: torch.device
) -> Iterator[Ground]:
    """The grid in slabs along x."""
    template, knots = load_template(device), Knots.over(shape, affine, device=device)
    at_knots = subject.warp(knots.points)
    variations = subject.variations(knots.points)
    skin = skin_distance(at_knots, template.hull(at_knots)[0], variations, subject=subject)
    rows = knots.rows(torch.cat([at_knots, variations, skin[None]]))
    thick = max(1, _SLAB // (shape[1] * shape[2])) if device.type == "cpu" else shape[0]
    edge = float(np.mean(voxel_edges(affine)))
    for first in range(0, shape[0], thick):
        smooth = knots.slab(rows, first, min(first + thick, shape[0]))
        points, varied, skin = smooth.split((3, len(VARIATIONS), 1))
        yield Ground(first, points, template.hull(points)[0], skin[0], varied, edge)


def _paint_slab(canvas: Canvas, ground: Ground, subject: Subject, *, temples, parts, lesions) -> None:
    """Paint everything but the veins."""
    paint_surroundings(canvas, ground, subject=subject, temples=temples, parts=parts)
    inside = (ground.hull < 0).flatten().nonzero()[:, 0]
    if len(inside):
        brain = paint_brain(
            ground.points.flatten(1)[:, inside],
            ground.variations.flatten(1)[:, inside],
            subject=subject,
            palette=canvas.palette,
            atlas=load_atlas(ground.points.device),
            edge=ground.edge,
            labelled=canvas.labels is not None,
        )
        canvas.put(inside, brain)
    paint_parts(canvas, lesions, ground, subject=subject)


def _placed(tubes: Sequence[Tube], warp: Warp) -> list[Tube]:
    """Tubes in MNI space brought into a subject's head."""
    nodes = torch.tensor([point for tube in tubes for point in tube.path], dtype=torch.float32).T
    moved = warp.inverse(nodes).T.numpy()
    ends = np.cumsum([len(tube.path) for tube in tubes])[:-1]
    return [replace(tube, path=path) for tube, path in zip(tubes, np.split(moved, ends), strict=True)]
