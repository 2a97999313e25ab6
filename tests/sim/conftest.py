"""A head scanned with coarse voxels, once for all tests."""

import pytest

from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.mgre import MgreProtocol, MgreScan, simulate_mgre
from qsmflow.sim.subject import Subject, draw_subject


@pytest.fixture(scope="session")
def subject() -> Subject:
    """Who is scanned."""
    return draw_subject(1)


@pytest.fixture(scope="session")
def protocol() -> MgreProtocol:
    """Five-millimetre voxels, oblique about two axes, practically without noise."""
    shape = (34, 42, 32)
    affine = oblique_affine(shape, voxel_size=(5, 5, 5), rotation=(-15, 12, 0), center=(0, -18, 5))
    return MgreProtocol(
        shape=shape, affine=affine, echo_times=(0.002, 0.003, 0.004), snr=1e6, supersampling=1
    )


@pytest.fixture(scope="session")
def scan(protocol, subject) -> MgreScan:
    """Its scan."""
    return simulate_mgre(protocol, subject=subject, seed=1)
