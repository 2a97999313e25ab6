"""Least squares by conjugate gradients against dense linear algebra."""

import pytest
import torch

from qsmflow.core.solvers import least_squares


@pytest.fixture
def matrix():
    """A well-conditioned tall matrix."""
    return torch.randn(40, 12, dtype=torch.float64)


def test_least_squares_solves(matrix):
    """Without noise and with a tight tolerance it is the pseudo-inverse."""
    data = torch.randn(40, dtype=torch.float64)
    found = least_squares(lambda x: matrix @ x, lambda r: matrix.T @ r, data, gain=1e-10, max_steps=14)
    expected = torch.linalg.lstsq(matrix, data[:, None]).solution[:, 0]
    assert found.converged and torch.allclose(found.value, expected)
    assert found.residual == pytest.approx(float((data - matrix @ expected).norm() / data.norm()))


def test_least_squares_leaves_noise_alone(matrix):
    """Data within the noise need no step; data that A explains need some."""
    data = torch.randn(40, dtype=torch.float64)
    gain = float(torch.linalg.matrix_norm(matrix)) / 40**0.5
    options = {"gain": gain, "noise": 10 * float(data.norm())}
    assert least_squares(lambda x: matrix @ x, lambda r: matrix.T @ r, data, **options).n_iterations == 0
    signal = 1000 * (matrix @ torch.ones(12, dtype=torch.float64))
    assert least_squares(lambda x: matrix @ x, lambda r: matrix.T @ r, signal, **options).n_iterations > 0


def test_least_squares_takes_the_residual_down(matrix):
    """A residual that looks like noise is not enough where it is asked to be small, too."""
    data = matrix @ torch.randn(12, dtype=torch.float64)
    found = [
        least_squares(lambda x: matrix @ x, lambda r: matrix.T @ r, data, gain=1e3, rtol=rtol)
        for rtol in (1.0, 1e-6)
    ]
    assert found[0].n_iterations == 0 and found[0].residual == 1
    assert found[1].n_iterations > 0 and found[1].residual < 1e-6 and found[1].converged


def test_running_out_of_steps_is_said(matrix):
    """One step does not do."""
    data = matrix @ torch.randn(12, dtype=torch.float64)
    assert not least_squares(
        lambda x: matrix @ x, lambda r: matrix.T @ r, data, gain=0.1, max_steps=1
    ).converged
