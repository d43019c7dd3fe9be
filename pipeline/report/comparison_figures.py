"""Figures of a comparison: planes with agreement and thickness, and two distributions over each other.

Pictures are plain pixels; scale bars, keys and titles are HTML around them, so that they follow the reader's theme and
fonts. One pair of colours throughout: what is the reference's alone is orange, what is the prediction's alone is blue.
They differ in lightness too, for colour-blind readers and grey prints (after Okabe and Ito 2008).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib.image
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex
from numpy.typing import NDArray

from pipeline.report.content import ComparedSlice, HistogramPair, LabelledSlice, ThicknessHistogram
from pipeline.report.figures import COLOURS, NIGHT, colour_limit_um, round_below
from pipeline.report.numbers import length, position
from pipeline.report.slices import third_axis
from pipeline.report.templates import embedded
from pipeline.statistics import thickness_um

AGREEMENT, MISSED, FALSE, CONFUSED = "#7d8791", "#e0641c", "#56b4e9", "#f6e65a"
"""Both have the label; only the reference has one; only the prediction has one; both have one, but not the same."""
PALETTE = {"agreement": AGREEMENT, "missed": MISSED, "false": FALSE, "confused": CONFUSED, "night": NIGHT}
DIFFERENCE = LinearSegmentedColormap.from_list(
    "difference", ["#ffc08f", "#e0641c", "#59626c", "#2b8fd0", "#a6defc"], N=256
)  # fmt: skip
"""Orange where the reference is thicker, blue where the prediction is; grey where both are equal."""
TALLEST = 1.5
"""Height of the tallest plane in widths of its column; taller volumes are shown narrower."""
PIXELATED = 400
"""A plane with no more columns shows its voxels as squares; a finer one is smoothed as it is shrunk."""
BINS = 48
PLOT_WIDTH, PLOT_HEIGHT = 640.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 8.0, 8.0, 40.0
"""Margins of the plot of distributions, in its own units."""
PLOT = {
    "width": PLOT_WIDTH, "height": PLOT_HEIGHT, "left": LEFT, "right": PLOT_WIDTH - RIGHT, "top": TOP,
    "bottom": PLOT_HEIGHT - BOTTOM,
}  # fmt: skip

Pixels = NDArray[np.uint8]
Shown = ComparedSlice | LabelledSlice


class Panel(NamedTuple):
    """A picture of a plane. address : of its pixels. description : for readers who cannot see it."""

    address: str
    description: str


class PlaneRow(NamedTuple):
    """A plane with its pictures, all of the same size.

    width : of the column, in percent. aspect : width over height. bar : width of the scale bar, in percent of the
    picture's, and bar_text its length.
    """

    title: str
    panels: list[Panel]
    width: float
    aspect: float
    pixelated: bool
    bar: float
    bar_text: str


class Scale(NamedTuple):
    """A key of colours: a CSS gradient, with values beside it at percent of its width."""

    gradient: str
    ticks: list[tuple[float, str]]


class Planes(NamedTuple):
    """The planes of a comparison, ready for the page. confused : whether any voxel has two different labels."""

    rows: list[PlaneRow]
    columns: list[str]
    thickness: Scale | None
    difference: Scale | None
    confused: bool


def agreement_pixels(plane: ComparedSlice) -> Pixels:
    """RGBA (row, column, 4) of where two segmentations agree."""
    reference, prediction = plane.reference, plane.prediction
    pixels = np.empty((*reference.shape, 4), np.uint8)
    pixels[:] = _rgba(NIGHT)
    pixels[(reference != 0) & (prediction == 0)] = _rgba(MISSED)
    pixels[(reference == 0) & (prediction != 0)] = _rgba(FALSE)
    both = (reference != 0) & (prediction != 0)
    pixels[both & (reference == prediction)] = _rgba(AGREEMENT)
    pixels[_confused(plane)] = _rgba(CONFUSED)
    return pixels


def thickness_pixels(thickness: NDArray[np.float32], limit_um: float) -> Pixels:
    """RGBA (row, column, 4) of local thickness."""
    pixels = np.asarray(COLOURS(np.clip(thickness / limit_um, 0.0, 1.0), bytes=True), np.uint8)
    pixels[thickness <= 0] = _rgba(NIGHT)
    return pixels


def difference_pixels(reference: NDArray[np.float32], prediction: NDArray[np.float32], limit_um: float) -> Pixels:
    """RGBA (row, column, 4) of the prediction's thickness less the reference's, where both are foreground."""
    share = 0.5 + 0.5 * np.clip((prediction - reference) / limit_um, -1.0, 1.0)
    pixels = np.asarray(DIFFERENCE(share, bytes=True), np.uint8)
    pixels[(reference <= 0) | (prediction <= 0)] = _rgba(NIGHT)
    return pixels


def thickness_limit_um(histograms: Iterable[HistogramPair], slices: Sequence[ComparedSlice]) -> float:
    """Upper end of the colours for reference and prediction alike; 1 where there is no thickness."""
    whole = [histogram for pair in histograms for histogram in pair if histogram.voxels.size]
    if whole:
        return max(map(colour_limit_um, whole))
    planes = [t for s in slices for t in (s.reference_thickness_um, s.prediction_thickness_um) if t is not None]
    return max((float(t.max()) for t in planes if t.any()), default=1.0)


def planes(slices: Sequence[ComparedSlice], limit_um: float) -> Planes:
    """Agreement, thickness of both in one scale, and their difference: a row a plane, in one scale of length.

    limit_um : upper end of the colours of thickness.
    """
    measured = all(s.reference_thickness_um is not None and s.prediction_thickness_um is not None for s in slices)
    columns = ["Agreement", "Thickness, reference", "Thickness, prediction", "Difference"][: 4 if measured else 1]
    difference_um = 0.5 * limit_um
    per_um = share_per_um(slices)
    rows = []
    for s in slices:
        pictures = [agreement_pixels(s)]
        if s.reference_thickness_um is not None and s.prediction_thickness_um is not None and measured:
            pair = (s.reference_thickness_um, s.prediction_thickness_um)
            pictures += [*(thickness_pixels(t, limit_um) for t in pair), difference_pixels(*pair, difference_um)]
        rows.append(plane_row(s, list(zip(pictures, columns, strict=True)), per_um))
    return Planes(
        rows,
        columns,
        thickness_scale(limit_um) if measured else None,
        _scale(DIFFERENCE, -difference_um, difference_um) if measured else None,
        any(_confused(s).any() for s in slices),
    )


def share_per_um(slices: Sequence[Shown]) -> float:
    """Share of a column's width for a µm, so that the widest plane fills it and none becomes too tall."""
    widest, highest = (max(size_um(s)[i] for s in slices) for i in (0, 1))
    return min(1.0, TALLEST * widest / highest) / widest


