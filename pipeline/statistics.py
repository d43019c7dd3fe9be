"""Thickness statistics out of a merged tally: exact integers in, every float formed once at the end.

The sums Σh, Σlog h and Σ(…)² are taken in integers (a float64 is an integer times a power of two) and rounded once, so
they do not depend on blocks, workers or the order of merging.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.files import write_json, write_whole
from pipeline.geometry import VoxelSize
from pipeline.tally import Histogram, Tally

Statistics = dict[str, Any]

QUANTILE_PERCENT = {"0.05": 5, "0.25": 25, "0.5": 50, "0.75": 75, "0.95": 95}
"""Name of a quantile in the results -> percent: integers, because 0.05 is no binary fraction."""

NO_FOREGROUND = "no voxel of the volume is foreground, so there is no thickness to describe"


def thickness_um(squared_radius: NDArray[np.int64], unit_um: float) -> NDArray[np.float64]:
    """Local thickness, a diameter, h = 2·√T·unit in µm. T in unit_um²."""
    return 2.0 * np.sqrt(squared_radius.astype(np.float64)) * unit_um


def thickness_statistics(
    tally: Tally, *, voxel_size: VoxelSize, volume_voxels: int, definition: str, regions: bool
) -> Statistics:
    """The contents of statistics.json.

    volume_voxels : voxels of the whole volume, background included.
    definition : one sentence that says what was measured (balls, border rule).
    regions : whether the tally's labels are regions; they then come under "regions", label as text. Label 0, the
        foreground outside every region, counts in the whole only.

    All lengths are in µm. volume_um3 is the volume of the FOREGROUND (voxels times the volume of a voxel).
    standard_deviation and log_variance divide by n, as the lecture's formulas do: mean = Σh/n, μ = Σlog h/n,
    V = Σ(log h − μ)²/n, log-normal median = exp μ, mode = exp(μ − V). A quantile q is the smallest thickness that at
    least q·n voxels do not exceed. Without foreground the values are None and "reasons" says why.
    """
    whole = tally.total()
    result: Statistics = {
        "definition": definition,
        "voxel_size_um": [float(v) for v in voxel_size.um],
        "unit_um": voxel_size.unit_um,
        "volume_voxels": int(volume_voxels),
        **described(whole, voxel_size),
    }
    if regions:
        result["regions"] = {
            str(label): described(tally.of_label(label), voxel_size) for label in tally.labels() if label != 0
        }
    if not whole.voxels.size:
        result["reasons"] = {"largest_squared_radius": NO_FOREGROUND, "thickness_um": NO_FOREGROUND}
    return result


def write_statistics(path: Path, statistics: Mapping[str, Any]) -> None:
    """Write statistics as JSON with sorted names; equal statistics give equal bytes. The file appears whole or not.

    Raises StorageError when it cannot be written.
    """
    write_json(path, statistics, sort_keys=True)


def write_histogram_csv(path: Path, tally: Tally, unit_um: float) -> None:
    """Write the histogram over all labels: squared_radius, radius_um, thickness_um, voxels; ascending.

    The floats are the shortest text that reads back to the same float64. Raises StorageError.
    """
    histogram = tally.total()
    thickness = thickness_um(histogram.squared_radius, unit_um)
    columns = (histogram.squared_radius, 0.5 * thickness, thickness, histogram.voxels)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    lines = ["squared_radius,radius_um,thickness_um,voxels", *(",".join(map(repr, row)) for row in rows)]
    write_whole(path, "\n".join(lines) + "\n")


def described(histogram: Histogram, voxel_size: VoxelSize) -> Statistics:
    """Voxels, volume and thickness of one structure; see thickness_statistics."""
    count = int(histogram.voxels.sum())
    voxel_um3 = math.prod((Fraction(repr(float(v))) for v in voxel_size.um), start=Fraction(1))
    return {
        "foreground_voxels": count,
        "volume_um3": float(count * voxel_um3),
        "largest_squared_radius": int(histogram.squared_radius[-1]) if count else None,
        "thickness_um": distribution(histogram, voxel_size.unit_um),
    }


def distribution(histogram: Histogram, unit_um: float) -> Statistics:
    """The thickness_um part of statistics.json; None for every value where there is no voxel."""
    names = ("mean", "standard_deviation", "minimum", "maximum")
    log_names = ("log_mean", "log_variance", "lognormal_median", "lognormal_mode")
    if not histogram.voxels.size:
        return {**dict.fromkeys(names + log_names), "quantiles": dict.fromkeys(QUANTILE_PERCENT)}
    h = thickness_um(histogram.squared_radius, unit_um)
    mean = _mean(h, histogram.voxels)
    logarithm = np.log(h)
    log_mean = _mean(logarithm, histogram.voxels)
    log_variance = _mean((logarithm - log_mean) ** 2, histogram.voxels)
    values = (mean, math.sqrt(_mean((h - mean) ** 2, histogram.voxels)), float(h[0]), float(h[-1]))
    log_values = (log_mean, log_variance, math.exp(log_mean), math.exp(log_mean - log_variance))
    return {**dict(zip(names + log_names, values + log_values, strict=True)), "quantiles": _quantiles(h, histogram)}


def _quantiles(h: NDArray[np.float64], histogram: Histogram) -> dict[str, float]:
    cumulative = np.cumsum(histogram.voxels)
    count = int(cumulative[-1])
    # The first value whose cumulative count reaches ceil(q·n), in integers.
    return {
        name: float(h[np.searchsorted(cumulative, -(-percent * count // 100))])
        for name, percent in QUANTILE_PERCENT.items()
    }


def _mean(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Σ count·value / Σ count of float64 values, exactly summed and rounded once."""
    mantissa, exponent = np.frexp(values)
    integers = np.ldexp(mantissa, 53).astype(np.int64)
    total = Fraction(0)
    for power in np.unique(exponent):
        same = exponent == power
        # Python's integers: a count times a mantissa outgrows int64.
        total += int(integers[same].astype(object) @ counts[same].astype(object)) * Fraction(2) ** (int(power) - 53)
    return float(total / int(counts.sum()))
