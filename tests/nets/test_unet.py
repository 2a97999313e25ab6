"""What the U-Net must do whatever its weights."""

import pytest
import torch

from qsmflow.nets.blocks import folded, unfolded
from qsmflow.nets.unet import UNet, UNetSettings


def seeded(settings: UNetSettings) -> UNet:
    torch.manual_seed(0)
    network = UNet(settings).eval()
    torch.nn.init.normal_(network.head.weight, std=0.3)
    return network


def test_a_fresh_residual_network_returns_its_first_channels():
    network = UNet(UNetSettings(in_channels=3, out_channels=2, channels=(2, 4)))
    image = torch.randn(1, 3, 8, 8, 8)
    assert torch.equal(network(image), image[:, :2])


def test_without_residual_the_image_does_not_pass_through():
    network = seeded(UNetSettings(channels=(2, 4), residual=False))
    image = torch.randn(1, 1, 8, 8, 8)
    same = seeded(UNetSettings(channels=(2, 4), residual=True))
    torch.testing.assert_close(same(image), image + network(image))


def test_folding_is_undone():
    image = torch.randn(2, 3, 4, 6, 8)
    blocks = folded(image, 2)
    assert blocks.shape == (2, 24, 2, 3, 4)
    # All voxels of one block are channels of one voxel.
    assert torch.equal(
        blocks[1, 8:16, 1, 2, 0].sort().values, image[1, 1, 2:4, 4:6, 0:2].flatten().sort().values
    )
    assert torch.equal(unfolded(blocks, 2), image)


@pytest.mark.parametrize("fold", [1, 2])
def test_every_level_is_reached(fold):
    network = seeded(UNetSettings(channels=(2, 3, 4), fold=fold))
    network(torch.randn(1, 1, 8, 8, 8)).square().sum().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in network.parameters())


def test_shift_by_the_stride_shifts_what_comes_out():
    settings = UNetSettings(channels=(2, 4, 4))
    network = seeded(settings)
    image = torch.zeros(1, 1, 64, 8, 8)
    image[:, :, 24:32] = torch.randn(1, 1, 8, 8, 8)
    moved = image.roll(settings.stride, dims=2)
    # Far from the ends, where zeros are padded.
    torch.testing.assert_close(
        network(moved)[:, :, 20:44], network(image).roll(settings.stride, dims=2)[:, :, 20:44]
    )


def test_scale_changes_nothing_but_the_biases():
    plain, scaled = (seeded(UNetSettings(channels=(2, 4), scale=scale)) for scale in (1.0, 10.0))
    image = torch.randn(1, 1, 8, 8, 8)
    for network in (plain, scaled):
        for module in network.upsamplers:
            torch.nn.init.zeros_(module.bias)
    # Without biases a network of rectifiers is homogeneous.
    torch.testing.assert_close(plain(image), scaled(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "fold", "stride"), [((4,), 1, 1), ((4, 4), 1, 2), ((4, 4, 4), 2, 8)])
def test_stride(channels, fold, stride):
    assert UNetSettings(channels=channels, fold=fold).stride == stride


def test_rounding_to_bfloat16_spares_what_passes_through():
    network = UNet(UNetSettings(channels=(2, 4)))
    image = 0.1 + 1e-4 * torch.rand(1, 1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        made = network(image)
    assert made.dtype == torch.float32
    assert torch.equal(made, image)


def neighbours(reach=(1, 3), **changes) -> UNetSettings:
    return UNetSettings(channels=(2, 4), reach=reach, **changes)


def test_a_fresh_network_that_weighs_neighbours_changes_nothing():
    image = torch.randn(2, 1, 8, 16, 8)
    assert torch.equal(UNet(neighbours())(image), image)


@pytest.mark.parametrize("fold", [1, 2])
def test_neighbours_are_weighed_by_what_the_head_gives(fold):
    """With weights that are the same everywhere the network is a filter."""
    network = UNet(neighbours(fold=fold))
    weights = torch.randn(network.settings.maps)
    with torch.no_grad():
        network.head.bias.copy_(weights.repeat_interleave(fold**3))
    image = torch.zeros(1, 1, 16, 16, 16)
    image[0, 0, 8, 7, 8] = 1
    answer = network(image).detach()[0, 0]
    _, small, large, *along = weights.tolist()
    assert float(answer[8, 7, 8]) == pytest.approx(
        1 - sum(weights.tolist()) + small / 3**3 + large / 5**3, abs=1e-5
    )
    # The voxel before and after it, one and three away, in the order of the axes.
    cube = small / 27 + large / 125
    steps = [(1, 0), (-1, 1), (3, 2), (-3, 3)]
    for axis in range(3):
        for shift, which in steps:
            at = [8, 7, 8]
            at[axis] += shift
            expected = along[4 * axis + which] + (cube if abs(shift) == 1 else 0)
            assert float(answer[tuple(at)]) == pytest.approx(expected, abs=1e-5)


def test_nothing_comes_from_nothing():
    network = seeded(neighbours())
    image = torch.zeros(1, 1, 16, 16, 16)
    assert not network(image).any()


def test_neighbours_need_one_map_that_is_added_to():
    for wrong in ({"residual": False}, {"out_channels": 2}):
        with pytest.raises(ValueError, match="reach needs"):
            neighbours(**wrong)


GAUGED = UNetSettings(channels=(2, 4), severity=(3, 5))


def test_what_is_told_of_severity_changes_the_result():
    network = seeded(GAUGED)
    image = torch.randn(2, 1, 8, 8, 8)
    mild, severe, mixed = (network(image, severity=torch.tensor(s)).detach() for s in (0.1, 0.9, [0.1, 0.9]))
    assert float((mild - severe).abs().max()) > 1e-3
    torch.testing.assert_close(mixed, torch.stack([mild[0], severe[1]]))


def test_severity_is_gauged_in_one_map():
    with pytest.raises(ValueError, match="severity needs"):
        UNetSettings(in_channels=2, severity=(3, 5))
