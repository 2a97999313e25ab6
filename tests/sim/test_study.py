from dataclasses import replace

import numpy as np
import pytest
import torch

from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.mgre import MgreProtocol
from qsmflow.sim.study import REPOSITIONING, MotionSettings, Scan, Study, cohort, simulate_scan


@pytest.fixture(scope="module")
def study() -> Study:
    affine = oblique_affine((12, 14, 12), voxel_size=(14, 14, 14), center=(0, -18, 5))
    protocol = MgreProtocol(shape=(12, 14, 12), affine=affine, echo_times=(0.004, 0.009), supersampling=1)
    return Study(protocol, cohort(subjects=2, sessions=2, motion="paired"))


@pytest.fixture(scope="module")
def subjects(study):
    return {number: study.subject(number) for number in (1, 2)}


@pytest.fixture(scope="module")
def scan(study, subjects):
    return lambda plan, of=study: simulate_scan(of, plan, subject=subjects[plan.subject])


def test_cohort_scans_everybody_alike():
    scans = cohort(subjects=2, first_subject=9, sessions=2, motion="paired")
    assert [plan.prefix for plan in scans] == [
        f"sub-{subject}_ses-{session}_acq-{label}"
        for subject in ("09", "10")
        for session in ("01", "02")
        for label in ("still", "motion")
    ]
    assert [plan.moves for plan in scans] == [False, True] * 4
    assert cohort() == (Scan(1),) and cohort(motion="only") == (Scan(1, moves=True),)


def test_subjects_do_not_depend_on_each_other(study):
    """A cohort may be made in parts, on several machines."""
    alone = replace(study, scans=cohort(first_subject=2))
    assert alone.subject_seed(2) == study.subject_seed(2) != study.subject_seed(1)
    assert replace(study, seed=2).subject_seed(2) != study.subject_seed(2)


def test_still_and_moved_share_the_anatomy_and_not_the_noise(study, scan):
    still, moved = (scan(plan) for plan in study.scans[:2])
    assert still.motion is None and len(moved.motion.poses) in (3, 4)
    assert torch.equal(still.result.susceptibility, moved.result.susceptibility)
    assert torch.equal(still.result.phase_offset, moved.result.phase_offset)
    corner = (slice(None), slice(2), slice(2), slice(2))
    assert not torch.allclose(still.result.signal[corner], moved.result.signal[corner])


def test_session_moves_the_slab(study, scan):
    first, second = (next(plan for plan in study.scans if plan.session == number) for number in (1, 2))
    first, second = scan(first), scan(second)
    assert np.array_equal(first.protocol.affine, study.protocol.affine)
    step = np.linalg.inv(study.protocol.affine) @ second.protocol.affine
    moved = second.protocol.affine[:3] @ [5.5, 6.5, 5.5, 1] - study.protocol.affine[:3] @ [5.5, 6.5, 5.5, 1]
    assert 0.1 < np.abs(moved).max() <= REPOSITIONING + 1e-6
    assert np.allclose(step[:3, :3] @ step[:3, :3].T, np.eye(3))
    # The same brain all the same.
    volumes = [scan.result.mask.sum() for scan in (first, second)]
    assert abs(volumes[0] - volumes[1]) < 0.05 * volumes[0]


def test_motion_keeps_to_its_settings(study, scan):
    settings = MotionSettings(events=(1, 1), translation=0.5, rotation=0.0)
    moved = scan(study.scans[1], replace(study, motion=settings))
    assert len(moved.motion.poses) == 2
    assert all(np.abs(pose.translation).max() <= 1.0 for pose in moved.motion.poses)
    assert all(np.abs(pose.rotation).max() == 0 for pose in moved.motion.poses)


def test_motion_model_makes_a_difference(study, scan):
    by_signal, by_field = (
        scan(study.scans[1], replace(study, motion=MotionSettings(model=model))).result
        for model in ("signal", "field")
    )
    assert torch.equal(by_signal.susceptibility, by_field.susceptibility)
    assert not torch.allclose(by_signal.signal, by_field.signal)
