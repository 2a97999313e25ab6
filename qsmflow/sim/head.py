"""A digital head: analytic anatomy in head space, drawn with soft edges on any grid.

Head space is in mm, x to the right, y to the front, z to the top, with its origin near the anterior
commissure, so that positions are those of the common stereotaxic atlases.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qsmflow.sim.grids import box_indices, voxel_centers, voxel_edges
from qsmflow.sim.shapes import Ellipsoid, Point, RandomField, Solid, Tube, smooth_union
from qsmflow.sim.tissues import TISSUES

#: Lower and upper corner of a box that holds every head with its neck, mm.
HEAD_BOX: tuple[Point, Point] = ((-95.0, -125.0, -200.0), (95.0, 115.0, 105.0))

PROPERTIES = ("susceptibility", "r2star", "proton_density", "t1")


@dataclass(frozen=True)
class Head:
    """Tissue properties of one subject on a grid.

    Parameters
    ----------
    susceptibility : Tensor
        (x, y, z) in ppm relative to water; +9.4 in air.
    r2star : Tensor
        (x, y, z) in 1/s.
    proton_density : Tensor
        (x, y, z) relative to water.
    t1 : Tensor
        (x, y, z) in s.
    brain : Tensor
        (x, y, z), share of each voxel that lies within the brain's outer surface, 0 to 1.
    affine : numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm.
    """

    susceptibility: Tensor
    r2star: Tensor
    proton_density: Tensor
    t1: Tensor
    brain: Tensor
    affine: np.ndarray


def build_head(*, shape: Sequence[int], affine: np.ndarray, seed: int = 0, device=None) -> Head:
    """Draw the head of one subject on a grid.

    The same seed gives the same head on every grid, so that a coarse and a fine grid fit together.

    Parameters
    ----------
    shape : sequence of int
        Voxels.
    affine : numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm.
    seed : int
        Of the subject: its size, shape, folds, veins and texture.
    device : torch.device, optional
        Where the maps are drawn.

    Returns
    -------
    Head

    Examples
    --------
    >>> head = build_head(shape=(8, 8, 8), affine=np.diag([20.0, 20, 20, 1]))
    >>> head.susceptibility.shape
    torch.Size([8, 8, 8])
    """
    generator = torch.Generator().manual_seed(seed)
    scale = 1 + 0.02 * torch.randn(3, generator=generator)
    bend = [RandomField.draw(generator, wavelength=np.inf, bandwidth=1 / 90) for _ in range(3)]
    folds = RandomField.draw(generator, wavelength=21.0, bandwidth=0.010)
    foliation = RandomField.draw(generator, wavelength=9.0, bandwidth=0.015)
    texture = RandomField.draw(generator, wavelength=12.0, bandwidth=0.03)

    centers = voxel_centers(shape, affine, device=device)
    points = torch.stack(
        [
            axis * stretch.to(axis) + 1.5 * displacement.to(device)(centers)
            for axis, stretch, displacement in zip(centers, scale, bend, strict=True)
        ]
    )
    canvas = _Canvas(points, affine, texture=texture.to(device)(points))
    hull = _brain_hull(points)
    _draw_outside(canvas, hull)
    _draw_cortex(canvas, hull, folds=folds.to(device)(points), foliation=foliation.to(device)(points))
    for tissue, solid in [*_deep_structures(), *_veins(generator)]:
        canvas.draw(tissue, solid)
    # The cord runs on into the neck; what is called brain ends at the foramen magnum.
    brain = canvas.share(torch.maximum(hull, -62 - points[2]))
    return Head(**canvas.maps, brain=brain, affine=affine)


class _Canvas:
    """Property maps that start as air and are painted over, tissue by tissue."""

    def __init__(self, points: Tensor, affine: np.ndarray, *, texture: Tensor):
        self.points, self.affine, self.texture = points, affine, texture
        self.shape = points.shape[1:]
        self.edge = float(np.mean(voxel_edges(affine)))
        air = TISSUES["air"]
        self.maps = {name: torch.full(self.shape, getattr(air, name)).to(points) for name in PROPERTIES}

    def share(self, distance: Tensor) -> Tensor:
        """Share of a voxel inside a surface at this signed distance: a ramp one voxel wide."""
        return (0.5 - distance / self.edge).clamp(0, 1)

    def paint(self, tissue: str, distance: Tensor, block: tuple[slice, ...] = (slice(None),) * 3) -> None:
        """Put a tissue over what is there, wherever the distance is negative."""
        share, values = self.share(distance), TISSUES[tissue]
        for name, image in self.maps.items():
            target = torch.full_like(share, getattr(values, name))
            if name == "susceptibility":
                target += values.variation * self.texture[block]
            image[block].lerp_(target, share)

    def draw(self, tissue: str, solid: Solid, *, shell: float = 0.0) -> None:
        """Paint a solid, grown by a shell in mm, within the block of voxels it can reach."""
        # Subjects are scaled and bent against head space by less than this.
        slack = 14.0 + shell
        lower, upper = (np.array(corner) for corner in solid.bounds())
        first, stop = box_indices(self.shape, self.affine, lower - slack, upper + slack)
        block = tuple(
            slice(max(a, 0), max(min(b, size), 0)) for a, b, size in zip(first, stop, self.shape, strict=True)
        )
        points = self.points[(slice(None), *block)]
        if points.numel():
            self.paint(tissue, solid.distance(points) - shell, block)


def _mirrored(solid: Solid) -> tuple[Solid, Solid]:
    """The solid on the right and its mirror image on the left."""
    if isinstance(solid, Ellipsoid):
        (x, *center), (a, b, c) = solid.center, solid.rotation
        return solid, Ellipsoid((-x, *center), solid.semiaxes, (a, -b, -c))
    return solid, Tube(tuple((-x, y, z) for x, y, z in solid.path), solid.radii)


def _cerebellum(points: Tensor) -> Tensor:
    return Ellipsoid((0, -62, -34), (52, 33, 24)).distance(points)


def _brain_stem(points: Tensor) -> Tensor:
    stem = Tube(((0, -20, -10), (0, -27, -38), (0, -42, -66), (0, -42, -220)), (15, 13, 9, 6))
    pons = Ellipsoid((0, -23, -30), (17, 12, 13))
    return smooth_union([stem.distance(points), pons.distance(points)], blend=2)


def _brain_hull(points: Tensor) -> Tensor:
    """Signed distance to the brain's smooth outer surface, gyri bridged over."""
    upper = Ellipsoid((0, -18, 14), (67, 84, 60)).distance(points)
    # Above the orbits and the tentorium, the floor of the cerebrum rising to the front.
    floor = -(points[2] + 22 - 0.08 * points[1])
    cerebrum = -smooth_union([-upper, -floor], blend=3)
    temporal = [lobe.distance(points) for lobe in _mirrored(Ellipsoid((43, -14, -20), (24, 42, 24)))]
    return smooth_union([cerebrum, *temporal, _cerebellum(points), _brain_stem(points)], blend=2.5)


