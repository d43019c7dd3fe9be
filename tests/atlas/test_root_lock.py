"""The lock of an output where flock is each machine's own, so that only what stands in the file keeps two apart."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import RunError
from tests.atlas.test_root import LATER
from workflows.atlas.records import EntryRecord, ReleaseRecord
from workflows.atlas.root import Root
from workflows.atlas.root_lock import is_root_locked, root_locked
from workflows.lock import LockedError, holder

OTHER = "process 1 on another-machine\n0123456789abcdef0123456789abcdef"


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process is alone with its flock."""
    monkeypatch.setattr("fcntl.flock", lambda _file, _how: None)


@pytest.mark.usefixtures("apart")
def test_of_many_that_begin_together_one_goes_on_at_most(tmp_path: Path) -> None:
    starting, entered, refused = threading.Barrier(8), [], []
    end = threading.Event()

    def work() -> None:
        starting.wait()
        try:
            with root_locked(tmp_path) as check:
                check()
                entered.append(1)
                end.wait(10)
        except LockedError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(entered) + len(refused) < 8 and any(thread.is_alive() for thread in threads):
        end.wait(0.05)
        if len(entered) > 1:
            break
    end.set()
    for thread in threads:
        thread.join()
    assert len(entered) <= 1
    assert len(entered) + len(refused) == 8
    assert all("is being worked on by process" in sentence for sentence in refused)


def test_one_that_is_overwritten_in_the_first_moment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one that found the lock free, too, and wrote its name after it."""
    lock = tmp_path / "lock"
    monkeypatch.setattr("workflows.atlas.root_lock.time.sleep", lambda _: lock.write_text(OTHER))
    sentence = "by process 1 on another-machine, which began in the same moment"
    with pytest.raises(LockedError, match=sentence), root_locked(tmp_path):
        pass
    assert lock.read_text() == OTHER, "it is the other's now"


def test_one_whose_lock_was_taken_over_publishes_nothing(tmp_path: Path) -> None:
    record = EntryRecord(dataset="one", workflow="statistics", outcome="made", version=LATER)
    release = ReleaseRecord(identifier=LATER, name="test", manifest="m", began=datetime.now(UTC))
    lock = tmp_path / "lock"
    with root_locked(tmp_path) as check:
        root = replace(Root(tmp_path), check=check)
        root.write_release(release)
        folder = root.entry("one", "statistics")
        folder.work.path.mkdir(parents=True)
        lock.write_text(OTHER)
        with pytest.raises(RunError, match="was taken over by process 1 on another-machine while this one was not"):
            folder.publish(record)
        assert not folder.has(LATER)
        assert folder.work.path.exists()
        with pytest.raises(RunError, match="was taken over"):
            root.write_release(release)
    assert lock.read_text() == OTHER
    assert holder(lock) == "process 1 on another-machine"
    assert is_root_locked(tmp_path)
