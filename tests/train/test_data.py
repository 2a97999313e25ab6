"""Data sets: what is found, how it is split, and what samples look like."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmflow.core.dipole import dipole_field
from qsmflow.core.units import hertz_per_ppm
from qsmflow.train.data import (
    CorrectedPairs,
    Measured,
    MeasuredBatches,
    Pair,
    PairBatches,
    UnusableData,
    draw_corner,
    field_lesson,
    find_pairs,
    find_susceptibilities,
    load_head,
    load_measured,
    load_pairs,
    measured_lesson,
    motion_lesson,
    positioned,
    read_origin,
    split_subjects,
)
from qsmflow.train.settings import TrainingSettings

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


def test_no_subject_is_in_two_parts_and_none_moves_when_others_come():
    few = [f"sub-{number:03d}" for number in range(40)]
    small, large = split_subjects(few), split_subjects([*few, *(f"sub-{n:03d}" for n in range(40, 400))])
    for split in (small, large):
        assert not split.training & split.validation
        assert not (split.training | split.validation) & split.test
    for part in ("training", "validation", "test"):
        assert getattr(small, part) <= getattr(large, part)
    sizes = [len(part) / 400 for part in (large.training, large.validation, large.test)]
    np.testing.assert_allclose(sizes, [0.8, 0.1, 0.1], atol=0.04)


@pytest.mark.parametrize("number", range(2, 12))
def test_few_subjects_still_give_training_and_validation(number):
    subjects = {f"sub-{index}" for index in range(number)}
    split = split_subjects(subjects)
    assert split.training and split.validation
    assert split.training | split.validation | split.test == subjects


def test_one_subject_cannot_be_split():
    with pytest.raises(UnusableData, match="at least two"):
        split_subjects(["sub-01", "sub-01"])


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


def test_grids_that_differ_are_named(changed):
    path = changed / "sub-02/anat/sub-02_acq-motion_run-01_Chimap.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata()[:-1], image.affine), path)
    with pytest.raises(UnusableData, match=r"sub-02_acq-still_Chimap.*run-01_Chimap.*different grids"):
        load_pairs(find_pairs([changed]))
    nib.save(nib.Nifti1Image(image.get_fdata(), np.diag([1, 1, 2.1, 1])), path)
    with pytest.raises(UnusableData, match="different affines"):
        load_pairs(find_pairs([changed]))


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_damaged_and_missing_files_are_named(changed, content):
    path = changed / "sub-03/anat/sub-03_acq-motion_run-02_desc-brain_mask.nii.gz"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnusableData, match=path.name):
        load_pairs(find_pairs([changed]))


def test_values_that_are_not_finite_are_refused(changed):
    path = changed / "sub-03/anat/sub-03_acq-still_Chimap.nii.gz"
    image = nib.load(path)
    values = image.get_fdata()
    values[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine), path)
    with pytest.raises(UnusableData, match="not finite"):
        load_pairs(find_pairs([changed]))


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


def test_a_stream_goes_on_from_any_batch_and_ranks_share_it():
    stream = batches([ramp_pair()], augments=True)
    first = [batch["image"] for batch, _ in zip(stream, range(6), strict=False)]
    later = next(iter(positioned(stream, start=4)))["image"]
    assert torch.equal(later, first[4])
    second_of_two = iter(positioned(stream, start=1, rank=1, ranks=2))
    assert torch.equal(next(second_of_two)["image"], first[3])
    assert torch.equal(next(second_of_two)["image"], first[5])
    workers = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2)
    for batch, wanted in zip(workers, first, strict=False):
        assert torch.equal(batch["image"], wanted)


def test_motion_lesson_keeps_subjects_apart(pairs):
    files = find_pairs([pairs])
    lesson = motion_lesson(files, settings=SETTINGS, seed=1)
    split = split_subjects(one.subject for one in files)
    trained = {pair.name.split("_")[0] for pair in (*lesson.stream.pairs, *lesson.stream.still)}
    assert trained == split.training
    assert lesson.tests["still_"][0]["image"].equal(lesson.tests["still_"][0]["truth"])
    assert lesson.voxels == ((1.0, 1.0, 2.0),)
    assert lesson.recipe["subjects for training"] == len(split.training)


def test_truth_comes_before_other_maps(pairs, changed):
    names = [path.name for path in find_susceptibilities([pairs])]
    assert names == [f"sub-{n:02d}_acq-still_desc-truth_Chimap.nii.gz" for n in range(1, 7)]
    (changed / "sub-01/anat/sub-01_acq-still_desc-truth_Chimap.nii.gz").unlink()
    found = [path.name for path in find_susceptibilities([changed])]
    assert found[:3] == [
        f"sub-01_acq-{rest}_Chimap.nii.gz" for rest in ("motion_run-01", "motion_run-02", "still")
    ]
    with pytest.raises(FileNotFoundError, match="Chimap"):
        find_susceptibilities([changed / "sub-01"])


def test_heads_are_brought_to_one_millimetre(pairs):
    head = load_head(find_susceptibilities([pairs])[0])
    # 16 x 14 x 14 voxels of 1 x 1 x 2 mm.
    assert head.mask.shape[:2] == (16, 14) and abs(head.mask.shape[2] - 28) <= 1
    assert head.labels.dtype == torch.uint8 and not head.labels.any()


def test_field_lesson_learns_from_heads_and_shapes(pairs):
    settings = TrainingSettings(batch_size=2, patch_size=(16, 16, 16))
    lesson = field_lesson(find_susceptibilities([pairs]), settings=settings, seed=0, shapes=True)
    assert len(lesson.stream.makers) == 2 and len(lesson.tests[""]) == 8
    assert lesson.stream.batch(0)["field"].shape == (2, 1, 16, 16, 16)
    assert not torch.equal(lesson.stream.batch(0)["field"], lesson.tests[""][0]["field"])


@pytest.mark.parametrize(("units", "factor"), [("ppm", 1.0), ("Hz", 1 / hertz_per_ppm(3.0))])
def test_measured_field_comes_in_ppm(changed, units, factor):
    truth = find_susceptibilities([changed])[0]
    sidecar = changed / "sub-01/fmap/sub-01_acq-still_desc-local_fieldmap.json"
    sidecar.write_text(json.dumps({"Units": units, "MagneticFieldStrength": 3}))
    measured = load_measured(truth)
    stored = nib.load(sidecar.with_suffix("").with_suffix(".nii.gz")).get_fdata()[2:-2, 2:-2, 1:-1]
    np.testing.assert_allclose(measured.local_field.double(), factor * stored, rtol=1e-3, atol=1e-6)
    assert measured.b0_direction == (0, 0, 1) and measured.voxel_size == (1, 1, 2)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"Units": "rad"}, "Units is 'rad'; must be 'ppm' or 'Hz'"),
        ({"Units": "Hz"}, "MagneticFieldStrength is None"),
        ({}, "Units is None"),
    ],
)
def test_fields_without_units_are_refused(changed, stated, message):
    sidecar = changed / "sub-01/fmap/sub-01_acq-still_desc-local_fieldmap.json"
    sidecar.write_text(json.dumps(stated))
    with pytest.raises(UnusableData, match=message):
        load_measured(find_susceptibilities([changed])[0])


def test_flipped_brains_obey_the_same_equation():
    """The field of an oblique B0 is still that of the map after both were flipped and scaled."""
    torch.manual_seed(0)
    chi = torch.zeros(14, 12, 10)
    chi[4:9, 3:8, 2:7] = torch.randn(5, 5, 5)
    frame = {"voxel_size": (1.0, 1.0, 1.5), "b0_direction": (0.36, 0.48, 0.8)}
    local = dipole_field(chi, padding=(18, 20, 22), **frame)
    mask = torch.ones(chi.shape, dtype=torch.bool)
    stream = MeasuredBatches([Measured("one", local, chi, mask, **frame)], stride=8, augments=True, seed=0)
    for index in range(6):
        batch = stream.batch(index)
        assert batch["field"].shape == (1, 1, 16, 16, 16)
        spectrum = torch.fft.rfftn(batch["susceptibility"][0, 0], s=(24, 24, 24)) * batch["kernel"][0]
        made = torch.fft.irfftn(spectrum, s=(24, 24, 24))[:16, :16, :16] * batch["mask"][0, 0]
        error = (made - batch["field"][0, 0]).norm() / made.norm()
        # What is left is the grid, which wraps the far field around.
        assert error < 0.1


def test_measured_lesson_tests_each_brain_held_out(pairs):
    settings = TrainingSettings(batch_size=1, patch_size=None)
    maps = find_susceptibilities([pairs])
    lesson = measured_lesson(maps, settings=settings, seed=0, stride=8)
    assert len(lesson.tests[""]) == len(split_subjects(path.name.split("_")[0] for path in maps).validation)


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


def test_origin_tells_simulations_from_measurements(pairs, changed):
    assert read_origin([pairs]).simulated and read_origin([pairs]).names == ("Toy",)
    (changed / "dataset_description.json").unlink()
    origin = read_origin([pairs, changed])
    assert not origin.simulated and origin.names == ("Toy", "copied")
