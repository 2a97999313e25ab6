"""Lesions that susceptibility maps are made to find: microbleeds, calcifications, iron-rich lesions.

Where and how large they are follows the literature: most microbleeds are less than 4 mm across
(10.1002/jmri.22001) and lie in the lobes, the deep nuclei or below the tentorium (10.1148/radiol.2018170803);
the pineal gland is calcified in three adults of four, the choroid plexus in two of three
(10.5115/acb.21.137); white-matter lesions with an iron rim measure about 12 mm (10.2214/AJR.21.26777) and
keep near the ventricles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from qsmflow.sim.shapes import Ellipsoid, Point, Solid
from qsmflow.sim.template import Template
from qsmflow.sim.vessels import BRAIN_BOX, Atlas, Draw, ventricle_axis

#: mm left free between two lesions.
_GAP = 1.0
#: Candidates drawn at a time, and how often.
_BATCH, _ROUNDS = 2000, 8


@dataclass(frozen=True)
class Shell:
    """What lies within half a thickness of the surface of a solid: the rim of a lesion.

    Parameters
    ----------
    solid : Solid
        The middle of the rim is its surface.
    thickness : float
        mm.

    Examples
    --------
    >>> rim = Shell(Ellipsoid((0, 0, 0), (5, 5, 5)), 1.0)
    >>> rim.distance(torch.tensor([[0.0, 5.0, 10.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor([ 4.5000, -0.5000,  4.5000])
    """

    solid: Solid
    thickness: float

    def bounds(self) -> tuple[Point, Point]:
        """Box of the solid, grown by half the thickness."""
        lower, upper = self.solid.bounds()
        half = self.thickness / 2
        return tuple(c - half for c in lower), tuple(c + half for c in upper)

    def distance(self, points: Tensor) -> Tensor:
        """Distance in mm to the rim, negative within it, positive in the core; points are (3, ...)."""
        return self.solid.distance(points).abs() - self.thickness / 2


@dataclass(frozen=True)
class LesionCounts:
    """How many lesions of each kind a subject has.

    Parameters
    ----------
    microbleeds, calcifications, iron_lesions : int
        Zero or more.

    Raises
    ------
    ValueError
        A count is negative.

    Examples
    --------
    >>> LesionCounts(microbleeds=3)
    LesionCounts(microbleeds=3, calcifications=0, iron_lesions=0)
    """

    microbleeds: int = 0
    calcifications: int = 0
    iron_lesions: int = 0

    def __post_init__(self):
        for name, count in vars(self).items():
            if count < 0:
                raise ValueError(f"{name} is {count}: a number of lesions cannot be negative")


@dataclass(frozen=True)
class Lesion:
    """One lesion.

    Parameters
    ----------
    tissue : str
        Name in the table of tissues.
    solid : Solid
        Where it lies, MNI mm.
    strength : float
        Factor on the tissue's susceptibility.
    """

    tissue: str
    solid: Solid
    strength: float


@dataclass(frozen=True)
class _Site:
    """A kind of place where lesions of a kind are found.

    Parameters
    ----------
    likelihood : float
        Relative to the other sites of the kind.
    spots : tuple of Ellipsoid
        Their centres lie within these, given for the right half of the head, on either side; none: anywhere.
    tissue : tuple of int
        The template's channels (0 grey matter, 1 white matter, 2 fluid) that hold the centre.
    share : float
        Least share of these tissues at the centre, 0 to 1.
    depth : tuple of float
        Distance under the brain's hull, mm.
    from_ventricle : tuple of float
        Distance to the axis of a lateral ventricle, mm.
    """

    likelihood: float
    spots: tuple[Ellipsoid, ...] = ()
    tissue: tuple[int, ...] = (0, 1)
    share: float = 0.8
    depth: tuple[float, float] = (3.0, np.inf)
    from_ventricle: tuple[float, float] = (0.0, np.inf)


@dataclass(frozen=True)
class _Kind:
    """What one kind of lesion is like.

    Parameters
    ----------
    tissue : str
        Name in the table of tissues.
    sites : tuple of _Site
        Where it is found.
    radii, strengths : tuple of float
        Smallest and largest mean radius in mm, and factor on the tissue's susceptibility.
    elongation : float
        Standard deviation of the logarithm of its semi-axes.
    rim : tuple of float, optional
        Thinnest and thickest rim, mm; without it the lesion is filled.
    white_around : float
        Least share of white matter all around.
    """

    tissue: str
    sites: tuple[_Site, ...]
    radii: tuple[float, float]
    strengths: tuple[float, float]
    elongation: float = 0.12
    rim: tuple[float, float] | None = None
    white_around: float = 0.0


_THALAMUS = Ellipsoid((12, -19, 7), (7, 12, 8))
_LENTIFORM = Ellipsoid((24, 0, 1), (7, 14, 8))
_PALLIDUM = Ellipsoid((19.5, -4, -1), (3.5, 7, 4))
_PONS = Ellipsoid((5, -25, -30), (6, 7, 10))
_CEREBELLUM = Ellipsoid((24, -62, -36), (18, 18, 12))
_PINEAL = Ellipsoid((0, -30, 1), (0.8, 0.8, 1.0))
_HABENULA = Ellipsoid((0, -24.5, 1), (0.8, 0.8, 0.8))
_GLOMUS = Ellipsoid((25, -41, 8), (2.5, 3, 3))

_KINDS = {
    "microbleeds": _Kind(
        "microbleed",
        (
            _Site(0.6, depth=(3, 25)),
            _Site(0.3, (_THALAMUS, _LENTIFORM), share=0.7),
            _Site(0.1, (_PONS, _CEREBELLUM), share=0.7),
        ),
        radii=(1.0, 3.5),
        strengths=(0.5, 1.6),
    ),
    "calcifications": _Kind(
        "calcification",
        (
            _Site(0.5, share=0.8, depth=(3, 45)),
            _Site(0.3, (_PALLIDUM,), share=0.6),
            _Site(0.15, (_GLOMUS,), tissue=(2,), share=0.3),
            _Site(0.05, (_PINEAL,), tissue=(0, 1, 2), share=0.3),
        ),
        radii=(1.0, 3.0),
        strengths=(0.4, 1.6),
        elongation=0.2,
    ),
    "iron_lesions": _Kind(
        "iron lesion",
        (_Site(1.0, tissue=(1,), share=0.9, depth=(8, np.inf), from_ventricle=(9, 26)),),
        radii=(3.0, 8.0),
        strengths=(0.6, 1.5),
        elongation=0.25,
        rim=(1.0, 1.8),
        white_around=0.4,
    ),
}

#: Physiologic calcifications: tissue, where, on which side, in what share of adults, radii in mm.
_PHYSIOLOGIC = (
    ("pineal gland", _PINEAL, 1, 0.75, (1.2, 2.6)),
    ("calcification", _HABENULA, 1, 0.36, (0.6, 1.2)),
    ("calcification", _GLOMUS, 1, 0.68, (1.0, 3.2)),
    ("calcification", _GLOMUS, -1, 0.63, (1.0, 3.2)),
)


def place_lesions(
    generator: torch.Generator,
    counts: LesionCounts,
    *,
    template: Template,
    beside: Sequence[Lesion] = (),
) -> tuple[Lesion, ...]:
    """Place lesions where their tissue is, none outside the brain and none in another.

    Parameters
    ----------
    generator : torch.Generator
        Where the randomness comes from.
    counts : LesionCounts
        How many of each kind.
    template : Template
        The brain they lie in, on the CPU.
    beside : sequence of Lesion
        Lesions that are there already, which the new ones keep clear of.

    Returns
    -------
    tuple of Lesion
        Microbleeds first, then calcifications, then iron-rich lesions with their rims.

    Raises
    ------
    ValueError
        The brain has no room for so many.

    Examples
    --------
    >>> from qsmflow.sim.template import load_template
    >>> generator = torch.Generator().manual_seed(0)
    >>> counts = LesionCounts(microbleeds=2, iron_lesions=1)
    >>> [lesion.tissue for lesion in place_lesions(generator, counts, template=load_template())]
    ['microbleed', 'microbleed', 'iron lesion']
    """
    draw, atlas = Draw(generator), Atlas(template)
    placed: list[Lesion] = []
    for name, kind in _KINDS.items():
        wanted = getattr(counts, name)
        taken = [_ball(lesion.solid) for lesion in (*beside, *placed)]
        new = _place(draw, kind, wanted, taken, atlas)
        if len(new) < wanted:
            what = f"{len(new)} of {wanted} {name.replace('_', ' ')}"
            raise ValueError(f"the brain has room for {what}: ask for fewer")
        placed += new
    return tuple(placed)


def physiologic_calcifications(generator: torch.Generator) -> tuple[Lesion, ...]:
    """Draw the calcifications that most healthy adults have: pineal gland, habenula, choroid plexus.

    Parameters
    ----------
    generator : torch.Generator
        Where the randomness comes from.

    Returns
    -------
    tuple of Lesion
        None to four, each present as often as in adults (10.5115/acb.21.137).

    Examples
    --------
    >>> lesions = physiologic_calcifications(torch.Generator().manual_seed(1))
    >>> len(lesions) <= 4 and {lesion.tissue for lesion in lesions} <= {"pineal gland", "calcification"}
    True
    """
    draw, lesions = Draw(generator), []
    for tissue, spot, side, prevalence, radii in _PHYSIOLOGIC:
        present, size, strength = draw.uniform(0, 1, 3).tolist()
        center = _within(draw, spot, side, 1)[0]
        solid = _ellipsoid(draw, center, draw.normal(1, 3), radius=_between(radii, size), elongation=0.2)
        if present < prevalence:
            lesions.append(Lesion(tissue, solid, _between((0.3, 1.3), strength)))
    return tuple(lesions)


def _between(limits: tuple[float, float], share: float) -> float:
    """Value at a share of the way between limits on a logarithmic scale: small ones are more frequent."""
    low, high = limits
    return low * (high / low) ** share


def _within(draw: Draw, spot: Ellipsoid, side: int, count: int) -> np.ndarray:
    """Random points (count, 3) within a spot or its mirror image."""
    direction = draw.normal(1, (count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    reach = np.cbrt(draw.uniform(0, 1, (count, 1)))
    return (np.array(spot.center) + reach * direction * spot.semiaxes) * (side, 1, 1)


def _ellipsoid(
    draw: Draw, center: np.ndarray, heading: np.ndarray, *, radius: float, elongation: float
) -> Ellipsoid:
    """A ball drawn out at random, most of all along the heading."""
    stretch = np.sort(draw.normal(elongation, 3))[::-1]
    semiaxes = radius * np.exp((stretch - stretch.mean()).clip(-0.6, 0.6))
    turn, _ = Rotation.align_vectors([heading], [[1, 0, 0]])
    angles = turn.as_euler("xyz", degrees=True)
    return Ellipsoid(tuple(center.tolist()), tuple(semiaxes.tolist()), tuple(angles.tolist()))


def _ball(solid: Solid) -> tuple[np.ndarray, float]:
    """Centre and radius of a ball that holds a solid which fills its box."""
    lower, upper = (np.array(corner) for corner in solid.bounds())
    return (lower + upper) / 2, float((upper - lower).max() / 2)


def _place(draw: Draw, kind: _Kind, wanted: int, taken: list, atlas: Atlas) -> list[Lesion]:
    """As many lesions of one kind as wanted, or as there is room for."""
    lesions, taken = [], list(taken)
    for _ in range(_ROUNDS if wanted else 0):
        for center in _candidates(draw, kind, atlas):
            solid = _solid(draw, kind, center)
            middle, reach = _ball(solid)
            is_clear = all(np.linalg.norm(middle - c) > reach + r + _GAP for c, r in taken)
            if is_clear and _fits(middle, reach, kind, atlas):
                strength = _between(kind.strengths, float(draw.uniform(0, 1)))
                lesions.append(Lesion(kind.tissue, solid, strength))
                taken.append((middle, reach))
            if len(lesions) == wanted:
                return lesions
    return lesions


def _solid(draw: Draw, kind: _Kind, center: np.ndarray) -> Solid:
    """A lesion of a random size; one with a rim is longest away from the ventricle, along the veins."""
    size, rim = draw.uniform(0, 1, 2).tolist()
    heading = center - _nearest_on_ventricle(center[None])[1][0] if kind.rim else draw.normal(1, 3)
    solid = _ellipsoid(draw, center, heading, radius=_between(kind.radii, size), elongation=kind.elongation)
    return Shell(solid, _between(kind.rim, rim)) if kind.rim else solid


def _fits(middle: np.ndarray, reach: float, kind: _Kind, atlas: Atlas) -> bool:
    """Whether a ball lies within the brain's hull all around, and in white matter if it has to."""
    around = middle + reach * np.concatenate([np.eye(3), -np.eye(3)])
    return bool((atlas.hull(around) < -0.5).all() and (atlas.tissues(around)[1] >= kind.white_around).all())


def _nearest_on_ventricle(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (n,) to the axis of the nearest lateral ventricle, and where on it (n, 3)."""
    axis = np.concatenate([ventricle_axis(np.linspace(0, 1, 60), side=side)[0] for side in (1, -1)])
    distance, nearest = KDTree(axis).query(points)
    return distance, axis[nearest]


def _candidates(draw: Draw, kind: _Kind, atlas: Atlas) -> np.ndarray:
    """Centres (n, 3) where a lesion of this kind may lie, sites mixed by their likelihood."""
    centers, arrivals = [], []
    for site in kind.sites:
        points = _points_of(draw, site)
        shares = atlas.tissues(points)[list(site.tissue)].sum(0)
        depth, (distance, _) = -atlas.hull(points), _nearest_on_ventricle(points)
        suits = (shares >= site.share) & (depth >= site.depth[0]) & (depth <= site.depth[1])
        suits &= (distance >= site.from_ventricle[0]) & (distance <= site.from_ventricle[1])
        centers.append(points[suits])
        # Centres of a site arrive at random at a rate that is its likelihood, so that each has its due part.
        waits = -np.log(1 - draw.uniform(0, 1, int(suits.sum())))
        arrivals.append(np.cumsum(waits) / site.likelihood)
    return np.concatenate(centers)[np.argsort(np.concatenate(arrivals), kind="stable")]


def _points_of(draw: Draw, site: _Site) -> np.ndarray:
    """Random points (n, 3) of a site, before the template is asked."""
    if not site.spots:
        lower, upper = np.array(BRAIN_BOX)
        return lower + (upper - lower) * draw.uniform(0, 1, (_BATCH, 3))
    spots = [(spot, side) for spot in site.spots for side in (1, -1)]
    points = np.concatenate([_within(draw, *spot, _BATCH // len(spots)) for spot in spots])
    return points[np.argsort(draw.uniform(0, 1, len(points)))]
