"""A SLURM of our own for tests: one controller and three virtual nodes on this machine, on free ports of 127.0.0.1.

Everything it writes lies in one temporary folder; nothing of an installed SLURM is touched, and all daemons end with
the context. AuthType is auth/none, which takes every caller's word for who it is: for a loopback fixture alone.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

NODES = ("n1", "n2", "n3")
CPUS = 4
MEMORY_MIB = 6000
TIMEOUT_SECONDS = 60.0
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun", "sinfo")

CONFIGURATION = """\
ClusterName=voxcaliper
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1,sched_min_interval=0
KillWait=5
MinJobAge=300
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
ReturnToService=2
RebootProgram=/bin/true
ScronParameters=enable
{nodes}
PartitionName=work Nodes=ALL Default=YES MaxTime=1:00:00 PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=1:00:00 PriorityTier=10
"""


def missing() -> str | None:
    """Why SLURM cannot run here; None where it can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"needs SLURM, and {', '.join(absent)} are not installed (the package slurm-wlm)" if absent else None


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it."""

    number: str
    name: str
    state: str
    reason: str
    nodes: str


@dataclass(frozen=True)
class Slurm:
    """A running SLURM. environment : with which its commands and ours find it."""

    folder: Path
    environment: dict[str, str]

    def command(self, *arguments: object, check: bool = True) -> str:
        """The standard output of one of SLURM's commands."""
        done = subprocess.run(
            [*map(str, arguments)], env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0 or not check, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def jobs(self, name: str = "", *, states: str = "") -> list[Job]:
        """The jobs in the queue (with states "all": those that ended, too) whose name begins so."""
        options = [f"--states={states}"] if states else []
        listing = self.command("squeue", "--noheader", "--format=%i|%j|%T|%r|%N", *options)
        found = [Job(*line.split("|")) for line in listing.splitlines() if line.count("|") == 4]
        return [job for job in found if job.name.startswith(name)]

    def wait_until(
        self, condition: Callable[[], object], what: str = "it", seconds: float = TIMEOUT_SECONDS
    ) -> None:  # fmt: skip
        """Wait for something to happen."""
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, f"{what} never happened: {self.jobs(states='all')}"
            time.sleep(0.1)

    def start_requeued(self, number: str) -> None:
        """Have a job that was requeued start in two seconds, not in two minutes.

        Not at once: a node refuses what starts within the second in which it ended the job before (credentials are
        revoked by the second), and SLURM calls the job failed then. Its own delay never comes near that.
        """
        self.command("scontrol", "update", f"jobid={number}", "starttime=now+2seconds")

    def clear(self) -> None:
        """No job left, every node idle."""
        self.command("scancel", f"--user={getpass.getuser()}", check=False)
        for node in NODES:
            self.command("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        self.wait_until(lambda: not self.jobs(), "an empty queue")
        self.wait_until(lambda: self.idle_nodes() == len(NODES), "idle nodes")

    def idle_nodes(self) -> int:
        """How many nodes wait for work."""
        listing = self.command("sinfo", "--noheader", "-N", "--partition=work", "--format=%T")
        return listing.split().count("idle")


def _path() -> str:
    return f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Slurm]:
    """A SLURM with three idle nodes, gone at the end with all its processes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir()
    host = socket.gethostname().split(".")[0]
    controller, *ports = _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory={MEMORY_MIB}"
        for node, port in zip(NODES, ports, strict=True)
    )
    text = CONFIGURATION.format(
        host=host, controller_port=controller, user=getpass.getuser(), folder=folder, nodes=nodes
    )
    (folder / "slurm.conf").write_text(text)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
    slurm = Slurm(folder, environment)
    daemons = []
    try:
        for program in (["slurmctld", "-D"], *(["slurmd", "-D", "-N", node] for node in NODES)):
            with (folder / f"{program[0]}-{program[-1]}.out").open("wb") as log:
                daemons.append(subprocess.Popen(program, env=environment, stdout=log, stderr=log, cwd=folder))
        slurm.wait_until(lambda: slurm.idle_nodes() == len(NODES), "idle nodes")
        yield slurm
    finally:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            slurm.command("scancel", f"--user={getpass.getuser()}", check=False)
            slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
