"""Image-quality metrics of images whose quality is known."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from qsmflow.core.dipole import dipole_field
from qsmflow.core.inversion.tkd import invert_tkd
from qsmflow.core.quality.magnitude import (
    air_mask,
    entropy_focus,
    ghost_to_signal,
    head_mask,
    sharpness_fwhm,
)
from qsmflow.core.quality.signal import (
    degrees_of_freedom,
    field_snr,
    fit_outliers,
    fit_residual,
    mask_lost,
    phase_residues,
)
from qsmflow.core.quality.susceptibility import deep_tissue, local_noise, region_noise, streak_energy
from qsmflow.core.quality.table import HINTS, METRICS, b0_angle, hints, image_quality

CUBE = (24, 24, 24)
UNIT = (1.0, 1.0, 1.0)
EVERYWHERE = torch.ones(CUBE, dtype=torch.bool)


def ball(radius, *, shape=CUBE, voxel_size=UNIT):
    axes = [(torch.arange(n) - (n - 1) / 2) * edge for n, edge in zip(shape, voxel_size, strict=True)]
    return sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij")) <= radius**2


class TestSignal:
    def test_field_snr_is_that_of_gaussians_in_the_mask(self):
        field, noise = 6 * torch.randn(CUBE), torch.full(CUBE, 2.0)
        mask = ball(10)
        field[~mask], noise[~mask] = 1e6, 1e6
        assert field_snr(field, frequency_noise=noise, mask=mask) == pytest.approx(3, rel=0.05)

    def test_field_without_noise_has_no_snr(self):
        assert field_snr(torch.randn(CUBE), frequency_noise=torch.zeros(CUBE), mask=EVERYWHERE) is None

    def test_fit_residual_is_the_median_in_the_mask(self):
        residual = torch.full(CUBE, 0.5)
        residual[ball(10)] = 0.02
        assert fit_residual(residual, mask=ball(10)) == pytest.approx(2)

    @pytest.mark.parametrize("freedom", [1, 4, 7])
    def test_noise_alone_makes_one_outlier_in_a_thousand_whatever_the_signal(self, freedom):
        magnitude = 1 + 100 * torch.rand(40, 40, 40)
        error = 0.3 * torch.randn(freedom, 40, 40, 40).norm(dim=0)
        mask = torch.ones(40, 40, 40, dtype=torch.bool)
        share = fit_outliers(error / magnitude, magnitude=magnitude, mask=mask, degrees_of_freedom=freedom)
        # 64 of 64000, with a standard deviation of 8 and that of the median.
        assert share == pytest.approx(0.1, abs=0.05)

    def test_voxels_off_the_model_are_outliers_and_do_not_hide_themselves(self):
        error = torch.randn(4, *CUBE).norm(dim=0)
        error[:6] *= 30  # a quarter
        share = fit_outliers(
            error / 100, magnitude=torch.full(CUBE, 100.0), mask=EVERYWHERE, degrees_of_freedom=4
        )
        assert share == pytest.approx(25, abs=1)

    def test_a_fit_without_freedom_has_no_outliers(self):
        ones = torch.ones(CUBE)
        freedom = degrees_of_freedom(2, bipolar=False)
        assert fit_outliers(ones, magnitude=ones, mask=EVERYWHERE, degrees_of_freedom=freedom) is None

    def test_steep_wrapped_ramp_has_no_residue(self):
        x, y, z = torch.meshgrid(*(torch.arange(float(n)) for n in (9, 8, 7)), indexing="ij")
        phase = torch.angle(torch.exp(1j * (2.9 * x - 3.0 * y + 1.0 * z)))
        assert phase_residues(phase, mask=torch.ones(9, 8, 7, dtype=torch.bool)) == 0

    @pytest.mark.parametrize("along", [0, 1, 2])
    def test_a_vortex_is_one_residue_in_each_plane_across_it(self, along):
        """One loop of 5 × 5 in each of four planes; those in the other planes are flat along the vortex."""
        first, second = torch.meshgrid(torch.arange(6) - 2.5, torch.arange(6) - 2.5, indexing="ij")
        phase = torch.atan2(second, first)[None].expand(4, 6, 6).movedim(0, along)
        mask = torch.ones(phase.shape, dtype=torch.bool)
        n_loops = 4 * 25 + 2 * 3 * 5 * 6
        assert phase_residues(phase, mask=mask) == pytest.approx(1000 * 4 / n_loops)
        # A mask that leaves out the middle holds no loop around it.
        first, second = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
        off = ((first < 2) | (second < 2))[None].expand(4, 6, 6).movedim(0, along)
        assert phase_residues(phase, mask=off) == 0

    def test_loops_lie_wholly_in_the_mask(self):
        """A vortex whose only loop has a corner outside."""
        phase = torch.tensor([[0.0, 0.5], [1.5, 1.0]])[..., None].expand(2, 2, 2) * math.pi
        mask = torch.ones(2, 2, 2, dtype=torch.bool)
        assert phase_residues(phase, mask=mask) == pytest.approx(1000 * 2 / 6)
        mask[1, 1, 0] = False
        assert phase_residues(phase, mask=mask) == pytest.approx(1000 * 1 / 3)

    def test_a_third_of_the_loops_of_noise_are_residues(self):
        phase = 2 * math.pi * torch.rand(40, 40, 40)
        found = phase_residues(phase, mask=torch.ones(40, 40, 40, dtype=torch.bool))
        assert found == pytest.approx(1000 / 3, rel=0.01)

    def test_no_loop_no_count(self):
        line = torch.ones(5, 1, 1, dtype=torch.bool)
        assert phase_residues(torch.zeros(5, 1, 1), mask=line) is None

    def test_mask_lost_counts_the_brain_only(self):
        brain, mask = torch.zeros(CUBE, dtype=torch.bool), torch.zeros(CUBE, dtype=torch.bool)
        brain[:10], mask[2:] = True, True
        assert mask_lost(mask, brain=brain) == pytest.approx(20)

    def test_empty_masks_are_refused(self):
        nothing, ones = ~EVERYWHERE, torch.ones(CUBE)
        for measure in (
            lambda: field_snr(ones, frequency_noise=ones, mask=nothing),
            lambda: phase_residues(ones, mask=nothing),
            lambda: mask_lost(EVERYWHERE, brain=nothing),
            lambda: head_mask(ones, brain=nothing),
        ):
            with pytest.raises(ValueError, match="empty"):
                measure()


class TestMagnitude:
    SHAPE = (48, 60, 40)

    @pytest.fixture
    def brain(self):
        return ball(9, shape=self.SHAPE)

    def scan(self, brain, *, ghost=0.0, axis=1):
        """A head of 1000 with complex noise of 5, and a ghost of it shifted by half the field of view."""
        signal = 1000.0 * brain
        signal = signal + ghost * signal.roll(self.SHAPE[axis] // 2, axis)
        return (signal + 5 * torch.complex(torch.randn(self.SHAPE), torch.randn(self.SHAPE))).abs()

    def measured(self, scan, brain):
        head = head_mask(scan, brain=brain)
        air = air_mask(scan, head=head, voxel_size=UNIT, margin=3)
        return ghost_to_signal(scan, air=air, head=head, brain=brain)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_a_ghost_that_fills_the_air_beside_the_head_is_measured(self, brain, axis):
        lines = brain.any(dim=axis, keepdim=True)
        image = torch.where(lines, 60.0, 10.0) + 990.0 * brain
        assert self.measured(image, brain) == pytest.approx(50 / 1050)

    def test_noise_is_no_ghost_and_a_ghost_raises_ratio_and_entropy(self, brain):
        still = self.scan(brain)
        assert abs(self.measured(still, brain)) < 2e-4
        spread = still.clone()
        for shift in range(12, 48, 2):
            spread += 0.02 * (1000.0 * brain).roll(shift, 1)
        assert self.measured(spread, brain) > 0.02
        assert entropy_focus(spread) > entropy_focus(still)

    def test_head_takes_in_what_is_dark_within(self, brain):
        image = 1000.0 * brain
        image[22:26, 28:32, 18:22] = 0
        image[2, 2, 2] = 5000  # a bright speck in the air
        image[40:44, 50:54, 30:34] = 500  # a ghost as bright as tissue
        assert torch.equal(head_mask(image, brain=brain), brain)

    def test_there_is_no_air_in_a_masked_or_a_cropped_image(self, brain):
        scan = self.scan(brain)
        head = head_mask(scan, brain=brain)
        assert air_mask(scan * brain, head=head, voxel_size=UNIT) is None
        assert air_mask(scan, head=torch.ones_like(head), voxel_size=UNIT) is None

    def test_air_keeps_its_distance_in_mm(self, brain):
        scan = self.scan(brain)
        air = air_mask(scan, head=brain, voxel_size=(1.0, 2.0, 5.0), margin=10)
        along = [air[:, 30, 20], air[24, :, 20], air[24, 30, :]]
        edges = [int(line.int().argmin()) for line in along]
        inside = [brain[:, 30, 20], brain[24, :, 20], brain[24, 30, :]]
        starts = [int(line.int().argmax()) for line in inside]
        assert [start - edge for start, edge in zip(starts, edges, strict=True)] == [10, 5, 2]

    def test_ratio_needs_air_beside_and_clear_of_the_head(self, brain):
        scan = self.scan(brain)
        few = torch.zeros_like(brain)
        few[:2, :2, :2] = True
        assert ghost_to_signal(scan, air=few, head=brain, brain=brain) is None
        with pytest.raises(ValueError, match="empty"):
            ghost_to_signal(scan, air=~brain, head=brain, brain=brain & few)

    def test_entropy_of_n_even_voxels(self):
        """E = √n ln √n, over that of all voxels."""
        image = torch.zeros(10, 10, 10)
        image[:5, :5, :4] = 7
        expected = math.sqrt(100) * math.log(math.sqrt(100))
        expected /= math.sqrt(1000) * math.log(math.sqrt(1000))
        assert entropy_focus(image) == pytest.approx(expected)
        image[:] = 0
        image[3, 3, 3] = 1
        assert entropy_focus(image) == pytest.approx(0)

    def test_images_without_entropy_are_refused(self):
        for image in (torch.zeros(CUBE), -torch.ones(CUBE), torch.full(CUBE, math.nan)):
            with pytest.raises(ValueError, match="entropy"):
                entropy_focus(image)

    @pytest.mark.parametrize("width", [4.0, 6.0])
    def test_width_of_smoothed_noise_is_the_width_of_its_autocorrelation(self, width):
        """Noise behind a Gaussian filter of σ correlates as exp(−d²/4σ²); its FWHM is √(8 ln 2) σ.

        A sensitivity that varies over the image changes nothing."""
        voxel_size = (1.0, 1.0, 2.0)
        sigma = width / math.sqrt(8 * math.log(2))
        noise = np.random.default_rng(0).normal(size=(64, 64, 32))
        image = ndimage.gaussian_filter(noise, [sigma / edge for edge in voxel_size])
        sensitivity = 1 + np.linspace(0, 1, 64)[:, None, None]
        image = torch.from_numpy((20 + image / image.std()) * sensitivity)
        mask = torch.ones(image.shape, dtype=torch.bool)
        assert sharpness_fwhm(image, mask=mask, voxel_size=voxel_size) == pytest.approx(width, rel=0.08)

    def test_nothing_is_sharper_than_noise(self):
        image = 100 + torch.randn(32, 32, 32)
        mask = torch.ones(32, 32, 32, dtype=torch.bool)
        assert sharpness_fwhm(image, mask=mask, voxel_size=UNIT) < 0.5

    def test_even_images_and_thin_masks_have_no_width(self):
        assert sharpness_fwhm(torch.ones(CUBE), mask=EVERYWHERE, voxel_size=UNIT) is None
        assert sharpness_fwhm(torch.rand(CUBE), mask=ball(4), voxel_size=UNIT) is None
        slab = torch.ones(24, 24, 1, dtype=torch.bool)
        assert sharpness_fwhm(torch.rand(24, 24, 1), mask=slab, voxel_size=UNIT) is None
        planes = torch.rand(24, 1, 1).expand(CUBE)
        assert sharpness_fwhm(planes, mask=EVERYWHERE, voxel_size=UNIT) is None


class TestSusceptibility:
    def test_both_noises_are_that_of_white_noise(self):
        chi = 0.02 * torch.randn(CUBE)
        region = ball(10)
        chi[~ball(11.5)] = 5.0
        assert region_noise(chi, region=region) == pytest.approx(0.02, rel=0.05)
        assert local_noise(chi, region=ball(9)) == pytest.approx(0.02, rel=0.05)

    def test_local_noise_does_not_see_slow_contrast(self):
        chi = torch.linspace(-0.05, 0.05, 24).reshape(24, 1, 1) + 0.02 * torch.randn(CUBE)
        assert region_noise(chi, region=ball(11)) > 0.03
        assert local_noise(chi, region=ball(11)) == pytest.approx(0.02, rel=0.05)

    def test_few_voxels_tell_no_noise(self):
        chi = torch.randn(CUBE)
        assert region_noise(chi, region=ball(1)) is None
        assert local_noise(chi, region=ball(1)) is None

    def test_deep_tissue_leaves_out_rim_fluid_and_iron(self):
        mask = ball(11)
        r2star = torch.where(mask, 20.0, 0.0)
        r2star[6:10, 10:14, 10:14] = 1.0
        r2star[14:18, 10:14, 10:14] = 80.0
        found = deep_tissue(r2star, mask=mask, voxel_size=UNIT, depth=4)
        assert bool(found[12, 7, 12]) and bool(found[12, 12, 16])
        assert not found[7:9, 11:13, 11:13].any() and not found[15:17, 11:13, 11:13].any()
        assert not (found & ~ball(7.5)).any()
        assert not deep_tissue(r2star, mask=mask, voxel_size=UNIT, depth=20).any()

    @pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), (0.0, 0.6, 0.8)])
    def test_streaks_are_more_than_elsewhere_and_damped_cones_less(self, direction):
        space = {"voxel_size": (1.0, 1.0, 1.5), "b0_direction": direction}
        shape, mask = (48, 48, 32), ball(22, shape=(48, 48, 32), voxel_size=(1.0, 1.0, 1.5))
        chi = torch.randn(shape) * mask
        field = dipole_field(chi, **space) * mask
        noise = torch.randn(shape) * mask

        def measured(image):
            return streak_energy(image, mask=mask, **space)

        def inverted(field, threshold):
            return invert_tkd(field, mask=mask, threshold=threshold, **space).susceptibility

        assert measured(chi) == pytest.approx(1, abs=0.1)
        assert measured(inverted(field + noise, 0.03)) > 3
        assert measured(inverted(field, 0.3)) < 0.7

    def test_streaks_do_not_depend_on_reference_unit_or_field_of_view(self):
        mask = ball(10)
        chi = torch.randn(CUBE)
        plain = streak_energy(chi, mask=mask, voxel_size=UNIT, b0_direction=(0, 0, 1))
        wide, wide_mask = (torch.nn.functional.pad(each, (3, 4, 5, 6, 7, 2)) for each in (chi, mask))
        moved = streak_energy(100 * wide + 7, mask=wide_mask, voxel_size=UNIT, b0_direction=(0, 0, 1))
        assert moved == pytest.approx(plain, rel=1e-3)

    def test_streaks_do_not_depend_on_the_order_of_the_axes(self):
        chi, mask = torch.randn(20, 24, 30), ball(9, shape=(20, 24, 30))
        plain = streak_energy(chi, mask=mask, voxel_size=(1.2, 1.1, 1), b0_direction=(0.2, 0.3, 0.9))
        turned = streak_energy(
            chi.permute(2, 0, 1),
            mask=mask.permute(2, 0, 1),
            voxel_size=(1, 1.2, 1.1),
            b0_direction=(0.9, 0.2, 0.3),
        )
        assert turned == pytest.approx(plain, rel=1e-6)

    def test_even_maps_and_coarse_voxels_have_no_streaks(self):
        even = streak_energy(torch.ones(CUBE), mask=EVERYWHERE, voxel_size=UNIT, b0_direction=(0, 0, 1))
        coarse = streak_energy(
            torch.randn(CUBE), mask=EVERYWHERE, voxel_size=(1, 1, 20), b0_direction=(0, 0, 1)
        )
        assert even is None and coarse is None


class TestTable:
    @pytest.mark.parametrize(
        ("direction", "angle"), [((0, 0, -1), 0), ((0, 3, 0), 90), ((0, 1, 1), 45), ((0.6, 0, 0.8), 36.8699)]
    )
    def test_b0_angle(self, direction, angle):
        assert b0_angle(direction) == pytest.approx(angle, abs=1e-4)

    def test_hints_name_values_beyond_their_bound_only(self):
        at_bound = {name: hint.bound for name, hint in HINTS.items()}
        assert hints(at_bound) == ()
        step = {"above": 1e-3, "below": -1e-3}
        beyond = {name: hint.bound + step[hint.direction] for name, hint in HINTS.items()}
        found = hints(beyond)
        assert len(found) == len(HINTS)
        for name, hint, text in zip(HINTS, HINTS.values(), found, strict=True):
            assert text.startswith(METRICS[name].label) and text.endswith(hint.sentence)
        assert hints(dict.fromkeys(METRICS)) == ()

    def test_hints_point_to_the_worse_side(self):
        for name, hint in HINTS.items():
            if (more_is_better := METRICS[name].more_is_better) is not None:
                assert hint.direction == ("below" if more_is_better else "above"), name

    @pytest.fixture
    def scanned(self):
        """Images of a ball whose echoes follow the model, in noise."""
        shape, edge = (40, 40, 40), 4.0
        brain = ball(68, shape=shape, voxel_size=(edge,) * 3)
        fluid = ball(14, shape=shape, voxel_size=(edge,) * 3)
        iron = ball(9, shape=shape, voxel_size=(edge,) * 3).roll(10, 0)
        chi = 0.2 * iron + 0.01 * torch.randn(shape)
        noise = torch.complex(torch.randn(shape), torch.randn(shape))
        return {
            "magnitude": (100.0 * brain + 2 * noise).abs(),
            "frequency": 20 * torch.randn(shape).clamp(-1, 1),
            "frequency_period": 200.0,
            "frequency_noise": torch.full(shape, 0.5),
            "relative_residual": 0.01 * torch.randn(4, *shape).norm(dim=0),
            "local_field": 2 * torch.randn(shape),
            "susceptibility": chi * brain,
            "r2star": torch.where(fluid, 1.0, torch.where(iron, 80.0, 20.0)) * brain,
            "brain": brain,
            "mask": brain & ball(67, shape=shape, voxel_size=(edge,) * 3),
            "field_mask": brain,
            "n_echoes": 4,
            "bipolar": False,
            "voxel_size": (edge,) * 3,
            "b0_direction": (0.0, 0.6, 0.8),
        }

    def test_everything_is_measured_and_nothing_hinted_at(self, scanned):
        found = image_quality(**scanned)
        assert list(found) == list(METRICS)
        assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())
        assert found["field_snr"] == pytest.approx(4, rel=0.05)
        assert found["fit_residual"] == pytest.approx(1 * math.sqrt(3.36), rel=0.05)
        assert found["chi_noise_csf"] == pytest.approx(0.01, rel=0.3)
        assert found["chi_noise_tissue"] == pytest.approx(0.01, rel=0.1)
        assert found["chi_r2star_correlation"] > 0.3
        assert found["phase_residues"] == 0
        assert hints(found) == ()

    def test_a_turned_sign_raises_the_alarm(self, scanned):
        found = image_quality(**scanned | {"susceptibility": -scanned["susceptibility"]})
        assert any("phase sign" in hint for hint in hints(found))

    def test_a_single_echo_and_a_masked_image_leave_gaps(self, scanned):
        gaps = {"relative_residual": None, "r2star": None, "n_echoes": 1}
        found = image_quality(**scanned | gaps | {"magnitude": scanned["magnitude"] * scanned["brain"]})
        assert {name for name, value in found.items() if value is None} == {
            "fit_residual",
            "fit_outliers",
            "ghost_to_signal",
            "entropy_focus",
            "chi_noise_csf",
            "chi_noise_tissue",
            "chi_r2star_correlation",
        }

    def test_two_echoes_leave_no_residual(self, scanned):
        found = image_quality(**scanned | {"n_echoes": 2})
        assert found["fit_residual"] is None and found["fit_outliers"] is None
