"""What readers of an output see while it changes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from tests.atlas.releases import Atlas, labels
from tests.workflows.conftest import Command
from workflows.atlas.plan_release import paces
from workflows.atlas.records import ReleaseRecord
from workflows.atlas.root import EntryFolder, Root
from workflows.config import ComparisonConfig, ThicknessConfig

VERSIONS = 30
LATER = "2999-01-01T000000Z"
OURS = "0123456789abcdef0123456789abcdef.partial"
"""What the names of temporary files end in."""


def _read(folder: int, name: str) -> str:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), encoding="utf-8") as file:
        return file.read()


def test_a_reader_never_sees_half_a_result(here: Command, scheduler: str, tmp_path: Path) -> None:
    atlas = Atlas(tmp_path, here, f'kind = "scheduler"\naddress = "{scheduler}"\nunencrypted = true\n')
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
    atlas = Atlas(tmp_path, here, f'kind = "scheduler"\naddress = "{scheduler}"\nunencrypted = true\n')
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
    atlas = Atlas(tmp_path, here, f'kind = "scheduler"\naddress = "{scheduler}"\nunencrypted = true\n')
    atlas.add("one", labels(1), workflows=["statistics"])

    def flock(_file: object, _how: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("fcntl.flock", flock)
    sentence = atlas.run().failure()
    assert f"The file system of {atlas.root / 'lock'} has no locks (Operation not supported)" in sentence
    assert "choose a place on another one, or have it mounted with flock." in sentence


def entry_of(root: Path, version: str, **more: object) -> EntryFolder:
    """An entry of a root with one whole version, which readers see."""
    folder = Root(root).entry("one", "statistics")
    write_version(folder, version, **more)
    (folder.path / "current").symlink_to(f"versions/{version}")
    return folder


def write_version(folder: EntryFolder, version: str, **more: object) -> None:
    run = folder.path / "versions" / version
    run.mkdir(parents=True)
    config = ComparisonConfig(workflow="statistics", reference="one", prediction=None)
    (run / "run.json").write_text(config.model_dump_json())
    record = {"dataset": "one", "workflow": "statistics", "outcome": "made", "version": version, **more}
    (run / "entry.json").write_text(json.dumps(record))
    for name in ("statistics.json", "provenance.json"):
        (run / name).write_text("{}")


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    """Links lead elsewhere, and others call their files partial, too."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    mine = [
        elsewhere / "statistics" / "work" / "precious",
        elsewhere / "statistics" / f"file.{OURS}",
        elsewhere / "statistics" / "versions" / LATER / "precious",
        root / "download.partial",
        root / "0123.partial" / "file",
        root / "entries" / "one" / "notes" / "work" / "precious",
        root / "entries" / "one" / "statistics" / "versions" / "by-hand" / "precious",
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    (root / "entries" / "linked").symlink_to(elsewhere)
    (root / "entries" / "one" / "compare").symlink_to(elsewhere / "statistics")
    (root / "entries" / "two" / "compare").mkdir(parents=True)
    (root / "entries" / "two" / "compare" / "versions").symlink_to(elsewhere / "statistics" / "versions")
    ours = root / f"latest.{OURS}"
    ours.write_text("half")
    Root(root).mend(())
    for folder in Root(root).entries():
        folder.prune(1)
    assert [path.read_text() for path in mine] == ["precious"] * len(mine)
    assert not ours.exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "entries").symlink_to(elsewhere)
    with pytest.raises(StorageError, match="entries is a link; put a folder there"):
        Root(tmp_path / "other").make()


def test_without_a_whole_current_version_none_is_removed(tmp_path: Path) -> None:
    old, damaged = (f"2020-01-0{day}T000000Z" for day in (1, 2))
    folder = entry_of(tmp_path, damaged)
    write_version(folder, old)
    (folder.path / "versions" / damaged / "statistics.json").unlink()
    folder.prune(1)
    assert folder.versions() == [old, damaged]
    write_version(folder, LATER)
    Root(tmp_path).mend(())
    folder.prune(1)
    assert folder.versions() == [LATER]


