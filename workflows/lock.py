"""Locks: one process at a time, by flock, and the name of who has it, so that nobody waits without knowing for whom.

The lock goes with the process, however it ends; the file stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from pipeline.errors import RunError, StorageError

TRIES, SECONDS_BETWEEN_TRIES = 3, 0.05
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
"""What flock says on file systems without locks."""
BUSY = 75
"""The exit code of a command that finds another process at work; sysexits.h calls it EX_TEMPFAIL."""


class LockedError(RunError):
    """Another process has the lock."""


@contextlib.contextmanager
def locked(
    path: Path, what: str, *, admitted: Callable[[], None] = lambda: None, mark: str = ""
) -> Iterator[TextIO]:  # fmt: skip
    """Keep other processes off what a file stands for; yields the open file, empty but for the name of this process.

    what : what is kept, for messages. admitted : called with the lock and before the name of its last holder is
    replaced; may raise LockedError, too. mark : what is written beside the name, in a line of its own.
    Raises LockedError, naming the holder, where another process has it, StorageError where the file system has no locks
    or no room.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "a+", encoding="utf-8", opener=_no_link))
            _take(file)
        except BlockingIOError as error:
            raise LockedError(
                f"{what} is being worked on by {holder(path) or 'another process'}; wait for it or stop it."
            ) from error
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise StorageError(
                    f"The file system of {path} has no locks ({error.strerror}), so nothing keeps two processes apart"
                    " there; choose a place on another one, or have it mounted with flock."
                ) from error
            raise StorageError(
                f"{path} cannot be made: {error.strerror}; make room or mend the permissions there,"
                " then resume the run."
            ) from error
        admitted()
        # A full disk forbids no work here: the name is a courtesy to the next one.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}" + (f"\n{mark}" if mark else ""))
            file.flush()
            os.fsync(file.fileno())
        yield file


def holder(path: Path) -> str:
    """Who holds a lock, or held it last; "" where nobody says."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def is_locked(path: Path) -> bool | None:
    """Whether a process has the lock; None where the file system cannot tell."""
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _take(file: TextIO) -> None:
    """Take the lock of an open file. Raises BlockingIOError where another process has it."""
    for _ in range(TRIES - 1):  # who asks whether it is held, holds it for a moment
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(SECONDS_BETWEEN_TRIES)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
