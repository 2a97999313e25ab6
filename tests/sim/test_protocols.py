import numpy as np
import pytest

from qsmflow.core.dipole import b0_direction
from qsmflow.sim.protocols import CENTER, PROTOCOLS, protocol
from qsmflow.sim.warp import MEAN_STRETCH

#: The brain in head space, mm.
BRAIN = np.array(((-70, -106, -50), (70, 74, 80))) / MEAN_STRETCH


@pytest.mark.parametrize("name", PROTOCOLS)
def test_sloppy_keeps_the_physics_and_not_the_size(name):
    full, sloppy = protocol(name), protocol(name, sloppy=True)
    assert sloppy.field_strength == full.field_strength
    assert sloppy.echo_times == full.echo_times[:3]
    assert np.prod(sloppy.shape) < 3e4
    np.testing.assert_allclose(b0_direction(sloppy.affine), b0_direction(full.affine), atol=1e-6)
    for made in (full, sloppy):
        np.testing.assert_allclose(
            made.affine @ [*(np.array(made.shape) - 1) / 2, 1], [*CENTER, 1], atol=1e-6
        )


@pytest.mark.parametrize("name", sorted(set(PROTOCOLS) - {"classic"}))
def test_slab_covers_the_brain(name):
    made = protocol(name)
    middle = np.mean(BRAIN, axis=0)
    # Corners of a box would stick out of an oblique slab; the brain touches the middles of its faces.
    touched = np.tile(middle, (6, 1))
    for axis in range(3):
        touched[2 * axis : 2 * axis + 2, axis] = [corner[axis] for corner in BRAIN]
    inverse = np.linalg.inv(made.affine)
    index = inverse[:3, :3] @ touched.T + inverse[:3, 3:]
    assert (index > -0.5).all() and (index < np.array(made.shape)[:, None] - 0.5).all()


def test_published_settings():
    clinical, resampled = protocol("clinical"), protocol("clinical-resampled")
    assert len(clinical.echo_times) == 11 and clinical.echo_times == resampled.echo_times
    assert 0.0035 <= clinical.echo_times[0] <= 0.0063
    assert np.allclose(clinical.voxel_size, (0.4688, 0.4688, 3)) and clinical.fine_factors == (1, 1, 3)
    assert np.allclose(resampled.voxel_size, (0.75, 0.75, 3))
    thin = protocol("submillimetre")
    np.testing.assert_allclose(np.diff(thin.echo_times), 0.0036)
    assert thin.echo_times[0] == 0.00669 and np.allclose(thin.voxel_size, (0.8, 0.8, 0.5))
    assert protocol("challenge").echo_times == (0.004, 0.012, 0.020, 0.028)
    assert protocol("challenge").field_strength == 7
    assert protocol("classic").shape == (160, 160, 96) and protocol("classic").snr == 100


def test_changes_reach_the_protocol_and_wrong_names_do_not():
    assert protocol("classic", readout="bipolar", snr=7.0).snr == 7.0
    with pytest.raises(TypeError, match="echo_tmes"):
        protocol("classic", echo_tmes=(1,))
    with pytest.raises(KeyError):
        protocol("magic")
