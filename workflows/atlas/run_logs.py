"""What unattended runs of a release leave in ROOT/logs.

DATE-PROCESS.log   what a run said; the newest KEPT of them
last.json          how the last one ended (LastRun)
summary.txt, .html the same for people (pipeline.report.unattended)
skipped.log        a line for each start since the last run at which another process was at work on the root
job-NUMBER.log     what the job of SLURM itself said, as long as something does
lock               held while an unattended run is at work
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import StorageError
from pipeline.files import write_json, write_whole
from workflows.lock import locked

KEPT = 60
LOG_TIME = "%Y-%m-%dT%H%M%S"
MOST_SKIPPED = 1000
QUOTED_BYTES = 8192
PROGRAM = "voxcaliper: "
"""What the command line's sentence about an error begins with."""


class LastRun(BaseModel):
    """How an unattended run ended. exit_code : see workflows.atlas.unattended. release : which it made or worked on.

    made, kept, failed, waiting : entries of that release. troubles : sentences about the run as a whole.
    following : by the clock on the wall, when the schedule starts the next one. on_failure : the command that the
    manifest named, for the day on which the manifest cannot be read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: str
    name: str
    outcome: Literal["done", "failed", "stopped"]
    exit_code: int
    began: datetime
    ended: datetime
    log: str | None
    release: str | None = None
    made: int = 0
    kept: int = 0
    failed: int = 0
    waiting: int = 0
    troubles: tuple[str, ...] = ()
    following: datetime | None = None
    on_failure: tuple[str, ...] = ()


class RunLogs:
    """The folder. path : absolute."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other unattended runs off. Raises LockedError where there is one, StorageError where that cannot be."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.path} cannot be made: {error.strerror}; mend it, or the manifest.") from error
        with locked(self.path / "lock", str(self.path.parent)):
            yield

    def new_log(self, began: datetime) -> Path:
        """Where a run that begins says what it does."""
        return self.path / f"{began:{LOG_TIME}}-{os.getpid()}.log"

    def logs(self) -> list[Path]:
        """What runs said, the oldest first."""
        return sorted(self.path.glob("[0-9]*.log"))

    def last(self) -> LastRun | None:
        """How the last run ended; None where none did, or nobody can read it."""
        try:
            return LastRun.model_validate_json((self.path / "last.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def killed(self) -> Path | None:
        """The log of a run that ended without a word, if the last one did; for who has the lock and no log yet."""
        logs, last = self.logs(), self.last()
        if not logs or last is None:
            return logs[-1] if logs else None
        newest, began = logs[-1].name.rpartition("-")[0], f"{last.began:{LOG_TIME}}"
        if last.log is None:  # it had no room for one
            return logs[-1] if newest > began else None
        return logs[-1] if newest >= began and logs[-1].name != Path(last.log).name else None

    def write_last(self, last: LastRun) -> None:
        """Say how a run ended. Raises StorageError."""
        write_json(self.path / "last.json", last.model_dump(mode="json"))

    def skipped(self) -> list[str]:
        """A line for each start since the last run at which another process was at work."""
        try:
            return (self.path / "skipped.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def note_skipped(self, sentence: str) -> int:
        """Note such a start; how many there are now in a row. Raises StorageError."""
        lines = [*self.skipped()[1 - MOST_SKIPPED :], f"{datetime.now():%Y-%m-%d %H:%M:%S} {sentence}"]  # noqa: DTZ005  the wall's
        write_whole(self.path / "skipped.log", "\n".join(lines) + "\n")
        return len(lines)

    def prune(self) -> None:
        """Remove the oldest logs, and the notes of skipped starts, which this run has told about."""
        jobs = sorted(self.path.glob("job-*.log"), key=lambda path: path.stat().st_mtime)
        for path in [*self.logs()[:-KEPT], *jobs[:-KEPT], self.path / "skipped.log"]:
            path.unlink(missing_ok=True)


def last_sentence(log: Path | None, code: int) -> str:
    """What a run that ended with an exit code said last: its one sentence about the error, or else as a quotation."""
    try:
        lines = _end(log).splitlines() if log is not None else []
    except OSError:
        lines = []
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if said.startswith(PROGRAM):
        return said.removeprefix(PROGRAM)
    return f"The run ended with exit code {code}" + (f"; it said last: “{said}”." if said else " and without a word.")


def _end(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - QUOTED_BYTES))
        return file.read().decode("utf-8", "replace")
