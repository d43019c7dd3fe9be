"""Blocks travel in batches: every block once, neighbours together, none done twice, and nobody kept waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, SpecCluster, Worker, get_worker
from distributed import Scheduler as DaskScheduler
from hypothesis import given
from hypothesis import strategies as st

from pipeline import engine
from pipeline.batches import BATCH_SECONDS, MOST_BLOCKS, Backlog, Pace
from pipeline.engine import Outcome, Progress, Stage, Stopwatch, perform_batch, run_stage
from pipeline.errors import InputError
from pipeline.geometry import BlockGrid, Index
from pipeline.ledger import Ledger

GRID = BlockGrid((4, 9, 70), (1, 3, 7))
"""4 × 3 × 10 blocks of 21 voxels."""


@given(
    counts=st.tuples(*[st.integers(1, 6)] * 3),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    done=st.lists(st.floats(0.1, 1), min_size=1, max_size=5),
)
def test_every_block_is_handed_out_once(counts: Index, sizes: list[int], done: list[float]) -> None:
    z, y, row = counts
    backlog, given_out, fragmented = Backlog(z * y * row, row), list[int](), False
    for turn in range(10**6):
        if not backlog:
            break
        most = sizes[turn % len(sizes)]
        batch = backlog.take(most)
        assert 1 <= len(batch) <= most
        rows = {number // row for number in batch}
        whole_rows = batch.start % row == 0 and batch.stop % row == 0
        assert len(rows) == 1 or whole_rows or fragmented, "a batch is part of a row, or whole rows"
        finished = max(1, round(len(batch) * done[turn])) if turn < len(done) else len(batch)
        fragmented = fragmented or finished < len(batch)
        given_out += list(batch[:finished])
        backlog.give_back(batch[finished:])
    assert sorted(given_out) == list(range(z * y * row))


@given(number=st.integers(0, 119))
def test_blocks_have_numbers(number: int) -> None:
    assert GRID.at(number) == tuple(int(i) for i in np.unravel_index(number, GRID.counts))
    assert list(GRID)[number] == GRID.at(number)


def test_the_size_of_a_batch() -> None:
    pace = Pace()
    assert pace.batch_size(10**6, 2) == 1, "nothing is known yet"
    pace.note(1, 0.1)
    assert pace.batch_size(10**6, 2) == int(BATCH_SECONDS / 0.1)
    assert pace.batch_size(80, 2) == 10, "the last batches are short"
    assert pace.batch_size(3, 2) == 1
    for _ in range(9):
        pace.note(1, 60.0)
    assert pace.batch_size(10**6, 2) == 1, "large blocks travel alone"
    for _ in range(30):
        pace.note(1000, 1e-6)
    assert pace.batch_size(10**6, 2) == MOST_BLOCKS


@dataclass(frozen=True)
class Counting:
    """A job whose tasks do next to nothing."""

    ledger: Ledger
    seconds: float = 0.0


def say_where(job: Counting, block: Index, _: Stopwatch) -> Outcome:
    time.sleep(job.seconds)
    return Outcome({"where": list(block)}, {"twice": np.array(block) * 2})


def offered(job: Counting, _: Index, __: Stopwatch) -> Outcome:
    time.sleep(job.seconds)
    return Outcome({"offers": sorted(get_worker().state.total_resources)})


def fail_late(_: Counting, block: Index, __: Stopwatch) -> Outcome:
    if block == (3, 1, 4):
        raise InputError("This block cannot be measured.")
    return Outcome()


@pytest.fixture(scope="module")
def client(scheduler: str) -> Iterator[Client]:
    with Client(scheduler) as client:
        yield client


class Driver:
    """What a driver is told of a stage."""

    def __init__(self) -> None:
        self.summaries: dict[Index, Any] = {}
        self.reports: list[Progress] = []

    def absorb(self, block: Index, summary: Mapping[str, Any]) -> None:
        assert block not in self.summaries, "a block is told of once"
        self.summaries[block] = summary

    def run(self, client: Client, stage: Stage, job: Counting) -> dict[str, Any]:
        return run_stage(client, stage, job, absorb=self.absorb, report=self.reports.append)


def test_a_stage_in_batches(client: Client, tmp_path: Path) -> None:
    stage, job, driver = Stage("places", GRID, say_where), Counting(Ledger(tmp_path / "ledger")), Driver()
    totals = driver.run(client, stage, job)
    assert driver.summaries == {block: {"where": list(block)} for block in GRID}
    assert totals["tasks"] == totals["tasks_now"] == len(GRID)
    assert totals["batches"] < len(GRID) / 2
    assert totals["scratch_bytes_written"] == sum(path.stat().st_size for path in tmp_path.rglob("*.parcel"))
    assert all(np.array_equal(job.ledger.read("places", block, "twice"), np.array(block) * 2) for block in GRID)
    voxels = GRID.shape[0] * GRID.shape[1] * GRID.shape[2]
    assert (driver.reports[-1].blocks, driver.reports[-1].voxels) == (len(GRID), voxels)
    assert len(driver.reports) == totals["batches"] + 1

    (job.ledger.path("places", (1, 2, 3))).write_bytes(b"")
    (job.ledger.path("places", (2, 0, 0))).unlink()
    again = Driver()
    totals = again.run(client, stage, job)
    assert again.summaries == driver.summaries, "what was finished earlier is told of, too"
    assert (totals["tasks"], totals["tasks_now"]) == (len(GRID), 2)
    assert again.reports[-1].found == len(GRID) - 2
    assert totals["scratch_bytes_written"] == sum(path.stat().st_size for path in tmp_path.rglob("*.parcel"))


def test_what_was_done_before_an_error_stays(client: Client, tmp_path: Path) -> None:
    job, driver = Counting(Ledger(tmp_path / "ledger")), Driver()
    with pytest.raises(InputError, match="cannot be measured"):
        driver.run(client, Stage("late", GRID, fail_late), job)
    assert job.ledger.finished("late", (3, 1, 3)), "a batch files every block at once"
    assert set(driver.summaries) <= set(job.ledger.blocks("late"))


def test_a_long_batch_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Counting(Ledger(tmp_path / "ledger"))
    monkeypatch.setattr(engine, "LONGEST_BATCH_SECONDS", 0)
    batch = perform_batch(Stage("places", GRID, say_where), job, range(5, 20))
    assert batch.done == range(5, 6)
    assert batch.summaries == [{"where": [0, 0, 5]}]
    assert job.ledger.count("places") == 1


def test_a_batch_that_is_given_up_ends_at_its_block(client: Client, tmp_path: Path) -> None:
    job = Counting(Ledger(tmp_path / "ledger"), seconds=0.1)
    future = client.submit(perform_batch, Stage("places", GRID, say_where), job, range(60), pure=False)
    while job.ledger.count("places") < 2:
        time.sleep(0.01)
    client.cancel([future])
    while any(client.run(lambda dask_worker: len(dask_worker.state.executing)).values()):
        time.sleep(0.01)
    assert job.ledger.count("places") < 40


@pytest.mark.parametrize(
    ("resource", "offers", "done_by"),
    [
        ("GPU", ({"GPU": 1}, {"CPU": 1}), {("GPU",)}),
        ("CPU", ({"GPU": 1}, {"CPU": 1}), {("CPU",)}),
        ("CPU", ({"GPU": 1}, {"GPU": 1}), {("GPU",)}),
        ("GPU", ({}, {}), {()}),
        (None, ({"GPU": 1}, {"CPU": 1}), {("GPU",), ("CPU",)}),
    ],
)
def test_stages_go_where_their_resource_is(
    tmp_path: Path, resource: Any, offers: tuple[dict[str, int], ...], done_by: set[tuple[str, ...]]
) -> None:
    workers = {
        number: {"cls": Worker, "options": {"nthreads": 1, "resources": offer, "dashboard": False}}
        for number, offer in enumerate(offers)
    }
    scheduler = {"cls": DaskScheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}}
    driver = Driver()
    with SpecCluster(workers, scheduler) as cluster, Client(cluster) as client:
        driver.run(client, Stage("offers", GRID, offered, resource), Counting(Ledger(tmp_path / "ledger"), 0.01))
    assert {tuple(summary["offers"]) for summary in driver.summaries.values()} == done_by
