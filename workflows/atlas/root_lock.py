"""One process at a time works on an output root, also where locks do not reach from machine to machine.

flock tells on one machine, and its lock goes with the process: what a killed one leaves is taken over at once. Some
shared file systems keep flock to each machine, so the holder also says every few seconds that it lives, by the time of
the lock file. A lock of another machine counts until nothing was heard of it for SILENT_SECONDS, by the clock of the
file system; one that was given up in order has no name in it and counts no more. Where there is no flock at all, the
output is refused.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from pipeline.files import PARTIAL
from workflows.lock import LockedError, holder, is_locked, locked

BEAT_SECONDS = 5.0
SILENT_SECONDS = 120.0
POLL_SECONDS = 1.0


@contextlib.contextmanager
def root_locked(root: Path, *, wait: bool = False, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Keep other processes off an output root.

    Raises LockedError, naming the holder, where another has it, unless this process is to wait.
    """
    with contextlib.ExitStack() as stack:
        _enter(stack, root, wait=wait, say=say)
        yield


def _enter(stack: contextlib.ExitStack, root: Path, *, wait: bool, say: Callable[[str], None]) -> None:
    told = ""
    while True:
        try:
            stack.enter_context(_held(root, say))
            return
        except LockedError as error:
            if not wait:
                raise
            if str(error) != told:
                told = str(error)
                say(f"waiting: {told}")
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _held(root: Path, say: Callable[[str], None]) -> Iterator[None]:
    path = root / "lock"

    def admitted() -> None:
        last = holder(path)
        if not last:
            return
        silence = silent_seconds(path)
        if not _is_of_this_machine(last) and silence < SILENT_SECONDS:
            raise LockedError(
                f"{root} is being worked on by {last}, heard of {silence:.0f} s ago; wait for it or stop it (if it is"
                f" gone, its lock counts no more after {SILENT_SECONDS:.0f} s)."
            )
        say(f"the lock of {last}, which is gone, is taken over")

    end = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, end), daemon=True, name="lock")
    with locked(path, str(root), admitted=admitted) as file:
        beats.start()
        try:
            yield
        finally:
            end.set()
            beats.join()
            with contextlib.suppress(OSError):
                file.truncate(0)


def _beat(path: Path, end: threading.Event) -> None:
    while not end.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)


def is_root_locked(root: Path) -> bool:
    """Whether a process works on an output root, here or on another machine."""
    path = root / "lock"
    last = holder(path)
    if is_locked(path):
        return True
    return last != "" and not _is_of_this_machine(last) and silent_seconds(path) < SILENT_SECONDS


def _is_of_this_machine(name: str) -> bool:
    return name.endswith(f" on {os.uname().nodename}")


def silent_seconds(path: Path) -> float:
    """How long nothing was heard of the holder of a lock, by the clock of its file system."""
    probe = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:  # read only, or full
        now = time.time()
    return max(0.0, now - path.stat().st_mtime)
