"""Progress as a person sees it: a bar per stage in a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class Reporter(Protocol):
    """Something that is told how far a stage is: its name, steps and voxels done and in all."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def stage(self, name: str, steps: int, of_steps: int, voxels: int, of_voxels: int) -> None: ...


class QuietReporter:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def stage(self, name: str, steps: int, of_steps: int, voxels: int, of_voxels: int) -> None:
        return


class TerminalReporter:
    """A bar per stage with blocks, Mvoxel/s and the time left, from the blocks done since this process began."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            TextColumn("{task.fields[steps]:>11} blocks"),
            TextColumn("{task.fields[rate]:>8} Mvoxel/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._begin: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, name: str, steps: int, of_steps: int, voxels: int, of_voxels: int) -> None:
        fields: dict[str, Any] = {"steps": f"{steps:,}/{of_steps:,}", "rate": "–"}
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=of_voxels, **fields)
            self._begin[name] = (time.monotonic(), voxels)
        begin, before = self._begin[name]
        seconds = time.monotonic() - begin
        if seconds > 0 and voxels > before:
            fields["rate"] = f"{(voxels - before) / seconds / 1e6:.1f}"
        self._progress.update(self._tasks[name], completed=voxels, **fields)


class LineReporter:
    """Plain lines for logs and batch jobs: when a stage begins, every ten seconds, and when it ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begin: dict[str, tuple[float, int]] = {}
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def stage(self, name: str, steps: int, of_steps: int, voxels: int, of_voxels: int) -> None:
        now = time.monotonic()
        begin, before = self._begin.setdefault(name, (now, voxels))
        ended = steps == of_steps
        if not ended and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        line = f"{name}: {steps:,} of {of_steps:,} blocks"
        if now > begin and voxels > before:
            rate = (voxels - before) / (now - begin)
            line += f", {rate / 1e6:.1f} Mvoxel/s"
            line += f" in {now - begin:.1f} s" if ended else f", about {(of_voxels - voxels) / rate:.0f} s left"
        print(line, file=self._stream, flush=True)


def reporter(*, quiet: bool) -> Reporter:
    """The reporter that suits where the output goes."""
    if quiet:
        return QuietReporter()
    console = Console(stderr=True)
    return TerminalReporter(console) if console.is_terminal else LineReporter(sys.stderr)
