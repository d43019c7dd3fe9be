"""Jobs that cannot work: the run gives up by itself, with what SLURM or the log of the last job says."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.controller import Slurm
from tests.slurm.runs import Profile, begin, go_on, jobs_name, repeated, well_into
from tests.workflows.runs import results, voxcaliper


def sentence(tmp_path: Path, mask: Path, profile: Path) -> str:
    """With what a run gives up."""
    with begin(tmp_path, mask, profile) as command:
        done = command.finished()
    assert done.code == 1
    assert not done.out
    last = done.err.splitlines()[-1]
    assert last.startswith("voxcaliper: ")
    return last


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder without room."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k,mode=777", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root, to mount a small file system")
    try:
        (folder / "filling").write_bytes(bytes(16 << 10))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.usefixtures("slurm")
def test_jobs_that_slurm_does_not_take(mask: Path, profile: Profile, tmp_path: Path) -> None:
    said = sentence(tmp_path, mask, profile.write(partition="nowhere"))
    assert "SLURM takes no job of workers: REFUSED" in said
    assert "invalid partition specified: nowhere" in said


def test_jobs_that_die_at_once_again_and_again(slurm: Slurm, mask: Path, profile: Profile, tmp_path: Path) -> None:
    said = sentence(tmp_path, mask, profile.write(python="/usr/lib/no-such-python"))
    assert "The jobs of workers ended 4 times before a worker reported: job" in said
    assert "/usr/lib/no-such-python: No such file or directory" in said
    assert "voxcaliper resume" in said
    assert len(slurm.jobs(jobs_name(tmp_path), states="all")) == 8, "two jobs, and three times two in their place"


def test_no_job_that_is_lost_can_be_replaced(
    slurm: Slurm, mask: Path, profile: Profile, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """In the midst of a run: who waits for blocks is told, and what is finished stays."""
    (tmp_path / "licence").touch()
    where = profile.write(
        setup=[f"test -e {tmp_path / 'licence'} || {{ echo cannot find the licence; exit 3; }}"], jobs=1
    )
    with begin(tmp_path, mask, where) as command:
        command.wait_until(well_into(tmp_path, "distance-y"))
        (tmp_path / "licence").unlink()
        slurm.command("scancel", slurm.jobs(jobs_name(tmp_path))[0].number)
        done = command.finished()
    assert done.code == 1
    assert "ended 4 times before a worker reported: job" in done.err.splitlines()[-1]
    assert "says “cannot find the licence”" in done.err.splitlines()[-1]
    slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")
    (tmp_path / "licence").touch()
    with go_on(tmp_path, where) as command:
        done = command.finished()
    assert (done.code, done.err) == (0, ""), done
    assert results(tmp_path / "run") == undisturbed
    assert repeated(tmp_path) <= 1


@pytest.mark.usefixtures("slurm")
def test_a_full_scratch_is_left_aside(
    mask: Path, profile: Profile, undisturbed: dict[str, bytes], tmp_path: Path, full: Path
) -> None:
    with begin(tmp_path, mask, profile.write(scratch=str(full), jobs=1)) as command:
        done = command.finished()
    assert (done.code, done.err) == (0, ""), done
    assert results(tmp_path / "run") == undisturbed


def test_a_check_of_a_profile_that_is_right(slurm: Slurm, profile: Profile, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    done = voxcaliper(tmp_path / "logs", "cluster", "check", profile.write(jobs=7, cores=2), "--store", store)
    assert done.code == 0, done
    assert "ok     the first worker was there after " in done.out
    assert "MB/s to the store" in done.out
    assert "wrong" not in done.out
    assert not list(store.iterdir()), "nothing is left"
    slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")
    assert len(slurm.jobs("voxcaliper-voxcaliper-check", states="all")) == 1, "one job is enough"


def test_a_check_of_a_profile_that_is_wrong(slurm: Slurm, profile: Profile, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    waiting = profile.write(directives=["--begin=now+1hour"])
    done = voxcaliper(logs, "cluster", "check", waiting, "--store", tmp_path, "--minutes", "0.1")
    assert done.code == 1
    assert "wrong  No worker reported within 6 s: 1 job is pending: they are to begin later (BeginTime)." in done.out
    slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")
