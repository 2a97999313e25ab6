"""The brain: cortex, white matter, nuclei and fluid of one subject, with the structure inside them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmflow.sim.atlas import DEEP_BOX, LEVELS, Atlas
from qsmflow.sim.canvas import Canvas, Palette, ramp
from qsmflow.sim.shapes import Ellipsoid, column, mirrored
from qsmflow.sim.subject import VARIATIONS, Subject

#: Fibres fan out from here on the right, mm; the mirror image on the left.
FIBRE_CENTER = (18.0, -18.0, 6.0)
#: T1-weighted intensity of the template in plain white matter, and how fast what is darker turns grey.
WHITE_INTENSITY, GREY_STEP = 0.83, 0.16
#: mm over which the iron and myelin of the deep layers of the cortex fade towards its surface.
LAYER_DEPTH = 0.9
#: The right pulvinar, and the glomus of the choroid plexus in each lateral ventricle, MNI mm.
PULVINAR = Ellipsoid((14.5, -27.0, 5.0), (5.5, 5.0, 5.5))
PLEXUS = mirrored(Ellipsoid((23.5, -40.0, 7.0), (2.5, 4.5, 3.0), (20.0, 0.0, 20.0)))


@dataclass(frozen=True)
class Tissues:
    """What is known at points of the brain.

    Parameters
    ----------
    points : Tensor
        (3, n), MNI mm.
    fine : Tensor
        (n,), fine texture of unit variance.
    intensity : Tensor
        (n,), T1-weighted intensity of the template.
    """

    points: Tensor
    fine: Tensor
    intensity: Tensor


def _putamen(here: Tissues) -> Tensor:
    # Iron grows from front to back.
    return 0.7 * here.fine - (here.points[1] + 1) / 12


def _pallidum(here: Tissues) -> Tensor:
    return 0.8 * here.fine - (here.points[1] + 3) / 16


def _thalamus(here: Tissues) -> Tensor:
    # Its nuclei are darker in the template the fewer fibres run through them; the pulvinar holds most iron.
    right = torch.cat([here.points[:1].abs(), here.points[1:]])
    pulvinar = torch.sigmoid(-PULVINAR.distance(right) / 1.2)
    return 0.7 * here.fine + (14 * (0.745 - here.intensity)).clamp(-1.5, 1.5) + 1.6 * pulvinar - 0.5


def _fine(here: Tissues) -> Tensor:
    return 0.8 * here.fine


#: Tissue of each nucleus of the atlas, and the texture inside it; later ones lie over earlier ones.
NUCLEI: dict[str, tuple[str, Callable[[Tissues], Tensor]]] = {
    "thalamus": ("thalamus", _thalamus),
    "caudate": ("caudate", _fine),
    "putamen": ("putamen", _putamen),
    "globus pallidus externa": ("globus pallidus", _pallidum),
    "globus pallidus interna": ("globus pallidus", _pallidum),
    "subthalamic nucleus": ("subthalamic nucleus", _fine),
    "substantia nigra": ("substantia nigra", _fine),
    "red nucleus": ("red nucleus", _fine),
    "dentate": ("dentate", _fine),
}


def paint_brain(
    points: Tensor,
    variations: Tensor,
    *,
    subject: Subject,
    palette: Palette,
    atlas: Atlas,
    edge: float,
    labelled: bool = False,
) -> Canvas:
    """Paint points of the brain.

    Parameters
    ----------
    points : Tensor
        (3, n), MNI mm, all within the brain's hull.
    variations : Tensor
        (variation, n), the subject's smooth variations there.
    subject : Subject
        On the device of the points.
    palette : Palette
        Of the subject.
    atlas : Atlas
        On the device of the points.
    edge : float
        Edge of a voxel, mm.
    labelled : bool
        Whether labels are wanted.

    Returns
    -------
    Canvas
        (property, n).
    """
    level = dict(zip(LEVELS, atlas.levels(points), strict=True))
    varied = dict(zip(VARIATIONS, variations, strict=True))
    here = Tissues(points, subject.texture(points), level["intensity"])
    canvas = Canvas.filled(palette, "white matter", points.shape[1:], labelled=labelled)

    _paint_white_matter(canvas, here, level, varied["white"], subject)
    to_white = level["white"] + 0.25 * varied["cortex"] - subject.build.cortex
    layers = 1.6 * torch.exp(-to_white.clamp(min=0) / LAYER_DEPTH) - 0.5
    canvas.paint(
        "grey matter", ramp(-to_white, edge), texture=0.6 * here.fine + 0.8 * varied["grey"] + layers
    )
    _paint_nuclei(canvas, here, atlas, edge)
    to_fluid = level["fluid"] - 0.3 * varied["sulci"] - subject.build.sulci
    canvas.paint("csf", ramp(to_fluid, edge))
    for plexus in PLEXUS:
        canvas.paint("grey matter", 0.7 * ramp(plexus.distance(points), edge), texture=3 * here.fine)
    return canvas


def _paint_white_matter(
    canvas: Canvas, here: Tissues, level: dict[str, Tensor], regional: Tensor, subject: Subject
) -> None:
    """Bundles, tracts, and grey matter mixed in where the template is neither white nor grey."""
    streaks = subject.streaks(_fanned(here.points))
    darker = (10 * (0.85 - here.intensity)).clamp(-1.0, 1.0)
    texture = 1.0 * streaks + 0.6 * here.fine + 0.6 * regional + darker
    everywhere = torch.ones_like(texture)
    canvas.paint("white matter", everywhere, texture=texture)
    canvas.paint("corpus callosum", level["callosum"], texture=texture)
    canvas.paint("optic radiation", level["radiation"], texture=texture)
    mixed = ((WHITE_INTENSITY - here.intensity) / GREY_STEP).clamp(0, 0.6)
    # Next to the cortex the template is between white and grey only because it is an average.
    deep = (-level["white"] - 1.5).clamp(0, 1)
    canvas.paint("grey matter", mixed * deep, texture=texture)


def _fanned(points: Tensor) -> Tensor:
    """Points drawn together along the fibres that fan out to the cortex: a texture there becomes streaks."""
    mirror = torch.where(points[:1] < 0, -1.0, 1.0)
    center = column(FIBRE_CENTER, points)
    offset = points - torch.cat([center[:1] * mirror, center[1:].expand_as(points[1:])])
    radius = offset.square().sum(0, keepdim=True).sqrt().clamp(min=1)
    # The two hemispheres must not be mirror images.
    return offset * ((36 + 0.22 * radius) / radius) + 70 * (mirror + 1)


def _paint_nuclei(canvas: Canvas, here: Tissues, atlas: Atlas, edge: float) -> None:
    lower, upper = (column(corner, here.points) for corner in DEEP_BOX)
    inside = ((here.points > lower) & (here.points < upper)).all(0).nonzero()[:, 0]
    few = Tissues(here.points[:, inside], here.fine[inside], here.intensity[inside])
    distances = dict(zip(atlas.names, atlas.nuclei(few.points), strict=True))
    labels = None if canvas.labels is None else canvas.labels[inside]
    part = Canvas(canvas.palette, canvas.values[:, inside], labels)
    for name, (tissue, texture) in NUCLEI.items():
        part.paint(tissue, ramp(distances[name], edge), texture=texture(few))
    canvas.put(inside, part)
