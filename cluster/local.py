"""Workers on this machine, or a running cluster by its address.

Rule for this machine: one worker process per core with one thread each (the kernels are serial and release the GIL,
so processes scale as threads do, and one that dies takes one block with it), MEMORY_SHARE of the memory divided
among them. Memory and cores are what the operating system or its control group grants, as Dask reads them.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from distributed.system import MEMORY_LIMIT
from distributed.utils import silence_logging_cmgr

from pipeline.errors import InputError, RunError

MEMORY_SHARE = 0.85
"""Share of the memory that workers may use; the rest is the driver's and the file cache's."""
CONNECT_SECONDS = 15
DASHBOARD_PORT = 8787


@dataclass(frozen=True)
class Workers:
    """What a cluster offers. memory_bytes : per task, the worker's limit divided by its threads."""

    count: int
    threads: int
    memory_bytes: int
    description: str


def default_workers(count: int | None = None) -> Workers:
    """What this machine offers by the rule above. count : worker processes, default one per core."""
    if count is not None and count < 1:
        raise InputError(f"--workers must be at least 1, but {count} was given.")
    workers = count or max(1, CPU_COUNT)
    return Workers(workers, workers, int(MEMORY_LIMIT * MEMORY_SHARE) // workers, "this machine")


@contextlib.contextmanager
def open_cluster(*, scheduler: str | None, workers: int | None) -> Iterator[tuple[Client, Workers]]:
    """A client of local workers (default), or of the cluster at an address; local workers end with the context.

    Raises RunError where the scheduler does not answer or has no workers.
    """
    settings = {
        # A block whose worker was killed is worth more tries than Dask's three.
        "distributed.scheduler.allowed-failures": 10,
        "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
        # The planner has the memory summed up; spilling or pausing would only hide a wrong sum.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.98,
    }
    with dask.config.set(settings):
        if scheduler is not None:
            # What happens to the cluster becomes one sentence of ours.
            with silence_logging_cmgr(logging.CRITICAL), _connect(scheduler) as client:
                yield client, _offered(client, scheduler)
            return
        offer = default_workers(workers)
        with _interrupts_held():
            cluster = LocalCluster(
                n_workers=offer.count, threads_per_worker=1, memory_limit=offer.memory_bytes, host="127.0.0.1",
                dashboard_address=f"127.0.0.1:{_dashboard_port()}", silence_logs=logging.CRITICAL,
            )  # fmt: skip
        with cluster, Client(cluster) as client:
            yield client, offer


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Threads and processes that begin in this context never see Ctrl-C; this thread sees it when the context ends.

    A terminal sends Ctrl-C to every process of its group. It is for the driver, which then ends its workers in order;
    each of them would answer with a traceback of its own.
    """
    resource_tracker.ensure_running()  # multiprocessing would lift the mask when it starts its first process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _dashboard_port() -> int:
    """Dask's usual port, or any free one (0) where that is taken."""
    with socket.socket() as probe:
        return DASHBOARD_PORT if probe.connect_ex(("127.0.0.1", DASHBOARD_PORT)) else 0


def _connect(address: str) -> Client:
    try:
        return Client(address, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise RunError(
            f"No Dask scheduler answers at {address} ({type(error).__name__}); check the address, for example"
            " tcp://127.0.0.1:8786, and that `dask scheduler` runs."
        ) from error


def _offered(client: Client, address: str) -> Workers:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if not workers:
        raise RunError(f"The scheduler at {address} has no workers; start some with `dask worker {address}`.")
    threads = sum(worker["nthreads"] for worker in workers)
    memory = min((worker["memory_limit"] or MEMORY_LIMIT) // worker["nthreads"] for worker in workers)
    return Workers(len(workers), threads, memory, address)
