"""Reading what a release left on disk: records, versions and their result files. Nothing here changes a release."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import RunError
from workflows.atlas.records import EntryRecord, ReleaseRecord

RELEASES = "releases"
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
        return self.path / "index.html"

    def run_of(self, entry: EntryRecord) -> Path | None:
        """The folder of the version that an entry has in this release, None where it has none."""
        return self.root / entry.run if entry.run is not None else None

    def results_of(self, entry: EntryRecord) -> dict[str, Any]:
        """The numbers of an entry's version. Raises RunError where its file is gone or damaged."""
        return self._read(entry, RESULT_FILES[entry.workflow])

    def provenance_of(self, entry: EntryRecord) -> dict[str, Any]:
        """With what an entry's version was made. Raises RunError where its file is gone or damaged."""
        return self._read(entry, "provenance.json")

    def _read(self, entry: EntryRecord, name: str) -> dict[str, Any]:
        run = self.run_of(entry)
        assert run is not None
        return read_json(run / name)


def open_release(root: Path, identifier: str) -> ReleaseFolder:
    """A release by its identifier. Raises RunError where there is none or its record is damaged."""
    root = Path(os.path.abspath(root))
    path = root / RELEASES / identifier / "release.json"
    try:
        record = ReleaseRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = identifiers(root)
        hint = f"it has {', '.join(known[-5:])}" if known else "it has none; run `voxcaliper atlas run` first"
        raise RunError(f"{root} has no release {identifier}: {hint}.") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not the record of a release; restore it or remove its folder.") from error
    return ReleaseFolder(root, record)


def identifiers(root: Path) -> list[str]:
    """Every release of a root that left a record, the oldest first."""
    return sorted(path.parent.name for path in (root / RELEASES).glob("*/release.json"))


def earlier_releases(release: ReleaseFolder) -> Iterator[ReleaseFolder]:
    """The releases before one, the newest first."""
    for identifier in reversed(identifiers(release.root)):
        if identifier < release.record.identifier:
            yield open_release(release.root, identifier)


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
def as_text(file: Any) -> Iterator[io.TextIOWrapper]:
    """A binary file as text that leaves it open."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        yield text
    finally:
        text.flush()
        text.detach()
