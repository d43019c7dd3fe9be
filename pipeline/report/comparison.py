"""The page of a comparison: overlap, surface, topology and thickness side by side, and where they disagree."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.files import write_whole
from pipeline.report import comparison_figures as figures
from pipeline.report.comparison_measures import KINDS, Measures, Notes, Row, Value, in_words
from pipeline.report.content import ComparisonContent
from pipeline.report.disagreement import FOREGROUND, Kind, disagreements, labels_of, number
from pipeline.report.templates import rendered

TEMPLATE = "comparison.html.j2"
OPEN_SENTENCES = 6
"""More sentences than these come folded."""
OPEN_ROWS = 50
"""A longer table of regions comes folded."""
PRINTED_LABELS = 12
"""Of more labels a print holds the table, not every label's measures."""

EMPTY_PLANES = "The planes that were looked at hold no foreground."
SEVERITY: tuple[Kind, ...] = ("presence", "topology", "thickness", "surface", "objects", "overlap")
"""The order of sentences."""


class Card(NamedTuple):
    """The measures of one kind. odd : whether a sentence speaks of them."""

    kind: str
    rows: list[Row]
    odd: bool

    @property
    def short(self) -> list[Row]:
        return [row for row in self.rows if row.short]


class Entry(NamedTuple):
    """A label, or the foreground, ready for the page.

    cells : its line in the table of labels, by column. others : what is no measure of the four kinds.
    """

    id: str
    title: str
    cards: list[Card]
    cells: Mapping[tuple[str, str], Value]
    odd: set[str]
    distributions: figures.Distributions | None
    distances: list[Row]
    others: list[Card]


def render_comparison(content: ComparisonContent) -> str:
    """The whole page as text. Equal content gives equal text."""
    comparison = content.comparison
    overall = comparison.get("overall") or {}
    voxel_size_um = content.voxel_size_um
    found = disagreements(comparison, voxel_size_um)
    notes = Notes(comparison.get("reasons") or {})

    def entry(name: str, label: Mapping[str, Any]) -> Entry:
        where = f"overall.{name}" if name == FOREGROUND else f"labels.{name}"
        measures = Measures(label, where, voxel_size_um, notes)
        odd: set[str] = {"overlap" if item.kind == "presence" else item.kind for item in found if item.label == name}
        rows = measures.of_kinds()
        pair = content.histograms.get(name)
        return Entry(
            id=name,
            title="Foreground" if name == FOREGROUND else f"Label {name}",
            cards=[Card(kind, rows[kind], kind in odd) for kind in KINDS if rows[kind]],
            cells=measures.cells(),
            odd=odd,
            distributions=figures.distributions(pair, min(voxel_size_um)) if pair else None,
            distances=[row for row in rows["thickness"] if len(row.values) == 1],
            others=_cards(measures.others(), odd),
        )

    entries = [entry(name, label) for name, label in labels_of(comparison)]
    averages = [
        (in_words(name), Measures(mapping, f"overall.{name}", voxel_size_um, notes).cells())
        for name, mapping in overall.items()
        if name != FOREGROUND and isinstance(mapping, Mapping) and "dice" in mapping
    ]
    regions = [
        (region, name, Measures(label, f"regions.{region}.labels.{name}", voxel_size_um, notes).cells())
        for region, part in sorted(comparison.get("regions", {}).items(), key=lambda item: int(item[0]))
        for name, label in labels_of(part)
    ]
    single = len(entries) == 1
    whole = entries[0] if single else entry(FOREGROUND, overall[FOREGROUND]) if overall.get(FOREGROUND) else None
    beyond = {
        name: value
        for name, value in overall.items()
        if name != FOREGROUND and not (isinstance(value, Mapping) and "dice" in value)
    }
    whole_volume = Measures(beyond, "overall", voxel_size_um, notes)
    limit_um = figures.thickness_limit_um(content.histograms.values(), content.slices)
    shown = any(plane.reference.any() or plane.prediction.any() for plane in content.slices)
    return rendered(
        TEMPLATE,
        content=content,
        sentences=sorted(found, key=lambda item: SEVERITY.index(item.kind)),
        spoken_of=len({item.label for item in found} - {FOREGROUND}),
        open_sentences=OPEN_SENTENCES,
        agreement=None if found else _agreement(comparison),
        whole=whole,
        single=single,
        entries=entries,
        columns=_columns(cells for cells in [*(e.cells for e in entries), *(cells for _, cells in averages)]),
        averages=averages,
        regions=regions,
        region_columns=_columns(cells for _, _, cells in regions),
        open_rows=OPEN_ROWS,
        overall=_cards(whole_volume.others(known={"reasons"}, single="labels and background together")),
        planes=figures.planes(content.slices, limit_um) if shown else None,
        planes_note=content.slices_note or (EMPTY_PLANES if content.slices and not shown else ""),
        printed_labels=PRINTED_LABELS,
        notes=notes.texts,
        palette=figures.PALETTE,
        plot=figures.PLOT,
    )


def write_comparison(path: Path, content: ComparisonContent) -> None:
    """Write the page; the file appears whole or not at all. Raises StorageError when it cannot be written."""
    write_whole(path, render_comparison(content))


def _cards(groups: Mapping[str, list[Row]], odd: Container[str] = ()) -> list[Card]:
    return [Card(in_words(name), rows, name in odd) for name, rows in groups.items() if rows]


def _columns(lines: Iterable[Mapping[tuple[str, str], Value]]) -> list[tuple[str, list[str]]]:
    """Kinds with the names of their columns in the table of labels, as many as any label has."""
    columns: dict[str, dict[str, None]] = {kind: {} for kind in KINDS}
    for cells in lines:
        for kind, name in cells:
            columns[kind].setdefault(name)
    return [(kind, list(names)) for kind, names in columns.items() if names]


def _agreement(comparison: Mapping[str, Any]) -> str:
    """What is said when no sentence is."""
    dice = [number(label.get("dice")) for _, label in labels_of(comparison)]
    known = [value for value in dice if not math.isnan(value)]
    if not known:
        return "There is nothing to compare: neither volume holds a voxel of these labels."
    low, high = f"{min(known):.3f}", f"{max(known):.3f}"
    return (
        f"Dice is {low if low == high else f'between {low} and {high}'}, and nothing contradicts it: no high Dice comes"
        " with a different surface, topology or thickness, and no low one with close surfaces."
    )
