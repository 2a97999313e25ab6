import numpy as np
import pytest
import torch

from qsmflow.sim.grids import block_mean, oblique_affine, refined
from qsmflow.sim.head import build_head
from qsmflow.sim.tissues import TISSUES

SHAPE = (38, 46, 42)
AFFINE = oblique_affine(SHAPE, voxel_size=(4.5, 4.5, 4.5), center=(0, -18, 5))


@pytest.fixture(scope="module")
def head():
    return build_head(shape=SHAPE, affine=AFFINE, seed=1)


def test_tissues_are_plausible_and_cited():
    for tissue in TISSUES.values():
        assert tissue.t1 > 0 and tissue.r2star >= 0 and 0 <= tissue.proton_density <= 1
        assert all(reference.startswith("10.") for reference in tissue.references)
    iron = [
        TISSUES[name].susceptibility for name in ("white matter", "grey matter", "putamen", "globus pallidus")
    ]
    assert iron == sorted(iron)


@pytest.mark.parametrize(
    ("tissue", "position"),
    [
        ("globus pallidus", (19.5, -4, -1)),
        ("thalamus", (12, -19, 7)),
        ("white matter", (0, -23, -30)),
        ("dentate", (-16, -58, -36)),
        ("csf", (24, -42, 8)),
    ],
)
def test_structures_lie_where_the_atlas_has_them(tissue, position):
    """A small fine block about each centre: the subject is bent by no more than a few millimetres."""
    shape = (24, 24, 24)
    block = build_head(
        shape=shape, affine=oblique_affine(shape, voxel_size=(0.75, 0.75, 0.75), center=position), seed=1
    )
    # The tissue's R2*, which has no texture, is met pure somewhere near the place.
    assert float((block.r2star - TISSUES[tissue].r2star).abs().min()) < 1e-3
    pure = (block.r2star - TISSUES[tissue].r2star).abs() < 1e-3
    spread = 4 * TISSUES[tissue].variation
    assert float(block.susceptibility[pure].mean()) == pytest.approx(
        TISSUES[tissue].susceptibility, abs=spread
    )


def test_brain_has_an_adults_volume_and_lies_inside(head):
    litres = float(head.brain.sum()) * 4.5**3 / 1e6
    assert 1.2 < litres < 1.8
    assert float(head.brain[[0, -1]].max()) == 0
    # Air around, bone about the brain, tissue of near water inside.
    assert float(head.susceptibility[0, 0, -1]) == pytest.approx(9.4)
    assert float(head.susceptibility.min()) < -1.5
    assert float(head.susceptibility[head.brain == 1].abs().max()) < 0.3


def test_fine_and_coarse_grids_show_one_head(head):
    fine = build_head(**dict(zip(("shape", "affine"), refined(SHAPE, AFFINE, factor=2), strict=True)), seed=1)
    difference = block_mean(fine.susceptibility, factor=2) - head.susceptibility
    assert float(difference.std() / head.susceptibility.std()) < 0.05
    brain = block_mean(fine.brain, factor=2)
    assert float((brain - head.brain).abs().mean() / brain.mean()) < 0.03


def test_seed_makes_the_subject(head):
    again = build_head(shape=SHAPE, affine=AFFINE, seed=1)
    other = build_head(shape=SHAPE, affine=AFFINE, seed=2)
    assert torch.equal(head.susceptibility, again.susceptibility)
    both = (head.brain == 1) & (other.brain == 1)
    correlation = np.corrcoef(head.susceptibility[both], other.susceptibility[both])[0, 1]
    assert correlation < 0.8
