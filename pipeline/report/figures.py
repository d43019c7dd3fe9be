"""The report's figures. The one door to matplotlib, used as objects: no global figure, same bytes for same values."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.content import Comparison, Slice, ThicknessHistogram
from pipeline.report.numbers import length, position
from pipeline.report.slices import third_axis
from pipeline.statistics import thickness_um

INK, FAINT, NIGHT = "#1d2733", "#8a94a0", "#0b0f14"
BAR, CURVE = "#6f9fc8", "#b3402a"
# Perceptually uniform and safe for colour-blind readers; its darkest part is left out, for it would vanish in NIGHT.
COLOURS = LinearSegmentedColormap.from_list(
    "thickness", matplotlib.colormaps["inferno"](np.linspace(0.20, 1.0, 256)), N=256
)
FIGURE_WIDTH, LARGEST_HEIGHT, SLICE_DPI = 10.0, 11.0, 150
GAP, TITLE_HEIGHT = 0.16, 0.3
LEGEND_WIDTH, LEGEND_HEIGHT, COLOURS_HEIGHT, LABELS_HEIGHT = 3.0, 1.7, 0.2, 0.5
BINS = 60
SYSTEM_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


class Bins(NamedTuple):
    """Shares of the foreground's volume in bins of equal width: share[i] within half a width of i·width_um."""

    width_um: float
    share: NDArray[np.float64]

    @property
    def centres_um(self) -> NDArray[np.float64]:
        return np.arange(self.share.size, dtype=np.float64) * self.width_um


def thickness_bins(histogram: ThicknessHistogram, voxel_um: float) -> Bins:
    """Bins as wide as a whole number of voxels: narrower ones would show the grid of possible digital diameters.

    voxel_um : the smallest distance of voxel centres.
    """
    h = thickness_um(histogram.squared_radius, histogram.unit_um)
    width = voxel_um * max(1, math.ceil(float(h[-1]) / voxel_um / BINS))
    # A diameter on an edge belongs to the bin above, whatever the rounding of h / width.
    index = np.floor(h / width + 0.5 + 1e-9).astype(np.int64)
    return Bins(width, np.bincount(index, weights=histogram.voxels.astype(np.float64)) / int(histogram.voxels.sum()))


