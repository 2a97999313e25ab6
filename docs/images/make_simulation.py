"""Draw the pictures of docs/simulation.md.

Usage: python docs/images/make_simulation.py docs/images

Writes simulated_head.png (one head: what is scanned, and the truth), simulated_subjects.png (several heads,
and prints how alike their susceptibility is) and simulated_motion.png (one scan with more and more motion).
"""

import sys
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from qsmflow.core.motion import draw_motion
from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.head import build_head
from qsmflow.sim.mgre import MgreScan, simulate_mgre
from qsmflow.sim.protocols import protocol
from qsmflow.sim.subject import draw_subject

SEEDS = (1, 2, 3, 4, 5)
MOTION_SEED = 7
AMPLITUDES = (0.0, 1.0, 2.5, 5.0)
SCAN = protocol("seven-tesla", field_strength=3.0, transmit_bias=0.1, phase_offset=1.0)


def planes(image: np.ndarray) -> list[np.ndarray]:
    """Axial, coronal and sagittal slice of a volume, as pictures."""
    x, y, z = (int(share * size) for share, size in zip((0.46, 0.55, 0.45), image.shape, strict=True))
    return [image[:, :, z].T, image[:, y].T, image[x].T]


def show(axis, picture: np.ndarray, window: tuple[float, float]) -> None:
    axis.imshow(picture, cmap="gray", origin="lower", vmin=window[0], vmax=window[1])
    axis.axis("off")


def draw_head(scan: MgreScan, out: Path) -> None:
    mask, bright = scan.mask.numpy(), 2.2 * float(scan.signal[0][scan.mask].abs().mean())
    panels = {
        f"Magnitude, {1e3 * SCAN.echo_times[0]:g} ms": (scan.signal[0].abs().numpy(), (0, bright)),
        f"Magnitude, {1e3 * SCAN.echo_times[-1]:g} ms": (scan.signal[-1].abs().numpy(), (0, 0.6 * bright)),
        f"Phase, {1e3 * SCAN.echo_times[2]:g} ms": (scan.signal[2].angle().numpy(), (-np.pi, np.pi)),
        "Total field, ±80 Hz": (np.where(mask, scan.total_field, 0), (-80, 80)),
        "Local field, ±6 Hz": (np.where(mask, scan.local_field, 0), (-6, 6)),
        "χ, −0.1 to 0.2 ppm": (np.where(mask, scan.susceptibility, 0), (-0.1, 0.2)),
        "R2*, 0 to 60 1/s": (np.where(mask, scan.r2star, 0), (0, 60)),
    }
    figure, axes = plt.subplots(3, len(panels), figsize=(19, 8), facecolor="black", layout="constrained")
    for column, (title, (image, window)) in zip(axes.T, panels.items(), strict=True):
        column[0].set_title(title, color="white")
        for axis, picture in zip(column, planes(image), strict=True):
            show(axis, picture, window)
    figure.savefig(out / "simulated_head.png", dpi=70, facecolor="black")


def draw_subjects(out: Path) -> None:
    shape = (192, 224, 160)
    affine = oblique_affine(shape, voxel_size=(1, 1, 1), center=(0, -18, 10))
    maps = []
    for seed in SEEDS:
        head = build_head(draw_subject(seed), shape=shape, affine=affine, maps=("susceptibility",))
        maps.append((head.susceptibility.numpy(), head.brain.numpy() > 0.5))
    figure, axes = plt.subplots(2, len(SEEDS), figsize=(17, 7.6), facecolor="black", layout="constrained")
    for seed, column, (image, mask) in zip(SEEDS, axes.T, maps, strict=True):
        column[0].set_title(f"Seed {seed}", color="white")
        for axis, picture in zip(column, planes(np.where(mask, image, 0)), strict=False):
            show(axis, picture, (-0.1, 0.2))
    figure.savefig(out / "simulated_subjects.png", dpi=70, facecolor="black")
    for (one, (first, mask)), (other, (second, more)) in combinations(zip(SEEDS, maps, strict=True), 2):
        both = mask & more
        print(f"seeds {one} and {other}: correlation of χ {np.corrcoef(first[both], second[both])[0, 1]:.2f}")


def draw_motion_series(still: MgreScan, out: Path) -> None:
    figure, axes = plt.subplots(2, len(AMPLITUDES), figsize=(14, 8), facecolor="black", layout="constrained")
    reference, subject = still.signal, draw_subject(SEEDS[0])
    bright = 1.8 * float(reference[-1][still.mask].abs().mean())
    for amplitude, column in zip(AMPLITUDES, axes.T, strict=True):
        profile = draw_motion(
            torch.Generator().manual_seed(MOTION_SEED), translation=amplitude, rotation=amplitude
        )
        signal = simulate_mgre(SCAN, subject=subject, motion=profile, seed=SEEDS[0]).signal
        error = float((signal - reference)[:, still.mask].norm() / reference[:, still.mask].norm())
        print(f"motion up to {amplitude} mm and degrees: echoes differ by {100 * error:.1f} %")
        column[0].set_title(f"±{amplitude:g} mm, ±{amplitude:g}°", color="white")
        phase = np.where(still.mask, signal[-1].angle(), 0)
        show(column[0], planes(signal[-1].abs().numpy())[0], (0, bright))
        show(column[1], planes(phase)[0], (-np.pi, np.pi))
    figure.savefig(out / "simulated_motion.png", dpi=70, facecolor="black")


def main(folder: str) -> None:
    out = Path(folder)
    still = simulate_mgre(SCAN, subject=draw_subject(SEEDS[0]), seed=SEEDS[0])
    draw_head(still, out)
    draw_subjects(out)
    draw_motion_series(still, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
