"""A Slurm of one node, started for these tests from what Debian's slurm-wlm and munge install."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from qsmflow.sim.dataset import write_dataset
from qsmflow.sim.grids import oblique_affine
from qsmflow.sim.mgre import MgreProtocol
from qsmflow.sim.study import Study, cohort

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
#: More cores than the machine may have, so that jobs which only wait do not wait for each other.
CORES = 8
MEMORY_MB = 16_000

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
SlurmdTimeout=20
KillWait=3
SlurmdParameters=config_overrides
MailProg=/bin/true
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} CoresPerSocket={cores} RealMemory={memory}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """The running Slurm; its commands find it through SLURM_CONF."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._node: subprocess.Popen | None = None

    def ask(self, *command: str) -> str:
        """Output of one of its commands."""
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def wait(self, condition: Callable[[], bool], *, seconds: float = 240) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"still waiting after {seconds} s:\n{self.ask('squeue')}\n{self.logs()}")
            time.sleep(0.5)

    def wait_for_all(self, *, seconds: float = 240) -> None:
        """Wait until the queue is empty."""
        self.wait(lambda: not self.ask("squeue", "--noheader"), seconds=seconds)

    def kill_node(self) -> None:
        """What a node does that loses power: its daemon and all that it had started are gone at once."""
        mine = f"SLURM_CONF={self.folder / 'slurm.conf'}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                name, environment = process.joinpath("comm").read_text().strip(), process / "environ"
                if mine in environment.read_bytes().split(b"\0") and name not in ("munged", "slurmctld"):
                    os.kill(int(process.name), signal.SIGKILL)
            except (OSError, ProcessLookupError):
                continue
        self.wait(lambda: self.ask("sinfo", "--noheader", "--format=%t").startswith("down"))

    def start_node(self) -> None:
        """Bring the node back."""
        self._node = subprocess.Popen([_find("slurmd"), "-D", "-N", _host()], start_new_session=True)

    def stop_node(self) -> None:
        """End the daemon that :meth:`start_node` started."""
        if self._node is not None:
            self._node.terminate()
            self._node.wait(timeout=20)

    def logs(self) -> str:
        """The last words of the daemons."""
        return "\n".join(
            line
            for name in ("slurmctld.log", "slurmd.log")
            for line in (self.folder / name).read_text().splitlines()[-20:]
        )


@pytest.fixture(scope="session")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    """A Slurm of one node, or the reason why there is none."""
    missing = [name for name in PROGRAMS if _find(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("the daemons of Slurm are started as root only")
    before = dict(os.environ)
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("slurm")
        yield stack.enter_context(_started(folder))
    os.environ.clear()
    os.environ.update(before)


@contextmanager
def _started(folder: Path) -> Iterator[Slurm]:
    host = _host()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(folder=folder, host=host, ports=_free_ports(), cores=CORES, memory=MEMORY_MB)
    )
    # LOGNAME: Nipype's plugin makes the names of jobs with it.
    os.environ |= {"SLURM_CONF": str(configuration), "LOGNAME": "root"}
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    places = {
        "socket": folder / "munge.socket",
        "key-file": key,
        "pid-file": folder / "munged.pid",
        "log-file": folder / "munged.log",
        "seed-file": folder / "munged.seed",
    }
    commands = (
        ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in places.items())],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    )
    running = []
    with (folder / "daemons.log").open("w") as log:
        try:
            for name, *options in commands:
                running.append(
                    subprocess.Popen([_find(name), *options], stdout=log, stderr=log, start_new_session=True)
                )
                if name == "munged":
                    _wait_for(places["socket"])
            slurm = Slurm(folder)
            slurm.wait(lambda: _is_idle(), seconds=60)
            yield slurm
            slurm.ask("scancel", "--user=root")
            slurm.stop_node()
        finally:
            for process in reversed(running):
                process.terminate()
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _free_ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_for(path: Path, *, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            pytest.fail(f"{path} did not come")
        time.sleep(0.1)


def _is_idle() -> bool:
    asked = subprocess.run(
        ["sinfo", "--noheader", "--format=%t"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() == "idle"


@pytest.fixture(autouse=True)
def environment_is_restored() -> Iterator[None]:
    """The commands set environment variables for the whole process; take them back."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def two_subjects(tmp_path) -> Path:
    """Two subjects with four echoes on a coarse grid."""
    folder, shape = tmp_path / "input", (40, 46, 37)
    affine = oblique_affine(shape, voxel_size=(4, 4, 4), rotation=(-15, 12, 0), center=(0, -18, 2))
    times = (0.003, 0.006, 0.009, 0.012)
    protocol = MgreProtocol(shape=shape, affine=affine, echo_times=times, supersampling=1)
    for _ in write_dataset(folder, Study(protocol, cohort(subjects=2))):
        pass
    return folder
