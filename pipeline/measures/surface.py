"""Surface measures out of a merged tally: exact integers in, every float formed once, in one order.

Definitions: Hausdorff and its percentile, average distances (ASSD, MASD) and the normalised surface distance (NSD)
between surface voxels as MetricsReloaded and MONAI have them (Maier-Hein et al. 2024); NSD between surface elements
weighted by area as google-deepmind/surface-distance has it (Nikolov et al. 2021); boundary IoU as MetricsReloaded and,
by name, as Cheng et al. (2021) have it. A distance is √D·unit_um in µm with D the integer of the tally, so a tolerance
t includes exactly the distances D ≤ t²/unit²: both are fractions, and no √3 meets a rounded 1.7320508. Where weights
are rounded (pipeline/weights.py), it includes every distance ≤ t by the spacings as given, none above t·(1 + 3·10⁻⁷).

Ignored voxels (pipeline/surface.py) bear no elements: a mask all of whose elements they take counts as an empty one.
Empty masks: where one is empty distances are infinite, NSD and boundary IoU are 0; where both are empty all are NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.geometry import VoxelSize
from pipeline.kernels.surface import UNREACHABLE
from pipeline.surface import LAYERS, SIDES, Kind, Side, SurfaceTally
from pipeline.weights import decimals

Areas = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

PercentileKind = Literal["max-of-directed", "pooled", "area-weighted"]
PERCENTILE_KINDS: tuple[PercentileKind, ...] = ("max-of-directed", "pooled", "area-weighted")
"""Definitions of HD95 in use: MetricsReloaded and MONAI; medpy; google-deepmind/surface-distance."""
BoundaryKind = Literal["euclidean", "chebyshev"]
"""Depth of a boundary: distance to the mask's own surface voxels (MetricsReloaded), or erosions (Cheng et al.)."""

NO_SURFACES = "the label is in neither volume, so there are no surfaces to compare"
NO_SURFACE_HERE = "no surface voxel of the label lies in this region"
NONE_CLEAR = "the label has no surface in either volume that is clear of ignored voxels, so there is none to compare"
ONE_CLEAR = (
    "the label has a surface that is clear of ignored voxels in only one of the two volumes, so the distance to the"
    " other one is infinite"
)
ONE_SURFACE = "the label is in only one of the two volumes, so the distance to the other surface is infinite"


def distances_um(squared_distance: Counts, voxel_size: VoxelSize) -> npt.NDArray[np.float64]:
    """√D·unit in µm; infinite where the other surface has no elements."""
    lengths: npt.NDArray[np.float64] = np.sqrt(squared_distance.astype(np.float64)) * voxel_size.unit_um
    lengths[squared_distance == UNREACHABLE] = math.inf
    return lengths


def hausdorff_um(tally: SurfaceTally, voxel_size: VoxelSize) -> float:
    """The largest distance from a surface voxel of either mask to the other surface, in µm."""
    largest = [int(squared[-1]) for squared, _ in _both(tally) if squared.size]
    return float(distances_um(np.array([max(largest)]), voxel_size)[0]) if largest else math.nan


def hausdorff_percentile_um(
    tally: SurfaceTally, voxel_size: VoxelSize, *, percent: int = 95, kind: PercentileKind = "max-of-directed",
    areas: Areas | None = None,
) -> float:  # fmt: skip
    """A percentile of the distances between both surfaces, in µm.

    max-of-directed : the larger one of the percentiles of both directions. pooled : the percentile of all distances
    together. Both interpolate linearly between the two nearest ranks, as numpy does. area-weighted : of surface
    elements, the larger one of the least distances that cover the share of the area; needs `areas`, those of the 256
    codes.
    """
    if kind == "area-weighted":
        if areas is None:
            raise ValueError("the area-weighted percentile needs the areas of the codes")
        return _largest([_covering_um(tally, side, areas, percent, voxel_size) for side in SIDES])
    directed = [(squared, count) for squared, count in _both(tally) if squared.size]
    if kind == "pooled" and directed:
        directed = [_pooled(directed)]
    return _largest([_percentile_um(squared, count, percent, voxel_size) for squared, count in directed])


def assd_um(tally: SurfaceTally, voxel_size: VoxelSize) -> float:
    """Average symmetric surface distance, (Σ d_AB + Σ d_BA) / (n_A + n_B), in µm."""
    both = _both(tally)
    elements = sum(int(count.sum()) for _, count in both)
    return (
        math.fsum(_sum_um(squared, count, voxel_size) for squared, count in both) / elements if elements else math.nan
    )


