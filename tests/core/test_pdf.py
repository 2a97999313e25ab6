"""Projection onto dipole fields against sources whose fields are known apart."""

import numpy as np
import pytest
import torch

from qsmflow.core.background.pdf import WeightedDipoles, remove_background_pdf
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


def sphere_field(centre, radius):
    """Field in closed form outside a sphere of unit susceptibility, and voxels at 2 mm from it or more."""
    axes = [
        (torch.arange(size, dtype=torch.float64) - c) * edge
        for size, c, edge in zip(SHAPE, centre, SPACE["voxel_size"], strict=True)
    ]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    b = np.asarray(SPACE["b0_direction"]) / np.linalg.norm(SPACE["b0_direction"])
    squared = x**2 + y**2 + z**2
    cosine = (x * b[0] + y * b[1] + z * b[2]) ** 2 / squared
    field = (radius**2 / squared) ** 1.5 * (cosine - 1 / 3)
    return field.float(), squared >= (radius + 2) ** 2


@pytest.fixture(scope="module")
def head():
    """A round mask, sources inside and outside of it, and their fields in ppm."""
    mask, interior = ball((20, 20, 18), 13), ball((20, 20, 18), 10)
    local = dipole_field(0.2 * ball((19, 21, 18), 3).float(), **SPACE, padding=SHAPE)
    outside = 9.4 * ball((20, 1, 10), 7).float() - 5 * ball((36, 32, 18), 5).float()
    background = dipole_field(outside, **SPACE, padding=SHAPE) + 0.5
    return {"mask": mask, "interior": interior, "local": local * mask, "background": background * mask}


def removed(field, mask, level=1e-3, **options):
    """Background removal with uniform noise."""
    noise = torch.full(SHAPE, level)
    return remove_background_pdf(field, noise=noise, mask=mask, **SPACE, **{"coarsest": 0.0, **options})


def relative(error, truth, where):
    """Norm of an error over that of the truth."""
    return float(error[where].norm() / truth[where].norm())


@pytest.mark.parametrize("options", [{}, {"coarsest": 3.0}])
def test_sphere_outside_is_removed(options):
    """Of the closed form of its field, less than 2 % stays in the mask, with blocks or without."""
    field, clear = sphere_field((20, 0.5, 6), 8)
    mask = ball((20, 20, 18), 13) & clear
    removal = removed(torch.where(mask, 9 * field + 0.5, 0), mask, **options)
    assert relative(removal.local_field, 9 * field, mask) < 0.02


def test_local_field_stays(head):
    """Of the field of tissue within 12 %, but for a constant; without a model of it not within 20 %."""
    mask, interior = head["mask"], head["interior"]
    draw = torch.Generator().manual_seed(2)
    tissue = 0.05 * torch.randn(SHAPE, generator=draw) * mask
    local = dipole_field(tissue, **SPACE, padding=SHAPE)
    noise = 1e-3 * torch.randn(SHAPE, generator=draw)
    total = (local + head["background"] + noise) * mask
    errors = []
    for ratio in (0.035, 0.0):
        removal = removed(total, mask, inside_ratio=ratio)
        error = (removal.local_field - local - noise)[interior]
        errors.append(float((error - error.mean()).norm() / local[interior].norm()))
    assert errors[0] < 0.12 and errors[1] > 0.2


def test_nothing_is_outside_the_mask(head):
    """Values outside do not matter and come back as zero; running out of steps is said."""
    total = head["local"] + head["background"]
    removal = removed(torch.where(head["mask"], total, 1e6), head["mask"], max_steps=3)
    assert not removal.local_field[~head["mask"]].any() and torch.equal(removal.mask, head["mask"])
    assert not removal.converged and removal.n_iterations == 3
    blocks = removed(total, head["mask"], max_steps=3, coarsest=3.0, refinements=2)
    assert not blocks.converged and blocks.n_iterations == 5


