"""What workers on this machine there are, and what processes of a run share.

Rule for this machine: one worker process per core with one thread each (the kernels are serial and release the GIL,
so processes scale as threads do, and one that dies takes one block with it), or, with GPUs, one worker process per
card with several threads, so that some read and write while one computes. MEMORY_SHARE of the memory is divided among
them. Memory and cores are what the operating system or its control group grants, as Dask reads them.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from cluster.cards import Card, local_cards
from pipeline.errors import InputError

DeviceChoice = Literal["auto", "cpu", "gpu"]
"""auto : on the GPU where every worker has a card, otherwise on the CPU."""

MEMORY_SHARE = 0.85
"""Share of the memory that workers may use; the rest is the driver's and the file cache's."""
CARD_THREADS = (4, 16)
"""Fewest and most threads of a worker with a card; between them, its share of the cores."""
DASHBOARD_PORT = 8787
PORT_TAKEN = r"\s*Port \d+ is already in use"
"""What Dask warns of when someone was faster; it takes another port then, and that one is shown."""
TERMINATE_SHARE = 0.98
"""A worker process that takes more than this share of its memory is ended before the system does it."""
WORKER_SETTINGS = {
    # The planner has the memory summed up; spilling or pausing would only hide a wrong sum.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": TERMINATE_SHARE,
    # Dask's profiler asks for the frames of all threads, which may lock a process for ever before Python 3.12 (a
    # garbage collection meanwhile: python/cpython issue 106883).
    "distributed.worker.profile.enabled": False,
}


@dataclass(frozen=True)
class Workers:
    """What a cluster offers. memory_bytes : per task, the worker's limit divided by its threads.

    cards : one per worker, or none. no_cards : why there are none, where they were looked for. more_memory : whether a
    task could have more of it with fewer tasks at a time. jobs : tells how many batch jobs of workers are in which
    state, such as {"running": 4, "pending": 2, "lost": 1}; None where workers are no jobs.
    """

    count: int
    threads: int
    memory_bytes: int
    description: str
    cards: tuple[Card, ...] = ()
    no_cards: str = ""
    more_memory: bool = False
    jobs: Callable[[], Mapping[str, int]] | None = field(default=None, compare=False)

    @property
    def device(self) -> Literal["cpu", "gpu"]:
        """Where the kernels run."""
        return "gpu" if self.cards else "cpu"


def default_workers(count: int | None = None, device: DeviceChoice = "cpu") -> Workers:
    """What this machine offers by the rule above. count : worker processes, default one per core or card.

    Raises InputError where a GPU is asked for and there is none.
    """
    if count is not None and count < 1:
        raise InputError(f"--workers must be at least 1, but {count} was given.")
    memory = int(MEMORY_LIMIT * MEMORY_SHARE)
    found = local_cards() if device != "cpu" else ""
    if isinstance(found, str):
        if device == "gpu":
            raise InputError(f"--device gpu cannot be had: {found}")
        workers = count or max(1, CPU_COUNT)
        return Workers(workers, workers, memory // workers, "this machine", no_cards=found)
    cards = found[:count]
    threads = min(max(CPU_COUNT // len(cards), CARD_THREADS[0]), CARD_THREADS[1]) * len(cards)
    return Workers(len(cards), threads, memory // threads, "this machine", cards)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Threads and processes that begin in this context never see Ctrl-C; this thread sees it when the context ends.

    A terminal sends Ctrl-C to every process of its group. It is for the driver, which then ends its workers in order;
    each of them would answer with a traceback of its own.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def dashboard_address() -> str:
    """Dask's usual port, or any free one (0) where that is taken; on this machine alone."""
    with socket.socket() as probe:
        port = DASHBOARD_PORT if probe.connect_ex(("127.0.0.1", DASHBOARD_PORT)) else 0
    return f"127.0.0.1:{port}"
