"""Networks on volumes: geometry, tiles, resampling and memory, with random weights of the right size."""

import math

import pytest
import torch

from qsmflow.core.dipole import dipole_field
from qsmflow.nets.budget import PRENET_BYTES
from qsmflow.nets.bundle import Bundle, load_bundle, shipped_models
from qsmflow.nets.card import ModelCard, VoxelRange
from qsmflow.nets.predict import VOLUME_BYTES, correct_motion, predict_susceptibility
from qsmflow.nets.resampling import Grid, allowed_grid, resized_in_mask
from qsmflow.nets.severity import log_severity
from qsmflow.nets.tiling import Progress, Tiles, cut, run_tiled, usable_precision

SETTINGS = {
    "deepqsm": {"stages": 1, "channels": (2, 4)},
    "unet": {"channels": (2, 4)},
    "prenet": {"channels": 2, "recursions": 2, "blocks": 1},
}
CPU = torch.device("cpu")


def random_bundle(architecture: str, *, amount: float = 0.3, settings: dict | None = None) -> Bundle:
    """A network that does something; a fresh one leaves images as they are."""
    card = ModelCard.untrained(
        architecture,
        SETTINGS[architecture] if settings is None else settings,
        name=f"random-{architecture}",
        voxel_range=VoxelRange(finest=0.8, coarsest=2.0, anisotropy=2.0),
    )
    network = card.build().eval()
    for name, parameter in network.named_parameters():
        if amount and {"head", "exit"} & set(name.split(".")):
            torch.nn.init.normal_(parameter, std=amount)
    return Bundle(network, card)


def ball(shape=(20, 18, 16), *, radius=6.5, centre=None) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(float(size)) for size in shape], indexing="ij")
    centre = centre or [(size - 1) / 2 for size in shape]
    return sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)) < radius**2


def predicted(field, mask, bundle, **changes):
    given = {"voxel_size": (1, 1, 1), "b0_direction": (0, 0, 1), "precision": "float32"} | changes
    return predict_susceptibility(field, mask=mask, bundle=bundle, **given)


def corrected(chi, mask, **changes):
    given = {"voxel_size": (1, 1, 1), "precision": "float32"} | changes
    given = {"unet": random_bundle("unet"), "prenet": random_bundle("prenet")} | given
    return correct_motion(chi, mask=mask, **given)


@pytest.mark.parametrize(
    ("voxel_size", "b0_direction"),
    [((1, 1, 1), (0, 0, 1)), ((1, 1, 2), (0, 0.6, 0.8)), ((1.5, 1, 1), (1, 0, 0))],
)
def test_voxel_size_and_b0_reach_the_kernel(voxel_size, b0_direction):
    mask = ball(radius=7.5)
    chi = 0.1 * ball(radius=4).float()
    frame = {"voxel_size": voxel_size, "b0_direction": b0_direction}
    field = dipole_field(chi, **frame)
    bundle = random_bundle("deepqsm", amount=0)

    def error(**used):
        found = predicted(field, mask, bundle, **used).susceptibility
        difference = (found - chi)[mask]
        return float((difference - difference.mean()).norm() / chi[mask].norm())

    right = error(**frame)
    assert right < 0.45
    wrong = b0_direction[1:] + b0_direction[:1]
    assert error(voxel_size=voxel_size, b0_direction=wrong) > 2 * right
    if voxel_size != (1, 1, 1):
        assert error(voxel_size=(1, 1, 1), b0_direction=b0_direction) > right


def test_what_lies_outside_the_mask_has_no_say():
    field, mask, bundle = 0.1 * torch.randn(20, 18, 16), ball(), random_bundle("deepqsm")
    found = predicted(field, mask, bundle).susceptibility
    assert found.shape == mask.shape
    assert not found[~mask].any()
    broken = torch.where(mask, field, math.nan)
    assert torch.equal(predicted(broken, mask, bundle).susceptibility, found)
    moved = predicted(field.roll(1, 0), mask.roll(1, 0), bundle).susceptibility
    assert torch.equal(moved.roll(-1, 0), found)


