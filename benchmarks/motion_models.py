"""How near the two motion models are: echoes that are moved (Eq. 5), or the head with a new field (Eq. 4).

Usage: python benchmarks/motion_models.py [--seed 0]

First on maps of one brain, smoothed so that a grid can hold them, where nothing but the models differs:
echoes that are moved against echoes of moved maps, for one pose. Then in the simulator, where coils and shim
stay in place when the head moves: scans with the same movements by both models, against each other and
against the still scan. Relative differences of the complex echoes in the brain.
"""

import argparse

import torch
from torch.nn import functional

from qsmflow.core.dipole import b0_direction, dipole_field
from qsmflow.core.motion import (
    MotionProfile,
    RigidPose,
    acquisition_times,
    draw_motion,
    gradient_echoes,
    move_echoes,
    move_sources,
)
from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.head import build_head
from qsmflow.sim.mgre import simulate_mgre
from qsmflow.sim.protocols import protocol, with_slab
from qsmflow.sim.subject import draw_subject

SHAPE, VOXEL_SIZE = (96, 112, 96), (2.0, 2.0, 2.0)
ECHO_TIMES = (0.004, 0.014, 0.024)
POSES = {
    "4, 2 and 6 mm": RigidPose(translation=(4, 2, 6)),
    "0.7, 1.3 and 0.4 mm": RigidPose(translation=(0.7, 1.3, 0.4)),
    "5 degrees about B0": RigidPose(rotation=(0, 0, 5)),
    "5 degrees about x": RigidPose(rotation=(5, 0, 0)),
}


def relative(found: torch.Tensor, expected: torch.Tensor, mask: torch.Tensor) -> float:
    """Norm of the difference in the mask over the norm there, per cent."""
    return 100 * float((found - expected)[:, mask].norm() / expected[:, mask].norm())


def smoothed(image: torch.Tensor) -> torch.Tensor:
    """Spread over a few voxels, so that little is left at the ends of k-space."""
    for _ in range(3):
        image = functional.avg_pool3d(image[None, None], 3, stride=1, padding=1)[0, 0]
    return image


def compare_maps(seed: int) -> None:
    affine = oblique_affine(SHAPE, voxel_size=VOXEL_SIZE, center=(0, -18, 5))
    head = build_head(draw_subject(seed), shape=SHAPE, affine=affine)
    brain = head.brain > 0.5
    chi = torch.where(brain, head.susceptibility - head.susceptibility[brain].mean(), 0.0)
    sources, magnitude, r2star = (
        smoothed(image) for image in (chi, head.proton_density * brain, head.r2star.clamp(max=100) * brain)
    )
    direction = b0_direction(affine)
    grid = {"voxel_size": VOXEL_SIZE, "periodic": True}
    scan = {"echo_times": ECHO_TIMES, "field_strength": 3.0}
    field = dipole_field(sources, voxel_size=VOXEL_SIZE, b0_direction=direction, padding=(0, 0, 0))
    echoes = gradient_echoes(magnitude, r2star=r2star, field=field, **scan)
    times = acquisition_times(SHAPE)
    print("echoes moved against echoes of the moved maps, one pose")
    for name, pose in POSES.items():
        profile = MotionProfile((0.0,), (pose,))
        by_signal = move_echoes(echoes, profile=profile, times=times, **grid)
        by_field = move_sources(
            magnitude,
            susceptibility=sources,
            r2star=r2star,
            profile=profile,
            times=times,
            b0_direction=direction,
            **scan,
            **grid,
        )
        inside = by_field[0].abs() > 0.5 * by_field[0].abs().max()
        print(f"  {name:20s} {relative(by_signal, by_field, inside):8.4f} %")


def compare_scans(seed: int) -> None:
    subject = draw_subject(seed)
    scanner = with_slab(protocol("seven-tesla", field_strength=3.0), voxel_size=(2, 2, 2))
    still = simulate_mgre(scanner, subject=subject, seed=seed)
    print("scans with the same movements: models against each other, and moved against still")
    for size in (1.0, 2.5, 5.0):
        # Seed 7 moves while the middle of k-space is acquired.
        profile = draw_motion(torch.Generator().manual_seed(7), translation=size, rotation=size)
        by_signal, by_field = (
            simulate_mgre(scanner, subject=subject, motion=profile, motion_model=model, seed=seed).signal
            for model in ("signal", "field")
        )
        models = relative(by_signal, by_field, still.mask)
        moved = relative(by_field, still.signal, still.mask)
        print(f"  up to {size} mm and degrees: {models:5.1f} %, {moved:5.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    compare_maps(seed)
    compare_scans(seed)


if __name__ == "__main__":
    main()
