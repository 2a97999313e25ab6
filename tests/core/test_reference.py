"""Ventricles in an R2* map, and what referencing does to a susceptibility."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from qsmflow.core.masks import erode
from qsmflow.core.reference import NoCsfError, csf_mask, reference_region, reference_susceptibility

VOXEL = (2.0, 2.0, 3.0)


@pytest.fixture
def brain():
    """R2* in 1/s with noise, brain mask, ventricles: two horns in the middle, sulcal fluid at the rim."""
    shape = (72, 84, 44)
    axes = [(torch.arange(n) - (n - 1) / 2) * edge for n, edge in zip(shape, VOXEL, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    depth = (x / 65) ** 2 + (y / 78) ** 2 + (z / 60) ** 2
    mask = depth < 1
    ventricles = torch.zeros(shape, dtype=torch.bool)
    for side in (-1, 1):
        ventricles |= ((x - 12 * side) / 9) ** 2 + (y / 22) ** 2 + ((z - 6) / 12) ** 2 < 1
    r2star = torch.full(shape, 18.0)
    r2star[ventricles | (depth > 0.9)] = 1.0
    r2star = (r2star + 5 * torch.randn(shape)).clamp(min=0)
    return r2star, mask, ventricles


def test_ventricles_are_found_and_sulci_are_not(brain):
    r2star, mask, ventricles = brain
    found = csf_mask(r2star, mask=mask, voxel_size=VOXEL)
    assert int((found & ~ventricles).sum()) == 0
    inner = erode(ventricles, radius=max(VOXEL), voxel_size=VOXEL)
    assert int((found & inner).sum()) > 0.95 * int(inner.sum())


def test_fluid_is_where_the_median_of_the_neighbours_is_low():
    # The ball in the middle, 30 mm wide each way, is cut off by the image along x.
    shape, edge = (8, 30, 26), 5.0
    r2star, mask = 10 * torch.rand(shape), torch.ones(shape, dtype=torch.bool)
    mask[:, :4] = False
    centre = np.argwhere(mask.numpy()).mean(axis=0).reshape(3, 1, 1, 1)
    ball = (np.square(np.indices(shape) - centre).sum(axis=0) * edge**2 <= 30**2) & mask.numpy()
    low = ball & (ndimage.median_filter(r2star.numpy(), size=3, mode="nearest") < 5)
    parts, _ = ndimage.label(low, structure=np.ones((3, 3, 3)))
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    found = csf_mask(r2star, mask=mask, voxel_size=(edge,) * 3, n_parts=1)
    assert np.array_equal(found.numpy(), largest)


def test_a_brain_without_ventricles_says_so_and_is_its_own_reference(brain):
    r2star, mask, ventricles = brain
    r2star[ventricles] = 18
    with pytest.raises(NoCsfError, match="no ventricle found"):
        csf_mask(r2star, mask=mask, voxel_size=VOXEL)
    found = reference_region("csf", mask=mask, r2star=r2star, voxel_size=VOXEL)
    assert found.kind == "brain"
    assert "no ventricle found" in found.shortfall
    assert torch.equal(found.region, mask)


def test_a_crop_of_a_brain_has_no_middle(brain):
    r2star, mask, _ = brain
    crop = mask[20:50, 20:60, 10:30]
    with pytest.raises(NoCsfError, match="too little of a brain"):
        csf_mask(r2star[20:50, 20:60, 10:30], mask=crop, voxel_size=VOXEL)


def test_every_choice_gives_its_region(brain):
    r2star, mask, ventricles = brain
    choose = {
        kind: reference_region(kind, mask=mask, r2star=r2star, voxel_size=VOXEL)
        for kind in ("csf", "brain", "none")
    }
    assert {kind: found.kind for kind, found in choose.items()} == {kind: kind for kind in choose}
    assert all(found.shortfall is None for found in choose.values())
    assert bool((choose["csf"].region <= ventricles).all())
    assert torch.equal(choose["brain"].region, mask)
    assert choose["none"].region is None


def test_an_unknown_choice_names_the_known_ones(brain):
    r2star, mask, _ = brain
    with pytest.raises(ValueError, match="csf, brain, none"):
        reference_region("skull", mask=mask, r2star=r2star, voxel_size=VOXEL)


def test_an_empty_brain_is_refused(brain):
    r2star, mask, _ = brain
    with pytest.raises(ValueError, match="empty"):
        csf_mask(r2star, mask=torch.zeros_like(mask), voxel_size=VOXEL)


def test_the_region_is_zero_afterwards_and_the_outside_stays_zero(brain):
    _, mask, ventricles = brain
    susceptibility = torch.where(mask, 0.03 + 0.01 * torch.randn(mask.shape), 0)
    found = reference_susceptibility(susceptibility, mask=mask, region=ventricles)
    assert float(found.susceptibility[ventricles].mean()) == pytest.approx(0, abs=1e-8)
    assert float(found.susceptibility[~mask].abs().max()) == 0
    assert found.mean == pytest.approx(float(susceptibility[ventricles].mean()))
    assert found.standard_deviation == pytest.approx(float(susceptibility[ventricles].std()), rel=1e-3)
    assert found.n_voxels == int(ventricles.sum())
    shifts = (susceptibility - found.susceptibility)[mask]
    torch.testing.assert_close(shifts, torch.full_like(shifts, found.mean))


def test_no_region_changes_nothing_but_the_outside(brain):
    _, mask, _ = brain
    susceptibility = torch.randn(mask.shape)
    found = reference_susceptibility(susceptibility, mask=mask)
    assert torch.equal(found.susceptibility, torch.where(mask, susceptibility, 0))
    assert (found.mean, found.standard_deviation, found.n_voxels) == (0, 0, 0)


def test_a_region_outside_the_mask_is_refused(brain):
    _, mask, _ = brain
    with pytest.raises(ValueError, match="no voxel"):
        reference_susceptibility(torch.zeros(mask.shape), mask=mask, region=~mask)
