"""What readers of an output see while it changes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from tests.atlas.releases import Atlas, labels
from tests.workflows.conftest import Command
from workflows.atlas.root import Root

VERSIONS = 30
LATER = "2999-01-01T000000Z"
OURS = "0123456789abcdef0123456789abcdef.partial"
"""What the names of temporary files end in."""


def _read(folder: int, name: str) -> str:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), encoding="utf-8") as file:
        return file.read()


def test_a_reader_never_sees_half_a_result(here: Command, scheduler: str, tmp_path: Path) -> None:
    atlas = Atlas(tmp_path, here, f'kind = "scheduler"\naddress = "{scheduler}"\n')
    atlas.add("one", labels(1), workflows=["statistics"])
    assert atlas.run().code == 0
    folder = Root(atlas.root).entry("one", "statistics")
    made = folder.current()
    assert made is not None
    shutil.copytree(atlas.entry("one/statistics") / "current", tmp_path / "run")
    seen: set[str] = set()
    wrong: list[str] = []
    end = threading.Event()

    def read() -> None:
        while not end.is_set():
            opened = os.open(atlas.entry("one/statistics") / "current", os.O_RDONLY)
            try:
                version = json.loads(_read(opened, "entry.json"))["version"]
                found = json.loads(_read(opened, "statistics.json"))
                if found.get("version", version) != version or "labels" not in found:
                    wrong.append(version)
                seen.add(version)
            except FileNotFoundError:  # of a version that was removed while this one read in it; the next is whole
                if os.path.samestat(os.fstat(opened), os.stat(atlas.entry("one/statistics") / "current")):
                    wrong.append("a current version lacks a file")
            except ValueError as error:
                wrong.append(str(error))
            finally:
                os.close(opened)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(VERSIONS):
            shutil.copytree(tmp_path / "run", folder.work.path)
            version = f"2999-01-01T0000{number:02}Z"
            content = json.loads((folder.work.path / "statistics.json").read_text())
            folder.work.statistics.write_text(json.dumps({**content, "version": version, "long": ["x" * 20] * 5000}))
            folder.publish(made.model_copy(update={"version": version}))
            folder.prune(2)
    finally:
        end.set()
        reader.join()
    assert not wrong
    assert len(seen) > VERSIONS / 4, "the reader was not there while it changed"
    assert folder.versions() == [f"2999-01-01T0000{number:02}Z" for number in (VERSIONS - 2, VERSIONS - 1)]


def test_what_a_kill_left_is_finished_or_removed(here: Command, scheduler: str, tmp_path: Path) -> None:
    atlas = Atlas(tmp_path, here, f'kind = "scheduler"\naddress = "{scheduler}"\n')
    atlas.add("one", labels(1), workflows=["statistics"])
    assert atlas.run().code == 0
    entry = atlas.entry("one/statistics")
    # Killed after a version had its place and before readers saw it, and while a version and a run were removed.
    later = entry / "versions" / LATER
    shutil.copytree(entry / "current", later)
    record = json.loads((later / "entry.json").read_text())
    (later / "entry.json").write_text(
        json.dumps({**record, "version": LATER, "run": f"entries/one/statistics/versions/{LATER}"})
    )
    for left in (entry / "versions" / f"0000.{OURS}", entry / f"work.{OURS}", entry / f"current.{OURS}"):
        left.mkdir()
        (left / "file").write_text("half")
    (atlas.root / "latest" / f"release.json.{OURS}").write_text("half")
    gone = atlas.root / "entries" / "no-more" / "thickness" / "work"
    gone.mkdir(parents=True)
    assert atlas.run().code == 0
    assert os.readlink(entry / "current") == f"versions/{LATER}"
    assert atlas.entries()["one/statistics"].version == LATER
    assert not list(atlas.root.rglob("*.partial"))
    assert not (atlas.root / "entries" / "no-more").exists()


def test_identifiers_go_on_when_the_clock_goes_back(tmp_path: Path) -> None:
    root = Root(tmp_path)
    first = root.new_identifier()
    (tmp_path / "releases" / first).mkdir(parents=True)
    second = root.new_identifier()
    assert second > first
    (tmp_path / "releases" / "2999-01-01T000000Z").mkdir()
    assert root.new_identifier() == "2999-01-01T000001Z"


def test_a_file_system_without_locks_is_refused(
    here: Command, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas = Atlas(tmp_path, here, f'kind = "scheduler"\naddress = "{scheduler}"\n')
    atlas.add("one", labels(1), workflows=["statistics"])

    def flock(_file: object, _how: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("fcntl.flock", flock)
    sentence = atlas.run().failure()
    assert f"The file system of {atlas.root / 'lock'} has no locks (Operation not supported)" in sentence
    assert "choose a place on another one, or have it mounted with flock." in sentence
