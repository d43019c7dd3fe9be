"""Workers of SLURM from the first job to the last: credentials, scheduler, watch, and the end of all of them."""

from __future__ import annotations

import contextlib
import getpass
import math
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dask
from distributed import Client

from cluster.local import PORT_TAKEN, dashboard_address, interrupts_held
from cluster.observed import forwarding
from cluster.profile import SlurmProfile
from cluster.quoting import quote
from cluster.security import address_of, temporary_credentials
from cluster.slurm import SlurmJobs, cancel_jobs, name_of
from cluster.steps import SlurmStep, check_allocation
from cluster.watch import Watch
from pipeline.errors import LostWorkersError, RunError, StorageError

POLL_SECONDS = 0.1
CLOSE_SECONDS = 60


def jobs_folder(profile: SlurmProfile, folder: Path) -> Path:
    """Where scripts, credentials and logs of the jobs of a run go."""
    return (profile.shared_folder / name_of(folder) if profile.shared_folder else folder) / "jobs"


@contextlib.contextmanager
def slurm_workers(
    profile: SlurmProfile, folder: Path, say: Callable[[str], None], patience_seconds: float | None = None
) -> Iterator[tuple[Client, Callable[[], Mapping[str, int]]]]:  # fmt: skip
    """A client of the jobs of a profile, as soon as one worker is there, and what counts the jobs by their state.

    No job is left when the context ends.

    folder : of the run. say : told what a person should know meanwhile. patience_seconds : how long jobs may wait.
    Raises RunError where no worker comes, or none is left, with the reason.
    """
    folder = folder.absolute()
    name, logs = name_of(folder), jobs_folder(profile, folder)
    steps = profile.workers_as == "steps"
    if steps:
        check_allocation()
    host = address_of(profile.interface)
    with temporary_credentials(logs) as security, contextlib.ExitStack() as stack:
        cancel_jobs(name)  # of a driver that was killed
        dashboard = dashboard_address()
        with interrupts_held(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=PORT_TAKEN)
            kind: Any = SlurmStep if steps else SlurmJobs
            try:
                cluster = kind(profile, security, name=name, logs=logs, host=host, dashboard=dashboard)
            except (OSError, RuntimeError) as error:
                raise StorageError(f"The scheduler for the jobs cannot be started at {host}: {error}.") from error
            watch = Watch(cluster, 1 if steps else profile.jobs, say)
        stack.callback(_close, cluster, watch, name)
        link = cluster.scheduler.link
        stack.enter_context(dask.config.set({"distributed.dashboard.link": link}))
        cluster.sync(watch.start)
        client = stack.enter_context(Client(cluster))
        say(f"jobs      {name} in squeue, logs in {logs}")
        say(f"watch     {forwarding(link, f'{getpass.getuser()}@{socket.gethostname()}')}")
        try:
            _wait_for_a_worker(cluster, watch, patience_seconds)
            yield client, lambda: +watch.counts
        except LostWorkersError as error:
            raise LostWorkersError(f"{error}{_last_words(watch, logs, name)}") from error
        except RunError as error:
            if watch.verdict and str(error) != watch.verdict:
                raise RunError(watch.verdict) from error
            raise


def _wait_for_a_worker(cluster: Any, watch: Watch, patience_seconds: float | None) -> None:
    limit = time.monotonic() + (math.inf if patience_seconds is None else patience_seconds)
    while not cluster.scheduler.workers:
        if watch.verdict:
            raise RunError(watch.verdict)
        if time.monotonic() > limit:
            raise RunError(f"No worker reported within {patience_seconds:.0f} s: {watch.waiting_for}.")
        time.sleep(POLL_SECONDS)


def _last_words(watch: Watch, logs: Path, name: str) -> str:
    """What the jobs said last, as the end of an error."""
    if watch.lost:
        return f" Lost last: {watch.lost[-1]}."
    newest = sorted(logs.glob(f"{name}-[0-9]*.log"), key=lambda path: path.stat().st_mtime)
    return f" The log {newest[-1]} says “{quote(newest[-1])}”." if newest else ""


def _close(cluster: Any, watch: Watch, name: str) -> None:
    """End the jobs, all with one command, then the scheduler. Ctrl-C waits until that is done."""
    with interrupts_held():
        cluster.sync(watch.stop)
        cancel_jobs(name)
        cluster.sync(watch.forget)
        cluster.close(timeout=CLOSE_SECONDS)
