"""A run on its workers: what thickness runs and comparisons have in common, from warm-up to the last line of the log.

It begins again in smaller blocks where those of its plan fit no worker, or no card, after all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel

from cluster.local import Workers
from pipeline.comparison import ComparisonJob
from pipeline.engine import Client, Progress
from pipeline.errors import DamagedError, DeviceMemoryError, LostWorkersError
from pipeline.job import ThicknessJob
from pipeline.volume.writing import sweep_partials
from workflows.run_folder import RESULTS, RunFolder, plan_again, tidy
from workflows.sources import check_sources, untold
from workflows.stages import thorough
from workflows.warm_up import warm_up
from workflows.watching import Watch, watched, write_timings

TRIES = 3
"""How often a run is gone through before damage of what it made itself ends it."""
J = TypeVar("J", ThicknessJob, ComparisonJob)
Totals = dict[str, dict[str, Any]]


def execute_job(
    client: Client, workers: Workers, run: RunFolder, job: J, *, named: str, measure: Callable[..., Totals],
    smaller: Callable[[RunFolder, Workers, J], J | None], write: Callable[[J, Totals, float], dict[str, Any]],
    report: Callable[[Progress], None], say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Do what is not done yet and write the results; returns the contents of the main result file.

    named : what is measured, for the log. measure : called with client, job and report; does every stage that is not
    finished and returns the totals of each. smaller : plans the run anew in the next smaller blocks; None where the
    plan may not choose them or has none. write : makes the results of a job, of the totals of its stages and the
    seconds of this process. say : told what a person should know while it runs.
    """
    began = time.perf_counter()
    with watched(client, workers, run, report) as watch:
        watch.log.info("begin: %s on %d workers (%s)", named, workers.count, workers.description)
        warnings = {text for volume in job.volumes.values() for text in volume.warnings}
        for warning in sorted(warnings | set(untold(run.sources()))):
            watch.log.warning(warning)
            say(f"voxcaliper: warning: {warning}")
        for name in RESULTS:  # of a process that did not come to its end: nobody shall take them for the run's
            (run.path / name).unlink(missing_ok=True)
        for image in job.images:
            if image.path.exists():
                sweep_partials(image.path)
        warm_up(client, job)
        for left in reversed(range(TRIES)):
            try:
                totals, job = _in_blocks_that_fit(client, workers, run, job, measure, smaller, watch, say)
                check_sources(run.path, job.volumes, run.sources())
                for name, stage in totals.items():
                    watch.log.info("stage %s: %s", name, stage)
                    if "made_again" in stage:
                        say(
                            f"voxcaliper: warning: {stage['made_again']:,} blocks of stage {name} were made again: what"
                            f" lay in {run.path} was not what they had written; look after that disk."
                        )
                write_timings(run, totals)
                results = write(job, totals, time.perf_counter() - began)
                break
            except DamagedError as error:
                if not left:
                    raise
                retold = f"{error} It goes on by itself: everything is looked through, and what is damaged made again."
            job = thorough(job)
            watch.log.warning(retold)
            say(retold)
            watch.look_again()
        tidy(run)
        watch.log.info("complete")
    return results


def _in_blocks_that_fit(
    client: Client, workers: Workers, run: RunFolder, job: J, measure: Callable[..., Totals],
    smaller: Callable[[RunFolder, Workers, J], J | None], watch: Watch, say: Callable[[str], None],
) -> tuple[Totals, J]:  # fmt: skip
    """What `measure` returns, and the job in whose blocks it was done.

    Of workers that died, an error is raised only where no task could have more memory beside fewer others.
    """
    while True:
        try:
            return measure(client, job, report=watch.tell), job
        except (DeviceMemoryError, LostWorkersError) as error:
            if isinstance(error, LostWorkersError) and workers.more_memory:
                raise  # fewer tasks at a time come first: they need no block again
            found = smaller(run, workers, job)
            if found is None:
                raise
            retold = f"{error} The run begins again with blocks of {found.grid.block_shape} voxels."
        job = found
        watch.log.warning(retold)
        say(retold)
        watch.look_again()


def begin_again(run: RunFolder, job: J, plan: BaseModel) -> J:
    """Remove what larger blocks left, and file the plan of smaller ones; returns the job with its new key."""
    for folder in (job.ledger.folder, *(image.path for image in job.images)):
        shutil.rmtree(folder, ignore_errors=True)
    return with_key(job, plan_again(run, plan))


def with_key(job: J, key: str) -> J:
    """A job whose tasks file and take receipts of its run alone."""
    return replace(job, ledger=replace(job.ledger, key=key))
