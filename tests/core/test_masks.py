"""Masks of synthetic heads, of a measured crop, and of phase with known noise."""

import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from qsmflow.core.masks import brain_mask, combine_masks, erode, phase_coherence, phase_quality_mask


def coordinates(shape, voxel_size):
    """Distances in mm from the middle of the image, one broadcastable tensor an axis."""
    axes = [(torch.arange(n) - (n - 1) / 2) * edge for n, edge in zip(shape, voxel_size, strict=True)]
    return torch.meshgrid(*axes, indexing="ij")


def ellipsoid(grid, radii, centre=(0, 0, 0)):
    return sum(((x - c) / r) ** 2 for x, c, r in zip(grid, centre, radii, strict=True)) < 1


def head(voxel_size, *, bias=0.0, snr=20.0, field_of_view=(170, 200, 150)):
    """Magnitude of a head and its brain: scalp, skull, ventricles, eyes, neck, and bridges between them."""
    shape = [round(extent / edge) for extent, edge in zip(field_of_view, voxel_size, strict=True)]
    grid = x, y, z = coordinates(shape, voxel_size)
    brain = ellipsoid(grid, (58, 72, 54), (0, 0, 4))
    skull = ellipsoid(grid, (65, 79, 61), (0, 0, 4))
    scalp = ellipsoid(grid, (74, 88, 70), (0, 0, 4))
    stem = (x**2 + y**2 < 10**2) & (z < -35)
    magnitude = 0.7 * ((x**2 + y**2 < 50**2) & (z < -58))
    magnitude[scalp] = 1.3
    magnitude[skull] = 0.06
    for side in (-1, 1):
        magnitude[ellipsoid(grid, (11, 11, 11), (30 * side, 76, -22))] = 0.9
        magnitude[((x - 25 * side) ** 2 + (z + 22) ** 2 < 2.5**2) & (y > 40) & (y < 75)] = 0.8
    magnitude[(x.abs() < 4) & ellipsoid(grid, (61, 75, 57), (0, 0, 4)) & (z > 0)] = 0.6  # sagittal sinus
    magnitude[brain] = 0.8
    magnitude[ellipsoid(grid, (14, 26, 9), (0, 4, 12))] = 0.3  # ventricles of a T1-weighted image
    magnitude[stem] = 0.8
    magnitude = magnitude * torch.exp(bias * ((x / 74) ** 2 + (y / 88) ** 2 + (z / 70) ** 2 - 0.5))
    real, imaginary = torch.randn(2, *shape) * 0.8 / snr
    return torch.hypot(magnitude + real, imaginary), brain


def dice(mask, other):
    return 2 * int((mask & other).sum()) / int(mask.sum() + other.sum())


def load_crop(test_data):
    image = nibabel.load(test_data / "romeo_small" / "small_Mag.nii.gz")
    magnitude = torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)).square().sum(-1).sqrt()
    return magnitude, tuple(float(edge) for edge in image.header.get_zooms()[:3])


@pytest.mark.parametrize(
    ("voxel_size", "bias", "snr"),
    [
        ((2.5, 2.5, 2.5), 0.0, 20.0),
        ((2.5, 2.5, 2.5), 1.0, 8.0),
        ((1.6, 1.6, 3.5), 0.5, 20.0),
        ((1, 1, 2), 0.5, 20.0),
    ],
    ids=["even", "bias and noise", "anisotropic", "fine"],
)
def test_brain_is_parted_from_scalp_eyes_and_neck(voxel_size, bias, snr):
    magnitude, brain = head(voxel_size, bias=bias, snr=snr)
    mask = brain_mask(magnitude, voxel_size=voxel_size)
    assert mask.dtype == torch.bool
    assert int((mask & ~brain).sum()) < 0.02 * int(brain.sum())
    # What is lost is at the surface, within one voxel of the grid of 2 mm that the search works on.
    inner = erode(brain, radius=max(2.0, *voxel_size), voxel_size=voxel_size)
    assert int((inner & ~mask).sum()) < 1e-4 * int(brain.sum())


