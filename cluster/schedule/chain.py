"""A job that submits its successor before it does anything else.

Each is called the same and waits for those before it (--dependency=singleton), and no successor is submitted where one
waits already; so there is one in the queue, whatever happens to a run, and a run that takes longer than the interval
delays the next one instead of meeting it. `scancel --name` ends all of it. The job's script is in the queue and nowhere
else: a job submits its own copy of it. It needs nodes that may submit jobs.
"""

from __future__ import annotations

import getpass
import shlex
import time
from datetime import datetime
from pathlib import Path

from cluster.profile import SlurmProfile
from cluster.schedule.task import BROKEN, Task, call, last_words, task_name
from cluster.schedule.timing import SUNDAY, Timing
from cluster.slurm import cancel_jobs
from cluster.submit import WARNING, warning_seconds
from pipeline.errors import RunError

PAUSES = (0, 10, 30, 120)
"""Seconds before each try to submit the successor: a controller that starts anew does not end the chain."""
TIME = "%Y-%m-%dT%H:%M:%S"
END_SECONDS, LOOK_SECONDS = 45.0, 0.5
"""So long jobs may take to end (KillWait and some), and how often they are looked at."""

SCRIPT = """\
#!/usr/bin/env bash

{directives}

# The next run is queued before anything else is done; `scancel --name={name}` ends the chain.
# Times are those of the clock on the wall, counted as if it stood in UTC.
said="squeue does not answer"
for pause in {pauses}; do
    sleep "$pause"
    waiting=$(squeue --noheader --user="$(id -un)" --name={name} --states=PENDING --format=%i) || continue
    now=$(date -u -d "$(date '+%F %T')" +%s)
    begin=$(date -u -d "@$((now + {seconds} - (now - {anchor}) % {seconds}))" +%FT%T)
    if [ -n "$waiting" ] || said=$(sbatch --begin="$begin" "$0" 2>&1); then
        said=
        break
    fi
done
export {broken}="$said"

{lines}
"""


def script(task: Task) -> str:
    """The script of every job of the chain, as text."""
    log = shlex.quote(str(task.logs).replace("%", "%%"))
    warning = warning_seconds(task.profile) if isinstance(task.profile, SlurmProfile) else WARNING[1]
    directives = [
        *task.directives,
        f"--signal=B:USR1@{warning}",
        f"--output={log}/job-%j.log",
        "--open-mode=append",
        "--dependency=singleton",
        "--requeue",
    ]
    anchor = (SUNDAY - datetime(1970, 1, 1)).days * 86400 + task.timing.offset  # noqa: DTZ001  as SUNDAY
    return SCRIPT.format(
        directives="\n".join(f"#SBATCH {directive}" for directive in directives),
        name=task_name(task.subject),
        broken=BROKEN,
        pauses=" ".join(map(str, PAUSES)),
        seconds=task.timing.seconds,
        anchor=anchor,
        lines="\n".join([*task.job_lines[:-1], f"{task.job_lines[-1]} --requeue"]),
    )


class Chain:
    """Such jobs, as a place for entries."""

    def missing(self) -> str | None:
        """Why there cannot be one here, None where there can."""
        try:
            _jobs("voxcaliper")
        except RunError as error:
            return str(error)
        return None

    def refuses(self, timing: Timing) -> None:
        """Nothing: it can start something at any times."""

    def install(self, task: Task) -> None:
        """Submit the first job in place of the one that waits; what is at work ends as it would.

        Raises RunError where SLURM does not take it.
        """
        name, begin = task_name(task.subject), task.timing.upcoming().strftime(TIME)
        code, out, err = call(["sbatch", "--parsable", f"--begin={begin}"], script(task))
        if code:
            raise RunError(f"sbatch does not take the job: {last_words(code, out, err)}; change the profile.")
        submitted = out.strip().partition(";")[0]  # the cluster follows where there are several
        waiting = [number for number, (state, _) in _jobs(name).items() if state == "PENDING" and number != submitted]
        if waiting:
            call(["scancel", *waiting])

    def remove(self, subject: Path) -> bool:
        """End the chain of a file, also the run that is at work; whether there was one.

        Raises RunError where a job of it stays.
        """
        name = task_name(subject)
        found = jobs = _jobs(name)
        limit = time.monotonic() + END_SECONDS
        while jobs and time.monotonic() < limit:
            if any(state != "COMPLETING" for state, _ in jobs.values()):
                cancel_jobs(name)  # again where one that was being ended had just submitted its successor
            time.sleep(LOOK_SECONDS)
            jobs = _jobs(name)
        if any(state != "COMPLETING" for state, _ in jobs.values()):
            raise RunError(
                f"Jobs stay in the queue although they were cancelled; end them with: scancel --name={name}."
            )
        return bool(found)

    def installed(self, subject: Path) -> str | None:
        """What the queue says of the chain of a file, None where there is none. Raises RunError."""
        name = task_name(subject)
        lines = [
            f"job {number} of {name}: {state}, {'after the one before' if begins == 'N/A' else f'begins {begins}'}\n"
            for number, (state, begins) in _jobs(name).items()
        ]
        return "".join(lines) or None

    def text(self, task: Task) -> str:
        """The script."""
        return script(task)

    def where(self, task: Task) -> str:
        """Where the entry goes, as a person says it."""
        name = task_name(task.subject)
        return f"the queue of SLURM as {name}, a job that submits its successor (scancel --name={name} ends it)"


def _jobs(name: str) -> dict[str, tuple[str, str]]:
    """The jobs of this name that have not ended: number → its state, and when it begins or began."""
    user = getpass.getuser()
    command = ["squeue", "--noheader", f"--user={user}", f"--name={name}", "--format=%i|%T|%S"]
    code, out, err = call(command)
    if code:
        raise RunError(f"squeue says: {last_words(code, out, err)}.")
    rows = (line.strip().split("|") for line in out.splitlines() if line.count("|") == 2)
    return {number: (state, begins) for number, state, begins in rows}
