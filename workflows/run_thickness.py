"""Start, resume and carry out a thickness run. The science is in measure_thickness.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.local import Workers
from pipeline.engine import Client, Progress
from pipeline.errors import RunError
from pipeline.job import ThicknessJob
from pipeline.report import Comparison
from workflows.config import ThicknessConfig, ThicknessPlan
from workflows.execution import begin_again, execute_job, with_key
from workflows.measure_thickness import measure
from workflows.plan_thickness import check_memory, choose_blocks, make_plan, open_job
from workflows.run_folder import RunFolder, create_run, restart_run
from workflows.sources import check_sources, sources_of
from workflows.thickness_results import write_results


def start(config: ThicknessConfig, run: Path, workers: Workers) -> tuple[RunFolder, ThicknessJob]:
    """Plan a new run for these workers and make its folder."""
    folder = Path(run).absolute()
    job = open_job(config, folder, device=workers.device)
    if config.block_shape is None:
        job = choose_blocks(job, folder, workers)
    check_memory(job, workers)
    made = create_run(run, config, _plan(job))
    return made, with_key(job, made.check_seal())


def restart(run: RunFolder, workers: Workers) -> tuple[RunFolder, ThicknessJob]:
    """Plan an old run anew, as its run.json has it, and remove what it made."""
    job = open_job(run.config(), run.path, device=workers.device)
    if run.config().block_shape is None:
        job = choose_blocks(job, run.path, workers)
    check_memory(job, workers)
    restart_run(run, _plan(job))
    return run, with_key(job, run.check_seal())


def _plan(job: ThicknessJob) -> ThicknessPlan:
    return make_plan(job).model_copy(update={"sources": sources_of(job.volumes)})


def reopen(run: RunFolder, workers: Workers) -> ThicknessJob:
    """The job of an unfinished run, with the blocks of its plan.

    Raises RunError where a volume, the configuration or the plan is not what it was.
    """
    key, plan = run.check_seal(), run.plan()
    job = open_job(run.config(), run.path, block_shape=plan.block_shape, device=workers.device)
    regions = job.regions.identity() if job.regions else None
    for name, now, then in (
        ("mask", job.mask.identity(), plan.mask_identity),
        ("mask", {"voxel_size_um": job.voxel_size.um}, {"voxel_size_um": plan.voxel_size_um}),
        ("regions", regions, plan.regions_identity),
    ):
        if now != then:
            changed = [key for key in {**(now or {}), **(then or {})} if (now or {}).get(key) != (then or {}).get(key)]
            raise RunError(
                f"The {name} of the run {run.path} changed since it began ({', '.join(changed)});"
                f" measure it anew with `voxcaliper resume {run.path} --restart`, or start a new run with another --run"
                " folder."
            )
    check_sources(run.path, job.volumes, plan.sources)
    check_memory(job, workers)
    return with_key(job, key)


def execute(
    client: Client, workers: Workers, run: RunFolder, job: ThicknessJob, *, report: Callable[[Progress], None],
    compare: Callable[[dict[str, Any]], Comparison] | None = None, say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Measure what is not measured yet and write the results; returns the statistics.

    say : told what a person should know while it runs. compare : makes the report's comparison with known
    thicknesses out of the statistics.
    """

    def write(job: ThicknessJob, totals: dict[str, Any], seconds: float) -> dict[str, Any]:
        return write_results(run, job, totals, workers, seconds, compare)

    return execute_job(
        client, workers, run, job, named=job.mask.name, measure=measure, smaller=_with_smaller_blocks, write=write,
        report=report, say=say,
    )  # fmt: skip


def _with_smaller_blocks(run: RunFolder, workers: Workers, job: ThicknessJob) -> ThicknessJob | None:
    """The run anew in the next smaller blocks, where the plan may choose them; what the larger ones left is removed."""
    smaller = choose_blocks(job, run.path, workers, below=max(job.grid.block_shape))
    if run.config().block_shape is not None or max(smaller.grid.block_shape) >= max(job.grid.block_shape):
        return None
    return begin_again(run, smaller, make_plan(smaller).model_copy(update={"sources": run.sources()}))
