"""The driver's side of watching a run: status.json kept fresh, and what is left of the whole run told with every step.

What is done stands in the ledger; status.json adds what only the driver knows: who and where it is, the stage it is at
and for how long, its workers, what they lost, and where the dashboard is. Nothing of it is needed to go on with a run,
so what cannot be written or asked is left out.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

from cluster.local import Workers
from cluster.observed import dashboard_of, excused, forwarding, observe, reported, show_page
from pipeline.engine import Client, Progress
from pipeline.files import whole_file, write_whole
from pipeline.job import ledger_of
from workflows.estimate import estimate, states_of
from workflows.run_folder import RunFolder
from workflows.run_state import PRIVATE, SECONDS_BETWEEN_BEATS, RunState, forget_addresses, write_addresses
from workflows.status_page import new_address, status_page


class Watch:
    """Tells of a run while it goes on. report : is told every step, with what is left of the run."""

    def __init__(
        self, client: Client, workers: Workers, run: RunFolder, log: logging.Logger, report: Callable[[Progress], None]
    ) -> None:
        self.log = log
        self._client = client
        self._workers = workers
        self._run = run
        self._report = report
        self._at: Progress | None = None
        self._end = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="watch", daemon=True)
        host, now, dashboard, page = socket.gethostname(), datetime.now(UTC), "", ""
        with excused("no page of the run beside the dashboard", log.warning):
            dashboard = dashboard_of(client)
            page = show_page(client, new_address(), partial(status_page, run.path))
        self._state = RunState(
            process=os.getpid(), host=host, began=now, said=now, workers=workers.count, threads=workers.threads,
            where=workers.description, device=workers.device, dashboard=dashboard, page=page,
            forwarding=forwarding(dashboard, host),
        )  # fmt: skip
        self._retries_before = 0
        with excused("losses before the run are not known", log.warning):
            self._retries_before = observe(client).retries
        self.look_again()

    def look_again(self) -> None:
        """Take in the plan and the ledger, at the beginning and when they are made anew."""
        self._stages = states_of(self._run.stages(), ledger_of(self._run.path))

    def begin(self) -> None:
        """From now on status.json is kept fresh."""
        self.log.info("dashboard %s", urlsplit(self._state.dashboard).netloc or "none")
        write_addresses(self._run, self._state)
        self._write()
        self._thread.start()

    def tell(self, progress: Progress) -> None:
        """A step of a stage."""
        self._at = progress
        now = progress.blocks - progress.found
        for n, stage in enumerate(self._stages):
            if stage.name == progress.stage and (now or not stage.is_finished):
                pace = progress.seconds / now if now else stage.pace
                seconds = progress.seconds if progress.blocks == progress.of_blocks else None
                self._stages[n] = replace(stage, done=progress.blocks, pace=pace, seconds=seconds)
        self._report(replace(progress, run_seconds_left=estimate(self._stages).seconds))

    def end(self, state: Literal["complete", "stopped"], sentence: str = "") -> None:
        """The last word."""
        self._end.set()
        self._thread.join(SECONDS_BETWEEN_BEATS)  # it may wait for a scheduler that is no more
        found = self._found() if state == "complete" else {}
        self._write(state=state, sentence=sentence, **found)
        forget_addresses(self._run)

    def _beat(self) -> None:
        while not self._end.wait(SECONDS_BETWEEN_BEATS):
            found = self._found()
            if not self._end.is_set():
                self._write(**found)

    def _found(self) -> dict[str, Any]:
        """Workers and jobs as they are now, as far as anybody answers; who does not is asked again at the next beat."""
        found: dict[str, Any] = {}
        with contextlib.suppress(Exception):
            seen = observe(self._client)
            found = {"workers": seen.workers, "threads": seen.threads, "retries": seen.retries - self._retries_before}
        with contextlib.suppress(Exception):
            found["jobs"] = dict(self._workers.jobs()) if self._workers.jobs else {}
        return found

    def _write(self, **changes: Any) -> None:
        with self._writing, contextlib.suppress(OSError):
            if self._at is not None:
                changes |= {"stage": self._at.stage, "stage_seconds": self._at.seconds, "stage_found": self._at.found}
            self._state = self._state.model_copy(update={"said": datetime.now(UTC), **changes})
            with whole_file(self._run.status, flush=False) as file:
                file.write(self._state.model_dump_json(indent=2, exclude=set(PRIVATE)).encode())


@contextlib.contextmanager
def watched(
    client: Client, workers: Workers, run: RunFolder, report: Callable[[Progress], None]
) -> Iterator[Watch]:  # fmt: skip
    """Log, status and performance report of what this process does for a run; how it ends is noted in each."""
    with run.logged() as log:
        watch = Watch(client, workers, run, log, report)
        watch.begin()
        try:
            with reported(run.performance, log.warning):
                yield watch
        except BaseException as error:
            sentence = str(error) or type(error).__name__
            log.error("ended by %s: %s", type(error).__name__, error)  # noqa: TRY400  the sentence is for a person
            watch.end("stopped", sentence)
            raise
        watch.end("complete")


def write_timings(run: RunFolder, totals: Mapping[str, Mapping[str, Any]]) -> None:
    """A row per stage: seconds on the wall, and those of all workers together by kind of work."""
    kinds = list(dict.fromkeys(kind for stage in totals.values() for kind in stage["seconds"] if kind != "all"))
    columns = ["stage", "blocks", "blocks_of_last_process", "batches", "wall_seconds", "worker_seconds"]
    rows: list[list[Any]] = [[*columns, *(f"{kind}_seconds" for kind in kinds)]]
    for name, stage in totals.items():
        seconds = [stage["seconds"].get(kind, 0.0) for kind in ("all", *kinds)]
        counted = [stage["tasks"], stage["tasks_now"], stage["batches"]]
        rows.append([name, *counted, *(f"{value:.3f}" for value in (stage["wall_seconds"], *seconds))])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(run.timings, text.getvalue())
