"""Workers as jobs of SLURM, or as one step inside the allocation of the driver: their scripts and their cluster.

The scheduler lives in the driver. Every script is text that a test reads: it holds paths of credentials, never keys.
"""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed.core import Status
from distributed.deploy.cluster import Cluster
from distributed.security import Security

from cluster.closed import ClosedScheduler
from cluster.environment import shell_lines
from cluster.local import WORKER_SETTINGS
from cluster.profile import SlurmProfile
from pipeline.plain_text import check_words

# Importing dask-jobqueue takes Ctrl-C for itself, to end a process without a word (its runner.py).
_ON_INTERRUPT = signal.getsignal(signal.SIGINT)
from dask_jobqueue.slurm import SLURMCluster, SLURMJob  # noqa: E402

signal.signal(signal.SIGINT, _ON_INTERRUPT)

DEATH_SECONDS = 120
"""A worker that cannot reach its scheduler for so long ends, and its job with it."""
LEAVING = (0.3, 600)
"""A worker leaves this share of the walltime, or so many seconds, before its end, whichever is less."""
WRITTEN = {"--cpus-per-task": "--cpus-per-task=", "--mem": "--mem=", "--ntasks": "-n ", "--time": "-t "}
"""How dask-jobqueue writes what a profile may leave out."""
COMMAND_SECONDS = 60
ENDED = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT", "REFUSED", "GONE",
})  # fmt: skip
"""What SLURM calls the ends of a job; REFUSED and GONE are ours: not taken by sbatch, and no longer shown."""


@dataclass(frozen=True)
class State:
    """What squeue says of a job. state : for example PENDING; reason : why it waits or ended."""

    state: str
    reason: str

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def is_guess(self) -> bool:
        """Whether the queue did not show it at all."""
        return self.state == "GONE"


def name_of(folder: Path) -> str:
    """What jobs of a run are called in the queue; another for every folder."""
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    return f"voxcaliper-{re.sub(r'[^A-Za-z0-9_]+', '-', folder.name)[:40]}-{digest}"


def cancel_jobs(name: str) -> None:
    """End every job of this name. Quietly, also where there is none or SLURM does not answer."""
    command = ["scancel", f"--user={getpass.getuser()}", f"--name={name}"]
    try:
        subprocess.run(command, capture_output=True, check=False, timeout=COMMAND_SECONDS, start_new_session=True)  # noqa: S603  our own name
    except (OSError, subprocess.TimeoutExpired):
        return


def queue_command(name: str) -> list[str]:
    """The command that lists the jobs of this name, with those that ended minutes ago."""
    return [
        "squeue",
        "--noheader",
        "--states=all",
        f"--user={getpass.getuser()}",
        f"--name={name}",
        "--format=%i|%T|%r",
    ]


def parsed_queue(listing: str) -> dict[str, State]:
    """Job → state, out of what queue_command prints."""
    rows = (line.strip().split("|", 2) for line in listing.splitlines() if line.count("|") >= 2)
    return {number: State(state, reason) for number, state, reason in rows}


def worker_arguments(profile: SlurmProfile, security: Security) -> list[str]:
    """Arguments of `dask worker` beside its address, name, size and folder, quoted for a shell."""
    share, longest = LEAVING
    leaving = min(profile.seconds * share, longest)
    life = ["--lifetime", f"{profile.seconds - leaving:.0f}s", "--lifetime-stagger", f"{leaving / 3:.0f}s"]
    tls = security.get_tls_config_for_role("worker")
    return [
        *(life if profile.workers_as == "jobs" else []),  # a step ends with the allocation of its driver
        "--worker-class", "cluster.closed.ClosedWorker",
        "--no-dashboard",
        *(["--interface", profile.interface] if profile.interface else []),
        "--protocol", "tls",
        "--tls-ca-file", shlex.quote(tls["ca_file"]),
        "--tls-cert", shlex.quote(tls["cert"]),
        "--tls-key", shlex.quote(tls["key"]),
    ]  # fmt: skip


def environment_lines(profile: SlurmProfile) -> list[str]:
    """Lines of shell before the worker: what the user gave, Dask's settings, the scratch folder, the cache."""
    settings = [
        f"export DASK_{key.upper().replace('.', '__').replace('-', '_')}={value}"
        for key, value in WORKER_SETTINGS.items()
    ]
    scratch = [f'export TMPDIR="{profile.scratch}"', 'mkdir -p "$TMPDIR"'] if profile.scratch else []
    return [*profile.setup, *settings, *scratch, *shell_lines(profile)]


async def command_output(command: list[str], **options: Any) -> str:
    """What a command of SLURM prints, out of reach of Ctrl-C. Raises RuntimeError with its words where it fails."""
    return str(await SLURMJob._call(command, start_new_session=True, **options))  # noqa: SLF001  the one that it has


