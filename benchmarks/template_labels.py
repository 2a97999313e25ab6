"""Overlap of regions that a template brings to a subject, with those of the subject.

Run as ``python benchmarks/template_labels.py [--subjects 3] [--voxel 1.5]``.

Template and subjects are digital heads of different shape and place, scanned with noise; the template's image
is its first echo, the subject's all echoes combined, in a brain mask of its own. Dice's coefficient of each
region, after the registration and with the images laid on one another by their affines alone.
"""

import argparse
import time

import numpy as np
import torch

from qsmflow.core.masks import brain_mask
from qsmflow.core.registration import resample
from qsmflow.core.template import carry_labels
from qsmflow.sim.canvas import LABELS
from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.mgre import MgreProtocol, simulate_mgre
from qsmflow.sim.protocols import CENTER
from qsmflow.sim.subject import draw_subject

FIELD_OF_VIEW = (170.0, 204.0, 144.0)
REGIONS = ("csf", "white matter", "grey matter", "caudate", "putamen", "globus pallidus", "thalamus",
           "red nucleus", "substantia nigra", "dentate")  # fmt: skip


def scan(seed: int, *, voxel: float, rotation: tuple[float, ...]) -> tuple[np.ndarray, object]:
    """Affine and scan of a subject."""
    shape = tuple(2 * round(length / voxel / 2) for length in FIELD_OF_VIEW)
    affine = oblique_affine(shape, voxel_size=(voxel,) * 3, rotation=rotation, center=CENTER)
    protocol = MgreProtocol(
        shape=shape, affine=affine, echo_times=(4e-3, 1.2e-2, 2e-2), repetition_time=0.03, snr=100.0
    )
    return affine, simulate_mgre(protocol, subject=draw_subject(seed), seed=seed)


def overlaps(found: torch.Tensor, truth: torch.Tensor) -> list[float]:
    """Dice's coefficients of the regions."""
    pairs = [(found == LABELS[name], truth == LABELS[name]) for name in REGIONS]
    return [float(2 * (a & b).sum() / (a.sum() + b.sum())) for a, b in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--voxel", type=float, default=1.5, help="mm")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    affine, template = scan(1, voxel=arguments.voxel, rotation=(0, 0, 0))
    labels = torch.where(template.mask, template.labels, 0)
    found, unmoved, seconds = [], [], []
    for seed in range(2, 2 + arguments.subjects):
        own_affine, own = scan(seed, voxel=arguments.voxel, rotation=tuple(random.uniform(-12, 12, 3)))
        magnitude = own.signal.abs().square().sum(0).sqrt()
        truth = torch.where(own.mask, own.labels, 0)
        started = time.perf_counter()
        carried = carry_labels(
            labels.numpy(),
            labels_affine=affine,
            template=torch.where(template.mask, template.signal[0].abs(), 0),
            template_affine=affine,
            image=magnitude,
            mask=brain_mask(magnitude, voxel_size=(arguments.voxel,) * 3),
            affine=own_affine,
        )
        seconds.append(time.perf_counter() - started)
        laid = resample(labels, affine=affine, matrix=np.eye(4), like_shape=own.mask.shape,
                        like_affine=own_affine, interpolation="nearest")  # fmt: skip
        found.append(overlaps(carried.labels, truth))
        unmoved.append(overlaps(laid, truth))
    print(f"{arguments.subjects} subjects, {arguments.voxel:g} mm, {np.median(seconds):.0f} s a subject")
    print(f"{'region':20s}  unregistered  registered (worst)")
    for name, before, after in zip(REGIONS, np.array(unmoved).T, np.array(found).T, strict=True):
        print(f"{name:20s}  {before.mean():12.2f}  {after.mean():10.2f} ({after.min():.2f})")


if __name__ == "__main__":
    main()
