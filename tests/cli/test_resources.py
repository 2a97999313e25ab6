"""What the machine lets a run use, under the limits of control groups."""

import os

import pytest

from qsmflow.cli import resources

#: A job of a cluster with the second version of control groups, the first one, and both at once.
SECOND = "0::/slurm/job_7/step_0\n"
FIRST = "9:memory,hugetlb:/slurm/job_7\n4:cpu,cpuacct:/slurm/job_7\n0::/\n"
QUOTA, PERIOD = (f"cpu/slurm/job_7/cpu.cfs_{name}_us" for name in ("quota", "period"))


@pytest.fixture
def limits(tmp_path, monkeypatch):
    """Pretend to be in control groups with these files."""

    def pretend(membership: str, files: dict[str, str]) -> None:
        for name, content in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        (tmp_path / "membership").write_text(membership)
        real = resources.control_groups
        places = {"membership": tmp_path / "membership", "groups": tmp_path / "groups"}
        monkeypatch.setattr(resources, "control_groups", lambda controller: real(controller, **places))

    return pretend


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        (SECOND, {"slurm/job_7/memory.max": "3000000000", "slurm/job_7/step_0/memory.max": "max"}, 3.0),
        (SECOND, {"slurm/memory.max": "2000000000", "slurm/job_7/memory.max": "3000000000"}, 2.0),
        (FIRST, {"memory/slurm/job_7/memory.limit_in_bytes": "1500000000"}, 1.5),
        ("0::/../elsewhere\n", {"memory.max": "2500000000"}, 2.5),
        ("0::/docker/abc\n", {"memory.max": "1000000000"}, 1.0),
    ],
    ids=["job", "outer", "first version", "another namespace", "container"],
)
def test_memory_is_that_of_the_tightest_group(limits, membership, files, expected):
    limits(membership, files)
    assert resources.available_memory() == expected


def test_memory_without_a_limit_is_that_of_the_machine(limits):
    limits(SECOND, {"slurm/job_7/memory.max": "max"})
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert resources.available_memory() == pytest.approx(total / 1e9)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        (SECOND, {"slurm/job_7/cpu.max": "350000 100000", "cpu.max": "max 100000"}, 3),
        (SECOND, {"slurm/job_7/cpu.max": "50000 100000"}, 1),
        (FIRST, {QUOTA: "200000", PERIOD: "100000"}, 2),
        (FIRST, {QUOTA: "-1", PERIOD: "100000"}, 8),
        ("", {}, 8),
    ],
    ids=["share", "less than one", "first version", "no limit", "no groups"],
)
def test_cores_are_no_more_than_the_time_that_is_granted(limits, monkeypatch, membership, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    limits(membership, files)
    assert resources.available_cores() == expected


def test_a_system_without_control_groups_has_none(tmp_path):
    assert resources.control_groups("memory", membership=tmp_path / "nothing") == []
