"""Stages one after the other: what is finished is kept; what all blocks leave behind together is noted too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.engine import Client, Job, Progress, Stage, run_stage
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
    """Run every stage that is not finished; returns the totals of each, in order.

    conclusions : by name of a stage, makes what gathers its summaries. The stages may be made one by one, each when
    those before it are finished. The first error ends the run; what is finished stays, and running again goes on.
    """
    all_totals: dict[str, dict[str, Any]] = {}
    for stage in stages:
        conclusion = conclusions.get(stage.name, Conclusion)()
        totals = job.ledger.stage_totals(stage.name)
        if totals is None or not job.ledger.is_whole(stage.name, stage.grid) or not conclusion.is_noted():
            totals = conclusion.conclude(run_stage(client, stage, job, absorb=conclusion.absorb, report=report))
            job.ledger.finish_stage(stage.name, totals)
        all_totals[stage.name] = totals
    return all_totals
