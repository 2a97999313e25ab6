"""One person: every random decision about a head, made once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from qsmflow.sim.lesions import Lesion, LesionCounts, physiologic_calcifications, place_lesions
from qsmflow.sim.shapes import RandomField, Tube
from qsmflow.sim.template import Lattice, load_template
from qsmflow.sim.tissues import TissueSample, draw_tissues
from qsmflow.sim.vessels import grow_veins
from qsmflow.sim.warp import Warp, draw_smooth_fields, draw_warp

#: Smooth fields that vary from place to place: width of the sulci and thickness of the cortex (mm), regional
#: susceptibility of grey and of white matter, thickness of skull and of scalp (SD of each is one).
VARIATIONS = ("sulci", "cortex", "grey", "white", "skull", "scalp")
_VARIATION_BANDS = ((48.0, 0.006, 0.7), (24.0, 0.010, 0.7))


@dataclass(frozen=True)
class Build:
    """Sizes that differ between people.

    Parameters
    ----------
    sulci, cortex : float
        How much wider than the template's the sulci are, and thicker the cortex, mm.
    skull, scalp : float
        Thickness over the vertex, mm.
    frontal, sphenoid, maxillary, mastoid : tuple of float
        Size of the right and left air spaces against the usual.
    """

    sulci: float = 0.0
    cortex: float = 0.0
    skull: float = 6.5
    scalp: float = 6.0
    frontal: tuple[float, float] = (1.0, 1.0)
    sphenoid: tuple[float, float] = (1.0, 1.0)
    maxillary: tuple[float, float] = (1.0, 1.0)
    mastoid: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Subject:
    """Anatomy of one subject; the same on every grid and in every pose.

    Parameters
    ----------
    seed : int
        That the subject was drawn from.
    tissues : dict of str to TissueSample
        What the tissues are made of.
    warp : Warp
        From the subject's head to the template.
    build : Build
        Sizes.
    variations : Lattice
        Channels of :data:`VARIATIONS`.
    texture, streaks : RandomField
        Fine structure of tissues, and of fibre bundles.
    veins : tuple of Tube
        MNI mm.
    calcifications : tuple of Lesion
        That healthy adults have in pineal gland and choroid plexus, MNI mm.
    lesions : tuple of Lesion
        MNI mm.
    """

    seed: int
    tissues: Mapping[str, TissueSample] = field(repr=False)
    warp: Warp = field(repr=False)
    build: Build
    variations: Lattice = field(repr=False)
    texture: RandomField = field(repr=False)
    streaks: RandomField = field(repr=False)
    veins: tuple[Tube, ...] = field(repr=False)
    calcifications: tuple[Lesion, ...] = field(repr=False)
    lesions: tuple[Lesion, ...]

    def to(self, device) -> "Subject":
        """The same subject on another device."""
        names = ("warp", "variations", "texture", "streaks")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def draw_subject(seed: int, *, spread: float = 1.0, lesions: LesionCounts | None = None) -> Subject:
    """Draw the anatomy of one subject.

    Parameters
    ----------
    seed : int
        The same seed gives the same subject.
    spread : float
        1 for the variety of healthy adults, 0 for the average tissues and shape, more for training on more
        than there is. Veins and fine texture are random in any case.
    lesions : LesionCounts, optional
        How many of each kind; none by default.

    Returns
    -------
    Subject

    Raises
    ------
    ValueError
        If the spread is negative.

    Examples
    --------
    >>> subject = draw_subject(3)
    >>> subject.tissues["white matter"].susceptibility < subject.tissues["putamen"].susceptibility
    True
    """
    generator = torch.Generator().manual_seed(seed)
    template = load_template()
    return Subject(
        seed=seed,
        tissues=draw_tissues(generator, spread=spread),
        warp=draw_warp(generator, spread=spread),
        build=_draw_build(generator, spread=spread),
        variations=draw_smooth_fields(generator, _VARIATION_BANDS, channels=len(VARIATIONS)),
        texture=RandomField.draw_rough(generator),
        streaks=RandomField.draw_rough(generator),
        veins=grow_veins(generator, template=template),
        calcifications=physiologic_calcifications(generator),
        # Last, so that a subject with lesions is else the same as without.
        lesions=place_lesions(generator, lesions or LesionCounts(), template=template),
    )


def _draw_build(generator: torch.Generator, *, spread: float) -> Build:
    normal = (spread * torch.randn(12, generator=generator).clamp(-2, 2)).tolist()
    # Air spaces differ between people, and between sides, more than anything else in a head.
    sizes = [float(min(max(1 + 0.18 * n, 0.4), 1.6)) for n in normal[4:]]
    return Build(
        sulci=0.05 + 0.2 * normal[0],
        cortex=0.15 * normal[1],
        skull=max(4.0, 6.5 + 0.9 * normal[2]),
        scalp=max(3.5, 6.0 + 1.0 * normal[3]),
        frontal=(sizes[0], sizes[1]),
        sphenoid=(sizes[2], sizes[3]),
        maxillary=(sizes[4], sizes[5]),
        mastoid=(sizes[6], sizes[7]),
    )
