"""The question: what does the engine itself cost for many blocks, and what do more workers bring."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

from distributed import Client

from benchmarks.memory import resident
from benchmarks.results import Answer, Goal, Table
from benchmarks.volumes import Size, noise, store
from benchmarks.whole_run import SIGMA, WORKERS, Run, run_once, warm_up
from cluster.open import open_cluster
from cluster.profile import LocalProfile
from pipeline.engine import Outcome, Progress, Stage, Stopwatch, run_stage
from pipeline.geometry import BlockGrid, Index
from pipeline.ledger import Ledger
from workflows.config import ThicknessConfig

GOAL_BLOCKS_PER_SECOND = 2_000
GOAL_GROWTH_MIB = 64
GOAL_SPEEDUP = 1.8
CUTS = 4
"""Blocks along each axis of the volume that one worker and two measure."""


@dataclass(frozen=True)
class EmptyJob:
    """A job whose tasks do nothing."""

    ledger: Ledger


def nothing(job: EmptyJob, block: Index, clock: Stopwatch) -> Outcome:  # noqa: ARG001  the signature of a task
    """Do nothing; the engine files the receipt."""
    return Outcome({"voxels": 1})


@dataclass(frozen=True)
class Passed:
    """A stage that was passed. rest, most : bytes of this process, driver and scheduler, before and at most."""

    totals: Mapping[str, Any]
    cpu_s: float
    rest: int
    most: int


def pass_stage(client: Client, grid: BlockGrid, ledger: Ledger) -> Passed:
    """Run a stage of empty tasks, or find it finished."""
    rest = resident("VmRSS")
    most, absorbed = rest, 0

    def absorb(_: Index, summary: Mapping[str, Any]) -> None:
        nonlocal absorbed
        absorbed += summary["voxels"]

    def report(_: Progress) -> None:
        nonlocal most
        most = max(most, resident("VmRSS"))

    begin = time.process_time()
    totals = run_stage(client, Stage("nothing", grid, nothing), EmptyJob(ledger), absorb=absorb, report=report)
    assert absorbed == len(grid)
    return Passed(totals, time.process_time() - begin, rest, most)


@dataclass(frozen=True)
class Measured:
    """What passed through the engine.

    alone : a stage whose batches are single blocks. passed : stages by their number of blocks, done, then found
    finished. runs : the same run by its number of workers.
    """

    alone: Passed
    passed: Mapping[int, tuple[Passed, Passed]]
    runs: Mapping[int, Run]

    @property
    def alone_us(self) -> float:
        """CPU time of driver and scheduler for a block that travels alone, in µs."""
        return self.alone.cpu_s / int(self.alone.totals["tasks"]) * 1e6


@cache
def measured(size: Size) -> Measured:
    """In a process of its own: memory that earlier questions gave back to their process would hide how it grows."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, size).result()


def _measured(size: Size) -> Measured:
    """Empty stages and a run on two workers, then the run on one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stored = store(noise(size.run_side, SIGMA), folder, "noise")
        side = -(-size.run_side // CUTS)
        config = ThicknessConfig(mask=str(stored), block_shape=(side, side, side))
        runs = {}
        with open_cluster(LocalProfile(workers=WORKERS)) as (client, workers):
            pass_stage(client, BlockGrid((1, 20, 20), (1, 1, 1)), Ledger(folder / "rehearsal"))
            with patch("pipeline.batches.MOST_BLOCKS", 1):
                alone = pass_stage(client, _grid(min(size.block_counts[0], 2_000)), Ledger(folder / "alone"))
            passed = {}
            for count in size.block_counts:
                grid, ledger = _grid(count), Ledger(folder / str(count))
                passed[len(grid)] = pass_stage(client, grid, ledger), pass_stage(client, grid, ledger)
            warm_up(client, workers, folder)
            runs[WORKERS] = run_once(client, workers, config, folder / "run")
        with open_cluster(LocalProfile(workers=1)) as (client, workers):
            (folder / "one").mkdir()
            warm_up(client, workers, folder / "one")
            runs[1] = run_once(client, workers, config, folder / "one" / "run")
    return Measured(alone, passed, runs)


def _grid(blocks: int) -> BlockGrid:
    """About so many blocks of one voxel, as a cube."""
    side = round(blocks ** (1 / 3))
    return BlockGrid((-(-blocks // side**2), side, side), (1, 1, 1))


def answer(size: Size) -> Answer:
    """Empty stages of more and more blocks, and one run on one worker and on two."""
    found = measured(size)
    passed, runs = found.passed, found.runs
    rows = [_row("one a batch", found.alone)]
    for done, again in passed.values():
        rows += [_row("done", done), _row("found finished", again)]
    empty = Table(
        f"Stages whose tasks do nothing, {WORKERS} workers; driver and scheduler are one process",
        ("blocks", "", "seconds", "blocks/s", "batches", "CPU of driver and scheduler, µs a block",
         "their memory before, MiB", "and more at most, MiB"),
        tuple(rows),
        "Every block files its receipt; found finished: every receipt is opened again, as `voxcaliper resume` does.",
    )  # fmt: skip
    stage_s = {count: _stage_seconds(run) for count, run in runs.items()}
    scaling = Table(
        f"One worker and {WORKERS}, noise σ{SIGMA}, {size.run_side}³ voxels in {CUTS**3} blocks",
        ("workers", "stages, s", "whole run, s", "seconds of tasks", "busy within stages"),
        tuple(
            (
                str(count), f"{stage_s[count]:.2f}", f"{run.wall_s:.2f}", f"{run.seconds('all'):.2f}",
                f"{run.seconds('all') / (count * stage_s[count]):.0%}",
            )
            for count, run in sorted(runs.items())
        ),
    )  # fmt: skip
    stages = [stage for pair in passed.values() for stage in pair]
    growth = (max(stage.most for stage in stages) - stages[0].rest) / 2**20
    least, largest = min(passed), max(passed)
    done, _ = passed[largest]
    goals = (
        Goal(
            f"blocks through the engine, {largest:,} of them", largest / done.totals["wall_seconds"],
            GOAL_BLOCKS_PER_SECOND, at_most=False, unit="blocks/s",
        ),
        Goal(
            f"growth of driver and scheduler from {least:,} to {largest:,} blocks", growth, GOAL_GROWTH_MIB,
            at_most=True, unit="MiB",
        ),
        Goal(f"stages on {WORKERS} workers / on one", stage_s[1] / stage_s[WORKERS], GOAL_SPEEDUP, at_most=False),
    )  # fmt: skip
    return Answer("What does the engine cost, and what do more workers bring?", (empty, scaling), goals)


def _row(what: str, stage: Passed) -> tuple[str, ...]:
    blocks, seconds = stage.totals["tasks"], stage.totals["wall_seconds"]
    return (
        f"{blocks:,}", what, f"{seconds:.1f}", f"{blocks / seconds:,.0f}", f"{stage.totals['batches']:,}",
        f"{stage.cpu_s / blocks * 1e6:.0f}", f"{stage.rest / 2**20:.1f}", f"{(stage.most - stage.rest) / 2**20:.1f}",
    )  # fmt: skip


def _stage_seconds(run: Run) -> float:
    return float(sum(stage["wall_seconds"] for stage in run.provenance["stages"].values()))
