"""What every watch over workers has in common: it runs in the cluster's own event loop, and its end is told."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class Lookout(ABC):
    """Looks after the workers of a cluster until it is stopped, or gives up.

    cluster : with a scheduler. wanted : how many of what it looks after there shall be. say : told what a person should
    know. verdict : why it gave up, "" while it goes on. looks_after : what that is, for messages.
    """

    looks_after: str

    def __init__(self, cluster: Any, wanted: int, say: Callable[[str], None]) -> None:
        self.cluster = cluster
        self.wanted = wanted
        self.say = say
        self.verdict = ""
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the first ones and look after them from then on."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Nothing is started after this."""
        self._stop.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        try:
            await self._look_again_and_again()
        except Exception as error:  # noqa: BLE001  whoever waits for workers must hear of it
            self.verdict = f"The watch over {self.looks_after} failed ({type(error).__name__}: {error})."
        if self.verdict:  # nobody is coming: who waits for a result is told at once
            await self.cluster.scheduler.close(reason="no workers")

    @abstractmethod
    async def _look_again_and_again(self) -> None:
        """Until `_stop` is set or there is a verdict."""
