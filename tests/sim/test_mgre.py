import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from qsmflow.core.dipole import b0_direction, dipole_field
from qsmflow.core.motion import MotionProfile, RigidPose, acquisition_times, draw_motion, move_echoes
from qsmflow.core.units import hertz_per_ppm
from qsmflow.sim.coils import Shim
from qsmflow.sim.grids import oblique_affine, voxel_centers, voxel_edges
from qsmflow.sim.head import Head, build_head
from qsmflow.sim.mgre import MOTION_MODELS, MgreProtocol, simulate_mgre, simulate_series, steady_state

MOVED = MotionProfile((0.0, 0.3), (RigidPose((4, -3, 2), (3, -2, 4)), RigidPose()))


def eroded(mask: torch.Tensor, iterations: int) -> torch.Tensor:
    return torch.as_tensor(binary_erosion(mask.numpy(), iterations=iterations))


def ball_head(subject, *, shape, affine, maps=(), field_strength=3.0, device=None) -> Head:
    """A head that is quickly drawn: a ball of brain in fat, a nucleus, and an air space under it."""
    points, edge = voxel_centers(shape, affine), max(voxel_edges(affine))

    def inside(middle, radius):
        distance = (points - torch.tensor(middle)[:, None, None, None]).norm(dim=0) - radius
        return (0.5 - distance / edge).clamp(0, 1)

    head, brain = inside((0.0, -18, 5), 80), inside((0.0, -18, 5), 65)
    nucleus, sinus = inside((25.0, -10, 10), 14), inside((5.0, 40, -50), 16)
    texture = 0.02 * torch.sin(points / 9).prod(dim=0)
    tissue = head * (1 - sinus)
    return Head(
        susceptibility=9.4 * (1 - tissue) + tissue * (texture + 0.2 * nucleus),
        r2star=20 + 15 * nucleus + 200 * texture,
        proton_density=tissue,
        t1=1.2 - 0.3 * nucleus,
        chemical_shift=-3.4 * (head - brain),
        brain=brain,
        labels=None,
        affine=affine,
    )


BALL = SimpleNamespace(tissues={"air": SimpleNamespace(susceptibility=9.4)})


@pytest.fixture
def scan_ball(monkeypatch):
    """Scan the ball."""
    monkeypatch.setattr("qsmflow.sim.mgre.build_head", ball_head)

    def scan(protocol, **settings):
        return simulate_mgre(protocol, subject=BALL, **{"seed": 1, **settings})

    return scan


@pytest.fixture
def small(protocol) -> MgreProtocol:
    """Seven-millimetre voxels."""
    shape = (26, 30, 24)
    affine = oblique_affine(shape, voxel_size=(7, 7, 7), rotation=(-15, 12, 0), center=(0, -18, 5))
    return dataclasses.replace(protocol, shape=shape, affine=affine)


@pytest.fixture
def still(small, scan_ball):
    return scan_ball(small)


@pytest.mark.parametrize(("supersampling", "share"), [(1, 0.985), (2, 0.95)])
def test_forward_model_from_outside_reproduces_the_echoes(protocol, scan_ball, supersampling, share):
    """The equations of the scan, written anew, on the truth: what is left is noise."""
    times = (0.004, 0.014, 0.024)
    chosen = dataclasses.replace(protocol, echo_times=times, snr=100.0, supersampling=supersampling)
    scan = scan_ball(chosen)
    maps = ("magnitude", "r2star", "total_field", "phase_offset", "field_steps")
    magnitude, r2star, field, offset, steps = (getattr(scan, name).numpy() for name in maps)
    inner = binary_erosion(scan.mask.numpy())
    for echo, time in zip(scan.signal.numpy(), times, strict=True):
        model = magnitude * np.exp(-time * r2star) * np.exp(1j * (offset + 2 * np.pi * field * time))
        residual = np.abs(echo - model * np.sinc(steps * time).prod(axis=0))[inner] / scan.noise
        # Of complex noise, 98.9 % lie within three standard deviations.
        assert (residual < 3).mean() > share
        if supersampling == 1:
            assert (residual**2).mean() / 2 == pytest.approx(1, abs=0.05)


def test_phase_grows_with_the_field(scan):
    """Echo to echo the phase turns by 2π·f·ΔTE."""
    inner = eroded(scan.mask, 2)
    turned = (scan.signal[1] * scan.signal[0].conj()).angle()[inner]
    assert torch.allclose(turned, 2 * np.pi * 0.001 * scan.total_field[inner], atol=1e-3)


def test_local_field_is_that_of_the_susceptibility_in_the_mask(scan, protocol):
    inner = torch.where(scan.mask, scan.susceptibility - scan.susceptibility[scan.mask].mean(), 0.0)
    expected = hertz_per_ppm(3.0) * dipole_field(
        inner, voxel_size=(5, 5, 5), b0_direction=b0_direction(protocol.affine), padding=inner.shape
    )
    error = (scan.local_field - expected)[scan.mask]
    assert float(error.norm() / expected[scan.mask].norm()) < 0.05


