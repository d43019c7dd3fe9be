"""Stages one after the other: what is finished is kept; what all blocks leave behind together is noted too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.comparison import ComparisonJob
from pipeline.device import Device
from pipeline.engine import Client, Progress, Resource, Stage, run_stage
from pipeline.geometry import Index
from pipeline.job import ThicknessJob

J = TypeVar("J", ThicknessJob, ComparisonJob)


class Conclusion:
    """What a stage leaves for those after it beside its parcels: nothing, unless a subclass gathers something."""

    def absorb(self, block: Index, summary: Mapping[str, Any]) -> None:
        """Take in the summary of a block; called for every block, in any order."""

    def conclude(self, totals: dict[str, Any]) -> dict[str, Any]:
        """Check and note what was gathered; returns the totals of the stage, with what shall be kept of it."""
        return totals

    def is_noted(self) -> bool:
        """Whether what an earlier process noted is readable."""
        return True


def run_stages(
    client: Client, job: J, stages: Iterable[Stage], *, report: Callable[[Progress], None],
    conclusions: Mapping[str, Callable[[], Conclusion]],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Run every stage; returns the totals of each, in order.

    Blocks that are finished are not done again; a stage of which nothing had to be done keeps the totals that were
    noted. conclusions : by name of a stage, makes what gathers its summaries. The stages may be made one by one, each
    when those before it are finished. The first error ends the run; what is finished stays, and running again goes on.

    What a stage wrote beside its receipts is read again when all its blocks are done, held against them, and made again
    where it is not what was written; the totals then say of how many blocks, as `made_again`.
    """
    all_totals: dict[str, dict[str, Any]] = {}
    for stage in stages:
        conclusion = conclusions.get(stage.name, Conclusion)()
        noted = job.ledger.stage_totals(stage.name)
        totals = run_stage(client, stage, job, absorb=conclusion.absorb, report=report)
        if noted is None or totals["tasks_now"] or not conclusion.is_noted():
            noted = conclusion.conclude(totals)
            job.ledger.finish_stage(stage.name, noted)
        if stage.writes and (again := _made_again(client, stage, job, report)):
            noted["made_again"] = noted.get("made_again", 0) + again
            job.ledger.finish_stage(stage.name, noted)
        all_totals[stage.name] = noted
    return all_totals


def _made_again(client: Client, stage: Stage, job: J, report: Callable[[Progress], None]) -> int:
    """Read all that a finished stage wrote, make again what is not as it was written; returns of how many blocks."""

    def checking(progress: Progress) -> None:
        report(replace(progress, stage=f"check {stage.name}", found=0))

    totals = run_stage(client, stage, thorough(job), absorb=lambda *_: None, report=checking)
    return int(totals["tasks_now"])


def thorough(job: J) -> J:
    """The job whose receipts count only where every byte of them, and of what was written beside them, is whole."""
    return replace(job, ledger=replace(job.ledger, thorough=True))


def resource(device: Device, *, kernels: bool) -> Resource | None:
    """What the workers of a stage must offer, where workers differ: in a run on GPUs, a GPU for stages with kernels.

    Stages without kernels then leave the GPUs alone. On CPUs every worker may do everything.
    """
    if device == "cpu":
        return None
    return "GPU" if kernels else "CPU"