def colour_limit_um(histogram: ThicknessHistogram) -> float:
    """Upper end of the colours: the largest thickness, or the 99.5 % quantile where a few voxels are far thicker."""
    h = thickness_um(histogram.squared_radius, histogram.unit_um)
    cumulative = np.cumsum(histogram.voxels)
    usual = float(h[np.searchsorted(cumulative, -(-995 * int(cumulative[-1]) // 1000))])
    return float(h[-1]) if h[-1] <= 1.5 * usual else usual


def slices_png(slices: Sequence[Slice], histogram: ThicknessHistogram, voxel_um: float) -> bytes:
    """The planes side by side, all in one scale, with a scale bar each and the colours' key with the distribution."""
    limit = colour_limit_um(histogram)
    layout = _arranged(slices)
    figure = Figure(figsize=(FIGURE_WIDTH, layout.height), dpi=SLICE_DPI, facecolor="white")

    def axes(left: float, bottom: float, wide: float, high: float) -> Axes:
        box = (left / FIGURE_WIDTH, bottom / layout.height, wide / FIGURE_WIDTH, high / layout.height)
        return figure.add_axes(box)

    top = layout.height
    for row in layout.rows:
        top -= TITLE_HEIGHT
        left = 0.0
        for plane in row:
            wide, high = (size * layout.inch_per_um for size in _size_um(plane))
            _draw_slice(axes(left, top - high, wide, high), plane, limit, 1.0 / layout.inch_per_um)
            left += wide + GAP
        row_top, top = top, top - layout.row_height(row) - GAP
    wide, high = FIGURE_WIDTH - left, LEGEND_HEIGHT
    if layout.legend_beside:
        # In the free corner, as high as the planes there, but in the shape of a plot.
        high = min(layout.row_height(layout.rows[-1]), 1.2 * wide)
        wide = min(wide, 1.4 * high)
    else:
        left, wide, row_top = 0.0, FIGURE_WIDTH, top
    bottom = row_top - high + LABELS_HEIGHT
    _draw_legend(
        axes(left, bottom + COLOURS_HEIGHT, wide, high - LABELS_HEIGHT - COLOURS_HEIGHT),
        axes(left, bottom, wide, COLOURS_HEIGHT),
        thickness_bins(histogram, voxel_um),
        limit,
    )
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def histogram_svg(histogram: ThicknessHistogram, thickness: Mapping[str, Any], voxel_um: float) -> str:
    """Share of the foreground's volume over thickness, with the log-normal curve of μ and V and the quantiles.

    thickness : the "thickness_um" part of the statistics.
    """
    bins = thickness_bins(histogram, voxel_um)
    figure = Figure(figsize=(8.4, 3.7))
    box, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 9))
    figure.subplots_adjust(left=0.085, right=0.985, top=0.99, bottom=0.15, hspace=0.04)
    axes.bar(bins.centres_um, 100 * bins.share, bins.width_um, color=BAR, edgecolor="white", linewidth=0.5)
    right = float(bins.centres_um[-1]) + bins.width_um
    if thickness["log_variance"] > 0:
        h = np.linspace(right / 2000, right, 2000)
        mu, variance = thickness["log_mean"], thickness["log_variance"]
        density = np.exp(-((np.log(h) - mu) ** 2) / (2 * variance)) / (h * math.sqrt(2 * math.pi * variance))
        axes.plot(h, 100 * bins.width_um * density, color=CURVE, linewidth=1.6, label="log-normal curve of μ and V")
        axes.legend(loc="upper right", labelcolor=INK, edgecolor="white", framealpha=0.9)
        # A narrow curve may tower above the bars; the bars are the data.
        highest = float(bins.share.max())
        axes.set_ylim(0, 112 * min(1.6 * highest, max(highest, bins.width_um * float(density.max()))))
    axes.set_xlim(0, right)
    axes.set_xlabel("local thickness (µm)")
    axes.set_ylabel("share of foreground volume (%)")
    q = [thickness["quantiles"][name] for name in ("0.05", "0.25", "0.5", "0.75", "0.95")]
    box.plot((q[0], q[4]), (0, 0), color=INK, linewidth=1.0)
    box.plot((q[1], q[3]), (0, 0), color=INK, linewidth=6.0, solid_capstyle="butt")
    box.plot(q[2:3], (0,), marker="o", markersize=6, markerfacecolor="white", markeredgecolor=INK)
    box.set_ylim(-1, 1)
    box.axis("off")
    for value in (q[0], q[2], q[4]):
        axes.axvline(value, color=INK, linewidth=0.7, linestyle=(0, (3, 3)))
    _plain(axes)
    return _svg(figure, "histogram")


def comparison_svg(comparison: Comparison) -> str:
    """Measured minus designed diameter, in voxels, over the designed diameter."""
    designed = np.array([row.designed_um for row in comparison.rows])
    difference = np.array([row.measured_um - row.designed_um for row in comparison.rows]) / comparison.voxel_um
    figure = Figure(figsize=(8.4, 3.0))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.085, right=0.985, top=0.97, bottom=0.18)
    if comparison.expected_voxels:
        axes.axhspan(*comparison.expected_voxels, color=BAR, alpha=0.25, linewidth=0, label="digital tubes on average")
        axes.legend(frameon=False, loc="lower right", labelcolor=INK)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.plot(designed, difference, "o", markersize=5, markerfacecolor=CURVE, markeredgecolor="white", alpha=0.9)
    reach = 1.25 * max(0.6, float(np.abs(difference).max()))
    axes.set_ylim(-reach, reach)
    axes.set_xlim(0, 1.05 * float(designed.max()))
    axes.set_xlabel("designed diameter (µm)")
    axes.set_ylabel("measured − designed (voxels)")
    _plain(axes)
    return _svg(figure, "comparison")


def _size_um(plane: Slice) -> tuple[float, float]:
    """Width and height."""
    rows, columns = plane.thickness_um.shape
    return columns * plane.spacing_um[1], rows * plane.spacing_um[0]


class _Layout(NamedTuple):
    """Rows of planes in one common scale."""

    rows: list[Sequence[Slice]]
    inch_per_um: float

    def row_height(self, row: Sequence[Slice]) -> float:
        return self.inch_per_um * max(_size_um(plane)[1] for plane in row)

    @property
    def legend_beside(self) -> bool:
        """Whether the last row leaves a corner that is large enough for the key; else it goes below."""
        used = sum(self.inch_per_um * _size_um(plane)[0] + GAP for plane in self.rows[-1])
        return FIGURE_WIDTH - used >= LEGEND_WIDTH and self.row_height(self.rows[-1]) >= LEGEND_HEIGHT

    @property
    def height(self) -> float:
        planes = sum(TITLE_HEIGHT + self.row_height(row) for row in self.rows) + GAP * (len(self.rows) - 1)
        return planes if self.legend_beside else planes + GAP + LEGEND_HEIGHT


def _arranged(slices: Sequence[Slice]) -> _Layout:
    """The arrangement in rows that shows the planes large without wasting height."""
    layouts = []
    for columns in range(1, len(slices) + 1):
        rows = [slices[i : i + columns] for i in range(0, len(slices), columns)]
        wide = min((FIGURE_WIDTH - GAP * (len(row) - 1)) / sum(_size_um(s)[0] for s in row) for row in rows)
        room = LARGEST_HEIGHT - len(rows) * (TITLE_HEIGHT + GAP)
        high = room / sum(max(_size_um(s)[1] for s in row) for row in rows)
        layouts.append(_Layout(rows, min(wide, high)))
    return max(layouts, key=lambda layout: layout.inch_per_um / math.sqrt(layout.height))


def _draw_slice(axes: Axes, plane: Slice, limit_um: float, um_per_inch: float) -> None:
    width, height = _size_um(plane)
    colours = COLOURS(np.clip(plane.thickness_um / limit_um, 0.0, 1.0), bytes=True)
    colours[plane.thickness_um <= 0] = [*bytes.fromhex(NIGHT[1:]), 255]
    axes.imshow(colours, extent=(0, width, height, 0), interpolation="antialiased", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(plane.plane, loc="left", fontsize=11, fontweight="bold", color=INK, pad=5)
    third = third_axis(plane.plane)
    where = f"largest along {third}" if plane.position_um is None else f"{third} = {position(plane.position_um)} µm"
    axes.set_title(where, loc="right", fontsize=9.5, color=INK, pad=5)
    if width < 0.7 * um_per_inch or height < 0.5 * um_per_inch:
        return  # No room for a bar, and every plane has the same scale.
    bar = round_below(0.3 * width)
    y = height - 0.14 * um_per_inch
    # In a corner, or centred where its text would be wider than what the corner leaves.
    middle = 0.5 * width if width < 1.6 * um_per_inch else width - 0.5 * bar - 0.14 * um_per_inch
    halo = [Stroke(linewidth=5, foreground=NIGHT), Normal()]
    axes.plot(
        (middle - bar / 2, middle + bar / 2),
        (y, y),
        color="white",
        linewidth=3,
        solid_capstyle="butt",
        path_effects=halo,
    )
    axes.annotate(
        length(bar),
        (middle, y),
        (0, 4.5),
        textcoords="offset points",
        ha="center",
        color="white",
        fontsize=9.5,
        path_effects=[Stroke(linewidth=2.5, foreground=NIGHT), Normal()],
    )


def _draw_legend(bars: Axes, colours: Axes, bins: Bins, limit_um: float) -> None:
    """A colour bar with the distribution standing on it."""
    shown = bins.centres_um - 0.5 * bins.width_um < limit_um
    centres = bins.centres_um[shown]
    right = float(centres[-1]) + 0.5 * bins.width_um
    bars.set_facecolor(NIGHT)
    bars.bar(
        centres,
        bins.share[shown],
        0.84 * bins.width_um,
        color=COLOURS(np.clip(centres / limit_um, 0.0, 1.0)),
        linewidth=0,
    )
    bars.set_ylim(0, 1.12 * float(bins.share[shown].max()))
    bars.set_xticks([])
    ramp = COLOURS(np.clip(np.linspace(0.0, right, 1024) / limit_um, 0.0, 1.0), bytes=True)
    colours.imshow(ramp[None], extent=(0, right, 0, 1), aspect="auto", interpolation="nearest")
    colours.tick_params(axis="x", colors=INK, labelsize=9.5)
    colours.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], prune="both"))
    colours.set_xlabel("local thickness (µm)", fontsize=9.5, color=INK)
    for axes in (bars, colours):
        axes.set_xlim(0, right)
        axes.set_yticks([])
        axes.spines[:].set_visible(False)


def round_below(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above the value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1, 2, 5) if step * power <= value * (1 + 1e-9))


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, color=FAINT)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def _svg(figure: Figure, salt: str) -> str:
    """An SVG whose text is text, in the reader's fonts, and whose bytes depend on the values only."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    return text.getvalue().replace("'DejaVu Sans'", SYSTEM_FONTS)
