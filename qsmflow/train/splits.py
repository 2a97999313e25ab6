"""Which subjects a network is trained on, which it is validated on, and which are left for tests."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from qsmflow.train.volumes import UnusableData

#: Up to where the hash of a subject's name puts it into training, and into validation.
SHARES = (0.8, 0.9)


@dataclass(frozen=True)
class Split:
    """Subjects by what they are for.

    Parameters
    ----------
    training, validation, test : frozenset of str
        Labels. The subjects of the test are never looked at.
    """

    training: frozenset[str]
    validation: frozenset[str]
    test: frozenset[str]


def split_subjects(subjects: Iterable[str]) -> Split:
    """Put each subject where a hash of its label says, 80/10/10.

    So one label lies in the same part in every data set, and stays there when subjects are added. Where this
    would leave a part without subjects that training needs, the subject that is nearest to it moves.

    Parameters
    ----------
    subjects : iterable of str
        Labels; repeated ones count once.

    Returns
    -------
    Split

    Raises
    ------
    UnusableData
        If there are fewer than two.

    Examples
    --------
    >>> split = split_subjects(f"sub-{number:03d}" for number in range(200))
    >>> len(split.training), len(split.validation), len(split.test)
    (158, 26, 16)
    """
    place = {subject: _place(subject) for subject in set(subjects)}
    if len(place) < 2:
        raise UnusableData(f"{len(place)} subject(s) found; training and validation need at least two")
    ordered = sorted(place, key=place.get)
    training = {subject for subject in ordered if place[subject] < SHARES[0]}
    test = {subject for subject in ordered if place[subject] >= SHARES[1]}
    if not training:
        training = {ordered[0]}
    if training == set(ordered):
        training.remove(ordered[-1])
    validation = set(ordered) - training - test
    if not validation:
        validation = {next(subject for subject in ordered if subject not in training)}
    return Split(frozenset(training), frozenset(validation), frozenset(test - validation - training))


def _place(subject: str) -> float:
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8]) / 2**64


def subjects_recipe(split: Split) -> dict[str, int]:
    return {
        "subjects for training": len(split.training),
        "subjects for validation": len(split.validation),
        "subjects left for tests": len(split.test),
    }
