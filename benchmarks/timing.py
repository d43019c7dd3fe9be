"""How a piece of work is timed: one measurement, and the median of several."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

ENOUGH_SECONDS = 20.0
"""What takes longer than this is not repeated."""


@dataclass(frozen=True)
class Timing:
    """CPU seconds of all threads of this process, and seconds on the wall."""

    cpu_s: float
    wall_s: float


def bench_once(work: Callable[[], T]) -> tuple[T, Timing]:
    """Do a piece of work once: what it returns, and how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Timing(time.process_time() - cpu, time.perf_counter() - wall)


def median(timings: Sequence[Timing]) -> Timing:
    """The median of both clocks, each by itself."""
    return Timing(statistics.median(t.cpu_s for t in timings), statistics.median(t.wall_s for t in timings))


def bench(work: Callable[[], T], repeats: int) -> tuple[T, Timing]:
    """The last result and the median of repeated work; fewer repeats where one takes long."""
    result, first = bench_once(work)
    timings = [first]
    while len(timings) < repeats and sum(t.wall_s for t in timings) < ENOUGH_SECONDS:
        result, timing = bench_once(work)
        timings.append(timing)
    return result, median(timings)