EXAMPLES = Path(__file__).parents[2] / "bids_examples" / "digital_heads"


@pytest.mark.parametrize(
    "scan",
    [
        "sub-01/anat/sub-01_acq-still",
        "sub-01/anat/sub-01_acq-motion",
        "sub-02/ses-01/anat/sub-02_ses-01",
        "sub-02/ses-02/anat/sub-02_ses-02",
    ],
)
def test_brain_of_a_digital_head_is_parted_from_orbits_and_face(scan):
    folder, prefix = (EXAMPLES / scan).parent, Path(scan).name
    echoes = [nibabel.load(path) for path in sorted(folder.glob(f"{prefix}_*part-mag_MEGRE.nii.gz"))]
    magnitude = np.sqrt(sum(np.asarray(echo.dataobj, dtype=np.float32) ** 2 for echo in echoes))
    voxel_size = tuple(float(edge) for edge in echoes[0].header.get_zooms()[:3])
    truth = nibabel.load(EXAMPLES / "derivatives" / "truth" / f"{scan}_desc-brain_mask.nii.gz")
    brain = torch.from_numpy(np.asarray(truth.dataobj) > 0)
    mask = brain_mask(torch.from_numpy(magnitude), voxel_size=voxel_size)
    assert dice(mask, brain) > 0.98
    far = erode(~brain, radius=2 * max(voxel_size), voxel_size=voxel_size)
    assert int((mask & far).sum()) < 1e-3 * int(mask.sum())
    inner = erode(brain, radius=2 * max(voxel_size), voxel_size=voxel_size)
    assert int((inner & ~mask).sum()) < 2e-4 * int(brain.sum())


def joined(kind):
    """Magnitude of a head in which what is not brain is broadly joined to it, and that."""
    voxel_size = (2.5, 2.5, 2.5)
    magnitude, brain = head(voxel_size)
    grid = x, y, z = coordinates(magnitude.shape, voxel_size)
    if kind == "fat of the orbit":
        # It dents the frontal lobe, and only its intensity tells the two apart.
        other = ellipsoid(grid, (16, 16, 14), (28, 66, -12)) & ~erode(brain, radius=5, voxel_size=voxel_size)
        magnitude[other] = 1.3
    else:
        # A face of muscle that the field of view cuts off, and a bridge of twice 8 mm to the brain.
        face = ellipsoid(grid, (50, 40, 14), (0, 40, -72))
        other = (face | (((x - 30) ** 2 + (y - 30) ** 2 < 8**2) & (z < -30))) & ~brain
        magnitude[other] = 0.7
    return magnitude, other, voxel_size


@pytest.mark.parametrize("kind", ["fat of the orbit", "muscle of the face"])
def test_what_is_broadly_joined_to_the_brain_stays_behind(kind):
    magnitude, other, voxel_size = joined(kind)
    mask = brain_mask(magnitude, voxel_size=voxel_size)
    # What is left of it is a rim of fat of half a voxel, or the mouth of the bridge.
    inner = erode(other, radius=2.5, voxel_size=voxel_size)
    assert int((mask & inner).sum()) < 0.01 * int(inner.sum())
    assert int((mask & other).sum()) < 0.1 * int(other.sum())


def test_a_coil_that_sees_one_end_better_costs_no_cortex():
    magnitude, brain = head((2.5, 2.5, 2.5))
    _, _, z = coordinates(magnitude.shape, (2.5, 2.5, 2.5))
    mask = brain_mask(magnitude * torch.exp(z / 45), voxel_size=(2.5, 2.5, 2.5))
    inner = erode(brain, radius=2.5, voxel_size=(2.5, 2.5, 2.5))
    assert int((inner & ~mask).sum()) < 1e-3 * int(brain.sum())


def test_brain_does_not_depend_on_the_unit_of_the_magnitude():
    magnitude, _ = head((4, 4, 4))
    mask = brain_mask(magnitude, voxel_size=(4, 4, 4))
    assert torch.equal(mask, brain_mask(1e-4 * magnitude.double(), voxel_size=(4, 4, 4)))


