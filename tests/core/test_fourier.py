"""Grids, transforms and differences against what they are by definition."""

import math

import numpy as np
import pytest
import torch

from qsmflow.core.fourier import frequencies, good_size, gradient, gradient_adjoint, spherical_mean_kernel

VOXEL = (1.0, 1.5, 2.0)


def is_good(size: int) -> bool:
    """Even and without a prime factor above five."""
    rest = size
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    return size % 2 == 0 and rest == 1


@pytest.mark.parametrize("extra", [0, 13])
def test_good_size_is_the_smallest_one(extra):
    for size in range(1, 300):
        found = good_size((size,) * 3, padding=(extra, 0, 0))
        smallest = next(candidate for candidate in range(size + extra, 1000) if is_good(candidate))
        assert found[0] == smallest
        assert found[1] == found[2]


def test_a_plane_wave_has_its_frequency():
    shape, index = (8, 6, 10), (3, 4, 2)
    axes = frequencies(shape, voxel_size=VOXEL)
    wave = [float(axis.flatten()[i]) for axis, i in zip(axes, index, strict=True)]
    x, y, z = np.meshgrid(*(np.arange(n) * edge for n, edge in zip(shape, VOXEL, strict=True)), indexing="ij")
    image = torch.from_numpy(np.cos(2 * math.pi * (wave[0] * x + wave[1] * y + wave[2] * z)))
    spectrum = torch.fft.rfftn(image).abs()
    assert np.unravel_index(int(spectrum.argmax()), spectrum.shape) == index
    assert float(spectrum[index]) == pytest.approx(float(spectrum.square().sum().sqrt()), rel=1e-9)
    assert torch.broadcast_shapes(*(axis.shape for axis in axes)) == spectrum.shape


@pytest.mark.parametrize("shape", [(12, 10, 14), (11, 9, 13)])
def test_spherical_mean_is_the_mean_of_the_ball(shape):
    image = torch.randn(shape, dtype=torch.float64)
    kernel = spherical_mean_kernel(shape, voxel_size=VOXEL, radius=3.2, dtype=torch.float64)
    mean = torch.fft.irfftn(torch.fft.rfftn(image) * kernel, s=shape)
    centre = (5, 4, 6)
    offsets = np.meshgrid(
        *((np.arange(n) - c) * edge for n, c, edge in zip(shape, centre, VOXEL, strict=True)), indexing="ij"
    )
    ball = torch.from_numpy(sum(offset**2 for offset in offsets) <= 3.2**2)
    assert float(mean[centre]) == pytest.approx(float(image[ball].mean()), abs=1e-12)
    assert float(kernel[0, 0, 0]) == pytest.approx(1)
    torch.testing.assert_close(mean.mean(), image.mean())


@pytest.mark.parametrize("shape", [(6, 5, 8), (5, 6, 7), (1, 4, 2)])
@pytest.mark.parametrize("radius", [0.5, 3.0, 5.0])
def test_a_spherical_mean_wider_than_the_grid_takes_each_voxel_once(shape, radius):
    distances = np.meshgrid(
        *(np.fft.fftfreq(n, d=1 / n) * edge for n, edge in zip(shape, VOXEL, strict=True)), indexing="ij"
    )
    ball = sum(distance**2 for distance in distances) <= radius**2
    kernel = spherical_mean_kernel(shape, voxel_size=VOXEL, radius=radius, dtype=torch.float64)
    np.testing.assert_allclose(kernel, np.fft.rfftn(ball / ball.sum()).real, atol=1e-12)


def test_gradient_of_a_ramp_is_its_slope_in_mm():
    slopes = (2.0, -3.0, 0.5)
    grid = torch.meshgrid(
        *(torch.arange(n) * edge for n, edge in zip((4, 5, 6), VOXEL, strict=True)), indexing="ij"
    )
    image = sum(slope * axis for slope, axis in zip(slopes, grid, strict=True))
    found = gradient(image, voxel_size=VOXEL)
    for axis, slope in enumerate(slopes):
        size = image.shape[axis]
        torch.testing.assert_close(
            found[axis].narrow(axis, 0, size - 1), torch.full_like(image, slope).narrow(axis, 0, size - 1)
        )
        assert not found[axis].select(axis, size - 1).any()


def test_given_memory_is_used_whatever_it_held():
    image, field = torch.randn(4, 5, 6), torch.randn(3, 4, 5, 6)
    held, held_adjoint = torch.full((3, 4, 5, 6), 7.0), torch.full((4, 5, 6), 7.0)
    assert gradient(image, voxel_size=VOXEL, out=held) is held
    torch.testing.assert_close(held, gradient(image, voxel_size=VOXEL))
    assert gradient_adjoint(field, voxel_size=VOXEL, out=held_adjoint) is held_adjoint
    torch.testing.assert_close(held_adjoint, gradient_adjoint(field, voxel_size=VOXEL))


def test_divergence_is_the_adjoint_of_the_gradient():
    image, field = torch.randn(5, 6, 7).double(), torch.randn(3, 5, 6, 7).double()
    left = (gradient(image, voxel_size=VOXEL) * field).sum()
    right = (image * gradient_adjoint(field, voxel_size=VOXEL)).sum()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
