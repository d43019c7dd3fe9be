"""What a schedule starts, and how its command stands in the text of each place: shell, crontab, systemd."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.profile import LocalProfile, Profile, SlurmProfile
from cluster.schedule.timing import Timing
from cluster.slurm import COMMAND_SECONDS, name_of
from cluster.submit import driver_directives
from pipeline.errors import InputError, RunError
from pipeline.plain_text import check_words

USUAL_PATH = ("/usr/bin", "/bin")
"""Where cron and systemd look for programs, wherever they run."""
LONGEST_CRON_COMMAND = 990
"""Characters; crontab takes less than a thousand in a line's command."""

BROKEN = "VOXCALIPER_CHAIN_BROKEN"
"""The variable in which a job says why it has no successor; empty where it has one."""


@dataclass(frozen=True)
class Task:
    """What is started, and when.

    subject : the absolute path of the file that it is about; it tells entries apart. arguments : of voxcaliper.
    logs : a folder for what jobs print. profile : how much a job that runs it asks for. options : further options of
    sbatch for such a job. environment : variables that the command needs where cron or systemd start it.
    """

    subject: Path
    arguments: tuple[str, ...]
    logs: Path
    timing: Timing
    profile: Profile
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        words = (str(self.subject), str(self.logs), *self.arguments, *self.options, *self.environment.values())
        check_words("The path or word", words)

    @property
    def command(self) -> list[str]:
        """The words of the command on this machine; the first is an absolute path."""
        return [sys.executable, "-P", "-m", "workflows.cli", *self.arguments]

    @property
    def shell(self) -> str:
        """The command on this machine as a line for /bin/sh."""
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return shlex.join([*(["/usr/bin/env", *settings] if settings else []), *self.command])

    @property
    def job_lines(self) -> list[str]:
        """The command in a job as lines for bash: what prepares the environment there, then the command itself."""
        setup, python = (
            (self.profile.setup, self.profile.python) if isinstance(self.profile, SlurmProfile) else ((), "")
        )
        python = python or shlex.quote(sys.executable)
        return [*setup, f"exec {python} -P -m workflows.cli {shlex.join(self.arguments)}"]

    @property
    def directives(self) -> list[str]:
        """Name and size of a job that runs it, as options of sbatch."""
        if isinstance(self.profile, SlurmProfile):
            size = driver_directives(self.profile)
        else:
            workers = self.profile.workers if isinstance(self.profile, LocalProfile) else None
            size = ["--ntasks=1", f"--cpus-per-task={workers or 1}"]
        return [f"--job-name={task_name(self.subject)}", *size, *self.options]


def task_name(subject: Path) -> str:
    """What the jobs and units of a file are called; another for every path."""
    return f"{name_of(subject)}-schedule"


def needed_environment(profile: Profile) -> dict[str, str]:
    """What cron and systemd leave out of the environment and a run with these workers needs: SLURM's commands."""
    found = shutil.which("sbatch") if isinstance(profile, SlurmProfile) else None
    folder = os.path.dirname(found) if found else ""
    path = {"PATH": os.pathsep.join((folder, *USUAL_PATH))} if folder and folder not in USUAL_PATH else {}
    return path | ({"SLURM_CONF": os.environ["SLURM_CONF"]} if found and "SLURM_CONF" in os.environ else {})


def cron_command(task: Task) -> str:
    """The command of a crontab's line.

    There % ends the command unless a backslash stands before it, and that backslash must not be hidden by another one.
    Raises InputError where it is longer than crontab takes.
    """
    text = task.shell.replace("%", "''\\%") if "%" in task.shell else task.shell
    if len(text.encode()) > LONGEST_CRON_COMMAND:
        raise InputError(
            f"The line for cron would have {len(text.encode())} characters, and crontab takes"
            f" {LONGEST_CRON_COMMAND}; move {task.subject} to a folder with a shorter path."
        )
    return text


def systemd_command(task: Task) -> str:
    """The command as systemd's ExecStart reads it: its own quotes, with % and $ doubled.

    Through env, for systemd starts nothing whose own path holds quotes.
    """
    return " ".join(f'"{_systemd(word).replace("$", "$$")}"' for word in ["/usr/bin/env", *task.command])


def systemd_environment(task: Task) -> str:
    """The environment as lines of a unit."""
    return "".join(f'Environment="{name}={_systemd(value)}"\n' for name, value in task.environment.items())


def _systemd(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def call(command: list[str], text: str = "", environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, output and errors of a program of this machine, given text to read.

    Raises RunError where it is not there or does not answer. Bytes that are no UTF-8 come back as they were.
    """
    try:
        done = subprocess.run(  # noqa: S603  our own words
            command, input=text, capture_output=True, check=False, timeout=COMMAND_SECONDS, encoding="utf-8",
            errors="surrogateescape", env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        )  # fmt: skip
    except FileNotFoundError as error:
        raise RunError(f"{command[0]} is not found here; take another --on, or put it into the PATH.") from error
    except subprocess.TimeoutExpired as error:
        raise RunError(f"{command[0]} does not answer within {COMMAND_SECONDS} s; try again later.") from error
    return done.returncode, done.stdout, done.stderr


def last_words(code: int, out: str, err: str) -> str:
    """What a program that failed said last."""
    lines = [line.strip() for line in f"{out}\n{err}".splitlines() if line.strip()]
    return (lines or [f"exit code {code}"])[-1].removesuffix(".")