def test_a_measured_crop_that_is_all_brain_is_kept(test_data):
    magnitude, voxel_size = load_crop(test_data)
    mask = brain_mask(magnitude, voxel_size=voxel_size)
    tissue = magnitude > 0.5 * magnitude.median()
    assert int((tissue & ~mask).sum()) < 1e-3 * int(tissue.sum())


def test_of_a_measured_crop_only_the_background_is_lost(test_data):
    magnitude, voxel_size = load_crop(test_data)
    outside = torch.zeros_like(magnitude, dtype=torch.bool)
    outside[:12] = True
    magnitude[outside] = 0.05 * magnitude.median() * torch.rand(int(outside.sum()))
    mask = brain_mask(magnitude, voxel_size=voxel_size)
    assert dice(mask, ~outside) > 0.98


@pytest.mark.parametrize(
    ("magnitude", "message"),
    [
        (torch.zeros(4, 4, 4), "no signal"),
        (torch.full((4, 4, 4), torch.nan), "finite"),
        (torch.ones(2, 4, 4, 4), "volume"),
    ],
)
def test_a_magnitude_without_a_brain_is_refused(magnitude, message):
    with pytest.raises(ValueError, match=message):
        brain_mask(magnitude, voxel_size=(1, 1, 1))


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.5])
def test_coherence_measures_the_noise_of_a_wrapped_phase(noise):
    x, y, z = coordinates((24, 24, 24), (1, 1, 1))
    phase = 1.9 * x - 0.7 * y + 2.8 * z + noise * torch.randn(24, 24, 24)
    wrapped = torch.atan2(phase.sin(), phase.cos())
    assert float(phase_coherence(wrapped).mean()) == pytest.approx(math.exp(-3 * noise**2), abs=0.02)


def test_quality_parts_noise_from_phase_and_stays_in_the_mask():
    x, _, _ = coordinates((24, 24, 24), (1, 1, 1))
    phase = 0.8 * x + 0.1 * torch.randn(24, 24, 24)
    phase[12:] = 2 * math.pi * torch.rand(12, 24, 24)
    mask = torch.zeros(24, 24, 24, dtype=torch.bool)
    mask[:, 4:20, 4:20] = True
    good = phase_quality_mask(phase, mask=mask)
    assert bool(good[:11, 4:20, 4:20].all())
    assert float(good[14:, 4:20, 4:20].float().mean()) < 0.01
    assert not bool((good & ~mask).any())


def test_coherence_does_not_look_outside_the_mask():
    phase = torch.zeros(16, 16, 16)
    phase[8:] = 2 * math.pi * torch.rand(8, 16, 16)
    mask = torch.zeros(16, 16, 16, dtype=torch.bool)
    mask[:8] = True
    torch.testing.assert_close(phase_coherence(phase, mask=mask)[mask], torch.ones(8 * 16 * 16))


def test_slabs_of_the_quality_mask_leave_no_seam():
    shape = (10, 256, 257)  # more than two slabs
    phase, magnitude = 0.8 * torch.randn(shape), torch.rand(shape)
    mask = torch.rand(shape) > 0.1
    mask[0], mask[:, :3] = False, False
    coherence = phase_coherence(phase, magnitude=magnitude, mask=mask)
    threshold = float(coherence[mask].median())
    good = phase_quality_mask(phase, magnitude=magnitude, mask=mask, threshold=threshold)
    assert torch.equal(good, (coherence > threshold) & mask)


def test_quality_of_a_measured_phase_keeps_all_but_vessels(test_data):
    magnitude, _ = load_crop(test_data)
    stored = np.asarray(nibabel.load(test_data / "romeo_small" / "small_Phase.nii.gz").dataobj.get_unscaled())
    phase = torch.from_numpy(stored.astype(np.float32))
    good = phase_quality_mask(phase[..., 1] - phase[..., 0], magnitude=magnitude)
    assert float(good.float().mean()) > 0.98