def masd_um(tally: SurfaceTally, voxel_size: VoxelSize) -> float:
    """Mean average surface distance, the mean of the two directed means, in µm."""
    means = [_sum_um(squared, count, voxel_size) / int(count.sum()) for squared, count in _both(tally) if squared.size]
    return math.fsum(means) / len(means) if means else math.nan


def nsd_voxel(tally: SurfaceTally, voxel_size: VoxelSize, tolerance_um: float) -> float:
    """Share of the surface voxels of both masks that lie within a tolerance (µm) of the other surface."""
    largest = _within(tolerance_um, voxel_size)
    both = _both(tally)
    elements = sum(int(count.sum()) for _, count in both)
    near = sum(int(count[squared <= largest].sum()) for squared, count in both)
    return near / elements if elements else math.nan


def nsd_surfel(tally: SurfaceTally, voxel_size: VoxelSize, tolerance_um: float, areas: Areas) -> float:
    """Share of the area of both surfaces that lies within a tolerance (µm) of the other surface.

    areas : of the surface at a corner by its code (256), in any unit.
    """
    largest = _within(tolerance_um, voxel_size)
    near, whole = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for side in SIDES:
        squared, code, count = tally.of_direction("corners", side)
        np.add.at(whole, code, count)
        np.add.at(near, code[squared <= largest], count[squared <= largest])
    area = _area(whole, areas)
    return _area(near, areas) / area if area else math.nan


def sennet_score(tally: SurfaceTally, unit_areas: Areas) -> float:
    """The score of the SenNet + HOA challenge: NSD of surface elements at tolerance 0.

    unit_areas : of the codes for voxels of side 1, whatever the voxel size.
    """
    return nsd_surfel(tally, VoxelSize((1.0, 1.0, 1.0)), 0.0, unit_areas)


def boundary_iou(tally: SurfaceTally, width: int, *, kind: BoundaryKind = "euclidean") -> float:
    """Intersection over union of the boundary layers of both masks.

    width : index into the widths that were counted. kind : mask voxels nearer than d to the mask's own surface voxels
    in units of voxels (MetricsReloaded), or mask voxels that do not survive d erosions by 3 × 3 × 3 (Cheng et al.).
    """
    both, either = tally.layers[LAYERS.index(kind), width].tolist()
    return both / either if either else math.nan


