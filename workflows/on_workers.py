"""A run on the workers of a profile, from its beginning or from where it stopped to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cluster.environment import settle_environment
from cluster.local import DeviceChoice, Workers
from cluster.open import foretold, open_cluster
from cluster.profile import Profile, with_more_memory
from pipeline.engine import Client, Progress
from pipeline.errors import LostWorkersError
from workflows.options import introduce, say
from workflows.progress import reporter
from workflows.run_folder import RunFolder

J = TypeVar("J")
"""The job of a run."""


class Execution(Protocol):
    """What does a job: execute or execute_comparison."""

    def __call__(
        self, client: Client, workers: Workers, run: RunFolder, job: Any, *, report: Callable[[Progress], None]
    ) -> dict[str, Any]: ...


def carry_out(
    profile: Profile, *, run: Path, device: DeviceChoice, begin: Callable[[Workers], tuple[RunFolder, J]],
    again: Callable[[RunFolder, Workers], J], execute: Execution, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    """See a run to its end; returns the contents of its main result file.

    begin : makes or opens the run for workers, as soon as it is known what they offer. again : opens it once more.
    Where workers die for want of memory, the run goes on with half as many tasks at a time while that is possible.
    """
    for sentence in settle_environment(profile):
        say(f"voxcaliper: warning: {sentence}")
    aloud = partial(say, quiet=quiet)
    offer = foretold(profile, device)
    started = begin(offer) if offer else None
    with contextlib.ExitStack() as locks:
        while True:
            if started:
                # Before any worker is asked for: jobs of the same name would belong to whoever works on the run.
                locks.enter_context(started[0].locked())
            try:
                with open_cluster(profile, device=device, folder=run, say=aloud) as (client, offer):
                    introduce(client, offer, quiet=quiet)
                    if started is None:
                        started = begin(offer)
                        locks.enter_context(started[0].locked())
                    folder, job = started
                    with reporter(quiet=quiet) as progress:
                        return execute(client, offer, folder, job, report=progress.stage)
            except LostWorkersError as error:
                roomier = with_more_memory(profile, offer.count) if offer else None
                if roomier is None or started is None:
                    raise
                say(f"{error} It goes on by itself with half as many tasks at a time, each with twice the memory.")
                profile, offer = roomier, foretold(roomier, device)
                assert offer is not None
                locks.pop_all().close()
                started = started[0], again(started[0], offer)
