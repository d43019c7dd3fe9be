"""Releases that are killed, stopped, or meet another one; and sources that change while they are measured."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.atlas.releases import Atlas, change_voxel, labels, tree
from tests.workflows.conftest import Command
from tests.workflows.runs import Running, all_gone, receipts, results, running
from workflows.atlas.root_lock import SILENT_SECONDS
from workflows.atlas.run_release import STOPPED

SHAPE = (48, 48, 48)
BLOCKS = 3**3


@pytest.fixture
def atlas(here: Command, scheduler: str, tmp_path: Path) -> Atlas:
    """Three entries, of which the second one takes some seconds."""
    atlas = Atlas(tmp_path, here, f'kind = "scheduler"\naddress = "{scheduler}"\nunencrypted = true\n')
    atlas.add("first", labels(1), workflows=["statistics"])
    atlas.add("second", labels(2, SHAPE), block_shape=16, keep_scratch=True)
    atlas.add("third", labels(3), workflows=["statistics"])
    return atlas


@contextlib.contextmanager
def begun(atlas: Atlas, *options: object) -> Iterator[Running]:
    """The release in the background, on the running cluster."""
    with running(atlas.folder / "logs", "atlas", "run", atlas.write(), "--quiet", *options) as command:
        yield command


def at_work(atlas: Atlas) -> Callable[[], bool]:
    """Whether the second entry is well on its way."""
    return lambda: len(receipts(atlas.entry("second/thickness") / "work", "distance-z")) >= 4


def test_killed_in_the_middle_and_run_again(atlas: Atlas) -> None:
    with begun(atlas) as command:
        command.wait_until(at_work(atlas))
        family = command.family()
        os.killpg(command.process.pid, signal.SIGKILL)
        command.process.wait()
        assert all_gone(family)
    found = atlas.status()
    assert found["state"] == "stopped"
    assert found["counts"] == {"made": 1, "waiting": 2}
    assert not (atlas.root / "latest").exists()
    first = tree(atlas.entry("first/statistics"))
    finished = receipts(atlas.entry("second/thickness") / "work", "mask")
    assert len(finished) == BLOCKS

    done = atlas.run()
    taken = f"the lock of process {command.process.pid} on {socket.gethostname()}, which is gone, is taken over\n"
    assert (done.code, done.err) == (0, taken), done
    assert atlas.release().identifier == found["release"], "the release that was killed goes on"
    assert set(atlas.outcomes().values()) == {"made"}
    assert tree(atlas.entry("first/statistics")) == first
    now = receipts(atlas.entry("second/thickness") / "current", "mask")
    assert sorted(now.values()) == sorted(finished.values()), "finished blocks were done again"
    assert not list(atlas.root.rglob("*.partial"))
    assert atlas.status()["state"] == "complete"

    alone = atlas.folder / "alone"
    options = ("--block-shape", 16, "--scheduler", atlas.profile.split('"')[3], "--unencrypted", "--quiet")
    assert atlas.call("thickness", atlas.volume("second"), "--run", alone, *options).code == 0
    assert results(atlas.entry("second/thickness") / "current") == results(alone)


def test_stopped_in_order(atlas: Atlas) -> None:
    """On workers of its own, which end with it."""
    with begun(atlas, "--workers", 1) as command:
        command.wait_until(at_work(atlas))
        family = command.family()
        command.process.send_signal(signal.SIGTERM)
        done = command.finished()
        assert all_gone(family)
    assert done.code == 130
    assert done.err.endswith("a release with `voxcaliper atlas run`.\n")
    assert (atlas.root / "lock").read_text() == ""
    found = atlas.status()
    assert found["state"] == "stopped"
    assert [entry["message"] for entry in found["entries"]] == ["", STOPPED, STOPPED]
    assert atlas.run().code == 0
    assert atlas.release().identifier == found["release"]
    assert set(atlas.outcomes().values()) == {"made"}


def test_slurm_warns_of_the_walltime(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    """The release stops in order and asks to be requeued; `scontrol` is a script that notes what it was told."""
    scontrol = atlas.folder / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {atlas.folder / "told"}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with begun(atlas, "--requeue") as command:
        command.wait_until(at_work(atlas))
        command.process.send_signal(signal.SIGUSR1)
        assert command.finished().code == 0
    assert (atlas.folder / "told").read_text() == "requeue 77\n"
    assert atlas.status()["counts"] == {"made": 1, "waiting": 2}


def test_two_at_once(atlas: Atlas) -> None:
    with begun(atlas) as command:
        command.wait_until(at_work(atlas))
        holder = f"process {command.process.pid} on {socket.gethostname()}"
        began = time.monotonic()
        refused = atlas.run().failure()
        assert refused == f"{atlas.root} is being worked on by {holder}; wait for it or stop it."
        assert time.monotonic() - began < 5
        found = atlas.status()
        assert (found["state"], found["holder"]) == ("running", holder)
        assert found["run"]["entry"] == "second/thickness"
        assert found["run"]["of_blocks"] >= 5 * BLOCKS
        waited = atlas.run("--wait")
        assert waited.code == 0
        assert waited.err == f"waiting: {refused}\n"
        assert command.finished().code == 0
    assert set(atlas.outcomes().values()) == {"kept"}
    assert atlas.versions("second/thickness") == [found["release"]]


def test_a_source_that_changes_while_it_is_measured(atlas: Atlas) -> None:
    with begun(atlas) as command:
        command.wait_until(at_work(atlas))
        change_voxel(atlas.volume("second"))
        assert command.finished().code == 1
    assert atlas.outcomes() == {"first/statistics": "made", "second/thickness": "failed", "third/statistics": "made"}
    sentence = atlas.entries()["second/thickness"].message
    assert "second/thickness changed while it was made (mask: content), so its result is not published" in sentence
    assert not (atlas.entry("second/thickness") / "current").exists()
    assert "in folders named work, of runs that failed or were stopped" in atlas.plan().out
    assert atlas.run().code == 0
    assert atlas.outcomes()["second/thickness"] == "made"


def test_a_lock_of_another_machine(atlas: Atlas) -> None:
    atlas.datasets = {"first": atlas.datasets["first"] | {"workflows": ["statistics"]}}
    assert atlas.run().code == 0
    lock = atlas.root / "lock"
    lock.write_text("process 1 on another-machine")
    assert atlas.status()["state"] == "starting"
    assert "is being worked on by process 1 on another-machine, heard of" in atlas.run().failure()
    assert lock.read_text() == "process 1 on another-machine"
    long_ago = time.time() - SILENT_SECONDS - 5
    os.utime(lock, (long_ago, long_ago))
    assert atlas.status()["state"] == "complete"
    done = atlas.run()
    assert (done.code, done.err) == (0, "the lock of process 1 on another-machine, which is gone, is taken over\n")
    assert lock.read_text() == ""
