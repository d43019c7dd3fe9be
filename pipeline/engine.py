"""Blocks in, summaries out: the one door to Dask.

A task is a function of (job, block) that reads what it needs, writes its own part of the map, and returns an Outcome.
Tasks travel in batches of some seconds of work (see batches.py). A worker files the outcome of each block in the
ledger at once, skips what is filed already, and tells the driver of the whole batch in one message. The driver keeps a
bounded window of batches in flight and releases each, so neither it nor the scheduler holds anything per block.
"""

from __future__ import annotations

import contextlib
import errno
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

import dask
from distributed import Client, Future, as_completed, get_worker
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from pipeline.batches import BATCH_SECONDS, Backlog, Pace
from pipeline.device import RETRIES
from pipeline.errors import LostWorkersError, RunError, StorageError, VoxcaliperError
from pipeline.geometry import BlockGrid, Index
from pipeline.ledger import SHARDS, Ledger
from pipeline.parcels import METER, Content

__all__ = [
    "Client", "Job", "Outcome", "Progress", "Resource", "Stage", "Stopwatch", "perform", "run_alone", "run_stage",
]  # fmt: skip

BATCHES_PER_THREAD = 3
"""Batches that the driver keeps in flight for every thread: one that runs and a short queue."""
LONGEST_BATCH_SECONDS = 2 * BATCH_SECONDS
"""A batch begins no further block after this; what is left of it is handed out again."""
CREW_SECONDS = 10.0
"""How often the driver asks which workers there are."""
STALL_SECONDS, SLOWEST_VOXELS_PER_SECOND = 1800.0, 1e5
"""A run ends where its workers are there and none finishes a batch for so long, and so long for each voxel of a block:
a store that stalls holds the threads of its readers for ever. Measured blocks are fifty times as fast and more."""
SCHEDULER_SECONDS = 120.0
"""A scheduler that does not answer for so long is given up."""
POLL_SECONDS, LONGEST_POLL_SECONDS = 0.1, 1.0
"""How often the driver looks for batches that ended; more is not counted for one look: a driver that was stopped, or a
machine that slept, gives up nobody."""
COUNTERS = ("card_retries", "scratch_bytes_read", "scratch_bytes_written")

