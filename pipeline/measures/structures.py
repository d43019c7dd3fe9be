"""What each structure looks like: size, place, and the grey values inside, out of the merged table of label pairs.

Everything of TotalSegmentator's statistics.json (volume in mm³ and mean intensity per structure) and more. It reports 0
for a structure that has a voxel among the outer three layers of the volume, because it may go on outside; here the
values stand, and "incomplete" says so. Sums are exact, so each number is rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Index, VoxelSize
from pipeline.measures.exact import square_root
from pipeline.overlap import MOST_VALUES
from pipeline.placement import AT_ORIGIN, Placement
from pipeline.wide_integers import to_integer

Array = npt.NDArray[Any]
Statistics = dict[str, Any]

INCOMPLETE_LAYERS = 3
"""TotalSegmentator leaves out structures with a voxel in so many outer layers of the volume."""

INTENSITIES = ("mean", "standard_deviation", "minimum", "maximum", "median")

PLACES = ("centroid_voxels", "centroid_um", "bounding_box", "bounding_box_um")

ABSENT = "the label is not in this volume"
TOO_MANY_VALUES = f"the label has more than {MOST_VALUES} distinct grey values beside one label of the other volume"
TOO_MANY_IN_ALL = f"the label has more than {MOST_VALUES} distinct grey values"
UM3_PER_MM3 = 10**9
HALF = Fraction(1, 2)


def structure_statistics(
    tally: Mapping[str, Array],
    *,
    side: Literal["reference", "prediction"],
    label: int | None,
    shape: Index,
    voxel_size: VoxelSize,
    placement: Placement | None = None,
) -> Statistics:
    """The statistics of one label of one volume; of the whole foreground where label is None.

    tally : merged, see pipeline/overlap.py. shape : of the volume (z, y, x).

    placement : where the volume lies; None where its source says nothing of it, then voxel (0, 0, 0) is the origin.

    voxels, volume_mm3, volume_um3; centroid_voxels and centroid_um: centre of mass (z, y, x) with voxel centres at the
    integers, and in the frame of the source; bounding_box: first voxel and the one after the last; bounding_box_um:
    the faces of the voxels in the frame of the source, lowest and highest along each of its axes; touches_border: a
    voxel lies in the outermost layer; incomplete: in the outer three. With a grey volume "intensity": mean, median (the
    mean of the two middle values), minimum, maximum, standard_deviation (divided by n).
    """
    column = tally["pair-labels"][:, 0 if side == "reference" else 1]
    placement = placement or AT_ORIGIN
    rows = np.flatnonzero(column != 0 if label is None else column == np.uint64(label))
    um = [Fraction(repr(float(v))) for v in voxel_size.um]
    voxels = int(tally["pair-voxels"][rows].sum())
    volume = voxels * math.prod(um, start=Fraction(1))
    statistics: Statistics = {
        "voxels": voxels,
        "volume_mm3": float(volume / UM3_PER_MM3),
        "volume_um3": float(volume),
        "centroid_voxels": None,
        "centroid_um": None,
        "bounding_box": None,
        "bounding_box_um": None,
        "touches_border": False,
        "incomplete": False,
    }
    if voxels:
        centre = [Fraction(sum(to_integer(limbs) for limbs in tally["pair-sums"][rows, a]), voxels) for a in range(3)]
        boxes = tally["pair-boxes"][rows]
        start, stop = boxes[:, 0].min(axis=0).tolist(), boxes[:, 1].max(axis=0).tolist()
        statistics |= {
            "centroid_voxels": [float(c) for c in centre],
            "centroid_um": list(placement.position_um(centre, voxel_size)),
            "bounding_box": {"start": start, "stop": stop},
            "bounding_box_um": _faces_um(start, stop, placement, voxel_size),
            "touches_border": _reaches(start, stop, shape, 1),
            "incomplete": _reaches(start, stop, shape, INCOMPLETE_LAYERS),
        }
    reasons = {} if voxels else dict.fromkeys(PLACES, ABSENT)
    if "grey-kinds" in tally:
        statistics["intensity"], why = _intensity(tally, rows, voxels)
        reasons |= {f"intensity.{name}": text for name, text in why.items()}
    return statistics | {"reasons": reasons}


def totalsegmentator_statistics(statistics: Mapping[str, Any]) -> dict[str, float]:
    """Volume (mm³) and intensity as TotalSegmentator writes them: 0 for an incomplete or absent structure."""
    if statistics["incomplete"] or not statistics["voxels"]:
        return {"volume": 0.0, "intensity": 0.0}
    return {"volume": statistics["volume_mm3"], "intensity": round(statistics["intensity"]["mean"], 5)}


def _faces_um(start: list[int], stop: list[int], placement: Placement, voxel_size: VoxelSize) -> dict[str, list[float]]:
    """The smallest box along the axes of the frame that holds the voxels of a box, with their faces."""
    corners = product(*([low - HALF, high - HALF] for low, high in zip(start, stop, strict=True)))
    along = list(zip(*(placement.position_um(corner, voxel_size) for corner in corners), strict=True))
    return {"start": [min(values) for values in along], "stop": [max(values) for values in along]}


def _reaches(start: list[int], stop: list[int], shape: Index, layers: int) -> bool:
    """Whether a box has a voxel in the outer layers of a volume."""
    return any(a < layers or b > n - layers for a, b, n in zip(start, stop, shape, strict=True))


def _intensity(tally: Mapping[str, Array], rows: Array, voxels: int) -> tuple[dict[str, float], dict[str, str]]:
    """The statistics of the grey values of some pairs together, and why some are NaN."""
    if not voxels:
        return dict.fromkeys(INTENSITIES, math.nan), dict.fromkeys(INTENSITIES, ABSENT)
    total, squares = Fraction(0), Fraction(0)
    starts = _starts(tally["grey-powers"])
    for power in (p for row in rows for p in range(starts[row], starts[row + 1])):
        unit = Fraction(2) ** int(tally["grey-exponents"][power])
        total += to_integer(tally["grey-sums"][power, :3]) * unit
        squares += to_integer(tally["grey-sums"][power, 3:]) * unit * unit
    mean = total / voxels
    extremes = tally["grey-extremes"][rows]
    median, why = _median(tally, rows, voxels)
    values = {
        "mean": float(mean),
        "standard_deviation": square_root(squares / voxels - mean * mean),
        "minimum": float(extremes[:, 0].min()),
        "maximum": float(extremes[:, 1].max()),
        "median": median,
    }
    return values, {"median": why} if why else {}


def _median(tally: Mapping[str, Array], rows: Array, voxels: int) -> tuple[float, str]:
    kinds = tally["grey-kinds"]
    if (kinds[rows] < 0).any():
        return math.nan, TOO_MANY_VALUES if len(rows) > 1 else TOO_MANY_IN_ALL
    starts = _starts(np.maximum(kinds, 0))
    values, place = np.unique(
        np.concatenate([tally["grey-values"][starts[row] : starts[row + 1]] for row in rows]), return_inverse=True
    )
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, place, np.concatenate([tally["grey-voxels"][starts[row] : starts[row + 1]] for row in rows]))
    cumulative = np.cumsum(counts)
    # The middle ones by rank from 1; the same one twice where their number is odd.
    low, high = (
        Fraction(values[np.searchsorted(cumulative, rank)].item()) for rank in ((voxels + 1) // 2, voxels // 2 + 1)
    )
    return float((low + high) / 2), ""


def _starts(lengths: Array) -> npt.NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(lengths)))
