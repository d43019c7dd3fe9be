"""What a scheduler says while a run goes on: its workers, what they lost, where its dashboard is, its report."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from distributed import Client, performance_report
from tornado.web import RequestHandler

WORTH_REPORTING_SECONDS = 20.0
"""Dask's performance report takes half a second to make, so what is shorter than this has none."""


@dataclass(frozen=True)
class Observed:
    """workers, threads : connected now. retries : how often a batch was handed out again because its worker died."""

    workers: int
    threads: int
    retries: int


def _of_scheduler(dask_scheduler: Any) -> tuple[int, int, int]:
    return (
        len(dask_scheduler.workers),
        dask_scheduler.total_nthreads,
        sum(prefix.suspicious for prefix in dask_scheduler.task_prefixes.values()),
    )


def observe(client: Client) -> Observed:
    """Ask the scheduler. Raises whatever a lost connection raises."""
    return Observed(*client.run_on_scheduler(_of_scheduler))


def dashboard_of(client: Client) -> str:
    """The address of the dashboard; empty where the scheduler has none."""
    services = client.scheduler_info(n_workers=0)["services"]
    return client.dashboard_link if "dashboard" in services else ""


def forwarding(dashboard: str, host: str) -> str:
    """The ssh command that brings a dashboard to another machine; empty where there is nothing to bring.

    It listens on its own machine alone, and answers those who know its address.
    """
    address = urlsplit(dashboard)
    if address.hostname not in ("127.0.0.1", "localhost"):
        return ""
    return f"ssh -N -L {address.port}:127.0.0.1:{address.port} {host}"


def show_page(client: Client, path: str, make: Callable[[], str]) -> str:
    """Serve a page beside the dashboard, for as long as its scheduler lives; returns its address, "" without dashboard.

    path : relative to the dashboard's. make : makes the HTML whenever somebody looks. It is sent to the scheduler,
    which must be able to import it.
    """
    dashboard = dashboard_of(client)
    if not dashboard:
        return ""
    client.run_on_scheduler(_serve, path=path, make=make)
    return urljoin(dashboard, path)


def _serve(path: str, make: Callable[[], str], dask_scheduler: Any) -> None:
    token = getattr(dask_scheduler, "token", "")  # of a ClosedScheduler
    whole = f"/{token}/{path}" if token else f"/{path}"
    dask_scheduler.http_application.add_handlers(".*", [(re.escape(whole), _Page, {"make": make})])


class _Page(RequestHandler):
    """A page that is made in a thread, so that the scheduler does not wait for it."""

    def initialize(self, make: Callable[[], str]) -> None:
        self.make = make

    async def get(self) -> None:
        self.write(await asyncio.get_running_loop().run_in_executor(None, self.make))


@contextlib.contextmanager
def excused(what: str, note: Callable[[str], None]) -> Iterator[None]:
    """What a run can do without: where it fails, that and why is noted, and the run goes on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  a scheduler and its pages fail with whatever they like
        note(f"{what}: {type(error).__name__}: {error}")


@contextlib.contextmanager
def reported(path: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Dask's performance report of what is done in this context, where that ends well and takes long enough.

    note : told why there is none where it cannot be made or written.
    """
    began = time.monotonic()
    draft = f"{path}.partial"
    report = performance_report(draft)
    begun = False
    with excused("no performance report", note):
        report.__enter__()
        begun = True
    yield
    if begun and time.monotonic() - began >= WORTH_REPORTING_SECONDS:
        with excused("no performance report", note):
            report.__exit__(None, None, None)
            os.replace(draft, path)
        with contextlib.suppress(OSError):  # there is none as a rule, or its disk is what failed
            os.unlink(draft)
