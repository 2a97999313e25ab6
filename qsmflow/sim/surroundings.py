"""What lies around the brain: scalp, skull, face, neck and the air in them.

Air and bone are where the background field comes from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qsmflow.sim.canvas import Canvas, ramp
from qsmflow.sim.grids import box_indices, voxel_edges
from qsmflow.sim.shapes import Ellipsoid, Solid, Tube, mirrored, smooth_union
from qsmflow.sim.subject import VARIATIONS, Subject
from qsmflow.sim.warp import Warp

#: Fluid and meninges between the brain's hull and the skull, and the thickness of skin, mm.
MENINGES, SKIN = 1.3, 2.0
#: Thickness of the outer and of the inner table of the skull, mm; between them is marrow.
TABLE = 1.7
#: Below this height the skull is its base, without marrow, mm.
BASE = -14.0
#: Air is no nearer to the brain's hull than this, mm.
KEPT_OFF = 3.0
#: Scale of the texture against which air cells are ragged: they are larger than the grain of the brain.
RAGGEDNESS = 0.35
#: How far a warp bends what is straight within a part, mm.
BULGE = 3.0


@dataclass(frozen=True)
class Ground:
    """A slab of the grid and where its voxels lie.

    Parameters
    ----------
    first : int
        Its first plane along x.
    points : Tensor
        (3, x, y, z), MNI mm.
    hull, skin : Tensor
        (x, y, z), distances to the brain's hull and to the skin, mm.
    variations : Tensor
        (variation, x, y, z), the subject's smooth variations.
    edge : float
        Edge of a voxel, mm.
    """

    first: int
    points: Tensor
    hull: Tensor
    skin: Tensor
    variations: Tensor
    edge: float


@dataclass(frozen=True)
class Part:
    """One solid of the head.

    Parameters
    ----------
    tissue : str
        What it is made of.
    solid : Solid
        MNI mm.
    share : float
        Of the tissue in it; the rest is what was there before.
    strength : float
        Factor on the tissue's susceptibility.
    ragged : float
        Standard deviation of its surface, mm.
    wall : float
        Thickness of the bone around it, mm.
    """

    tissue: str
    solid: Solid
    share: float = 1.0
    strength: float = 1.0
    ragged: float = 0.0
    wall: float = 0.0


@dataclass(frozen=True)
class PlacedPart:
    """A part, and the block of the grid that it can reach: first voxel and one past the last."""

    part: Part
    first: tuple[int, int, int]
    stop: tuple[int, int, int]

    def block(self, ground: Ground) -> tuple[slice, ...]:
        """The block within a slab of the grid."""
        shape, shift = ground.hull.shape, (ground.first, 0, 0)
        bounds = zip(self.first, self.stop, shift, shape, strict=True)
        return tuple(slice(max(a - s, 0), max(min(b - s, n), 0)) for a, b, s, n in bounds)


def place_parts(
    parts: Sequence[Part], *, warp: Warp, shape: Sequence[int], affine: np.ndarray
) -> tuple[PlacedPart, ...]:
    """Find the voxels that parts in MNI space reach in a subject's head; parts off the grid are left out."""
    if not parts:
        return ()
    bounds = torch.tensor([part.solid.bounds() for part in parts], dtype=torch.float32)
    share = torch.cartesian_prod(*[torch.linspace(0, 1, 3)] * 3)
    boxes = torch.lerp(bounds[:, None, 0], bounds[:, None, 1], share)
    boxes = warp.inverse(boxes.movedim(-1, 0)).movedim(0, -1)
    placed = []
    for part, lower, upper in zip(parts, boxes.amin(1).numpy(), boxes.amax(1).numpy(), strict=True):
        # Between the points that are followed, a warp bulges by no more than this.
        margin = BULGE + part.wall + 2.5 * part.ragged + float(np.mean(voxel_edges(affine)))
        first, stop = box_indices(shape, affine, lower - margin, upper + margin)
        if np.all(stop > 0) and np.all(first < shape):
            placed.append(PlacedPart(part, tuple(first.tolist()), tuple(stop.tolist())))
    return tuple(placed)


def _pair(tissue: str, solid: Ellipsoid | Tube, **others) -> tuple[Part, Part]:
    return tuple(Part(tissue, side, **others) for side in mirrored(solid))


