"""Where the structures of the average brain lie: levels, outlines of the nuclei and courses of the tracts.

Cortex, white matter and fluid come from the template's own maps; the nuclei are closed outlines, traced
in axial slices of the template and lofted from slice to slice. All are kept as distances, which stay sharp
on any grid, in MNI mm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from qsmflow.sim.shapes import Ellipsoid, Solid, Tube, column, smooth_union
from qsmflow.sim.template import Lattice, Template, load_template

Outline = tuple[tuple[float, float], ...]

#: Distances are cut off at this, mm.
FARTHEST = 6.0
#: Box that holds the deep nuclei, mm.
DEEP_BOX = ((-40.0, -74.0, -48.0), (40.0, 30.0, 31.0))
#: Box that holds the cerebellum, mm.
CEREBELLUM_BOX = ((-66.0, -102.0, -68.0), (66.0, -22.0, 4.0))
#: T1-weighted intensity of the template where grey matter and fluid meet.
FLUID_INTENSITY = 0.595
#: Usual distance between the leaves of the cerebellar cortex, mm.
LEAF = 5.0

#: Right-hand outlines (x, y) of the nuclei by height z, mm, traced on the template.
OUTLINES: dict[str, dict[float, Outline]] = {
    "putamen": {
        -9: ((17, 8), (18, 13), (20.5, 18), (24, 15), (27, 9), (28, 4), (25, 2), (21, 5)),
        -4: ((15.5, 8), (18, 15), (21, 20.5), (25, 17), (29, 9), (31, 0), (31.5, -10), (31, -17), (29, -16),
             (27.5, -9), (26, -1), (22, 4)),
        -1: ((16, 9), (19, 15), (21.5, 20), (25, 16), (29, 8), (31.5, -2), (32.5, -12), (31.5, -20),
             (29.5, -18), (28, -10), (26, -2), (22, 5)),
        2: ((17, 8), (19, 16), (22, 19), (26, 14), (30, 6), (32, -4), (32.5, -14), (31, -20), (29, -17),
            (27, -8), (24, 2), (20, 6)),
        5: ((18.5, 8), (20, 14), (22.5, 17.5), (26.5, 12), (30, 4), (32, -6), (32, -14), (30.5, -19),
            (28, -12), (24.5, -2), (20.5, 5)),
        8: ((20, 2), (21, 8), (23.5, 14), (27, 10), (30, 3), (31.5, -6), (31, -14), (29.5, -15), (26.5, -8),
            (22.5, -1)),
        12: ((24, 4), (26, 9), (28.5, 5), (30.5, -3), (30.5, -10), (29, -11), (26, -4)),
        15: ((26, 3), (27.5, 5), (29, -1), (28.5, -6), (27, -3)),
    },
    "globus pallidus externa": {
        -6: ((13, 2), (17, 3), (22, -1), (24, -6), (22, -6), (18, -2), (14, 0)),
        -4: ((11.5, 4), (15.5, 6), (20, 3), (24, -3), (26, -9), (24.3, -9), (21.5, -3.5), (17.5, 0.5),
             (13, 2)),
        -1: ((13, 5), (17.5, 5), (22, 1), (25, -5), (26.5, -11), (25, -12), (22, -4.5), (18.5, 0), (14.5, 2)),
        2: ((14, 4), (16, 6), (19, 4), (22.5, -2), (25.5, -10), (24.5, -13.5), (22.3, -9), (19.5, -3),
            (16, 0)),
        5: ((17, 4), (20, 2), (22.5, -3), (25, -9), (24, -11), (21, -6), (18, -1)),
        7: ((19, 1), (21, -1), (23, -6), (22, -7), (20, -3)),
    },
    "globus pallidus interna": {
        -5: ((11, 0.5), (15, 0), (19, -3), (21.5, -7), (19, -7), (14, -3)),
        -3: ((10.5, 1), (14, 1.5), (18, -0.5), (21, -4.5), (23, -9), (21, -9.5), (16.5, -6), (12.5, -2)),
        -1: ((13, 1), (17, -0.5), (20.8, -5), (23, -10), (21.5, -11), (17.5, -7.5), (14, -2.5)),
        2: ((17, -2.5), (19, -4.5), (22, -10), (21, -12), (18, -8)),
        3: ((18.5, -5), (21, -9.5), (20, -10), (18.5, -8)),
    },
    "caudate": {
        -8: ((6.5, 8), (8.5, 14), (12, 20), (14.5, 16), (13.5, 10), (9.5, 7)),
        -4: ((6, 10), (9, 16), (13, 22), (17, 20), (14.5, 13), (10, 9)),
        -1: ((7.5, 8), (9.5, 15), (14, 23.5), (18, 21), (14, 13), (10, 7)),
        2: ((8, 6), (9.5, 13), (15, 22), (19.5, 19), (15, 11), (11, 5)),
        5: ((8.5, 6), (9.5, 12), (14, 21), (20, 19), (17, 12), (13, 5)),
        8: ((9, 6), (10.5, 13), (15, 21), (20, 19), (18, 12), (13.5, 5)),
        12: ((10.5, 4), (11.5, 11), (15.5, 19), (20.5, 17), (19, 9), (14.5, 3)),
        16: ((12, 1), (12.5, 10), (14.5, 18), (18, 17), (18.5, 8), (15.5, -1)),
        20: ((13.5, -8), (13.5, 4), (15, 13), (17.5, 12), (18.5, 2), (17.5, -9)),
    },
    "thalamus": {
        -3: ((8, -18), (12, -17), (15, -20), (18, -24), (16, -28), (12, -29), (9, -25)),
        2: ((3.5, -7), (8, -6), (12, -10), (17, -16), (21, -22), (19, -28), (13, -30), (8, -27), (4, -20)),
        6: ((3.5, -5), (8, -3.5), (12, -8), (17, -14), (21, -20), (22, -26), (18, -31), (11, -30.5), (6, -26),
            (3.5, -18)),
        10: ((4, -5), (8, -3), (12, -6.5), (16, -12), (20, -19), (21, -26), (17, -30.5), (11, -29.5),
             (7, -25), (4, -18)),
        14: ((5, -7), (9, -4.5), (13, -9), (17, -16), (19, -23), (16, -28), (11, -26), (7, -20)),
        17: ((7, -11), (11, -10), (14, -16), (15, -22), (12, -23), (9, -18)),
    },
    "substantia nigra": {
        -17: ((6, -12.5), (8.8, -13), (11.6, -16.7), (12.6, -21), (11, -23.8), (8.9, -20.5), (6.9, -16)),
        -14: ((5.7, -10.5), (8.8, -10.8), (12.1, -15), (13.8, -20.5), (12.4, -25.8), (10.2, -23.3),
              (9.4, -18), (7.4, -14)),
        -11: ((6.5, -9.5), (9.9, -9.8), (13.4, -14), (14.7, -19.5), (13.2, -24), (10.9, -20), (9.7, -15.5)),
        -9: ((8.5, -10), (11.3, -10.3), (14.4, -14), (14.7, -18.5), (12.2, -17.5), (10.2, -14)),
    },
}  # fmt: skip

#: Right-hand solids of the nuclei that are too plain or too winding for outlines.
SOLIDS: dict[str, Solid] = {
    "red nucleus": Ellipsoid((5.2, -19.0, -9.0), (3.1, 3.4, 4.4)),
    "subthalamic nucleus": Tube(((9.3, -10.5, -7.3), (11.5, -13, -6.3), (13.5, -16, -5)), (1.5, 2.0, 1.3)),
}
DENTATE = Ellipsoid((15.0, -58.0, -35.0), (6.5, 9.0, 5.0), (0.0, 20.0, 20.0))
CAUDATE_TAIL = Tube(
    ((16, 0, 19), (17.5, -10, 21), (20, -22, 20), (25, -33, 12), (27.5, -37, 6)), (3, 2.6, 2, 1.5, 1)
)

#: Courses of the tracts that stand out of the white matter: the callosum in the middle, the optic radiation
#: and the posterior limb of the internal capsule on the right.
CALLOSUM = Tube(
    ((0, 26, -6), (0, 29, 4), (0, 22, 16), (0, 2, 24), (0, -20, 25), (0, -36, 17), (0, -39, 8)),
    (9, 9, 8, 7, 7, 8, 9),
)
RADIATION = (
    Tube(((23, -26, -3), (35, -28, -2), (38, -42, 2), (33, -62, 6), (22, -82, 5)), (2.5, 3.5, 4, 4.5, 4)),
    Tube(((26, -22, 32), (23, -17, 18), (20, -16, 6), (16, -16, -6)), (4, 3.5, 3, 3)),
)


@dataclass(frozen=True)
class Atlas:
    """Structures of the average brain, MNI mm.

    Parameters
    ----------
    levels : Lattice
        Channels of :data:`LEVELS`.
    nuclei : Lattice
        Distance to the surface of each of :attr:`names`, mm, negative inside.
    names : tuple of str
        Of the nuclei.
    """

    levels: Lattice
    nuclei: Lattice
    names: tuple[str, ...]

    def to(self, device) -> "Atlas":
        """The same atlas on another device."""
        return Atlas(self.levels.to(device), self.nuclei.to(device), self.names)


#: What is known at every point of the brain: distance to the white matter and to the fluid, mm, negative
#: inside; T1-weighted intensity; how much a point belongs to callosum and great fibre tracts, 0 to 1.
LEVELS = ("white", "fluid", "intensity", "callosum", "radiation")


def load_atlas(device: torch.device | str = "cpu") -> Atlas:
    """Build the atlas from the template, once a process and device.

    Examples
    --------
    >>> atlas = load_atlas()
    >>> putamen = atlas.nuclei(torch.tensor([27.0, 3.0, 1.0]))[atlas.names.index("putamen")]
    >>> bool(putamen < -2)
    True
    """
    return _load_atlas(torch.device(device))


@lru_cache(maxsize=2)
def _load_atlas(device: torch.device) -> Atlas:
    if device.type != "cpu":
        return load_atlas().to(device)
    template = load_template()
    nuclei = _nuclei()
    return Atlas(_levels(template, nuclei), nuclei, (*OUTLINES, *SOLIDS, "dentate"))


def _levels(template: Template, nuclei: Lattice) -> Lattice:
    lattice = template.tissues
    grey, white, _, intensity = lattice.values
    # Deep inside and in the stem there is no cortex: what is not a nucleus is white, more or less.
    deep = _within(lattice, nuclei, margin=4.0) + _coarsely(
        lattice, lambda points: _soft(_stem_distance(points))
    )
    to_white, to_fluid = _distance_to_zero(grey - white), _distance_to_zero(intensity - FLUID_INTENSITY)
    to_white = torch.lerp(to_white, torch.full_like(to_white, -3.0), deep.clamp(max=1))
    cerebellum = _block(lattice, CEREBELLUM_BOX)
    leaves = _foliation(lattice.points()[(slice(None), *cerebellum)])
    to_white[cerebellum] += 1.3 * leaves
    # Between the leaves of grey matter there are thin sheets of fluid, but never through the white.
    sheets = torch.maximum(torch.arccos(leaves) * LEAF / (2 * np.pi) - 0.3, 0.6 - to_white[cerebellum])
    sheets = torch.where(leaves > 0.5, sheets, FARTHEST)
    to_fluid[cerebellum] = torch.minimum(to_fluid[cerebellum], sheets)
    callosum, radiation = (_coarsely(lattice, tracts) for tracts in (_callosum_share, _radiation_share))
    values = torch.stack([to_white, to_fluid, intensity, callosum, radiation])
    return Lattice(values, lattice.origin, lattice.spacing)


def _block(lattice: Lattice, box: Sequence[Sequence[float]]) -> tuple[slice, ...]:
    """Samples of a lattice within a box in mm."""
    lower, upper = (
        np.round((np.array(corner) - lattice.origin) / lattice.spacing).astype(int) for corner in box
    )
    return tuple(slice(int(a), int(b) + 1) for a, b in zip(lower, upper, strict=True))


def _coarsely(lattice: Lattice, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A smooth function of the points of a lattice, computed at every third one only."""
    size = tuple(-(-n // 3) + 1 for n in lattice.values.shape[1:])
    coarse = Lattice(torch.empty(1, *size), lattice.origin, 3 * lattice.spacing)
    values = function(coarse.points())
    fine = functional.interpolate(
        values[None, None], size=[3 * n - 2 for n in size], mode="trilinear", align_corners=True
    )
    return fine[0, 0][tuple(slice(n) for n in lattice.values.shape[1:])]


def _callosum_share(points: Tensor) -> Tensor:
    return _soft(CALLOSUM.distance(points))


def _radiation_share(points: Tensor) -> Tensor:
    mirror = torch.stack([points[0].abs(), *points[1:]])
    return _soft(smooth_union([tube.distance(mirror) for tube in RADIATION], blend=1.0))


def _distance_to_zero(image: Tensor) -> Tensor:
    """Distance to where an image crosses zero, to first order, mm on a lattice of 1 mm."""
    smooth = ndimage.gaussian_filter(image.numpy(), 0.5)
    slope = np.sqrt(sum(derivative**2 for derivative in np.gradient(smooth)) + 0.05**2)
    return torch.from_numpy(smooth / slope).clamp(-FARTHEST, FARTHEST)


def _soft(distance: Tensor, *, width: float = 1.5) -> Tensor:
    """One inside, zero outside, with a wide margin."""
    return torch.sigmoid(-distance / width)


def _stem_distance(points: Tensor) -> Tensor:
    stem = Tube(((0, -18, -8), (0, -27, -32), (0, -40, -56), (0, -45, -80)), (15, 15, 10, 8))
    return smooth_union(
        [stem.distance(points), Ellipsoid((0, -24, -32), (19, 13, 14)).distance(points)], blend=2
    )


def _foliation(points: Tensor) -> Tensor:
    """Leaves of the cerebellar cortex, −1 to 1: sheets that fan out from the fourth ventricle, mm."""
    x, y, z = points
    cerebellum = smooth_union(
        [Ellipsoid((side * 24, -64, -34), (30, 28, 24)).distance(points) for side in (-1, 1)], blend=4
    )
    radius = ((y + 46) ** 2 + (z + 32) ** 2).sqrt() + 4
    angle = torch.atan2(z + 32, -(y + 46)) + 0.004 * x.abs()
    turns = 46 * angle + 0.05 * x.abs() * torch.sin(3 * angle)
    leaf = torch.sin(turns + 2.2 * torch.sin(0.16 * x) + 0.25 * radius)
    return leaf * _soft(cerebellum + 1) * ((radius - 14) / 12).clamp(0, 1)


def _within(lattice: Lattice, nuclei: Lattice, *, margin: float) -> Tensor:
    """Which samples of a lattice lie nearer than a margin to a nucleus, 0 to 1."""
    share = torch.zeros(lattice.values.shape[1:])
    share[_block(lattice, DEEP_BOX)] = _soft(nuclei.values.amin(dim=0) - margin, width=0.7)
    return share


def _nuclei() -> Lattice:
    """Distances to the nuclei of both sides on a lattice of 1 mm."""
    (left, *_), upper = DEEP_BOX
    origin, stop = (0.0, *DEEP_BOX[0][1:]), np.array(upper)
    shape = tuple(int(n) for n in stop - origin + 1)
    points = Lattice(torch.empty(1, *shape), origin, 1.0).points()
    distances = [lofted(outlines, points) for outlines in OUTLINES.values()]
    caudate = list(OUTLINES).index("caudate")
    distances[caudate] = smooth_union([distances[caudate], CAUDATE_TAIL.distance(points)], blend=0.8)
    distances += [solid.distance(points) for solid in SOLIDS.values()]
    distances.append(_dentate(points))
    right = torch.stack(distances).clamp(-FARTHEST, FARTHEST)
    return Lattice(torch.cat([right[:, 1:].flip(1), right], dim=1), (left, *origin[1:]), 1.0)


def _dentate(points: Tensor) -> Tensor:
    """The dentate nucleus: a crumpled sheet bent to a bowl that opens to the front and the middle."""
    bowl = DENTATE.distance(points)
    x, y, z = points - column(DENTATE.center, points)
    crumpled = bowl + 0.6 * torch.sin(1.5 * (x + 0.6 * z)) * torch.sin(1.3 * (y - 0.5 * x))
    opening = -0.45 * x + 0.75 * y + 0.3 * z - 3.5
    return torch.maximum(crumpled.abs() - 0.9, opening)


def lofted(outlines: dict[float, Outline], points: Tensor) -> Tensor:
    """Distance to a body given by its outlines at several heights.

    Parameters
    ----------
    outlines : dict of float to sequence of (x, y)
        Closed outlines by height z, mm.
    points : Tensor
        (3, x, y, z) in mm, on a lattice whose z varies along its last axis only.

    Returns
    -------
    Tensor
        (x, y, z) in mm, negative inside, to first order.

    Examples
    --------
    >>> square = ((0, 0), (8, 0), (8, 8), (0, 8))
    >>> lofted({0: square, 4: square}, torch.tensor([4.0, 4.0, 2.0]).reshape(3, 1, 1, 1)).item() < -1
    True
    """
    heights = np.array(sorted(outlines))
    plane = points[:2, :, :, 0]
    flat = torch.stack([outline_distance(_rounded(outlines[z]), plane) for z in heights.tolist()], dim=-1)
    z = points[2, 0, 0].numpy()
    position = np.interp(z, heights, np.arange(len(heights)))
    below = np.minimum(position.astype(int), len(heights) - 2)
    distance = torch.lerp(flat[..., below], flat[..., below + 1], torch.from_numpy(position - below).float())
    # Beyond the last outlines the body closes as a dome.
    over = torch.from_numpy(np.maximum(heights[0] - z, z - heights[-1]).clip(min=0)).float()
    return distance + over * 1.2


def _rounded(outline: Outline) -> Outline:
    """Corners cut twice."""
    corners = np.array(outline, dtype=float)
    for _ in range(2):
        after = np.roll(corners, -1, axis=0)
        corners = np.stack([0.75 * corners + 0.25 * after, 0.25 * corners + 0.75 * after], axis=1).reshape(
            -1, 2
        )
    return tuple(map(tuple, corners.tolist()))


def outline_distance(outline: Sequence[tuple[float, float]], plane: Tensor) -> Tensor:
    """Signed distance to a closed outline, negative inside.

    Parameters
    ----------
    outline : sequence of (x, y)
        Corners in mm, in order; the last is joined to the first.
    plane : Tensor
        (2, ...), x and y of points in mm.

    Returns
    -------
    Tensor
        (...), mm.

    Examples
    --------
    >>> outline_distance(((0, 0), (4, 0), (4, 4), (0, 4)), torch.tensor([[2.0, 6.0], [1.0, 2.0]]))
    tensor([-1.,  2.])
    """
    column = (2, -1, *[1] * (plane.ndim - 1))
    start = plane.new_tensor(outline).T.reshape(column)
    side = start.roll(-1, dims=1) - start
    offset = plane[:, None] - start
    along = ((offset * side).sum(0) / (side**2).sum(0)).clamp(0, 1)
    distance = (offset - along * side).square().sum(0).amin(0).sqrt()
    # A ray to the right crosses the outline an odd number of times from inside.
    rises = (start[1] > plane[1]) != (start[1] + side[1] > plane[1])
    slope = side[0] / torch.where(side[1] == 0, torch.ones_like(side[1]), side[1])
    inside = (rises & (offset[0] < offset[1] * slope)).sum(0) % 2 == 1
    return torch.where(inside, -distance, distance)
