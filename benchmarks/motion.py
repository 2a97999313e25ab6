"""Moving echoes during a scan: time against its floor, and how little the resampler blurs.

Run as ``python benchmarks/motion.py [--shape 128x128x48] [--echoes 5] [--seeds 3] [--device cpu]``.

Floor: a pose that turns about all axes takes four shears, each a transform forth and back along one axis,
so eight sweeps of one-dimensional transforms over all echoes; mixing takes two sweeps for each further state
and two for the image. The floor is the time of these transforms alone, without room to move in: margins for
5 mm and 5 degrees make the grid 1.3 to 2 times larger.

Blur: a head-like set of ellipsoids with thin vessels, seen through the box of k-space that a scanner
acquires, moved and moved back, against trilinear interpolation; and against the same object drawn moved. The
last one has a floor too: turned k-space reaches beyond the box, where nothing was acquired.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from qsmflow.core.motion import (
    MotionProfile,
    RigidPose,
    acquisition_times,
    draw_motion,
    move_echoes,
    move_image,
)

POSE = RigidPose(translation=(1.3, -2.2, 0.7), rotation=(5.0, -5.0, 5.0))

#: Centre and half axes in mm, and height, of what is in the test object.
ELLIPSOIDS = (
    ((0, 0, 0), (24, 28, 22), 1.0),
    ((4, 0, 0), (8, 6, 14), 0.5),
    ((-9, 6, -2), (5, 4, 9), -0.7),
    ((9, -8, 4), (1.5, 12, 1.5), -0.5),
    ((5, 9, 4), (2, 2, 2), 0.5),
)


def seconds(action: Callable, *, device: str, repeats: int = 2) -> float:
    """Shortest wall time of an action."""
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        if device != "cpu":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found[1:])


def floor_seconds(echoes: Tensor, profile: MotionProfile) -> float:
    """Time of the transforms alone."""
    n_moved = sum(pose != RigidPose() for pose in profile.poses)
    device = echoes.device.type
    forth_and_back = [
        seconds(lambda d=axis: torch.fft.ifft(torch.fft.fft(echoes, dim=d), dim=d), device=device)
        for axis in (1, 2, 3)
    ]
    mixing = seconds(lambda: torch.fft.fftn(echoes, dim=(2, 3)), device=device)
    return n_moved * 4 * sum(forth_and_back) / 3 + len(profile.poses) * mixing


def measure_time(arguments: argparse.Namespace) -> None:
    """One row a motion profile."""
    shape = tuple(map(int, arguments.shape.split("x")))
    voxel_size = (1.0, 1.0, 3.0) if shape[2] < shape[0] else (1.0, 1.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    echoes = torch.randn(arguments.echoes, *shape, dtype=torch.complex64, generator=generator)
    echoes = echoes.to(arguments.device)
    times = acquisition_times(shape, device=arguments.device)
    print(
        f"{arguments.shape}, {arguments.echoes} echoes, {arguments.device}, {torch.get_num_threads()} threads"
    )
    print("{:>6} {:>12} {:>8} {:>8} {:>9}".format("states", "of them moved", "time s", "floor s", "times it"))
    for seed in range(arguments.seeds):
        profile = draw_motion(torch.Generator().manual_seed(seed))
        options = {"profile": profile, "voxel_size": voxel_size, "times": times}
        found = seconds(lambda o=options: move_echoes(echoes, **o), device=arguments.device)
        floor = floor_seconds(echoes, profile)
        n_moved = sum(pose != RigidPose() for pose in profile.poses)
        print(f"{len(profile.poses):>6} {n_moved:>13} {found:>8.3f} {floor:>8.3f} {found / floor:>9.2f}")


def drawn(shape: tuple[int, ...], voxel_size: tuple[float, ...], pose: RigidPose) -> Tensor:
    """The object at a pose, with edges half a millimetre soft."""
    axes = [(torch.arange(n) - (n - 1) / 2) * e for n, e in zip(shape, voxel_size, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    origin = torch.from_numpy(np.linalg.inv(pose.matrix)).float()
    points = torch.einsum("ij,jxyz->ixyz", origin[:3, :3], points) + origin[:3, 3].reshape(3, 1, 1, 1)
    image = torch.zeros(shape)
    for centre, half_axes, height in ELLIPSOIDS:
        terms = zip(points, centre, half_axes, strict=True)
        distance = (sum(((p - c) / a) ** 2 for p, c, a in terms).sqrt() - 1) * min(half_axes)
        image += height * (0.5 - distance / 0.5).clamp(0, 1)
    return image


def acquired(
    shape: tuple[int, ...], voxel_size: tuple[float, ...], pose: RigidPose, *, finer: int = 4
) -> Tensor:
    """What a scanner sees of the object: the box of its k-space that the voxels span."""
    fine = drawn(tuple(n * finer for n in shape), tuple(e / finer for e in voxel_size), pose)
    spectrum = torch.fft.fftn(fine)
    for axis, size in enumerate(shape):
        lines = torch.fft.fftfreq(size, d=1 / size).long()
        # Voxel centres of the two grids are some fine voxels apart.
        apart = torch.exp(2j * torch.pi * lines * (finer - 1) / 2 / (size * finer))
        apart = apart.reshape([-1 if a == axis else 1 for a in range(3)])
        spectrum = spectrum.index_select(axis, lines % (size * finer)) * apart
    return torch.fft.ifftn(spectrum).real / finer**3


def trilinear(image: Tensor, pose: RigidPose, *, voxel_size: tuple[float, ...]) -> Tensor:
    """The image moved by linear interpolation."""
    half = np.diag([*(np.array(image.shape) * voxel_size / 2), 1.0])
    matrix = np.linalg.solve(half, np.linalg.solve(pose.matrix, half))[:3]
    theta = torch.from_numpy(matrix[::-1][:, [2, 1, 0, 3]].copy())[None].to(image)
    grid = functional.affine_grid(theta, (1, 1, *image.shape), align_corners=False)
    return functional.grid_sample(image[None, None], grid, align_corners=False)[0, 0]


def measure_blur() -> None:
    """One row a grid and resampler."""
    methods = {"shears": move_image, "trilinear": trilinear}
    row = "{:>12} {:>16} {:>10} {:>11} {:>17} {:>14}"
    print(row.format("shape", "voxels mm", "method", "energy %", "there and back %", "against truth %"))
    for shape, voxel_size in (((64, 64, 64), (1.0, 1.0, 1.0)), ((128, 128, 24), (0.4688, 0.4688, 3.0))):
        still, truth = (acquired(shape, voxel_size, pose) for pose in (RigidPose(), POSE))
        for name, move in methods.items():
            moved = move(still, POSE, voxel_size=voxel_size)
            back = move(moved, POSE.inverse(), voxel_size=voxel_size)
            energy = 100 * float(moved.norm() / still.norm()) ** 2
            errors = [100 * float((a - b).norm() / b.norm()) for a, b in ((back, still), (moved, truth))]
            sizes = "x".join(map(str, shape)), "x".join(f"{edge:g}" for edge in voxel_size)
            print(row.format(*sizes, name, f"{energy:.2f}", f"{errors[0]:.2f}", f"{errors[1]:.2f}"))


def main() -> None:
    """Print the table of times and the one of errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", default="128x128x48")
    parser.add_argument("--echoes", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    measure_time(arguments)
    print()
    measure_blur()


if __name__ == "__main__":
    main()