def _draw_outside(canvas: _Canvas, hull: Tensor) -> None:
    """Scalp, face, neck, skull, eyes and the air spaces: where the background field comes from."""
    points = canvas.points
    face = Ellipsoid((0, 38, -62), (64, 58, 72)).distance(points)
    brow = Ellipsoid((0, 62, -8), (46, 24, 24)).distance(points)
    neck = Tube(((0, -28, -60), (0, -35, -220)), (62, 62)).distance(points)
    outer = smooth_union([hull - 14, brow, face, neck], blend=5)
    canvas.paint("fat", outer)
    # Over the skull cap all is fat and skin; below the orbits there is muscle under it.
    canvas.paint("muscle", torch.maximum(outer + 5, points[2] + 10))
    # The frontal bone thickens towards the brow, where it holds the sinuses.
    canvas.paint("bone", smooth_union([hull - 8, brow + 6], blend=2))
    canvas.paint("csf", hull - 2)
    for solid in _mirrored(Ellipsoid((33, 58, -36), (12, 12, 12))):
        canvas.draw("eye", solid)
    for solid in _air_spaces():
        canvas.draw("bone", solid, shell=1.5)
    for solid in _air_spaces():
        canvas.draw("air", solid)
    # Thin as the bone under it may be, the brain is not aired.
    canvas.paint("csf", hull - 1)


