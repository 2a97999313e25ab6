import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from qsmflow.core.dipole import b0_direction, dipole_field
from qsmflow.core.units import hertz_per_ppm
from qsmflow.sim.grids import enlarged, oblique_affine, voxel_centers
from qsmflow.sim.head import HEAD_BOX, build_head
from qsmflow.sim.mgre import (
    PHASE_SCALINGS,
    MgreProtocol,
    _head_field,
    _NearGrid,
    shim_field,
    simulate_mgre,
    steady_state,
)


def eroded(mask: torch.Tensor, iterations: int) -> torch.Tensor:
    return torch.as_tensor(binary_erosion(mask.numpy(), iterations=iterations))


def test_phase_grows_with_the_field(scan, protocol):
    """Echo to echo the phase turns by 2π·f·ΔTE; without a steep field in the voxel, exactly."""
    inner = eroded(scan.mask, 2)
    turned = (scan.signal[1] * scan.signal[0].conj()).angle()[inner]
    expected = 2 * np.pi * 0.001 * scan.total_field[inner]
    assert float((turned - expected).abs().median()) < 2e-3
    assert np.corrcoef(turned, expected)[0, 1] > 0.99


def test_phase_starts_at_the_coils(scan):
    inner = eroded(scan.mask, 2)
    at_zero = scan.signal[0] * torch.polar(
        torch.ones_like(scan.total_field), -2 * np.pi * 0.002 * scan.total_field
    )
    difference = (at_zero * torch.exp(-1j * scan.phase_offset)).angle()
    assert float(difference[inner].abs().median()) < 5e-3


def test_magnitude_decays_with_r2star(scan, protocol):
    """The decay is the truth's R2*, and faster by what the field's steepness adds."""
    inner = eroded(scan.mask, 4)
    decay = (scan.signal[0].abs() / scan.signal[2].abs()).log()[inner] / 0.002
    excess = decay - scan.r2star[inner]
    assert abs(float(excess.median())) < 0.5
    start = scan.signal[0].abs()[inner] * torch.exp(0.002 * scan.r2star[inner])
    assert float((start / scan.magnitude[inner]).median()) == pytest.approx(1, abs=5e-3)


def test_iron_raises_the_field_along_b0(scan, protocol):
    """The local field is the dipole field of the susceptibility in the mask, whatever made it."""
    inner = torch.where(scan.mask, scan.susceptibility - scan.susceptibility[scan.mask].mean(), 0.0)
    expected = hertz_per_ppm(3.0) * dipole_field(
        inner, voxel_size=(5, 5, 5), b0_direction=b0_direction(protocol.affine), padding=inner.shape
    )
    # What is finer than these voxels keeps the two apart: the truth's field is made before averaging.
    inside = eroded(scan.mask, 3)
    error = (scan.local_field - expected)[inside]
    assert float(error.norm() / expected[inside].norm()) < 0.25
    assert np.corrcoef(scan.local_field[inside], expected[inside])[0, 1] > 0.97


def test_b0_comes_from_the_affine(scan, protocol):
    """The same voxels counted in another order see the same field: B0 follows the affine's axes."""
    order = (2, 0, 1)
    affine = protocol.affine.copy()
    affine[:3, :3] = protocol.affine[:3, order]
    turned = dataclasses.replace(protocol, shape=tuple(protocol.shape[i] for i in order), affine=affine)
    again = simulate_mgre(turned, seed=1)
    for name in ("local_field", "total_field"):
        first, second = getattr(scan, name).permute(order), getattr(again, name)
        assert float((first - second)[again.mask].abs().max()) < 0.02 * float(first[again.mask].std())


def test_background_has_no_source_in_the_brain(scan):
    """Total less local field is harmonic inside: its Laplacian vanishes where the local field's does not."""

    def laplacian(field):
        return sum(torch.roll(field, step, axis) for axis in range(3) for step in (-1, 1)) - 6 * field

    inner = eroded(scan.mask, 5)
    background = laplacian(scan.total_field - scan.local_field)[inner]
    assert float(background.norm() / laplacian(scan.local_field)[inner].norm()) < 0.06


