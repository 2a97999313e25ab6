"""Inversions against a sphere of known susceptibility in an oblique field."""

from dataclasses import replace

import pytest
import torch

from qsmflow.core.dipole import dipole_field
from qsmflow.core.inversion.edges import edge_free
from qsmflow.core.inversion.medi import PRESETS, SIMULATION, MediSettings, invert_medi
from qsmflow.core.inversion.tkd import invert_tkd
from qsmflow.core.inversion.tv import TvSettings, invert_tv

SHAPE = (32, 36, 30)
SPACE = {"voxel_size": (1.0, 0.9, 1.2), "b0_direction": (0.35, -0.25, 0.9)}
RADIAN_PER_PPM = 4.0
NOISE = 1e-3
PLAIN = replace(SIMULATION, regularisation=2e-4, tolerance=1e-3)


def ball(centre, radius):
    """Voxels within a radius in mm of a point given in voxels."""
    axes = [
        (torch.arange(size) - c) * edge
        for size, c, edge in zip(SHAPE, centre, SPACE["voxel_size"], strict=True)
    ]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 <= radius**2


@pytest.fixture(scope="module")
def sphere():
    """A sphere of 0.2 ppm that the magnitude shows, in a round mask, and its noisy field."""
    torch.manual_seed(1)
    mask, inside = ball((16, 18, 15), 13), ball((17, 17, 15), 4)
    chi = 0.2 * inside.float()
    noise = torch.full(SHAPE, NOISE)
    field = dipole_field(chi, **SPACE, padding=SHAPE) + NOISE * torch.randn(SHAPE)
    magnitude = 1 - 0.3 * inside.float() + 0.01 * torch.randn(SHAPE)
    return {
        "mask": mask,
        "inside": inside,
        "chi": chi,
        "noise": noise,
        "field": field,
        "magnitude": magnitude,
    }


def medi(subject, settings, **changed):
    """MEDI of a subject with some of its parts changed."""
    given = {name: subject[name] for name in ("noise", "magnitude", "mask")} | changed
    field = given.pop("field", subject["field"])
    given.setdefault("radian_per_ppm", RADIAN_PER_PPM)
    return invert_medi(field, settings=settings, **SPACE, **given)


def nrmse(susceptibility, subject):
    """Error of the demeaned map over the demeaned truth, in the mask where there is a map."""
    known = subject["mask"] & (susceptibility != 0)
    found, truth = susceptibility[known], subject["chi"][known]
    truth = truth - truth.mean()
    return float((found - found.mean() - truth).norm() / truth.norm())


def contrast(susceptibility, subject):
    """Mean in the sphere over the mean around it, ppm."""
    inside = subject["inside"]
    known = subject["mask"] & (susceptibility != 0)
    return float(susceptibility[inside].mean() - susceptibility[known & ~inside].mean())


@pytest.mark.parametrize("preset", PRESETS)
def test_medi_recovers_the_sphere(sphere, preset):
    """Contrast within 5 %, a tenth of the error of the mean square, much better than TKD."""
    found = medi(sphere, replace(PRESETS[preset], regularisation=2e-4))
    tkd = invert_tkd(sphere["field"], mask=sphere["mask"], **SPACE)
    assert found.converged and found.n_iterations > 1
    assert contrast(found.susceptibility, sphere) == pytest.approx(0.2, rel=0.05)
    assert nrmse(found.susceptibility, sphere) < 0.12
    assert nrmse(found.susceptibility, sphere) < nrmse(tkd.susceptibility, sphere) / 2
    assert not found.susceptibility[~sphere["mask"]].any()


@pytest.mark.parametrize("sign", [1, -1])
def test_sign(sphere, sign):
    """Paramagnetic comes out positive, diamagnetic negative, from either inversion."""
    field = sign * sphere["field"]
    for found in (
        invert_tkd(field, mask=sphere["mask"], **SPACE),
        medi(sphere, PLAIN, field=field),
    ):
        assert sign * contrast(found.susceptibility, sphere) > 0.1


def test_linear_and_nonlinear_agree_on_small_phases(sphere):
    """A tenth of a radian is straight to 1 %."""
    tight = replace(PLAIN, tolerance=1e-4)
    curved = medi(sphere, tight, radian_per_ppm=1.0).susceptibility
    straight = medi(sphere, replace(tight, nonlinear=False), radian_per_ppm=None).susceptibility
    assert (curved - straight).norm() < 0.01 * straight.norm()


