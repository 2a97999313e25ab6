"""Thresholded division against a sphere and against its own definition."""

import pytest
import torch

from qsmflow.core.dipole import DipoleConvolution, dipole_field
from qsmflow.core.inversion.tkd import PADDING, invert_tkd

SPACE = {"voxel_size": (1.0, 0.9, 1.2), "b0_direction": (0.35, -0.25, 0.9)}


@pytest.fixture(scope="module")
def sphere():
    """0.2 ppm within 4 mm, the mask within 12 mm, and the field."""
    axes = [
        (torch.arange(size) - size // 2) * edge
        for size, edge in zip((30, 34, 28), SPACE["voxel_size"], strict=True)
    ]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    distance = (x**2 + y**2 + z**2).sqrt()
    chi = 0.2 * (distance < 4).float()
    return {"chi": chi, "mask": distance < 12, "field": dipole_field(chi, **SPACE, padding=chi.shape)}


@pytest.mark.parametrize("sign", [1, -1])
def test_sphere(sphere, sign):
    """A quarter of the contrast is lost at most; the sign is that of the source; nothing outside."""
    found = invert_tkd(sign * sphere["field"], mask=sphere["mask"], **SPACE).susceptibility
    inside = sphere["chi"] > 0
    contrast = found[inside].mean() - found[sphere["mask"] & ~inside].mean()
    assert 0.15 < sign * contrast < 0.2
    assert not found[~sphere["mask"]].any()


def test_residual_is_that_of_the_map_before_the_mask(sphere):
    """The field of the map on the whole periodic grid against the padded field, in double precision."""
    field = torch.where(sphere["mask"], sphere["field"], 0).double()
    found = invert_tkd(field, mask=torch.ones_like(sphere["mask"]), **SPACE)
    padding = [-int(-PADDING // edge) for edge in SPACE["voxel_size"]]
    operator = DipoleConvolution(field.shape, **SPACE, padding=padding, dtype=torch.float64)
    grid, kernel = operator.grid, operator.kernel
    spectrum = torch.fft.rfftn(field, s=grid)
    whole = torch.fft.irfftn(spectrum / kernel.abs().clamp(min=0.19) * kernel.sign(), s=grid)
    again = torch.fft.irfftn(torch.fft.rfftn(whole) * kernel, s=grid)
    padded = torch.fft.irfftn(spectrum, s=grid)
    assert torch.allclose(found.susceptibility, whole[tuple(map(slice, field.shape))], atol=1e-12)
    assert found.residual == pytest.approx(float((again - padded).norm() / padded.norm()), rel=1e-9)
    assert found.regularisation is None and found.n_iterations == 1


@pytest.mark.parametrize("threshold", [0.0, -0.1, 0.7])
def test_threshold_is_checked(sphere, threshold):
    """Only what the kernel takes on can be a threshold."""
    with pytest.raises(ValueError, match="threshold"):
        invert_tkd(sphere["field"], mask=sphere["mask"], threshold=threshold, **SPACE)
