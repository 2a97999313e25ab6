"""``python -m qsmflow.sim.rotation OUT.png``: what a head's field does when the head turns.

Correcting motion in k-space takes the field to turn with the head. It does not: the dipoles stay along B0.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from qsmflow.core.crop import bounding_box
from qsmflow.core.dipole import b0_direction as direction_in_voxels
from qsmflow.core.dipole import dipole_field
from qsmflow.core.metrics import nrmse
from qsmflow.core.motion import RigidPose, move_image
from qsmflow.sim.grids import oblique_affine, voxel_edges
from qsmflow.sim.head import HEAD_BOX, build_head
from qsmflow.sim.subject import draw_subject

AXES = ("x", "y", "z")

#: Corners of a box with room to turn the brain in, mm.
BRAIN_BOX = ((-96.0, -126.0, -88.0), (96.0, 90.0, 104.0))


@dataclass(frozen=True)
class RotatedField:
    """Two answers to what a turned object's field is, and how far they are apart.

    Parameters
    ----------
    rotated_field : Tensor
        (x, y, z), ppm, the object's field turned with it.
    field_of_rotated : Tensor
        (x, y, z), ppm, the field of the turned object.
    mask : Tensor
        (x, y, z), bool, the turned mask.
    nrmse : float
        Difference in the mask over the field there, both less their means, per cent.
    largest : float
        Largest difference in the mask, ppm.
    """

    rotated_field: Tensor
    field_of_rotated: Tensor
    mask: Tensor
    nrmse: float
    largest: float


def rotated_field_difference(
    susceptibility: Tensor,
    *,
    pose: RigidPose,
    mask: Tensor,
    voxel_size: Sequence[float],
    b0_direction: Sequence[float],
) -> RotatedField:
    """The field of a turned object against its turned field.

    Parameters
    ----------
    susceptibility : Tensor
        (x, y, z), ppm; zero near the ends of the grid.
    pose : RigidPose
        How the object is turned.
    mask : Tensor
        (x, y, z), bool, of the unturned object: where the fields are compared.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    b0_direction : sequence of float
        B0 in voxel axes.

    Returns
    -------
    RotatedField

    Raises
    ------
    ValueError
        If the mask is empty or there is no field in it.

    Examples
    --------
    A dipole, seen at its poles.

    >>> chi = torch.zeros(24, 24, 24)
    >>> chi[10:14, 10:14, 10:14] = 1
    >>> tilt = RigidPose(rotation=(5, 0, 0))
    >>> result = rotated_field_difference(
    ...     chi, pose=tilt, mask=chi == 0, voxel_size=(1, 1, 1), b0_direction=(0, 0, 1)
    ... )
    >>> 5 < result.nrmse < 25
    True
    """
    grid = {"voxel_size": voxel_size}
    rotated = move_image(susceptibility, pose, **grid)
    field = dipole_field(susceptibility, **grid, b0_direction=b0_direction)
    field_of_rotated = dipole_field(rotated, **grid, b0_direction=b0_direction)
    rotated_field = move_image(field, pose, **grid)
    rotated_mask = move_image(mask.to(field), pose, **grid) > 0.5
    return RotatedField(
        rotated_field=rotated_field,
        field_of_rotated=field_of_rotated,
        mask=rotated_mask,
        nrmse=nrmse(rotated_field, field_of_rotated, mask=rotated_mask),
        largest=float((rotated_field - field_of_rotated)[rotated_mask].abs().max()),
    )


def head_sources(
    seed: int, *, voxel_size: float, whole_head: bool = False
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Susceptibility of a head, its brain mask, and their affine.

    Parameters
    ----------
    seed : int
        Of the subject.
    voxel_size : float
        Edge of the cubic voxels, mm.
    whole_head : bool
        Everything that makes a field, relative to air, instead of the brain alone, relative to its mean.

    Returns
    -------
    susceptibility : Tensor
        (x, y, z), ppm, zero where there is no source; edges are two voxels wide.
    mask : Tensor
        (x, y, z), bool, the brain.
    affine : numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm.

    Examples
    --------
    >>> susceptibility, mask, _ = head_sources(0, voxel_size=12)
    >>> susceptibility.shape == mask.shape, 0.1 < float(mask.double().mean()) < 0.3
    (True, True)
    """
    lower, upper = np.array(HEAD_BOX if whole_head else BRAIN_BOX)
    shape = tuple(np.ceil((upper - lower) / voxel_size).astype(int).tolist())
    affine = oblique_affine(shape, voxel_size=(voxel_size,) * 3, center=(lower + upper) / 2)
    head = build_head(draw_subject(seed), shape=shape, affine=affine, maps=("susceptibility",))
    mask = head.brain > 0.5
    if whole_head:
        return _resolved(head.susceptibility - head.susceptibility.max()), mask, affine
    susceptibility = head.brain * (head.susceptibility - head.susceptibility[mask].mean())
    return _resolved(susceptibility), mask, affine


