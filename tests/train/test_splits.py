"""How subjects are split."""

import numpy as np
import pytest

from qsmflow.train.splits import split_subjects
from qsmflow.train.volumes import UnusableData


def test_no_subject_is_in_two_parts_and_none_moves_when_others_come():
    few = [f"sub-{number:03d}" for number in range(40)]
    small, large = split_subjects(few), split_subjects([*few, *(f"sub-{n:03d}" for n in range(40, 400))])
    for split in (small, large):
        assert not split.training & split.validation
        assert not (split.training | split.validation) & split.test
    for part in ("training", "validation", "test"):
        assert getattr(small, part) <= getattr(large, part)
    sizes = [len(part) / 400 for part in (large.training, large.validation, large.test)]
    np.testing.assert_allclose(sizes, [0.8, 0.1, 0.1], atol=0.04)


@pytest.mark.parametrize("number", range(2, 12))
def test_few_subjects_still_give_training_and_validation(number):
    subjects = {f"sub-{index}" for index in range(number)}
    split = split_subjects(subjects)
    assert split.training and split.validation
    assert split.training | split.validation | split.test == subjects


def test_one_subject_cannot_be_split():
    with pytest.raises(UnusableData, match="at least two"):
        split_subjects(["sub-01", "sub-01"])
