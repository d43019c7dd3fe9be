"""Workers on this machine, or a running cluster by its address.

Rule for this machine: one worker process per core with one thread each (the kernels are serial and release the GIL,
so processes scale as threads do, and one that dies takes one block with it), or, with GPUs, one worker process per
card with several threads, so that some read and write while one computes. MEMORY_SHARE of the memory is divided among
them. Memory and cores are what the operating system or its control group grants, as Dask reads them.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from typing import Any, Literal

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from distributed.system import MEMORY_LIMIT
from distributed.utils import silence_logging_cmgr

from cluster.cards import Card, card_of_worker, local_cards
from pipeline.errors import InputError, RunError

DeviceChoice = Literal["auto", "cpu", "gpu"]
"""auto : on the GPU where every worker has a card, otherwise on the CPU."""

MEMORY_SHARE = 0.85
"""Share of the memory that workers may use; the rest is the driver's and the file cache's."""
CARD_THREADS = (4, 16)
"""Fewest and most threads of a worker with a card; between them, its share of the cores."""
CONNECT_SECONDS = 15
DASHBOARD_PORT = 8787


@dataclass(frozen=True)
class Workers:
    """What a cluster offers. memory_bytes : per task, the worker's limit divided by its threads.

    cards : one per worker, or none. no_cards : why there are none, where they were looked for. jobs : tells how many
    batch jobs of workers are in which state, such as {"running": 4, "pending": 2, "failed": 1}; None where workers are
    no jobs. forwarding : the command that brings the dashboard to another machine, where it is not the usual one.
    """

    count: int
    threads: int
    memory_bytes: int
    description: str
    cards: tuple[Card, ...] = ()
    no_cards: str = ""
    jobs: Callable[[], Mapping[str, int]] | None = field(default=None, compare=False)
    forwarding: str = ""

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
def open_cluster(
    *, scheduler: str | None, workers: int | None, device: DeviceChoice = "cpu"
) -> Iterator[tuple[Client, Workers]]:
    """A client of local workers (default), or of the cluster at an address; local workers end with the context.

    device : "gpu" asks for a card in every worker, "auto" takes cards where every worker has one.
    Raises RunError where the scheduler does not answer or has no workers, InputError where cards are missing.
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
                yield client, _offered(client, scheduler, device)
            return
        offer = default_workers(workers, device)
        with _interrupts_held(), warnings.catch_warnings():
            # Two runs that begin at once may both find the usual port free; Dask then takes another for one of them.
            warnings.filterwarnings("ignore", message=r"Port \d+ is already in use")
            threads = offer.threads // offer.count
            cluster = _LocalWorkers(
                offer.cards, n_workers=offer.count, threads_per_worker=threads,
                memory_limit=offer.memory_bytes * threads, host="127.0.0.1",
                dashboard_address=f"127.0.0.1:{_dashboard_port()}", silence_logs=logging.CRITICAL,
            )  # fmt: skip
        with cluster, Client(cluster) as client:
            yield client, replace(offer, cards=_cards_of(client, "gpu")[0]) if offer.cards else offer


class _LocalWorkers(LocalCluster):
    """Worker processes of this machine, each with a card of its own where there are cards."""

    def __init__(self, cards: tuple[Card, ...], *, n_workers: int, **settings: Any) -> None:
        self._cards = cards
        super().__init__(n_workers=0 if cards else n_workers, **settings)  # type: ignore[no-untyped-call]
        if cards:
            self.scale(n_workers)  # type: ignore[no-untyped-call]
            self.sync(self._correct_state)  # type: ignore[no-untyped-call]

    def new_worker_spec(self) -> dict[Any, Any]:
        spec: dict[Any, Any] = super().new_worker_spec()  # type: ignore[no-untyped-call]
        if not self._cards:
            return spec
        taken = [worker["options"]["env"]["CUDA_VISIBLE_DEVICES"] for worker in self.worker_spec.values()]
        free = next(card.identifier for card in self._cards if card.identifier not in taken)
        return {
            name: {**worker, "options": {**worker["options"], "env": {"CUDA_VISIBLE_DEVICES": free}}}
            for name, worker in spec.items()
        }


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


def _offered(client: Client, address: str, device: DeviceChoice) -> Workers:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if not workers:
        raise RunError(f"The scheduler at {address} has no workers; start some with `dask worker {address}`.")
    threads = sum(worker["nthreads"] for worker in workers)
    memory = min((worker["memory_limit"] or MEMORY_LIMIT) // worker["nthreads"] for worker in workers)
    cards, reason = _cards_of(client, device) if device != "cpu" else ((), "")
    return Workers(len(workers), threads, memory, address, cards, reason)


def _cards_of(client: Client, device: DeviceChoice) -> tuple[tuple[Card, ...], str]:
    """The card of every worker; none, and why, where a worker has none. Raises InputError where one must have it.

    Where workers were told to offer a GPU (`dask worker --resources GPU=1`), only those are asked.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    offering = [address for address, worker in workers.items() if "GPU" in worker["resources"]]
    answers = client.run(card_of_worker, workers=offering or None)
    lacking = {worker: answer for worker, answer in answers.items() if isinstance(answer, str)}
    if not lacking:
        return tuple(answers.values()), ""
    worker, reason = next(iter(lacking.items()))
    found = f"{len(lacking)} of {len(answers)} workers have no card, for example {worker}: {reason}"
    if device == "gpu":
        raise InputError(f"--device gpu cannot be had: {found}")
    return (), found