#: What is painted before the skull is, MNI mm.
TEMPLES = _pair("muscle", Ellipsoid((66, 6, -4), (14, 36, 36)))

_JAW = ((50, 2, -82), (40, 22, -108), (14, 54, -116), (0, 60, -117))
_CANAL = ((0, -45, -64), (0, -44, -85), (0, -42, -120), (0, -48, -230))

#: In the order they are painted, MNI mm.
PARTS: tuple[Part, ...] = (
    # The cistern above the sella, which the hull leaves out.
    Part("csf", Ellipsoid((0, -5, -17), (12, 10, 7))),
    # Face: cheekbones, upper jaw, lower jaw and its marrow.
    *_pair("bone", Tube(((62, -8, -44), (58, 20, -42), (46, 44, -44), (30, 58, -50)), (3, 4, 6, 6))),
    Part("bone", Ellipsoid((0, 52, -82), (27, 22, 12))),
    *_pair("bone", Tube(((50, 0, -48), *_JAW), (5, 6, 8, 9, 9))),
    *_pair("fat", Tube(_JAW, (3, 5, 6, 6)), share=0.6),
    # Neck: vertebrae with marrow, spinal canal, cord; great veins.
    Part("bone", Tube(((0, -32, -70), (0, -26, -90), (0, -24, -120), (0, -32, -230)), (13, 12, 12, 13))),
    Part("fat", Tube(((0, -24, -84), (0, -19, -120), (0, -27, -230)), (5, 6, 7)), share=0.5),
    Part("bone", Tube(((0, -52, -78), (0, -52, -120), (0, -58, -230)), (12, 11, 11))),
    Part("csf", Tube(_CANAL, (10, 9, 8.5, 8.5))),
    Part("white matter", Tube(_CANAL, (6.5, 5.5, 5, 5))),
    *_pair(
        "vein", Tube(((26, -30, -58), (28, -22, -90), (30, -18, -130), (32, -20, -230)), (4, 4.5, 5, 5.5))
    ),
    # Orbits: wall, fat, eye and lens, optic nerve, muscles.
    *_pair("bone", Ellipsoid((30, 48, -34), (22, 26, 20), (0, 0, 20))),
    *_pair("fat", Ellipsoid((31, 52, -34), (20, 27, 17.5), (0, 0, 20))),
    *_pair("eye", Ellipsoid((33, 60, -36), (12, 12, 12))),
    *_pair("muscle", Ellipsoid((33.5, 69, -36), (4.6, 1.9, 4.6))),
    *_pair("white matter", Tube(((32, 48, -35), (20, 26, -26), (8, 10, -18)), (2, 2, 2))),
    *_pair("muscle", Tube(((45, 56, -34), (36, 36, -32), (20, 24, -28)), (1.5, 2.8, 1.5))),
    *_pair("muscle", Tube(((21, 58, -35), (20, 38, -32), (16, 24, -28)), (1.5, 2.6, 1.5))),
    # Air: the nose, half filled by its conchae, ethmoid cells, pharynx, ear canals and middle ears.
    Part("muscle", Ellipsoid((0, 58, -60), (14, 34, 22))),
    *_pair("air", Ellipsoid((6, 56, -60), (3.6, 32, 18)), ragged=1.6),
    *_pair("air", Ellipsoid((7, 49, -31), (6, 17, 8.5)), ragged=1.2, wall=1.0),
    Part(
        "air", Tube(((0, 20, -62), (0, 8, -68), (0, 2, -88), (0, 2, -125), (0, 4, -230)), (10, 10, 8, 9, 9))
    ),
    *_pair("air", Tube(((47, -21, -50), (60, -23, -52), (95, -24, -54)), (3.2, 3.4, 4.2)), wall=1.5),
    *_pair("air", Ellipsoid((44, -24, -46), (4, 6, 5)), wall=1.2),
)


