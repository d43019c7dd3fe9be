"""Entries in a table of cron, and of SLURM's scrontab: a block between two marks, everything else stays as it is."""

from __future__ import annotations

import getpass
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from cluster.schedule.task import Task, call, cron_command, last_words
from cluster.schedule.timing import Timing
from pipeline.errors import InputError, RunError

NO_TABLE = "no crontab for"
NO_EDITOR = {"VISUAL": "false", "EDITOR": "false"}
UNTAKEN = re.compile(r"[\s'\"\\]")
"""What an option in a scrontab must not hold."""


def marks(subject: Path) -> tuple[str, str]:
    """The lines around the entry of a file."""
    return f"# voxcaliper atlas {subject} begin\n", f"# voxcaliper atlas {subject} end\n"


def entry_of(table: str, subject: Path) -> str | None:
    """The entry of a file in a table, None where it has none."""
    found = _entry(subject).search(table)
    return found[0] if found else None


def with_entry(table: str, subject: Path, entry: str) -> str:
    """The table with this entry in place of the one that the file had; with "" without any. Other lines stay.

    Raises RunError where only one of the marks is there.
    """
    others = _entry(subject).sub("", table)
    if half := next((mark for mark in marks(subject) if f"\n{mark}" in f"\n{others}"), None):
        raise RunError(f"The table of cron holds the line {half.strip()!r} without its counterpart; take it out first.")
    return f"{others}\n{entry}" if others and not others.endswith("\n") else f"{others}{entry}"


def _entry(subject: Path) -> re.Pattern[str]:
    begin, end = map(re.escape, marks(subject))
    return re.compile(f"^{begin}(?:(?!{begin}).*\n)*?{end}", re.MULTILINE)


@dataclass(frozen=True)
class Table:
    """What cron and scrontab have in common. program : crontab or scrontab."""

    program: str

    def missing(self) -> str | None:
        """Why entries cannot be kept here, None where they can."""
        try:
            self.read()
        except RunError as error:
            return str(error)
        return None

    def read(self) -> str:
        """The table of this user. Raises RunError where it may not have one, or SLURM or the machine has none."""
        code, out, err = call([self.program, "-l"])
        if code and not any(text.lstrip().startswith(NO_TABLE) for text in (out, err)):
            raise RunError(f"{self.program} -l says: {last_words(code, out, err)}.")
        return "" if code else out

    def write(self, table: str) -> None:
        """Put a table in place of the one there is. Raises RunError, with the old one in place, where it is refused."""
        # The first versions of scrontab start an editor all the same, which then fails at once.
        code, out, err = call([self.program, "-"], table, NO_EDITOR) if table else call([self.program, "-r"])
        if code or self.read() != table:
            said = "; ".join(line.strip().rstrip(".:") for line in f"{out}{err}".splitlines() if line.strip())
            raise RunError(f"{self.program} does not take the entry: {said or f'exit code {code}'}.")

    def refuses(self, timing: Timing) -> None:
        """Raises InputError where it cannot start something at these times."""
        timing.cron_fields()

    def install(self, task: Task) -> None:
        """Put the entry of a task in place of the one of the same file. Raises RunError."""
        self.write(with_entry(self.read(), task.subject, self.text(task)))

    def remove(self, subject: Path) -> bool:
        """Take the entry of a file out; whether there was one. Raises RunError."""
        table = self.read()
        if entry_of(table, subject) is None:
            return False
        self.write(with_entry(table, subject, ""))
        return True

    def installed(self, subject: Path) -> str | None:
        """The entry of a file, None where it has none. Raises RunError."""
        return entry_of(self.read(), subject)

    def text(self, task: Task) -> str:
        """The entry of a task."""
        begin, end = marks(task.subject)
        return f"{begin}{task.timing.cron_fields()} {cron_command(task)}\n{end}"

    def where(self, task: Task) -> str:
        """Where the entry goes, as a person says it."""
        return f"the crontab of {getpass.getuser()} on {os.uname().nodename} (crontab -l shows it)"


class ScronTable(Table):
    """The table that SLURM keeps, whose entries are jobs."""

    def text(self, task: Task) -> str:
        """The entry of a task: options of its job, times and command. Here % is a letter like others.

        SLURM ends the job with SIGTERM at its walltime; it cannot be told before, as the jobs of a chain are.
        Raises InputError where an option does not go through: scrontab cuts them at blanks, and knows no quotes.
        """
        begin, end = marks(task.subject)
        if bad := next((each for each in task.directives if UNTAKEN.search(each)), None):
            raise InputError(
                f"scrontab takes no blanks or quotes in an option, and {bad!r} has some; write it without."
            )
        options = "".join(f"#SCRON {directive}\n" for directive in [*task.directives, "--output=/dev/null"])
        job = f"bash -c {shlex.quote('; '.join(task.job_lines))}" if task.job_lines[1:] else task.job_lines[0]
        log = f'{shlex.quote(str(task.logs))}/job-"$SLURM_JOB_ID".log'
        return f"{begin}{options}{task.timing.cron_fields()} exec {job.removeprefix('exec ')} >>{log} 2>&1\n{end}"

    def where(self, task: Task) -> str:
        return f"the scrontab of {getpass.getuser()} (scrontab -l shows it)"


CRONTAB, SCRONTAB = Table("crontab"), ScronTable("scrontab")
