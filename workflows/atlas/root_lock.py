"""One process at a time works on an output root, also where locks do not reach from machine to machine.

flock tells on one machine, and its lock goes with the process: what a killed one leaves is taken over at once. Some
shared file systems keep flock to each machine, so the holder also says every few seconds that it lives, by the time of
the lock file. A lock of another machine counts until nothing was heard of it for SILENT_SECONDS, by the clock of the
file system; one that was given up in order has no name in it and counts no more. Who takes a lock writes a mark into it
that nobody else has, and looks soon after and before it publishes whether it is still there: of two that began together
one goes on at most, and one that was silent for so long that another took over publishes nothing. Where there is no
flock at all, the output is refused.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from pipeline.errors import RunError
from pipeline.files import temporary_name
from workflows.lock import LockedError, holder, is_locked, locked

BEAT_SECONDS = 5.0
SILENT_SECONDS = 120.0
POLL_SECONDS = 1.0
SETTLE_SECONDS = 0.5
"""Until two that began together have both written their marks."""


@contextlib.contextmanager
def root_locked(
    root: Path, *, wait: bool = False, say: Callable[[str], None] = lambda _: None
) -> Iterator[Callable[[], None]]:  # fmt: skip
    """Keep other processes off an output root; yields a check, which raises RunError where another took the lock over.

    Raises LockedError, naming the holder, where another has it, unless this process is to wait.
    """
    with contextlib.ExitStack() as stack:
        yield _enter(stack, root, wait=wait, say=say)


def _enter(
    stack: contextlib.ExitStack, root: Path, *, wait: bool, say: Callable[[str], None]
) -> Callable[[], None]:  # fmt: skip
    told = ""
    while True:
        try:
            return stack.enter_context(_held(root, say))
        except LockedError as error:
            if not wait:
                raise
            if str(error) != told:
                told = str(error)
                say(f"waiting: {told}")
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _held(root: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    path, mark = root / "lock", uuid4().hex

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

    def check() -> None:
        if _mark(path) not in allowed:
            raise RunError(
                f"The lock of {root} was taken over by {holder(path) or 'another process'} while this one was not heard"
                " of; it stops here and publishes nothing more. Look for what held it up, then run the release again."
            )

    end = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, end), daemon=True, name="lock")
    with locked(path, str(root), admitted=admitted, mark=mark) as file:
        time.sleep(SETTLE_SECONDS)
        found = _mark(path)
        if found not in (mark, ""):
            raise LockedError(
                f"{root} is being worked on by {holder(path)}, which began in the same moment; wait for it or stop it."
            )
        allowed = {mark, found}  # no mark at all on a full disk, which forbids no work here
        beats.start()
        try:
            yield check
        finally:
            end.set()
            beats.join()
            with contextlib.suppress(OSError):
                if _mark(path) == mark:
                    file.truncate(0)


def _mark(path: Path) -> str:
    """What stands in a lock beside the name; all of it where two wrote at once."""
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").partition("\n")[2]
    return ""


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
    probe = Path(temporary_name(path))
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:  # read only, or full
        now = time.time()
    return max(0.0, now - path.stat().st_mtime)
