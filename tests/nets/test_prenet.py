"""What PReNet must do whatever its weights."""

import torch

from qsmflow.nets.prenet import PReNet, PReNetSettings


def seeded(**settings) -> PReNet:
    torch.manual_seed(0)
    network = PReNet(PReNetSettings(**settings)).eval()
    torch.nn.init.normal_(network.exit.weight, std=0.1)
    return network


def test_it_has_as_many_parameters_as_the_published_one():
    assert sum(parameter.numel() for parameter in PReNet(PReNetSettings()).parameters()) == 167_233


def test_recursions_share_their_weights_and_go_on_from_each_other():
    image = torch.randn(1, 1, 9, 7)
    once, twice = seeded(channels=4, recursions=1), seeded(channels=4, recursions=2)
    assert [p.shape for p in once.parameters()] == [p.shape for p in twice.parameters()]
    assert float((once(image) - twice(image)).detach().abs().max()) > 1e-4


def test_the_memory_is_used():
    network = seeded(channels=4, recursions=2)
    image = torch.randn(1, 1, 8, 8)
    before = network(image)
    with torch.no_grad():
        # The second half of the gates' inputs is what the recursion before left.
        for gate in network.gates.values():
            gate.weight[:, 4:] = 0
    assert float((network(image) - before).detach().abs().max()) > 1e-6


def test_all_weights_are_trained():
    network = seeded(channels=4, recursions=2, blocks=2)
    network(torch.randn(2, 1, 8, 8)).square().sum().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in network.parameters())


def test_slices_do_not_mix():
    network = seeded(channels=4, recursions=2)
    slices = torch.randn(3, 1, 8, 8)
    alone = torch.cat([network(image[None]) for image in slices])
    torch.testing.assert_close(network(slices), alone)
