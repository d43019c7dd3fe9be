"""The one door to workers: open_cluster, over this machine, a running scheduler, and jobs of SLURM."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import dask
from distributed import Client

from cluster.cards import Card
from cluster.local import (
    WORKER_SETTINGS,
    DeviceChoice,
    Workers,
    default_workers,
)
from cluster.processes import local_workers
from cluster.profile import LocalProfile, Profile, SchedulerProfile, SlurmProfile, with_more_memory
from cluster.running import CONNECT_SECONDS, cards_of, running_workers
from cluster.security import is_here
from pipeline.errors import InputError

FAILURES, PREEMPTIBLE_FAILURES = 10, 100
"""So many workers may die under a block before it is given up; Dask's three are few where jobs are taken away."""


def foretold(profile: Profile, device: DeviceChoice) -> Workers | None:
    """What a profile will offer, known before anything starts; None where only the running cluster can tell.

    Raises InputError where a GPU is asked for and there is none.
    """
    if isinstance(profile, SchedulerProfile):
        return None
    if isinstance(profile, LocalProfile):
        offer = default_workers(profile.workers, device)
    else:
        if device == "gpu" and not profile.gpus:
            raise InputError("--device gpu cannot be had: the profile asks for no GPU; set gpus and gpu_memory in it.")
        count, threads = profile.jobs * profile.processes, profile.threads_each
        memory = profile.gpu_memory or 0
        cards = (Card("", "GPU", memory, memory),) * count if profile.gpus and device != "cpu" else ()
        where = f"SLURM ({profile.jobs} {profile.workers_as if profile.workers_as == 'jobs' else 'tasks of one job'})"
        offer = Workers(count, count * threads, profile.worker_memory // threads, where, cards)
    return replace(offer, more_memory=with_more_memory(profile, offer.count) is not None)


@contextlib.contextmanager
def open_cluster(
    profile: Profile, *, device: DeviceChoice = "cpu", folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None, patience_seconds: float | None = None,
) -> Iterator[tuple[Client, Workers]]:  # fmt: skip
    """A client of the workers of a profile, and what they offer. Workers that were started end with the context.

    device : "gpu" asks for a card in every worker, "auto" takes cards where every worker has one.
    folder : of the run, for credentials; jobs of SLURM leave logs in its `jobs`, and are named after it.
    say : told what a person should know meanwhile. patience_seconds : how long jobs may wait, None for ever.
    Raises RunError where no worker comes, with the reason; InputError where cards are missing.
    """
    preemptible = isinstance(profile, SlurmProfile) and profile.preemptible
    settings = {
        "distributed.scheduler.allowed-failures": PREEMPTIBLE_FAILURES if preemptible else FAILURES,
        "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
        "distributed.scheduler.worker-ttl": None,  # our watches look for silent workers, see cluster/silence.py
        **WORKER_SETTINGS,
    }
    # What happens to a cluster becomes one sentence of ours. For good: Dask also speaks of connections after their end.
    for handler in logging.getLogger("distributed").handlers:  # that of all its loggers, which have levels of their own
        handler.setLevel(logging.CRITICAL)
    with dask.config.set(settings):
        if isinstance(profile, SchedulerProfile):
            if profile.unencrypted:
                who = "every user of this machine" if is_here(profile.address) else "anyone on the way"
                say(f"warning: the connection to {profile.address} is not encrypted; {who} can run code")
            with running_workers(profile, device) as opened:
                yield opened
            return
        offer = foretold(profile, device)
        assert offer is not None
        if isinstance(profile, LocalProfile):
            with local_workers(offer, folder, say) as client:
                yield client, replace(offer, cards=cards_of(client, "gpu")[0]) if offer.cards else offer
            return
        from cluster.jobs import slurm_workers  # dask-jobqueue takes a while, and only these need it

        with slurm_workers(profile, folder or Path.cwd(), say, patience_seconds) as (client, jobs):
            offer = replace(offer, jobs=jobs)
            if offer.cards:
                found, _ = cards_of(client, "gpu")
                offer = replace(offer, cards=(min(found, key=lambda card: card.free_bytes),) * offer.count)
            yield client, offer
