"""Workers as one step of SLURM inside the allocation of the driver, where compute nodes may not submit jobs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

from distributed.deploy.cluster import Cluster
from distributed.deploy.spec import ProcessInterface, SpecCluster
from distributed.security import Security

from cluster.closed import ClosedScheduler
from cluster.profile import SlurmProfile
from cluster.slurm import State, WorkerJob
from pipeline.errors import InputError

END_SECONDS = 20


def check_allocation() -> None:
    """Raises InputError outside of an allocation."""
    if "SLURM_JOB_ID" not in os.environ:
        raise InputError(
            'workers_as = "steps" needs an allocation, and this process is in none; start the run with'
            " `voxcaliper submit`, or inside of `salloc`."
        )


class Step(ProcessInterface):
    """One srun with every worker of the allocation. Its script is the one of a job, without a header."""

    def __init__(
        self, scheduler: str, name: str, *, profile: SlurmProfile, credentials: Security, job_name: str, logs: Path
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.profile = profile
        self.refusal = ""
        self.job_id = os.environ.get("SLURM_JOB_ID", "")
        self.log = logs / f"{job_name}-{self.job_id}-step-{name.rsplit('-', 1)[1]}.log"
        self.script = logs / f"{job_name}-step.sh"
        self._text = step_script(scheduler, name, profile, credentials, job_name, logs)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start srun in a session of its own: Ctrl-C is for the driver, which ends it in order."""
        self.script.write_text(self._text, encoding="utf-8")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *step_command(self.profile, self.script, self.log), stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self.refusal = f"srun cannot be started: {error.strerror}"
        await super().start()  # type: ignore[no-untyped-call]

    def state(self, _queue: object) -> State:
        """How it is."""
        if self._process is None:
            return State("REFUSED", self.refusal)
        code = self._process.returncode
        return (
            State("RUNNING", "None") if code is None else State("FAILED" if code else "COMPLETED", f"exit code {code}")
        )

    async def drop(self) -> None:
        """End srun, which ends its workers."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), END_SECONDS)
            except TimeoutError:
                self._process.kill()
        await self.close()  # type: ignore[no-untyped-call]


def step_script(
    scheduler: str, name: str, profile: SlurmProfile, credentials: Security, job_name: str, logs: Path
) -> str:
    """What each task of the step runs: the script of a job whose workers are called after their task."""
    job = WorkerJob(scheduler, "TASK", profile=profile, credentials=credentials, job_name=job_name, logs=logs)
    _, _, body = job.job_script().partition(job.job_header)  # type: ignore[no-untyped-call]
    return f"{job.shebang}\n\n{body.strip()}\n".replace("--name TASK", f"--name {name}-$SLURM_PROCID")


def step_command(profile: SlurmProfile, script: Path, log: Path) -> list[str]:
    """The srun of the step: as many tasks as the profile has jobs, and none ends the others."""
    return [
        "srun",
        f"--ntasks={profile.jobs}",
        *profile.kept([f"--cpus-per-task={profile.cores}"]),
        *(profile.kept([f"--gpus-per-task={profile.gpus}"]) if profile.gpus else []),
        "--kill-on-bad-exit=0",
        "--overlap",
        f"--output={log}",
        "bash",
        str(script),
    ]


class SlurmStep(SpecCluster):
    """A scheduler in this process, and the step with its workers."""

    def __init__(
        self, profile: SlurmProfile, credentials: Security, *, name: str, logs: Path, host: str, dashboard: str
    ) -> None:
        self.name_of_all = name
        options = {"host": host, "dashboard_address": dashboard, "protocol": "tls://", "security": credentials}
        kept = {"profile": profile, "credentials": credentials, "job_name": name, "logs": logs}
        super().__init__(  # type: ignore[no-untyped-call]
            name=name,
            scheduler={"cls": ClosedScheduler, "options": options},
            worker={"cls": Step, "options": kept},
            security=credentials,
            silence_logs="critical",
        )

    def new_worker_spec(self) -> dict[str, Any]:
        """The next step, under a name that none before it had."""
        self._i += 1
        return {f"{self.name_of_all}-{self._i}": self.new_spec}

    def _update_worker_status(self, op: str, msg: Any) -> None:
        Cluster._update_worker_status(self, op, msg)  # noqa: SLF001  not SpecCluster's guess

    async def submit(self) -> None:
        """Start the step that is named and not there yet."""
        await self._correct_state()  # type: ignore[no-untyped-call]

    async def queue(self) -> dict[str, State]:
        """A step knows itself how it is."""
        return {}
