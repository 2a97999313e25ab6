"""The sign of the phase from fields of brains with iron, veins and myelin."""

import pytest
import torch
from scipy.stats import rankdata

from qsmflow.core.dipole import dipole_field
from qsmflow.core.masks import erode
from qsmflow.core.phase_sign import detect_phase_sign, susceptibility_r2star_correlation

VOXEL = (2.5, 2.5, 3.0)
B0 = (0.0, 0.3, 0.954)


@pytest.fixture(scope="module")
def brain():
    """Susceptibility in ppm, R2* in 1/s, mask; white matter is diamagnetic and relaxes faster than cortex."""
    generator = torch.Generator().manual_seed(1)
    shape = (56, 64, 40)
    axes = [(torch.arange(n) - (n - 1) / 2) * edge for n, edge in zip(shape, VOXEL, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    depth = ((x / 62) ** 2 + (y / 74) ** 2 + (z / 54) ** 2).sqrt()
    mask = depth < 1
    white = (depth < 0.8) & (torch.sin(x / 7) * torch.cos(y / 9) + torch.sin(z / 8) > -0.4)
    susceptibility = torch.where(white, -0.03, 0.02)
    r2star = torch.where(white, 20.0, 15.0)
    nuclei = [  # middle and half axes in mm, susceptibility in ppm, R2* in 1/s
        ((16, 6, 0), (5, 8, 7), 0.13, 40.0),
        ((24, 8, 2), (6, 14, 10), 0.06, 28.0),
        ((11, 18, 10), (5, 12, 9), 0.05, 25.0),
        ((8, -8, -14), (4, 5, 5), 0.13, 38.0),
    ]
    for side in (-1, 1):
        for centre, radii, chi, rate in nuclei:
            terms = zip((side * x, y, z), centre, radii, strict=True)
            nucleus = sum(((a - c) / r) ** 2 for a, c, r in terms) < 1
            susceptibility[nucleus], r2star[nucleus] = chi, rate
        vein = ((side * x - 20) ** 2 + (z - 24) ** 2 < 9) & (depth < 0.95)
        susceptibility[vein], r2star[vein] = 0.25, 55.0
    sinus = torch.exp(-((x / 15) ** 2 + ((y - 60) / 15) ** 2 + ((z + 35) / 12) ** 2))
    r2star[depth > 0.96] += 60  # air and bone beyond the surface
    r2star = r2star + 80 * sinus + 3 * torch.randn(shape, generator=generator)
    return torch.where(mask, susceptibility, 0), r2star.clamp(min=0), mask


def local_field(susceptibility, mask, noise=0.003):
    field = dipole_field(susceptibility, voxel_size=VOXEL, b0_direction=B0)
    return torch.where(mask, field + noise * torch.randn(mask.shape), 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_iron_and_veins_tell_the_sign(brain, sign):
    susceptibility, r2star, mask = brain
    field = sign * local_field(susceptibility, mask)
    found = detect_phase_sign(field, r2star=r2star, mask=mask, voxel_size=VOXEL, b0_direction=B0)
    assert (found.sign, found.certain) == (sign, True)
    assert sign * found.correlation > 0.3


def test_the_two_signs_mirror_each_other_in_any_unit(brain):
    susceptibility, r2star, mask = brain
    field = local_field(susceptibility, mask)
    plus, minus = (
        detect_phase_sign(scale * field, r2star=r2star, mask=mask, voxel_size=VOXEL, b0_direction=B0)
        for scale in (1, -128)
    )
    assert plus.correlation == pytest.approx(-minus.correlation, abs=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_field_of_noise_leaves_the_sign_alone_and_uncertain(brain, sign):
    _, r2star, mask = brain
    field = sign * local_field(torch.zeros(mask.shape), mask)
    found = detect_phase_sign(field, r2star=r2star, mask=mask, voxel_size=VOXEL, b0_direction=B0)
    assert (found.sign, found.certain) == (1, False)
    assert abs(found.correlation) < 0.1


def test_a_single_echo_leaves_the_sign_uncertain(brain):
    susceptibility, _, mask = brain
    field = -local_field(susceptibility, mask)
    found = detect_phase_sign(field, r2star=None, mask=mask, voxel_size=VOXEL, b0_direction=B0)
    assert (found.sign, found.correlation, found.certain) == (1, 0.0, False)


def test_myelin_does_not_turn_the_correlation_over(brain):
    susceptibility, r2star, mask = brain
    inner = erode(mask, radius=6, voxel_size=VOXEL)
    values, rates = susceptibility[inner], r2star[inner]
    low = rates < 25
    assert float(torch.corrcoef(torch.stack([values[low], rates[low]]))[0, 1]) < -0.2
    assert susceptibility_r2star_correlation(susceptibility, r2star, inner) > 0.5


def test_rank_biserial_correlation_counts_pairs():
    susceptibility = torch.tensor([[[0.0, 1.0, 2.0, 3.0, 2.5]]])
    r2star = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 50.0]]])
    mask = torch.ones(1, 1, 5, dtype=torch.bool)
    assert susceptibility_r2star_correlation(susceptibility, r2star, mask, highest=0.2) == pytest.approx(
        (3 - 1) / 4
    )


@pytest.mark.parametrize("n_levels", [3, 20, 10**6])
@pytest.mark.parametrize("highest", [0.02, 0.3, 1])
def test_rank_biserial_correlation_is_a_difference_of_mean_ranks(n_levels, highest):
    susceptibility, r2star = (torch.randint(n_levels, (9, 8, 7)).float() for _ in range(2))
    ranks, rates = (rankdata(image.flatten()) for image in (susceptibility, r2star))
    high = rates > (1 - highest) * ranks.size
    expected = (
        0 if high.all() or not high.any() else 2 * (ranks[high].mean() - ranks[~high].mean()) / ranks.size
    )
    mask = torch.ones(9, 8, 7, dtype=torch.bool)
    found = susceptibility_r2star_correlation(susceptibility, r2star, mask, highest=highest)
    assert found == pytest.approx(expected, abs=1e-12)


def test_r2star_without_contrast_tells_nothing():
    mask = torch.ones(4, 4, 4, dtype=torch.bool)
    assert susceptibility_r2star_correlation(torch.randn(4, 4, 4), torch.ones(4, 4, 4), mask) == 0


def test_an_empty_mask_is_refused():
    empty = torch.zeros(4, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="empty"):
        susceptibility_r2star_correlation(torch.zeros(4, 4, 4), torch.zeros(4, 4, 4), empty)
