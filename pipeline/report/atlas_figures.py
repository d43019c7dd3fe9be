"""Figures of a release: distributions of thickness by organ on one logarithmic axis, ranges, and thumbnails.

They are drawn as SVG in the page, so that they follow the reader's theme and fonts.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pipeline.report.atlas_content import BINS_PER_DECADE, EDGES_UM, AtlasEntry, Thumbnail
from pipeline.report.figures import COLOURS, NIGHT
from pipeline.report.numbers import length
from pipeline.report.templates import embedded

WIDTH, HEIGHT = 320.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 34.0, 8.0, 22.0, 22.0
PLOT = {
    "width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM,
}  # fmt: skip
STEP = 2
"""Every how many bins a curve has a point: 20 a decade."""
SHADES = 40
"""Colours of a thumbnail; a picture of few colours is small."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Axis(NamedTuple):
    """A logarithmic axis of thickness between two powers of ten."""

    low: int
    high: int

    def share(self, um: float) -> float:
        """Where a thickness lies, from 0 to 1."""
        return min(1.0, max(0.0, (math.log10(um) - self.low) / (self.high - self.low)))

    def x(self, um: float) -> float:
        """Where it lies in a plot."""
        return round(LEFT + (WIDTH - LEFT - RIGHT) * self.share(um), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Every power of ten, or every second where there are many, with its text."""
        step = 1 if self.high - self.low <= 5 else 2
        return [(self.x(10.0**n), length(10.0**n)) for n in range(self.low, self.high + 1, step)]

    @property
    def ends(self) -> tuple[str, str]:
        """What its ends mean."""
        return length(10.0**self.low), length(10.0**self.high)

    @property
    def minor(self) -> list[float]:
        """Two and five times the powers of ten."""
        return [self.x(m * 10.0**n) for n in range(self.low, self.high) for m in (2, 5)]


class Curve(NamedTuple):
    """A cumulative distribution as a path. name : whose it is."""

    name: str
    path: str


class OrganPlot(NamedTuple):
    """Cumulative distributions of one organ. box : x of five quantiles of all its volume together."""

    organ: str
    sets: int
    curves: list[Curve]
    pooled: str
    box: list[float]
    quantiles_um: list[float]


def axis_of(entries: Iterable[AtlasEntry]) -> Axis | None:
    """The axis that holds what lies between the 5 % and 95 % quantiles of all; None where there is no thickness."""
    low, high = math.inf, 0.0
    for entry in entries:
        q = entry.thickness["quantiles"] if entry.thickness else {}
        if q and q["0.05"] is not None:
            low, high = min(low, q["0.05"]), max(high, q["0.95"])
    if not high:
        return None
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    return Axis(first, max(last, first + 1))


def organ_plots(entries: Sequence[AtlasEntry], axis: Axis) -> list[OrganPlot]:
    """A plot for each organ that has thickness, by name."""
    by_organ: dict[str, list[AtlasEntry]] = {}
    for entry in entries:
        if entry.distribution is not None and entry.distribution.any():
            by_organ.setdefault(entry.organ, []).append(entry)
    return [_organ_plot(organ, sets, axis) for organ, sets in sorted(by_organ.items())]


def _organ_plot(organ: str, sets: Sequence[AtlasEntry], axis: Axis) -> OrganPlot:
    shares = [entry.distribution for entry in sets if entry.distribution is not None]
    pooled = np.sum(shares, axis=0)
    quantiles = _quantiles(pooled)
    curves = [Curve(entry.dataset, _path(share, axis)) for entry, share in zip(sets, shares, strict=True)]
    return OrganPlot(
        organ=organ,
        sets=len(sets),
        curves=curves if len(sets) > 1 else [],
        pooled=_path(pooled, axis),
        box=[axis.x(q) for q in quantiles],
        quantiles_um=quantiles,
    )


def _cumulative(volume: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the volume below every edge."""
    return np.concatenate([[0.0], np.cumsum(volume)]) / float(volume.sum())


def _quantiles(volume: NDArray[np.float64]) -> list[float]:
    """Within a bin on a straight line of the logarithm."""
    return [float(q) for q in 10.0 ** np.interp(QUANTILES, _cumulative(volume), np.log10(EDGES_UM))]


def _path(volume: NDArray[np.float64], axis: Axis) -> str:
    """The cumulative distribution between the ends of the axis."""
    cumulative = _cumulative(volume)[::STEP]
    edges = EDGES_UM[::STEP]
    at = np.log10(edges)
    inside = np.flatnonzero((at >= axis.low - 1e-9) & (at <= axis.high + 1e-9))
    points = []
    for i in inside.tolist():
        flat = 0 < i < len(edges) - 1 and cumulative[i - 1] == cumulative[i] == cumulative[i + 1]
        if i in (inside[0], inside[-1]) or not flat:
            points.append(f"{axis.x(float(edges[i]))} {y(float(cumulative[i]))}")
    return "M" + "L".join(points)


def y(share: float) -> float:
    """Where a share of the volume lies in a plot."""
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)


def thumbnail_address(thumbnail: Thumbnail) -> str:
    """A PNG of few colours that needs no file."""
    share = np.clip(thumbnail.thickness_um / thumbnail.limit_um, 0.0, 1.0)
    shades = PIL.Image.fromarray(np.ceil(SHADES * share).astype(np.uint8), "P")
    ramp = COLOURS(np.linspace(0.0, 1.0, SHADES + 1), bytes=True)[1:, :3]
    shades.putpalette([*bytes.fromhex(NIGHT[1:]), *ramp.ravel().tolist()])
    image = io.BytesIO()
    shades.save(image, "PNG", optimize=True)
    return embedded("image/png", image.getvalue())


assert BINS_PER_DECADE % STEP == 0, "a curve has a point at every power of ten"
