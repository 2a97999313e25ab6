"""A worker that is killed fails its node; it does not leave the run waiting."""

import signal

import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe
from scipy.sparse import lil_matrix

from qsmflow.cli.scheduler import LocalScheduler, _ranks


def die():
    """End the process as the kernel does when memory runs out."""
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def one(before):
    """Run after the node before."""
    return 1


@pytest.fixture
def time_limit():
    """Interrupt a scheduler that waits for ever."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def test_killed_worker_fails_its_node_and_the_others_are_done(tmp_path, time_limit):
    workflow = pe.Workflow("killed", base_dir=str(tmp_path))
    workflow.config["execution"]["crashdump_dir"] = str(tmp_path)
    victim = pe.Node(Function(function=die, output_names=["out"]), name="victim")
    follower = pe.Node(Function(function=one, output_names=["out"]), name="follower")
    bystander = pe.Node(Function(function=one, output_names=["out"]), name="bystander")
    bystander.inputs.before = 0
    workflow.connect(victim, "out", follower, "before")
    workflow.add_nodes([bystander])
    scheduler = LocalScheduler({"n_procs": 1, "memory_gb": 4, "mp_context": "forkserver"})
    with pytest.raises(RuntimeError, match="worker process died"):
        workflow.run(plugin=scheduler)
    assert (tmp_path / "killed" / "bystander" / "result_bystander.pklz").is_file()
    assert not (tmp_path / "killed" / "follower" / "result_follower.pklz").exists()
    assert len(list(tmp_path.glob("crash*"))) == 1


def test_subjects_come_one_after_the_other_and_the_longest_way_first():
    names = [
        f"all.{subject}.{stage}" for subject in "ab" for stage in ("scan", "plot", "map", "page", "viewer")
    ]
    waits = lil_matrix((10, 10))
    for scan, plot, chi, page, viewer in (range(5), range(5, 10)):
        waits[scan, plot] = waits[scan, chi] = waits[chi, page] = waits[chi, viewer] = 1
    ranks = _ranks(names, [2.0 if name.endswith("viewer") else 1.0 for name in names], waits)
    order = [names[index] for index in sorted(range(10), key=ranks.__getitem__)]
    stages = ["scan", "map", "viewer", "plot", "page"]
    assert order == [f"all.{subject}.{stage}" for subject in "ab" for stage in stages]