def test_a_prediction_is_repeatable_and_leaves_training_possible():
    field, mask, bundle = 0.1 * torch.randn(20, 18, 16), ball(), random_bundle("deepqsm")
    first, second = (predicted(field, mask, bundle).susceptibility for _ in range(2))
    assert torch.equal(first, second)
    assert all(not parameter.is_inference() for parameter in bundle.network.parameters())


def test_foreign_voxels_are_resampled_and_said():
    shape, mask = (32, 28, 24), ball((32, 28, 24), radius=10)
    # Smooth, so that the coarser grid holds it too.
    axes = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2 for size in shape], indexing="ij")
    chi = 0.1 * torch.exp(-sum(axis**2 for axis in axes) / (2 * 3**2))
    field = dipole_field(chi, voxel_size=(0.5, 0.5, 0.5), b0_direction=(0, 0, 1))
    bundle = random_bundle("deepqsm", amount=0)
    found = predicted(field, mask, bundle, voxel_size=(0.5, 0.5, 0.5))
    assert found.resampled_to == pytest.approx((10 / 12,) * 3)  # 20 voxels of 0.5 mm hold 12 of 0.8 mm
    assert not found.susceptibility[~mask].any()
    native = dict(vars(bundle.card), voxel_range=VoxelRange(finest=0.1, coarsest=2, anisotropy=2))
    native = Bundle(bundle.network, ModelCard(**native))
    exact = predicted(field, mask, native, voxel_size=(0.5, 0.5, 0.5))
    assert exact.resampled_to is None
    difference = (found.susceptibility - exact.susceptibility)[ball(shape, radius=8)]
    assert float(difference.square().mean().sqrt()) < 0.15 * float(exact.susceptibility[mask].std())


@pytest.mark.parametrize(
    ("edges", "wanted"),
    [
        ((1, 1, 1), None),
        ((0.7999, 0.7999, 0.7999), None),
        ((0.4, 1, 1), (0.8, 1, 1)),
        ((1, 1, 4), (1, 1, 2)),
        ((3, 3, 3), (2, 2, 2)),
    ],
)
def test_grids_keep_their_field_of_view(edges, wanted):
    given = Grid((30, 30, 30), edges)
    found = allowed_grid(given, VoxelRange(finest=0.8, coarsest=2, anisotropy=2))
    assert found.voxel_size == pytest.approx(wanted or edges)
    for axis in range(3):
        assert found.shape[axis] * found.voxel_size[axis] == pytest.approx(30 * edges[axis])


def test_resampling_keeps_a_constant_to_the_edge_of_the_mask():
    mask = ball(radius=6)
    image, inside = resized_in_mask(torch.full(mask.shape, 0.3), mask, (12, 14, 20))
    deep = resized_in_mask(ball(radius=5).float(), mask, (12, 14, 20))[0] > 0.99
    assert float((image[deep] - 0.3).abs().max()) < 1e-5
    assert float((image[inside] - 0.3).abs().max()) < 0.05


def test_tiles_agree_with_the_whole():
    network = random_bundle("unet", settings={"channels": (4, 8, 16), "fold": 1}).network
    shape = (8, 8, 192)
    image = 0.1 * torch.randn(1, 1, *shape)
    tiles = Tiles(shape, (8, 8, 128), halo=32)
    with torch.inference_mode():
        whole = network(image)
        done = []
        progress = Progress(tiles.count, lambda *counts: done.append(counts))
        found = run_tiled(network, image, tiles=tiles, dtype=torch.float32, progress=progress)
    assert done == [(n, tiles.count) for n in range(1, tiles.count + 1)]
    # The border of a tile lies beyond the reach of most weights, not of all.
    assert float((found - whole).abs().max()) < 0.03 * float((whole - image).std())


def test_tiles_begin_at_multiples_of_the_stride():
    # A network that sees nothing but places modulo its stride, which any shift of a tile would reveal.
    network = torch.nn.AvgPool3d(8, stride=8)
    upsampled = torch.nn.Sequential(network, torch.nn.Upsample(scale_factor=8))
    shape = (104, 64, 80)
    tiles = cut(shape, stride=8, max_voxels=72**3)
    assert tiles.count > 1
    assert tiles.voxels <= 72**3
    image = torch.randn(1, 1, *shape)
    count = Progress(tiles.count, None)
    found = run_tiled(upsampled, image, tiles=tiles, dtype=torch.float32, progress=count)
    assert count.done == tiles.count
    assert float((found - upsampled(image)).abs().max()) < 1e-5


