"""Moved images against analytic ones, lines of k-space against the states they come from."""

from math import pi

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from qsmflow.core.dipole import dipole_field
from qsmflow.core.motion import (
    ORDERS,
    MotionProfile,
    RigidPose,
    acquisition_times,
    draw_motion,
    gradient_echoes,
    mix_states,
    move_echoes,
    move_image,
    move_sources,
    scanner_matrix,
)
from qsmflow.core.units import hertz_per_ppm

SOME_POSE = RigidPose(translation=(1.3, -2.2, 0.7), rotation=(5.0, -4.0, 3.0))

#: Centre and standard deviations in mm, and height, of Gaussian blobs that the grids below resolve.
BLOBS = (
    ((4, -3, 2), (2.6, 3.0, 4.5), 1.0),
    ((-5, 3, -2), (3.2, 2.8, 4.8), 0.7),
    ((0, 1, 0), (2.8, 2.6, 4.6), -0.4),
)


def centred(shape, voxel_size) -> Tensor:
    """(3, x, y, z), mm from the centre of the grid."""
    axes = [(torch.arange(n).double() - (n - 1) / 2) * e for n, e in zip(shape, voxel_size, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def blobs(shape, voxel_size, pose: RigidPose | None = None) -> Tensor:
    """Blobs that have moved, drawn at the points where their content was before."""
    points = centred(shape, voxel_size)
    matrix = torch.from_numpy(np.linalg.inv((pose or RigidPose()).matrix))
    points = torch.einsum("ij,jxyz->ixyz", matrix[:3, :3], points) + matrix[:3, 3].reshape(3, 1, 1, 1)
    image = torch.zeros(tuple(shape), dtype=torch.float64)
    for centre, widths, height in BLOBS:
        terms = zip(points, centre, widths, strict=True)
        image += height * torch.exp(-sum(((p - c) / w) ** 2 for p, c, w in terms) / 2)
    return image


def relative_error(value: Tensor, truth: Tensor) -> float:
    return float((value - truth).norm() / truth.norm())


def trilinear(image: Tensor, pose: RigidPose) -> Tensor:
    """What linear interpolation makes of a pose, on voxels of 1 mm."""
    half = np.diag([*(np.array(image.shape) / 2), 1.0])
    matrix = np.linalg.solve(half, np.linalg.solve(pose.matrix, half))[:3]
    theta = torch.from_numpy(matrix[::-1][:, [2, 1, 0, 3]].copy())[None]
    grid = functional.affine_grid(theta, (1, 1, *image.shape), align_corners=False)
    return functional.grid_sample(image[None, None], grid, align_corners=False)[0, 0]


class TestRigidPose:
    def test_rotations_are_right_handed_about_x_then_y_then_z(self):
        cos, sin = np.cos(np.deg2rad([10, 20, 30])), np.sin(np.deg2rad([10, 20, 30]))
        about_x = np.array([[1, 0, 0], [0, cos[0], -sin[0]], [0, sin[0], cos[0]]])
        about_y = np.array([[cos[1], 0, sin[1]], [0, 1, 0], [-sin[1], 0, cos[1]]])
        about_z = np.array([[cos[2], -sin[2], 0], [sin[2], cos[2], 0], [0, 0, 1]])
        matrix = RigidPose(translation=(1, 2, 3), rotation=(10, 20, 30)).matrix
        np.testing.assert_allclose(matrix[:3, :3], about_z @ about_y @ about_x, atol=1e-15)
        np.testing.assert_array_equal(matrix[:3, 3], (1, 2, 3))

    def test_composition_and_inverse_are_those_of_the_matrices(self):
        other = RigidPose(translation=(-4, 0.5, 2), rotation=(-30, 12, 50))
        np.testing.assert_allclose((SOME_POSE @ other).matrix, SOME_POSE.matrix @ other.matrix, atol=1e-13)
        np.testing.assert_allclose(other.inverse().matrix @ other.matrix, np.eye(4), atol=1e-13)

    def test_in_the_scanner_an_oblique_grid_moves_its_voxels(self):
        axes = RigidPose(rotation=(20, -10, 35)).matrix
        affine = axes @ np.diag([-0.5, 1.0, 3.0, 1.0])
        affine[:3, 3] = (7, -20, 11)
        shape = (12, 9, 6)
        matrix = scanner_matrix(SOME_POSE, shape=shape, affine=affine)
        voxel = np.array([2.0, 7.0, 5.0])
        from_centre = (voxel - (np.array(shape) - 1) / 2) * (0.5, 1.0, 3.0)
        moved = (SOME_POSE.matrix @ [*from_centre, 1])[:3] / (0.5, 1.0, 3.0) + (np.array(shape) - 1) / 2
        np.testing.assert_allclose(matrix @ affine @ [*voxel, 1], affine @ [*moved, 1], atol=1e-12)


class TestDrawMotion:
    def test_stays_in_the_limits_and_uses_them(self):
        drawn = [
            draw_motion(torch.Generator().manual_seed(seed), translation=2, rotation=7, reference="start")
            for seed in range(200)
        ]
        assert {len(profile.poses) for profile in drawn} == {3, 4}
        assert all(profile.poses[0] == RigidPose() for profile in drawn)
        moved = np.array([pose.translation + pose.rotation for p in drawn for pose in p.poses[1:]])
        largest = np.abs(moved).max(axis=0)
        assert (largest <= (2, 2, 2, 7, 7, 7)).all()
        assert (largest > 0.98 * np.array((2, 2, 2, 7, 7, 7))).all()
        assert np.abs(moved.mean(axis=0) / (2, 2, 2, 7, 7, 7)).max() < 0.1

    @pytest.mark.parametrize("centre_time", [0.0, 0.5, 0.9])
    def test_references_see_the_same_motion(self, centre_time):
        for seed in range(5):
            start = draw_motion(torch.Generator().manual_seed(seed), reference="start")
            centre = draw_motion(torch.Generator().manual_seed(seed), centre_time=centre_time)
            assert centre.onsets == start.onsets
            in_centre = np.searchsorted(start.onsets, centre_time, side="right") - 1
            assert centre.poses[in_centre] == RigidPose()
            for one, other in zip(centre.poses, start.poses, strict=True):
                back = np.linalg.inv(start.poses[in_centre].matrix)
                np.testing.assert_allclose(one.matrix, other.matrix @ back, atol=1e-13)

    def test_the_number_of_events_can_be_set(self):
        assert len(draw_motion(torch.Generator().manual_seed(0), events=(7, 7)).poses) == 8

    def test_without_limits_nothing_moves(self):
        still = draw_motion(torch.Generator().manual_seed(0), translation=0, rotation=0)
        assert all(np.allclose(pose.matrix, np.eye(4), atol=1e-15) for pose in still.poses)


@pytest.mark.parametrize("onsets", [(), (0.1, 0.5), (0.0, 0.5, 0.5), (0.0, 1.0), (0.0,)])
def test_profiles_out_of_order_are_refused(onsets):
    with pytest.raises(ValueError, match="onsets"):
        MotionProfile(onsets, (RigidPose(),) * 2 if onsets == (0.0,) else (RigidPose(),) * len(onsets))


class TestAcquisitionTimes:
    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("shape", [(8, 6, 4), (8, 5, 7)])
    def test_every_line_has_its_own_time(self, order, shape):
        times = acquisition_times(shape, order=order)
        assert times.shape == (1, *shape[1:])
        n_lines = shape[1] * shape[2]
        torch.testing.assert_close(times.flatten().sort().values, torch.arange(n_lines).double() / n_lines)

    def test_sequential_lines_run_from_edge_to_edge(self):
        times = torch.fft.fftshift(acquisition_times((4, 6, 8), readout_axis=1), dim=(0, 2))
        torch.testing.assert_close(times[:, 0].T.flatten(), torch.arange(32).double() / 32)

    def test_centric_lines_start_in_the_centre(self):
        order = acquisition_times((5, 1, 3), readout_axis=2, order="centric").flatten().argsort()
        assert order.tolist() == [0, 4, 1, 3, 2]

    def test_interleaved_lines_are_every_second_one(self):
        times = acquisition_times((6, 1, 3), readout_axis=2, order="interleaved").flatten()
        lines = torch.fft.fftfreq(6, d=1 / 6)[times.argsort()]
        assert lines.tolist() == [-2, 0, 2, -3, -1, 1]


class TestMoveImage:
    @pytest.mark.parametrize("shape", [(12, 10, 9), (9, 11, 14)])
    def test_a_band_limited_periodic_image_is_shifted_exactly(self, shape):
        voxel_size, shift = (0.5, 1.0, 3.0), (0.3, -2.7, 4.1)
        x, y, z = centred(shape, voxel_size)
        fov = [n * e for n, e in zip(shape, voxel_size, strict=True)]

        def waves(dx, dy, dz):
            first = 2 * pi * (3 * (x - dx) / fov[0] - 2 * (y - dy) / fov[1] + (z - dz) / fov[2])
            second = 2 * pi * ((x - dx) / fov[0] + 4 * (y - dy) / fov[1] - 3 * (z - dz) / fov[2])
            return torch.polar(torch.ones_like(x), first) + 0.5 * torch.cos(second + 0.3)

        moved = move_image(waves(0, 0, 0), RigidPose(translation=shift), voxel_size=voxel_size, periodic=True)
        torch.testing.assert_close(moved, waves(*shift), rtol=0, atol=1e-13)

    @pytest.mark.parametrize(
        "rotation", [(5, 0, 0), (0, -5, 0), (0, 0, 5), (5, -4, 3), (-3, 1e-7, 5), (0, 9, 20)]
    )
    @pytest.mark.parametrize(
        ("shape", "voxel_size"), [((44, 44, 56), (1, 1, 1)), ((92, 94, 24), (0.4688, 0.4688, 3.0))]
    )
    def test_a_moved_object_is_where_geometry_puts_it(self, rotation, shape, voxel_size):
        pose = RigidPose(translation=(1.3, -2.2, 0.7), rotation=rotation)
        moved = move_image(blobs(shape, voxel_size), pose, voxel_size=voxel_size)
        assert relative_error(moved, blobs(shape, voxel_size, pose)) < 1e-4

    def test_moving_back_gives_the_image_again(self):
        # An edge from voxel to voxel: all that linear interpolation would blur.
        image = ((centred((40, 40, 40), (1, 1, 1)) / 9).square().sum(dim=0) < 1).double()
        moved = move_image(image, SOME_POSE, voxel_size=(1, 1, 1))
        assert float(moved.norm() / image.norm()) == pytest.approx(1, abs=5e-4)
        assert float(trilinear(image, SOME_POSE).norm() / image.norm()) < 0.97
        back = move_image(moved, SOME_POSE.inverse(), voxel_size=(1, 1, 1))
        assert relative_error(back, image) < 0.025
        assert relative_error(trilinear(trilinear(image, SOME_POSE), SOME_POSE.inverse()), image) > 0.15

    def test_the_adjoint_is_the_inverse(self):
        image, other = blobs((40, 40, 52), (1, 1, 1)), blobs((40, 40, 52), (1, 1, 1), SOME_POSE)
        image.requires_grad_()
        inner = (move_image(image, SOME_POSE, voxel_size=(1, 1, 1)) * other).sum()
        (adjoint,) = torch.autograd.grad(inner, image)
        inverse = move_image(other, SOME_POSE.inverse(), voxel_size=(1, 1, 1))
        assert relative_error(adjoint, inverse) < 1e-4

    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    @pytest.mark.parametrize("periodic", [False, True])
    def test_gradients(self, dtype, periodic):
        image = torch.randn(2, 3, 4, 3, dtype=dtype, requires_grad=True)
        torch.autograd.gradcheck(
            lambda x: move_image(x, SOME_POSE, voxel_size=(2, 2, 2), periodic=periodic), image
        )

    def test_real_and_imaginary_parts_move_as_images_of_their_own(self):
        image = torch.randn(3, 10, 9, 8, dtype=torch.complex64)
        moved = move_image(image, SOME_POSE, voxel_size=(1, 1, 2))
        assert moved.dtype == torch.complex64
        for part, expected in ((moved.real, image.real), (moved.imag, image.imag)):
            alone = move_image(expected, SOME_POSE, voxel_size=(1, 1, 2))
            assert alone.dtype == torch.float32
            torch.testing.assert_close(part, alone, rtol=0, atol=1e-5)
        one = move_image(image[1], SOME_POSE, voxel_size=(1, 1, 2))
        torch.testing.assert_close(moved[1], one, rtol=0, atol=1e-5)

    def test_the_identity_is_free_and_the_input_is_left_alone(self):
        image = torch.randn(6, 6, 6)
        kept = image.clone()
        assert move_image(image, RigidPose(), voxel_size=(1, 1, 1)) is image
        move_image(image, SOME_POSE, voxel_size=(1, 1, 1), periodic=True)
        assert torch.equal(image, kept)

    def test_a_slab_that_cuts_the_object_neither_rings_nor_wraps(self):
        # A profile that is bright at the top of the slab and dark at its bottom, and smooth between.
        shape, voxel_size = (24, 24, 20), (2, 2, 3)
        z = centred(shape, voxel_size)[2]
        image = 1 + torch.tanh(z / 9)
        moved = move_image(image, RigidPose(translation=(0, 0, 7.5)), voxel_size=voxel_size)
        expected = 1 + torch.tanh((z - 7.5) / 9)
        assert float((moved - expected).abs().max()) < 5e-3
        wrapped = move_image(image, RigidPose(translation=(0, 0, 7.5)), voxel_size=voxel_size, periodic=True)
        assert float((wrapped - expected).abs().max()) > 1

    def test_the_slab_stays_even_when_it_is_turned(self):
        moved = move_image(torch.ones(20, 18, 10), SOME_POSE, voxel_size=(1, 1, 3))
        torch.testing.assert_close(moved, torch.ones(20, 18, 10))

    def test_impossible_rotations_are_refused(self):
        with pytest.raises(ValueError, match="180"):
            move_image(torch.ones(4, 4, 4), RigidPose(rotation=(0, 0, 180)), voxel_size=(1, 1, 1))


class TestMixStates:
    PROFILE = MotionProfile((0.0, 0.35, 0.8), (RigidPose(),) * 3)

    @pytest.mark.parametrize("readout_axis", [0, 1, 2])
    def test_each_line_comes_from_the_state_that_lasts(self, readout_axis):
        states = torch.randn(3, 2, 6, 5, 8, dtype=torch.complex128)
        times = acquisition_times((6, 5, 8), readout_axis=readout_axis)
        mixed = mix_states(iter(states), profile=self.PROFILE, times=times)
        spectrum, spectra = (torch.fft.fftn(image, dim=(-3, -2, -1)) for image in (mixed, states))
        number = (times >= 0.35).long() + (times >= 0.8).long()
        for state in range(3):
            here = (number == state).expand(6, 5, 8)
            torch.testing.assert_close(spectrum[:, here], spectra[state][:, here], rtol=0, atol=1e-12)

    def test_equal_states_give_the_state(self):
        image = torch.randn(8, 8, 8, dtype=torch.complex64)
        times = acquisition_times((8, 8, 8))
        assert torch.equal(mix_states([image] * 3, profile=self.PROFILE, times=times), image)
        single = MotionProfile((0.0,), (RigidPose(),))
        assert mix_states([image], profile=single, times=times) is image

    def test_states_and_poses_must_be_as_many(self):
        with pytest.raises(ValueError, match="argument 2 is longer"):
            mix_states([torch.ones(4, 4, 4)] * 2, profile=self.PROFILE, times=acquisition_times((4, 4, 4)))


class TestSignalAndField:
    """Eq. 4 moves the sources and makes the field anew, Eq. 5 moves the echoes with their field."""

    SHAPE, VOXEL, B0 = (24, 24, 20), (1.0, 1.0, 2.0), (0.1, 0.2, 0.97)
    TIMES = acquisition_times(SHAPE)

    def maps(self) -> dict[str, Tensor]:
        image = blobs(self.SHAPE, (1.6, 1.6, 2.4))
        inside = (centred(self.SHAPE, (1, 1, 1)).square().sum(dim=0) < 36).double()
        return {"magnitude": inside * (1 + 0.2 * image), "susceptibility": 0.2 * image, "r2star": 20 * inside}

    def both(self, poses: tuple[RigidPose, ...], *, still: bool = False) -> tuple[Tensor, Tensor]:
        """Corrupted echoes by Eq. 4 and by Eq. 5."""
        onsets = (0.0, 0.3, 0.7)[: len(poses)]
        profile, maps = MotionProfile(onsets, poses), self.maps()
        scanner = {"echo_times": (0.005, 0.02), "field_strength": 3.0}
        grid = {"profile": profile, "voxel_size": self.VOXEL, "times": self.TIMES, "periodic": True}
        sources = move_sources(**maps, **grid, **scanner, b0_direction=self.B0)
        field = dipole_field(
            maps["susceptibility"], voxel_size=self.VOXEL, b0_direction=self.B0, padding=(0, 0, 0)
        )
        echoes = gradient_echoes(maps["magnitude"], r2star=maps["r2star"], field=field, **scanner)
        return sources, move_echoes(echoes, **grid)

    def test_the_signal_agrees_for_whole_voxels(self):
        poses = (RigidPose(), RigidPose(translation=(3, -2, 4)), RigidPose(translation=(-1, 4, -2)))
        sources, echoes = self.both(poses)
        still, _ = self.both((RigidPose(),))
        assert relative_error(echoes, still) > 0.2
        assert relative_error(echoes, sources) < 1e-12

    def test_the_signal_differs_where_the_field_turns(self):
        sources, echoes = self.both((RigidPose(), RigidPose(rotation=(5, 0, 0))))
        still, _ = self.both((RigidPose(),))
        assert 1e-3 < relative_error(echoes, sources) < relative_error(echoes, still)

    def test_the_field_agrees_for_any_translation(self):
        chi = torch.randn(self.SHAPE, dtype=torch.float64)
        grid = {"voxel_size": self.VOXEL}
        pose = RigidPose(translation=(0.37, -1.21, 2.83))

        def field(image: Tensor) -> Tensor:
            return dipole_field(image, **grid, b0_direction=self.B0, padding=(0, 0, 0))

        moved_field = move_image(field(chi), pose, **grid, periodic=True)
        assert relative_error(moved_field, field(move_image(chi, pose, **grid, periodic=True))) < 1e-12

    def test_the_signal_is_that_of_its_equation(self):
        one = torch.ones(2, 2, 2, dtype=torch.float64)
        echoes = gradient_echoes(
            3 * one, r2star=25 * one, field=0.1 * one, echo_times=(0.02,), field_strength=3
        )
        expected = 3 * np.exp(-0.5) * np.exp(2j * np.pi * 0.1 * hertz_per_ppm(3) * 0.02)
        torch.testing.assert_close(echoes, torch.full((1, 2, 2, 2), expected, dtype=torch.complex128))

    def test_artefacts_grow_with_motion(self):
        # On voxels of 8 mm the object is nearly as large as a head.
        echoes = torch.polar(self.maps()["magnitude"], 4 * blobs(self.SHAPE, (1.6, 1.6, 2.4)))
        times = {"centre_time": float(self.TIMES.flatten()[0])}
        for seed in range(5):
            errors = []
            for limit in (1.0, 2.5, 5.0):
                generator = torch.Generator().manual_seed(seed)
                profile = draw_motion(generator, translation=limit, rotation=limit, **times)
                moved = move_echoes(echoes, profile=profile, voxel_size=(8, 8, 8), times=self.TIMES)
                errors.append(relative_error(moved, echoes))
            assert 0.005 < errors[0] < errors[1] < errors[2]

    def test_ghosts_lie_along_the_phase_encoding_axes(self):
        # Motion spares the readout: beyond the object along it there is nothing.
        echoes = self.maps()["magnitude"].to(torch.complex128)
        profile = MotionProfile((0.0, 0.45), (RigidPose(), RigidPose(translation=(0, 3, 0))))
        ghosts = move_echoes(echoes, profile=profile, voxel_size=self.VOXEL, times=self.TIMES, periodic=True)
        along, across = ghosts[:3].abs().mean(), ghosts[9:15, :3].abs().mean()
        assert float(across) > 1e6 * float(along)
