"""The dipole against the fields of a sphere and a cylinder, and every operator against its adjoint."""

import numpy as np
import pytest
import torch

from qsmflow.core.dipole import DipoleConvolution, b0_direction, dipole_field, dipole_kernel
from qsmflow.core.fourier import gradient, gradient_adjoint

DIRECTIONS = [(0, 0, 1), (1, 0, 0), (0.6, 0, 0.8), (0.3, -0.5, 0.8)]
VOXELS = [(1, 1, 1), (1, 1.3, 0.8)]


def centred(shape, voxel_size):
    """Distances in mm from the centre of a grid, one broadcastable array an axis."""
    axes = [(np.arange(size) - size // 2) * edge for size, edge in zip(shape, voxel_size, strict=True)]
    return np.meshgrid(*axes, indexing="ij", sparse=True)


def occupancy(shape, voxel_size, inside, parts=5):
    """Fraction of each voxel that lies inside, from a grid of sub-voxel points."""
    offsets = (np.arange(parts) - (parts - 1) / 2) / parts
    total = np.zeros(shape)
    for shift in np.stack(np.meshgrid(offsets, offsets, offsets), -1).reshape(-1, 3):
        point = [x + d * v for x, d, v in zip(centred(shape, voxel_size), shift, voxel_size, strict=True)]
        total += inside(*point)
    return torch.as_tensor(total / parts**3)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("voxel_size", VOXELS)
def test_sphere(direction, voxel_size):
    """Outside, χ/3 (a/r)³ (3cos²θ − 1) to 1 % of its peak and 1.2 % of its size; inside, none."""
    shape, radius = (48, 48, 48), 7.0
    unit = np.array(direction) / np.linalg.norm(direction)
    chi = occupancy(shape, voxel_size, lambda x, y, z: x**2 + y**2 + z**2 <= radius**2)
    field = dipole_field(chi, voxel_size=voxel_size, b0_direction=direction, padding=shape).numpy()
    x, y, z = centred(shape, voxel_size)
    distance = np.sqrt(x**2 + y**2 + z**2)
    cosine = (unit[0] * x + unit[1] * y + unit[2] * z) / np.maximum(distance, 1e-9)
    truth = (radius / np.maximum(distance, radius)) ** 3 / 3 * (3 * cosine**2 - 1)
    shell = (distance > radius + 2) & (distance < 15)
    assert np.abs(field - truth)[shell].max() < 0.01 * 2 / 3
    assert np.sqrt(np.mean((field - truth)[shell] ** 2)) < 0.012 * np.sqrt(np.mean(truth[shell] ** 2))
    assert np.abs(field[distance < radius - 2]).max() < 0.01


@pytest.mark.parametrize("tilt", [0, 30, 54.7356, 90])
@pytest.mark.parametrize("voxel_size", VOXELS)
def test_infinite_cylinder(tilt, voxel_size):
    """No padding along its axis makes a cylinder infinite; 1 % of the field's largest value, in and out."""
    shape, radius, angle = (64, 64, 8), 7.0, np.deg2rad(tilt)
    direction = (np.sin(angle) * 0.6, np.sin(angle) * 0.8, np.cos(angle))
    chi = occupancy(shape, voxel_size, lambda x, y, z: (x**2 + y**2 <= radius**2) & np.isfinite(z))
    field = dipole_field(chi, voxel_size=voxel_size, b0_direction=direction, padding=(192, 192, 0)).numpy()
    x, y, _ = centred(shape, voxel_size)
    distance = np.sqrt(x**2 + y**2)
    azimuth = np.arctan2(y, x) - np.arctan2(0.8, 0.6)
    outer = np.sin(angle) ** 2 / 2 * (radius / np.maximum(distance, radius)) ** 2 * np.cos(2 * azimuth)
    inner = (3 * np.cos(angle) ** 2 - 1) / 6
    shell = ((distance > radius + 2) & (distance < 20))[..., 0]
    core = (distance < radius - 2)[..., 0]
    assert np.abs(field - outer)[shell].max() < 0.01 * 0.5
    assert np.abs(field - inner)[core].max() < 0.01 * 0.5


def test_kernel_is_traceless_and_bounded():
    """D lies in [−2/3, 1/3]; at the centre of the dipole there is no field."""
    kernel = dipole_kernel((16, 16, 16), voxel_size=(1, 1, 1), b0_direction=(0, 0, 1), dtype=torch.float64)
    assert kernel.min() == pytest.approx(-2 / 3) and kernel.max() == pytest.approx(1 / 3)
    impulse = torch.fft.irfftn(kernel, s=(16, 16, 16))
    assert abs(impulse[0, 0, 0]) < 1e-3


def test_direction_from_an_oblique_affine():
    """A slab turned by 30° about x sees B0 between its second and third axis."""
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1, 1, 2])
    assert b0_direction(affine) == pytest.approx((0, s, c))
    affine[:3, 0] *= -1
    assert b0_direction(affine) == pytest.approx((0, s, c))


@pytest.mark.parametrize(
    "affine", [np.diag([1, 0, 1, 1]), [[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]]
)
def test_degenerate_affine(affine):
    """An axis without length and a sheared grid are refused."""
    with pytest.raises(ValueError, match="ax"):
        b0_direction(affine)


def operators(direction, voxel_size):
    """Pairs (A, Aᴴ, input shape, output shape) on small grids of odd and even size."""
    shape = (9, 8, 7)
    space = {"voxel_size": voxel_size, "b0_direction": direction}
    dipole = DipoleConvolution(shape, **space, dtype=torch.float64)
    within = {"voxel_size": voxel_size}
    return {
        "dipole": (dipole, dipole.adjoint, shape, shape),
        "gradient": (
            lambda x: gradient(x, **within),
            lambda y: gradient_adjoint(y, **within),
            shape,
            (3, *shape),
        ),
    }


@pytest.mark.parametrize("name", ["dipole", "gradient"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("voxel_size", VOXELS)
def test_adjoint(name, direction, voxel_size):
    """⟨Ax, y⟩ = ⟨x, Aᴴy⟩ to rounding."""
    forward, adjoint, domain, image = operators(direction, voxel_size)[name]
    x, y = torch.randn(domain, dtype=torch.float64), torch.randn(image, dtype=torch.float64)
    left, right = (forward(x) * y).sum(), (x * adjoint(y)).sum()
    assert left == pytest.approx(float(right), rel=1e-10, abs=1e-10 * float(x.norm() * y.norm()))
