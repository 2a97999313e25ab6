from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from qsmflow.core.dipole import dipole_field
from qsmflow.sim.random_shapes import (
    SHAPE_KINDS,
    ShapeConvolution,
    ShapeKind,
    Shapes,
    ShapeSettings,
    draw_shapes,
    render_shapes,
    stream_shapes,
)

SMALL = ShapeSettings(shape=(16, 12, 10), n_shapes=(3, 8), b0_cone=180)
TILTED = torch.tensor([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])


def one_shape(round_axes, extent, *, rotation=None, center=(0.3, -0.4, 0.2), susceptibility=1.0):
    return Shapes(
        center=torch.tensor([center]),
        rotation=torch.eye(3)[None] if rotation is None else rotation[None],
        extent=torch.tensor([extent]),
        round_axes=torch.tensor([round_axes]),
        susceptibility=torch.tensor([susceptibility]),
        b0_direction=torch.tensor([0.0, 0.0, 1.0]),
    )


@pytest.mark.parametrize("rotation", [None, TILTED], ids=["straight", "tilted"])
@pytest.mark.parametrize(
    ("round_axes", "extent", "volume"),
    [
        (1, (7.0, 12.0, 5.0), 7 * 12 * 5),
        (2, (6.0, 6.0, 17.0), np.pi * 9 * 17),
        (3, (9.0, 9.0, 9.0), np.pi / 6 * 9**3),
        (3, (6.0, 9.0, 14.0), np.pi / 6 * 6 * 9 * 14),
    ],
    ids=["box", "rod", "sphere", "ellipsoid"],
)
@pytest.mark.parametrize("voxel_size", [(1.0, 1.0, 1.0), (0.8, 0.8, 1.6)], ids=["cubes", "slices"])
def test_shapes_have_their_volume(round_axes, extent, volume, rotation, voxel_size):
    sample = one_shape(round_axes, extent, rotation=rotation)
    image = render_shapes([sample], shape=(30, 30, 22), voxel_size=voxel_size)[0]
    assert image.max() == 1 and image.min() == 0
    assert float(image.sum()) * np.prod(voxel_size) == pytest.approx(volume, rel=0.01)


def test_rotation_turns_the_long_axis():
    # The columns of the rotation are the axes of the shape: the third is where a rod points.
    sample = one_shape(2, (3.0, 3.0, 24.0), rotation=TILTED, center=(0.0, 0.0, 0.0))
    image = render_shapes([sample], shape=(31, 31, 31), voxel_size=(1, 1, 1))[0]
    points = image.nonzero().float() - 15
    _, vectors = torch.linalg.eigh(points.T @ points)
    assert abs(float(vectors[:, 2] @ TILTED[:, 2])) == pytest.approx(1, abs=1e-3)


def test_edges_are_a_voxel_wide():
    # A face at 3.2 mm of its centre cuts the fourth voxel, from 2.5 to 3.5 mm, at 70 %.
    sample = one_shape(1, (6.4, 6.4, 6.4), center=(0.0, 0.0, 0.0))
    line = render_shapes([sample], shape=(13, 13, 13), voxel_size=(1, 1, 1))[0, 6:, 6, 6]
    assert line.tolist() == pytest.approx([1, 1, 1, 0.7, 0, 0, 0], abs=1e-5)


def test_small_shapes_lie_on_large_ones():
    large = one_shape(3, (16.0, 16.0, 16.0), center=(0.0, 0.0, 0.0))
    small = one_shape(1, (4.0, 4.0, 4.0), center=(0.0, 0.0, 0.0), susceptibility=-3.0)
    names = ("center", "rotation", "extent", "round_axes", "susceptibility")
    both = replace(large, **{name: torch.cat([getattr(large, name), getattr(small, name)]) for name in names})
    image = render_shapes([both], shape=(21, 21, 21), voxel_size=(1, 1, 1))[0]
    assert image[10, 10, 10] == -3 and image[10, 10, 15] == 1


