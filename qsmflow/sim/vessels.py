"""The venous system of one head: sinuses, deep and medullary veins, cortical veins and their branches.

Named vessels follow their usual courses, bent at random. Between them veins find their own way: points are
strewn where veins run (in sulci, over the convexity, on the ventricle wall), and each tip drains along the
cheapest chain of points to a sinus or trunk. Ways that meet stay together, so that the union is a tree; its
radii follow from the flow that each branch gathers, by Murray's law r³ = Σ r³ (10.1073/pnas.12.3.207).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree

from qsmflow.sim.shapes import Point, Tube
from qsmflow.sim.template import Template

#: mm between the points of a path.
STEP = 3.0
#: Smallest and largest radius at the tip of a vein, mm, by where it ends. Medullary veins measure 0.2 to
#: 0.3 mm across on venograms at 3 T (10.16098/j.issn.0529-1356.2016.06.013).
TIP_RADII = {"medullary": (0.15, 0.22), "pial": (0.2, 0.36), "trunk": (0.3, 0.45)}
#: Veins that drain into the superior sagittal sinus, fewest and most on each side.
SUPERIOR_VEINS = (10, 14)
#: mm between the tips of pial veins, roughly.
TIP_SPACING = 12.5
#: Points strewn over the brain, of which those where pial veins can run are kept.
N_STREWN = 110_000
#: Medullary veins that reach the ventricles, on each side.
N_MEDULLARY = 70
#: Where the brain lies, lower and upper corner in mm.
BRAIN_BOX = ((-74.0, -108.0, -66.0), (74.0, 74.0, 82.0))
#: Signed distance to the hull of the shallowest and the deepest pial vein, mm.
_PIAL_DEPTHS = (-0.8, -45.0)


@dataclass(frozen=True)
class _Course:
    """Usual course of a named vessel in the right half of the head, its downstream end first.

    Parameters
    ----------
    points : tuple
        mm.
    into : str
        The vessel it drains into, of the same side where it is paired; the cortical trunks start on the
        nearest sinus instead.
    radii : tuple of float
        Downstream and upstream, mm; only sinuses have them given, veins get theirs from what they drain.
    depth : float
        Signed distance to the brain's hull at which it runs, mm, negative inside; nan where it runs freely.
    paired : bool
        Whether there is one on each side.
    shift : float
        Standard deviation, along each axis, of where it lies as a whole, mm.
    """

    points: tuple[Point, ...]
    into: str = ""
    radii: tuple[float, float] = (0.0, 0.0)
    depth: float = np.nan
    paired: bool = True
    shift: float = 0.0


#: Diameters of the transverse sinuses: 10.3868/j.issn.2096-0689.2024.01.003.
_SINUSES = {
    "straight": _Course(((0, -70, -6), (0, -52, 7)), into="torcular", radii=(2.5, 2.0), paired=False),
    "inferior sagittal": _Course(
        ((0, -51, 18), (0, -42, 30), (0, -20, 38), (0, 5, 38), (0, 24, 33)),
        into="straight",
        radii=(1.1, 0.4),
        paired=False,
    ),
    "transverse": _Course(
        ((20, -92, -20), (38, -82, -24), (52, -63, -27), (56, -48, -31), (52, -41, -42), (42, -38, -52)),
        into="torcular",
        radii=(3.0, 3.4),
        depth=1.5,
    ),
    "sphenoparietal": _Course(((20, 6, -34), (30, 18, -28), (44, 22, -16)), radii=(1.9, 1.6), depth=0.5),
}

#: Diameters of the internal cerebral vein: 10.7150/ijms.54891.
_DEEP_VEINS = {
    "Galen": _Course(((0, -47, 5), (0, -41, 4)), into="straight", paired=False),
    "internal cerebral": _Course(((1.6, -36, 6), (2, -28, 9.5), (2, -16, 13), (2.6, -4, 12)), into="Galen"),
    "thalamostriate": _Course(
        ((5, 1, 13), (11, -2, 16), (16, -12, 20), (20, -24, 20), (24, -34, 16)), into="internal cerebral"
    ),
    "septal": _Course(((2.5, 3, 11), (3, 12, 12), (4, 22, 10), (9, 31, 5)), into="internal cerebral"),
    "caudate": _Course(((9, 5, 18), (14, 14, 17), (16, 24, 10)), into="thalamostriate"),
    "atrial": _Course(((7, -38, 8), (14, -41, 10), (22, -46, 11), (26, -56, 8)), into="Galen"),
    "lateral atrial": _Course(((10, -36, 12), (20, -38, 18), (28, -44, 16)), into="internal cerebral"),
    "basal": _Course(
        ((8, -38, 1), (15, -33, -4), (18, -24, -9), (16, -12, -13), (17, -2, -16), (25, 2, -17)), into="Galen"
    ),
    "inferior ventricular": _Course(((22, -24, -8), (31, -27, -9), (33, -38, -3)), into="basal"),
    "precentral cerebellar": _Course(
        ((0, -42, -3), (0, -44, -10), (1, -47, -16)), into="Galen", paired=False
    ),
}

#: Trunks of the cortical veins besides the unnamed ones that climb to the superior sagittal sinus.
_CORTICAL_TRUNKS = {
    "Trolard": _Course(
        ((8, -28, 76), (30, -26, 68), (50, -22, 48), (60, -16, 26), (58, -8, 8)), depth=-1.5, shift=9
    ),
    "Labbe": _Course(((54, -58, -26), (60, -50, -14), (64, -42, 2), (62, -28, 8)), depth=-1.5, shift=6),
    "sylvian": _Course(
        ((44, 22, -16), (50, 14, -8), (55, 2, 2), (60, -14, 10), (60, -30, 18)), depth=-3.0, shift=2
    ),
    "occipital": _Course(((30, -86, -22), (32, -92, -10), (36, -88, 4)), depth=-1.5, shift=4),
    "temporal": _Course(((53, -62, -26), (50, -52, -30), (46, -36, -28)), depth=-1.5, shift=4),
    "medial occipital": _Course(((2, -62, -1), (8, -62, 1), (10, -72, 4)), shift=2),
    "superior vermian": _Course(((2, -66, -4), (5, -64, -10), (8, -60, -14)), shift=1),
    "hemispheric": _Course(((28, -88, -22), (24, -82, -30), (22, -80, -42)), depth=-1.5, shift=4),
    "petrosal": _Course(((52, -48, -34), (40, -44, -30), (26, -36, -30), (16, -24, -30)), shift=2),
}

#: Axis of the right lateral ventricle, from the frontal horn to the atrium and the inferior horn, mm.
_VENTRICLE = ((11, 28, 2), (8, 14, 14), (9, -6, 21), (16, -26, 19), (24, -42, 11), (30, -32, -8))


@dataclass(frozen=True)
class Draw:
    """Random numbers as float64 arrays, whatever the device.

    Parameters
    ----------
    generator : torch.Generator
        Where they come from; on the CPU.

    Examples
    --------
    >>> Draw(torch.Generator().manual_seed(0)).uniform(1, 2, (2, 3)).shape
    (2, 3)
    """

    generator: torch.Generator

    def uniform(self, low: float, high: float, shape: int | tuple[int, ...] = ()) -> np.ndarray:
        """Evenly between two limits."""
        share = torch.rand(shape, generator=self.generator, dtype=torch.float64).numpy()
        return low + (high - low) * share

    def normal(self, deviation: float, shape: int | tuple[int, ...] = ()) -> np.ndarray:
        """Normal about zero."""
        return deviation * torch.randn(shape, generator=self.generator, dtype=torch.float64).numpy()


@dataclass(frozen=True)
class Atlas:
    """The template's maps as functions of points (n, 3) in mm.

    Parameters
    ----------
    template : Template
        On the CPU.

    Examples
    --------
    >>> from qsmflow.sim.template import load_template
    >>> bool(Atlas(load_template()).hull(np.zeros((1, 3)))[0] < -10)
    True
    """

    template: Template

    def _sample(self, lattice, points: np.ndarray) -> np.ndarray:
        column = torch.from_numpy(np.ascontiguousarray(points.T, dtype=np.float32)).reshape(3, 1, -1, 1)
        return lattice(column)[:, 0, :, 0].numpy().astype(float)

    def hull(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (n,) to the brain's outer surface, mm."""
        return self._sample(self.template.hull, points)[0]

    def tissues(self, points: np.ndarray) -> np.ndarray:
        """Shares (3, n) of grey matter, white matter and fluid."""
        return self._sample(self.template.tissues, points)[:3]

    def at_depth(self, points: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Points moved along the hull's normal to a signed distance (n,) from it; those of depth nan stay."""
        offsets = 2.0 * np.concatenate([np.eye(3), -np.eye(3), np.zeros((1, 3))])
        moves = ~np.isnan(depth)
        points, wanted, moving = points.copy(), depth[moves], points[moves]
        for _ in range(4):
            around = self.hull((moving[:, None] + offsets).reshape(-1, 3)).reshape(-1, 7)
            normal = around[:, :3] - around[:, 3:6]
            normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6
            moving = moving - (around[:, 6] - wanted)[:, None] * normal
        points[moves] = moving
        return points


@dataclass(frozen=True)
class _Forest:
    """Points of vessels, each but the roots with the one downstream of it, which comes before it.

    Parameters
    ----------
    points : numpy.ndarray
        (n, 3) in mm.
    parents : numpy.ndarray
        (n,), −1 at roots.
    tips : numpy.ndarray
        (n,), radius in mm that the vessel has if it ends here.
    """

    points: np.ndarray
    parents: np.ndarray
    tips: np.ndarray

    @classmethod
    def empty(cls) -> "_Forest":
        return cls(np.zeros((0, 3)), np.zeros(0, dtype=int), np.zeros(0))

    def __len__(self) -> int:
        return len(self.points)

    def extended(self, points: np.ndarray, parents: np.ndarray, tips: np.ndarray) -> "_Forest":
        return _Forest(
            np.concatenate([self.points, points]),
            np.concatenate([self.parents, parents]),
            np.concatenate([self.tips, tips]),
        )

    def with_chain(self, points: np.ndarray, parent: int, tips: np.ndarray) -> "_Forest":
        """One more vessel, which starts on a point that is there, or on its own where parent is −1."""
        first = len(self)
        return self.extended(points, np.array([parent, *range(first, first + len(points) - 1)]), tips)

    def radii(self) -> np.ndarray:
        """Radius (n,) of the vessel downstream of each point, by Murray's law."""
        flow = np.zeros(len(self))
        is_tip = np.ones(len(self), dtype=bool)
        is_tip[self.parents[self.parents >= 0]] = False
        flow[is_tip] = self.tips[is_tip] ** 3
        for child in range(len(self) - 1, -1, -1):
            if self.parents[child] >= 0:
                flow[self.parents[child]] += flow[child]
        return np.cbrt(flow)

    def main_children(self, radii: np.ndarray) -> np.ndarray:
        """The thickest vessel (n,) that joins at each point, −1 at tips."""
        main = np.full(len(self), -1)
        order = np.argsort(radii, kind="stable")
        order = order[self.parents[order] >= 0]
        # Of several that write to one place the last stays, which is the thickest.
        main[self.parents[order]] = order
        return main

    def moved(self, points: np.ndarray) -> "_Forest":
        """The same vessels through other points."""
        return _Forest(points, self.parents, self.tips)

    def smoothed(self, rounds: int) -> "_Forest":
        """Points moved towards the middle of their neighbours along the stem; roots and tips stay."""
        main = self.main_children(self.radii())
        inner = (main >= 0) & (self.parents >= 0)
        points = self.points.copy()
        for _ in range(rounds):
            middle = (points[self.parents[inner]] + points[main[inner]]) / 2
            points[inner] = (points[inner] + middle) / 2
        return self.moved(points)

    def thinned(self) -> "_Forest":
        """Without points, other than branchings, that add nothing to a path or put a kink into it."""
        forest = self
        for _ in range(3):
            forest = forest._without_every_other()
        return forest

    def _without_every_other(self) -> "_Forest":
        steps = np.zeros(len(self), dtype=int)
        for child, parent in enumerate(self.parents.tolist()):
            steps[child] = steps[parent] + 1 if parent >= 0 else 0
        n_children = np.bincount(self.parents[self.parents >= 0], minlength=len(self))
        odd = np.flatnonzero((n_children == 1) & (steps % 2 == 1))
        # With one child each, it does not matter by what the main one is chosen.
        before, after = self.points[self.parents[odd]], self.points[self.main_children(self.tips)[odd]]
        odd = odd[_is_needless(before, self.points[odd], after)]
        kept = np.ones(len(self), dtype=bool)
        kept[odd] = False
        # What hung on a point that goes, hangs on the one before it, which stays: it is an even one.
        parents = np.where(
            (self.parents >= 0) & ~kept[self.parents], self.parents[self.parents], self.parents
        )
        index = np.append(np.cumsum(kept) - 1, -1)
        return _Forest(self.points[kept], index[parents[kept]], self.tips[kept])

    def tubes(self) -> tuple[Tube, ...]:
        """One tube for each stem, from where it joins its parent to its tip."""
        radii = self.radii()
        main = self.main_children(radii)
        is_root = self.parents < 0
        # The thickest branch goes on as the stem; on a root, on a sinus, each is a stem of its own.
        starts = ~is_root & ((main[self.parents] != np.arange(len(self))) | is_root[self.parents])
        tubes = []
        for start in np.flatnonzero(starts).tolist():
            chain = [start]
            while main[chain[-1]] >= 0:
                chain.append(main[chain[-1]])
            path = self.points[[self.parents[start], *chain]]
            tubes.append(_tube(path, radii[[start, *chain]]))
        return tuple(tubes)


def _is_needless(before: np.ndarray, points: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Whether points (n, 3) of a path lie on the line past them (to 0.25 mm), near the next, or in a kink."""
    length = np.linalg.norm
    come, go, chord = points - before, after - points, after - before
    aside = length(np.cross(come, chord), axis=1) < 0.25 * length(chord, axis=1)
    crowded = np.minimum(length(come, axis=1), length(go, axis=1)) < 1.2
    kinked = (come * go).sum(1) < 0.4 * length(come, axis=1) * length(go, axis=1)
    return (aside & (length(chord, axis=1) < 12)) | crowded | kinked


def _tube(path: np.ndarray, radii: np.ndarray) -> Tube:
    return Tube(tuple(map(tuple, path.tolist())), tuple(radii.tolist()))


def grow_veins(generator: torch.Generator, *, template: Template) -> tuple[Tube, ...]:
    """Grow the veins and venous sinuses of one subject.

    Tubes run upstream: the first point of a vein lies on the vessel it drains into. Where veins join,
    r³ of the stem is the sum of r³ of its branches (Murray 1926). Sinuses, which are held open by the dura,
    have radii of their own.

    Parameters
    ----------
    generator : torch.Generator
        Where the randomness comes from.
    template : Template
        The brain they drain, on the CPU.

    Returns
    -------
    tuple of Tube
        In MNI space, mm; the sinuses come first.

    References
    ----------
    Murray 1926, 10.1073/pnas.12.3.207.

    Examples
    --------
    >>> from qsmflow.sim.template import load_template
    >>> veins = grow_veins(torch.Generator().manual_seed(0), template=load_template())
    >>> len(veins) > 300
    True
    """
    draw, atlas = Draw(generator), Atlas(template)
    sinuses = _sinuses(draw, atlas)
    deep = _deep_veins(draw, atlas, sinuses)
    cortical = _cortical_veins(draw, atlas, sinuses)
    walls = tuple(_tube(path, radii) for path, radii in sinuses.values())
    return walls + deep.thinned().tubes() + cortical.thinned().tubes()


def _bent(draw: Draw, points: np.ndarray, *, wander: float, start: np.ndarray | None = None) -> np.ndarray:
    """Smooth path (n, 3) in steps of STEP through points moved at random, from a start that stays."""
    knots = points + draw.normal(wander, points.shape)
    if start is not None:
        knots = np.concatenate([start[None], knots])
    chords = np.linalg.norm(np.diff(knots, axis=0), axis=1)
    position = np.concatenate([[0], np.cumsum(chords)])
    samples = np.linspace(0, position[-1], max(int(np.ceil(position[-1] / STEP)), 1) + 1)
    return CubicSpline(position, knots)(samples) if len(knots) > 2 else knots


def _each_side(courses: dict[str, _Course]) -> Iterator[tuple[str, int, _Course, np.ndarray]]:
    """Name, side (1 right, −1 left), course and points (n, 3) of every vessel, paired ones twice."""
    for name, course in courses.items():
        for side in (1, -1) if course.paired else (1,):
            yield name, side, course, np.array(course.points, dtype=float) * (side, 1, 1)


def _at_depths(atlas: Atlas, paths: list[np.ndarray], depths: list[float]) -> list[np.ndarray]:
    """Paths moved to their depths, all but the first point of each, which lies on another vessel."""
    wanted = [np.full(len(path), depth) for path, depth in zip(paths, depths, strict=True)]
    for along in wanted:
        along[0] = np.nan
    points = atlas.at_depth(np.concatenate(paths), np.concatenate(wanted))
    return np.split(points, np.cumsum([len(path) for path in paths])[:-1])


def _sinuses(draw: Draw, atlas: Atlas) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """Path (n, 3) and radii (n,) of each sinus by name and side, downstream end first."""
    superior, radii = _superior_sagittal_sinus(draw, atlas)
    paths, depths, widths = {("superior sagittal", 1): superior}, [np.nan], [radii]
    for name, side, course, points in _each_side(_SINUSES):
        starts = {"torcular": superior[0], "straight": paths.get(("straight", 1), superior)[-1]}
        path = _bent(draw, points, wander=1.2, start=starts.get(course.into))
        # The right transverse sinus is the wider one in most.
        dominance = 1 + 0.08 * side * (name == "transverse")
        paths[name, side] = path
        depths.append(course.depth)
        widths.append(dominance * draw.uniform(0.85, 1.1) * np.linspace(*course.radii, len(path)))
    lying = _at_depths(atlas, list(paths.values()), depths)
    return dict(zip(paths, zip(lying, widths, strict=True), strict=True))


def _superior_sagittal_sinus(draw: Draw, atlas: Atlas) -> tuple[np.ndarray, np.ndarray]:
    """Along the midline of the hull, from the torcular to the forehead."""
    centre = np.array([0, -18, 10])
    angles = np.deg2rad(np.linspace(202, -14, 14))
    rays = np.stack([np.zeros_like(angles), np.cos(angles), np.sin(angles)], axis=1)
    reach = np.arange(50, 105, 0.5)
    along = centre + rays[:, None] * reach[:, None]
    distance = atlas.hull(along.reshape(-1, 3)).reshape(along.shape[:2])
    outermost = reach[np.argmin(np.abs(distance - 1.0), axis=1)]
    points = centre + rays * outermost[:, None]
    points[:, 0] += draw.normal(0.8, len(points))
    path = _bent(draw, points, wander=0.3)
    return path, np.linspace(3.6, 1.5, len(path)) * draw.uniform(0.85, 1.1)


def _deep_veins(draw: Draw, atlas: Atlas, sinuses) -> _Forest:
    """Galen's vein and what drains into it, down to the medullary veins."""
    forest = _Forest.empty().with_chain(sinuses["straight", 1][0][-1:], -1, np.zeros(1))
    members = {("straight", 1): np.array([0])}
    for name, side, course, points in _each_side(_DEEP_VEINS):
        into = members.get((course.into, side), members.get((course.into, 1)))
        parent = into[np.argmin(np.linalg.norm(forest.points[into] - points[0], axis=1))]
        path = _bent(draw, points, wander=1.0, start=forest.points[parent])[1:]
        members[name, side] = np.arange(len(forest), len(forest) + len(path))
        forest = forest.with_chain(path, parent, draw.uniform(*TIP_RADII["trunk"], len(path)))
    for side in (1, -1):
        forest = _with_medullary_veins(draw, atlas, forest, side)
    return forest.smoothed(2)


def ventricle_axis(share: np.ndarray, *, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Axis of a lateral ventricle.

    Parameters
    ----------
    share : numpy.ndarray
        (n,), share of the way from the tip of the frontal horn to the inferior horn, 0 to 1.
    side : int
        1 for the right one, −1 for the left one.

    Returns
    -------
    points, tangents : numpy.ndarray
        (n, 3) in MNI mm, and the derivative by the share.

    Examples
    --------
    >>> ventricle_axis(np.zeros(1), side=-1)[0].tolist()
    [[-11.0, 28.0, 2.0]]
    """
    knots = np.array(_VENTRICLE) * (side, 1, 1)
    axis = CubicSpline(np.linspace(0, 1, len(knots)), knots)
    return axis(share), axis(share, 1)


def _ventricle_wall(draw: Draw, atlas: Atlas, side: int, count: int):
    """Random points (n, 3) of the wall of a lateral ventricle, and directions (n, 3) away from its axis."""
    position = np.linspace(0, 0.92, count) + draw.normal(0.01, count)
    origin, along = ventricle_axis(position, side=side)
    away = draw.normal(1, (count, 3))
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    away -= (away * along).sum(1, keepdims=True) * along
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    reach = np.arange(0, 14, 0.5)
    rays = origin[:, None] + away[:, None] * reach[:, None]
    fluid = atlas.tissues(rays.reshape(-1, 3))[2].reshape(rays.shape[:2])
    wall = np.argmax(fluid < 0.4, axis=1)
    found = wall > 0
    return rays[np.arange(count), wall][found], away[found]


def _with_medullary_veins(draw: Draw, atlas: Atlas, forest: _Forest, side: int) -> _Forest:
    """Medullary veins of one hemisphere and the subependymal veins that lead them to the trunks."""
    wall, away = _ventricle_wall(draw, atlas, side, 900)
    # Most come from above and from the side; the medial wall has none.
    upward = away[:, 2] + 0.8 * side * away[:, 0]
    feet = np.flatnonzero(upward > 0.4)
    feet = feet[np.argsort(draw.uniform(0, 1, len(feet)))][:N_MEDULLARY]
    known = len(forest)
    points = np.concatenate([forest.points, wall])
    pairs = _neighbours(points)
    # Of the vessels there are, only those of this side take part.
    pairs = pairs[(points[pairs][:, :, 0] * side > 0).all(1)]
    costs = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1) ** 1.5
    kept, parents = _cheapest_ways(pairs, costs, sources=np.arange(known), leaves=feet + known)
    is_new = kept >= known
    new = kept[is_new]
    index = np.concatenate([np.arange(known), np.full(len(wall), -1)])
    index[new] = known + np.arange(len(new))
    tips = draw.uniform(*TIP_RADII["medullary"], len(new))
    forest = forest.extended(points[new], index[parents[is_new]], tips)
    starts = index[feet + known]
    return _walk_into_white_matter(draw, atlas, forest, starts[starts >= 0], away[feet][starts >= 0])


def _walk_into_white_matter(draw, atlas, forest: _Forest, starts: np.ndarray, heading: np.ndarray) -> _Forest:
    """Medullary veins that walk from the ventricle into white matter and fork now and then."""
    heads, ages = starts, np.zeros(len(starts))
    lengths = draw.uniform(14, 40, len(starts))
    points = forest.points[heads]
    while len(heads):
        heading = heading + draw.normal(0.09, heading.shape)
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        points = points + STEP * heading
        ages = ages + STEP
        # The caudate nucleus lies between much of the ventricle and the white matter.
        goes_on = (ages < lengths) & ((atlas.tissues(points)[1] > 0.55) | (ages <= 3 * STEP))
        heads, points, heading, ages, lengths = (x[goes_on] for x in (heads, points, heading, ages, lengths))
        first = len(forest)
        forest = forest.extended(points, heads, draw.uniform(*TIP_RADII["medullary"], len(points)))
        heads = np.arange(first, len(forest))
        fork = np.flatnonzero(draw.uniform(0, 1, len(heads)) < 0.08)
        heads, points, ages, lengths = (np.concatenate([x, x[fork]]) for x in (heads, points, ages, lengths))
        heading = np.concatenate([heading, heading[fork] + draw.normal(0.35, (len(fork), 3))])
    return forest


def _neighbours(points: np.ndarray, *, count: int = 10, reach: float = 8.0) -> np.ndarray:
    """Pairs (m, 2) of each point and its nearest ones within reach, mm."""
    distance, neighbour = KDTree(points).query(points, k=count + 1, distance_upper_bound=reach)
    near = np.isfinite(distance[:, 1:]) & (distance[:, 1:] > 0)
    first = np.broadcast_to(np.arange(len(points))[:, None], near.shape)
    return np.stack([first[near], neighbour[:, 1:][near]], axis=1)


def _cheapest_ways(
    pairs: np.ndarray, costs: np.ndarray, *, sources: np.ndarray, leaves: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tree of the cheapest way from each leaf to a source.

    Of pairs (m, 2) that come more than once, the first one's cost (m,) holds. Returns the indices of the
    points on a way, each after the one downstream, and the index of that one, −1 for sources. Leaves that no
    way leads to are left out.
    """
    outlet = max(pairs.max(), sources.max()) + 1
    pairs = np.concatenate([pairs, np.stack([sources, np.full(len(sources), outlet)], axis=1)])
    # Next to nothing, but zero would be no edge.
    costs = np.concatenate([costs, np.full(len(sources), 1e-6)])
    low, high = np.sort(pairs, axis=1).T
    _, once = np.unique(low * (outlet + 1) + high, return_index=True)
    graph = coo_array((costs[once], (low[once], high[once])), shape=(outlet + 1, outlet + 1)).tocsr()
    spent, downstream = dijkstra(graph, directed=False, indices=outlet, return_predecessors=True)
    used = np.zeros(outlet + 1, dtype=bool)
    frontier = leaves[leaves < outlet]
    frontier = frontier[np.isfinite(spent[frontier])]
    while len(frontier):
        used[frontier] = True
        frontier = np.unique(downstream[frontier])
        frontier = frontier[~used[frontier] & (frontier != outlet)]
    kept = np.flatnonzero(used)
    kept = kept[np.argsort(spent[kept], kind="stable")]
    return kept, np.where(downstream[kept] == outlet, -1, downstream[kept])


def _cortical_trunks(draw: Draw, atlas: Atlas, sinuses) -> list[np.ndarray]:
    """Paths of the large pial veins, each from the middle of a sinus."""
    sagittal = sinuses["superior sagittal", 1][0]
    paths = [_superior_vein(draw, sagittal, side, share) for side, share in _superior_entries(draw)]
    depths = [-1.5] * len(paths)
    axes = np.concatenate([path for path, _ in sinuses.values()])
    for _, _, course, usual in _each_side(_CORTICAL_TRUNKS):
        points = usual + draw.normal(course.shift, 3)
        start = axes[np.argmin(np.linalg.norm(axes - points[0], axis=1))]
        paths.append(_bent(draw, points[1:], wander=1.5, start=start))
        depths.append(course.depth)
    return _at_depths(atlas, paths, depths)


def _superior_entries(draw: Draw) -> list[tuple[int, float]]:
    """Side, and share of the way along the superior sagittal sinus, of the veins that join it."""
    entries = []
    for side in (1, -1):
        count = int(draw.uniform(SUPERIOR_VEINS[0], SUPERIOR_VEINS[1] + 1))
        shares = 0.12 + 0.82 * (np.arange(count) + draw.uniform(0.1, 0.9, count)) / count
        entries += [(side, float(share)) for share in shares]
    return entries


def _superior_vein(draw: Draw, sinus: np.ndarray, side: int, share: float) -> np.ndarray:
    """A vein that leaves the sinus sideways in front, and backwards, against its stream, behind."""
    entry = int(share * (len(sinus) - 1))
    downstream = sinus[max(entry - 2, 0)] - sinus[entry]
    downstream /= np.linalg.norm(downstream)
    slant = np.deg2rad(55 * (1 - share) + draw.normal(12))
    sideways = np.cos(slant) * np.array([side, 0, 0]) + np.sin(slant) * downstream
    knots = sinus[entry] + np.linspace(0, draw.uniform(12, 42), 5)[1:, None] * sideways
    return _bent(draw, knots, wander=1.6, start=sinus[entry])


def _strewn_points(draw: Draw, atlas: Atlas) -> np.ndarray:
    """Random points where pial veins run: in the fluid of sulci and fissures and over the surface."""
    lower, upper = np.array(BRAIN_BOX)
    points = lower + (upper - lower) * draw.uniform(0, 1, (N_STREWN, 3))
    hull = atlas.hull(points)
    points = points[(hull < _PIAL_DEPTHS[0]) & (hull > _PIAL_DEPTHS[1])]
    in_falx = (np.abs(points[:, 0]) < 2) & (points[:, 2] > 0)
    points = points[~in_falx & ~_ventricular(points)]
    return points[draw.uniform(0, 1, len(points)) < _affinity(atlas, points)]


def _affinity(atlas: Atlas, points: np.ndarray) -> np.ndarray:
    """How readily a pial vein runs here, 0 to 1."""
    shares = atlas.tissues(points)
    surface = np.exp(-(((atlas.hull(points) + 1.5) / 1.5) ** 2)) * (shares.sum(0) > 0.5)
    return np.maximum(shares[2], 0.8 * surface)


def _ventricular(points: np.ndarray) -> np.ndarray:
    """Whether points lie in or near the ventricles, whose fluid holds no pial veins."""
    axis, _ = ventricle_axis(np.linspace(0, 1, 40), side=1)
    folded = np.stack([np.abs(points[:, 0]), points[:, 1], points[:, 2]], axis=1)
    near_lateral = KDTree(axis).query(folded)[0] < 14
    x, y, z = folded.T
    near_third = (x < 8) & (y > -36) & (y < 22) & (z > -12) & (z < 22)
    return near_lateral | near_third


def _cortical_veins(draw: Draw, atlas: Atlas, sinuses) -> _Forest:
    """Pial veins of cortex and cerebellum, from the sinuses to their tips in the sulci."""
    trunks = _cortical_trunks(draw, atlas, sinuses)
    strewn = _strewn_points(draw, atlas)
    points = np.concatenate([*trunks, strewn])
    stops = np.cumsum([len(path) for path in trunks])
    sources = stops - [len(path) for path in trunks]
    along = np.setdiff1d(np.arange(stops[-1]), sources)
    pairs = np.concatenate([np.stack([along - 1, along], axis=1), _neighbours(points)])
    tips = np.concatenate([stops - 1, stops[-1] + _one_a_cell(draw, strewn)])
    costs = _pial_costs(draw, atlas, points[pairs])
    # Once there is a trunk, veins rather follow it than run beside it.
    costs[: len(along)] = 0.2 * STEP**1.5
    kept, parents = _cheapest_ways(pairs, costs, sources=sources, leaves=tips)
    index = np.full(len(points) + 1, -1)
    index[kept] = np.arange(len(kept))
    forest = _Forest(points[kept], index[parents], draw.uniform(*TIP_RADII["pial"], len(kept)))
    points = forest.smoothed(5).points
    shallow = (forest.parents >= 0) & (atlas.hull(points) > _PIAL_DEPTHS[0])
    return forest.moved(atlas.at_depth(points, np.where(shallow, _PIAL_DEPTHS[0], np.nan)))


def _one_a_cell(draw: Draw, points: np.ndarray) -> np.ndarray:
    """Indices of points, one in each cell of a lattice TIP_SPACING mm wide that holds any."""
    cells = np.floor(points / TIP_SPACING + draw.uniform(0, 1, 3))
    return np.unique(cells, axis=0, return_index=True)[1]


def _pial_costs(draw: Draw, atlas: Atlas, ends: np.ndarray) -> np.ndarray:
    """Cost (m,) of a vein between points (m, 2, 3): many short steps beat a long one, sulci beat gyri.

    None crosses from one hemisphere to the other.
    """
    length = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    whim = np.exp(draw.normal(0.3, len(ends)))
    cost = length**1.5 * whim / (0.06 + _affinity(atlas, ends.mean(1)))
    return np.where(ends[:, 0, 0] * ends[:, 1, 0] < 0, np.inf, cost)
