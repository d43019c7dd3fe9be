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

import pyarrow.parquet

from pipeline.errors import RunError, StorageError
from pipeline.files import whole_file
from pipeline.report import Changes, EntryChange, KeyChange, ValueChange
from workflows.atlas.flattening import ALL
from workflows.atlas.records import EntryRecord
from workflows.atlas.release_folder import ReleaseFolder, as_text, earlier_releases, open_release

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
LONGEST = 60
"""Characters of a value that is shown; longer ones are cut."""


def shortened(entry: EntryChange) -> EntryChange:
    """With the few values that tell most."""
    return replace(entry, values=tuple(sorted(entry.values, key=_rank)[:SHOWN_VALUES]))


def _rank(value: ValueChange) -> tuple[bool, bool, int, float]:
    """Of the whole before parts; what everybody asks for before the rest; then by how much."""
    headline = HEADLINES.index(value.statistic) if value.statistic in HEADLINES else len(HEADLINES)
    return value.region != ALL, value.label != ALL, headline, -abs(value.relative or 0.0)


def previous_release(release: ReleaseFolder) -> ReleaseFolder | None:
    """The newest release before one that has a catalogue to compare with."""
    return next((one for one in earlier_releases(release) if one.catalogue.exists()), None)


def changed_entries(old: ReleaseFolder | None, new: ReleaseFolder) -> Iterator[EntryChange]:
    """Every entry that was not kept as it was, one at a time. old : None for a first release, whose entries are new.

    Both have their catalogues. Raises RunError where one of them is missing or damaged.
    """
    before = {(entry.dataset, entry.workflow): entry for entry in old.record.entries} if old else {}
    for entry in new.record.entries:
        found = _of_entry(old, new, before.pop((entry.dataset, entry.workflow), None), entry)
        if found is not None:
            yield found
    for dataset, workflow in before:
        yield EntryChange(dataset, workflow, "removed", "no longer in the manifest")


def _of_entry(
    old: ReleaseFolder | None, new: ReleaseFolder, before: EntryRecord | None, now: EntryRecord
) -> EntryChange | None:
    why = "; ".join(now.reasons)
    if now.outcome in ("failed", "waiting"):
        return EntryChange(now.dataset, now.workflow, now.outcome, now.message or why, _of_key(before, now))
    if before is None or before.version is None or old is None:
        return EntryChange(now.dataset, now.workflow, "added", why or "new")
    if before.version == now.version:
        return None
    values = tuple(_of_values(_values(old, now), _values(new, now)))
    return EntryChange(now.dataset, now.workflow, "redone", why, _of_key(before, now), values, len(values))


def _of_key(before: EntryRecord | None, now: EntryRecord) -> tuple[KeyChange, ...]:
    if before is None or not before.key or not now.key:
        return ()
    old, new = _flat(before.key), _flat(now.key)
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


def _values(release: ReleaseFolder, entry: EntryRecord) -> Values:
    """The statistics of an entry in the catalogue of a release, in its order."""
    which = [("dataset", "==", entry.dataset), ("workflow", "==", entry.workflow)]
    try:
        table = pyarrow.parquet.read_table(release.catalogue, columns=COMPARED, filters=which)
    except FileNotFoundError as error:
        raise RunError(f"{release.catalogue} is missing; make it with `voxcaliper atlas report`.") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise RunError(f"{release.catalogue} is damaged; remove it and run `voxcaliper atlas report`.") from error
    *names, values = (table[name].to_pylist() for name in COMPARED)
    return {key: value for *key_, value in zip(*names, values, strict=True) if (key := tuple(key_))[2] is not None}


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
    old = open_release(root, since) if since is not None else previous_release(new)
    found = []
    try:
        with whole_file(new.path / "changes.csv") as file, as_text(file) as text:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(CSV_COLUMNS)
            for entry in changed_entries(old, new):
                writer.writerows(_table_rows(entry))
                found.append(shortened(entry))
    except OSError as error:
        raise StorageError(
            f"{new.path / 'changes.csv'} could not be written: {error.strerror or error}; make room or mend the"
            " permissions there, then run `voxcaliper atlas report`."
        ) from error
    kept = sum(entry.outcome == "kept" for entry in new.record.entries)
    return Changes(old.record.identifier if old else None, kept, tuple(found))


def _table_rows(entry: EntryChange) -> Iterator[tuple[Any, ...]]:
    """A row for each value; one row without a value where there is none."""
    parts = "; ".join(f"{part.name}: {part.old} → {part.new}" for part in entry.key)
    head = (entry.dataset, entry.workflow, entry.kind, entry.why, parts)
    for value in entry.values:
        yield *head, *value, value.difference, value.relative
    if not entry.values:
        yield *head, *[None] * (len(CSV_COLUMNS) - len(head))
