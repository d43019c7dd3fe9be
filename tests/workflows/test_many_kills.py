"""Several processes killed at once, again and again, frozen ones, and a pipe that nobody reads: a run goes on or ends.

The times after which a run that cannot go on says so stand in DESIGN.md, "Nothing hangs".
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client, LocalCluster

from cluster import silence
from pipeline import engine
from pipeline.engine import Outcome, Stage, run_stage
from pipeline.errors import RunError
from pipeline.geometry import BlockGrid
from pipeline.ledger import Ledger
from tests.workflows.conftest import noise, store
from tests.workflows.runs import COMMAND, Running, all_gone, environment, receipts, results, running, voxcaliper

KILLS, MANY_KILLS = 20, 100
END_SECONDS = 180.0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of 48³ voxels: 27 blocks of 16³ in each stage."""
    return store(tmp_path_factory.mktemp("small") / "mask.ome.zarr", noise((48, 48, 48)), side=16)


@pytest.fixture(scope="module")
def undisturbed(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = voxcaliper(folder, "thickness", small, "--run", folder / "run", "--block-shape", "16", "--workers", "2")
    assert done.code == 0, done
    return results(folder / "run")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the commands, in which nothing may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def thickness(folder: Path, small: Path, *options: object) -> tuple[object, ...]:
    return "thickness", small, "--run", folder / "run", "--block-shape", "16", "--workers", "2", "--quiet", *options


class Killer:
    """Kills at random what belongs to a command, and remembers all that it ever saw of it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seen: set[psutil.Process] = set()
        self.ports: set[int] = set()
        self.counts: Counter[str] = Counter()

    def look(self, command: Running) -> list[psutil.Process]:
        """The children of a command."""
        try:
            driver, *children = command.family()
        except psutil.NoSuchProcess:
            return []
        self.seen |= {driver, *children}
        for process in (driver, *children):
            try:
                found = process.net_connections()
            except psutil.Error:
                continue
            self.ports |= {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
        return children

    def strike(self, command: Running) -> bool:
        """Kill some workers, all of them, or the driver alone or with them; whether the driver is left."""
        children = self.look(command)
        kind = self.random.choices(("some", "all", "driver", "group"), (4, 4, 1, 1))[0]
        self.counts[kind] += 1
        victims = children if kind == "all" else self.random.sample(children, self.random.randint(0, len(children)))
        if kind in ("some", "all"):
            for victim in victims:
                kill(victim.pid)
            return True
        if kind == "driver":
            command.process.kill()
        else:
            os.killpg(command.process.pid, signal.SIGKILL)
        return False


def kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def nothing_is_left(killer: Killer, run: Path, temporary: Path) -> None:
    assert all_gone([process for process in killer.seen if process.pid != os.getpid()])
    listening = {each.laddr.port for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    own = {each.laddr.port for each in psutil.Process().net_connections() if each.status == psutil.CONN_LISTEN}
    assert not (killer.ports - {8787}) & (listening - own), "a port outlives its run"  # 8787: anybody's dashboard
    assert not list(temporary.iterdir())
    left = [path.name for path in run.iterdir() if path.name.startswith(("credentials-", "warm-up-", "private"))]
    assert left == []
    assert not list(run.rglob("*.partial"))


@pytest.mark.parametrize("kills", [KILLS, pytest.param(MANY_KILLS, marks=pytest.mark.slow)])
def test_many_processes_killed_at_once_at_random(
    small: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    temporary: Path,
    kills: int,
    record_property: Callable[[str, object], None],
) -> None:
    killer = Killer(kills)
    finished = resumed = told = done = 0
    while done < kills:
        folder = tmp_path / str(finished)
        arguments = thickness(folder, small)
        while True:
            with running(folder / "said", *arguments) as command:
                went_on = True
                while went_on and command.process.poll() is None and done < kills:
                    time.sleep(killer.random.uniform(0.0, 4.0))
                    if command.process.poll() is None:
                        went_on = killer.strike(command)
                        done += 1
                command.process.wait(END_SECONDS)
                killer.look(command)
                ended = command.finished()
            if ended.code == 0:
                assert ended.err == "" or "is complete already" in ended.err
                break
            if went_on:  # it was not killed itself, so it said why it could not go on
                assert ended.failure()
                told += 1
            resumed += 1
            begun = (folder / "run" / "run.json").exists()
            arguments = ("resume", folder / "run", "--workers", "2", "--quiet") if begun else arguments
        assert results(folder / "run") == undisturbed
        nothing_is_left(killer, folder / "run", temporary)
        finished += 1
    record_property("kills", f"{done}: {dict(killer.counts)}; {finished} runs finished, {resumed} resumed")
    assert told == 0, "as many kills as these are no reason to end"


def test_all_workers_killed_while_they_first_start(
    small: Path, undisturbed: dict[str, bytes], tmp_path: Path, temporary: Path
) -> None:
    killer = Killer(0)
    with running(tmp_path / "said", *thickness(tmp_path, small)) as command:
        for _ in range(2):
            before = {process.pid for process in killer.seen}
            command.wait_until(lambda known=before: len([p for p in command.workers() if p.pid not in known]) == 2)  # type: ignore[misc]
            for process in killer.look(command):
                process.kill()
        done = command.finished()
    assert (done.code, done.err) == (0, ""), done
    assert results(tmp_path / "run") == undisturbed
    nothing_is_left(killer, tmp_path / "run", temporary)


def test_workers_that_can_never_start_end_the_run_with_their_last_words(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(
        "import sys\nif 'cluster.worker' in sys.orig_argv:\n    sys.exit('OSError: it is not for this node')\n"
    )
    monkeypatch.setattr("tests.workflows.runs.environment", lambda: {**os.environ})
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'start'}{os.pathsep}{Path(__file__).parents[2]}")
    begin = time.monotonic()
    done = voxcaliper(tmp_path / "said", *thickness(tmp_path, small))
    assert "workers on this machine ended before any reported: the last one ended with exit code 1" in done.failure()
    assert "“SystemExit: OSError: it is not for this node”" in done.failure()
    assert time.monotonic() - begin < END_SECONDS


@pytest.mark.slow
def test_workers_that_can_no_longer_start_end_a_run_at_work(
    small: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    """What was done until then is kept."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(
        f"import os, sys\nif 'cluster.worker' in sys.orig_argv and os.path.exists({str(tmp_path / 'no')!r}):\n"
        "    sys.exit('ImportError: the environment is gone')\n"
    )
    monkeypatch.setattr("tests.workflows.runs.environment", lambda: {**os.environ})
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'start'}{os.pathsep}{Path(__file__).parents[2]}")
    killer, run = Killer(0), tmp_path / "run"
    with running(tmp_path / "said", *thickness(tmp_path, small)) as command:
        command.wait_until(lambda: len(receipts(run, "distance-y")) >= 3)
        (tmp_path / "no").touch()
        for process in killer.look(command):
            process.kill()
        said = command.finished().failure()
    assert "workers on this machine ended before any reported" in said
    assert "ImportError: the environment is gone" in said
    (tmp_path / "no").unlink()
    done = voxcaliper(tmp_path / "said", "resume", run, "--workers", "2", "--quiet")
    assert (done.code, done.err) == (0, ""), done
    assert results(run) == undisturbed
    nothing_is_left(killer, run, temporary)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["a worker", "the driver", "the group"])