def _air_spaces() -> list[Solid]:
    return [
        *_mirrored(Ellipsoid((10, 73, -2), (10, 5.5, 11))),  # frontal sinus
        *_mirrored(Ellipsoid((8, 24, -32), (7, 12, 8))),  # sphenoid sinus
        *_mirrored(Ellipsoid((8, 50, -30), (6, 17, 8))),  # ethmoid cells
        *_mirrored(Ellipsoid((34, 48, -66), (13, 16, 16))),  # maxillary sinus
        Ellipsoid((0, 54, -62), (12, 34, 20)),  # nasal cavity
        Tube(((0, 18, -66), (0, 2, -85), (0, -5, -120), (0, -5, -220)), (9, 8, 9, 9)),  # pharynx
        *_mirrored(Tube(((44, -20, -48), (62, -22, -52), (90, -24, -54)), (3.5, 3.5, 4))),  # ear canal
        *_mirrored(Ellipsoid((52, -36, -52), (7, 9, 8))),  # mastoid cells
    ]


def _draw_cortex(canvas: _Canvas, hull: Tensor, *, folds: Tensor, foliation: Tensor) -> None:
    """White matter, the grey ribbon along hull and sulci, and the fluid in the sulci.

    A sulcus runs where a random field of one wavelength crosses zero: sheets that wind, meet and end as
    sulci do. |field| over the field's mean slope is the distance to the nearest sheet.
    """
    points, depth = canvas.points, -hull
    x, _, z = points
    stem, cerebellum = _brain_stem(points), _cerebellum(points)
    # Sulci close towards their floor, 16 mm under the hull, and the stem has none.
    sulcus = folds.abs() * (21.0 / (2 * np.pi)) + (depth - 16).clamp(min=0)
    # The fissure between the hemispheres ends on the corpus callosum.
    callosum = Ellipsoid((0, -14, 4), (200, 42, 22)).distance(points)
    fissure = x.abs() - 0.3 + (4 - callosum).clamp(min=0) + (-18 - z).clamp(min=0)
    pial = torch.minimum(depth, torch.minimum(sulcus, fissure))
    leaf = torch.minimum(depth, foliation.abs() * (9.0 / (2 * np.pi)) + (depth - 14).clamp(min=0)) + 1.2
    pial = torch.where(cerebellum < stem.clamp(max=1), leaf, pial)
    pial = torch.where(stem < 1, depth + 3, pial)
    inside = canvas.share(hull) > 0
    for tissue, ribbon in (("grey matter", 0.7), ("white matter", 3.3)):
        canvas.paint(tissue, torch.where(inside, (ribbon - pial).maximum(hull), canvas.edge))


def _deep_structures() -> list[tuple[str, Solid]]:
    """Nuclei and ventricles, in the order they are painted."""
    pairs: list[tuple[str, Solid]] = [
        ("thalamus", Ellipsoid((12, -19, 7), (8, 14, 9), (0, 0, -20))),
        ("putamen", Ellipsoid((26, 2, 1), (5.5, 16, 9.5), (0, 8, 12))),
        ("globus pallidus", Ellipsoid((19.5, -4, -1), (4.5, 9.5, 6), (0, 15, 20))),
        ("caudate", Ellipsoid((13, 14, 7), (5.5, 9, 8), (0, 0, -10))),
        ("caudate", Tube(((14, 8, 14), (17, -8, 21), (21, -24, 20), (26, -36, 8)), (4.5, 3.5, 2.5, 1.5))),
        ("csf", Tube(((5, 30, 10), (7, 14, 15), (9, -8, 21), (13, -26, 19)), (4, 5, 5, 5))),
        ("csf", Tube(((13, -26, 19), (24, -42, 8), (24, -66, 8)), (5, 6, 2.5))),
        ("csf", Tube(((24, -42, 8), (30, -30, -10), (32, -12, -20)), (5, 2.5, 2))),
        ("red nucleus", Ellipsoid((5.5, -20, -9), (3.4, 3.4, 4.5))),
        ("substantia nigra", Ellipsoid((10, -17, -13), (2.4, 6.5, 4.0), (0, 35, -35))),
        ("dentate", Ellipsoid((16, -58, -36), (6.5, 8, 4), (0, 20, 25))),
    ]
    middle: list[tuple[str, Solid]] = [
        ("csf", Ellipsoid((0, -15, 2), (2.2, 13, 9))),
        ("csf", Tube(((0, -29, -3), (0, -33, -14)), (1.2, 1.2))),
        ("csf", Ellipsoid((0, -45, -30), (6, 5, 9), (25, 0, 0))),
    ]
    return [(tissue, side) for tissue, solid in pairs for side in _mirrored(solid)] + middle


