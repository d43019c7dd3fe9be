"""The output root of releases: what is published there, how it is replaced, and what may be removed. See records.py.

Everything gets its name by renaming, so a reader sees the old or the new and never half of it, and what has a temporary
name is what a kill left.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from pipeline.errors import StorageError
from pipeline.files import PARTIAL, write_json
from workflows.atlas.records import EntryRecord, ReleaseRecord
from workflows.atlas.release_folder import RESULT_FILES
from workflows.run_folder import RunFolder

RECORD = "entry.json"
IDENTIFIER, IDENTIFIED = "%Y-%m-%dT%H%M%SZ", re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z")
R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True)
class EntryFolder:
    """The folder of one entry. path : absolute."""

    root: Path
    path: Path

    @property
    def work(self) -> RunFolder:
        """The run that is being made."""
        return RunFolder(self.path / "work")

    def versions(self) -> list[str]:
        """Published versions, the oldest first."""
        return sorted(name for name in _names(self.path / "versions") if not name.endswith(PARTIAL))

    def current(self) -> EntryRecord | None:
        """The record of the version that readers see; None where there is none that is whole."""
        try:
            version = os.path.basename(os.readlink(self.path / "current"))
        except OSError:
            return None
        return self.record(version)

    def record(self, version: str) -> EntryRecord | None:
        """The record of a version; None where it is not whole: somebody took a file away."""
        folder = self.path / "versions" / version
        record = _read(EntryRecord, folder / RECORD)
        if record is None or not (folder / RESULT_FILES[record.workflow]).exists():
            return None
        return record if RunFolder(folder).is_complete else None

    def work_record(self) -> EntryRecord | None:
        """What the run that is being made will be, noted when it began; None where there is none."""
        return _read(EntryRecord, self.work.path / RECORD)

    def work_bytes(self) -> int:
        """What the unfinished run takes."""
        return folder_bytes(self.work.path)

    def note_work(self, record: EntryRecord) -> None:
        """Say what the run that is being made will be."""
        write_json(self.work.path / RECORD, record.model_dump(mode="json"))

    def clear_work(self) -> None:
        """Remove the run that is being made, and the folders around it where nothing else is in them."""
        _remove(self.work.path)
        for folder in (self.path, self.path.parent):
            if folder.exists() and not _names(folder):
                folder.rmdir()

    def publish(self, record: EntryRecord) -> EntryRecord:
        """Make the finished run a version, and what readers see; returns its record, now with version, run and size."""
        version = record.version
        assert version is not None
        target = self.path / "versions" / version
        run = str(target.relative_to(self.root))
        record = record.model_copy(update={"run": run, "bytes": folder_bytes(self.work.path, without=RECORD)})
        self.note_work(record)
        target.parent.mkdir(exist_ok=True)
        os.rename(self.work.path, target)
        self._show(version)
        return record

    def _show(self, version: str) -> None:
        _link(self.path / "current", f"versions/{version}")

    def mend(self) -> None:
        """Finish what a killed process had begun: a version that nobody sees yet, and removals."""
        for name in _names(self.path):
            if name.endswith(PARTIAL):
                _remove(self.path / name)
        for name in _names(self.path / "versions"):
            if name.endswith(PARTIAL):
                _remove(self.path / "versions" / name)
        versions = self.versions()
        if versions and self.record(versions[-1]) is not None:
            shown = self.current()
            if shown is None or shown.version != versions[-1]:
                self._show(versions[-1])

    def prune(self, keep: int) -> None:
        """Remove the oldest versions, so that `keep` are left, the current one among them."""
        shown = self.current()
        old = [name for name in self.versions() if shown is None or name != shown.version]
        for version in old[: max(0, len(old) - (keep - 1))]:
            _remove(self.path / "versions" / version)


@dataclass(frozen=True)
class Root:
    """An output root. path : absolute."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    def make(self) -> None:
        """The folder itself. Raises StorageError where it cannot be made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"The output {self.path} cannot be made: {error.strerror}; choose another output in the manifest."
            ) from error

    def entry(self, dataset: str, workflow: str) -> EntryFolder:
        """The folder of an entry, which need not exist."""
        return EntryFolder(self.path, self.path / "entries" / dataset / workflow)

    def entries(self) -> Iterator[EntryFolder]:
        """Every entry that there is a folder of, also of data sets that no manifest names any more."""
        for dataset in _names(self.path / "entries"):
            for workflow in _names(self.path / "entries" / dataset):
                yield self.entry(dataset, workflow)

    def releases(self) -> list[str]:
        """Identifiers of all releases, the oldest first."""
        return sorted(name for name in _names(self.path / "releases") if IDENTIFIED.fullmatch(name))

    def release(self, identifier: str) -> ReleaseRecord | None:
        """A release; None where its record is missing or damaged."""
        return _read(ReleaseRecord, self.path / "releases" / identifier / "release.json")

    def newest(self) -> ReleaseRecord | None:
        """The release that was begun last."""
        found = (self.release(identifier) for identifier in reversed(self.releases()))
        return next((release for release in found if release is not None), None)

    def new_identifier(self) -> str:
        """The time, to the second; later than every identifier there is, whatever the clock says."""
        now, taken = datetime.now(UTC).strftime(IDENTIFIER), self.releases()
        if not taken or now > taken[-1]:
            return now
        return (datetime.strptime(taken[-1], IDENTIFIER).replace(tzinfo=UTC) + timedelta(seconds=1)).strftime(
            IDENTIFIER
        )

    def write_release(self, release: ReleaseRecord) -> None:
        """Rewrite the record of a release."""
        write_json(self.path / "releases" / release.identifier / "release.json", release.model_dump(mode="json"))

    def show_latest(self, identifier: str) -> None:
        """From now on a release is the one that readers see."""
        _link(self.path / "latest", f"releases/{identifier}")

    def mend(self, wanted: Iterable[EntryFolder]) -> None:
        """Finish or remove what a killed process left. wanted : entries whose unfinished runs may go on."""
        keep = {folder.path for folder in wanted}
        for folder in self.entries():
            folder.mend()
            if folder.path not in keep and folder.work.path.exists():
                folder.clear_work()
        releases = self.path / "releases"
        for parent in (self.path, releases, *(releases / identifier for identifier in self.releases())):
            for name in _names(parent):
                if name.endswith(PARTIAL):
                    _remove(parent / name)

    def forget_idle_releases(self) -> None:
        """Remove the releases before the last one in which nothing was made: they tell nothing that it does not."""
        for identifier in self.releases()[:-1]:
            release = self.release(identifier)
            if release is None or not any(entry.outcome == "made" for entry in release.entries):
                _remove(self.path / "releases" / identifier)

    def used_bytes(self) -> int:
        """What the root takes: versions as they were counted when they were made, the rest as it is now."""
        total = folder_bytes(self.path / "releases")
        for folder in self.entries():
            for version in folder.versions():
                record = folder.record(version)
                total += record.bytes if record else folder_bytes(folder.path / "versions" / version)
            total += folder.work_bytes()
        return total

    def free_bytes(self) -> int:
        """What the file system has left, also where there is no root yet."""
        return shutil.disk_usage(next(folder for folder in (self.path, *self.path.parents) if folder.exists())).free


def folder_bytes(folder: Path, *, without: str = "") -> int:
    """Bytes of all files below a folder, links not followed; 0 where there is none. without : a file at its top."""
    total, waiting = 0, [str(folder)]
    while waiting:
        top = waiting.pop()
        try:
            with os.scandir(top) as found:
                for one in found:
                    if one.is_dir(follow_symlinks=False):
                        waiting.append(one.path)
                    elif not (top == str(folder) and one.name == without):
                        total += one.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue
    return total


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove(path: Path) -> None:
    """Remove a file or folder that has a name; first the name, so that nobody finds half of it."""
    doomed = path if path.name.endswith(PARTIAL) else path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
    if doomed != path:
        try:
            os.rename(path, doomed)
        except FileNotFoundError:
            return
    if doomed.is_symlink() or not doomed.is_dir():
        doomed.unlink(missing_ok=True)
    else:
        shutil.rmtree(doomed)


def _link(path: Path, target: str) -> None:
    """Replace a symbolic link in one step. Raises StorageError where the file system has none."""
    temporary = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
    try:
        os.symlink(target, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot point to {target}: {error.strerror}; an output needs a file system with symbolic links."
        ) from error


def _read(kind: type[R], path: Path) -> R | None:
    """A record; None where there is none that can be read, which then counts as not made."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValidationError, UnicodeDecodeError):
        return None
