"""`voxcaliper status`: what it says is what the ledger holds, whoever works on the run or does not."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.open import open_cluster
from cluster.profile import SchedulerProfile
from pipeline.engine import Progress
from pipeline.errors import StorageError
from pipeline.job import ledger_of
from tests.workflows.conftest import Command
from tests.workflows.runs import STAGES, receipts
from workflows.config import StagePlan, ThicknessConfig
from workflows.estimate import Estimate, StageState, estimate, states_of, usual
from workflows.run_folder import RunFolder, open_run_folder
from workflows.run_thickness import execute, start

BLOCKS = 64


def test_nothing_is_known_at_first() -> None:
    states = [StageState("mask", 8, 0), StageState("centres", 8, 0)]
    assert estimate(states) == Estimate(None, ("mask", "centres"))


def test_what_has_begun_goes_on_at_its_pace_and_the_rest_takes_its_usual_share() -> None:
    states = [
        StageState("mask", 8, 8, pace=2 * usual("mask"), seconds=20.0),
        StageState("centres", 8, 5, pace=2 * usual("centres")),
        StageState("thickness", 8, 2),
        StageState("pyramid-3", 1, 0),
    ]
    left = estimate(states)
    assert left.unmeasured == ("thickness", "pyramid-3")
    assert left.seconds == pytest.approx(2 * (3 * usual("centres") + 6 * usual("thickness") + usual("pyramid-3")))
    assert estimate([StageState("mask", 8, 8)]) == Estimate(0.0, ())


@pytest.fixture(scope="module")
def whole(mask: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run with all its receipts."""
    told: list[Progress] = []
    config = ThicknessConfig(mask=str(mask), block_shape=(16, 16, 16), keep_scratch=True)
    with open_cluster(SchedulerProfile(address=scheduler, unencrypted=True)) as (client, workers):
        run, job = start(config, tmp_path_factory.mktemp("status") / "run", workers)
        execute(client, workers, run, job, report=told.append)
    assert [step.run_seconds_left is None for step in told[:2]] == [True, False], "known as soon as blocks are done"
    assert told[-1].run_seconds_left == 0
    return run.path


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> RunFolder:
    """A copy of the run as it was when a quarter of the blocks had their thickness."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for name in ("provenance.json", "ledger/thickness.json"):
        (run / name).unlink()
    for path in sorted(receipts(run, "thickness"))[16:]:
        path.unlink()
    return open_run_folder(run)


def status_of(here: Command, run: Path) -> dict[str, Any]:
    done = here("status", run, "--json")
    assert (done.code, done.err) == (0, "")
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_complete_run(here: Command, whole: Path) -> None:
    found = status_of(here, whole)
    assert (found["state"], found["seconds_left"], found["stage"]) == ("complete", 0, None)
    assert [stage["name"] for stage in found["stages"]] == [*STAGES, "pyramid-1"][: len(found["stages"])]
    assert all(stage["finished"] and stage["blocks"] == stage["of_blocks"] for stage in found["stages"])
    assert found["blocks"] == found["of_blocks"]
    process = found["process"]
    assert (process["workers"], process["threads"], process["retries"]) == (2, 2, 0)
    shown = here("status", whole).out
    assert "state       complete" in shown
    assert "go on with" not in shown


def say(run: RunFolder, **changes: Any) -> None:
    """As if the last process had said this."""
    said = json.loads(run.status.read_text("utf-8"))
    run.status.write_text(json.dumps({**said, **changes}), "utf-8")


AT_WORK = {"state": "running", "stage": "thickness", "stage_seconds": 8.0, "stage_found": 0}


def test_a_run_at_work(here: Command, stopped: RunFolder) -> None:
    say(stopped, **AT_WORK, dashboard="http://127.0.0.1:1234/status", jobs={"running": 3, "failed": 1})
    with stopped.locked():
        found = status_of(here, stopped.path)
        shown = here("status", stopped.path).out
    assert (found["state"], found["stage"]) == ("running", "thickness")
    stage = next(stage for stage in found["stages"] if stage["name"] == "thickness")
    assert (stage["blocks"], stage["of_blocks"], stage["finished"]) == (16, BLOCKS, False)
    assert 16 / 11 <= stage["blocks_per_second"] <= 2, "8 s were said, up to 3 s ago"
    assert found["seconds_left"] == pytest.approx(48 / stage["blocks_per_second"])
    assert "http://127.0.0.1:1234/status" in shown
    assert "jobs: 3 running, 1 failed" in shown
    assert "16 of 64" in shown


def test_a_run_that_nobody_works_on(here: Command, stopped: RunFolder) -> None:
    say(stopped, **AT_WORK)
    assert status_of(here, stopped.path)["state"] == "killed"
    say(stopped, **{**AT_WORK, "state": "stopped", "sentence": "The disk is full."})
    found = status_of(here, stopped.path)
    assert (found["state"], found["sentence"]) == ("stopped", "The disk is full.")
    assert found["seconds_left"] == pytest.approx(24.0), "8 s for 16 blocks"
    shown = here("status", stopped.path).out
    assert f"voxcaliper resume {stopped.path}" in shown
    assert "left        about 24 s of work" in shown


@pytest.mark.parametrize("content", [None, "", "{", '{"state": "running"}'])
def test_a_run_that_says_nothing(here: Command, stopped: RunFolder, content: str | None) -> None:
    stopped.status.unlink()
    if content is not None:
        stopped.status.write_text(content)
    found = status_of(here, stopped.path)
    assert (found["state"], found["process"]) == ("killed", None), "somebody did what is done"
    assert found["blocks"] == sum(stage["blocks"] for stage in found["stages"]) > 4 * BLOCKS
    assert found["unmeasured"] == ["thickness"]


def test_how_a_run_ended_is_said(
    here: Command, stopped: RunFolder, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object, **__: object) -> None:
        raise StorageError("The store has gone; bring it back.")

    monkeypatch.setattr("workflows.run_thickness.measure", measure)
    message = here("resume", stopped.path, "--scheduler", scheduler, "--unencrypted", "--quiet").failure()
    found = status_of(here, stopped.path)
    assert (found["state"], found["sentence"]) == ("stopped", message)


def test_no_run(here: Command, tmp_path: Path) -> None:
    assert "is not a run of voxcaliper" in here("status", tmp_path).failure()


def test_timings(whole: Path) -> None:
    stages = json.loads((whole / "provenance.json").read_text("utf-8"))["stages"]
    with (whole / "timings.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["stage"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(stages)
    for name, stage in stages.items():
        assert int(rows[name]["blocks"]) == stage["tasks"]
        assert int(rows[name]["batches"]) == stage["batches"]
        assert float(rows[name]["wall_seconds"]) == pytest.approx(stage["wall_seconds"], abs=1e-3)
        assert float(rows[name]["worker_seconds"]) == pytest.approx(stage["seconds"]["all"], abs=1e-3)
    kinds = {name.removesuffix("_seconds") for name in rows["mask"] if name.endswith("_seconds")} - {"wall", "worker"}
    assert kinds == {kind for stage in stages.values() for kind in stage["seconds"]} - {"all"}


def test_states_of_a_ledger(stopped: RunFolder) -> None:
    plan = [StagePlan(name=name, tasks=BLOCKS, memory_bytes=0) for name in STAGES]
    *finished, last = states_of(plan, ledger_of(stopped.path))
    assert all(state.is_finished and state.done == BLOCKS and state.pace for state in finished)
    assert last == StageState("thickness", BLOCKS, 16)
