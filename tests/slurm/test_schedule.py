"""A release on a schedule, on a real SLURM: a chain of jobs that goes on by itself."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cluster.schedule.task import task_name
from tests.slurm.controller import Job, Slurm
from tests.slurm.runs import Profile
from tests.workflows.conftest import noise, store
from tests.workflows.runs import Finished, voxcaliper

EVERY = "10s"
CHAIN = ("--every", EVERY, "--on", "sbatch", "--install")


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release of two masks of 32³ voxels, in a folder whose name needs quotes."""
    monkeypatch.setenv("DAWDLE_SECONDS", "0")
    folder = tmp_path / "an atlas, it's 100%"
    folder.mkdir()
    for number in (1, 2):
        store(folder / f"{number}.ome.zarr", noise((32, 32, 32), seed=number))
    datasets = "".join(f'[[dataset]]\nname = "d{number}"\nmask = "{number}.ome.zarr"\n' for number in (1, 2))
    (folder / "local.toml").write_text('kind = "local"\nworkers = 1\n')
    path = folder / "RELEASE.toml"
    told = json.dumps(["sh", "-c", "cat >>told"])
    path.write_text(f'name = "two"\noutput = "out"\nprofile = "local.toml"\non_failure = {told}\n{datasets}')
    return path


@dataclass
class Chain:
    """The runs of a release as they end."""

    slurm: Slurm
    manifest: Path
    commands: Path
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return task_name(self.manifest)

    def schedule(self, *options: object) -> Finished:
        done = voxcaliper(self.commands, "atlas", "schedule", self.manifest, *options)
        assert done.code == 0, done
        return done

    def ended(self) -> list[dict[str, Any]]:
        """How the runs ended that were seen so far, the last one among them."""
        last = self.manifest.parent / "out" / "logs" / "last.json"
        if last.exists():
            content = json.loads(last.read_text())
            self.seen[content["began"]] = content
        return [self.seen[began] for began in sorted(self.seen)]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many runs were seen."""
        self.slurm.wait_until(lambda: len(self.ended()) >= count, f"run {count}")
        return self.ended()

    def jobs(self) -> list[Job]:
        return [job for job in self.slurm.jobs(self.name) if job.state != "COMPLETING"]

    def states(self) -> list[tuple[str, str]]:
        return [(job.number, job.state) for job in self.jobs()]

    def next_start(self) -> datetime:
        """The time that the job that waits is for."""
        (waiting,) = re.findall(rf"job (\d+) of {self.name}: PENDING, (?:begins|after)", self.schedule().out)
        shown = re.search(r"EligibleTime=(\S+)", self.slurm.command("scontrol", "show", "job", waiting))
        assert shown
        return datetime.fromisoformat(shown[1])


@pytest.fixture
def chain(slurm: Slurm, manifest: Path, tmp_path: Path) -> Chain:
    return Chain(slurm, manifest, tmp_path / "commands")


def outcomes(runs: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    return [(run["exit_code"], run["made"], run["kept"]) for run in runs]


def test_a_release_runs_again_and_again(chain: Chain) -> None:
    """Without a further command: the first run makes everything, the next ones what changed."""
    assert "installed in the queue of SLURM" in chain.schedule("--every", "1w", "--on", "sbatch", "--install").err
    (weekly,) = chain.jobs()
    assert "--cpus-per-task=2" in chain.schedule(*CHAIN, "--sbatch=--cpus-per-task=2").out
    assert weekly.number not in {job.number for job in chain.jobs()}, "the second takes the place of the first"
    starts = [chain.next_start()]
    chain.wait_for(1)
    runs = chain.wait_for(2)
    assert outcomes(runs)[:2] == [(0, 2, 0), (0, 0, 2)], "the first makes both, the second keeps them"
    entries = chain.manifest.parent / "out" / "entries"
    untouched = (entries / "d1" / "thickness" / "current").readlink()
    array = zarr.open_array(chain.manifest.parent / "2.ome.zarr" / "0", mode="r+")
    array[16, 16, 16] = not np.asarray(array[16, 16, 16])
    chain.slurm.wait_until(lambda: (0, 1, 1) in outcomes(chain.ended()), "a run that makes what changed")
    assert (entries / "d1" / "thickness" / "current").readlink() == untouched
    starts.append(chain.next_start())
    assert {start.second % 10 for start in starts} == {0}, "the times do not drift"
    assert not (chain.manifest.parent / "told").exists(), "nobody is told of what goes well"

    assert chain.schedule("--remove").out == "removed from sbatch\n"
    assert not chain.jobs()
    assert "has no schedule here" in chain.schedule().out


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("scrontab") is None, reason="needs scrontab, which Debian's package leaves out")
def test_scrontab_runs_a_release(chain: Chain, profile: Profile) -> None:
    """Its shortest interval is a minute."""
    profile.write(jobs=1, setup=[f"export PYTHONPATH={os.environ['PYTHONPATH']}"], driver={"memory": "500 MiB"})
    (chain.manifest.parent / "local.toml").write_text(profile.path.read_text())
    chain.schedule("--every", "1m", "--on", "scrontab", "--install")
    assert chain.schedule().out.startswith(f"# scrontab\n# voxcaliper atlas {chain.manifest} begin\n#SCRON --job-name")
    for count in range(1, 4):
        chain.slurm.wait_until(lambda: len(chain.ended()) >= count, f"run {count}", 120)  # noqa: B023
    assert outcomes(chain.ended())[:3] == [(0, 2, 0), (0, 0, 2), (0, 0, 2)]
    assert chain.schedule("--remove").out == "removed from scrontab\n"
    chain.slurm.wait_until(lambda: not chain.jobs(), "an empty queue")


def test_the_chain_survives_runs_that_fail_until_it_is_cancelled(chain: Chain) -> None:
    chain.schedule(*CHAIN)
    text = chain.manifest.read_text()
    chain.manifest.write_text(text.replace("name", "nmae", 1))
    (first,) = chain.wait_for(1)
    assert (first["exit_code"], first["outcome"]) == (1, "failed")
    assert "RELEASE.toml cannot be used: name: field required." in first["troubles"][0]
    chain.wait_for(2)
    chain.next_start()
    chain.slurm.command("scancel", f"--name={chain.name}")
    chain.slurm.wait_until(lambda: not chain.slurm.jobs(chain.name), "the end of the chain")


def test_a_run_goes_on_after_its_walltime(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's warning stops it in order; the same job starts again, before the successor that waits already."""
    monkeypatch.setenv("DAWDLE_SECONDS", "0.4")
    chain.schedule(*CHAIN)
    notes = Path(os.environ["DAWDLE_NOTES"])
    chain.slurm.wait_until(notes.exists, "the first task")
    running = next(job.number for job in chain.jobs() if job.state == "RUNNING")
    chain.slurm.command("scancel", "--signal=USR1", "--batch", running)
    (stopped,) = chain.wait_for(1)
    assert (stopped["exit_code"], stopped["outcome"]) == (130, "stopped"), stopped
    assert stopped["waiting"] > 0
    chain.slurm.wait_until(lambda: (running, "PENDING") in chain.states(), "the job in the queue again")
    chain.slurm.start_requeued(running)
    runs = chain.wait_for(2)
    assert outcomes(runs)[1] == (0, 2, 0)
    assert len([job for job in chain.jobs() if job.state == "PENDING"]) <= 1, "one successor, although it began twice"
    assert not (chain.manifest.parent / "told").exists()
    chain.schedule("--remove")
