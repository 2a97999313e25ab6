"""Error of the registration to a reference scan, over poses of up to 5 mm and 5 degrees.

Run as ``python benchmarks/registration.py [--poses 6] [--subjects 2] [--threads 1]``.

A digital head is scanned once; the second scan holds its complex echoes moved, with other noise and another
brain mask. The error is how far the centre of the brain lands from where it belongs, the worst distance on a
sphere of 70 mm around it, and the angle that is left.
"""

import argparse
import time

import numpy as np
import torch

from qsmflow.core.masks import brain_mask
from qsmflow.core.motion import RigidPose, move_image, scanner_matrix
from qsmflow.core.registration import register
from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.mgre import MgreProtocol, simulate_mgre
from qsmflow.sim.protocols import CENTER
from qsmflow.sim.subject import draw_subject

LIMIT, RADIUS = 5.0, 70.0
FIELD_OF_VIEW = (180.0, 216.0, 156.0)
VOXELS = ((1.2, 1.2, 1.2), (1.0, 1.0, 3.0))
SNR = 60.0


def protocol(voxel_size: tuple[float, ...]) -> MgreProtocol:
    """Three echoes of an oblique slab."""
    shape = tuple(
        2 * round(length / edge / 2) for length, edge in zip(FIELD_OF_VIEW, voxel_size, strict=True)
    )
    affine = oblique_affine(shape, voxel_size=voxel_size, rotation=(-12, 4, 2), center=CENTER)
    return MgreProtocol(
        shape=shape, affine=affine, echo_times=(4e-3, 1e-2, 1.6e-2), repetition_time=0.03, snr=SNR
    )


def combined(echoes: torch.Tensor, *, noise: float, seed: int) -> torch.Tensor:
    """Root sum of squares of the echoes with noise in both channels."""
    drawn = torch.randn(echoes.shape, dtype=echoes.dtype, generator=torch.Generator().manual_seed(seed))
    return (echoes + noise * 2**0.5 * drawn).abs().square().sum(0).sqrt()


def errors(found: np.ndarray, pose: np.ndarray, centre: np.ndarray) -> tuple[float, float, float]:
    """Distance at the centre in mm, worst distance on the sphere in mm, angle in degrees."""
    left = found @ pose
    points = np.random.default_rng(0).normal(size=(500, 3))
    points = centre + RADIUS * points / np.linalg.norm(points, axis=1, keepdims=True)
    moved = points @ left[:3, :3].T + left[:3, 3]
    at_centre = np.linalg.norm(left[:3, :3] @ centre + left[:3, 3] - centre)
    angle = np.degrees(np.arccos(np.clip((np.trace(left[:3, :3]) - 1) / 2, -1, 1)))
    return at_centre, np.linalg.norm(moved - points, axis=1).max(), angle


def main() -> None:
    """Print a row for each pose, then the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--poses", type=int, default=6)
    parser.add_argument("--subjects", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("voxel (mm)     subject  centre (mm)  worst (mm)  angle (deg)  correlation      s")
    for voxel_size in VOXELS:
        rows = []
        for number in range(options.subjects):
            scanned = protocol(voxel_size)
            scan = simulate_mgre(scanned, subject=draw_subject(100 + number), seed=number)
            fixed = combined(scan.signal, noise=scan.noise, seed=1)
            fixed_mask = brain_mask(fixed, voxel_size=voxel_size)
            centre = (scanned.affine @ [*fixed_mask.nonzero().double().mean(0).numpy(), 1])[:3]
            rng = np.random.default_rng(number)
            for _ in range(options.poses):
                drawn = rng.uniform(-LIMIT, LIMIT, 6)
                pose = RigidPose(translation=tuple(drawn[:3]), rotation=tuple(drawn[3:]))
                echoes = torch.stack([move_image(e, pose, voxel_size=voxel_size) for e in scan.signal])
                moving = combined(echoes, noise=scan.noise, seed=2)
                began = time.perf_counter()
                found = register(
                    moving,
                    fixed,
                    moving_mask=brain_mask(moving, voxel_size=voxel_size),
                    fixed_mask=fixed_mask,
                    moving_affine=scanned.affine,
                    fixed_affine=scanned.affine,
                    threads=options.threads,
                )
                took = time.perf_counter() - began
                true = scanner_matrix(pose, shape=scanned.shape, affine=scanned.affine)
                rows.append((*errors(found.matrix, true, centre), found.metric, took))
                cells = "  ".join(f"{value:11.4f}" for value in rows[-1][:4])
                print(f"{'×'.join(map(str, voxel_size)):14} {number:6}  {cells}  {took:5.1f}", flush=True)
        table = np.array(rows)
        for name, row in (("mean", table.mean(0)), ("worst", table.max(0))):
            print(f"{name:21}  " + "  ".join(f"{value:11.4f}" for value in row[:4]) + f"  {row[4]:5.1f}")


if __name__ == "__main__":
    main()
