"""Labels carried from a template."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from qsmflow.core.template import carry_labels

SHAPE = (48, 56, 44)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
#: Subject to template, mm: a stretch, a shear, a turn and a shift, as heads differ.
BETWEEN = np.array([[1.08, 0.06, 0, 4], [-0.05, 0.94, 0.04, -6], [0, 0.03, 1.05, 5], [0, 0, 0, 1.0]])


def _sampled(volume: np.ndarray, matrix: np.ndarray, *, order: int) -> np.ndarray:
    """The volume at places that a matrix of voxels tells."""
    return ndimage.affine_transform(volume, matrix, output_shape=SHAPE, order=order)


@pytest.fixture(scope="module")
def heads():
    """Template and subject: brain, mask and labels; the subject's contrast is the other way round."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    brain = (x / 0.8) ** 2 + (y / 0.85) ** 2 + (z / 0.75) ** 2 < 1
    texture = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=SHAPE), 3)
    image = brain * (2 + 10 * texture)
    labels = np.zeros(SHAPE, int)
    labels[(x - 0.3) ** 2 + y**2 + z**2 < 0.05] = 4
    labels[(x + 0.3) ** 2 + (y + 0.2) ** 2 + z**2 < 0.04] = 9
    voxels = np.linalg.inv(AFFINE) @ BETWEEN @ AFFINE
    mask = _sampled(brain.astype(float), voxels, order=0) > 0.5
    moved = np.where(mask, 5 - _sampled(image, voxels, order=1), 0)
    return (image, brain, labels), (moved, mask, _sampled(labels, voxels, order=0))


def test_labels_reach_their_place(heads):
    (image, brain, labels), (moved, mask, expected) = heads
    found = carry_labels(
        labels,
        labels_affine=AFFINE,
        template=torch.from_numpy(np.where(brain, image, 0).astype(np.float32)),
        template_affine=AFFINE,
        image=torch.from_numpy(moved.astype(np.float32)),
        mask=torch.from_numpy(mask),
        affine=AFFINE,
    )
    carried = found.labels.numpy()
    assert set(np.unique(carried)) == {0, 4, 9}
    for label in (4, 9):
        both = ((carried == label) & (expected == label)).sum()
        overlap = 2 * both / ((carried == label).sum() + (expected == label).sum())
        unmoved = 2 * ((labels == label) & (expected == label)).sum()
        unmoved /= (labels == label).sum() + (expected == label).sum()
        assert overlap > 0.85 > unmoved
    assert found.information > 0.2


@pytest.mark.parametrize("empty", ["template", "mask"])
def test_nothing_to_register_is_refused(empty):
    there = {"template": torch.ones(8, 8, 8), "mask": torch.ones(8, 8, 8, dtype=torch.bool)}
    there[empty] = torch.zeros_like(there[empty])
    with pytest.raises(ValueError, match="must not be empty"):
        carry_labels(
            np.ones((8, 8, 8)),
            labels_affine=AFFINE,
            template_affine=AFFINE,
            image=torch.ones(8, 8, 8),
            affine=AFFINE,
            **there,
        )
