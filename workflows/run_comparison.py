"""Start, resume and carry out a comparison. The science is in compare_segmentations.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cluster.local import Workers
from pipeline.comparison import ComparisonJob
from pipeline.engine import Client, Progress
from pipeline.errors import RunError
from pipeline.volume.writing import sweep_partials
from workflows.compare_segmentations import compare, stages
from workflows.comparison_results import write_comparison_results
from workflows.config import ComparisonConfig
from workflows.plan_comparison import (
    check_comparison_memory,
    choose_comparison_blocks,
    make_comparison_plan,
    open_comparison,
)
from workflows.run_folder import RunFolder, create_run, tidy
from workflows.smaller_blocks import begin_again, in_blocks_that_fit
from workflows.warm_up import warm_up
from workflows.watching import watched, write_timings


def plan_of(config: ComparisonConfig, run: Path, workers: Workers) -> ComparisonJob:
    """The job of a configuration in blocks that suit these workers."""
    job = open_comparison(config, run, device=workers.device)
    return choose_comparison_blocks(job, run, workers) if config.block_shape is None else job


def task_counts(job: ComparisonJob) -> list[tuple[str, int]]:
    """Every stage and how many tasks it has."""
    return [(stage.name, len(stage.grid)) for stage in stages(job)]


def start_comparison(config: ComparisonConfig, run: Path, workers: Workers) -> tuple[RunFolder, ComparisonJob]:
    """Plan a new comparison for these workers and make its folder."""
    job = plan_of(config, Path(run).absolute(), workers)
    check_comparison_memory(job, workers)
    return create_run(run, config, make_comparison_plan(job, task_counts(job))), job


def reopen_comparison(run: RunFolder, workers: Workers) -> ComparisonJob:
    """The job of an unfinished comparison, in the blocks of its plan. Raises RunError where a volume changed."""
    plan = run.comparison_plan()
    job = open_comparison(run.comparison_config(), run.path, block_shape=plan.block_shape, device=workers.device)
    now = make_comparison_plan(job, task_counts(job))
    for name, then in plan.identities.items():
        changed = [key for key in then if now.identities.get(name, {}).get(key) != then[key]]
        if changed or now.voxel_size_um != plan.voxel_size_um:
            raise RunError(
                f"The {name} of the run {run.path} changed since it began ({', '.join(changed) or 'voxel size'});"
                " start a new run with another --run folder."
            )
    check_comparison_memory(job, workers)
    return job


def execute_comparison(
    client: Client, workers: Workers, run: RunFolder, job: ComparisonJob, *, report: Callable[[Progress], None],
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Compare what is not compared yet and write the results; returns the contents of the main result file.

    say : told what a person should know while it runs.
    """
    began = time.perf_counter()
    with watched(client, workers, run, report) as watch:
        watch.log.info("begin: %s on %d workers (%s)", job.reference.name, workers.count, workers.description)
        for image in job.maps.values():
            if image.path.exists():
                sweep_partials(image.path)
        warm_up(client, job)
        totals, job = in_blocks_that_fit(
            partial(compare, client, report=watch.tell), job, partial(_with_smaller_blocks, run, workers),
            workers=workers, watch=watch, say=say,
        )  # fmt: skip
        for name, stage in totals.items():
            watch.log.info("stage %s: %s", name, stage)
        write_timings(run, totals)
        results = write_comparison_results(run, job, totals, workers, time.perf_counter() - began)
        tidy(run)
        watch.log.info("complete")
    return results


def _with_smaller_blocks(run: RunFolder, workers: Workers, job: ComparisonJob) -> ComparisonJob | None:
    """The comparison anew in the next smaller blocks, where the plan may choose them; the larger ones' leftovers go."""
    smaller = choose_comparison_blocks(job, run.path, workers, below=max(job.grid.block_shape))
    if run.comparison_config().block_shape is not None or max(smaller.grid.block_shape) >= max(job.grid.block_shape):
        return None
    leftovers = [job.ledger.folder, *(image.path for image in job.maps.values())]
    begin_again(run, leftovers, make_comparison_plan(smaller, task_counts(smaller)))
    return smaller
