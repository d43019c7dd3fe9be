"""Standard error that nobody has to read: a run goes on although its terminal hangs, or the pipe behind it is full."""

from __future__ import annotations

import io
import os
import stat
import sys
import threading
import time
from collections import deque
from typing import TextIO, cast

MOST_PIECES = 1000
"""What waits to be written; more is left out."""
LAST_SECONDS = 3.0
"""So long the end of a command waits for what was said last."""


class Outlet(io.TextIOBase):
    """Takes text at once and writes it in a thread of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pieces: deque[bytes] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._pour, name="standard error", daemon=True).start()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def write(self, text: str) -> int:
        with self._changed:
            if len(self._pieces) < MOST_PIECES:
                self._pieces.append(text.encode("utf-8", "replace"))
                self._changed.notify_all()
        return len(text)

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def drain(self, seconds: float = LAST_SECONDS) -> None:
        """Wait until all is written, or so long."""
        limit = time.monotonic() + seconds
        with self._changed:
            while self._pieces and (left := limit - time.monotonic()) > 0:
                self._changed.wait(left)

    def _pour(self) -> None:
        while True:
            with self._changed:
                while not self._pieces:
                    self._changed.wait()
                piece = self._pieces[0]
            try:
                while piece:
                    piece = piece[os.write(self._descriptor, piece) :]
            except OSError:
                pass  # nobody is there any more
            with self._changed:
                self._pieces.popleft()
                self._changed.notify_all()


_OUTLETS: dict[int, Outlet] = {}


def standard_error() -> TextIO:
    """Where a person is told something: without waiting, where somebody else decides how fast it is read."""
    try:
        descriptor = sys.stderr.fileno()
        kind = os.fstat(descriptor).st_mode
    except (OSError, ValueError):  # no file at all, as in tests
        return sys.stderr
    if not (stat.S_ISFIFO(kind) or stat.S_ISCHR(kind) or stat.S_ISSOCK(kind)):
        return sys.stderr
    if descriptor not in _OUTLETS:
        sys.stderr.flush()
        _OUTLETS[descriptor] = Outlet(descriptor)
    return cast("TextIO", _OUTLETS[descriptor])


def drain() -> None:
    """Before a command ends."""
    for outlet in _OUTLETS.values():
        outlet.drain()