def surface_measures(
    tally: SurfaceTally, voxel_size: VoxelSize, *, tolerances_um: Sequence[float], widths: Sequence[int], areas: Areas,
    unit_areas: Areas, ignoring: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """All surface measures of a label by their names in comparison.json; "reasons" says why one is NaN or infinite.

    areas : of the 256 codes at this voxel size; unit_areas : the same for voxels of side 1. ignoring : whether voxels
    are ignored, for reasons.
    """
    weighted = hausdorff_percentile_um(tally, voxel_size, kind="area-weighted", areas=areas)
    measures = _of_voxels(tally, voxel_size, tolerances_um) | {
        "hausdorff95_area_weighted_um": weighted,
        "nsd_surfel": {_text(t): nsd_surfel(tally, voxel_size, t, areas) for t in tolerances_um},
        "sennet_score": sennet_score(tally, unit_areas),
        "boundary_iou": {str(w): boundary_iou(tally, n) for n, w in enumerate(widths)},
        "boundary_iou_erosion": {str(w): boundary_iou(tally, n, kind="chebyshev") for n, w in enumerate(widths)},
    }
    why = (NONE_CLEAR, ONE_CLEAR) if ignoring else (NO_SURFACES, ONE_SURFACE)
    return measures | {"reasons": _reasons(measures, *why)}


def region_surface_measures(
    tally: SurfaceTally, voxel_size: VoxelSize, *, tolerances_um: Sequence[float], ignoring: bool = False
) -> dict[str, Any]:
    """The measures of the surface voxels that lie in one region, by their distances to the whole other surface."""
    measures = _of_voxels(tally, voxel_size, tolerances_um)
    return measures | {"reasons": _reasons(measures, NO_SURFACE_HERE, ONE_CLEAR if ignoring else ONE_SURFACE)}


def _of_voxels(tally: SurfaceTally, voxel_size: VoxelSize, tolerances_um: Sequence[float]) -> dict[str, Any]:
    """What surface voxels alone tell."""
    return {
        "hausdorff_um": hausdorff_um(tally, voxel_size),
        "hausdorff95_um": hausdorff_percentile_um(tally, voxel_size),
        "hausdorff95_pooled_um": hausdorff_percentile_um(tally, voxel_size, kind="pooled"),
        "assd_um": assd_um(tally, voxel_size),
        "masd_um": masd_um(tally, voxel_size),
        "nsd_voxel": {_text(t): nsd_voxel(tally, voxel_size, t) for t in tolerances_um},
    }


def _reasons(measures: Mapping[str, Any], undefined: str, infinite: str) -> dict[str, str]:
    """Name of a value -> why it is NaN (undefined) or infinite; values of a mapping by name.key."""
    flat = {
        name if key is None else f"{name}.{key}": value
        for name, entry in measures.items()
        for key, value in (entry.items() if isinstance(entry, Mapping) else [(None, entry)])
    }
    return {
        name: undefined if math.isnan(value) else infinite for name, value in flat.items() if not math.isfinite(value)
    }


def _text(value: float) -> str:
    """A number as its author wrote it: 25, 0.5."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _both(tally: SurfaceTally, kind: Kind = "voxels") -> list[tuple[Counts, Counts]]:
    """Squared distances ascending and elements, codes together, from the reference and from the prediction."""
    return [_by_distance(*tally.of_direction(kind, side)) for side in SIDES]


def _by_distance(squared: Counts, _code: Counts, count: Counts) -> tuple[Counts, Counts]:
    starts = np.flatnonzero(np.diff(squared, prepend=-1))
    return squared[starts], np.add.reduceat(count, starts) if starts.size else count


def _pooled(parts: Sequence[tuple[Counts, Counts]]) -> tuple[Counts, Counts]:
    squared, count = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(squared, kind="stable")
    return _by_distance(squared[order], squared, count[order])


def _largest(values: Sequence[float]) -> float:
    """The largest of what is defined: NaN where nothing is."""
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _within(tolerance_um: float, voxel_size: VoxelSize) -> int:
    """The largest squared distance within a tolerance: ⌊t²/unit²⌋, from the decimal text of t.

    Rounded weights differ in their unit by axis: the finest counts, so that no distance ≤ t is lost.
    """
    tolerance = Fraction(repr(float(tolerance_um)))
    per_um2 = max(w / spacing**2 for w, spacing in zip(voxel_size.weights, decimals(voxel_size.um), strict=True))
    return min(math.floor(tolerance**2 * per_um2), UNREACHABLE - 1)


def _sum_um(squared: Counts, count: Counts, voxel_size: VoxelSize) -> float:
    """Σ count·distance, in µm, rounded as if it were summed exactly, so in any order."""
    return math.fsum(count.astype(np.float64) * distances_um(squared, voxel_size))


def _percentile_um(squared: Counts, count: Counts, percent: int, voxel_size: VoxelSize) -> float:
    """Percentile of distances with linear interpolation; the rank is an exact fraction."""
    cumulative = np.cumsum(count)
    rank, hundredths = divmod(percent * (int(cumulative[-1]) - 1), 100)
    ranks = [rank, rank + (hundredths > 0)]
    low, high = distances_um(squared[np.searchsorted(cumulative, ranks, side="right")], voxel_size).tolist()
    return float(low + (high - low) * (hundredths / 100)) if math.isfinite(low) else math.inf


def _covering_um(tally: SurfaceTally, side: Side, areas: Areas, percent: int, voxel_size: VoxelSize) -> float:
    """The least distance within which a share of the area of one side lies; NaN without elements."""
    squared, code, count = tally.of_direction("corners", side)
    if not squared.size:
        return math.nan
    starts = np.flatnonzero(np.diff(squared, prepend=-1))
    of_distance = [math.fsum(part) for part in np.split(count.astype(np.float64) * areas[code], starts[1:])]
    cumulative = np.cumsum(of_distance)
    # Where the share is 100 %, its product may be rounded to more than there is.
    at = min(int(np.searchsorted(cumulative, cumulative[-1] * percent / 100)), cumulative.size - 1)
    return float(distances_um(squared[starts[at : at + 1]], voxel_size)[0])


def _area(counts: Counts, areas: Areas) -> float:
    return math.fsum(counts.astype(np.float64) * areas)