def test_memory_bounds_tiles_and_the_result_stays():
    mask = ball((16, 16, 130), radius=70, centre=(8, 8, 64))
    field = 0.1 * torch.randn(mask.shape)
    bundle = random_bundle("deepqsm", settings={"stages": 1, "channels": (4, 8), "fold": 1})
    whole = predicted(field, mask, bundle)
    steps = []
    tight = predicted(field, mask, bundle, memory_gb=0.03, progress=lambda *counts: steps.append(counts))
    assert (whole.tiles, tight.tiles > 1) == (1, True)
    assert steps[-1] == (tight.tiles, tight.tiles)
    assert float((tight.susceptibility - whole.susceptibility).abs().max()) < 1e-3
    with pytest.raises(
        ValueError, match=r"random-deepqsm needs 0\.03 GB for this volume, 0\.01 GB are given"
    ):
        predicted(field, mask, bundle, memory_gb=0.01)


def test_fresh_networks_change_nothing():
    chi, mask = 0.1 * torch.randn(20, 18, 16) + 0.2, ball()
    found = corrected(
        chi, mask, unet=random_bundle("unet", amount=0), prenet=random_bundle("prenet", amount=0)
    )
    assert found.severity < 1e-4
    torch.testing.assert_close(found.susceptibility, torch.where(mask, chi, 0))


def test_severity_is_the_size_of_the_change():
    chi, mask = 0.1 * torch.randn(20, 18, 16), ball()
    found = corrected(chi, mask)
    change, values = (found.susceptibility - chi)[mask], chi[mask]
    expected = 100 * (change - change.mean()).norm() / (values - values.mean()).norm()
    assert found.severity == pytest.approx(float(expected), rel=1e-4)
    assert found.severity > 1


def test_correction_does_not_depend_on_the_reference():
    chi, mask = 0.1 * torch.randn(20, 18, 16), ball()
    networks = {"unet": random_bundle("unet"), "prenet": random_bundle("prenet")}
    plain, shifted = corrected(chi, mask, **networks), corrected(chi + 0.5, mask, **networks)
    torch.testing.assert_close(
        shifted.susceptibility[mask], plain.susceptibility[mask] + 0.5, rtol=0, atol=1e-5
    )


def test_memory_splits_slices_and_the_result_stays():
    chi, mask = 0.1 * torch.randn(20, 18, 24), ball((20, 18, 24), radius=8.5)
    networks = {
        "unet": random_bundle("unet", settings={"channels": (1, 1)}),
        "prenet": random_bundle("prenet"),
    }
    counts = []
    whole = corrected(chi, mask, **networks, progress=lambda done, total: counts.append(total))
    # Four slices of 20×20 pixels and two channels beside the volume.
    tight = 1e-9 * (VOLUME_BYTES * 20**3 + 4 * 20**2 * 2 * PRENET_BYTES)
    found = corrected(
        chi, mask, **networks, memory_gb=tight, progress=lambda done, total: counts.append(total)
    )
    assert (counts[0], counts[-1]) == (4, 6)
    torch.testing.assert_close(found.susceptibility, whole.susceptibility, rtol=0, atol=1e-6)


def test_empty_slices_are_left_out():
    mask = torch.zeros(12, 12, 40, dtype=torch.bool)
    mask[3:9, 3:9, [0, 1, 38, 39]] = True
    steps = []
    corrected(0.1 * torch.randn(mask.shape), mask, progress=lambda *counts: steps.append(counts))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_resampling_never_smooths_the_map_itself():
    chi, mask = 0.1 * torch.randn(20, 18, 16), ball()
    found = corrected(
        chi,
        mask,
        voxel_size=(0.5, 0.5, 0.5),
        unet=random_bundle("unet", amount=0),
        prenet=random_bundle("prenet", amount=0),
    )
    assert found.resampled_to is not None
    torch.testing.assert_close(found.susceptibility, torch.where(mask, chi, 0))


