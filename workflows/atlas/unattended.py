"""A release that nobody watches: what a schedule starts.

The release itself is a process of its own (`voxcaliper atlas run`), so that whatever happens to it, a log, an exit
status and a summary are left, and somebody is told. Exit codes: 0 everything is made or kept; 1 something failed or
waits for room; BUSY another process is at work on the root; STOPPED stopped in order, it goes on the next time.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from cluster.schedule.task import BROKEN
from cluster.schedule.timing import Timing
from pipeline.errors import InputError, StorageError
from pipeline.report.unattended import EntryLine, UnattendedContent, render_text, write_unattended
from workflows.atlas.manifest import Manifest, read_manifest
from workflows.atlas.on_failure import call_on_failure
from workflows.atlas.records import EntryRecord, ReleaseRecord
from workflows.atlas.root import Root
from workflows.atlas.run_logs import LastRun, RunLogs, last_sentence
from workflows.lock import BUSY, LockedError
from workflows.options import say

RELEASE = (sys.executable, "-P", "-m", "workflows.cli", "atlas", "run")
"""The command that makes a release; the manifest follows."""
FAILED, STOPPED = 1, 130
SKIPPED_IN_A_ROW = 3
"""At so many starts in a row at which another process was at work, somebody is told, once: it may hang."""
STOPS = {STOPPED, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGINT}
"""How a run ends that was stopped."""


@dataclass
class _Run:
    """What is known of an unattended run, and grows while it goes on. path : of the manifest, absolute."""

    path: Path
    logs: RunLogs
    root: Path
    name: str
    on_failure: tuple[str, ...]
    timing: Timing | None
    began: datetime = field(default_factory=lambda: datetime.now().astimezone())
    log: Path | None = None
    troubles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run_unattended(path: Path, *, timing: Timing | None = None, logs: Path | None = None, requeue: bool = False) -> int:
    """Run a release, leave log, status and summary in ROOT/logs, tell of failures; returns the exit code.

    timing : of the schedule that starts it. logs : where they go if the manifest cannot be read. requeue : this is a
    job of SLURM that starts again when its walltime is near.
    Raises InputError where neither is known.
    """
    # cron knows neither; libraries keep their settings there.
    os.environ.setdefault("HOME", pwd.getpwuid(os.getuid()).pw_dir)
    path = Path(os.path.abspath(path))
    run = _known(path, timing, logs)
    try:
        with run.logs.locked():
            return _carry_out(run, requeue=requeue)
    except LockedError as error:
        return _skip(run, str(error))
    except StorageError as error:
        run.troubles.append(str(error))
        _tell(run, render_text(_content(run, None, FAILED)), FAILED, None)
        raise


def _known(path: Path, timing: Timing | None, logs: Path | None) -> _Run:
    manifest: Manifest | None
    try:
        manifest, _ = read_manifest(path)
    except InputError:
        if logs is None:
            raise
        manifest = None  # the run itself will say what is wrong with it
    if manifest is not None:
        folder = RunLogs(manifest.output / "logs")
        return _Run(path, folder, manifest.output, manifest.name, manifest.on_failure, timing)
    assert logs is not None
    folder = RunLogs(logs)
    last = folder.last()
    name, on_failure = (last.name, last.on_failure) if last else (path.stem, ())
    return _Run(path, folder, logs.parent, name, on_failure, timing)


def _carry_out(run: _Run, *, requeue: bool) -> int:
    if killed := run.logs.killed():
        run.notes.append(f"The run before ended without a word, killed or with its machine; {killed} is its log.")
        _tell(run, f"{run.name}: {run.notes[-1]} It goes on now.\n", FAILED, killed)
    if skipped := run.logs.skipped():
        run.notes.append(f"Skipped since the last run, for another process was at work: {len(skipped)}, {skipped[-1]}")
    if broken := os.environ.get(BROKEN):
        run.troubles.append(f"No job follows this one, install the schedule again: {broken}")
    before = _newest(run.root)
    run.log = run.logs.new_log(run.began)
    with _opened(run) as file:
        code, near = _release(run.path, file)
    if code == BUSY:
        said = last_sentence(run.log, code)
        if run.log is not None:
            run.log.unlink()
        return _skip(run, said)
    newest = _newest(run.root)
    release = newest[1] if newest is not None and newest != before else None
    code = _judge(run, code, release)
    if near and requeue and code == STOPPED:
        run.notes.append("The walltime of its job was near: it is requeued and goes on by itself.")
    ended = _conclude(run, code, release)
    if near and requeue and code == STOPPED:
        from workflows.cluster_commands import requeue_this_job

        requeue_this_job()
    return ended


@contextlib.contextmanager
def _opened(run: _Run) -> Iterator[BinaryIO | None]:
    """The log of a run; without room for it, what it says goes where this process says things."""
    assert run.log is not None
    try:
        file = run.log.open("wb")
    except OSError as error:
        run.troubles.append(f"The log {run.log} cannot be written: {error.strerror}.")
        run.log = None
        yield None
        return
    with file:
        yield file


def _release(path: Path, log: BinaryIO | None) -> tuple[int, bool]:
    """The release in a process of its own: its exit code, and whether SLURM warned of the walltime meanwhile."""
    child = subprocess.Popen([*RELEASE, str(path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603  our own
    warned: list[int] = []

    def stop(number: int, _frame: object) -> None:
        if number == signal.SIGUSR1:
            warned.append(number)
        # SLURM ends every process of a job itself, and a terminal every process in front of it.
        if number == signal.SIGUSR1 or (number == signal.SIGTERM and "SLURM_JOB_ID" not in os.environ):
            child.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    try:
        return child.wait(), bool(warned)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _judge(run: _Run, code: int, release: ReleaseRecord | None) -> int:
    """The exit code of the whole, and sentences about what the entries of the release do not say."""
    if code in STOPS:
        return STOPPED
    # Of a release that readers see, its entries tell what went wrong; else the run itself ended with a sentence.
    came_to_its_end = release is not None and Root(run.root).latest() == release.identifier
    unmade = [entry for entry in release.entries if entry.outcome in ("failed", "waiting")] if release else []
    if code < 0:
        run.troubles.append(
            f"The run was killed by {signal.Signals(-code).name}; if nobody did that, memory ran out. It goes on the"
            " next time."
        )
    elif code and not (came_to_its_end and unmade):
        run.troubles.append(last_sentence(run.log, code))
    return FAILED if code or unmade or run.troubles else 0


def _conclude(run: _Run, code: int, release: ReleaseRecord | None) -> int:
    """Leave status and summary, and tell of a failure, also where there is no room for them; returns the exit code."""
    content = _content(run, release, code)
    last = LastRun(
        manifest=content.manifest, name=run.name, outcome=content.outcome, exit_code=code, began=content.began,
        ended=content.ended, log=content.log or None, release=content.release, **content.counts,
        troubles=content.troubles, following=content.following, on_failure=run.on_failure,
    )  # fmt: skip
    try:
        run.logs.prune()
        text = write_unattended(run.logs.path, content)
        run.logs.write_last(last)
    except (StorageError, OSError) as error:
        run.troubles.append(str(error))
        code = code or FAILED
        text = render_text(_content(run, release, code))
    if code == FAILED:
        _tell(run, text, code, run.log)
        # Where cron or a job of SLURM collects what is said, that is a message as well.
        say(text.rstrip())
    return code


def _skip(run: _Run, said: str) -> int:
    """Another process is at work: note it, and tell somebody where that goes on for long."""
    times = run.logs.note_skipped(said)
    if times == SKIPPED_IN_A_ROW:
        text = f"{run.name}: {times} starts in a row were skipped. {said}\n"
        _tell(run, text, BUSY, run.logs.path / "skipped.log")
    return BUSY


def _tell(run: _Run, text: str, code: int, log: Path | None) -> None:
    """Call the command of the manifest; what goes wrong with it stands in the log of the run and changes nothing else.

    log : what the command is to look at.
    """
    if not run.on_failure:
        return
    environment = {
        "VOXCALIPER_RELEASE": str(run.path),
        "VOXCALIPER_SUMMARY": str(run.logs.path / "summary.html"),
        "VOXCALIPER_LOG": str(log or ""),
        "VOXCALIPER_EXIT": str(code),
    }
    with contextlib.ExitStack() as stack:
        file: BinaryIO | None = None
        with contextlib.suppress(OSError):
            file = stack.enter_context(run.log.open("ab")) if run.log and run.log.exists() else None
        sentence = call_on_failure(run.on_failure, text, environment, run.path.parent, file)
        if sentence and file:
            with contextlib.suppress(OSError):
                file.write(f"voxcaliper: {sentence}\n".encode())
    if sentence:
        say(f"voxcaliper: {sentence}")


def _newest(root: Path) -> tuple[int, ReleaseRecord] | None:
    """The newest release of a root, and when its record was written."""
    newest = Root(root).newest()
    if newest is None:
        return None
    return (root / "releases" / newest.identifier / "release.json").stat().st_mtime_ns, newest


def _content(run: _Run, release: ReleaseRecord | None, code: int) -> UnattendedContent:
    now = datetime.now().astimezone()
    following = run.timing.upcoming() if run.timing and not os.environ.get(BROKEN) else None
    try:
        free = shutil.disk_usage(run.root).free
    except OSError:
        free = None
    return UnattendedContent(
        name=run.name,
        manifest=str(run.path),
        outcome="stopped" if code == STOPPED else "failed" if code else "done",
        began=run.began,
        ended=now,
        exit_code=code,
        log=str(run.log or ""),
        root=str(run.root),
        free_bytes=free,
        release=release.identifier if release else None,
        index="../index.html" if (run.root / "index.html").exists() else None,
        following=following,
        troubles=tuple(run.troubles),
        notes=tuple(run.notes),
        entries=tuple(_line(run.root, entry) for entry in release.entries) if release else (),
    )


def _line(root: Path, entry: EntryRecord) -> EntryLine:
    report = f"{entry.run}/report.html" if entry.run else ""
    return EntryLine(
        name=f"{entry.dataset}/{entry.workflow}",
        outcome=entry.outcome,
        sentence=", ".join(entry.reasons) if entry.outcome == "made" else entry.message,
        seconds=entry.seconds,
        bytes=entry.bytes,
        report=f"../{report}" if report and (root / report).exists() else None,
    )
