"""Errors and times of background removal and inversion on a head-like phantom.

Run ``python benchmarks/inversion.py [size]``; the size is 96 voxels along each axis unless given.
The error is the norm of the demeaned difference over that of the demeaned truth, in the mask and
3 voxels inside of it; slope is that of a regression on the truth.
"""

import sys
import time

import torch
from torch.nn.functional import max_pool3d

from qsmflow.core.background import remove_background
from qsmflow.core.dipole import dipole_field
from qsmflow.core.inversion.medi import PRESETS, invert_medi
from qsmflow.core.inversion.tkd import invert_tkd

VOXEL_SIZE = (1.0, 1.0, 1.2)
B0_DIRECTION = (0.1, 0.3, 0.95)
NOISE = 0.002  # ppm where the magnitude is one
RADIAN_PER_PPM = 4.0  # 3 T, echoes 5 ms apart

#: Centre and half axes as fractions of the half field of view, susceptibility in ppm, magnitude.
STRUCTURES = (
    ((0.0, 0.0, 0.0), (0.62, 0.68, 0.62), -0.03, 1.0),
    ((0.10, 0.05, 0.10), (0.07, 0.25, 0.12), 0.00, 1.5),
    ((-0.10, 0.05, 0.10), (0.07, 0.25, 0.12), 0.00, 1.5),
    ((0.28, 0.12, 0.00), (0.10, 0.16, 0.14), 0.10, 0.8),
    ((-0.28, 0.12, 0.00), (0.10, 0.16, 0.14), 0.10, 0.8),
    ((0.17, 0.16, -0.05), (0.05, 0.10, 0.10), 0.18, 0.65),
    ((-0.17, 0.16, -0.05), (0.05, 0.10, 0.10), 0.18, 0.65),
    ((0.10, -0.05, -0.30), (0.05, 0.05, 0.06), 0.15, 0.7),
    ((-0.10, -0.05, -0.30), (0.05, 0.05, 0.06), 0.15, 0.7),
)


def ellipsoid(size, centre, half_axes):
    """Voxels in an ellipsoid, lengths as fractions of the half field of view."""
    axis = torch.linspace(-1, 1, size)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return sum(((q - c) / a) ** 2 for q, c, a in zip((x, y, z), centre, half_axes, strict=True)) < 1


def smooth_noise(size, cells):
    """Random texture of unit standard deviation with the given number of cells along an axis."""
    coarse = torch.randn(1, 1, cells, cells, cells)
    texture = torch.nn.functional.interpolate(coarse, size=(size,) * 3, mode="trilinear")[0, 0]
    return texture / texture.std()


def head(size):
    """Brain, deep nuclei and texture; air outside the head and in a sinus below the forehead."""
    torch.manual_seed(0)
    mask = ellipsoid(size, (0, 0, 0), (0.72, 0.78, 0.72))
    chi, magnitude = 0.02 * mask.float(), 1.15 * mask.float()
    for centre, half_axes, susceptibility, brightness in STRUCTURES:
        inside = ellipsoid(size, centre, half_axes)
        chi[inside], magnitude[inside] = susceptibility, brightness
    chi += 0.005 * smooth_noise(size, size // 6) * mask
    air = ~ellipsoid(size, (0, 0, 0), (0.90, 0.92, 0.90)) | ellipsoid(
        size, (0, 0.65, -0.75), (0.2, 0.2, 0.15)
    )
    space = {"voxel_size": VOXEL_SIZE, "b0_direction": B0_DIRECTION, "padding": (size,) * 3}
    noise = NOISE / magnitude.clamp(min=0.05)
    return {
        "chi": chi,
        "mask": mask,
        "noise": noise,
        "magnitude": magnitude + 0.01 * torch.randn_like(magnitude),
        "local": dipole_field(chi, **space) + noise * torch.randn_like(noise),
        "background": dipole_field(9.4 * (air & ~mask).float(), **space) + 0.4,
    }


def scores(found, truth, where):
    """Relative error and slope, both demeaned."""
    found, truth = found[where] - found[where].mean(), truth[where] - truth[where].mean()
    return float((found - truth).norm() / truth.norm()), float((found * truth).sum() / (truth * truth).sum())


def main(size):
    """Print one row a method."""
    subject = head(size)
    mask = subject["mask"]
    eroded = -max_pool3d(-mask[None, None].float(), 7, stride=1, padding=3)[0, 0] > 0
    space = {"mask": mask, "voxel_size": VOXEL_SIZE, "b0_direction": B0_DIRECTION}
    print(
        f"{size}³ voxels, {int(mask.sum())} in the mask, {torch.get_num_threads()} threads, noise {NOISE} ppm"
    )
    print(f"{'':<34}{'mask':>8}{'slope':>8}{'eroded':>8}{'slope':>8}{'steps':>7}{'s':>8}")

    def row(name, truth, call, value):
        start = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - start
        figures = [*scores(value(result), truth, mask), *scores(value(result), truth, eroded)]
        print(
            f"{name:<34}" + "".join(f"{f:8.3f}" for f in figures) + f"{result.n_iterations:7d}{seconds:8.1f}"
        )
        return result

    total = subject["local"] + subject["background"]
    removal = row(
        "PDF: background",
        subject["background"],
        lambda: remove_background(total, noise=subject["noise"], **space),
        lambda result: result.background_field,
    )
    print(f"{'PDF: local field, same removal':<34}", end="")
    print(
        "".join(f"{f:8.3f}" for w in (mask, eroded) for f in scores(removal.local_field, subject["local"], w))
    )
    for source, field in (("exact local field", subject["local"]), ("after PDF", removal.local_field)):
        methods = {"TKD 0.19": lambda field=field: invert_tkd(field, **space)}
        for preset, settings in PRESETS.items():
            methods[f"MEDI {preset}"] = lambda field=field, settings=settings: invert_medi(
                field,
                noise=subject["noise"],
                magnitude=subject["magnitude"],
                settings=settings,
                radian_per_ppm=RADIAN_PER_PPM,
                **space,
            )
        for name, call in methods.items():
            row(f"{name}, {source}", subject["chi"], call, lambda result: result.susceptibility)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 96)
