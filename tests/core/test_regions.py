"""Values of a map in regions."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from qsmflow.core.regions import measure_regions


def test_every_label_is_measured_as_scipy_does_it():
    random = np.random.default_rng(0)
    image, labels = random.normal(size=(9, 8, 7)), random.integers(0, 5, size=(9, 8, 7)) * 7
    mask = random.random(size=(9, 8, 7)) > 0.3
    found = measure_regions(
        torch.from_numpy(image),
        labels=torch.from_numpy(labels),
        mask=torch.from_numpy(mask),
        voxel_size=(1, 2, 3),
    )
    indices = [7, 14, 21, 28]
    assert [region.index for region in found] == indices
    counted = np.where(mask, labels, 0)
    for measure, function in (("mean", ndimage.mean), ("sd", ndimage.standard_deviation)):
        # Scipy divides by the size of every label up to the largest, the empty ones, too.
        with np.errstate(invalid="ignore"):
            expected = function(image, counted, indices)
        np.testing.assert_allclose([getattr(region, measure) for region in found], expected)
    np.testing.assert_allclose(
        [region.median for region in found], [np.median(image[counted == index]) for index in indices]
    )
    voxels = [int((counted == index).sum()) for index in indices]
    assert [region.voxels for region in found] == voxels
    np.testing.assert_allclose([region.volume for region in found], np.array(voxels) * 0.006)


def test_regions_outside_the_mask_are_left_out():
    labels = torch.tensor([1, 2]).reshape(2, 1, 1)
    found = measure_regions(
        torch.ones(2, 1, 1), labels=labels, mask=torch.zeros_like(labels), voxel_size=(1, 1, 1)
    )
    assert found == ()


@pytest.mark.parametrize(
    ("image", "words"),
    [(torch.ones(3, 1, 1), "one shape"), (torch.tensor([1.0, torch.nan]).reshape(2, 1, 1), "not finite")],
)
def test_what_cannot_be_measured_is_refused(image, words):
    labels = torch.ones(2, 1, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=words):
        measure_regions(image, labels=labels, mask=labels > 0, voxel_size=(1, 1, 1))
