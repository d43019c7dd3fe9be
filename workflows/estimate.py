"""How far a run is and how long it takes yet: out of its plan, its ledger and the seconds that blocks took.

A stage that has begun goes on at its own pace. One that has not takes its usual share beside those that have, and the
estimate says which these are. Nothing is known before the first blocks are done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.ledger import Ledger
from workflows.config import StagePlan

USUAL = {
    "overlap": 0.5, "components": 0.9, "seams": 1.9,
    "surface": 0.6, "surface-y": 0.7, "surface-z": 2.5, "surface-distance": 3.1,
    "mask": 1.3, "distance-y": 0.6, "distance-z": 1.8, "centres": 6.3, "thickness": 8.0, "pyramid": 2.0,
}  # fmt: skip
"""What stages take of a block beside each other, for smoothed noise on CPUs: from the stages of benchmarks/RESULTS.md,
and for comparisons from a run of two labels of 256³ voxels in blocks of 64³."""


@dataclass(frozen=True)
class StageState:
    """A stage of a run. done : blocks with a receipt. pace : seconds a block takes all workers, None while unknown.

    seconds : that the stage took, once it is finished.
    """

    name: str
    blocks: int
    done: int
    pace: float | None = None
    seconds: float | None = None

    @property
    def is_finished(self) -> bool:
        return self.seconds is not None


@dataclass(frozen=True)
class Estimate:
    """seconds : that the rest of a run takes, None while nothing is known. unmeasured : stages that are guessed."""

    seconds: float | None
    unmeasured: tuple[str, ...]


def states_of(plan: Iterable[StagePlan], ledger: Ledger) -> list[StageState]:
    """Every stage of a plan as the ledger has it: noted totals of finished stages, receipts of the others."""
    states = []
    for stage in plan:
        totals = ledger.stage_totals(stage.name)
        if totals is None:
            states.append(StageState(stage.name, stage.tasks, ledger.count(stage.name)))
        else:
            seconds, now = float(totals["wall_seconds"]), int(totals["tasks_now"])
            states.append(StageState(stage.name, stage.tasks, stage.tasks, seconds / now if now else None, seconds))
    return states


def usual(stage: str) -> float:
    """The share of a stage in the seconds of a block, on the scale of USUAL."""
    return USUAL.get("pyramid" if stage.startswith("pyramid") else stage, 1.0)


def estimate(states: Sequence[StageState]) -> Estimate:
    """What is left of a run."""
    measured = [state for state in states if state.pace is not None]
    left = [state for state in states if state.done < state.blocks]
    unmeasured = tuple(state.name for state in left if state.pace is None)
    if not left:
        return Estimate(0.0, ())
    if not measured:
        return Estimate(None, unmeasured)
    scale = sum(state.pace or 0.0 for state in measured) / sum(usual(state.name) for state in measured)
    seconds = sum(
        (state.blocks - state.done) * (scale * usual(state.name) if state.pace is None else state.pace)
        for state in left
    )
    return Estimate(seconds, unmeasured)
