"""Workers as jobs of a real SLURM, the driver here: whatever happens to them, the results are the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.slurm.controller import Slurm
from tests.slurm.runs import Profile, begin, go_on, jobs_name, repeated, well_into, worker_processes
from tests.workflows.runs import all_gone, receipts, results


def test_workers_are_jobs(
    slurm: Slurm, mask: Path, profile: Profile, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    name = jobs_name(tmp_path)
    with begin(tmp_path, mask, profile.write()) as command:
        command.wait_until(well_into(tmp_path, "distance-y"))
        assert [job.state for job in slurm.jobs(name)] == ["RUNNING"] * 2
        workers = worker_processes(name)
        done = command.finished()
        assert (done.code, done.err) == (0, ""), done
    assert results(tmp_path / "run") == undisturbed
    slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")
    assert all_gone(workers)
    assert repeated(tmp_path) == 0
    assert {path.suffix for path in (tmp_path / "run" / "jobs").iterdir()} == {".log"}, "credentials are gone"


def cancel(slurm: Slurm, name: str) -> None:
    slurm.command("scancel", slurm.jobs(name)[0].number)


def take_a_node_down(slurm: Slurm, name: str) -> None:
    slurm.command("scontrol", "update", f"nodename={slurm.jobs(name)[0].nodes}", "state=down", "reason=test")


def kill_a_worker(_slurm: Slurm, name: str) -> None:
    nanny = worker_processes(name)[0]
    worker = next(child for child in nanny.children() if "spawn_main" in " ".join(child.cmdline()))
    worker.kill()


def kill_a_job(_slurm: Slurm, name: str) -> None:
    worker_processes(name)[0].kill()


def preempt(slurm: Slurm, name: str) -> None:
    slurm.command("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    slurm.wait_until(lambda: not [job for job in slurm.jobs(name) if job.state == "RUNNING"], "preemption")


@pytest.mark.parametrize("disturb", [cancel, take_a_node_down, kill_a_worker, kill_a_job, preempt])
def test_what_is_lost_is_replaced(
    slurm: Slurm, mask: Path, profile: Profile, undisturbed: dict[str, bytes], tmp_path: Path,
    disturb: Callable[[Slurm, str], None],
) -> None:  # fmt: skip
    name = jobs_name(tmp_path)
    with begin(tmp_path, mask, profile.write()) as command:
        command.wait_until(well_into(tmp_path, "distance-y"))
        disturb(slurm, name)
        done = command.finished()
        assert done.code == 0, done
    assert results(tmp_path / "run") == undisturbed
    assert repeated(tmp_path) <= 2, "only blocks that were in flight are done again"
    slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")


def test_a_killed_driver(
    slurm: Slurm, mask: Path, profile: Profile, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """The scheduler is in the driver and dies with it; jobs notice, also those that had not begun."""
    name = jobs_name(tmp_path)
    with begin(tmp_path, mask, profile.write(jobs=20)) as command:  # more than there is room for
        command.wait_until(well_into(tmp_path, "distance-y"))
        assert any(job.state == "PENDING" for job in slurm.jobs(name))
        running = [job.number for job in slurm.jobs(name) if job.state == "RUNNING"]
        command.process.kill()
        command.process.wait()
        slurm.wait_until(lambda: not {job.number for job in slurm.jobs(name)} & set(running), "the end of the jobs")
    finished = receipts(tmp_path / "run", "distance-y")
    with go_on(tmp_path, profile.write()) as command:
        done = command.finished()
        assert (done.code, done.err) == (0, ""), done
    assert len(finished) >= 3
    assert results(tmp_path / "run") == undisturbed
    assert repeated(tmp_path) <= 20
    slurm.wait_until(lambda: not slurm.jobs(), "the end also of the jobs that waited for the dead driver")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_driver_leaves_no_job(
    slurm: Slurm, mask: Path, profile: Profile, tmp_path: Path, number: signal.Signals
) -> None:
    with begin(tmp_path, mask, profile.write(jobs=20)) as command:
        if number == signal.SIGTERM:
            command.wait_until(well_into(tmp_path, "mask", 1))
        else:
            command.wait_until(lambda: len(slurm.jobs(jobs_name(tmp_path))) > 3)
        family = command.family()
        os.killpg(command.process.pid, number)
        done = command.finished()
        assert "interrupted; go on with `voxcaliper resume`" in done.failure()
    slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")
    assert all_gone([process for process in family if psutil.pid_exists(process.pid)])


def test_a_walltime_of_one_minute(
    slurm: Slurm, mask: Path, profile: Profile, undisturbed: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("DAWDLE_SECONDS", "1.6")  # each of 40 tasks, on one worker
    with begin(tmp_path, mask, profile.write(walltime="00:01:00", jobs=1)) as command:
        done = command.finished()
        assert done.code == 0, done
    assert results(tmp_path / "run") == undisturbed
    states = [job.state for job in slurm.jobs(jobs_name(tmp_path), states="all")]
    assert "COMPLETED" in states, "a worker left before its walltime"
    assert "TIMEOUT" not in states
    assert repeated(tmp_path) <= states.count("COMPLETED"), "no more than the block that each was at"