def test_b0_comes_from_the_affine(small, still, scan_ball):
    """The same voxels counted in another order see the same field: B0 follows the affine's axes."""
    order = (2, 0, 1)
    affine = small.affine.copy()
    affine[:3, :3] = small.affine[:3, order]
    turned = dataclasses.replace(small, shape=tuple(small.shape[i] for i in order), affine=affine)
    again = scan_ball(turned)
    for name in ("local_field", "total_field"):
        first, second = getattr(still, name).permute(order), getattr(again, name)
        assert float((first - second)[again.mask].std()) < 0.02 * float(first[again.mask].std())


def test_background_has_no_source_in_the_brain(protocol, scan_ball):
    """Total less local field is harmonic inside: its Laplacian vanishes where the local field's does not."""

    def laplacian(field):
        return sum(torch.roll(field, step, axis) for axis in range(3) for step in (-1, 1)) - 6 * field

    scan = scan_ball(dataclasses.replace(protocol, supersampling=2))
    inner = eroded(scan.mask, 4)
    background = laplacian(scan.total_field - scan.local_field)[inner]
    assert float(background.norm() / laplacian(scan.local_field)[inner].norm()) < 0.08


def test_field_near_the_sinuses_reaches_hundreds_of_hertz(scan):
    assert 100 < float(scan.total_field[scan.mask].abs().max()) < 1500
    assert 0.3 < float(scan.local_field[scan.mask].std()) < 4


def test_fat_turns_slower(scan, protocol, subject):
    head = build_head(subject, shape=protocol.shape, affine=protocol.affine)
    fat = head.chemical_shift < -3
    shift = float(scan.total_field[fat].median() - scan.total_field[scan.mask].median())
    assert shift == pytest.approx(3.4 * -hertz_per_ppm(3.0), rel=0.3)


def test_shim_leaves_what_coils_cannot_make():
    centers = voxel_centers((9, 9, 9), oblique_affine((9, 9, 9), voxel_size=(10, 10, 10)))
    x, y, z = centers
    mask = (centers**2).sum(0) < 40**2
    cubic = z**3 - 1.5 * z * (x**2 + y**2)
    coils = 3 + 0.2 * x - 0.1 * z + 0.01 * x * y + 0.02 * (2 * z**2 - x**2 - y**2)

    def shimmed(field):
        return field - Shim.fitted(field, centers=centers, mask=mask)(centers)

    assert torch.allclose(shimmed(coils + cubic), shimmed(cubic), atol=0.05)
    assert abs(float(shimmed(coils + cubic)[mask].mean())) < 1e-2


def test_noise_has_the_given_level(small, still, scan_ball):
    noisy = scan_ball(dataclasses.replace(small, snr=40.0))
    error = noisy.signal - still.signal
    assert noisy.noise == pytest.approx(float(still.signal[0][still.mask].abs().mean()) / 40, rel=1e-3)
    for part in (error.real, error.imag):
        assert float(part.std()) == pytest.approx(noisy.noise, rel=0.01)
    assert abs(np.corrcoef(error.real.flatten(), error.imag.flatten())[0, 1]) < 0.02


def test_zeros_fill_what_was_not_acquired(small, still, scan_ball):
    part = dataclasses.replace(small, snr=40.0, acquired_share=(1.0, 0.75, 0.5))
    scan = scan_ball(part)
    spectrum = torch.fft.fftn(scan.signal, dim=(1, 2, 3)).abs()
    acquired = (spectrum > scan.noise).any(dim=0)
    assert acquired.sum() == 26 * 22 * 12
    outer = torch.fft.fftfreq(24, d=1 / 24).abs() > 6
    assert not acquired[..., outer].any()
    # In the image, noise is what was asked for, however much of k-space it comes from.
    clean = scan_ball(dataclasses.replace(part, snr=1e6))
    error = scan.signal - clean.signal
    assert float(error.real.std()) == pytest.approx(scan.noise, rel=0.02)


def test_bipolar_echoes_alternate_along_the_readout(small, still, scan_ball):
    bipolar = dataclasses.replace(small, readout="bipolar", readout_axis=1, readout_phase=(0.3, 0.8))
    scan = scan_ball(bipolar)
    turned = (scan.signal * still.signal.conj()).angle()[:, still.mask]
    position = ((torch.arange(30) - 14.5) / 30)[None, :, None].expand(26, 30, 24)[still.mask]
    expected = 0.3 + 0.8 * position
    for echo, sign in zip(turned, (1, -1, 1), strict=True):
        assert torch.allclose(echo, sign * expected, atol=1e-3)