def single_shapes(shapes):
    """Each shape of a sample as a sample of its own, with a susceptibility of 1 ppm."""
    for row in range(len(shapes.extent)):
        names = ("center", "rotation", "extent", "round_axes")
        own = {name: getattr(shapes, name)[row : row + 1] for name in names}
        yield replace(shapes, **own, susceptibility=torch.ones(1))


def test_shapes_are_painted_one_over_the_other():
    settings = ShapeSettings(shape=(21, 18, 26), n_shapes=(30, 30))
    shapes = draw_shapes(settings, seed=2, index=0)
    frame = {"shape": settings.shape, "voxel_size": settings.voxel_size}
    expected = torch.zeros(settings.shape)
    for single, value in zip(single_shapes(shapes), shapes.susceptibility, strict=True):
        expected = torch.lerp(expected, value, render_shapes([single], **frame)[0])
    torch.testing.assert_close(render_shapes([shapes], **frame)[0], expected, atol=1e-6, rtol=0)


def test_no_tile_of_a_shape_is_missed(monkeypatch):
    settings = ShapeSettings(shape=(20, 20, 20), voxel_size=(0.7, 1.0, 1.9), n_shapes=(30, 30))
    samples = list(single_shapes(draw_shapes(settings, seed=5, index=0)))
    frame = {"shape": settings.shape, "voxel_size": settings.voxel_size}
    tiled = render_shapes(samples, **frame)
    monkeypatch.setattr("qsmflow.sim.random_shapes._TILE", 20)
    torch.testing.assert_close(tiled, render_shapes(samples, **frame), atol=1e-4, rtol=0)


def test_drawn_shapes_are_sorted_by_their_reach_and_keep_to_the_settings():
    settings = ShapeSettings(n_shapes=(50, 60), kinds=(SHAPE_KINDS["rod"], SHAPE_KINDS["sphere"]))
    shapes = draw_shapes(settings, seed=4, index=2)
    assert 50 <= len(shapes.extent) <= 60
    rods = shapes.round_axes == 2
    assert rods.any() and not rods.all()
    assert bool((shapes.extent[:, 0] == shapes.extent[:, 1]).all())
    assert bool((shapes.extent[~rods, 0] == shapes.extent[~rods, 2]).all())
    assert shapes.extent[rods, 2].min() >= 10 and shapes.extent[rods, :2].max() <= 6
    assert bool((shapes.center.abs() <= 32).all())
    torch.testing.assert_close(
        shapes.rotation @ shapes.rotation.mT, torch.eye(3).expand(len(rods), 3, 3), atol=1e-5, rtol=0
    )
    assert bool((torch.linalg.det(shapes.rotation) > 0).all())
    longest = shapes.extent[~rods, 2]
    assert all(first >= second for first, second in pairwise(longest.tolist()))


def test_susceptibilities_have_their_deviation():
    settings = ShapeSettings(n_shapes=(4000, 4000), susceptibility=0.25)
    values = draw_shapes(settings, seed=0, index=0).susceptibility
    assert float(values.std()) == pytest.approx(0.25, rel=0.04)
    assert abs(float(values.mean())) < 4 * 0.25 / 4000**0.5


@pytest.mark.parametrize("cone", [0.0, 30.0, 180.0])
def test_directions_fill_their_cone(cone):
    settings = ShapeSettings(n_shapes=(0, 0), b0_direction=(0.0, 3.0, 4.0), b0_cone=cone)
    drawn = torch.stack([draw_shapes(settings, seed=1, index=i).b0_direction for i in range(300)])
    cosine = drawn @ torch.tensor([0.0, 0.6, 0.8])
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(300))
    limit = np.cos(np.deg2rad(cone))
    assert float(cosine.min()) >= limit - 1e-5
    # Uniform over the solid angle: the cosine is uniform.
    assert float(cosine.mean()) == pytest.approx((1 + limit) / 2, abs=1e-5 + 0.06 * (1 - limit))


