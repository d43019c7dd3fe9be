"""One block, one task: the one door to Dask.

A task is a function of (job, block) that reads what it needs, writes its own part of the map, and returns an Outcome.
The engine files the outcome in the ledger on the worker and sends a receipt of a few hundred bytes to the driver,
which keeps a bounded window of futures and releases each. So the graph in flight is the window, and the driver holds
one receipt per block of the current stage (about 1 kB).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any, Protocol

from distributed import Client, Future, as_completed
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from pipeline.device import RETRIES
from pipeline.errors import LostWorkersError, RunError, StorageError, VoxcaliperError
from pipeline.geometry import BlockGrid, Index
from pipeline.ledger import Ledger
from pipeline.parcels import METER

__all__ = ["Client", "Job", "Outcome", "Progress", "Stage", "Stopwatch", "perform", "run_alone", "run_stage"]

TASKS_PER_THREAD = 3
"""Futures that the driver keeps in flight for every thread: one that runs and a short queue."""


class Job(Protocol):
    """What every task of a run knows; small and picklable."""

    @property
    def ledger(self) -> Ledger: ...


class Stopwatch:
    """Seconds by kind of work (read, distance, write …) of one task."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - begin


@dataclass(frozen=True)
class Outcome:
    """What a task found: a small summary for the driver, and arrays that other tasks read from the ledger."""

    summary: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One task per block of a grid. name : what the dashboard and the ledger call it."""

    name: str
    grid: BlockGrid
    task: Callable[[Any, Index, Stopwatch], Outcome]


@dataclass(frozen=True)
class Progress:
    """How far a stage is."""

    stage: str
    blocks: int
    of_blocks: int
    voxels: int
    of_voxels: int


def perform(stage: str, task: Callable[[Any, Index, Stopwatch], Outcome], job: Job, block: Index) -> dict[str, Any]:
    """Run one task on a worker, file its receipt, return the summary. Doing it twice changes nothing."""
    clock = Stopwatch()
    read_before, retries_before = METER.bytes_read, RETRIES.count
    try:
        with clock("all"):
            outcome = task(job, block, clock)
        summary = {
            **outcome.summary,
            "scratch_bytes_read": METER.bytes_read - read_before,
            "card_retries": RETRIES.count - retries_before,
        }
        begin = time.perf_counter()
        written = job.ledger.commit(stage, block, {**summary, "seconds": clock.seconds}, outcome.arrays)
    except OSError as error:
        raise _storage_error(stage, block, job, error) from error
    # What filing takes is known only after the receipt is written; a resumed run counts it as nothing.
    filing = time.perf_counter() - begin
    seconds = {**clock.seconds, "file": filing, "all": clock.seconds["all"] + filing}
    return {**summary, "scratch_bytes_written": written, "seconds": seconds}


def _storage_error(stage: str, block: Index, job: Job, error: OSError) -> StorageError:
    run = job.ledger.folder.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"The disk that holds {run} is full: block {block} of stage {stage} could not be written;"
            f" make room and go on with `voxcaliper resume {run}`, finished blocks are kept."
        )
    return StorageError(
        f"Block {block} of stage {stage} failed on {error.filename or run}: {error.strerror or error};"
        f" mend it and go on with `voxcaliper resume {run}`, finished blocks are kept."
    )


def run_stage(
    client: Client, stage: Stage, job: Job, *, absorb: Callable[[Index, Mapping[str, Any]], None],
    report: Callable[[Progress], None],
) -> dict[str, Any]:  # fmt: skip
    """Do every block of a stage that the ledger does not have yet; returns what all receipts add up to.

    absorb : called once for every block with its summary, finished earlier or now, in no particular order.
    Raises the first error of a task; blocks that are finished then stay finished.
    """
    begin = time.perf_counter()
    totals: dict[str, Any] = {
        "tasks": 0,
        "tasks_now": 0,
        "card_retries": 0,
        "scratch_bytes_read": 0,
        "scratch_bytes_written": 0,
        "seconds": {},
    }
    voxels = 0
    of_voxels = math.prod(stage.grid.shape)

    def count(block: Index, summary: Mapping[str, Any], *, now: bool) -> None:
        nonlocal voxels
        absorb(block, summary)
        totals["tasks"] += 1
        totals["tasks_now"] += now
        for counter in ("card_retries", "scratch_bytes_read", "scratch_bytes_written"):
            totals[counter] += summary[counter]
        for kind, seconds in summary["seconds"].items():
            totals["seconds"][kind] = totals["seconds"].get(kind, 0.0) + seconds
        voxels += stage.grid.box(block).voxels
        report(Progress(stage.name, totals["tasks"], len(stage.grid), voxels, of_voxels))

    report(Progress(stage.name, 0, len(stage.grid), 0, of_voxels))
    done: set[Index] = set()
    for block, parcel in job.ledger.finished_tasks(stage.name):
        done.add(block)
        count(block, {**parcel.summary, "scratch_bytes_written": parcel.stored_bytes}, now=False)
    pending = (block for block in stage.grid if block not in done)
    nonce = uuid.uuid4().hex

    def submit(block: Index) -> Future[dict[str, Any]]:
        key = (f"{stage.name}-{nonce}", *block)
        return client.submit(perform, stage.name, stage.task, job, block, key=key, pure=False)

    window = max(4, TASKS_PER_THREAD * sum(client.nthreads().values()))
    blocks: dict[Any, Index] = {}
    queue = as_completed()
    try:
        for block in itertools.islice(pending, window):
            future = submit(block)
            blocks[future.key] = block
            queue.add(future)
        for future in queue:
            block = blocks.pop(future.key)
            count(block, _result(future, f"Block {block} of stage {stage.name}"), now=True)
            future.release()
            for following in itertools.islice(pending, 1):
                successor = submit(following)
                blocks[successor.key] = following
                queue.add(successor)
    finally:
        if blocks:
            client.cancel([Future(key, client) for key in blocks])
    totals["wall_seconds"] = time.perf_counter() - begin
    return totals


def run_alone(client: Client, name: str, function: Callable[[Any], None], job: Job) -> None:
    """Run something once, on any worker, under a name that the dashboard shows."""
    _result(client.submit(function, job, key=f"{name}-{uuid.uuid4().hex}", pure=False), name)


def _result(future: Future[Any], what: str) -> Any:
    try:
        return future.result()
    except VoxcaliperError:
        raise
    except KilledWorker as error:
        raise LostWorkersError(
            f"{what} was given up because the workers that tried it died ({error.allowed_failures} of them), most"
            " likely for want of memory; go on with `voxcaliper resume` and fewer --workers, finished blocks are kept."
        ) from error
    except (CancelledError, CommClosedError, TimeoutError) as error:
        raise RunError(
            f"{what} was lost by the cluster ({type(error).__name__}); go on with `voxcaliper resume`, finished"
            " blocks are kept."
        ) from error
