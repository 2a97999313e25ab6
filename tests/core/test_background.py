"""Projection onto dipole fields against sources whose fields are known apart."""

import pytest
import torch

from qsmflow.core.background import OutsideDipoles, remove_background
from qsmflow.core.dipole import dipole_field

SHAPE = (40, 40, 36)
SPACE = {"voxel_size": (1.0, 1.2, 1.1), "b0_direction": (0.3, -0.2, 0.93)}


def ball(centre, radius):
    """Voxels within a radius in mm of a point given in voxels."""
    axes = [
        (torch.arange(size) - c) * edge
        for size, c, edge in zip(SHAPE, centre, SPACE["voxel_size"], strict=True)
    ]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 <= radius**2


@pytest.fixture(scope="module")
def head():
    """A round mask, sources inside and outside of it, and their fields in ppm."""
    mask, interior = ball((20, 20, 18), 13), ball((20, 20, 18), 10)
    local = dipole_field(0.5 * ball((19, 21, 18), 3).float(), **SPACE, padding=SHAPE)
    outside = 9.4 * ball((20, 1, 10), 7).float() - 5 * ball((36, 32, 18), 5).float()
    background = dipole_field(outside, **SPACE, padding=SHAPE) + 0.5
    return {"mask": mask, "interior": interior, "local": local * mask, "background": background * mask}


def removed(field, mask, level=1e-3, **options):
    """Background removal with uniform noise."""
    noise = torch.full(SHAPE, level)
    return remove_background(field, noise=noise, mask=mask, **SPACE, **options)


def relative(error, truth, where):
    """Norm of an error over that of the truth."""
    return float(error[where].norm() / truth[where].norm())


@pytest.mark.parametrize("level", [0.0, 2e-3])
def test_outside_source_is_removed(head, level):
    """Less than 2 % of its field stays in the interior, less than 3 % in the whole mask."""
    mask, background = head["mask"], head["background"]
    field = background + level * torch.randn(SHAPE)
    removal = removed(field, mask, level=level or 1e-4)
    error, fluctuation = removal.background_field - background, background - background[mask].mean()
    assert relative(error, fluctuation, head["interior"]) < 0.02
    assert relative(error, fluctuation, mask) < 0.03


def test_local_field_stays(head):
    """What the inner source makes stays within 15 % in the interior, with noise."""
    noise = 1e-3 * torch.randn(SHAPE)
    removal = removed(head["local"] + head["background"] + noise, head["mask"])
    error = removal.local_field - head["local"] - noise
    assert removal.converged
    assert relative(error, head["local"], head["interior"]) < 0.15


def test_parts_add_up_and_end_at_the_mask(head):
    """The two fields sum to the total field; there is nothing outside."""
    total = head["local"] + head["background"]
    removal = removed(total, head["mask"], max_steps=5)
    torch.testing.assert_close(removal.local_field + removal.background_field, total)
    assert not removal.local_field[~head["mask"]].any() and not removal.background_field[~head["mask"]].any()
    assert not removal.converged and removal.n_iterations == 5


def test_stops_at_the_noise(head):
    """Of noise alone, less than a quarter is taken for background inside; more noise means fewer steps."""
    noise = torch.randn(SHAPE) * head["mask"]
    alone = removed(noise, head["mask"], level=1.0)
    assert alone.converged and relative(alone.background_field, noise, head["interior"]) < 0.25
    steps = [
        removed(head["background"], head["mask"], level=level).n_iterations for level in (1e-1, 1e-2, 1e-3)
    ]
    assert 0 < steps[0] < steps[1] < steps[2] < 200


def test_unit_of_the_field_does_not_matter(head):
    """Field and noise in Hz instead of ppm give the same, in Hz."""
    total = head["local"] + head["background"]
    ppm, hertz = removed(total, head["mask"]), removed(128 * total, head["mask"], level=0.128)
    assert ppm.n_iterations == hertz.n_iterations
    torch.testing.assert_close(hertz.local_field, 128 * ppm.local_field, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("unmeasured", [0.0, float("inf"), float("nan")])
def test_unmeasured_voxels_do_not_count(head, unmeasured):
    """A voxel without a noise can hold anything, its neighbours do not feel it."""
    spoilt, noise = head["background"].clone(), torch.full(SHAPE, 1e-3)
    spoilt[20, 20, 18] = 1000
    noise[20, 20, 18] = unmeasured
    removal = remove_background(spoilt, noise=noise, mask=head["mask"], **SPACE)
    assert (
        relative(removal.background_field - head["background"], head["background"], head["interior"]) < 0.02
    )


def test_gain_is_that_of_white_noise(head):
    """The Frobenius norm by convolution agrees with random fields within 5 %."""
    weights = torch.rand(SHAPE) * head["mask"]
    operator = OutsideDipoles(weights, head["mask"], **SPACE)
    known = operator.pad((weights > 0).float())
    ratios = [
        float((operator.adjoint(r).norm() / r.norm()) ** 2)
        for r in (torch.randn(operator.grid) * known for _ in range(8))
    ]
    assert operator.gain() == pytest.approx((sum(ratios) / 8) ** 0.5, rel=0.05)


def test_refuses_what_it_cannot_use(head):
    """No mask, no noise, no finite field: each is named."""
    field, mask = head["background"], head["mask"]
    with pytest.raises(ValueError, match="mask is empty"):
        removed(field, torch.zeros_like(mask))
    with pytest.raises(ValueError, match="positive finite noise"):
        removed(field, mask, level=0.0)
    with pytest.raises(ValueError, match="not finite"):
        removed(field * float("nan"), mask)
