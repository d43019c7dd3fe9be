"""Start, resume and carry out a comparison. The science is in compare_segmentations.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.local import Workers
from pipeline.comparison import ComparisonJob
from pipeline.engine import Client, Progress
from pipeline.errors import RunError
from workflows.compare_segmentations import compare, stages
from workflows.comparison_results import write_comparison_results
from workflows.config import ComparisonConfig, ComparisonPlan
from workflows.execution import begin_again, execute_job, with_key
from workflows.plan_comparison import (
    check_comparison_memory,
    choose_comparison_blocks,
    make_comparison_plan,
    open_comparison,
)
from workflows.run_folder import RunFolder, create_run, restart_run
from workflows.sources import check_sources, sources_of


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
    made = create_run(run, config, _plan(job))
    return made, with_key(job, made.check_seal())


def restart_comparison(run: RunFolder, workers: Workers) -> tuple[RunFolder, ComparisonJob]:
    """Plan an old comparison anew, as its run.json has it, and remove what it made."""
    job = plan_of(run.comparison_config(), run.path, workers)
    check_comparison_memory(job, workers)
    restart_run(run, _plan(job))
    return run, with_key(job, run.check_seal())


def _plan(job: ComparisonJob) -> ComparisonPlan:
    return make_comparison_plan(job, task_counts(job)).model_copy(update={"sources": sources_of(job.volumes)})


def reopen_comparison(run: RunFolder, workers: Workers) -> ComparisonJob:
    """The job of an unfinished comparison, in the blocks of its plan.

    Raises RunError where a volume, the configuration or the plan is not what it was.
    """
    key, plan = run.check_seal(), run.comparison_plan()
    job = open_comparison(run.comparison_config(), run.path, block_shape=plan.block_shape, device=workers.device)
    now = make_comparison_plan(job, task_counts(job))
    for name, then in plan.identities.items():
        found = now.identities.get(name, {})
        changed = [key for key in {**found, **then} if found.get(key) != then.get(key)]
        if changed or now.voxel_size_um != plan.voxel_size_um:
            raise RunError(
                f"The {name} of the run {run.path} changed since it began ({', '.join(changed) or 'voxel size'});"
                f" measure it anew with `voxcaliper resume {run.path} --restart`, or start a new run with another --run"
                " folder."
            )
    check_sources(run.path, job.volumes, plan.sources)
    check_comparison_memory(job, workers)
    return with_key(job, key)


def execute_comparison(
    client: Client, workers: Workers, run: RunFolder, job: ComparisonJob, *, report: Callable[[Progress], None],
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Compare what is not compared yet and write the results; returns the contents of the main result file.

    say : told what a person should know while it runs.
    """

    def write(job: ComparisonJob, totals: dict[str, Any], seconds: float) -> dict[str, Any]:
        return write_comparison_results(run, job, totals, workers, seconds)

    return execute_job(
        client, workers, run, job, named=job.reference.name, measure=compare, smaller=_with_smaller_blocks, write=write,
        report=report, say=say,
    )  # fmt: skip


def _with_smaller_blocks(run: RunFolder, workers: Workers, job: ComparisonJob) -> ComparisonJob | None:
    """The comparison anew in the next smaller blocks, where the plan may choose them; the larger ones' leftovers go."""
    smaller = choose_comparison_blocks(job, run.path, workers, below=max(job.grid.block_shape))
    if run.comparison_config().block_shape is not None or max(smaller.grid.block_shape) >= max(job.grid.block_shape):
        return None
    plan = make_comparison_plan(smaller, task_counts(smaller)).model_copy(update={"sources": run.sources()})
    return begin_again(run, smaller, plan)