Resource = Literal["GPU", "CPU"]
"""What a worker may be said to offer (`dask worker --resources`), as many as it has threads."""


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
    """What a task found: a small summary for the driver, and arrays that other tasks read from the ledger.

    arrays : by name, or an iterator of (name, array) that does the work while they are filed, so that a task need not
    hold all it finds. The summary is read after them, and may be filled by them.
    """

    summary: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Content] | Iterable[tuple[str, Content]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One task per block of a grid. name : what the dashboard and the ledger call it.

    resource : what its workers must offer, where any worker offers it; otherwise every worker may do it.
    writes : whether its tasks write files beside their receipts, which are held against them when all are done.
    """

    name: str
    grid: BlockGrid
    task: Callable[[Any, Index, Stopwatch], Outcome]
    resource: Resource | None = None
    writes: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    found : blocks among them that were finished before. seconds : since the stage began. run_seconds_left : of the
    whole run, for those that know its plan; None while nothing is known.
    """

    stage: str
    blocks: int
    of_blocks: int
    voxels: int
    of_voxels: int
    found: int = 0
    seconds: float = 0.0
    run_seconds_left: float | None = None


@dataclass
class Totals:
    """What tasks add up to. tasks : all of them; tasks_now : those that were not finished before."""

    tasks: int = 0
    tasks_now: int = 0
    batches: int = 0
    voxels: int = 0
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    seconds: dict[str, float] = field(default_factory=dict)

    def count(self, summary: dict[str, Any], voxels: int, *, now: bool) -> dict[str, Any]:
        """Add a task; returns its summary without what is counted here."""
        self.tasks += 1
        self.tasks_now += now
        self.voxels += voxels
        for counter in COUNTERS:
            self.counters[counter] += summary.pop(counter)
        self._add_seconds(summary.pop("seconds"))
        return summary

    def add(self, other: Totals) -> None:
        self.tasks += other.tasks
        self.tasks_now += other.tasks_now
        self.batches += other.batches
        self.voxels += other.voxels
        for counter in COUNTERS:
            self.counters[counter] += other.counters[counter]
        self._add_seconds(other.seconds)

    def _add_seconds(self, seconds: Mapping[str, float]) -> None:
        for kind, value in seconds.items():
            self.seconds[kind] = self.seconds.get(kind, 0.0) + value


@dataclass(frozen=True)
class Batch:
    """What a worker tells of a batch. done : numbers of its blocks; summaries : one each, in their order."""

    done: range
    summaries: list[dict[str, Any]]
    totals: Totals
    wall_seconds: float


def perform(stage: str, task: Callable[[Any, Index, Stopwatch], Outcome], job: Job, block: Index) -> dict[str, Any]:
    """Run one task on a worker, file its receipt, return the summary. Doing it twice changes nothing."""
    clock = Stopwatch()
    read_before, retries_before = METER.bytes_read, RETRIES.count
    begin = time.perf_counter()
    summary: dict[str, Any] = {}

    def drawn(outcome: Outcome) -> Iterator[tuple[str, Content]]:
        """The arrays of the task as they are made, and then its summary."""
        arrays = iter(outcome.arrays.items() if isinstance(outcome.arrays, Mapping) else outcome.arrays)
        while True:
            with clock("all"):
                item = next(arrays, None)
            if item is None:
                break
            yield item
            del item
        summary.update(
            outcome.summary,
            scratch_bytes_read=METER.bytes_read - read_before,
            card_retries=RETRIES.count - retries_before,
            seconds=dict(clock.seconds),
        )

    try:
        with clock("all"):
            outcome = task(job, block, clock)
        written = job.ledger.commit(stage, block, summary, drawn(outcome))
    except OSError as error:
        raise _storage_error(stage, block, job, error) from error
    # What filing takes is known only after the receipt is written; a resumed run counts it as nothing.
    whole = time.perf_counter() - begin
    seconds = {**clock.seconds, "file": whole - clock.seconds["all"], "all": whole}
    return {**summary, "scratch_bytes_written": written, "seconds": seconds}


def perform_batch(stage: Stage, job: Job, blocks: range) -> Batch:
    """Run the tasks of some blocks on a worker, one after the other; what has a readable receipt is not done again.

    Ends early, with what is done, after LONGEST_BATCH_SECONDS or where the driver does not want it any more.
    """
    begin = time.perf_counter()
    totals = Totals(batches=1)
    summaries: list[dict[str, Any]] = []
    for number in blocks:
        if summaries and (time.perf_counter() - begin > LONGEST_BATCH_SECONDS or _is_cancelled()):
            break
        block = stage.grid.at(number)
        parcel = job.ledger.finished(stage.name, block)
        if parcel is None:
            summary = perform(stage.name, stage.task, job, block)
        else:
            summary = {**parcel.summary, "scratch_bytes_written": parcel.stored_bytes}
        summary.pop(SHARDS, None)  # nothing that the driver gathers
        summaries.append(totals.count(summary, stage.grid.box(block).voxels, now=parcel is None))
    return Batch(blocks[: len(summaries)], summaries, totals, time.perf_counter() - begin)


def _is_cancelled() -> bool:
    """Whether the driver gave up the batch that this thread works on."""
    try:
        worker = get_worker()
        return worker.state.tasks[worker.get_current_task()].state == "cancelled"
    except (KeyError, ValueError):
        return False


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


class _Crew:
    """The workers that may do a stage. resources : what a task must ask for, None where no worker was told to offer it.

    Workers come and go; the scheduler is asked now and then.
    """

    def __init__(self, client: Client, resource: Resource | None) -> None:
        self._client = client
        self._resource = resource
        self._asked = -math.inf
        self._threads = 1
        self._workers: frozenset[str] = frozenset()
        self.resources: dict[str, int] | None = None

    @property
    def workers(self) -> frozenset[str]:
        """Their addresses."""
        self._ask()
        return self._workers

    @property
    def threads(self) -> int:
        self._ask()
        return self._threads

    def _ask(self) -> None:
        if time.monotonic() - self._asked > CREW_SECONDS:
            found = _scheduler_info(self._client)["workers"]
            self._workers = frozenset(found)
            workers = list(found.values())
            offering = [worker for worker in workers if self._resource in worker["resources"]]
            if offering:
                self.resources = {str(self._resource): 1}
            self._threads = max(1, sum(worker["nthreads"] for worker in offering or workers))
            self._asked = time.monotonic()


def _scheduler_info(client: Client) -> Any:
    try:
        scheduler: Any = client.scheduler
        return client.sync(scheduler.identity, n_workers=-1, callback_timeout=SCHEDULER_SECONDS)
    except (OSError, TimeoutError, CommClosedError) as error:
        raise RunError(
            f"The scheduler does not answer ({type(error).__name__} within {SCHEDULER_SECONDS:.0f} s); go on with"
            " `voxcaliper resume` when it does, finished blocks are kept."
        ) from error


class _Patience:
    """Ends a stage that nobody will ever finish. in_flight : names a block that a worker is at."""

    def __init__(self, stage: Stage, crew: _Crew, in_flight: Callable[[], str]) -> None:
        self._crew = crew
        self._in_flight = in_flight
        self._limit = STALL_SECONDS + math.prod(stage.grid.block_shape) / SLOWEST_VOXELS_PER_SECOND
        self._absence: float = dask.config.get("voxcaliper.longest-absence", math.inf)
        self._workers: frozenset[str] = frozenset()
        self.waited = 0.0

    def wait(self, seconds: float) -> None:
        """So many seconds more in which no batch ended. Raises RunError where that is too long."""
        workers = self._crew.workers
        if workers != self._workers:
            self._workers, self.waited = workers, 0.0
        self.waited += min(seconds, LONGEST_POLL_SECONDS)
        minutes = self.waited / 60
        if not workers and self.waited > self._absence:
            raise RunError(
                f"The scheduler has had no worker for {minutes:.0f} min; start some, then go on with `voxcaliper"
                " resume`, finished blocks are kept."
            )
        if workers and self.waited > self._limit:
            raise RunError(
                f"{self._in_flight()} and all others were not finished for {minutes:.0f} min although {len(workers)}"
                " workers are there, most likely because a file system does not answer; look after it, then go on with"
                " `voxcaliper resume`, finished blocks are kept."
            )


def _as_they_end(queue: Any, patience: _Patience) -> Iterator[Any]:
    """The futures of a queue as they end, for as long as patience lasts."""
    while not queue.is_empty():
        while not queue.has_ready():
            begin = time.monotonic()
            with queue.thread_condition:
                queue.thread_condition.wait(POLL_SECONDS)
            patience.wait(time.monotonic() - begin)
        patience.waited = 0.0
        yield next(queue)


def run_stage(
    client: Client, stage: Stage, job: Job, *, absorb: Callable[[Index, Mapping[str, Any]], None],
    report: Callable[[Progress], None],
) -> dict[str, Any]:  # fmt: skip
    """Do every block of a stage that has no readable receipt yet; returns what all receipts add up to.

    absorb : called once for every block with its summary, finished earlier or now, in no particular order.
    Raises the first error of a task; blocks that are finished then stay finished.
    """
    begin = time.perf_counter()
    totals, pace = Totals(), Pace()
    backlog = Backlog(len(stage.grid), stage.grid.counts[2])
    of_voxels = math.prod(stage.grid.shape)
    crew = _Crew(client, stage.resource)
    nonce = uuid.uuid4().hex
    handed_out: dict[Any, range] = {}
    queue = as_completed()
    patience = _Patience(stage, crew, lambda: _in_flight(stage, job, next(iter(handed_out.values()))))

    def hand_out() -> None:
        while len(backlog) and len(handed_out) < max(4, BATCHES_PER_THREAD * crew.threads):
            blocks = backlog.take(pace.batch_size(len(backlog), crew.threads))
            key = (f"{stage.name}-{nonce}", *stage.grid.at(blocks.start))
            future = client.submit(perform_batch, stage, job, blocks, key=key, pure=False, resources=crew.resources)
            handed_out[key] = blocks
            queue.add(future)

    def tell() -> None:
        found, seconds = totals.tasks - totals.tasks_now, time.perf_counter() - begin
        report(Progress(stage.name, totals.tasks, len(stage.grid), totals.voxels, of_voxels, found, seconds))

    tell()
    try:
        hand_out()
        for future in _as_they_end(queue, patience):
            blocks = handed_out[future.key]
            batch: Batch = _result(future, partial(_in_flight, stage, job, blocks))
            del handed_out[future.key]
            future.release()
            for number, summary in zip(batch.done, batch.summaries, strict=True):
                absorb(stage.grid.at(number), summary)
            totals.add(batch.totals)
            pace.note(len(batch.done), batch.wall_seconds)
            backlog.give_back(blocks[len(batch.done) :])
            hand_out()
            tell()
    finally:
        if handed_out:
            client.cancel([Future(key, client) for key in handed_out])
    return {
        "tasks": totals.tasks,
        "tasks_now": totals.tasks_now,
        "batches": totals.batches,
        **totals.counters,
        "seconds": totals.seconds,
        "wall_seconds": time.perf_counter() - begin,
    }


def _in_flight(stage: Stage, job: Job, blocks: range) -> str:
    """The block that a worker was at when it left a batch: the first without a receipt."""
    indices = map(stage.grid.at, blocks)
    block = next((one for one in indices if job.ledger.finished(stage.name, one) is None), stage.grid.at(blocks.start))
    return f"Block {block} of stage {stage.name}"


def run_alone(
    client: Client, name: str, function: Callable[[Any], None], job: Job, *, resource: Resource | None = None
) -> None:  # fmt: skip
    """Run something once, on any worker that offers the resource, under a name that the dashboard shows."""
    crew = _Crew(client, resource)
    assert crew.threads
    key = f"{name}-{uuid.uuid4().hex}"
    _result(client.submit(function, job, key=key, pure=False, resources=crew.resources), lambda: name)


def _result(future: Future[Any], what: Callable[[], str]) -> Any:
    try:
        return future.result()
    except VoxcaliperError:
        raise
    except KilledWorker as error:
        raise LostWorkersError(
            f"{what()} was given up because the workers that tried it died ({error.allowed_failures} of them), most"
            " likely for want of memory; go on with `voxcaliper resume` and fewer --workers, finished blocks are kept."
        ) from error
    except (CancelledError, CommClosedError, TimeoutError) as error:
        raise RunError(
            f"{what()} was lost by the cluster ({type(error).__name__}); go on with `voxcaliper resume`, finished"
            " blocks are kept."
        ) from error
