"""Nothing of a run on SLURM answers another user of the machine: not its driver, not its jobs, not their files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.cluster.test_closed import SECRET, as_root, keys_of, listening, tried
from tests.slurm.controller import Slurm
from tests.slurm.runs import Profile, begin, jobs_name, well_into, worker_processes
from workflows.run_folder import RunFolder
from workflows.run_state import read_state


@pytest.fixture
def shown() -> Iterator[Path]:
    """A folder that every user may look into, as home folders often are."""
    before = os.umask(0o022)
    folder = Path(tempfile.mkdtemp(prefix="shown-"))
    folder.chmod(0o755)
    yield folder
    os.umask(before)
    shutil.rmtree(folder)


def at_work(name: str) -> list[psutil.Process]:
    """Every process of the jobs of this name: scripts, nannies and workers."""
    found = {}
    for worker in worker_processes(name):
        for process in (worker, *worker.children(recursive=True)):
            found[process.pid] = process
    return list(found.values())


@as_root
def test_another_user_gets_nothing_of_jobs(
    slurm: Slurm, mask: Path, profile: Profile, shown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("DAWDLE_SECONDS", "3")
    name, run = jobs_name(shown), shown / "run"
    with begin(shown, mask, profile.write()) as command:
        command.wait_until(well_into(shown, "mask", 2))
        command.wait_until(lambda: [job.state for job in slurm.jobs(name)] == ["RUNNING"] * 2)
        command.wait_until(lambda: len(worker_processes(name)) >= 2)
        jobs, family = at_work(name), command.family()
        assert any(SECRET in process.environ().values() for process in jobs), "there is something to take"
        said = read_state(RunFolder(run))
        assert said is not None
        dashboard, page = urlsplit(said.dashboard), said.page.rsplit("/", 1)[1]
        assert dashboard.port is not None
        token = dashboard.path.split("/")[1]
        workers, keys = listening(jobs), keys_of(run)
        ports = listening(family) | workers
        assert len(workers) >= 2, "a worker of each job, at least"
        assert dashboard.port in ports
        assert len(keys) == 1
        found = tried(
            ports=sorted(ports), web_ports=[dashboard.port], processes=[each.pid for each in (*family, *jobs)],
            folders=[str(shown)], secrets=[token, page, *keys, SECRET],
        )  # fmt: skip
        still = {process.pid for process in jobs if process.is_running()}
        assert still == {process.pid for process in jobs}, "they were there while he tried"
        assert [address for address, answer in found["asked"].items() if not str(answer).startswith("refused: ")] == []
        assert len(found["asked"]) == 2 * len(ports)
        assert set(found["requested"].values()) == {404}
        assert [port for port, answer in found["shaken"].items() if answer == "open"] == []
        assert str(run / "status.json") in found["seen"], "what is no secret may be read"
        assert [path for path in found["seen"] if "credentials-" in path or path.endswith("private.json")] == []
        assert found["secrets"] == []
        done = command.finished()
    assert (done.code, done.err) == (0, ""), done
    slurm.wait_until(lambda: not slurm.jobs(), "an empty queue")
    assert not [path for path in run.rglob("*") if "credentials" in path.name or path.name == "private.json"]
