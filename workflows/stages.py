"""Stages one after the other: what is finished is kept; what all blocks leave behind together is noted too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.device import Device
from pipeline.engine import Client, Job, Progress, Resource, Stage, run_stage
from pipeline.geometry import Index


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
    client: Client, job: Job, stages: Iterable[Stage], *, report: Callable[[Progress], None],
    conclusions: Mapping[str, Callable[[], Conclusion]],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Run every stage; returns the totals of each, in order.

    Blocks that are finished are not done again; a stage of which nothing had to be done keeps the totals that were
    noted. conclusions : by name of a stage, makes what gathers its summaries. The stages may be made one by one, each
    when those before it are finished. The first error ends the run; what is finished stays, and running again goes on.
    """
    all_totals: dict[str, dict[str, Any]] = {}
    for stage in stages:
        conclusion = conclusions.get(stage.name, Conclusion)()
        noted = job.ledger.stage_totals(stage.name)
        totals = run_stage(client, stage, job, absorb=conclusion.absorb, report=report)
        if noted is None or totals["tasks_now"] or not conclusion.is_noted():
            noted = conclusion.conclude(totals)
            job.ledger.finish_stage(stage.name, noted)
        all_totals[stage.name] = noted
    return all_totals


def resource(device: Device, *, kernels: bool) -> Resource | None:
    """What the workers of a stage must offer, where workers differ: in a run on GPUs, a GPU for stages with kernels.

    Stages without kernels then leave the GPUs alone. On CPUs every worker may do everything.
    """
    if device == "cpu":
        return None
    return "GPU" if kernels else "CPU"
