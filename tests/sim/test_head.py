import numpy as np
import pytest
import torch
from scipy import ndimage

from qsmflow.core.dipole import dipole_field
from qsmflow.sim.canvas import LABELS
from qsmflow.sim.grids import block_mean, oblique_affine, refined
from qsmflow.sim.head import HEAD_BOX, PROPERTIES, build_head
from qsmflow.sim.subject import draw_subject
from qsmflow.sim.tissues import TISSUES

SHAPE = (40, 48, 44)
AFFINE = oblique_affine(SHAPE, voxel_size=(4.5, 4.5, 4.5), center=(0, -18, 5))
NUCLEI = ("caudate", "putamen", "globus pallidus", "thalamus", "red nucleus", "substantia nigra", "dentate")


@pytest.fixture(scope="module")
def subject():
    return draw_subject(1)


@pytest.fixture(scope="module")
def average():
    return draw_subject(0, spread=0)


@pytest.fixture(scope="module")
def head(subject):
    return build_head(subject, shape=SHAPE, affine=AFFINE, maps=(*PROPERTIES, "labels"))


@pytest.fixture(scope="module")
def deep(subject):
    """The middle of the brain and the cerebellum in 1.25 mm voxels."""
    shape = (66, 86, 76)
    affine = oblique_affine(shape, voxel_size=(1.25, 1.25, 1.25), center=(0, -24, -10))
    return build_head(subject, shape=shape, affine=affine, maps=(*PROPERTIES, "labels"))


def inner(labels, tissue, *, rounds=1):
    """Voxels of a tissue that other tissues do not touch."""
    mask = (labels == LABELS[tissue]).numpy()
    return torch.from_numpy(ndimage.binary_erosion(mask, iterations=rounds) if rounds else mask)


@pytest.mark.parametrize("name", ["susceptibility", "r2star", "proton_density", "t1"])
@pytest.mark.parametrize("tissue", ["white matter", "csf", "caudate", "putamen", "thalamus", "dentate"])
def test_tissue_means_are_the_subjects_and_lie_in_the_published_range(deep, subject, tissue, name):
    measured = float(getattr(deep, name)[inner(deep.labels, tissue, rounds=tissue != "dentate")].mean())
    published = getattr(TISSUES[tissue], name)
    # A deviation of the subjects is what texture and what is left of the edges may add.
    slack = max(published.deviation, 0.01 * abs(published.mean))
    assert measured == pytest.approx(getattr(subject.tissues[tissue], name), abs=2 * slack)
    assert published.lower - slack < measured < published.upper + slack


def test_tissues_have_texture(deep, subject):
    for tissue in ("white matter", "putamen", "thalamus"):
        spread = float(deep.susceptibility[inner(deep.labels, tissue)].std())
        assert spread == pytest.approx(subject.tissues[tissue].texture, rel=0.6)


def test_iron_raises_susceptibility_and_r2star_together(deep):
    inside = inner(deep.labels, "putamen")
    together = np.corrcoef(deep.susceptibility[inside], deep.r2star[inside])[0, 1]
    assert together > 0.9


def test_nuclei_lie_on_both_sides(deep):
    left, right = deep.labels[:30], deep.labels[36:]
    for tissue in NUCLEI:
        count = int((deep.labels == LABELS[tissue]).sum())
        assert count > 100
        for side in (left, right):
            assert int((side == LABELS[tissue]).sum()) > 0.3 * count


@pytest.mark.parametrize(
    ("tissue", "position"),
    [
        ("putamen", (27, 3, 1)),
        ("globus pallidus", (22, -4, 0)),
        ("thalamus", (-12, -18, 8)),
        ("csf", (0, -46, -32)),
    ],
)
def test_structures_lie_where_the_template_has_them(average, tissue, position):
    where = torch.tensor(position, dtype=torch.float32)
    subject_point = average.warp.inverse(where).tolist()
    block = build_head(
        average,
        shape=(3, 3, 3),
        affine=oblique_affine((3, 3, 3), voxel_size=(0.5, 0.5, 0.5), center=subject_point),
        maps=("labels",),
    )
    assert int(block.labels[1, 1, 1]) == LABELS[tissue]


def test_brain_has_an_adults_volume_and_lies_inside(head):
    litres = float(head.brain.sum()) * 4.5**3 / 1e6
    assert 1.2 < litres < 1.9
    assert float(head.brain[[0, -1]].max()) == 0
    assert float(head.susceptibility[0, 0, -1]) == pytest.approx(9.4)


def test_air_and_bone_stay_out_of_the_brain(head, deep):
    for drawn in (head, deep):
        inside = drawn.brain == 1
        for tissue in ("air", "bone", "fat", "skin"):
            assert not bool((drawn.labels[inside] == LABELS[tissue]).any())
    assert float(deep.susceptibility[deep.brain == 1].abs().max()) < 1.5


