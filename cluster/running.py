"""A Dask scheduler that runs already, by its address: the caller's workers, which go on without us."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import dask
from distributed import Client
from distributed.system import MEMORY_LIMIT

from cluster.cards import Card, card_of_worker
from cluster.environment import environment_of_workers
from cluster.local import DeviceChoice, Workers
from cluster.profile import SchedulerProfile
from cluster.security import security_for
from pipeline.errors import InputError, RunError

CONNECT_SECONDS = 15
ABSENCE_SECONDS = 600.0
"""A run on a scheduler that has no worker for so long ends; other workers are ours, and their watches know better."""


@contextlib.contextmanager
def running_workers(profile: SchedulerProfile, device: DeviceChoice) -> Iterator[tuple[Client, Workers]]:
    """A client of the cluster at an address.

    Raises RunError where the scheduler does not answer or has no workers, InputError where cards are missing.
    """
    patience = dask.config.set({"voxcaliper.longest-absence": ABSENCE_SECONDS})
    with patience, _connect(profile) as client, environment_of_workers(client, profile):
        yield client, _offered(client, profile.address, device)


def _connect(profile: SchedulerProfile) -> Client:
    security = security_for(profile)
    try:
        return Client(profile.address, timeout=CONNECT_SECONDS, **({"security": security} if security else {}))
    except (OSError, TimeoutError, ValueError) as error:
        raise RunError(
            f"No Dask scheduler answers at {profile.address} ({type(error).__name__}); check the address, for example"
            " tcp://127.0.0.1:8786, and that `dask scheduler` runs."
        ) from error


def _offered(client: Client, address: str, device: DeviceChoice) -> Workers:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if not workers:
        raise RunError(f"The scheduler at {address} has no workers; start some with `dask worker {address}`.")
    threads = sum(worker["nthreads"] for worker in workers)
    memory = min((worker["memory_limit"] or MEMORY_LIMIT) // worker["nthreads"] for worker in workers)
    cards, reason = cards_of(client, device) if device != "cpu" else ((), "")
    return Workers(len(workers), threads, memory, address, cards, reason)


def cards_of(client: Client, device: DeviceChoice) -> tuple[tuple[Card, ...], str]:
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