class WorkerJob(SLURMJob):
    """A job with the workers of a profile. refusal : what sbatch said where it did not take it."""

    _script_template = "%(shebang)s\n\n%(job_header)s\n\n%(job_script_prologue)s\n%(worker_command)s\n"

    def __init__(
        self, scheduler: str, name: str, *, profile: SlurmProfile, credentials: Security, job_name: str, logs: Path,
        **_: Any,
    ) -> None:  # fmt: skip
        check_words("The path", (str(logs), sys.executable))
        self.profile = profile
        self.logs = logs
        self.refusal = ""
        cards = profile.gpus > 1
        left = ("--mem",) if profile.memory_as == "per-cpu" else ()
        per_cpu = profile.kept([profile.memory_option(profile.memory, profile.cores)]) if left else []
        super().__init__(  # type: ignore[no-untyped-call]
            scheduler=scheduler,
            name=name,
            queue=profile.partition,
            account=profile.account,
            walltime=profile.walltime,
            cores=profile.threads_each * (1 if cards else profile.processes),
            processes=1 if cards else profile.processes,
            memory=f"{profile.memory} B",
            job_cpu=profile.cores,
            job_name=job_name,
            job_extra_directives=[
                *per_cpu,
                f"--output={shlex.quote(str(logs / '%x-%j.log'))}",
                "--no-requeue",  # the driver replaces what is lost, at once and where there is room
                *(profile.kept([f"--gres=gpu:{profile.gpus}"]) if profile.gpus else []),
                *profile.directives,
            ],
            job_directives_skip=[f"#SBATCH {WRITTEN[name]}" for name in (*profile.leave_out, *left) if name in WRITTEN],
            job_script_prologue=environment_lines(profile),
            local_directory='"$TMPDIR"' if profile.scratch else None,
            death_timeout=DEATH_SECONDS,
            worker_extra_args=worker_arguments(profile, credentials),
            python=profile.python or shlex.quote(sys.executable),
        )
        if cards:
            self._command_template = _one_worker_per_card(self._command_template, name, profile.gpus)
        else:
            self._command_template = f"exec {self._command_template}"

    @property
    def worker_process_memory(self) -> str:
        """Bytes that each worker may use."""
        return str(self.profile.worker_memory)

    @property
    def log(self) -> Path:
        """What the job prints."""
        return self.logs / f"{self.job_name}-{self.job_id}.log"

    def state(self, queue: Mapping[str, State]) -> State:
        """How it is."""
        if self.refusal:
            return State("REFUSED", self.refusal)
        return queue.get(str(self.job_id), State("GONE", ""))

    async def start(self) -> None:
        """Submit it; where SLURM does not take it, that is its end, and the watch reads why."""
        try:
            await super().start()  # type: ignore[no-untyped-call]
        except FileNotFoundError:
            self.refusal = "sbatch is not found here; run this where SLURM's commands are, or put them into the PATH"
        except (RuntimeError, ValueError) as error:
            said = re.search(r"stderr:\n(.*)", str(error))
            self.refusal = (said[1] if said else str(error)).removeprefix("sbatch: ").removeprefix("error: ").strip()
        self.status = Status.running

    async def drop(self) -> None:
        """Forget it: it ended, or was cancelled with all others of its name."""
        self.status = Status.closed

    async def _submit_job(self, script_filename: str) -> str:
        # Ctrl-C must not reach sbatch: it could leave a job of which nobody knows.
        return await command_output([self.submit_command, script_filename])


def _one_worker_per_card(command: str, name: str, cards: int) -> str:
    """A loop of shell: a worker for each GPU that SLURM gave to the job."""
    every = ",".join(map(str, range(cards)))
    return (
        f'for card in $(echo "${{CUDA_VISIBLE_DEVICES:-{every}}}" | tr , " "); do\n'
        f"    CUDA_VISIBLE_DEVICES=$card {command.replace(f'--name {name}', f'--name {name}-$card')} &\n"
        "done\nwait"
    )


class SlurmJobs(SLURMCluster):
    """A scheduler in this process, and jobs of workers that come and go; the watch says how many there shall be."""

    job_cls = WorkerJob  # type: ignore[assignment]  # its type is that of the class attribute above

    def __init__(
        self, profile: SlurmProfile, credentials: Security, *, name: str, logs: Path, host: str, dashboard: str
    ) -> None:
        self.job_name_of_all = name
        super().__init__(
            name=name,
            security=credentials,
            scheduler_cls=ClosedScheduler,
            scheduler_options={"host": host, "dashboard_address": dashboard},
            silence_logs="critical",
            job_name=name,
            profile=profile,
            credentials=credentials,
            logs=logs,
        )

    @property
    def _dummy_job(self) -> WorkerJob:
        # dask-jobqueue wants one to look at; it is told the name of all.
        address = getattr(getattr(self, "scheduler", None), "address", None) or "tls://SCHEDULER:PORT"
        return self.job_cls(address, "NAME", **self._job_kwargs)

    def new_worker_spec(self) -> dict[str, Any]:
        """The next job, under a name that no job before it had."""
        self._i += 1
        return {f"{self.job_name_of_all}-{self._i}": self.new_spec}

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # Without SpecCluster's guess that a job is lost when a worker is: the watch asks SLURM.
        Cluster._update_worker_status(self, op, msg)  # noqa: SLF001

    async def submit(self) -> None:
        """Submit the jobs that are named and not there yet."""
        await self._correct_state()  # type: ignore[no-untyped-call]

    async def queue(self) -> dict[str, State]:
        """The states of all jobs of this name. Raises RuntimeError or OSError where SLURM does not answer."""
        listing = await asyncio.wait_for(command_output(queue_command(self.job_name_of_all)), COMMAND_SECONDS)
        return parsed_queue(listing)
