"""The physics inside DeepQSM."""

import pytest
import torch

from qsmflow.core.dipole import dipole_kernel
from qsmflow.core.fourier import good_size
from qsmflow.nets.deepqsm import DeepQSM, DeepQSMSettings

FRAME = {"voxel_size": (1.0, 1.2, 2.0), "b0_direction": (0.1, -0.3, 0.9)}


@pytest.fixture
def setting():
    torch.manual_seed(0)
    shape = (12, 10, 8)
    kernel = dipole_kernel(good_size(shape, padding=shape), **FRAME, dtype=torch.float64)[None, None]
    mask = torch.zeros(1, 1, *shape, dtype=torch.float64)
    mask[:, :, 2:-2, 2:-2, 1:-1] = 1
    return kernel, mask, torch.randn(1, 1, *shape, dtype=torch.float64)


def test_fit_solves_its_normal_equations(setting):
    """(D² + µ)(χ − z) = D·F(b_filled − d ∗ z) on the whole grid, where the mask covers all of it."""
    kernel, _, field = setting
    grid = (*kernel.shape[2:4], 2 * (kernel.shape[4] - 1))
    field, guess = torch.randn(2, 1, 1, *grid, dtype=torch.float64)
    everywhere, damping = torch.ones_like(field), torch.tensor(0.05)
    found = DeepQSM.fit(guess.float(), field.float(), everywhere.float(), kernel.float(), damping)
    spectrum = [torch.fft.rfftn(image, dim=(-3, -2, -1)) for image in (found.double(), guess, field)]
    left = (kernel.square() + damping) * (spectrum[0] - spectrum[1])
    right = kernel * (spectrum[2] - kernel * spectrum[1])
    assert float((left - right).abs().max() / right.abs().max()) < 1e-5


def test_fit_leaves_a_map_that_explains_the_field(setting):
    kernel, mask, truth = (value.float() for value in setting)
    truth = mask * truth
    grid = (*kernel.shape[2:4], 2 * (kernel.shape[4] - 1))
    field = torch.fft.irfftn(torch.fft.rfftn(truth, s=grid, dim=(2, 3, 4)) * kernel, s=grid, dim=(2, 3, 4))
    field = field[..., :12, :10, :8]
    found = DeepQSM.fit(truth, field, mask, kernel, torch.tensor(0.01))
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-5)


def test_the_field_outside_the_mask_is_not_seen(setting):
    kernel, mask, field = (value.float() for value in setting)
    network = DeepQSM(DeepQSMSettings(stages=1, channels=(2, 4), fold=1)).eval()
    torch.nn.init.normal_(network.refiners[0].head.weight)
    made = network(field, mask=mask, kernel=kernel[:, 0])
    other = network(field + 3 * (1 - mask), mask=mask, kernel=kernel[:, 0])
    assert torch.equal(made, other)
    assert not made[mask == 0].any()


def test_samples_of_a_batch_have_their_own_kernels():
    shape = (8, 8, 8)
    kernels = torch.stack(
        [
            dipole_kernel((16, 16, 16), voxel_size=(1, 1, 1), b0_direction=b)
            for b in ((0, 0, 1.0), (0, 1.0, 0))
        ]
    )
    field, mask = torch.randn(2, 1, *shape), torch.ones(2, 1, *shape)
    network = DeepQSM(DeepQSMSettings(stages=1, channels=(2, 4), fold=1)).eval()
    torch.nn.init.normal_(network.refiners[0].head.weight)
    together = network(field, mask=mask, kernel=kernels)
    alone = [network(field[i : i + 1], mask=mask[i : i + 1], kernel=kernels[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_all_weights_are_trained_and_the_damping_too(setting):
    kernel, mask, field = (value.float() for value in setting)
    field, mask = field[..., :8, :], mask[..., :8, :]
    network = DeepQSM(DeepQSMSettings(stages=2, channels=(2, 4), fold=1))
    for refiner in network.refiners:
        torch.nn.init.normal_(refiner.head.weight)
    network(field, mask=mask, kernel=kernel[:, 0]).square().sum().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in network.parameters())


def test_refiners_go_through_apply(setting):
    kernel, mask, field = (value.float() for value in setting)
    field, mask = field[..., :8, :], mask[..., :8, :]
    network = DeepQSM(DeepQSMSettings(stages=2, channels=(2, 4), fold=1))
    seen = []

    def apply(refiner, image):
        seen.append((refiner, image.shape))
        return refiner(image)

    network(field, mask=mask, kernel=kernel[:, 0], apply=apply)
    assert seen == [(refiner, (1, 3, *field.shape[2:])) for refiner in network.refiners]
