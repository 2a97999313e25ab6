import pytest
import torch

from qsmflow.sim.lesions import LesionCounts
from qsmflow.sim.subject import VARIATIONS, draw_subject
from qsmflow.sim.warp import MEAN_STRETCH


@pytest.fixture(scope="module")
def subject():
    return draw_subject(4)


def test_a_seed_decides_everything(subject):
    again = draw_subject(4)
    assert again.tissues == subject.tissues and again.build == subject.build and again.veins == subject.veins
    for name in ("texture", "streaks"):
        assert torch.equal(getattr(again, name).lattice, getattr(subject, name).lattice)
    assert torch.equal(again.warp.displacement.values, subject.warp.displacement.values)


def test_lesions_change_nothing_else(subject):
    """A head with and without lesions can be compared."""
    marked = draw_subject(4, lesions=LesionCounts(microbleeds=3))
    assert len(marked.lesions) == 3 and not subject.lesions
    assert marked.veins == subject.veins
    assert torch.equal(marked.texture.lattice, subject.texture.lattice)


def test_variations_have_unit_deviation(subject):
    values = subject.variations.values
    assert len(values) == len(VARIATIONS)
    assert float(values.std()) == pytest.approx(1.0, abs=0.1)


def test_no_spread_means_average_sizes():
    average = draw_subject(4, spread=0)
    assert average.warp.stretch == pytest.approx((MEAN_STRETCH,) * 3)
    assert average.build.frontal == (1, 1)