def test_noise_alone_is_left_alone(head):
    """Of noise alone, less than a quarter is taken for background inside."""
    noise = torch.randn(SHAPE) * head["mask"]
    alone = removed(noise, head["mask"], level=1.0)
    assert alone.converged
    assert relative(alone.local_field - noise, noise, head["interior"]) < 0.25


def test_scale_of_field_and_noise_does_not_matter(head):
    """Hz instead of ppm give the same, in Hz; so does noise that is a tenth of what it was."""
    total = head["local"] + head["background"]
    ppm, hertz = removed(total, head["mask"]), removed(128 * total, head["mask"], level=0.128)
    assert ppm.n_iterations == hertz.n_iterations and ppm.converged
    torch.testing.assert_close(hertz.local_field, 128 * ppm.local_field, rtol=1e-3, atol=1e-3)
    low, lower = (removed(total, head["mask"], level=level) for level in (1e-5, 1e-7))
    torch.testing.assert_close(low.local_field, lower.local_field, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("unmeasured", [0.0, float("inf"), float("nan")])
def test_unmeasured_voxels_do_not_count(head, unmeasured):
    """A voxel without a noise can hold anything, its neighbours do not feel it."""
    spoilt, noise = head["background"].clone(), torch.full(SHAPE, 1e-3)
    spoilt[20, 20, 18] = 1000
    noise[20, 20, 18] = unmeasured
    clean = removed(head["background"], head["mask"])
    removal = remove_background_pdf(spoilt, noise=noise, mask=head["mask"], **SPACE)
    others = head["interior"].clone()
    others[20, 20, 18] = False
    assert relative(removal.local_field - clean.local_field, head["background"], others) < 0.005


def test_agrees_with_dense_algebra():
    """On a small grid, many steps reach the minimum-norm solution in float64."""
    shape, space = (6, 5, 4), {"voxel_size": (1.0, 1.2, 1.1), "b0_direction": (0.3, -0.2, 0.93)}
    field, noise = torch.randn(shape, dtype=torch.float64), 1 + torch.rand(shape, dtype=torch.float64)
    mask = torch.ones(shape, dtype=torch.bool)
    weights = noise.reciprocal() / noise.reciprocal().mean()
    field -= (weights**2 * field).sum() / (weights**2).sum()
    removal = remove_background_pdf(
        field,
        noise=1e-9 * noise,
        mask=mask,
        **space,
        margin=4,
        inside_ratio=0.03,
        coarsest=0.0,
        rtol=1e-8,
        max_steps=2000,
    )
    grid = (10, 10, 8)
    inside = torch.zeros(grid, dtype=torch.float64)
    inside[:6, :5, :4] = 1
    scale = 1 - 0.97 * inside
    operator = WeightedDipoles(weights, scale, **space)
    columns = [operator(unit.reshape(grid)).flatten().clone() for unit in torch.eye(800, dtype=torch.float64)]
    matrix = torch.stack(columns, dim=1)
    sources = torch.linalg.pinv(matrix, rtol=1e-10) @ (weights * field).flatten()
    background = operator.field(sources.reshape(grid) * scale * (1 - inside))
    torch.testing.assert_close(removal.local_field, field - background, rtol=0, atol=1e-3)


def test_adjoint_and_gain(head):
    """<Ax, y> = <x, Aᴴy>; the Frobenius norm by convolution agrees with random fields within 5 %."""
    weights = torch.rand(SHAPE, dtype=torch.float64) * head["mask"]
    scale = torch.rand((44, 48, 40), dtype=torch.float64)
    operator = WeightedDipoles(weights, scale, **SPACE)
    sources, field = torch.randn_like(scale), torch.randn_like(weights)
    forward = float((operator(sources) * field).sum())
    assert forward == pytest.approx(float((operator.adjoint(field) * sources).sum()), rel=1e-10)
    known = (weights > 0).double()
    noises = [torch.randn(SHAPE, dtype=torch.float64) * known for _ in range(8)]
    ratios = [float((operator.adjoint(noise).norm() / noise.norm()) ** 2) for noise in noises]
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
