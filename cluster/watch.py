"""Keeps as many jobs of workers as a profile asks for, and says why where that does not succeed.

Dask's Adaptive replaces a job when a worker that it knew is gone. That leaves out jobs that end before a worker
reports and jobs of several workers, and both are what goes wrong on a cluster. So the watch asks SLURM, replaces what
ended, and waits longer each time while nothing reports. With no worker left it gives up after a few rounds, with what
the log of the last job says.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distributed.core import rpc

from cluster.lookout import Lookout
from cluster.quoting import quote
from cluster.silence import SILENT_SECONDS, Silence
from cluster.slurm import State

ROUNDS, ROUNDS_OF_OUTAGE = 3, 20
"""So often what was lost is replaced although nothing reported since; more often while SLURM itself does not answer."""
OUTAGE = re.compile(r"contact|timed out|connect|unavailable", re.IGNORECASE)
LONGEST_WAIT_SECONDS, OUTAGE_WAIT_SECONDS = 300.0, 30.0
TICK_SECONDS = 1.0
KILL_SECONDS = 30.0
LOOK_SECONDS = (2.0, 30.0)
"""SLURM is asked this soon after something changed, and less and less often while nothing does."""
WAITING_SECONDS = 60.0
"""While there is no worker, a line this often says what is waited for."""
REASONS = {
    "Priority": "others are before them",
    "Resources": "the nodes are busy",
    "PartitionTimeLimit": "walltime is more than the partition allows",
    "PartitionNodeLimit": "jobs ask for more than the partition allows",
    "PartitionDown": "the partition is closed",
    "PartitionInactive": "the partition is closed",
    "ReqNodeNotAvail": "the nodes that fit are down or reserved",
    "BadConstraints": "no node has what directives ask for",
    "QOS": "a limit of your quality of service is reached",
    "Assoc": "a limit of your account is reached",
    "InvalidAccount": "the account may not run here",
    "InvalidQOS": "the quality of service may not be used here",
    "JobHeld": "they are held; scontrol release lets them go",
    "JobArrayTaskLimit": "too many jobs of an array run",
    "Licenses": "a licence that they ask for is taken",
    "BeginTime": "they are to begin later",
    "Nodes required for job are DOWN": "the nodes that fit are down or reserved",
}
"""SLURM's words for why a job waits, by their beginning, and ours."""