@pytest.mark.parametrize(("edge", "overall", "in_brain"), [(3.0, 0.15, 0.25), (2.0, 0.15, 0.18)])
def test_fine_and_coarse_grids_show_one_head(subject, edge, overall, in_brain):
    """The finer the coarse grid, the less is left of the structure within its voxels."""
    shape = (34, 38, 34)
    affine = oblique_affine(shape, voxel_size=(edge,) * 3, center=(0, -18, 5))
    coarse = build_head(subject, shape=shape, affine=affine)
    fine = build_head(
        subject, **dict(zip(("shape", "affine"), refined(shape, affine, factor=2), strict=True))
    )
    inside = coarse.brain == 1
    for name in ("susceptibility", "t1", "proton_density"):
        image = getattr(coarse, name)
        difference = block_mean(getattr(fine, name), factor=2) - image
        assert float(difference[inside].std() / image[inside].std()) < in_brain
        assert abs(float(difference[inside].mean() / image[inside].std())) < 0.35 * in_brain + 0.01
    difference = block_mean(fine.susceptibility, factor=2) - coarse.susceptibility
    assert float(difference.std() / coarse.susceptibility.std()) < overall
    brain = block_mean(fine.brain, factor=2)
    assert float((brain - coarse.brain).abs().mean() / brain.mean()) < 0.03


def test_pose_moves_the_head(subject):
    """On a grid that is turned with the head, the head looks the same; shifted by voxels, it is shifted."""
    shape, affine = (30, 30, 30), oblique_affine((30, 30, 30), voxel_size=(1.5, 1.5, 1.5), center=(-20, 0, 5))
    still = build_head(subject, shape=shape, affine=affine, maps=("susceptibility",)).susceptibility
    shift = np.eye(4)
    shift[:3, 3] = [6, 0, -3]
    shifted = build_head(subject, shape=shape, affine=affine @ shift, maps=("susceptibility",)).susceptibility
    difference = shifted[:-6, :, 3:] - still[6:, :, :-3]
    assert float(difference.std() / still.std()) < 0.05
    turned = oblique_affine(shape, voxel_size=(1.5, 1.5, 1.5), rotation=(0, 0, 90), center=(-20, 0, 5))
    again = build_head(subject, shape=shape, affine=turned, maps=("susceptibility",)).susceptibility
    assert float((again.rot90(1, (0, 1)) - still).std() / still.std()) < 0.05


def test_same_seed_gives_the_same_head_and_another_a_different_one(subject, head):
    again = build_head(draw_subject(1), shape=SHAPE, affine=AFFINE)
    assert torch.equal(head.susceptibility, again.susceptibility)
    other = build_head(draw_subject(2), shape=SHAPE, affine=AFFINE)
    both = (head.brain == 1) & (other.brain == 1)
    correlation = np.corrcoef(head.susceptibility[both], other.susceptibility[both])[0, 1]
    assert correlation < 0.7


def test_only_the_maps_asked_for_are_made(subject):
    head = build_head(subject, shape=(4, 4, 4), affine=np.diag([30.0, 30, 30, 1]), maps=("t1",))
    assert head.t1.shape == head.brain.shape == (4, 4, 4)
    assert head.susceptibility is head.r2star is head.labels is None
    with pytest.raises(ValueError, match="no such maps"):
        build_head(subject, shape=(4, 4, 4), affine=np.eye(4), maps=("t2",))


def test_field_strength_raises_r2star_and_t1(subject, head):
    high = build_head(subject, shape=SHAPE, affine=AFFINE, field_strength=7.0)
    inside = head.labels == LABELS["white matter"]
    assert bool((high.r2star[inside] > head.r2star[inside]).all())
    assert bool((high.t1[inside] > head.t1[inside]).all())
    assert torch.equal(high.susceptibility, head.susceptibility)


def test_background_field_in_the_brain_is_of_several_ppm(subject):
    lower, upper = (np.array(corner) for corner in HEAD_BOX)
    shape = tuple(int(n) for n in (upper - lower) / 4)
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = lower
    whole = build_head(subject, shape=shape, affine=affine, maps=("susceptibility",))
    air = TISSUES["air"].susceptibility.mean
    field = dipole_field(whole.susceptibility - air, voxel_size=(4, 4, 4), b0_direction=(0, 0, 1))
    inside = field[whole.brain == 1]
    assert 1.5 < float(inside.max() - inside.min()) < 12
    # Near the sinuses, after a linear shim, hundreds of hertz at 3 T.
    where = (whole.brain == 1).nonzero().double()
    design = torch.cat([torch.ones(len(where), 1, dtype=torch.float64), where], dim=1)
    left = inside.double() - design @ torch.linalg.lstsq(design, inside.double()[:, None]).solution[:, 0]
    assert 100 < float(left.abs().max()) * 127.7 < 1000
