"""The page of a description: size, place and grey values of every structure, and planes of the volume."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.files import write_whole
from pipeline.report import comparison_figures as figures
from pipeline.report.comparison_measures import in_words
from pipeline.report.content import LabelledSlice, StructuresContent
from pipeline.report.templates import rendered

TEMPLATE = "structures.html.j2"
OPEN_ROWS = 150
"""A longer table comes folded."""
GOLDEN = 0.6180339887498949
"""Steps of the hue, in turns: colours of neighbouring labels differ much."""
OPACITY = 0.55
"""Of labels over grey values."""
GREY_PERCENT = (1.0, 99.0)
"""Grey values from black to white."""


def colour_of(label: int) -> tuple[int, int, int]:
    """Red, green and blue of a label, the same on every page; lightness changes too, for readers who see no hues."""
    turn = label * GOLDEN
    red, green, blue = colorsys.hls_to_rgb(turn % 1.0, 0.48 + 0.2 * ((3 * turn) % 1.0), 0.62)
    return round(255 * red), round(255 * green), round(255 * blue)


def label_pixels(plane: LabelledSlice) -> figures.Pixels:
    """RGBA (row, column, 4): labels in their colours, over the grey values where there are some."""
    found, place = np.unique(plane.labels, return_inverse=True)
    colours = np.array([(*colour_of(int(label)), 255) for label in found], np.uint8)
    pixels = colours[place.reshape(plane.labels.shape)]
    background = plane.labels == 0
    if plane.grey is None:
        pixels[background] = (*bytes.fromhex(figures.PALETTE["night"][1:]), 255)
        return pixels
    shade = _shades(plane.grey)[..., None]
    mixed = OPACITY * pixels[..., :3] + (1 - OPACITY) * shade
    pixels[..., :3] = np.where(background[..., None], shade, mixed).astype(np.uint8)
    return pixels


def _shades(grey: NDArray[Any]) -> NDArray[np.float64]:
    """Grey values as 0 to 255."""
    values = np.nan_to_num(grey.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = np.percentile(values, GREY_PERCENT)
    return np.asarray(255 * np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros(grey.shape))


def render_structures(content: StructuresContent) -> str:
    """The whole page as text. Equal content gives equal text."""
    labels = sorted(content.statistics["labels"].items(), key=lambda item: int(item[0]))
    shown = any(plane.labels.any() for plane in content.slices)
    per_um = figures.share_per_um(content.slices) if shown else 0.0
    return rendered(
        TEMPLATE,
        content=content,
        labels=[(name, "#{:02x}{:02x}{:02x}".format(*colour_of(int(name))), row) for name, row in labels],
        intensities=_intensities(row for _, row in labels),
        in_words=in_words,
        voxels=sum(row["voxels"] for _, row in labels),
        incomplete=sum(row["incomplete"] for _, row in labels),
        planes=[figures.plane_row(plane, [(label_pixels(plane), "Labels")], per_um) for plane in content.slices]
        if shown
        else [],
        open_rows=OPEN_ROWS,
    )


def write_structures(path: Path, content: StructuresContent) -> None:
    """Write the page; the file appears whole or not at all. Raises StorageError when it cannot be written."""
    write_whole(path, render_structures(content))


def _intensities(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the grey-value statistics, where there are some."""
    return list(dict.fromkeys(name for row in rows for name in row.get("intensity", {})))