def test_same_seed_same_bytes_other_seed_other_coils(small, still, scan_ball):
    again = scan_ball(small)
    assert torch.equal(again.signal, still.signal)
    other = scan_ball(small, seed=2)
    assert torch.equal(other.susceptibility, still.susceptibility)
    correlation = np.corrcoef(other.phase_offset[still.mask], still.phase_offset[still.mask])[0, 1]
    assert abs(correlation) < 0.9


def test_moved_signal_is_made_of_moved_echoes(small, still, scan_ball):
    scan = scan_ball(small, motion=MOVED, motion_model="signal")
    expected = move_echoes(
        still.signal, profile=MOVED, voxel_size=(7, 7, 7), times=acquisition_times(small.shape)
    )
    assert float((scan.signal - expected).abs().max() / expected.abs().max()) < 1e-3
    for name in ("susceptibility", "total_field", "r2star", "magnitude"):
        assert torch.equal(getattr(scan, name), getattr(still, name))


def test_a_series_is_what_single_scans_are(small, scan_ball):
    """Whatever comes first: no scan leaves a trace in the still echoes that the next one starts from."""
    motions, seeds = [MOVED, None, MotionProfile((0.0,), (RigidPose(),))], [3, 4, 5]
    bipolar = dataclasses.replace(small, readout="bipolar")
    series = list(simulate_series(bipolar, subject=BALL, motions=motions, seeds=seeds, coil_seed=1))
    assert len(series) == 3
    for scan, motion, seed in zip(series, motions, seeds, strict=True):
        alone = scan_ball(bipolar, motion=motion, seed=seed, coil_seed=1)
        assert torch.equal(scan.signal, alone.signal) and torch.equal(scan.mask, alone.mask)


@pytest.mark.parametrize(
    ("model", "pose", "moved_image"),
    [
        *(
            (model, RigidPose((7, 0, 0)), lambda image: torch.roll(image, 1, dims=-3))
            for model in MOTION_MODELS
        ),
        ("field", RigidPose((0, 0, 0), (0, 0, 90)), lambda image: torch.rot90(image, dims=(-3, -2))),
    ],
)
def test_head_lies_where_the_pose_puts_it(model, pose, moved_image, small, scan_ball):
    """Moved by a whole voxel, or by a right angle about B0, the still image has moved just so."""
    shape = (30, 30, 24)
    affine = oblique_affine(shape, voxel_size=(7, 7, 7), center=(0, -18, 5))
    even = {"receive_bias": 0.0, "transmit_bias": 0.0, "phase_offset": 0.0}
    alike = dataclasses.replace(small, shape=shape, affine=affine, **even)
    still = scan_ball(alike)
    moved = scan_ball(alike, motion=MotionProfile((0.0,), (pose,)), motion_model=model)
    expected, inner = moved_image(still.signal), eroded(moved_image(still.mask), 1)
    difference = (moved.signal.abs() - expected.abs())[:, inner]
    assert float(difference.norm() / expected[:, inner].norm()) < 0.02
    # Where the head moves, the shim stays behind, so the phase does not quite come along.
    assert float((moved.signal / expected).angle()[0, inner].abs().median()) < 0.2


def test_artefacts_grow_with_motion(small, still, scan_ball):
    errors = []
    for size in (1.0, 3.0, 9.0):
        profile = draw_motion(torch.Generator().manual_seed(2), translation=size, rotation=size)
        scan = scan_ball(small, motion=profile)
        errors.append(float((scan.signal - still.signal).norm()))
    assert errors[0] < 0.6 * errors[1] < 0.6 * errors[2]


def test_fine_voxels_come_near_a_millimetre(small):
    def factors(*voxel_size):
        affine = oblique_affine(small.shape, voxel_size=voxel_size)
        return dataclasses.replace(small, affine=affine, supersampling=None).fine_factors

    assert factors(0.4688, 0.4688, 3) == (1, 1, 3)
    assert factors(1.5, 1.5, 3) == (1, 1, 3)
    assert factors(2, 2.7, 5) == (2, 3, 5)
    assert dataclasses.replace(small, supersampling=(1, 2, 3)).fine_factors == (1, 2, 3)
    assert dataclasses.replace(small, supersampling=2).fine_factors == (2, 2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"echo_times": ()}, "echo times"),
        ({"echo_times": (0.01, 0.005)}, "increase"),
        ({"echo_times": (0.01, 0.05)}, "repetition time"),
        ({"readout": "tripolar"}, "monopolar, bipolar"),
        ({"acquired_share": (1, 1, 0)}, "acquired shares"),
        ({"snr": 0.0}, "SNR"),
    ],
)
def test_impossible_protocols_are_refused(small, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(small, **changes)


def test_steady_state_peaks_at_the_ernst_angle():
    ernst = np.rad2deg(np.arccos(np.exp(-0.04 / 1.2)))
    signals = [
        float(
            steady_state(torch.tensor(1.0), torch.tensor(1.2), repetition_time=0.04, flip_angle=ernst + shift)
        )
        for shift in (-2, 0, 2)
    ]
    assert signals[1] > max(signals[0], signals[2])
