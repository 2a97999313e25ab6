"""Samples that DeepQSM learns from."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from qsmflow.core.dipole import dipole_field
from qsmflow.sim.canvas import LABELS
from qsmflow.train.fields import (
    FieldBatches,
    FieldSettings,
    Geometry,
    Head,
    HeadSources,
    ShapeSources,
    Sources,
    area_weights,
    draw_geometry,
    fibre_field,
    imperfections,
    smooth_field,
)
from qsmflow.train.lessons import positioned

SMALL = FieldSettings(shapes=((16, 16, 12), (12, 16, 16)))
AXIAL = Geometry((16, 16, 16), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))


def batches(**changes) -> FieldBatches:
    settings = {"makers": [ShapeSources()], "weights": [1], "settings": SMALL, "batch_size": 2, "seed": 3}
    return FieldBatches(**(settings | changes))


def ball(size: int = 40, *, radius: float = 16.0) -> Head:
    axis = torch.arange(size) - (size - 1) / 2
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    mask = distance < radius
    susceptibility = torch.where(distance < 6, 0.3, 0.0) + 0.02 * torch.sin(axis)
    labels = torch.where(distance < 10, LABELS["white matter"], LABELS["air"]).to(torch.uint8)
    return Head(torch.where(mask, susceptibility, 0).half(), mask, torch.where(mask, labels, 0))


@pytest.mark.parametrize("maker", [ShapeSources(), HeadSources([ball()])])
def test_flawless_field_is_that_of_the_susceptibility(maker):
    settings = dataclasses.replace(SMALL, flawless=1.0, thick=0.0, coarseness=(1, 1), zoom=(1, 1))
    batch = batches(makers=[maker], settings=settings).batch(0)
    for index in range(2):
        mask, chi, field = (batch[name][index, 0] for name in ("mask", "susceptibility", "field"))
        assert not chi[mask == 0].any() and not field[mask == 0].any()
        assert abs(float(chi[mask > 0].mean())) < 1e-5
        grid = (*batch["kernel"].shape[1:3], 2 * (batch["kernel"].shape[3] - 1))
        made = torch.fft.irfftn(torch.fft.rfftn(chi, s=grid) * batch["kernel"][index], s=grid)
        made = mask * made[tuple(slice(size) for size in chi.shape)]
        torch.testing.assert_close(field, made, rtol=0, atol=1e-6)


def test_kernel_is_that_of_the_geometry():
    """A convolution by it is the dipole field, but for the wrap-around of a smaller padding."""
    geometry = Geometry((16, 12, 16), (1.0, 1.5, 1.0), (0.6, 0.0, 0.8))
    chi = torch.zeros(geometry.shape)
    chi[7:9, 5:7, 7:9] = 1
    grid = geometry.grid
    made = torch.fft.irfftn(torch.fft.rfftn(chi, s=grid) * geometry.kernel(), s=grid)[:16, :12, :16]
    wide = dipole_field(
        chi, voxel_size=geometry.voxel_size, b0_direction=geometry.b0_direction, padding=(48, 48, 48)
    )
    assert float((made - wide).abs().max()) < 0.01 * float(wide.abs().max())


def test_coarse_voxels_see_the_mean_of_the_fine_field():
    fine = Geometry((32, 32, 32), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
    geometry = dataclasses.replace(fine, shape=(16, 16, 16), voxel_size=(2.0, 2.0, 2.0))
    assert geometry.fine == fine
    head = ball(32, radius=20)
    settings = dataclasses.replace(SMALL, contrast=(1, 1))
    sources = HeadSources([head]).draw(geometry, settings, np.random.default_rng(0))
    # The middle ball of 0.3 ppm and 6 mm is seen in coarse voxels with its strength.
    top = sources.susceptibility.max() - sources.susceptibility[sources.mask > 0].median()
    assert 0.28 < float(top) < 0.34


def test_batches_depend_on_seed_and_index_alone():
    first, again, other = batches().batch(4), batches().batch(4), batches(seed=4).batch(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["kernel"], other["kernel"])
    stream = next(iter(positioned(batches(), start=4)))
    assert torch.equal(stream["field"], first["field"])


def test_ranks_take_turns():
    alone = [batches().batch(index)["field"] for index in range(4)]
    shared = [
        next(islice(positioned(batches(), start=0, rank=r, ranks=2), n, None))["field"]
        for n in range(2)
        for r in range(2)
    ]
    assert all(torch.equal(one, other) for one, other in zip(alone, shared, strict=True))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_take_turns():
    loader = DataLoader(batches(), batch_size=None, num_workers=2)
    loaded = [batch["field"] for batch in islice(loader, 4)]
    alone = [batches().batch(index)["field"] for index in range(4)]
    assert all(torch.equal(one, other) for one, other in zip(loaded, alone, strict=True))


def test_geometry_keeps_to_the_settings():
    settings = FieldSettings(thick=0.5, tilt=20.0)
    drawn = [draw_geometry(settings, np.random.default_rng(seed)) for seed in range(200)]
    directions = np.array([geometry.b0_direction for geometry in drawn])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    axial = np.mean(directions[:, 2] >= np.cos(np.deg2rad(20)))
    assert 0.55 < axial < 0.8  # two of three, and some of the others by chance
    thick = [geometry for geometry in drawn if len(set(geometry.voxel_size)) > 1]
    assert 0.4 < len(thick) / 200 < 0.6
    assert all(1.2 <= max(geometry.voxel_size) <= 3.0 for geometry in thick)


def test_remainders_of_outside_sources_are_harmonic_inside():
    settings = dataclasses.replace(SMALL, noise=(1e-12, 1e-11), anisotropy=0.0, offset=0.0)
    geometry = Geometry((32, 32, 32), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
    mask = ball(32, radius=13).mask.float()
    field = mask * smooth_field(geometry.shape, np.random.default_rng(1), knots=4)
    sources = Sources(torch.zeros_like(mask), field, mask)
    left = imperfections(sources, geometry, settings, np.random.default_rng(2))
    assert 0 < float(left[mask > 0].std()) <= settings.background * float(field[mask > 0].std()) * 1.0001
    deep = ball(32, radius=9).mask
    # ∇² of a field of outside sources vanishes; the smooth field's own does not.
    smooth, rough = (_laplacian(image)[deep].std() / image[deep].std() for image in (left, field))
    assert float(smooth) < 0.3 * float(rough)


def _laplacian(image: torch.Tensor) -> torch.Tensor:
    return sum(image.roll(step, axis) for axis in range(3) for step in (-1, 1)) - 6 * image


def test_noise_has_its_size():
    settings = dataclasses.replace(SMALL, noise=(2e-3, 2.0001e-3), background=0.0, anisotropy=0.0, offset=0.0)
    mask = torch.ones(AXIAL.shape)
    sources = Sources(mask, 0.01 * torch.randn(AXIAL.shape), mask)
    noise = imperfections(sources, AXIAL, settings, np.random.default_rng(0))
    assert 1e-3 < float(noise.std()) < 6e-3
    assert abs(float(noise.mean())) < 3e-4


def test_fibres_along_b0_make_the_field_of_an_isotropic_difference():
    """With v = b the magnetisation is 2/3 of the difference along b, as for 2/3 ppm of isotropic tissue."""

    class Along:
        """Knots that are zero but along the third axis."""

        def __init__(self):
            self.calls = 0

        def standard_normal(self, shape, dtype):
            self.calls += 1
            return np.full(shape, float(self.calls == 3), dtype=dtype)

    tissue = ball(16, radius=5).mask.float()
    made = fibre_field(tissue, AXIAL, Along())
    grid = AXIAL.grid
    expected = torch.fft.irfftn(torch.fft.rfftn(2 / 3 * tissue, s=grid) * AXIAL.kernel(), s=grid)
    expected = expected[:16, :16, :16]
    difference = (made - expected) - (made - expected).mean()
    assert float(difference.abs().max()) < 0.01 * float(expected.abs().max())


def test_averages_keep_the_sum():
    for size, length in ((3, 7), (5, 5), (4, 10)):
        weights = area_weights(size, length)
        torch.testing.assert_close(weights.sum(1), torch.ones(size))
        torch.testing.assert_close(weights.sum(0), torch.full((length,), size / length))