def plane_row(plane: Shown, pictures: Sequence[tuple[Pixels, str]], per_um: float) -> PlaneRow:
    """Pictures of a plane with what they show, in a row of its own. per_um : share of the column for a µm."""
    width, height = size_um(plane)
    bar_um = round_below(0.4 * width)
    where = f"{plane.plane}, {third_axis(plane.plane)} = {position(plane.position_um)} µm"
    return PlaneRow(
        title=where,
        panels=[Panel(picture(pixels), f"{name}, {where}") for pixels, name in pictures],
        width=100 * per_um * width,
        aspect=width / height,
        pixelated=round(width / plane.spacing_um[1]) <= PIXELATED,
        bar=100 * bar_um / width,
        bar_text=length(bar_um),
    )


def thickness_scale(limit_um: float) -> Scale:
    """The key of the colours of thickness."""
    return _scale(COLOURS, 0.0, limit_um)


def picture(pixels: Pixels) -> str:
    """The address of a PNG of these pixels that needs no file."""
    image = io.BytesIO()
    matplotlib.image.imsave(image, pixels, format="png", metadata={"Software": None})  # type: ignore[dict-item]
    return embedded("image/png", image.getvalue())


class Outline(NamedTuple):
    """A distribution as a path of the plot. mean : where its mean stands, None without a voxel."""

    path: str
    mean: float | None


