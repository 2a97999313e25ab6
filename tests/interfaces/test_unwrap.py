"""The wraps of the frequency."""

import numpy as np
import pytest

from qsmflow.interfaces.unwrap import UnwrapPhase


def test_wraps_are_resolved_up_to_one_period_for_all(head, maps, tmp_path):
    inputs = {name: maps[name] for name in ("frequency", "magnitude", "mask")}
    assert np.ptp(head.total_field[head.mask]) > head.period
    found = UnwrapPhase(**inputs, frequency_period=head.period).run(cwd=str(tmp_path)).outputs
    unwrapped = head.read(found.total_field)
    offset = (unwrapped - head.total_field)[head.mask]
    np.testing.assert_allclose(offset, head.period * np.round(offset[0] / head.period), atol=1e-2)
    assert not unwrapped[~head.mask].any()
    record = found.out_record
    assert (record["stage"], record["references"]) == ("Phase unwrapping", ["bioucasdias2007"])
    assert record["parameters"] == {"FrequencyPeriod": pytest.approx(head.period)}
    assert record["converged"] is True
    assert record["n_iterations"] is not None
