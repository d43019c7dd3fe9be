"""The page of a release: what is in it, what failed, what changed, every entry, and thickness by organ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.files import write_whole
from pipeline.report.atlas_content import AtlasContent, AtlasEntry, EntryChange, Outcome, ValueChange
from pipeline.report.atlas_figures import PLOT, axis_of, organ_plots, thumbnail_address, y
from pipeline.report.comparison_measures import in_words
from pipeline.report.numbers import MISSING, THIN, count, significant
from pipeline.report.templates import rendered

TEMPLATE = "atlas.html.j2"
REDIRECT = "atlas_redirect.html.j2"
OUTCOMES: tuple[Outcome, ...] = ("failed", "waiting", "made", "kept")
"""In the order in which a reader wants to know."""
OPEN_CHANGES = 40
"""A longer list of changes comes folded."""
MARKS = {"added": "new", "redone": "made again", "removed": "removed", "failed": "failed", "waiting": "waiting"}
QUANTILE = re.compile(r"quantiles\.(0\.\d+)")
UNIT = re.compile(r" (\((µm|µm²|µm³|mm³)\)|um)$")
NO_ORGAN = "no organ stated"


def render_release(content: AtlasContent) -> str:
    """The whole page as text. Equal content gives equal text."""
    entries = content.entries
    axis = axis_of(entries)
    outcomes = Counter(entry.outcome for entry in entries)
    return rendered(
        TEMPLATE,
        content=content,
        entries=[(entry, thumbnail_address(entry.thumbnail) if entry.thumbnail else None) for entry in entries],
        troubles=[entry for entry in entries if entry.outcome in ("failed", "waiting")],
        outcomes=[(name, outcomes[name]) for name in OUTCOMES if outcomes[name]],
        datasets=len({entry.dataset for entry in entries}),
        donors=len({entry.donor for entry in entries if entry.donor}),
        organs=sorted({entry.organ for entry in entries if entry.organ}),
        volume_um3=sum(entry.volume_um3 or 0.0 for entry in entries),
        axis=axis,
        plots=organ_plots(entries, axis) if axis else [],
        plot=PLOT,
        levels=[(y(share), f"{share:.0%}") for share in (0.0, 0.5, 1.0)],
        changes=_by_kind(content.changes.entries),
        open_changes=OPEN_CHANGES,
        marks=MARKS,
        no_organ=NO_ORGAN,
        size_of=size_of,
        statistic_in_words=statistic_in_words,
        number_of=number_of,
        relative_of=relative_of,
    )


def write_release(path: Path, content: AtlasContent) -> None:
    """Write the page; the file appears whole or not at all. Raises StorageError when it cannot be written."""
    write_whole(path, render_release(content))


def write_redirect(path: Path, address: str, title: str) -> None:
    """Write a page that sends its reader on. address : relative to it. Raises StorageError."""
    write_whole(path, rendered(REDIRECT, address=address, title=title))


def _by_kind(changes: Sequence[EntryChange]) -> list[tuple[str, list[EntryChange]]]:
    """Changes that are no trouble, those made again first; troubles have a section of their own."""
    return [
        (kind, found) for kind in ("redone", "added", "removed") if (found := [c for c in changes if c.kind == kind])
    ]


def size_of(entry: AtlasEntry) -> str:
    """The voxel size, one number where all sides are alike."""
    if entry.voxel_um is None:
        return MISSING
    sides = [f"{side:g}" for side in entry.voxel_um]
    return sides[0] if len(set(sides)) == 1 else " × ".join(sides)


def statistic_in_words(value: ValueChange) -> str:
    """The name of a statistic for readers, without its unit, and the part of the volume that it is of."""
    name = QUANTILE.sub(_quantile_in_words, value.statistic)
    words = ", ".join(UNIT.sub("", in_words(part)) for part in name.split("."))
    label = "" if value.label == "all" else f" · label {value.label}"
    return words + label + ("" if value.region == "all" else f" · region {value.region}")


def _quantile_in_words(found: re.Match[str]) -> str:
    return "median" if found[1] == "0.5" else f"{100 * float(found[1]):g} % quantile"


def number_of(value: float | None, unit: str) -> str:
    """A value with its unit."""
    if value is None:
        return "undefined"
    whole = value.is_integer() and abs(value) < 1e15
    text = count(int(value)).replace("-", "−") if whole and unit in ("voxels", "1") else _significant(value)
    return text if unit == "1" else f"{text}{THIN}{unit}"


def _significant(value: float) -> str:
    return "∞" if value == float("inf") else significant(value, 5)


def relative_of(value: ValueChange) -> str:
    """By how much a value changed: in percent, or as a difference where there are none."""
    relative = value.relative
    if relative is None:
        return ""
    if abs(relative) < 1e-4:
        return f"{'+' if relative > 0 else '−'}< 0.01 %"
    return f"{relative:+.2%}".replace("-", "−").replace("%", " %")
