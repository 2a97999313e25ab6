"""Brains of digital heads: what a network for dipole inversion learns anatomy from."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from qsmflow.sim.files import packed, write_image, write_json
from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.head import build_head
from qsmflow.sim.lesions import LesionCounts
from qsmflow.sim.protocols import CENTER
from qsmflow.sim.subject import draw_subject

#: Millimetres that hold any brain.
FIELD_OF_VIEW = (160, 192, 152)
#: Most lesions of each kind in a head.
MOST_LESIONS = LesionCounts(microbleeds=10, calcifications=3, iron_lesions=4)
#: Finest stored difference, ppm.
STEP = 5e-5
_DESCRIPTION = {
    "Name": "Susceptibility of digital heads",
    "BIDSVersion": "1.10.1",
    "DatasetType": "derivative",
    "GeneratedBy": [{"Name": "qsmflow-train heads"}],
}


def write_heads(
    out: Path, *, subjects: range, seed: int = 1, spread: float = 1.5, edge: float = 1.0, device=None
) -> Iterator[str]:
    """Write the susceptibility of heads as a BIDS derivative.

    ``sub-XXX_desc-truth_Chimap`` is in ppm relative to water inside the brain and zero outside,
    ``sub-XXX_desc-brain_mask`` the brain, ``sub-XXX_dseg`` the tissues as numbered by
    :data:`qsmflow.sim.canvas.LABELS`. A subject whose last file is there is skipped.

    Parameters
    ----------
    out : Path
        Folder of the data set.
    subjects : range
        Numbers of the subjects; a subject depends on the seed and on its number alone.
    seed : int
        Of everything.
    spread : float
        Of anatomy and tissue; above 1 beyond what is published.
    edge : float
        Of the voxels, mm.
    device : torch.device, optional
        Where it is computed.

    Yields
    ------
    str
        Label of each subject when its files are there.
    """
    write_json(out / "dataset_description.json", _DESCRIPTION)
    shape = tuple(round(length / edge) for length in FIELD_OF_VIEW)
    affine = oblique_affine(shape, voxel_size=(edge,) * 3, rotation=(0, 0, 0), center=CENTER)
    for number in subjects:
        stem = out / f"sub-{number:03d}" / "anat" / f"sub-{number:03d}"
        if not Path(f"{stem}_dseg.json").exists():
            rng = np.random.default_rng([seed, number])
            _write_head(stem, shape, affine, rng=rng, spread=spread, device=device)
        yield stem.name


def _write_head(
    stem: Path,
    shape: tuple[int, ...],
    affine: np.ndarray,
    *,
    rng: np.random.Generator,
    spread: float,
    device,
) -> None:
    lesions = LesionCounts(*(int(rng.integers(0, most + 1)) for most in vars(MOST_LESIONS).values()))
    subject = draw_subject(int(rng.integers(2**31)), spread=spread, lesions=lesions)
    head = build_head(subject, shape=shape, affine=affine, maps=("susceptibility", "labels"), device=device)
    brain = head.brain > 0.5
    stored, slope = packed(torch.where(brain, head.susceptibility, 0).cpu().numpy(), step=STEP)
    write_image(
        f"{stem}_desc-truth_Chimap", stored, affine, {"Units": "ppm", "SkullStripped": True}, slope=slope
    )
    write_image(f"{stem}_desc-brain_mask", brain.cpu().numpy().astype(np.uint8), affine, {"Type": "Brain"})
    labels = torch.where(brain, head.labels, 0).cpu().numpy().astype(np.uint8)
    write_image(f"{stem}_dseg", labels, affine, {})
