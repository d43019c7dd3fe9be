"""The question: what does it cost that the workers of this machine talk with credentials alone."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster
from distributed.security import Security

from benchmarks.results import Answer, Table
from benchmarks.volumes import Size
from cluster.open import open_cluster
from cluster.profile import LocalProfile

WORKERS = 2
REPEATS = 5
TASKS = 500
FETCHED_BYTES = 32 << 20


@contextlib.contextmanager
def _dask(**options: Any) -> Iterator[Client]:
    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address="127.0.0.1:0", **options) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextlib.contextmanager
def _ours() -> Iterator[Client]:
    with (
        tempfile.TemporaryDirectory() as folder,
        open_cluster(LocalProfile(workers=WORKERS), folder=Path(folder)) as (client, _),
    ):
        yield client


WAYS: dict[str, Callable[[], contextlib.AbstractContextManager[Client]]] = {
    "Dask's nannies, tcp (open to every user)": lambda: _dask(host="127.0.0.1"),
    "Dask's nannies, tls": lambda: _dask(host="127.0.0.1", protocol="tls://", security=Security.temporary()),
    "threads of the driver, inproc (no processes)": lambda: _dask(processes=False),
    "voxcaliper: processes, tls": _ours,
}


def _times(way: Callable[[], contextlib.AbstractContextManager[Client]]) -> tuple[float, float, float, float]:
    """Seconds until all workers are there, for small tasks, for one large result, and until all have ended."""
    begin = time.perf_counter()
    with way() as client:
        client.wait_for_workers(WORKERS)
        started = time.perf_counter() - begin
        client.gather(client.map(_nothing, range(WORKERS), pure=False))
        begin = time.perf_counter()
        client.gather(client.map(_nothing, range(TASKS), pure=False))
        small = time.perf_counter() - begin
        begin = time.perf_counter()
        client.submit(np.ones, FETCHED_BYTES, np.uint8, pure=False).result()
        large = time.perf_counter() - begin
        begin = time.perf_counter()
    return started, small, large, time.perf_counter() - begin


def _nothing(number: int) -> int:
    return number


def answer(_: Size) -> Answer:
    """Every way in turn, as often as the others, so that a busy machine is busy for all of them."""
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in WAYS}
    for _repeat in range(REPEATS):
        for name, way in WAYS.items():
            found[name].append(_times(way))
    rows = tuple(
        (name, *(f"{statistics.median(column):.2f}" for column in zip(*times, strict=True)))
        for name, times in found.items()
    )
    columns = ("workers", "start, s", f"{TASKS} small tasks, s", f"a result of {FETCHED_BYTES >> 20} MiB, s", "end, s")
    note = (
        f"{WORKERS} workers, medians of {REPEATS}, taken in turn. Batches of a run are few, small messages; no result"
        " is large. Dask knows no Unix sockets; with inproc there are no processes, of which one could be lost alone."
    )
    return Answer(
        "What does it cost that workers of this machine talk with credentials alone?",
        (Table("Start, messages and end", columns, rows, note),),
    )
