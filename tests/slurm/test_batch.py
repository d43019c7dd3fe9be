"""Everything as batch jobs of a real SLURM: the driver is a job, and its workers are jobs or steps of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.controller import Slurm
from tests.slurm.runs import BLOCK, Profile, jobs_name, repeated, well_into
from tests.workflows.runs import results, voxcaliper
from workflows.run_folder import RunFolder

STEPS = {"workers_as": "steps", "driver": {"memory": "500 MiB"}}
JOBS = {"driver": {"memory": "1 GiB"}}


@pytest.fixture
def run_file(mask: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(f'workflow = "thickness"\nrun = "run"\nmask = "{mask}"\nblock_shape = {BLOCK}\n')
    return path


def submit(tmp_path: Path, run_file: Path, profile: Path) -> str:
    """Submit the run RUN; returns the number of the driver's job."""
    done = voxcaliper(tmp_path / "commands", "submit", run_file, "--profile", profile, "--quiet")
    assert (done.code, done.err) == (0, ""), done
    return done.out.strip()


def is_complete(slurm: Slurm, tmp_path: Path) -> bool:
    """Whether the run RUN is; fails where its driver ended without."""
    complete = RunFolder(tmp_path / "run").is_complete
    if not complete:
        ended = [job for job in slurm.jobs(f"{jobs_name(tmp_path)}-driver", states="all") if job.state == "FAILED"]
        logs = "".join(path.read_text() for path in (tmp_path / "run" / "jobs").glob("*-driver-*.log"))
        assert not ended, logs
    return complete


@pytest.mark.parametrize("how", [JOBS, STEPS], ids=["jobs", "steps"])
def test_a_run_as_batch_jobs(
    slurm: Slurm, profile: Profile, undisturbed: dict[str, bytes], tmp_path: Path, run_file: Path,
    how: dict[str, object],
) -> None:  # fmt: skip
    submit(tmp_path, run_file, profile.write(**how))
    slurm.wait_until(well_into(tmp_path, "mask"), "a block")
    again = voxcaliper(tmp_path / "commands", "submit", run_file, "--profile", profile.path, "--quiet")
    assert "is driven by job" in again.failure()
    slurm.wait_until(lambda: is_complete(slurm, tmp_path), "the end of the run")
    slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")
    assert results(tmp_path / "run") == undisturbed
    assert repeated(tmp_path) == 0
    done = voxcaliper(tmp_path / "commands", "submit", run_file, "--profile", profile.path)
    assert "is complete already" in done.err


def test_a_driver_that_is_requeued_goes_on_by_itself(
    slurm: Slurm, profile: Profile, undisturbed: dict[str, bytes], tmp_path: Path, run_file: Path
) -> None:
    number = submit(tmp_path, run_file, profile.write(**JOBS))
    slurm.wait_until(well_into(tmp_path, "distance-y"), "a block")
    slurm.command("scontrol", "requeue", number)
    slurm.wait_until(lambda: [job.state for job in slurm.jobs(f"{jobs_name(tmp_path)}-driver")] == ["PENDING"])
    slurm.start_requeued(number)
    slurm.wait_until(lambda: is_complete(slurm, tmp_path), "the end of the run")
    slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")
    assert results(tmp_path / "run") == undisturbed
    assert repeated(tmp_path) <= 2


def test_a_driver_at_its_walltime_requeues_itself(
    slurm: Slurm, profile: Profile, undisturbed: dict[str, bytes], tmp_path: Path, run_file: Path
) -> None:
    number = submit(tmp_path, run_file, profile.write(**JOBS))
    slurm.wait_until(well_into(tmp_path, "distance-y"), "a block")
    slurm.command("scancel", "--batch", "--signal=USR1", number)  # as SLURM does it shortly before the walltime
    slurm.wait_until(lambda: [job.state for job in slurm.jobs(f"{jobs_name(tmp_path)}-driver")] == ["PENDING"])
    slurm.wait_until(lambda: [job.number for job in slurm.jobs()] == [number], "the end of its workers")
    slurm.start_requeued(number)
    slurm.wait_until(lambda: is_complete(slurm, tmp_path), "the end of the run")
    slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")
    log = (tmp_path / "run" / "jobs" / f"{jobs_name(tmp_path)}-driver-{number}.log").read_text()
    assert f"the walltime of job {number} is near: it is requeued" in log
    assert results(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("how", [JOBS, STEPS], ids=["jobs", "steps"])
def test_a_cancelled_driver_leaves_no_job_and_is_submitted_again(
    slurm: Slurm, profile: Profile, undisturbed: dict[str, bytes], tmp_path: Path, run_file: Path,
    how: dict[str, object],
) -> None:  # fmt: skip
    number = submit(tmp_path, run_file, profile.write(**how))
    slurm.wait_until(well_into(tmp_path, "distance-y"), "a block")
    slurm.command("scancel", number)
    slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")
    submit(tmp_path, run_file, profile.path)
    slurm.wait_until(lambda: is_complete(slurm, tmp_path), "the end of the run")
    slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")
    assert results(tmp_path / "run") == undisturbed
    assert repeated(tmp_path) <= 2