def test_nonlinear_term_forgives_a_wrap(sphere):
    """A field that is a whole turn off in some voxels is as good as the true one, to phasors."""
    wrapped = sphere["field"].clone()
    wrapped[12:14, 12:14, 12:14] += 2 * torch.pi / RADIAN_PER_PPM
    linear = medi(sphere, replace(PLAIN, nonlinear=False), field=wrapped).susceptibility
    assert nrmse(medi(sphere, PLAIN, field=wrapped).susceptibility, sphere) < 0.12
    assert nrmse(linear, sphere) > 0.5


def test_merit_ignores_an_outlier(sphere):
    """One voxel of nonsense spoils the plain inversion, not the one with MERIT."""
    spoilt = sphere["field"].clone()
    spoilt[8, 20, 15] += 0.7
    plain = medi(sphere, PLAIN, field=spoilt).susceptibility
    tuned = medi(sphere, replace(PLAIN, merit=True), field=spoilt).susceptibility
    assert nrmse(tuned, sphere) < 0.12
    assert nrmse(plain, sphere) > 2 * nrmse(tuned, sphere)


def test_spherical_mean_removes_a_smooth_background(sphere):
    """A background left in the field spoils the plain inversion; the map shrinks by the radius."""
    ramp = 0.02 * (torch.arange(SHAPE[0]) - 16).reshape(-1, 1, 1)
    settings = replace(PLAIN, smv_radius=3.0)
    found = medi(sphere, settings, field=sphere["field"] + ramp).susceptibility
    assert (
        nrmse(found, sphere)
        < 0.15
        < nrmse(medi(sphere, PLAIN, field=sphere["field"] + ramp).susceptibility, sphere)
    )
    assert contrast(found, sphere) == pytest.approx(0.2, rel=0.08)
    assert found[16, 18, 15] != 0 and (found != 0).sum() < 0.7 * sphere["mask"].sum()


def test_outside_sources_take_up_background(sphere):
    """Field of a source just beside the mask: without outside sources it becomes susceptibility."""
    beside = ball((16, 18, 15), 15) & ~ball((16, 18, 15), 13.5) & ball((3, 18, 15), 4)
    field = sphere["field"] + dipole_field(0.5 * beside.float(), **SPACE, padding=SHAPE)
    errors = [
        nrmse(medi(sphere, replace(PLAIN, outside_sources=flag), field=field).susceptibility, sphere)
        for flag in (False, True)
    ]
    assert errors[1] < 0.6 * errors[0]


def test_csf_becomes_a_uniform_zero(sphere):
    """The spread in the fluid shrinks tenfold, its mean is zero, the sphere stays."""
    csf = ball((11, 22, 17), 3)
    plain = medi(sphere, PLAIN, csf_mask=csf).susceptibility
    zeroed = medi(sphere, replace(PLAIN, csf_regularisation=1.0), csf_mask=csf).susceptibility
    assert abs(zeroed[csf].mean()) < 1e-6 and zeroed[csf].std() < plain[csf].std() / 10
    assert contrast(zeroed, sphere) == pytest.approx(0.2, rel=0.05)


def test_unmeasured_voxels_do_not_count(sphere):
    """Nonsense without a noise changes nothing."""
    spoilt, noise = sphere["field"].clone(), sphere["noise"].clone()
    spoilt[8, 20, 15], noise[8, 20, 15] = 50.0, float("inf")
    assert nrmse(medi(sphere, PLAIN, field=spoilt, noise=noise).susceptibility, sphere) < 0.12


def test_scale_of_noise_and_magnitude_does_not_matter(sphere):
    """A λ that is given means the same for any unit of the noise and the magnitude."""
    first = medi(sphere, PLAIN).susceptibility
    second = medi(sphere, PLAIN, noise=100 * sphere["noise"], magnitude=900 * sphere["magnitude"])
    assert (first - second.susceptibility).norm() < 0.01 * first.norm()


@pytest.fixture(scope="module")
def tissue(sphere):
    """The sphere in tissue that varies, which any λ smooths a little; its field without noise."""
    waves = [torch.sin(0.4 * torch.arange(size)) for size in SHAPE]
    chi = (sphere["chi"] + 0.02 * torch.einsum("i,j,k->ijk", *waves)) * sphere["mask"]
    return sphere | {"chi": chi, "field": dipole_field(chi, **SPACE, padding=SHAPE)}


