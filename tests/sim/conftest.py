"""A head scanned with coarse voxels, once for all tests."""

import pytest

from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.mgre import MgreProtocol, MgreScan, simulate_mgre


@pytest.fixture(scope="session")
def protocol() -> MgreProtocol:
    """Five-millimetre voxels, oblique about two axes, practically without noise."""
    shape = (32, 38, 30)
    affine = oblique_affine(shape, voxel_size=(5, 5, 5), rotation=(-15, 12, 0), center=(0, -18, 2))
    return MgreProtocol(shape=shape, affine=affine, echo_times=(0.002, 0.003, 0.004), snr=1e6)


@pytest.fixture(scope="session")
def scan(protocol) -> MgreScan:
    """Its scan."""
    return simulate_mgre(protocol, seed=1)
