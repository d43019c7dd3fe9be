"""The output root of releases: what is published there, how it is replaced, and what may be removed. See records.py.

Everything gets its name by renaming, so a reader sees the old or the new and never half of it, and what has a temporary
name is what a kill left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

from pipeline.errors import RunError, StorageError
from pipeline.files import write_json
from workflows.atlas.records import EntryRecord, ReleaseRecord, Workflow
from workflows.atlas.release_folder import PAGE, RESULT_FILES
from workflows.atlas.root_files import (
    folder_bytes,
    folders_in,
    read_record,
    remove,
    replace_link,
    sweep,
    unreadable,
)
from workflows.run_folder import RunFolder

RECORD = "entry.json"
IDENTIFIER, IDENTIFIED = "%Y-%m-%dT%H%M%SZ", re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z")


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class EntryFolder:
    """The folder of one entry. path : absolute. check : as that of the root."""

    root: Path
    path: Path
    check: Callable[[], None] = _nothing

    @property
    def work(self) -> RunFolder:
        """The run that is being made."""
        return RunFolder(self.path / "work")

    def versions(self) -> list[str]:
        """Published versions, the oldest first."""
        return [name for name in folders_in(self.path / "versions") if IDENTIFIED.fullmatch(name)]

    def current(self) -> EntryRecord | None:
        """The record of the version that readers see; None where there is none that is whole. Raises StorageError."""
        link = self.path / "current"
        try:
            version = os.path.basename(os.readlink(link))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(link, error) from error
        return self.record(version)

    def record(self, version: str) -> EntryRecord | None:
        """The record of a version; None where it is not whole: somebody took a file away. Raises StorageError."""
        run = RunFolder(self.path / "versions" / version)
        record = read_record(EntryRecord, run.path / RECORD)
        if record is None or not (run.path / RESULT_FILES[record.workflow]).exists() or not run.is_complete:
            return None
        try:
            return record if all((folder / "zarr.json").exists() for folder in run.wanted_maps()) else None
        except RunError:  # its configuration is gone
            return None

    def has(self, version: str) -> bool:
        """Whether there is a version of that name, whole or not."""
        return os.path.lexists(self.path / "versions" / version)

    def work_record(self) -> EntryRecord | None:
        """What the run that is being made will be, noted when it began; None where there is none."""
        return read_record(EntryRecord, self.work.path / RECORD)

    def work_bytes(self) -> int:
        """What the unfinished run takes."""
        return folder_bytes(self.work.path)

    def note_work(self, record: EntryRecord) -> None:
        """Say what the run that is being made will be."""
        write_json(self.work.path / RECORD, record.model_dump(mode="json"))

    def clear_work(self) -> None:
        """Remove the run that is being made, and the folders around it where nothing else is in them.

        Raises StorageError where its name cannot be taken away.
        """
        remove(self.work.path)
        if self.work.path.exists():
            raise StorageError(
                f"{self.work.path} cannot be removed; mend the permissions there, or remove it yourself."
            )
        with contextlib.suppress(OSError):  # not empty
            self.path.rmdir()
            self.path.parent.rmdir()

    def publish(self, record: EntryRecord) -> EntryRecord:
        """Make the finished run a version, and what readers see; returns its record, now with version, run and size."""
        version = record.version
        assert version is not None
        target = self.path / "versions" / version
        run = str(target.relative_to(self.root))
        record = record.model_copy(update={"run": run, "bytes": folder_bytes(self.work.path, without=RECORD)})
        self.note_work(record)
        target.parent.mkdir(exist_ok=True)
        self.check()
        os.rename(self.work.path, target)
        self._show(version)
        return record

    def _show(self, version: str) -> None:
        replace_link(self.path / "current", f"versions/{version}")

    def mend(self) -> None:
        """Finish what a killed process had begun: a version that nobody sees yet, and removals."""
        for folder in (self.path, self.work.path, self.path / "versions"):
            sweep(folder)
        versions = self.versions()
        if versions and self.record(versions[-1]) is not None:
            shown = self.current()
            if shown is None or shown.version != versions[-1]:
                self._show(versions[-1])

    def prune(self, keep: int) -> None:
        """Remove the oldest versions, so that `keep` are left, the current one and the newest whole one among them.

        Nothing is removed where the current one is not whole.
        """
        shown, versions = self.current(), self.versions()
        if shown is None:
            return
        newest = next((name for name in reversed(versions) if self.record(name) is not None), None)
        old = [name for name in versions if name not in (shown.version, newest)]
        for version in old[: max(0, len(old) - (keep - 1))]:
            remove(self.path / "versions" / version)


@dataclass(frozen=True)
class Root:
    """An output root. path : absolute. check : called before something is published; raises what forbids it."""

    path: Path
    check: Callable[[], None] = _nothing

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    def make(self) -> None:
        """The folder itself. Raises StorageError where it cannot be made, or keeps its entries elsewhere."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"The output {self.path} cannot be made: {error.strerror}; choose another output in the manifest."
            ) from error
        for folder in (self.path / "entries", self.path / "releases"):
            if folder.is_symlink():
                raise StorageError(
                    f"{folder} is a link; put a folder there, and a link in the place of the whole output."
                )

    def check_owner(self, name: str, manifest: Path) -> None:
        """Raises RunError where the root has the releases of a manifest of another name and at another place."""
        newest = self.newest()
        if newest is not None and newest.name != name and newest.manifest != str(manifest):
            raise RunError(
                f"{self.path} holds the releases of {newest.name} ({newest.manifest}), and {manifest} is named {name};"
                " give it another output, or that name if it is the same release."
            )

    def entry(self, dataset: str, workflow: str) -> EntryFolder:
        """The folder of an entry, which need not exist."""
        return EntryFolder(self.path, self.path / "entries" / dataset / workflow, self.check)

    def entries(self) -> Iterator[EntryFolder]:
        """Every entry that there is a folder of, also of data sets that no manifest names any more.

        Links lead elsewhere: they are no entries.
        """
        for dataset in folders_in(self.path / "entries"):
            for workflow in folders_in(self.path / "entries" / dataset):
                if workflow in get_args(Workflow):
                    yield self.entry(dataset, workflow)

    def releases(self) -> list[str]:
        """Identifiers of all releases, the oldest first."""
        return [name for name in folders_in(self.path / "releases") if IDENTIFIED.fullmatch(name)]

    def release(self, identifier: str) -> ReleaseRecord | None:
        """A release; None where its record is missing or damaged."""
        return read_record(ReleaseRecord, self.path / "releases" / identifier / "release.json")

    def newest(self) -> ReleaseRecord | None:
        """The release that was begun last."""
        found = (self.release(identifier) for identifier in reversed(self.releases()))
        return next((release for release in found if release is not None), None)

    def is_finished(self, release: ReleaseRecord) -> bool:
        """Whether a release came to its end: its page is written after its record and its catalogue."""
        return release.ended is not None and (self.path / "releases" / release.identifier / PAGE).exists()

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
        self.check()
        write_json(self.path / "releases" / release.identifier / "release.json", release.model_dump(mode="json"))

    def latest(self) -> str | None:
        """The release that readers see."""
        try:
            return os.path.basename(os.readlink(self.path / "latest"))
        except OSError:
            return None

    def show_latest(self, identifier: str) -> None:
        """From now on a release is the one that readers see."""
        replace_link(self.path / "latest", f"releases/{identifier}")

    def mend(self, wanted: Iterable[EntryFolder]) -> None:
        """Finish or remove what a killed process left. wanted : entries whose unfinished runs may go on."""
        keep = {folder.path for folder in wanted}
        for folder in self.entries():
            with contextlib.suppress(StorageError):  # what cannot be read fails with its entry
                folder.mend()
                if folder.path not in keep:
                    folder.clear_work()
        releases = [self.path / "releases" / identifier for identifier in self.releases()]
        for parent in (self.path.resolve(), self.path / "releases", *releases):
            sweep(parent)
        for folder_without_record in releases:
            with contextlib.suppress(OSError):  # not empty
                folder_without_record.rmdir()
        newest = self.newest()
        if newest is not None and self.is_finished(newest) and self.latest() != newest.identifier:
            self.show_latest(newest.identifier)

    def forget_idle_releases(self) -> None:
        """Remove the releases before the last one in which nothing was made: they tell nothing that it does not."""
        for identifier in self.releases()[:-1]:
            release = self.release(identifier)
            if release is not None and not any(entry.outcome == "made" for entry in release.entries):
                remove(self.path / "releases" / identifier)

    def used_bytes(self) -> int:
        """What the root takes: versions as they were counted when they were made, the rest as it is now."""
        total = folder_bytes(self.path / "releases")
        for folder in self.entries():
            for version in folder.versions():
                try:
                    record = folder.record(version)
                except StorageError:
                    record = None
                total += record.bytes if record else folder_bytes(folder.path / "versions" / version)
            total += folder.work_bytes()
        return total

    def unfinished_bytes(self) -> int:
        """What the unfinished runs of all entries take."""
        return sum(folder.work_bytes() for folder in self.entries())

    def free_bytes(self) -> int:
        """What the file system has left, also where there is no root yet."""
        return shutil.disk_usage(next(folder for folder in (self.path, *self.path.parents) if folder.exists())).free