def test_bfloat16_agrees_with_float32():
    field, mask = 0.1 * torch.randn(20, 18, 16), ball()
    bundle = random_bundle("deepqsm", amount=0.1)
    exact, fast = (predicted(field, mask, bundle, precision=name) for name in ("float32", "bfloat16"))
    assert (exact.precision, fast.precision) == ("float32", "bfloat16")
    assert 0 < float((fast.susceptibility - exact.susceptibility).abs().max()) < 1e-3


def test_auto_takes_bfloat16_where_the_processor_has_it(monkeypatch):
    for unit, dtype in (("amx_bf16", torch.bfloat16), ("avx2", torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda unit=unit: {unit: True})
        assert usable_precision("auto", device=CPU) is dtype
    with pytest.raises(ValueError, match="use one of auto, bfloat16, float32"):
        usable_precision("float16", device=CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": torch.zeros(20, 18, 16, dtype=torch.bool)}, "mask is empty"),
        ({"mask": torch.ones(20, 18, 15)}, r"one shape, got \(20, 18, 16\) and \(20, 18, 15\)"),
        ({"field": torch.full((20, 18, 16), math.nan)}, "voxels of the mask are not finite"),
        ({"voxel_size": (1, 1)}, "three positive lengths"),
        ({"bundle": random_bundle("unet")}, "random-unet is a unet; .* architecture deepqsm"),
    ],
)
def test_wrong_inputs_are_named(changes, message):
    given = {"field": torch.zeros(20, 18, 16), "mask": ball(), "bundle": random_bundle("deepqsm")} | changes
    with pytest.raises(ValueError, match=message):
        predicted(**given)


def test_results_that_are_not_finite_name_the_model():
    bundle = random_bundle("deepqsm")
    bundle.network.refiners[0].head.bias.data.fill_(math.nan)
    with pytest.raises(ValueError, match="result of random-deepqsm is not finite"):
        predicted(torch.zeros(20, 18, 16), ball(), bundle)


def test_a_map_of_one_value_is_refused():
    with pytest.raises(ValueError, match="same value everywhere"):
        corrected(torch.ones(20, 18, 16), ball())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_models() if name.startswith("deepqsm")])
def test_shipped_models_agree_in_tiles_and_in_bfloat16(name):
    bundle = load_bundle(name)
    mask = ball((64, 64, 136), radius=66, centre=(32, 32, 68))
    chi = torch.nn.functional.avg_pool3d(torch.randn(1, 1, *mask.shape), 7, stride=1, padding=3)[0, 0]
    field = dipole_field(0.05 * chi / chi.std() * mask, voxel_size=(1, 1, 1), b0_direction=(0, 0, 1))
    whole, fast = (predicted(field, mask, bundle, precision=p) for p in ("float32", "bfloat16"))
    tiled = predicted(field, mask, bundle, memory_gb=0.25)
    assert tiled.tiles > 1
    for other in (fast, tiled):
        assert float((other.susceptibility - whole.susceptibility).abs().max()) < 1e-3


def gauged_bundle(severity: float) -> Bundle:
    """A U-Net that changes the map, with a gauge that says the same of every map."""
    bundle = random_bundle("unet", settings={"channels": (2, 4), "severity": (2, 3)})
    judge = bundle.network.gauge.judge[-1]
    with torch.no_grad():
        judge.weight.zero_()
        judge.bias.fill_(float(log_severity(torch.tensor(severity))))
    return bundle


def test_severity_is_what_the_gauge_says():
    chi, mask = 0.1 * torch.randn(20, 18, 16), ball()
    found = corrected(chi, mask, unet=gauged_bundle(0.42))
    assert found.severity == pytest.approx(42, rel=1e-4)
    assert float((found.susceptibility - chi)[mask].abs().max()) > 1e-3


def test_a_map_with_less_than_the_least_severity_is_returned():
    chi, mask = 0.1 * torch.randn(20, 18, 16), ball()
    found = corrected(chi, mask, unet=gauged_bundle(0.42), least_severity=43)
    assert (found.severity, found.tiles) == (pytest.approx(42, rel=1e-4), 0)
    assert torch.equal(found.susceptibility, torch.where(mask, chi, 0))
