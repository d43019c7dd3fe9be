"""The page of a release: what is in it, what failed, what changed, every entry, and thickness by organ."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.files import write_whole
from pipeline.report.atlas_content import AtlasContent, AtlasEntry, Outcome, ValueChange
from pipeline.report.atlas_figures import PLOT, axis_of, organ_plots, thumbnail_address, y
from pipeline.report.comparison_measures import in_words
from pipeline.report.numbers import MISSING, THIN, count, signed, significant
from pipeline.report.templates import rendered

TEMPLATE = "atlas.html.j2"
REDIRECT = "atlas_redirect.html.j2"
OUTCOMES: tuple[Outcome, ...] = ("failed", "waiting", "made", "kept")
"""In the order in which a reader wants to know."""
OPEN_CHANGES = 40
"""A longer list of changes comes folded."""
OPEN_GROUP = 12
"""More entries with the same trouble come folded."""
OTHERS = {"added": "new", "removed": "no longer in the release; what was published stays"}
"""Kinds of changes that need no more than a name; troubles have a section of their own."""
QUANTILE = re.compile(r"quantiles\.(0\.\d+)")
UNIT = re.compile(r" (\((µm|µm²|µm³|mm³)\)|um)$")
LEAST_SHARE = 1e-4
"""A smaller relative change is shown as a difference."""
LARGEST_WHOLE = 1e15
NO_ORGAN = "no organ stated"


def render_release(content: AtlasContent) -> str:
    """The whole page as text. Equal content gives equal text."""
    entries = content.entries
    axis = axis_of(entries)
    changed = {kind: [one for one in content.changes.entries if one.kind == kind] for kind in ("redone", *OTHERS)}
    outcomes = Counter(entry.outcome for entry in entries)
    return rendered(
        TEMPLATE,
        content=content,
        entries=[(entry, thumbnail_address(entry.thumbnail) if entry.thumbnail else None) for entry in entries],
        troubles=_troubles(entries),
        outcomes=[(name, outcomes[name]) for name in OUTCOMES if outcomes[name]],
        datasets=len({entry.dataset for entry in entries}),
        donors=len({entry.donor for entry in entries if entry.donor}),
        organs=sorted({entry.organ for entry in entries if entry.organ}),
        volume_um3=sum(entry.volume_um3 or 0.0 for entry in entries),
        axis=axis,
        plots=organ_plots(entries, axis) if axis else [],
        plot=PLOT,
        levels=[(y(share), f"{share:.0%}") for share in (0.0, 0.5, 1.0)],
        redone=changed["redone"],
        others=[(words, changed[kind]) for kind, words in OTHERS.items() if changed[kind]],
        open_changes=OPEN_CHANGES,
        open_group=OPEN_GROUP,
        no_organ=NO_ORGAN,
        size_of=size_of,
        statistic_in_words=statistic_in_words,
        number_of=number_of,
        change_of=change_of,
    )


def write_release(path: Path, content: AtlasContent) -> None:
    """Write the page; the file appears whole or not at all. Raises StorageError when it cannot be written."""
    write_whole(path, render_release(content))


def write_redirect(path: Path, address: str, title: str) -> None:
    """Write a page that sends its reader on. address : relative to it. Raises StorageError."""
    write_whole(path, rendered(REDIRECT, address=address, title=title))


def _troubles(entries: Sequence[AtlasEntry]) -> list[tuple[Outcome, str, list[AtlasEntry]]]:
    """Entries without the result that they should have, by outcome and sentence, failures first."""
    found: dict[tuple[Outcome, str], list[AtlasEntry]] = {}
    for outcome in ("failed", "waiting"):
        for entry in entries:
            if entry.outcome == outcome:
                found.setdefault((outcome, entry.reason), []).append(entry)
    return [(*key, group) for key, group in found.items()]


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
    return "undefined" if value is None else _with_unit(_plain(value, unit), unit)


def change_of(value: ValueChange) -> str:
    """By how much a value changed: in percent, or as it is where that would be next to nothing or tells nothing."""
    relative, difference = value.relative, value.difference
    if difference is None or math.isinf(difference):
        return ""
    if relative is None or abs(relative) < LEAST_SHARE:
        text = _plain(abs(difference), value.unit, digits=2)
        return _with_unit(f"{'−' if difference < 0 else '+'}{text}", value.unit)
    return f"{signed(100 * relative)}{THIN}%"


def _plain(value: float, unit: str, digits: int = 5) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    counted = unit in ("voxels", "1") or unit.startswith("(")
    whole = counted and value.is_integer() and abs(value) < LARGEST_WHOLE
    return count(int(value)).replace("-", "−") if whole else significant(value, digits)


def _with_unit(text: str, unit: str) -> str:
    return text if unit == "1" else f"{text}{THIN}{unit}"
