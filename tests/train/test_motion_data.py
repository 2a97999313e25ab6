"""Lessons of motion correction."""

import numpy as np
import pytest
import torch

from qsmflow.train.motion_data import (
    CorrectedPairs,
    Pair,
    PairBatches,
    draw_corner,
    find_pairs,
    load_pairs,
    motion_lesson,
)
from qsmflow.train.settings import TrainingSettings
from qsmflow.train.splits import split_subjects
from qsmflow.train.volumes import UnusableData

SETTINGS = TrainingSettings(batch_size=4, patch_size=(8, 8, 4))


def ramp_pair(shape=(10, 9, 8)) -> Pair:
    """Values that tell the voxel they belong to, and a truth twice as large."""
    image = torch.arange(float(np.prod(shape))).reshape(shape).half()
    return Pair("ramp", image, 2 * image, image >= 100, 1.0, 2.0, (1.0, 1.0, 2.0))


def batches(pairs, still=(), *, patch_size=(4, 4, 4), augments=False, still_share=0.0, seed=0):
    return PairBatches(
        pairs,
        still,
        still_share=still_share,
        patch_size=patch_size,
        batch_size=8,
        augments=augments,
        seed=seed,
    )


def test_pairs_are_found_by_their_entities(pairs):
    found = find_pairs([pairs])
    assert [one.subject for one in found] == [f"sub-{n:02d}" for n in range(1, 7)]
    assert [path.name for path in found[0].moved] == [
        f"sub-01_acq-motion_run-0{n}_Chimap.nii.gz" for n in (1, 2)
    ]
    assert len(find_pairs([pairs], moved="acq-motion_run-02")[0].moved) == 1
    with pytest.raises(FileNotFoundError, match="acq-quiet"):
        find_pairs([pairs], still="acq-quiet")
    with pytest.raises(UnusableData, match="narrow --still"):
        find_pairs([pairs], still="acq-motion", moved="acq-still")


def test_maps_of_a_pair_have_no_mean_in_the_mask_that_both_have(pairs):
    moved, still = load_pairs(find_pairs([pairs])[:1])
    image, truth, mask = moved[1].images()
    assert image.shape == (16, 14, 14)
    assert not mask[:, :, 0].any() and mask[:, :, 1:].all()
    for one in (image, truth):
        assert abs(float(one[mask > 0].mean())) < 1e-4
        assert not one[mask == 0].any()
    torch.testing.assert_close(image, 0.6 * truth, atol=5e-4, rtol=0)
    image, truth, mask = still[0].images()
    assert torch.equal(image, truth) and mask.all()


@pytest.mark.parametrize("patch_size", [(4, 4, 4), (10, 9, 8), (12, 4, 16)])
def test_patches_are_pieces_of_the_volume_with_zeros_around(patch_size):
    pair = ramp_pair()
    image, truth, mask = pair.images()
    batch = batches([pair], patch_size=patch_size).batch(3)
    assert batch["image"].shape == (8, 1, *patch_size)
    for patch, patch_truth, inside in zip(
        *(batch[name][:, 0] for name in ("image", "truth", "mask")), strict=True
    ):
        assert torch.equal(patch_truth, 2 * patch)
        assert not patch[inside == 0].any()
        first = patch[inside > 0][0]
        voxel = (image == first).nonzero()[0] - (patch == first).nonzero()[0]
        for place in inside.nonzero():
            assert patch[tuple(place)] == image[tuple(place + voxel)]
    assert truth.max() == 2 * image.max() and mask.any()


@pytest.mark.parametrize("edge", [1, 12])
def test_patches_hold_some_of_the_mask(edge):
    mask = torch.zeros(40, 40, 40, dtype=torch.bool)
    mask[:edge, :edge, :edge] = True
    image = torch.rand(40, 40, 40).half()
    stream = batches([Pair("corner", image, image, mask, 0.0, 0.0, (1, 1, 1))], patch_size=(16, 16, 16))
    for index in range(8):
        assert (stream.batch(index)["mask"].sum(dim=(1, 2, 3, 4)) > 0).all()