def _veins(generator: torch.Generator) -> list[tuple[str, Solid]]:
    """Sinuses and deep veins in their places, cortical and medullary veins at random ones."""
    # y, z of the superior sagittal sinus: the midline of the hull, a little outside.
    angles = np.deg2rad(np.linspace(35, 190, 14))
    sinus = tuple((0.0, float(-18 + 86 * np.cos(a)), float(14 + 62 * np.sin(a))) for a in angles)
    midline = [
        Tube(sinus, tuple(np.linspace(1.5, 3.5, len(sinus)))),
        Tube(((0, -38, 6), (0, -58, 2), (0, -84, -2), (0, -102, 3)), (1.7, 1.8, 2.0, 2.5)),
    ]
    pairs = [
        Tube(((1.8, 2, 14), (1.8, -18, 13), (1.5, -34, 10), (0, -38, 6)), (0.9, 1.1, 1.3, 1.8)),
        Tube(((18, -14, 20), (13, 2, 16), (5, 4, 15), (1.8, 2, 14)), (0.7, 0.8, 0.9, 0.9)),
        Tube(((3, 28, 16), (2, 14, 15), (1.8, 2, 14)), (0.6, 0.8, 0.9)),
        Tube(((24, 2, -18), (18, -16, -14), (10, -32, -4), (0, -38, 6)), (0.8, 1.0, 1.2, 1.6)),
    ]
    solids = midline + [side for solid in pairs for side in _mirrored(solid)]
    solids += [_cortical_vein(generator) for _ in range(36)]
    solids += [_medullary_vein(generator) for _ in range(40)]
    return [("vein", solid) for solid in solids]


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _cortical_vein(generator: torch.Generator) -> Tube:
    """A vein that climbs over the convexity to the midline, just under the hull."""
    side = 1 if _uniform(generator, 0, 1) < 0.5 else -1
    along, start = _uniform(generator, 40, 150), _uniform(generator, 35, 75)
    path, depth = [], _uniform(generator, 3, 9)
    for step in np.linspace(0, 1, 7):
        away = np.deg2rad(start * (1 - step) + 3)
        turn = np.deg2rad(along + _uniform(generator, -3, 3))
        radius = np.array([67, 84, 60]) - depth * (1 - 0.7 * step)
        direction = np.array([side * np.sin(away), np.cos(away) * np.cos(turn), np.cos(away) * np.sin(turn)])
        path.append(tuple(float(c) for c in np.array([0, -18, 14]) + radius * direction))
    thick = _uniform(generator, 0.8, 1.5)
    return Tube(tuple(path), tuple(np.linspace(0.4, thick, len(path))))


def _medullary_vein(generator: torch.Generator) -> Tube:
    """A thin vein from the white matter down to the wall of the lateral ventricle."""
    side = 1 if _uniform(generator, 0, 1) < 0.5 else -1
    y = _uniform(generator, -34, 22)
    foot = np.array([side * (12 + max(0.0, -0.15 * y)), y, 20.0])
    away = np.deg2rad(_uniform(generator, 15, 75))
    length = _uniform(generator, 12, 24)
    top = foot + length * np.array([side * np.sin(away), _uniform(generator, -0.3, 0.3), np.cos(away)])
    return Tube((tuple(top.tolist()), tuple(foot.tolist())), (0.3, 0.6))