def test_near_and_far_sources_add_up_to_the_whole_head():
    """The field made on a fine near and a coarse far grid is that of one grid over head and neck."""
    shape = (28, 32, 26)
    affine = oblique_affine(shape, voxel_size=(6, 6, 6), center=(0, -18, 2))
    protocol = MgreProtocol(shape=shape, affine=affine, echo_times=(0.004,), supersampling=1)
    near = _NearGrid.around(protocol)
    field = near.crop(_head_field(build_head(shape=near.shape, affine=near.affine, seed=1), near, seed=1))

    whole_shape, whole_affine = enlarged(shape, affine, before=(8, 8, 22), after=(8, 8, 8))
    assert np.all(whole_affine[:3, 3] < HEAD_BOX[0])
    whole = build_head(shape=whole_shape, affine=whole_affine, seed=1)
    expected = dipole_field(
        whole.susceptibility - 9.4, voxel_size=(6, 6, 6), b0_direction=(0, 0, 1), padding=whole_shape
    )[8:-8, 8:-8, 22:-8]
    mask = whole.brain[8:-8, 8:-8, 22:-8] > 0.5
    # Copies of the head, which the transform repeats, differ by what the shim takes away anyway.
    centers = voxel_centers(shape, affine)
    shimmed = [(image - shim_field(image, centers=centers, mask=mask))[mask] for image in (field, expected)]
    difference, expected = shimmed[0] - shimmed[1], shimmed[1]
    assert float(difference.std() / expected.std()) < 0.02


def test_field_near_the_sinuses_reaches_hundreds_of_hertz(scan):
    assert 100 < float(scan.total_field[scan.mask].abs().max()) < 1000
    assert 0.3 < float(scan.local_field[scan.mask].std()) < 3


def test_shim_leaves_what_coils_cannot_make():
    centers = voxel_centers((9, 9, 9), oblique_affine((9, 9, 9), voxel_size=(10, 10, 10)))
    x, y, z = centers
    mask = (centers**2).sum(0) < 40**2
    cubic = z**3 - 1.5 * z * (x**2 + y**2)
    coils = 3 + 0.2 * x - 0.1 * z + 0.01 * x * y + 0.02 * (2 * z**2 - x**2 - y**2)
    shimmed = coils + cubic - shim_field(coils + cubic, centers=centers, mask=mask)
    assert torch.allclose(shimmed, cubic - shim_field(cubic, centers=centers, mask=mask), atol=0.05)
    assert abs(float(shimmed[mask].mean())) < 1e-2


def test_noise_has_the_given_level(protocol, scan):
    noisy = simulate_mgre(dataclasses.replace(protocol, snr=40.0), seed=1)
    error = noisy.signal - scan.signal
    assert noisy.noise == pytest.approx(float(scan.signal[0][scan.mask].abs().mean()) / 40, rel=1e-3)
    for part in (error.real, error.imag):
        assert float(part.std()) == pytest.approx(noisy.noise, rel=0.01)
    assert abs(np.corrcoef(error.real.flatten(), error.imag.flatten())[0, 1]) < 0.02


def test_steady_state_peaks_at_the_ernst_angle(protocol):
    t1 = torch.tensor(1.2)
    ernst = np.rad2deg(np.arccos(np.exp(-protocol.repetition_time / 1.2)))
    signals = [
        float(steady_state(torch.tensor(1.0), t1, dataclasses.replace(protocol, flip_angle=ernst + shift)))
        for shift in (-2, 0, 2)
    ]
    assert signals[1] > max(signals[0], signals[2])


@pytest.mark.parametrize(
    ("name", "step"), [("radian", 1e-6), ("unsigned", np.pi / 4096), ("signed", np.pi / 8192)]
)
def test_phase_scaling_comes_back(name, step):
    scaling = PHASE_SCALINGS[name]
    phase = np.linspace(-np.pi, np.pi, 20001)
    stored = scaling.encode(phase)
    error = np.angle(np.exp(1j * (scaling.decode(stored) - phase)))
    assert np.abs(error).max() <= step * 1.001
    assert stored.min() >= scaling.lower - 1e-6 and stored.max() <= scaling.upper
    if name != "radian":
        assert (stored.min(), stored.max()) == (scaling.lower, scaling.upper - 1)
        assert stored.dtype == np.int16