@pytest.mark.parametrize("discrepancy, factor", [(1.0, 1), (1.0, 3), (1.2, 1)])
def test_automatic_regularisation_leaves_the_noise(tissue, discrepancy, factor):
    """The weighted residual is the noise, at any level and where it differs, for either inversion.

    λ, which goes with the square of the residual, is looked for to a fifth.
    """
    draw = torch.Generator().manual_seed(2)
    noise = factor * NOISE * (0.5 + torch.rand(SHAPE, generator=draw))
    field = tissue["field"] + noise * torch.randn(SHAPE, generator=draw)
    norm, n_voxels = (field / noise)[tissue["mask"]].norm(), int(tissue["mask"].sum())
    given = {"mask": tissue["mask"], "radian_per_ppm": RADIAN_PER_PPM, **SPACE}
    for found in (
        medi(tissue, MediSettings(discrepancy=discrepancy), field=field, noise=noise),
        invert_tv(field, noise=noise, settings=TvSettings(discrepancy=discrepancy), **given),
    ):
        assert found.residual == pytest.approx(discrepancy * n_voxels**0.5 / float(norm), rel=0.1)
        assert found.converged


def test_automatic_regularisation_has_no_scale_of_the_grid(tissue):
    """Zeros around the mask, and so a larger image, change nothing."""
    found = medi(tissue, SIMULATION)
    wide = [2, 3, 1, 1, 4, 0]
    grown = {name: torch.nn.functional.pad(tissue[name], wide) for name in ("noise", "magnitude", "mask")}
    again = medi(tissue, SIMULATION, field=torch.nn.functional.pad(tissue["field"], wide), **grown)
    assert again.regularisation == pytest.approx(found.regularisation, rel=1e-6)


def test_regularisation_that_was_used_is_reported(tissue):
    """The one that was asked for; else one that gives the same map again when asked for."""
    assert medi(tissue, PLAIN).regularisation == PLAIN.regularisation
    tight = replace(SIMULATION, tolerance=1e-5)
    found = medi(tissue, tight)
    again = medi(tissue, replace(tight, regularisation=found.regularisation))
    assert (found.susceptibility - again.susceptibility).norm() < 0.005 * found.susceptibility.norm()


def test_total_variation_is_medi_without_edges(sphere):
    """One voxel in a mask after another counts, whatever the magnitude."""
    flat = {"regularisation": 2e-4, "nonlinear": False}
    given = {"noise": sphere["noise"], "mask": sphere["mask"], **SPACE}
    found = invert_tv(sphere["field"], settings=TvSettings(**flat), **given)
    same = medi(sphere, MediSettings(**flat, edge_fraction=0.0))
    assert torch.equal(found.susceptibility, same.susceptibility)
    assert not torch.equal(found.susceptibility, medi(sphere, MediSettings(**flat)).susceptibility)


def test_edges_are_the_wanted_fraction():
    """Of all differences inside the mask; along each axis by its own voxel size."""
    magnitude, mask = torch.rand(20, 22, 24), torch.ones(20, 22, 24, dtype=torch.bool)
    mask[:3] = False
    inner = edge_free(magnitude, mask=mask, voxel_size=(1, 1, 1), edge_fraction=0.0)
    for fraction in (0.1, 0.3, 1.0):
        smooth = edge_free(magnitude, mask=mask, voxel_size=(1, 1, 1), edge_fraction=fraction)
        assert 1 - smooth.sum() / inner.sum() == pytest.approx(fraction, abs=1e-3)
    stretched = edge_free(magnitude, mask=mask, voxel_size=(1, 100, 1), edge_fraction=0.3)
    assert stretched[1].sum() == inner[1].sum() and stretched[0].sum() < inner[0].sum()


def test_settings_name_every_problem():
    """All that is out of range is named at once."""
    with pytest.raises(ValueError) as caught:
        MediSettings(regularisation=0, edge_fraction=2, smv_radius=-1, tolerance=1, max_iterations=0)
    for name in ("regularisation", "edge_fraction", "smv_radius", "tolerance", "max_iterations"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "settings, changed, match",
    [
        (SIMULATION, {"radian_per_ppm": None}, "radian_per_ppm"),
        (replace(SIMULATION, csf_regularisation=1.0), {}, "csf_mask"),
        (replace(SIMULATION, smv_radius=30.0), {}, "positive finite noise"),
        (SIMULATION, {"mask": torch.zeros(SHAPE, dtype=torch.bool)}, "mask is empty"),
        (SIMULATION, {"field": torch.full(SHAPE, float("nan"))}, "not finite"),
    ],
)
def test_missing_input_is_named(sphere, settings, changed, match):
    """What the settings need and is not there."""
    with pytest.raises(ValueError, match=match):
        medi(sphere, settings, **changed)
