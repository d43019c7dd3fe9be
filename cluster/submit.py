"""The job that drives a run: its script, and how it is submitted.

Its workers are further jobs, or (workers_as = "steps") run inside its own allocation. It asks to be requeued when its
node fails or its walltime is near, and what it runs is `voxcaliper resume`, which goes on wherever the run stopped.
"""

from __future__ import annotations

import getpass
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

from cluster.jobs import jobs_folder
from cluster.profile import SlurmProfile, walltime_seconds
from cluster.security import security_of
from cluster.slurm import COMMAND_SECONDS, WorkerJob, name_of, parsed_queue, queue_command
from cluster.steps import step_command, step_script
from pipeline.errors import RunError, StorageError
from pipeline.plain_text import check_words

WARNING = (0.2, 180)
"""The driver is told this share of its walltime, or so many seconds, before its end, whichever is less."""
PLACEHOLDER = "tls://DRIVER:PORT"


def driver_name(run: Path) -> str:
    """What the job that drives a run is called; not as its workers, which it cancels by their name."""
    return f"{name_of(run)}-driver"


def profile_copy(profile: SlurmProfile, run: Path) -> Path:
    """The profile as it was when the run was submitted, beside the script."""
    return jobs_folder(profile, run) / "profile.toml"


def driver_directives(profile: SlurmProfile) -> list[str]:
    """What a job that drives runs with this profile asks for, as options of sbatch: where, how much, and how long."""
    driver, steps = profile.driver, profile.workers_as == "steps"
    partition = profile.partition if steps else driver.partition or profile.partition
    account = profile.account if steps else driver.account or profile.account
    if steps:  # one share for each task, every one with room for the driver, who sits beside the first
        memory = math.ceil((profile.memory + driver.memory) / profile.cores / 2**20)
        size = [f"--ntasks={profile.jobs}", f"--cpus-per-task={profile.cores}", f"--mem-per-cpu={memory}M"]
        size += [f"--gpus-per-task={profile.gpus}"] if profile.gpus else []
    else:
        memory_option = profile.memory_option(driver.memory, driver.cores)
        size = ["--ntasks=1", f"--cpus-per-task={driver.cores}", memory_option]
    return [
        *([f"--partition={partition}"] if partition else []),
        *([f"--account={account}"] if account else []),
        *profile.kept([*size, f"--time={_driver_walltime(profile)}"]),
        *(profile.directives if steps else ()),
        *driver.directives,
    ]


def warning_seconds(profile: SlurmProfile) -> int:
    """So long before its walltime such a job is told."""
    share, longest = WARNING
    return math.ceil(min(walltime_seconds(_driver_walltime(profile)) * share, longest))


def _driver_walltime(profile: SlurmProfile) -> str:
    return profile.walltime if profile.workers_as == "steps" else profile.driver.walltime or profile.walltime


def driver_script(profile: SlurmProfile, run: Path) -> str:
    """The script of the driver of a run, as text. run : the absolute folder of the run."""
    check_words("The path", (str(run), str(jobs_folder(profile, run)), sys.executable))
    log = jobs_folder(profile, run) / "%x-%j.log"
    directives = [
        f"--job-name={driver_name(run)}",
        f"--output={shlex.quote(str(log))}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{warning_seconds(profile)}",
        *driver_directives(profile),
    ]
    python = profile.python or shlex.quote(sys.executable)
    command = ["resume", str(run), "--profile", str(profile_copy(profile, run)), "--requeue"]
    lines = [
        "#!/usr/bin/env bash",
        "",
        *(f"#SBATCH {directive}" for directive in directives),
        "",
        *profile.setup,
        f"exec {python} -P -m workflows.cli {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def all_scripts(profile: SlurmProfile, run: Path) -> dict[str, str]:
    """What each script is for, and its text; addresses, names and credentials, which each start has anew, stand in."""
    check_words("The path", (str(run),))
    logs = jobs_folder(profile, run)
    credentials = security_of(*(logs / "credentials-NEW" / f"{part}.pem" for part in ("ca", "certificate", "key")))
    name = name_of(run)
    if profile.workers_as == "steps":
        script = step_script(PLACEHOLDER, f"{name}-N", profile, credentials, name, logs)
        command = shlex.join(step_command(profile, logs / f"{name}-step.sh", logs / f"{name}-JOB-step-N.log"))
        return {
            "the driver, whose allocation holds the workers (sbatch)": driver_script(profile, run),
            f"each task of the workers ({command})": script,
        }
    job = WorkerJob(PLACEHOLDER, f"{name}-N", profile=profile, credentials=credentials, job_name=name, logs=logs)
    return {
        "the driver (sbatch)": driver_script(profile, run),
        f"each of {profile.jobs} jobs of workers (sbatch, by the driver)": job.job_script(),  # type: ignore[no-untyped-call]
    }


def driver_in_queue(run: Path) -> str | None:
    """The number of the job that drives a run, or waits to; None where there is none.

    Raises RunError where SLURM does not answer.
    """
    queue = parsed_queue(_output(queue_command(driver_name(run))))
    return next((number for number, state in queue.items() if not state.has_ended), None)


def submit_driver(profile: SlurmProfile, run: Path, profile_text: str) -> str:
    """Write the script of the driver, submit it, and return the number of its job.

    Raises RunError where SLURM does not take it, StorageError where the script cannot be written.
    """
    script = jobs_folder(profile, run) / "driver.sh"
    try:
        script.parent.mkdir(parents=True, exist_ok=True)
        profile_copy(profile, run).write_text(profile_text, encoding="utf-8")
        script.write_text(driver_script(profile, run), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{error.filename} cannot be written: {error.strerror}; mend it, then submit.") from error
    found = re.match(r"\d+", _output(["sbatch", "--parsable", str(script)]))
    if found is None:
        raise RunError(f"sbatch printed no job number for {script}; look with: squeue --user={getpass.getuser()}.")
    return found[0]


def requeue(job: str) -> None:
    """Have SLURM end this job and start it again, in its turn. Raises RunError where it does not."""
    _output(["scontrol", "requeue", job])


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)  # noqa: S603  our own words
    except FileNotFoundError as error:
        raise RunError(
            f"{command[0]} is not found here; run this where SLURM's commands are, usually a login node."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RunError(f"SLURM does not answer {command[0]} within {COMMAND_SECONDS} s; try again later.") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = (lines or [f"exit code {done.returncode}"])[-1].removeprefix(f"{command[0]}: ").removeprefix("error: ")
        raise RunError(f"SLURM refuses {command[0]}: {said.rstrip('.')}; change the profile.")
    return done.stdout