def test_same_sample_whatever_the_batch():
    single = list(islice(stream_shapes(SMALL, seed=3, batch_size=1), 6))
    pairs = list(islice(stream_shapes(SMALL, seed=3, start=2, batch_size=2), 2))
    for name in ("susceptibility", "field", "b0_direction"):
        expected = torch.cat([getattr(batch, name) for batch in single[2:]])
        assert torch.equal(torch.cat([getattr(batch, name) for batch in pairs]), expected)


def test_samples_and_streams_differ():
    images = [draw_shapes(SMALL, seed=seed, index=i).center[:3] for seed in range(3) for i in range(3)]
    for i, image in enumerate(images):
        assert not any(torch.equal(image, other) for other in images[:i])


def test_field_is_that_of_the_dipole():
    batch = next(stream_shapes(SMALL, seed=1, batch_size=3))
    padding = tuple(3 * size for size in SMALL.shape)
    for chi, field, direction in zip(batch.susceptibility, batch.field, batch.b0_direction, strict=True):
        expected = dipole_field(chi, voxel_size=SMALL.voxel_size, b0_direction=direction, padding=padding)
        torch.testing.assert_close(field, expected, atol=3e-6 * float(expected.abs().max()), rtol=0)


def test_field_takes_voxel_size_and_direction_into_account():
    chi = torch.zeros(2, 10, 12, 8)
    chi[:, 3:6, 5:9, 2:5] = 1
    directions = torch.tensor([[0.36, 0.48, -0.8], [0.0, 0.0, 1.0]])
    fields = ShapeConvolution((10, 12, 8), voxel_size=(1, 1, 2))(chi, b0_direction=directions)
    for field, direction in zip(fields, directions, strict=True):
        expected = dipole_field(chi[0], voxel_size=(1, 1, 2), b0_direction=direction, padding=(30, 36, 24))
        torch.testing.assert_close(field, expected, atol=2e-6, rtol=0)


def test_nothing_wraps_round():
    # A sphere at one face: at the opposite one its field is that on a grid ten times as large.
    shape, direction = (20, 20, 20), torch.tensor([[0.0, 0.6, 0.8]])
    sphere = one_shape(3, (8.0, 8.0, 8.0), center=(-7.0, 0.0, 0.0))
    chi = render_shapes([sphere], shape=shape, voxel_size=(1, 1, 1))
    field = ShapeConvolution(shape, voxel_size=(1, 1, 1))(chi, b0_direction=direction)[0]
    alone = dipole_field(chi[0], voxel_size=(1, 1, 1), b0_direction=direction[0], padding=(180,) * 3)
    assert float((field - alone).abs().max()) < 1e-3 * float(alone.abs().max())
    assert float((field - alone)[-1].abs().max()) < 0.1 * float(alone[-1].abs().max())


def test_samples_without_shapes_are_empty():
    batch = next(stream_shapes(replace(SMALL, n_shapes=(0, 0)), batch_size=2))
    assert batch.field.shape == (2, 16, 12, 10)
    assert float(batch.field.abs().max()) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_shapes": (5, 4)},
        {"b0_cone": 200.0},
        {"b0_direction": (0.0, 0.0, 0.0)},
        {"voxel_size": (1.0, 1.0, 2.5)},
        {"kinds": ()},
    ],
)
def test_settings_refuse_nonsense(wrong):
    with pytest.raises(ValueError):
        ShapeSettings(**wrong)


@pytest.mark.parametrize("wrong", [(4, ((2.0, 3.0),)), (1, ()), (1, ((3.0, 2.0),)), (1, ((0.0, 2.0),))])
def test_kinds_refuse_nonsense(wrong):
    with pytest.raises(ValueError):
        ShapeKind(*wrong)


def test_stream_refuses_empty_batches():
    with pytest.raises(ValueError, match="batch"):
        next(stream_shapes(SMALL, batch_size=0))
