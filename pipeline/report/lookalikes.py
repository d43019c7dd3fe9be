"""The page of lookalikes: predictions of one reference in a row each, so that what Dice hides is seen at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.files import write_whole
from pipeline.report import comparison_figures as figures
from pipeline.report.comparison_measures import KINDS, Measures, Notes, Value
from pipeline.report.content import ComparedSlice, LookalikesContent
from pipeline.report.disagreement import Disagreement, disagreements, labels_of, number
from pipeline.report.numbers import position
from pipeline.report.slices import third_axis
from pipeline.report.templates import rendered

TEMPLATE = "lookalikes.html.j2"
SAME_DICE = 0.001
"""Predictions whose Dice differ by no more count as equal in it."""

Cells = Mapping[tuple[str, str], Value]


class Line(NamedTuple):
    """A row of the page. odd : the kinds of measures that contradict Dice."""

    name: str
    report: str | None
    panels: list[figures.Panel]
    aspect: float
    pixelated: bool
    cells: Cells
    odd: set[str]
    sentences: list[Disagreement]


def render_lookalikes(content: LookalikesContent) -> str:
    """The whole page as text. Equal content gives equal text."""
    notes = Notes({})
    limit_um = figures.thickness_limit_um([], [item.slice for item in content.predictions])
    first = content.predictions[0]
    lines = [
        Line(
            "reference", None, _reference_panels(first.slice, limit_um), *_shape(first.slice),
            _measures(content, 0, notes).of_side("reference"), set(), [],
        )
    ]  # fmt: skip
    for i, item in enumerate(content.predictions):
        found = disagreements(item.comparison, content.voxel_size_um)
        panels = [figures.Panel(figures.picture(figures.agreement_pixels(item.slice)), f"Agreement of {item.name}")]
        panels += _thickness(item.slice.prediction_thickness_um, item.name, limit_um)
        lines.append(
            Line(
                item.name, item.report, panels, *_shape(item.slice), _measures(content, i, notes).of_side("prediction"),
                {entry.kind for entry in found}, found,
            )
        )  # fmt: skip
    columns: dict[str, dict[str, None]] = {kind: {} for kind in KINDS}
    for line in lines[1:]:
        for kind, name in line.cells:
            columns[kind].setdefault(name)
    dice = [number(labels_of(item.comparison)[0][1].get("dice")) for item in content.predictions]
    return rendered(
        TEMPLATE,
        content=content,
        lines=lines,
        columns=[(kind, list(names)) for kind, names in columns.items() if names],
        dice=f"{dice[0]:.3f}" if max(dice) - min(dice) <= SAME_DICE else None,
        thick=len(lines[0].panels) > 1,
        thickness=figures.thickness_scale(limit_um) if len(lines[0].panels) > 1 else None,
        confused=False,
        plane=f"{first.slice.plane}, {third_axis(first.slice.plane)} = {position(first.slice.position_um)} µm",
        notes=notes.texts,
        palette=figures.PALETTE,
    )


def write_lookalikes(path: Path, content: LookalikesContent) -> None:
    """Write the page; the file appears whole or not at all. Raises StorageError when it cannot be written."""
    write_whole(path, render_lookalikes(content))


def _measures(content: LookalikesContent, which: int, notes: Notes) -> Measures:
    name, label = labels_of(content.predictions[which].comparison)[0]
    return Measures(label, f"labels.{name}", content.voxel_size_um, notes)


def _reference_panels(plane: ComparedSlice, limit_um: float) -> list[figures.Panel]:
    """The reference as if it agreed with itself."""
    itself = ComparedSlice(plane.plane, plane.position_um, plane.reference, plane.reference, plane.spacing_um)
    pixels = figures.agreement_pixels(itself)
    return [
        figures.Panel(figures.picture(pixels), "The reference"),
        *_thickness(plane.reference_thickness_um, "the reference", limit_um),
    ]


def _thickness(thickness: NDArray[np.float32] | None, name: str, limit_um: float) -> list[figures.Panel]:
    if thickness is None:
        return []
    return [figures.Panel(figures.picture(figures.thickness_pixels(thickness, limit_um)), f"Thickness of {name}")]


def _shape(plane: ComparedSlice) -> tuple[float, bool]:
    """Width over height, and whether voxels are shown as squares."""
    width, height = figures.size_um(plane)
    return width / height, plane.reference.shape[1] <= figures.PIXELATED
