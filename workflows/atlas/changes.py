"""What changed from one release to another: entries that came, went, failed or were made again, why, and by how much.

Values are compared out of the catalogues of both releases, so that an old version may have been removed since.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import StorageError
from pipeline.files import as_text, whole_file
from pipeline.plain_text import safe_cell
from pipeline.report import Changes, EntryChange, KeyChange, ValueChange
from workflows.atlas.catalogue import Written
from workflows.atlas.flattening import ALL
from workflows.atlas.records import EntryRecord
from workflows.atlas.release_folder import ReleaseFolder, find_release, identifiers, open_release
from workflows.atlas.staleness import Key, reasons

COMPARED = ["region", "label", "statistic", "unit", "value"]
CSV_COLUMNS = (
    "dataset", "workflow", "change", "why", "key", "region", "label", "statistic", "unit", "old", "new", "difference",
    "relative",
)  # fmt: skip
HEADLINES = (
    "thickness_um.mean", "thickness_um.quantiles.0.5", "foreground_voxels", "dice", "iou", "reference_voxels",
    "prediction_voxels", "voxels",
)  # fmt: skip
SHOWN_VALUES = 4
"""Of an entry, on the page; changes.csv has all."""
CHECKSUM, CHECKSUM_SHOWN = re.compile(r"\b[0-9a-f]{32,}\b"), 8
SAME, UNKNOWN = "made again of the same sources", "the record of the release that made it cannot be read"
LONGEST = 60
"""Characters of a value that is shown; longer ones are cut."""


def shortened(entry: EntryChange) -> EntryChange:
    """With the few values that tell most."""
    return replace(entry, values=tuple(sorted(entry.values, key=_rank)[:SHOWN_VALUES]))


def _rank(value: ValueChange) -> tuple[bool, bool, int, float]:
    """Of the whole before parts; what everybody asks for before the rest; then by how much."""
    headline = HEADLINES.index(value.statistic) if value.statistic in HEADLINES else len(HEADLINES)
    return value.region != ALL, value.label != ALL, headline, -abs(value.relative or 0.0)


def previous_release(release: ReleaseFolder) -> tuple[ReleaseFolder | None, tuple[str, ...]]:
    """The newest release before one that has a catalogue to compare with, and those after it that are damaged."""
    damaged = []
    for identifier in reversed(identifiers(release.root)):
        if identifier >= release.record.identifier:
            continue
        found = find_release(release.root, identifier)
        if found is None or (found.catalogue.exists() and not Written(found).is_whole):
            damaged.append(identifier)
        elif found.catalogue.exists():
            return found, tuple(damaged)
    return None, tuple(damaged)


def changed_entries(old: ReleaseFolder | None, new: ReleaseFolder) -> Iterator[EntryChange]:
    """Every entry that was not kept as it was, one at a time. old : None for a first release, whose entries are new.

    One that failed or waits, and was made since the older release, is there twice. Both releases have their
    catalogues. Raises RunError where one of them is missing or damaged.
    """
    before = {_name(entry): entry for entry in old.record.entries} if old else {}
    then, now = Written(old or new, COMPARED), Written(new, COMPARED)
    for entry in new.record.entries:
        other = before.pop(_name(entry), None)
        why = "; ".join(entry.reasons)
        if entry.outcome in ("failed", "waiting"):
            wanted = _of_key(_version_key(old, other), entry.key) if old and other else ()
            yield EntryChange(entry.dataset, entry.workflow, entry.outcome, entry.message or why, wanted)
            if entry.version is None:
                continue
            why = ""
        if other is None or other.version is None or old is None:
            yield EntryChange(entry.dataset, entry.workflow, "added", why or "new")
        elif other.version != entry.version:
            keys = _version_key(old, other), _version_key(new, entry)
            found = tuple(_of_values(_values(then, other), _values(now, entry)))
            why = ("; ".join(reasons(*keys)) or why or SAME) if all(keys) else why or UNKNOWN
            yield EntryChange(entry.dataset, entry.workflow, "redone", why, _of_key(*keys), found, len(found))
    for dataset, workflow in before:
        yield EntryChange(dataset, workflow, "removed", "no longer in the manifest")


def _version_key(release: ReleaseFolder, entry: EntryRecord) -> Key:
    """With which key the version of an entry was made; that of one that failed or waits is what it is to have."""
    if entry.outcome in ("made", "kept"):
        return entry.key
    maker = find_release(release.root, entry.version) if entry.version else None
    return next((one.key for one in maker.record.entries if _name(one) == _name(entry)), {}) if maker else {}


def _name(entry: EntryRecord) -> tuple[str, str]:
    return entry.dataset, entry.workflow


def _of_key(before: Key, now: Key) -> tuple[KeyChange, ...]:
    if not before or not now:
        return ()
    old, new = _flat(before), _flat(now)
    return tuple(
        KeyChange(name, _shown(old.get(name, "")), _shown(new.get(name, "")))
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    )


def _flat(key: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in key.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    text = CHECKSUM.sub(lambda found: f"{found[0][:CHECKSUM_SHOWN]}…", text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


Values = dict[tuple[str, str, str, str], float | None]


def _values(written: Written, entry: EntryRecord) -> Values:
    """The statistics of an entry in a catalogue, in its order."""
    return {
        (row["region"], row["label"], row["statistic"], row["unit"]): row["value"] for row in written.rows_of(entry)
    }


def _of_values(old: Values, new: Values) -> Iterator[ValueChange]:
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            yield ValueChange(*key, old.get(key), new.get(key))


def write_changes(root: Path, identifier: str, since: str | None = None) -> Changes:
    """Compare a release with one before it and write changes.csv into it; a row for each value that changed.

    since : the release to compare with, None for the newest before it that has a catalogue.
    Raises RunError where one of them cannot be read, StorageError where the disk refuses.
    """
    new = open_release(root, identifier)
    old, damaged = (open_release(root, since), ()) if since is not None else previous_release(new)
    found = []
    try:
        with whole_file(new.path / "changes.csv") as file, as_text(file) as text:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(CSV_COLUMNS)
            for entry in changed_entries(old, new):
                writer.writerows([safe_cell(cell) for cell in row] for row in _table_rows(entry))
                found.append(shortened(entry))
    except OSError as error:
        raise StorageError(
            f"{new.path / 'changes.csv'} could not be written: {error.strerror or error}; make room or mend the"
            " permissions there, then run `voxcaliper atlas report`."
        ) from error
    kept = len({_name(entry) for entry in new.record.entries} - {(one.dataset, one.workflow) for one in found})
    return Changes(old.record.identifier if old else None, kept, tuple(found), damaged)


def _table_rows(entry: EntryChange) -> Iterator[tuple[Any, ...]]:
    """A row for each value; one row without a value where there is none."""
    parts = "; ".join(f"{part.name}: {part.old} → {part.new}" for part in entry.key)
    head = (entry.dataset, entry.workflow, entry.kind, entry.why, parts)
    for value in entry.values:
        yield *head, *value, value.difference, value.relative
    if not entry.values:
        yield *head, *[None] * (len(CSV_COLUMNS) - len(head))
