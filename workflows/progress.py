"""Progress as a person sees it: a bar per stage in a terminal, a line now and then elsewhere, nothing when quiet.

Every step tells how far its stage is and, where the plan of the run is known, how long the whole run takes yet.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.engine import Progress as Step
from pipeline.plain_text import unwrapped
from workflows.outlet import standard_error

SECONDS_BETWEEN_LINES = 10.0


def duration(seconds: float) -> str:
    """A length of time as a person says it, in its two largest units."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


class Reporter(Protocol):
    """Something that is told how far a stage is."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def stage(self, step: Step) -> None: ...


class QuietReporter:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def stage(self, step: Step) -> None:
        return


class TerminalReporter:
    """A bar per stage with blocks, Mvoxel/s and the time left, from the blocks done since this process began.

    What is left of the whole run stands beside the stage that is at work.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            TextColumn("{task.fields[steps]:>11} blocks"),
            TextColumn("{task.fields[rate]:>8} Mvoxel/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[run]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._begin: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, step: Step) -> None:
        left = step.run_seconds_left
        fields: dict[str, Any] = {
            "steps": f"{step.blocks:,}/{step.of_blocks:,}",
            "rate": "–",
            "run": f"run {duration(left)}" if left is not None and step.blocks < step.of_blocks else "",
        }
        if step.stage not in self._tasks:
            self._tasks[step.stage] = self._progress.add_task(step.stage, total=step.of_voxels, **fields)
            self._begin[step.stage] = (time.monotonic(), step.voxels)
        begin, before = self._begin[step.stage]
        seconds = time.monotonic() - begin
        done = _done_now(step, before)
        if seconds > 0 and done > 0:
            fields["rate"] = f"{done / seconds / 1e6:.1f}"
        self._progress.update(self._tasks[step.stage], completed=step.voxels, **fields)


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

    def stage(self, step: Step) -> None:
        now = time.monotonic()
        begin, before = self._begin.setdefault(step.stage, (now, step.voxels))
        ended = step.blocks == step.of_blocks
        if not ended and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        line = f"{step.stage}: {step.blocks:,} of {step.of_blocks:,} blocks"
        done = _done_now(step, before)
        if step.found == step.of_blocks:
            line += ", finished before"
        elif now > begin and done > 0:
            rate = done / (now - begin)
            left = duration((step.of_voxels - step.voxels) / rate)
            line += f", {rate / 1e6:.1f} Mvoxel/s"
            line += f" in {now - begin:.1f} s" if ended else f", about {left} left"
        if step.run_seconds_left is not None and step.run_seconds_left >= 1:
            line += f"; run: about {duration(step.run_seconds_left)} left"
        print(line, file=self._stream, flush=True)


def _done_now(step: Step, before: int) -> float:
    """Voxels done since this process began with the stage, without the blocks that it found finished."""
    return (step.voxels - before) * (1 - step.found / max(step.blocks, 1))


def reporter(*, quiet: bool) -> Reporter:
    """The reporter that suits where the output goes."""
    if quiet:
        return QuietReporter()
    stream = standard_error()
    console = Console(file=unwrapped(stream), stderr=True)  # draws with control characters
    return TerminalReporter(console) if console.is_terminal else LineReporter(stream)
