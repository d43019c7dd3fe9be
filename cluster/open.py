"""The one door to workers: open_cluster, over this machine, a running scheduler, and jobs of SLURM."""

from __future__ import annotations

import contextlib
import getpass
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask
from distributed import Client

from cluster.cards import Card
from cluster.local import DeviceChoice, Workers, dashboard_address, default_workers, interrupts_held, local_workers
from cluster.profile import LocalProfile, Profile, SchedulerProfile, SlurmProfile, with_more_memory
from cluster.running import CONNECT_SECONDS, cards_of, running_workers
from cluster.security import address_of, temporary_credentials
from cluster.slurm import MEMORY_SETTINGS, SlurmJobs, cancel_jobs, name_of
from cluster.steps import SlurmStep, check_allocation
from cluster.watch import Watch, quote
from pipeline.errors import InputError, LostWorkersError, RunError, StorageError

FAILURES, PREEMPTIBLE_FAILURES = 10, 100
"""So many workers may die under a block before it is given up; Dask's three are few where jobs are taken away."""
POLL_SECONDS = 0.1
CLOSE_SECONDS = 60


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
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[Client, Workers]]:  # fmt: skip
    """A client of the workers of a profile, and what they offer. Workers that were started end with the context.

    device : "gpu" asks for a card in every worker, "auto" takes cards where every worker has one.
    folder : of the run; jobs of SLURM leave their logs in its `jobs`, and their names in the queue are made of it.
    say : told what a person should know meanwhile.
    Raises RunError where no worker comes, with the reason; InputError where cards are missing.
    """
    preemptible = isinstance(profile, SlurmProfile) and profile.preemptible
    settings = {
        "distributed.scheduler.allowed-failures": PREEMPTIBLE_FAILURES if preemptible else FAILURES,
        "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
        **MEMORY_SETTINGS,
    }
    with dask.config.set(settings):
        if isinstance(profile, SchedulerProfile):
            if profile.unencrypted:
                say(f"warning: the connection to {profile.address} is not encrypted; anyone on the way can run code")
            with running_workers(profile, device) as opened:
                yield opened
            return
        offer = foretold(profile, device)
        assert offer is not None
        if isinstance(profile, LocalProfile):
            with local_workers(offer) as client:
                yield client, replace(offer, cards=cards_of(client, "gpu")[0]) if offer.cards else offer
            return
        with _slurm_workers(profile, folder or Path.cwd(), say) as client:
            if offer.cards:
                found, _ = cards_of(client, "gpu")
                offer = replace(offer, cards=(min(found, key=lambda card: card.free_bytes),) * offer.count)
            yield client, offer


@contextlib.contextmanager
def _slurm_workers(profile: SlurmProfile, folder: Path, say: Callable[[str], None]) -> Iterator[Client]:
    """A client of jobs of SLURM, as soon as one worker is there. No job is left when the context ends."""
    folder = folder.absolute()
    name = name_of(folder)
    logs = (profile.shared_folder / name if profile.shared_folder else folder) / "jobs"
    steps = profile.workers_as == "steps"
    if steps:
        check_allocation()
    with temporary_credentials(logs) as security, contextlib.ExitStack() as stack:
        cancel_jobs(name)  # of a driver that was killed
        host = address_of(profile.interface)
        with interrupts_held():
            kind: Any = SlurmStep if steps else SlurmJobs
            try:
                cluster = kind(profile, security, name=name, logs=logs, host=host, dashboard=dashboard_address())
            except OSError as error:
                raise StorageError(f"The jobs of workers cannot be prepared in {logs}: {error}.") from error
            watch = Watch(cluster, 1 if steps else profile.jobs, say)
        stack.callback(_close, cluster, watch, name)
        cluster.sync(watch.start)
        client = stack.enter_context(Client(cluster))
        link = urlsplit(client.dashboard_link)
        say(f"jobs      {name} in squeue, logs in {logs}")
        if link.port:
            say(f"watch it  ssh -N -L {link.port}:127.0.0.1:{link.port} {getpass.getuser()}@{socket.gethostname()}")
        try:
            _wait_for_a_worker(cluster, watch)
            yield client
        except LostWorkersError as error:
            raise LostWorkersError(f"{error}{_last_words(watch, logs, name)}") from error
        except RunError as error:
            if watch.verdict and str(error) != watch.verdict:
                raise RunError(watch.verdict) from error
            raise


def _wait_for_a_worker(cluster: Any, watch: Watch) -> None:
    while not cluster.scheduler.workers:
        if watch.verdict:
            raise RunError(watch.verdict)
        time.sleep(POLL_SECONDS)


def _last_words(watch: Watch, logs: Path, name: str) -> str:
    """What the jobs said last, as the end of an error."""
    if watch.lost:
        return f" Lost last: {watch.lost[-1]}."
    newest = sorted(logs.glob(f"{name}-*.log"), key=lambda path: path.stat().st_mtime)
    return f" The log {newest[-1]} says “{quote(newest[-1])}”." if newest else ""


def _close(cluster: Any, watch: Watch, name: str) -> None:
    """End the jobs, all with one command, then the scheduler. Ctrl-C waits until that is done."""
    with interrupts_held():
        cluster.sync(watch.stop)
        cancel_jobs(name)
        cluster.sync(watch.forget)
        cluster.close(timeout=CLOSE_SECONDS)