def test_stopped_for_two_minutes(
    small: Path, undisturbed: dict[str, bytes], tmp_path: Path, temporary: Path, whom: str
) -> None:
    killer, run = Killer(0), tmp_path / "run"
    with running(tmp_path / "said", *thickness(tmp_path, small)) as command:
        command.wait_until(lambda: len(receipts(run, "distance-z")) >= 3)
        family = [psutil.Process(command.process.pid), *killer.look(command)]
        stopped = {"a worker": family[1:2], "the driver": family[:1], "the group": family}[whom]
        for process in stopped:
            process.suspend()
        limit = time.monotonic() + 120
        while time.monotonic() < limit and command.process.poll() is None:
            time.sleep(0.5)
        for process in stopped:
            if process.is_running():
                process.resume()
        done = command.finished()
    assert (done.code, done.err) == (0, ""), done
    assert results(run) == undisturbed
    nothing_is_left(killer, run, temporary)


def test_a_silent_worker_is_replaced(
    small: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    """As the slow test above, with less patience."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(
        "import cluster.silence\ncluster.silence.SILENT_SECONDS = 5.0\n"
    )
    monkeypatch.setattr("tests.workflows.runs.environment", lambda: {**os.environ})
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'start'}{os.pathsep}{Path(__file__).parents[2]}")
    killer, run = Killer(0), tmp_path / "run"
    with running(tmp_path / "said", *thickness(tmp_path, small)) as command:
        command.wait_until(lambda: len(receipts(run, "mask")) >= 3)
        killer.look(command)
        frozen = command.workers()[0]
        frozen.suspend()
        done = command.finished()
    assert (done.code, done.err) == (0, ""), done
    assert results(run) == undisturbed
    nothing_is_left(killer, run, temporary)


def test_silence_is_counted_only_while_this_process_runs() -> None:
    heard = silence.Silence()
    heard.hear(1.0, 0.2)
    assert heard.seconds == 0
    heard.hear(1.0, 3600.0)
    assert heard.seconds == silence.LONGEST_TICK_SECONDS, "the machine slept"
    heard.hear(2.0, 1.0)
    assert heard.seconds == 0
    for _ in range(3):
        heard.hear(None, 1.0)
    assert heard.seconds == 3


def test_a_pipe_that_nobody_reads_stops_no_run(small: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, b"." * 4096)
    arguments = [argument for argument in thickness(tmp_path, small) if argument != "--quiet"]
    command = subprocess.Popen(
        [COMMAND, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writing,
        env=environment(), start_new_session=True,
    )  # fmt: skip
    os.close(writing)
    try:
        assert command.wait(END_SECONDS) == 0
    finally:
        os.close(reading)
        kill(command.pid)
    assert results(tmp_path / "run") == undisturbed


class _Job:
    """As much of a job as the engine asks for."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger


HELD = threading.Event()


def hold(*_: object) -> Outcome:
    """A task whose store does not answer."""
    HELD.wait(60)
    return Outcome()


@pytest.fixture
def stage() -> Stage:
    return Stage("mask", BlockGrid((4, 4, 4), (4, 4, 4)), hold)


def test_a_store_that_never_answers_ends_the_run(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(engine, "STALL_SECONDS", 1.0)
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        expected = r"Block \(0, 0, 0\) of stage mask and all others were not finished for 0 min although 1 workers are"
        try:
            with pytest.raises(RunError, match=expected):
                run_stage(client, stage, _Job(Ledger(tmp_path)), absorb=lambda *_: None, report=lambda _: None)
        finally:
            HELD.set()


def test_a_scheduler_that_loses_all_workers_ends_the_run(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(engine, "CREW_SECONDS", 0.2)
    with (
        dask.config.set({"voxcaliper.longest-absence": 1.0}),
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        pytest.raises(RunError, match="The scheduler has had no worker for 0 min"),
    ):
        run_stage(client, stage, _Job(Ledger(tmp_path)), absorb=lambda *_: None, report=lambda _: None)
