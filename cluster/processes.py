"""Worker processes of this machine, and the watch that replaces those that are lost.

Everything between them and the driver is TLS with the credentials of the run, as on a cluster. Dask's nannies are left
out: each listens on a port of its own, gives up on a worker that is slow to come back, and fails where a worker is
killed while it starts. Here the driver looks after the processes themselves, a few times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import psutil
from distributed import Client
from distributed.deploy.cluster import Cluster
from distributed.deploy.spec import ProcessInterface, SpecCluster
from distributed.security import Security

from cluster.closed import ClosedScheduler
from cluster.local import PORT_TAKEN, TERMINATE_SHARE, Workers, dashboard_address, interrupts_held
from cluster.lookout import Lookout
from cluster.quoting import quote
from cluster.security import folder_of, temporary_credentials
from cluster.silence import LONGEST_TICK_SECONDS, SILENT_SECONDS, Silence
from cluster.worker import told
from pipeline.errors import LostWorkersError, RunError, StorageError

TICK_SECONDS = 0.2
"""How often the processes are looked at, for their end and for their memory."""
START_SECONDS = 180.0
"""A process that has not reported for so long since it began is replaced."""
GONE_SECONDS = 20.0
"""So is one that the scheduler has not known for so long although it reported."""
ROUNDS = 5
"""So often each worker is started in vain, one after the other, before that is taken for good."""
LONGEST_WAIT_SECONDS = 5.0
"""Between two rounds in vain."""
POLL_SECONDS = 0.05
END_SECONDS = 5.0
CLOSE_SECONDS = 30


@contextlib.contextmanager
def local_workers(offer: Workers, folder: Path | None, say: Callable[[str], None]) -> Iterator[Client]:
    """A client of worker processes on this machine, as soon as all are there; they end with the context.

    folder : of the run, for the credentials and logs of this process; None for the temporary folder.
    say : told what a person should know. Raises RunError where no worker comes, or none is left, with the reason.
    """
    with contextlib.ExitStack() as stack:
        security = _credentials(stack, folder)
        stack.enter_context(dask.config.set({"temporary-directory": str(folder_of(security))}))
        with interrupts_held(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=PORT_TAKEN)
            cluster = LocalProcesses(offer, security, dashboard_address())
        watch = Watch(cluster, offer.count, say)
        stack.callback(_close, cluster, watch)
        stack.enter_context(dask.config.set({"distributed.dashboard.link": cluster.scheduler.link}))
        cluster.sync(watch.start)  # type: ignore[no-untyped-call]
        client = stack.enter_context(Client(cluster))
        try:
            _wait_for_all(cluster, watch)
            yield client
        except LostWorkersError:
            raise
        except Exception as error:
            if watch.verdict and str(error) != watch.verdict:
                raise RunError(watch.verdict) from error
            raise


def _wait_for_all(cluster: LocalProcesses, watch: Watch) -> None:
    while len(cluster.scheduler.workers) < watch.wanted:
        if watch.verdict:
            raise RunError(watch.verdict)
        time.sleep(POLL_SECONDS)


def _credentials(stack: contextlib.ExitStack, folder: Path | None) -> Security:
    """In the folder of the run, or where that is on a file system without owners, in the temporary folder."""
    if folder is not None:
        with contextlib.suppress(StorageError):
            return stack.enter_context(temporary_credentials(folder.absolute()))
    own = stack.enter_context(tempfile.TemporaryDirectory(prefix="voxcaliper-"))
    return stack.enter_context(temporary_credentials(Path(own)))


def _close(cluster: LocalProcesses, watch: Watch) -> None:
    """End the processes, then the scheduler. Ctrl-C waits until that is done."""
    with interrupts_held():
        cluster.sync(watch.stop)  # type: ignore[no-untyped-call]
        cluster.sync(cluster.drop_all)  # type: ignore[no-untyped-call]
        cluster.close(timeout=CLOSE_SECONDS)


class WorkerProcess(ProcessInterface):
    """A worker in a process of its own. log : what it prints."""

    def __init__(
        self, scheduler: str, name: str, *, options: dict[str, Any], environment: dict[str, str], folder: Path
    ) -> None:  # fmt: skip
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = name
        self.log = folder / f"{name}.log"
        self.memory_limit: int = options["memory_limit"]
        self._told = told({"scheduler_ip": scheduler, "name": name, **options}, dask.config.config)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._refusal = ""

    async def start(self) -> None:
        """Start it in the group of its driver, so that a terminal stops and continues both together."""
        try:
            self._process = self._started()
        except OSError as error:
            self._refusal = f"cannot be started: {error.strerror}"
        await super().start()  # type: ignore[no-untyped-call]

    def _started(self) -> subprocess.Popen[bytes]:
        given = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([*([given] if given else []), *(os.path.abspath(place) for place in sys.path)])
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cluster.worker"], stdin=subprocess.PIPE, stdout=log, stderr=log,
                env={**os.environ, **self._environment, "PYTHONPATH": path},
            )  # fmt: skip
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended at once, and the watch will see that
            process.stdin.write(self._told)
            process.stdin.flush()
        return process

    def end(self) -> str | None:
        """How it ended, as the end of a sentence; None while it runs."""
        if self._process is None:
            return self._refusal
        code = self._process.poll()
        if code is None:
            return None
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def memory(self) -> int:
        """Bytes that it uses now; 0 where it has ended."""
        if self._process is None:
            return 0
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    async def drop(self) -> None:
        """Kill it, which no finished block minds, and forget it. What the kernel does not let go ends by itself."""
        if self._process is not None:
            assert self._process.stdin is not None
            if self._process.poll() is None:
                self._process.kill()
            limit = time.monotonic() + END_SECONDS
            while self._process.poll() is None and time.monotonic() < limit:  # noqa: ASYNC110  no event tells it
                await asyncio.sleep(0.01)
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        await self.close()  # type: ignore[no-untyped-call]


class LocalProcesses(SpecCluster):
    """A scheduler in this process, and worker processes of this machine, each with a card of its own if there are."""

    scheduler: Any

    def __init__(self, offer: Workers, security: Security, dashboard: str) -> None:
        self._cards = offer.cards
        threads = offer.threads // offer.count
        given = dask.config.get("distributed.nanny.pre-spawn-environ")
        options = {"host": "127.0.0.1", "dashboard_address": dashboard, "protocol": "tls://", "security": security}
        own = folder_of(security)
        kept = {
            "options": {
                "nthreads": threads, "memory_limit": offer.memory_bytes * threads, "host": "127.0.0.1",
                "protocol": "tls://", "security": security, "local_directory": str(own),
            },
            "environment": {name: str(value) for name, value in given.items() if name not in os.environ},
            "folder": own,
        }  # fmt: skip
        super().__init__(  # type: ignore[no-untyped-call]
            scheduler={"cls": ClosedScheduler, "options": options},
            worker={"cls": WorkerProcess, "options": kept},
            security=security,
            silence_logs=logging.CRITICAL,
        )

    def new_worker_spec(self) -> dict[str, Any]:
        """The next worker, under a name that none before it had, with a card that none of the others has."""
        self._i += 1
        spec = self.new_spec
        if self._cards:
            taken = {each["options"]["environment"]["CUDA_VISIBLE_DEVICES"] for each in self.worker_spec.values()}
            free = next(card.identifier for card in self._cards if card.identifier not in taken)
            environment = {**spec["options"]["environment"], "CUDA_VISIBLE_DEVICES": free}
            spec = {**spec, "options": {**spec["options"], "environment": environment}}
        return {f"worker-{self._i}": spec}

    def _update_worker_status(self, op: str, msg: Any) -> None:
        Cluster._update_worker_status(self, op, msg)  # noqa: SLF001  SpecCluster drops for good what is slow to come back

    async def fill(self, count: int) -> None:
        """Start as many as there shall be."""
        while len(self.worker_spec) < count:
            self.worker_spec.update(self.new_worker_spec())
        await self._correct_state()  # type: ignore[no-untyped-call]

    async def drop_all(self) -> None:
        """No process is left."""
        await asyncio.gather(*(process.drop() for process in self.workers.values()))
        self.workers.clear()
        self.worker_spec.clear()


@dataclass
class _Seen:
    """What the watch knows of a process. reported : whether the scheduler ever knew it."""

    silence: Silence
    reported: bool = False


class Watch(Lookout):
    """Looks after the processes: what ended, or does not answer, is replaced."""

    cluster: LocalProcesses
    looks_after = "the workers"

    def __init__(self, cluster: LocalProcesses, wanted: int, say: Callable[[str], None]) -> None:
        super().__init__(cluster, wanted, say)
        self._seen: dict[str, _Seen] = {}
        self._failures = 0
        self._retry_at = 0.0

    async def _look_again_and_again(self) -> None:
        before = time.monotonic()
        while not self._stop.is_set() and not self.verdict:
            now = time.monotonic()
            await self._look(min(now - before, LONGEST_TICK_SECONDS))
            before = now
            if self._may_start(now):
                await self.cluster.fill(self.wanted)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), TICK_SECONDS)

    def _may_start(self, now: float) -> bool:
        return not self.verdict and now >= self._retry_at

    async def _look(self, elapsed: float) -> None:
        """Let go of what ended or has to. elapsed : seconds since the last look, in which this process ran."""
        known: dict[str, Any] = {str(state.name): state for state in self.cluster.scheduler.workers.values()}
        for name, process in list(self.cluster.workers.items()):
            seen = self._seen.setdefault(name, _Seen(Silence()))
            state = known.get(name)
            seen.silence.hear(state.last_seen if state else None, elapsed)
            if state and not seen.reported:
                seen.reported, self._failures = True, 0
            why = process.end() or self._why_to_end(process, seen, known=name in known)
            if why is None:
                continue
            if state is not None:
                await self.cluster.scheduler.remove_worker(state.address, stimulus_id=f"lost-{name}", close=False)
            await process.drop()
            self._lose(name, process, seen, why, any_left=len(known) > (state is not None))

    def _why_to_end(self, process: WorkerProcess, seen: _Seen, *, known: bool) -> str | None:
        silent = seen.silence.seconds
        if process.memory() > TERMINATE_SHARE * process.memory_limit:
            return f"took more than its {process.memory_limit / 2**30:.1f} GiB of memory"
        if known:
            return f"did not answer for {silent:.0f} s" if silent > SILENT_SECONDS else None
        if seen.reported:
            return f"lost its connection for {silent:.0f} s" if silent > GONE_SECONDS else None
        return f"did not report for {silent:.0f} s" if silent > START_SECONDS else None

    def _lose(self, name: str, process: WorkerProcess, seen: _Seen, why: str, *, any_left: bool) -> None:
        del self.cluster.workers[name]
        del self.cluster.worker_spec[name]
        del self._seen[name]
        if seen.reported:
            self.say(f"lost {name}: it {why}; another one is started")
            return
        self._failures += 1
        rounds = self._failures // self.wanted
        self._retry_at = time.monotonic() + min(2.0**rounds - 1, LONGEST_WAIT_SECONDS)
        if rounds < ROUNDS:
            return
        quoted = quote(process.log)
        sentence = f"the last one {why}" + (f", and says “{quoted}”" if quoted else "")
        if any_left:
            self.wanted = len(self.cluster.workers)
            self.say(f"{self._failures} workers ended before they reported: {sentence}; it goes on with the others")
            return
        self.verdict = (
            f"{self._failures} workers on this machine ended before any reported: {sentence}; mend it, then go on with"
            " `voxcaliper resume`."
        )
