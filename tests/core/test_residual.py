"""The part of the field that a map does not explain, from fields of known maps."""

import pytest
import torch

from qsmflow.core.dipole import dipole_field
from qsmflow.core.inversion.residual import data_residual

SPACE = {"voxel_size": (1.0, 1.5, 2.0), "b0_direction": (0.0, 0.6, 0.8)}
SHAPE = (16, 14, 12)


@pytest.fixture
def mask():
    """A cross that reaches all sides, so that its box is the image and fields are made on the same grid."""
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[3:13, 2:12] = mask[:, 2:12, 2:10] = mask[3:13, :, 2:10] = True
    return mask


@pytest.fixture
def chi(mask):
    return 0.1 * torch.randn(SHAPE) * mask


def measured(chi, mask, field, noise=None):
    noise = torch.ones(SHAPE) if noise is None else noise
    return data_residual(chi, local_field=field, noise=noise, mask=mask, **SPACE)


def test_the_true_map_leaves_nothing_whatever_its_reference(chi, mask):
    field = dipole_field(chi, **SPACE)
    assert measured(chi, mask, field).residual < 1e-5
    referenced = measured(chi - 0.07 * mask, mask, field)
    assert referenced.residual < 1e-5
    assert referenced.offset == pytest.approx(0.07, abs=1e-5)


def test_what_lies_outside_the_mask_does_not_count(chi, mask):
    field = dipole_field(chi, **SPACE)
    assert measured(chi + 3.0 * ~mask, mask, field + 5.0 * ~mask).residual < 1e-5


def test_empty_space_around_changes_nothing(chi, mask):
    field = dipole_field(chi, **SPACE) * mask + 0.01 * torch.randn(SHAPE)
    wide = [torch.nn.functional.pad(each, (1, 2, 3, 4, 5, 6)) for each in (0.9 * chi, mask, field)]
    noise = torch.ones(wide[0].shape)
    assert measured(*wide, noise) == measured(0.9 * chi, mask, field)


def test_half_the_map_leaves_half_the_field(chi, mask):
    """Up to the constant, which explains a little of what is missing."""
    field = dipole_field(chi, **SPACE)
    found = measured(chi / 2, mask, field).residual
    assert 0.48 < found <= 0.5


def test_constant_is_the_best_one(chi, mask):
    field = dipole_field(chi, **SPACE) + 0.01 * torch.randn(SHAPE)
    best = measured(chi, mask, field)
    kernel_of_mask = dipole_field(mask.float(), **SPACE)
    residuals = [
        float(((dipole_field(chi, **SPACE) + c * kernel_of_mask - field)[mask]).norm() / field[mask].norm())
        for c in (best.offset - 1e-3, best.offset, best.offset + 1e-3)
    ]
    assert residuals[1] == pytest.approx(best.residual, rel=1e-4)
    assert residuals[1] == min(residuals)


def test_voxels_count_by_their_noise(chi, mask):
    """An error where the noise is large is no misfit; nor is one that was never measured."""
    field = dipole_field(chi, **SPACE)
    field[8, 8, 5] += 1.0
    field[8, 8, 6] += 1.0
    noise = torch.ones(SHAPE)
    plain = measured(chi, mask, field, noise).residual
    noise[8, 8, 5], noise[8, 8, 6] = 1e6, float("inf")
    assert plain > 0.1
    assert measured(chi, mask, field, noise).residual < 1e-4


@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_unit_of_the_noise_does_not_matter(chi, mask, scale):
    field = dipole_field(chi, **SPACE)
    noise = 1 + torch.rand(SHAPE)
    values = [measured(0.8 * chi, mask, field, factor * noise).residual for factor in (1.0, scale)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_what_cannot_be_measured_is_refused(chi, mask):
    with pytest.raises(ValueError, match="zero in the mask"):
        measured(chi, mask, torch.zeros(SHAPE))
    with pytest.raises(ValueError, match="not finite"):
        measured(chi / 0, mask, torch.ones(SHAPE))
    with pytest.raises(ValueError, match="noise"):
        measured(chi, mask, torch.ones(SHAPE), torch.zeros(SHAPE))
