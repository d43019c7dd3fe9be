"""Reading what a release left on disk: records, versions and their result files. Nothing here changes a release."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import RunError, StorageError
from workflows.atlas.records import EntryRecord, ReleaseRecord
from workflows.atlas.root_files import read_record

RELEASES = "releases"
PAGE = "index.html"
RESULT_FILES = {"thickness": "statistics.json", "compare": "comparison.json", "statistics": "statistics.json"}
"""Workflow -> the file with its numbers."""


@dataclass(frozen=True)
class ReleaseFolder:
    """A release in an output root. root : absolute."""

    root: Path
    record: ReleaseRecord

    @property
    def path(self) -> Path:
        return self.root / RELEASES / self.record.identifier

    @property
    def catalogue(self) -> Path:
        return self.path / "catalogue.parquet"

    @property
    def page(self) -> Path:
        return self.path / PAGE

    def run_of(self, entry: EntryRecord) -> Path | None:
        """The folder of the version that an entry has in this release, None where it has none."""
        return self.root / entry.run if entry.run is not None else None

    def is_gone(self, entry: EntryRecord) -> bool:
        """Whether an entry had a version in this release that is no longer there: only so many are kept."""
        run = self.run_of(entry)
        return run is not None and not run.exists()

    def results_of(self, entry: EntryRecord) -> dict[str, Any]:
        """The numbers of an entry's version. Raises RunError where its file is gone or damaged."""
        return self._read(entry, RESULT_FILES[entry.workflow])

    def provenance_of(self, entry: EntryRecord) -> dict[str, Any]:
        """With what an entry's version was made. Raises RunError where its file is gone or damaged."""
        return self._read(entry, "provenance.json")

    def _read(self, entry: EntryRecord, name: str) -> dict[str, Any]:
        run = self.run_of(entry)
        assert run is not None
        if not run.exists():
            raise RunError(f"The version {entry.version} is no longer kept.")
        return read_json(run / name)


def open_release(root: Path, identifier: str) -> ReleaseFolder:
    """A release by its identifier. Raises RunError where there is none or its record is damaged, StorageError."""
    root = Path(os.path.abspath(root))
    path = root / RELEASES / identifier / "release.json"
    record = read_record(ReleaseRecord, path)
    if record is not None:
        return ReleaseFolder(root, record)
    if path.exists():
        raise RunError(f"{path} is not the record of a release; restore it or remove its folder.")
    known = identifiers(root)
    hint = f"it has {', '.join(known[-5:])}" if known else "it has none; run `voxcaliper atlas run` first"
    raise RunError(f"{root} has no release {identifier}: {hint}.")


def find_release(root: Path, identifier: str) -> ReleaseFolder | None:
    """As `open_release`; None where that fails."""
    with contextlib.suppress(RunError, StorageError):
        return open_release(root, identifier)
    return None


def identifiers(root: Path) -> list[str]:
    """Every release of a root that left a record, the oldest first."""
    return sorted(path.parent.name for path in (root / RELEASES).glob("*/release.json"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a version. Raises RunError where it is gone or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; restore it or make its entry again.") from error
    except ValueError as error:
        raise RunError(f"{path} is not JSON; restore it or make its entry again.") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no result of a run; restore it or make its entry again.")
    return content


@contextlib.contextmanager
def understood(run: Path | None) -> Iterator[None]:
    """Taking numbers out of a version. Raises RunError where its files have another form than this voxcaliper's."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise RunError(
            f"{run} holds no result of this version of voxcaliper ({type(error).__name__}: {error}); restore it or"
            " make its entry again."
        ) from error