def air_sinuses(subject: Subject) -> list[Part]:
    """The air spaces that differ most between people."""
    usual = {
        "frontal": (Ellipsoid((11, 73, -6), (11, 6, 13), (0, 0, -15)), 1.0),
        "sphenoid": (Ellipsoid((8, 22, -32), (7.5, 12, 9)), 0.8),
        "maxillary": (Ellipsoid((33, 45, -71), (12, 14, 13)), 0.8),
        "mastoid": (Ellipsoid((52, -38, -52), (7.5, 9, 10)), 2.2),
    }
    parts = []
    for name, (solid, ragged) in usual.items():
        for side, size in zip(mirrored(solid), getattr(subject.build, name), strict=True):
            sized = Ellipsoid(side.center, tuple(size * a for a in side.semiaxes), side.rotation)
            parts.append(Part("air", sized, ragged=ragged, wall=1.5))
    return parts


def skin_distance(points: Tensor, hull: Tensor, variations: Tensor, *, subject: Subject) -> Tensor:
    """Signed distance to the skin: the brain's hull grown, brow, face, nose and neck, blended.

    Parameters
    ----------
    points : Tensor
        (3, ...), MNI mm.
    hull : Tensor
        (...), distance to the brain's hull, mm.
    variations : Tensor
        (variation, ...), the subject's smooth variations.
    subject : Subject
        Whose sizes are used.

    Returns
    -------
    Tensor
        (...), mm, negative inside.
    """
    varied = dict(zip(VARIATIONS, variations, strict=True))
    cap = hull - MENINGES - subject.build.skull - subject.build.scalp - 0.5 * varied["scalp"]
    solids = (
        Ellipsoid((0, 62, -8), (46, 24, 24)),
        Ellipsoid((0, 34, -66), (66, 58, 62)),
        Ellipsoid((0, 90, -62), (13, 19, 18), (-35, 0, 0)),
        Tube(((0, 44, -112), (0, 58, -116)), (22, 18)),
        Tube(((0, -28, -60), (0, -36, -230)), (61, 60)),
    )
    return smooth_union([cap, *(solid.distance(points) for solid in solids)], blend=5)


def paint_surroundings(
    canvas: Canvas,
    ground: Ground,
    *,
    subject: Subject,
    temples: Sequence[PlacedPart],
    parts: Sequence[PlacedPart],
) -> None:
    """Paint all that lies outside the brain on a canvas of air.

    Parameters
    ----------
    canvas : Canvas
        (property, x, y, z).
    ground : Ground
        Where its voxels lie.
    subject : Subject
        Whose sizes are used.
    temples, parts : sequence of PlacedPart
        Parts under the skull, and after it.
    """
    hull, height, edge = ground.hull, ground.points[2], ground.edge
    skull = subject.build.skull + 0.6 * ground.variations[VARIATIONS.index("skull")]
    canvas.paint("skin", ramp(ground.skin, edge))
    canvas.paint("fat", ramp(ground.skin + SKIN, edge))
    # Under the fat of face and neck, and over the temples, there is muscle.
    canvas.paint("muscle", ramp(torch.maximum(ground.skin + 5.5, height + 12), edge))
    paint_parts(canvas, temples, ground, subject=subject)
    canvas.paint("bone", ramp(hull - MENINGES - skull, edge))
    marrow = (hull - MENINGES - skull / 2).abs() - (skull / 2 - TABLE)
    canvas.paint("fat", 0.55 * ramp(torch.maximum(marrow, BASE - height), edge))
    paint_parts(canvas, parts, ground, subject=subject)
    # Thin as the bone may be, the brain is not aired.
    canvas.paint("csf", ramp(hull - MENINGES, edge))


def paint_parts(canvas: Canvas, parts: Sequence[PlacedPart], ground: Ground, *, subject: Subject) -> None:
    """Paint parts, each within the block it can reach."""
    for placed in parts:
        block, part = placed.block(ground), placed.part
        points = ground.points[(slice(None), *block)]
        if not points.numel():
            continue
        spot, distance = canvas.part(block), part.solid.distance(points)
        if part.ragged:
            distance = distance + part.ragged * subject.texture(points * RAGGEDNESS)
        if part.tissue == "air":
            # Air keeps off the brain, and has a wall of bone under the skin.
            distance = torch.maximum(distance, KEPT_OFF - ground.hull[block])
            wall = torch.maximum(distance - part.wall, ground.skin[block] + SKIN)
            spot.paint("bone", ramp(wall, ground.edge))
        spot.paint(part.tissue, part.share * ramp(distance, ground.edge), strength=part.strength)