def test_a_version_without_the_map_that_was_asked_for_is_not_whole(tmp_path: Path) -> None:
    folder = entry_of(tmp_path, LATER)
    run = folder.path / "versions" / LATER
    assert folder.current() is not None
    content = json.loads((run / "entry.json").read_text())
    (run / "entry.json").write_text(json.dumps({**content, "workflow": "thickness"}))
    (run / "run.json").write_text(ThicknessConfig(mask="one", map="none").model_dump_json())
    assert folder.current() is not None
    (run / "run.json").write_text(ThicknessConfig(mask="one").model_dump_json())
    assert folder.current() is None
    (run / "thickness.ome.zarr").mkdir()
    (run / "thickness.ome.zarr" / "zarr.json").write_text("{}")
    assert folder.current() is not None


def test_a_file_that_cannot_be_removed_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that a reader has open on NFS: it goes when it can."""
    folder = entry_of(tmp_path, LATER)
    write_version(folder, "2020-01-01T000000Z")
    (folder.path / "versions" / "2020-01-01T000000Z" / ".nfs001").write_text("open")
    folder.work.path.mkdir()
    (folder.work.path / ".nfs002").write_text("open")
    unlink = os.unlink

    def busy(path: str | Path, **options: int | None) -> None:
        if ".nfs" in os.fspath(path):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", busy)
        folder.prune(1)
        Root(tmp_path).mend(())
        assert folder.versions() == [LATER]
        assert not folder.work.path.exists()
        assert len(list(tmp_path.rglob(".nfs*"))) == 2
    Root(tmp_path).mend(())
    assert not list(tmp_path.rglob(".nfs*"))
    assert not list(tmp_path.rglob("*.partial"))


def test_a_note_that_was_half_written_is_not_published(tmp_path: Path) -> None:
    folder = entry_of(tmp_path, "2020-01-01T000000Z")
    folder.work.path.mkdir()
    (folder.work.path / f"entry.json.{OURS}").write_text("half")
    (folder.work.path / "run.json").write_text("{}")
    Root(tmp_path).mend([folder])
    assert os.listdir(folder.work.path) == ["run.json"]


def test_records_of_a_newer_version_are_understood_and_damaged_ones_stay(tmp_path: Path) -> None:
    folder = entry_of(tmp_path, LATER, colour="blue")
    shown = folder.current()
    assert shown is not None
    assert shown.version == LATER
    root, began = Root(tmp_path), datetime(2020, 1, 1, tzinfo=UTC)
    identifiers = [f"2020-01-0{day}T000000Z" for day in range(1, 5)]
    for identifier in identifiers:
        root.write_release(ReleaseRecord(identifier=identifier, name="test", manifest="m", began=began))
    path = tmp_path / "releases" / identifiers[1] / "release.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "blue", "entries": [{}]}))
    (tmp_path / "releases" / identifiers[2] / "release.json").write_text("damaged")
    assert root.release(identifiers[0]) is not None
    root.forget_idle_releases()
    assert root.releases() == identifiers[1:], "only what was read is forgotten"
    (tmp_path / "releases" / LATER).mkdir()  # killed before it had its record
    root.mend(())
    assert root.releases() == identifiers[1:]


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = entry_of(tmp_path, LATER)
    record = folder.path / "versions" / LATER / "entry.json"
    record.unlink()
    record.mkdir()
    with pytest.raises(StorageError, match=re.escape(f"{record} cannot be read: Is a directory; mend it")):
        folder.current()
    Root(tmp_path).mend(())
    assert Root(tmp_path).used_bytes() > 0
    assert paces(Root(tmp_path)) == {}


def test_odd_keys_tell_no_pace(tmp_path: Path) -> None:
    for number, key in enumerate([{"sources": 3}, {"sources": {"mask": {}}}, {"sources": {}}, {}]):
        folder = Root(tmp_path).entry(f"odd-{number}", "statistics")
        write_version(folder, LATER, seconds=600, key=key)
        (folder.path / "current").symlink_to(f"versions/{LATER}")
    assert paces(Root(tmp_path)) == {}