def _resolved(image: Tensor) -> Tensor:
    """The image without what its voxels cannot resolve, which would ripple when it is turned."""
    binomial = image.new_tensor([1, 2, 1]) / 4
    kernel = binomial[:, None, None] * binomial[:, None] * binomial
    return functional.conv3d(image[None, None], kernel[None, None], padding=1)[0, 0]


def draw_picture(path: Path, result: RotatedField, *, title: str, amplified: float = 5.0) -> None:
    """Both fields and their difference in three planes through the middle of the mask.

    Parameters
    ----------
    path : Path
        Of the picture; its suffix decides the format.
    result : RotatedField
        On cubic voxels.
    title : str
        Above the picture.
    amplified : float
        By how much the difference is brighter than the fields.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> ball = torch.ones(8, 8, 8)
    >>> result = RotatedField(ball, ball, ball > 0, nrmse=0.0, largest=0.0)
    >>> with TemporaryDirectory() as folder:
    ...     draw_picture(Path(folder, "ball.png"), result, title="Nothing turns")
    ...     Path(folder, "ball.png").exists()
    True
    """
    box = bounding_box(result.mask)
    mask = result.mask[box]
    images = {
        "Field, turned": result.rotated_field,
        "Field of the turned head": result.field_of_rotated,
        f"Difference × {amplified:g}": amplified * (result.rotated_field - result.field_of_rotated),
    }
    # The window holds 98 of 100 voxels; a sample of them tells.
    values = (result.field_of_rotated - result.field_of_rotated[result.mask].mean())[result.mask].abs()
    window = float(values[:: len(values) // 100_000 + 1].quantile(0.98)) or 1.0
    figure = Figure(figsize=(8.2, 9.2), facecolor="black", layout="constrained")
    heights = [mask.shape[1], mask.shape[2], mask.shape[2]]
    rows = figure.subplots(3, 3, gridspec_kw={"height_ratios": heights})
    for column, (name, image) in zip(rows.T, images.items(), strict=True):
        shown = image[box] - image[result.mask].mean()
        shown = torch.where(mask, shown, torch.zeros_like(shown)).cpu().numpy()
        for panel, normal in zip(column, (2, 1, 0), strict=True):
            plane = shown.take(shown.shape[normal] // 2, axis=normal)
            drawn = panel.imshow(plane.T, cmap="gray", origin="lower", vmin=-window, vmax=window)
            panel.axis("off")
        column[0].set_title(name, color="white", fontsize=10)
    bar = figure.colorbar(drawn, ax=rows, orientation="horizontal", fraction=0.02, pad=0.01, aspect=50)
    bar.set_label("ppm", color="white", fontsize=9)
    bar.ax.tick_params(colors="white", labelsize=8)
    figure.suptitle(title, color="white", fontsize=11)
    figure.savefig(path, dpi=90, facecolor="black")


def main(argv: Sequence[str] | None = None) -> None:
    """Turn a simulated head, print how far its field and its turned field differ, and draw both."""
    parser = argparse.ArgumentParser(prog="python -m qsmflow.sim.rotation", description=main.__doc__)
    parser.add_argument("picture", type=Path, help="picture to write, for example rotated_field.png")
    parser.add_argument("--angle", type=float, default=5.0, help="degrees (default 5)")
    parser.add_argument("--axis", choices=AXES, default="x", help="axis to turn about; B0 is z (default x)")
    parser.add_argument("--seed", type=int, default=0, help="of the subject (default 0)")
    parser.add_argument(
        "--voxel-size", type=float, default=1.5, help="edge of the cubic voxels, mm (default 1.5)"
    )
    parser.add_argument(
        "--whole-head", action="store_true", help="with skull and air spaces, not the brain alone"
    )
    arguments = parser.parse_args(argv)
    susceptibility, mask, affine = head_sources(
        arguments.seed, voxel_size=arguments.voxel_size, whole_head=arguments.whole_head
    )
    rotation = [arguments.angle * (axis == arguments.axis) for axis in AXES]
    result = rotated_field_difference(
        susceptibility,
        pose=RigidPose(rotation=tuple(rotation)),
        mask=mask,
        voxel_size=voxel_edges(affine),
        b0_direction=direction_in_voxels(affine),
    )
    turn = f"{arguments.angle:g}° about {arguments.axis}"
    print(f"turned {turn}, B0 along z, {'whole head' if arguments.whole_head else 'brain alone'}")
    print(f"relative difference in the brain: {result.nrmse:.3g} %")
    print(f"largest difference in the brain:  {result.largest:.3g} ppm")
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    draw_picture(arguments.picture, result, title=f"A head turned by {turn}, B0 along z")


if __name__ == "__main__":
    main()