class Distributions(NamedTuple):
    """Two distributions in one plot. Ticks are positions with their text."""

    reference: Outline
    prediction: Outline
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]


def distributions(pair: HistogramPair, voxel_um: float) -> Distributions | None:
    """Shares of the volume over thickness, each of its own foreground; None where neither has a voxel.

    Bins are a whole number of voxels wide and the same for both. voxel_um : the smallest distance of voxel centres.
    """
    largest = [float(_thickness_um(h)[-1]) for h in pair if h.voxels.size]
    if not largest:
        return None
    bin_um = voxel_um * max(1, math.ceil(max(largest) / voxel_um / BINS))
    count = int(max(largest) / bin_um + 0.5 + 1e-9) + 1
    shares = [_shares(h, bin_um, count) for h in pair]
    right_um = (count + 0.5) * bin_um
    top = 1.08 * max(float(share.max()) for share in shares)

    def x(um: float) -> float:
        return round(LEFT + (PLOT_WIDTH - LEFT - RIGHT) * um / right_um, 1)

    def y(share: float) -> float:
        return round(PLOT_HEIGHT - BOTTOM - (PLOT_HEIGHT - TOP - BOTTOM) * share / top, 1)

    outlines = []
    for histogram, share in zip(pair, shares, strict=True):
        steps = [f"M{x(0.0)} {y(0.0)}"]
        for i, value in enumerate(share.tolist()):
            steps += [f"V{y(value)}", f"H{x((i + 0.5) * bin_um)}"]
        n = int(histogram.voxels.sum())
        mean = float(_thickness_um(histogram) @ histogram.voxels.astype(np.float64)) / n if n else None
        outlines.append(Outline("".join([*steps, f"V{y(0.0)}Z"]) if n else "", None if mean is None else x(mean)))
    return Distributions(
        reference=outlines[0],
        prediction=outlines[1],
        across=[(x(value), position(value)) for value in _ticks(0.0, right_um, 8)],
        up=[(y(value), position(100 * value)) for value in _ticks(0.0, top, 4)],
    )


def _thickness_um(histogram: ThicknessHistogram) -> NDArray[np.float64]:
    return thickness_um(histogram.squared_radius, histogram.unit_um)


def _shares(histogram: ThicknessHistogram, bin_um: float, count: int) -> NDArray[np.float64]:
    # A diameter on an edge belongs to the bin above, whatever the rounding of h / width.
    index = np.floor(_thickness_um(histogram) / bin_um + 0.5 + 1e-9).astype(np.int64)
    voxels = np.bincount(index, weights=histogram.voxels.astype(np.float64), minlength=count)
    return np.asarray(voxels / max(1, int(histogram.voxels.sum())), np.float64)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round values in an interval that holds or starts at zero: no more than this many steps."""
    step = round_below((high - low) / most)
    while (high - low) / step > most:
        step = round_below(2.5 * step)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _scale(colours: Colormap, low: float, high: float) -> Scale:
    stops = ", ".join(to_hex(colours(share)) for share in np.linspace(0.0, 1.0, 17))
    ticks = [(round(100 * (value - low) / (high - low), 2), _signless(value)) for value in _ticks(low, high, 5)]
    return Scale(f"linear-gradient(to right, {stops})", ticks)


def _signless(value: float) -> str:
    return position(value) if value else "0"


def size_um(plane: Shown) -> tuple[float, float]:
    """Width and height of a plane."""
    rows, columns = (plane.labels if isinstance(plane, LabelledSlice) else plane.reference).shape
    return columns * plane.spacing_um[1], rows * plane.spacing_um[0]


def _confused(plane: ComparedSlice) -> NDArray[np.bool_]:
    differ: Any = (plane.reference != plane.prediction) & (plane.reference != 0) & (plane.prediction != 0)
    return np.asarray(differ, np.bool_)


def _rgba(colour: str) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue, 255