def test_combination_fills_holes_and_drops_crumbs():
    grid = coordinates((30, 30, 30), (2, 2, 2))
    ball = ellipsoid(grid, (22, 22, 22))
    holed = ball & ~ellipsoid(grid, (5, 5, 5))
    holed[0, 0, 0] = True
    crumbs = ball.clone()
    crumbs[0, 0, 0] = True
    combined = combine_masks(holed, crumbs, voxel_size=(2, 2, 2))
    assert torch.equal(combined.mask, ball)
    assert combined.volume == pytest.approx(4 / 3 * math.pi * 2.2**3, rel=0.02)
    assert combined.fraction_lost == pytest.approx(1 / int(holed.sum()))


def test_opening_cuts_spurs_and_keeps_the_rest_in_mm():
    x, y, z = grid = coordinates((40, 40, 20), (1, 1, 2))
    ball = ellipsoid(grid, (12, 12, 12))
    spur = (y.abs() < 1) & (z.abs() < 3) & (x > 0)
    opened = combine_masks(ball | spur, voxel_size=(1, 1, 2), opening_radius=2).mask
    assert not bool(opened[34:].any())
    assert dice(opened, ball) > 0.98


def test_a_second_large_part_is_kept():
    mask = torch.zeros(20, 10, 10, dtype=torch.bool)
    mask[:8], mask[12:] = True, True
    assert torch.equal(combine_masks(mask, voxel_size=(1, 1, 1)).mask, mask)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ((), "one shape"),
        ((torch.ones(4, 4, 4).bool(), torch.ones(4, 4, 5).bool()), "one shape"),
        (
            (torch.eye(4).bool()[None].expand(4, 4, 4), ~torch.eye(4).bool()[None].expand(4, 4, 4)),
            "no voxel in common",
        ),
        ((torch.eye(8).bool()[None].expand(8, 8, 8),), "nowhere thicker"),
    ],
)
def test_masks_that_leave_nothing_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        combine_masks(*masks, voxel_size=(1, 1, 1))


def test_erosion_is_by_millimetres_on_every_axis():
    mask = torch.zeros(20, 20, 20, dtype=torch.bool)
    mask[2:18, 2:18, 2:18] = True
    inner = torch.zeros_like(mask)
    inner[6:14, 4:16, 3:17] = True
    eroded = erode(mask, radius=2, voxel_size=(0.5, 1, 2))
    assert torch.equal(eroded, inner)


@pytest.mark.parametrize("radius", [0, 1, 2.5, 5, 40])
@pytest.mark.parametrize("shape", [(40, 21, 18), (1, 30, 30), (5, 1, 9)])
def test_erosion_is_by_the_distance_to_the_nearest_voxel_outside(shape, radius):
    # Distances of exactly the radius are among them: 3 and 4 voxels of these edges make 2.5 mm.
    mask, voxel_size = torch.rand(shape) > 0.002, (0.5, 0.5, 1.25)
    mask[0, 0, 0] = False
    distance = ndimage.distance_transform_edt(mask.numpy(), sampling=voxel_size)
    eroded = erode(mask, radius=radius, voxel_size=voxel_size)
    assert np.array_equal(eroded.numpy(), distance > radius)


def test_the_edge_of_the_image_erodes_nothing():
    full = torch.ones(6, 6, 6, dtype=torch.bool)
    assert torch.equal(erode(full, radius=2, voxel_size=(1, 1, 1)), full)
    assert not bool(erode(~full, radius=2, voxel_size=(1, 1, 1)).any())
    half = full.clone()
    half[3:] = False
    assert erode(half, radius=1, voxel_size=(1, 1, 1)).nonzero().amax(0).tolist() == [1, 5, 5]


def test_a_negative_erosion_is_refused():
    with pytest.raises(ValueError, match="negative"):
        erode(torch.ones(2, 2, 2).bool(), radius=-1, voxel_size=(1, 1, 1))