class Watch(Lookout):
    """Looks after the jobs of a cluster, in the cluster's own event loop.

    wanted : how many jobs there shall be. lost : what became of the last jobs that were lost.
    waiting_for : what the jobs do while no worker is there. counts : jobs by state when SLURM was asked last, and
    under "lost" those that ended under their workers.
    """

    looks_after = "the jobs of workers"

    def __init__(self, cluster: Any, wanted: int, say: Callable[[str], None]) -> None:
        super().__init__(cluster, wanted, say)
        self.lost: deque[str] = deque(maxlen=3)
        self.waiting_for = "SLURM has not answered yet"
        self.counts: Counter[str] = Counter()
        self._reported: set[str] = set()
        self._rounds = 0
        self._failure = ""
        self._retry_at = 0.0
        self._accepted = False
        self._silences: dict[str, Silence] = {}
        self._endings: set[asyncio.Task[None]] = set()

    async def forget(self) -> None:
        """Nothing is left of the jobs: what SLURM was told to end needs no farewell from each worker."""
        for job in self.cluster.workers.values():
            await job.drop()
        self.cluster.workers.clear()
        self.cluster.worker_spec.clear()

    async def _look_again_and_again(self) -> None:
        said = time.monotonic()
        interval, next_look = LOOK_SECONDS[0], 0.0
        before: set[str] = set()
        looked = time.monotonic()
        while not self._stop.is_set() and not self.verdict:
            now = time.monotonic()
            await self._end_silent(now - looked)
            looked = now
            alive = self._alive()
            if alive - self._reported:
                self._reported |= alive
                self._rounds, self._failure = 0, ""
            if alive != before:
                before, interval, next_look = alive, LOOK_SECONDS[0], now
            if now >= next_look:
                queue = await self._ask()
                changed = queue is not None and await self._replace(queue, alive)
                interval = LOOK_SECONDS[0] if changed else min(interval * 1.3, LOOK_SECONDS[1])
                next_look = now + interval
                if alive:
                    said = now
                elif queue is not None:
                    self.waiting_for = self._waiting(queue) or self.waiting_for
                    if now - said >= WAITING_SECONDS:
                        said = now
                        self.say(f"no worker yet: {self.waiting_for}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), TICK_SECONDS)

    def _alive(self) -> set[str]:
        """The jobs of which a worker is there."""
        workers = [str(worker.name) for worker in self.cluster.scheduler.workers.values()]
        return {job for job in self.cluster.workers for name in workers if name == job or name.startswith(f"{job}-")}

    async def _end_silent(self, elapsed: float) -> None:
        """Take workers that do not answer for lost, and have their nannies replace them."""
        states = dict(self.cluster.scheduler.workers)
        self._silences = {address: self._silences.get(address, Silence()) for address in states}
        for address, silence in self._silences.items():
            silence.hear(states[address].last_seen, elapsed)
            if silence.seconds > SILENT_SECONDS:
                name, nanny = states[address].name, states[address].nanny
                self.counts["lost"] += 1
                self.say(f"lost the worker {name}: it did not answer for {silence.seconds:.0f} s; it is started again")
                await self.cluster.scheduler.remove_worker(address, stimulus_id=f"silent-{name}", close=False)
                if nanny:
                    ending = asyncio.create_task(_kill(nanny, self.cluster.scheduler.connection_args))
                    self._endings.add(ending)
                    ending.add_done_callback(self._endings.discard)

    async def _ask(self) -> Mapping[str, State] | None:
        """The queue; None where SLURM does not answer, but an empty one while there is nothing to lose."""
        try:
            queue: Mapping[str, State] = await self.cluster.queue()
        except (OSError, RuntimeError, TimeoutError):
            return None if self._accepted else {}
        return queue

    async def _replace(self, queue: Mapping[str, State], alive: set[str]) -> bool:
        """Forget the jobs that ended and submit as many; whether anything changed."""
        now = time.monotonic()
        ended = 0
        self.counts = Counter({"lost": self.counts["lost"]})
        for name, job in list(self.cluster.workers.items()):
            state = job.state(queue)
            self.counts[state.state.lower()] += not state.has_ended
            if not state.has_ended or (state.is_guess and name in alive):
                continue
            ended += 1
            del self.cluster.workers[name]
            del self.cluster.worker_spec[name]
            await job.drop()
            if name not in self._reported:
                self._failure = told(job.job_id, state, job.log)
            elif state.state != "COMPLETED":
                self.counts["lost"] += 1
                self.lost.append(told(job.job_id, state, job.log))
                self.say(f"lost {self.lost[-1]}; another one is submitted")
        if ended and self._failure:
            outage = OUTAGE.search(self._failure) is not None and "REFUSED" in self._failure
            wait = OUTAGE_WAIT_SECONDS if outage else min(2.0 ** (self._rounds + 1), LONGEST_WAIT_SECONDS)
            self._retry_at = now + wait
            if not alive and (self._rounds >= (ROUNDS_OF_OUTAGE if outage else ROUNDS) or not self._accepted):
                self.verdict = self._judged()
                return True
        lacking = self.wanted - len(self.cluster.worker_spec)
        if lacking > 0 and now >= self._retry_at:
            self._rounds += bool(self._failure)
            for _ in range(lacking):
                self.cluster.worker_spec.update(self.cluster.new_worker_spec())
            await self.cluster.submit()
            self._accepted = self._accepted or any(not job.refusal for job in self.cluster.workers.values())
        return bool(ended or lacking > 0)

    def _judged(self) -> str:
        if not self._accepted:
            return f"SLURM takes no job of workers: {self._failure}; change the profile."
        return (
            f"The jobs of workers ended {self._rounds + 1} times before a worker reported: {self._failure}; mend it"
            " (`voxcaliper cluster check` tries a single job), then go on with `voxcaliper resume`."
        )

    def _waiting(self, queue: Mapping[str, State]) -> str:
        """What the jobs do that have no worker yet, as a person says it."""
        states = Counter(
            in_words(state) for job in self.cluster.workers.values() if not (state := job.state(queue)).has_ended
        )
        return "; ".join(f"{count} {'job is' if count == 1 else 'jobs are'} {text}" for text, count in states.items())


async def _kill(nanny: str, connection: dict[str, Any]) -> None:
    """Have a nanny kill its worker, after which it starts another; where it does not answer either, its job ends."""
    with contextlib.suppress(OSError, TimeoutError):
        async with rpc(nanny, connection_args=connection) as asked:
            await asyncio.wait_for(asked.kill(reason="silent"), KILL_SECONDS)


def in_words(state: State) -> str:
    """A state of a job that has not ended."""
    text = state.state.lower()
    if state.state == "RUNNING":
        return "running, and no worker has reported yet"
    reason = state.reason.strip("()")
    words = next((words for code, words in REASONS.items() if reason.startswith(code)), None)
    return f"{text}: {words} ({reason})" if words else f"{text} ({reason})"


def told(job_id: str | None, state: State, log: Path) -> str:
    """What became of a job, as a person says it, with what its log says."""
    if state.state == "REFUSED":
        return f"REFUSED ({state.reason})"
    reason = f", {state.reason}" if state.reason not in ("None", "") else ""
    quoted = quote(log)
    return f"job {job_id} ({state.state}{reason}" + (
        f") whose log {log} says “{quoted}”" if quoted else ") without a log"
    )