def test_corner_lies_within_the_volume():
    mask = torch.ones(9, 5, 7, dtype=torch.bool)
    corners = np.array([draw_corner(mask, (4, 5, 9), np.random.default_rng(n)) for n in range(60)])
    assert corners.min(axis=0).tolist() == [0, 0, -2]
    assert corners.max(axis=0).tolist() == [5, 0, 0]


def test_severity_is_that_of_the_whole_map(pairs):
    moved, still = load_pairs(find_pairs([pairs])[:1])
    # Moved maps of this data set are 0.6 times the still one.
    assert moved[1].severity == pytest.approx(0.4 / 0.6, rel=1e-2)
    assert still[0].severity == 0
    drawn = batches(moved[1:], still, still_share=0.5, augments=True).batch(0)["severity"].tolist()
    assert sorted(set(drawn)) == [0, pytest.approx(moved[1].severity)]


def test_slices_lose_their_third_axis():
    assert batches([ramp_pair()], patch_size=(6, 4, 1)).batch(0)["mask"].shape == (8, 1, 6, 4)


def test_augmentation_changes_image_and_truth_alike():
    """A pair of two equal maps stays one; values are scaled and shifted, places flipped and swapped."""
    pair = ramp_pair((12, 12, 8))
    same = Pair("same", pair.image, pair.image, pair.mask, 1.0, 1.0, (1, 1, 1))
    whole = batches([same], patch_size=(12, 12, 8), augments=True).batch(0)
    assert torch.equal(whole["image"], whole["truth"])
    assert not whole["image"][whole["mask"] == 0].any()
    original = same.images()[0]
    factors = []
    for image, mask in zip(whole["image"][:, 0], whole["mask"][:, 0], strict=True):
        spread = image[mask > 0].std() / original[same.mask].std()
        factors.append(float(spread))
        shift = image[mask > 0].mean() - spread * original[same.mask].mean()
        assert abs(float(shift)) < 0.03
    assert 0.69 < min(factors) < max(factors) < 1.41
    corners = {tuple(mask[::11, ::11, ::7].flatten().tolist()) for mask in whole["mask"][:, 0]}
    assert len(corners) > 1


def test_some_samples_are_still(pairs):
    moved, still = load_pairs(find_pairs([pairs]))
    stream = batches(moved, still, still_share=0.25)
    alike = [
        torch.equal(image, truth)
        for index in range(40)
        for image, truth in zip(*(stream.batch(index)[name] for name in ("image", "truth")), strict=True)
    ]
    assert 0.18 < np.mean(alike) < 0.32


def test_motion_lesson_keeps_subjects_apart(pairs):
    files = find_pairs([pairs])
    lesson = motion_lesson(files, settings=SETTINGS, seed=1)
    split = split_subjects(one.subject for one in files)
    trained = {pair.name.split("_")[0] for pair in (*lesson.stream.pairs, *lesson.stream.still)}
    assert trained == split.training
    assert lesson.tests["still_"][0]["image"].equal(lesson.tests["still_"][0]["truth"])
    assert lesson.voxels == ((1.0, 1.0, 2.0),)
    assert lesson.recipe["subjects for training"] == len(split.training)


def test_corrected_pairs_are_kept_in_files(tiny_unet, pairs, tmp_path):
    moved, _ = load_pairs(find_pairs([pairs])[:1])
    made = CorrectedPairs(tiny_unet, precision="float32", cache=tmp_path)(moved[0])
    # A fresh residual network gives back what it is given: the map without its mean.
    torch.testing.assert_close(made.images()[0], moved[0].images()[0], atol=2e-4, rtol=0)
    files = [path for path in tmp_path.rglob("*.npy")]
    assert len(files) == 1
    np.save(files[0], np.full(moved[0].mask.shape, 0.25, np.float16))
    again = CorrectedPairs(tiny_unet, precision="float32", cache=tmp_path)(moved[0])
    assert again.image.unique().tolist() == [0.25]
