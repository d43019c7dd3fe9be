"""Whatever is killed, and whenever: the run ends, or is resumed, with the same bytes, and nothing is left running."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflows.conftest import Command
from tests.workflows.runs import (
    STAGES,
    Running,
    all_gone,
    receipts,
    results,
    running,
    started_scheduler,
    voxcaliper,
)

BLOCKS = 64


@pytest.fixture(scope="module")
def undisturbed(mask: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    arguments = (
        "thickness",
        mask,
        "--run",
        folder / "run",
        "--block-shape",
        "16",
        "--scheduler",
        scheduler,
        "--unencrypted",
    )
    assert voxcaliper(folder, *arguments).code == 0
    return results(folder / "run")


def begin(tmp_path: Path, mask: Path, *options: object) -> contextlib.AbstractContextManager[Running]:
    """The run RUN on two workers of its own, in the background."""
    arguments = ("thickness", mask, "--run", tmp_path / "run", "--block-shape", "16", "--workers", "2", "--quiet")
    return running(tmp_path, *arguments, *options)


def go_on(tmp_path: Path) -> contextlib.AbstractContextManager[Running]:
    """The run RUN resumed on two workers of its own, in the background."""
    return running(tmp_path, "resume", tmp_path / "run", "--workers", "2", "--quiet")


@pytest.fixture
def resumed(scheduler: str, tmp_path: Path) -> Callable[[], None]:
    """Resume the run RUN on the running cluster to its end."""

    def call() -> None:
        done = voxcaliper(tmp_path, "resume", tmp_path / "run", "--scheduler", scheduler, "--unencrypted", "--quiet")
        assert (done.code, done.err) == (0, ""), done

    return call


def well_into(run: Path, stage: str) -> Callable[[], bool]:
    return lambda: len(receipts(run, stage)) >= 8


def done_now(run: Path, stage: str) -> int:
    provenance = json.loads((run / "provenance.json").read_text("utf-8"))
    assert provenance["stages"][stage]["tasks"] == BLOCKS
    return int(provenance["stages"][stage]["tasks_now"])


@pytest.mark.parametrize("stage", [pytest.param("distance-z", marks=pytest.mark.slow), "thickness"])
def test_a_killed_worker_is_replaced(mask: Path, undisturbed: dict[str, bytes], tmp_path: Path, stage: str) -> None:
    with begin(tmp_path, mask) as command:
        command.wait_until(well_into(tmp_path / "run", stage))
        family = command.family()
        victim = command.workers()[0]
        victim.kill()
        done = command.finished()
        assert (done.code, done.err) == (0, ""), done
        assert all_gone(family)
    assert results(tmp_path / "run") == undisturbed


@pytest.mark.parametrize(
    "stage", [stage if stage == "centres" else pytest.param(stage, marks=pytest.mark.slow) for stage in STAGES]
)
def test_a_killed_driver(
    mask: Path, undisturbed: dict[str, bytes], resumed: Callable[[], None], tmp_path: Path, stage: str
) -> None:
    run = tmp_path / "run"
    with begin(tmp_path, mask, "--keep-scratch") as command:
        command.wait_until(well_into(run, stage))
        family = command.family()
        command.process.kill()
        command.process.wait()
        assert all_gone(family), "workers outlive their driver"
    assert not (run / "statistics.json").exists()
    finished = {name: receipts(run, name) for name in STAGES}
    was_over = (run / "ledger" / f"{stage}.json").exists()  # where this process had to wait for a core
    resumed()
    assert results(run) == undisturbed
    # Workers that lost their driver end the block they are at, and on a fast machine the last ones of a stage.
    assert was_over or done_now(run, stage) == BLOCKS - len(finished[stage])
    for name in STAGES:
        now = receipts(run, name)
        assert len(now) == BLOCKS
        assert all(now[path] == written for path, written in finished[name].items()), f"{name} was repeated"


def test_everything_killed_again_and_again(
    mask: Path, undisturbed: dict[str, bytes], resumed: Callable[[], None], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = begin(tmp_path, mask)
    for stage in ("mask", "thickness"):
        with process as command:
            command.wait_until(well_into(run, stage))
            family = command.family()
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()
            assert all_gone(family)
        process = go_on(tmp_path)
    resumed()
    assert results(run) == undisturbed
    assert not list(run.rglob("*.partial"))
    assert not [path for path in (run / "ledger").iterdir() if path.suffix != ".json"]


@pytest.mark.slow
def test_killed_at_random_moments(
    mask: Path, undisturbed: dict[str, bytes], resumed: Callable[[], None], tmp_path: Path
) -> None:
    run, moments = tmp_path / "run", random.Random(0)

    def begun() -> int:
        return (run / "run.log").read_text("utf-8").count(" begin: ") if (run / "run.log").exists() else 0

    process = begin(tmp_path, mask)
    for times in range(5):
        with process as command:
            command.wait_until(lambda before=times: begun() > before)  # type: ignore[misc]
            time.sleep(moments.uniform(0, 2))
            if command.process.poll() is not None:
                break
            os.killpg(command.process.pid, signal.SIGKILL)
        if (run / "provenance.json").exists():
            break
        process = go_on(tmp_path)
    if not (run / "provenance.json").exists():
        resumed()
    assert results(run) == undisturbed


@pytest.mark.slow
def test_killed_while_the_results_are_written(
    mask: Path, undisturbed: dict[str, bytes], resumed: Callable[[], None], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with begin(tmp_path, mask) as command:
        command.wait_until((run / "statistics.json").exists)
        os.killpg(command.process.pid, signal.SIGKILL)
    resumed()
    assert results(run) == undisturbed
    assert (run / "provenance.json").exists()


@pytest.mark.parametrize(
    "to_all", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["the terminal", "the driver"]
)
def test_interrupted(
    mask: Path, undisturbed: dict[str, bytes], resumed: Callable[[], None], tmp_path: Path, *, to_all: bool
) -> None:
    """Ctrl-C in a terminal goes to every process of the group; `kill -INT` to one."""
    run = tmp_path / "run"
    with begin(tmp_path, mask) as command:
        command.wait_until(well_into(run, "distance-y"))
        family = command.family()
        (os.killpg if to_all else os.kill)(command.process.pid, signal.SIGINT)
        done = command.finished()
        assert "interrupted" in done.failure()
        assert "voxcaliper resume" in done.failure()
        assert all_gone(family)
    finished = receipts(run, "distance-y")
    resumed()
    assert results(run) == undisturbed
    assert done_now(run, "distance-y") <= BLOCKS - len(finished)


def test_interrupted_before_the_workers_are_up(mask: Path, tmp_path: Path) -> None:
    with begin(tmp_path, mask) as command:
        command.wait_until((tmp_path / "run" / "run.json").exists)
        time.sleep(0.5)
        family = command.family()
        os.killpg(command.process.pid, signal.SIGINT)
        assert "interrupted" in command.finished().failure()
        assert all_gone(family)


def test_two_processes_on_one_run(mask: Path, undisturbed: dict[str, bytes], here: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with begin(tmp_path, mask) as command:
        command.wait_until(well_into(run, "mask"))
        family = command.family()
        assert len(command.workers()) == 2
        message = here("resume", run, "--quiet").failure()
        assert message.startswith(f"{run} is being worked on by process {command.process.pid} on ")
        assert "is a run already" in here("thickness", mask, "--run", run, "--quiet").failure()
        assert command.finished().code == 0
        assert all_gone(family, seconds=5), "a run leaves no process behind"
    assert results(run) == undisturbed


def test_the_scheduler_dies(
    mask: Path, undisturbed: dict[str, bytes], resumed: Callable[[], None], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with started_scheduler(tmp_path / "scheduler", workers=1) as processes:
        address = processes.address
        there = ("--scheduler", address, "--unencrypted", "--quiet")
        with running(tmp_path, "thickness", mask, "--run", run, "--block-shape", "16", *there) as command:
            command.wait_until(well_into(run, "mask"))
            processes.scheduler.kill()
            message = command.finished().failure()
    assert "voxcaliper resume" in message
    resumed()
    assert results(run) == undisturbed
