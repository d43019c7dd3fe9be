"""A bar in a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from pipeline.engine import Progress
from workflows.progress import LineReporter, QuietReporter, TerminalReporter, duration, reporter


class Terminal(io.StringIO):
    """A stream that takes itself for a terminal."""

    def isatty(self) -> bool:
        return True


def test_which_reporter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(reporter(quiet=True), QuietReporter)
    assert isinstance(reporter(quiet=False), LineReporter)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(reporter(quiet=False), TerminalReporter)
    assert isinstance(reporter(quiet=True), QuietReporter)


def test_lines() -> None:
    stream = io.StringIO()
    with LineReporter(stream) as lines:
        for steps in range(1001):
            lines.stage(Progress("mask", steps, 1000, steps * 10**6, 10**9))
        lines.stage(Progress("centres", 0, 1, 0, 10**6))
        lines.stage(Progress("centres", 1, 1, 10**6, 10**6))
    first, *_, last, ended = stream.getvalue().splitlines()
    assert first == "mask: 0 of 1,000 blocks"
    assert last.startswith("mask: 1,000 of 1,000 blocks, ")
    assert last.endswith(" s")
    assert ended.startswith("centres: 1 of 1 blocks, ")
    assert len(stream.getvalue().splitlines()) < 6, "a line now and then"


def test_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("workflows.progress.time.monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    with LineReporter(stream) as lines:
        for steps in (2, 3, 4, 5, 6, 8):
            lines.stage(Progress("mask", steps, 8, steps * 10**7, 8 * 10**7))
    assert stream.getvalue().splitlines() == [
        "mask: 5 of 8 blocks, 2.5 Mvoxel/s, about 12 s left",
        "mask: 8 of 8 blocks, 3.0 Mvoxel/s in 20.0 s",
    ]


def test_what_is_left_of_the_run() -> None:
    stream = io.StringIO()
    with LineReporter(stream) as lines:
        lines.stage(Progress("mask", 0, 8, 0, 8))
        lines.stage(Progress("centres", 8, 8, 8, 8, run_seconds_left=7000.0))
    assert "run:" not in stream.getvalue().splitlines()[0]
    assert stream.getvalue().splitlines()[1].endswith("; run: about 1 h 57 min left")
    shown = Terminal()
    with TerminalReporter(Console(file=shown, width=140, force_terminal=True)) as bars:
        bars.stage(Progress("mask", 1, 2, 1_000_000, 2_000_000, run_seconds_left=240.0))
    assert "run 4 min" in shown.getvalue()


def test_what_was_done_before_is_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10, 1000, 10))
    monkeypatch.setattr("workflows.progress.time.monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    with LineReporter(stream) as lines:
        for name, found in (("mask", 8), ("centres", 6)):
            lines.stage(Progress(name, 0, 8, 0, 8 * 10**7))
            lines.stage(Progress(name, 8, 8, 8 * 10**7, 8 * 10**7, found=found))
    assert stream.getvalue().splitlines() == [
        "mask: 0 of 8 blocks",
        "mask: 8 of 8 blocks, finished before",
        "centres: 0 of 8 blocks",
        "centres: 8 of 8 blocks, 2.0 Mvoxel/s in 10.0 s",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (6000, "1 h 40 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_bars() -> None:
    shown = Terminal()
    console = Console(file=shown, width=120, force_terminal=True)
    with TerminalReporter(console) as bars:
        bars.stage(Progress("mask", 0, 2, 0, 2_000_000))
        bars.stage(Progress("mask", 2, 2, 2_000_000, 2_000_000))
        bars.stage(Progress("distance-y", 1, 2, 1_000_000, 2_000_000))
    text = shown.getvalue()
    assert "mask" in text
    assert "2/2 blocks" in text
    assert "1/2 blocks" in text
    assert "Mvoxel/s" in text


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter(quiet=True) as nothing:
        nothing.stage(Progress("mask", 1, 1, 1, 1))
    assert capsys.readouterr() == ("", "")
