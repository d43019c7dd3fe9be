"""What a report is made of: plain values, so that a page can be made again from a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Timing(NamedTuple):
    """One stage of the run. seconds : wall time. mvoxel_per_s : voxels of the volume through the stage, in millions."""

    stage: str
    tasks: int
    seconds: float
    mvoxel_per_s: float


class ThicknessHistogram(NamedTuple):
    """Voxels per squared radius, ascending, int64; squared radii in unit_um²."""

    squared_radius: NDArray[np.int64]
    voxels: NDArray[np.int64]
    unit_um: float


@dataclass(frozen=True, eq=False)
class Slice:
    """A plane of the thickness map, or the map seen through along the third axis.

    plane : its axes, the one along the columns' direction first: "xy" has rows y and columns x.
    position_um : where it cuts the third axis; None for the largest thickness along the whole of it.
    thickness_um : float32 (row, column), 0 on background.
    spacing_um : distance of neighbouring pixels (row, column).
    """

    plane: str
    position_um: float | None
    thickness_um: NDArray[np.float32]
    spacing_um: tuple[float, float]


class ComparisonRow(NamedTuple):
    """One thing whose thickness was known beforehand; measured_um is the mean over its voxels."""

    name: str
    designed_um: float
    measured_um: float
    voxels: int


@dataclass(frozen=True)
class Comparison:
    """Designed against measured diameters.

    voxel_um : the length in which differences are given as voxels.
    expected_voxels : least and largest difference that is expected of such digital shapes, in voxels.
    """

    title: str
    note: str
    rows: Sequence[ComparisonRow]
    voxel_um: float
    expected_voxels: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class ReportContent:
    """Everything the page shows.

    statistics : the contents of statistics.json.
    slices_note : why there are no slices, such as "no map was stored"; None where there are some.
    provenance : what was asked and with what it was made; shown in this order.
    """

    title: str
    statistics: Mapping[str, Any]
    histogram: ThicknessHistogram
    slices: Sequence[Slice]
    slices_note: str | None
    timings: Sequence[Timing]
    provenance: Mapping[str, str]
    comparison: Comparison | None = None


@dataclass(frozen=True, eq=False)
class ComparedSlice:
    """A plane of two segmentations.

    plane, position_um, spacing_um : as of Slice.
    reference, prediction : labels (row, column), integers or bool, 0 on background.
    reference_thickness_um, prediction_thickness_um : float32 (row, column), 0 on background; None where thickness was
        not measured.
    """

    plane: str
    position_um: float
    reference: NDArray[Any]
    prediction: NDArray[Any]
    spacing_um: tuple[float, float]
    reference_thickness_um: NDArray[np.float32] | None = None
    prediction_thickness_um: NDArray[np.float32] | None = None


class HistogramPair(NamedTuple):
    """How thickness is distributed in the reference and in the prediction; either may be without a voxel."""

    reference: ThicknessHistogram
    prediction: ThicknessHistogram


@dataclass(frozen=True, eq=False)
class ComparisonContent:
    """Everything the page of a comparison shows.

    comparison : the contents of comparison.json. "labels" -> id as text -> measures; "overall" -> "foreground", with
        the measures of a label, further mappings of such measures (averages over labels), and single values. A
        measure that is missing was not asked for. null is undefined and "inf" infinite; the reason stands under
        "reasons" of the label, or of the whole after "labels.ID." or "overall.", with the names joined by dots
        (nsd_voxel.25).
        thickness.reference and .prediction are the thickness_um part of statistics.json.
    voxel_size_um : (z, y, x). volume_voxels : voxels of the whole volume, background included.
    histograms : thickness by label id, and by "foreground" for any label; those that are missing are not drawn.
    slices_note : why there are no slices; None where there are some.
    provenance : what was asked and with what it was made; shown in this order.
    """

    title: str
    comparison: Mapping[str, Any]
    voxel_size_um: tuple[float, float, float]
    volume_voxels: int
    histograms: Mapping[str, HistogramPair]
    slices: Sequence[ComparedSlice]
    slices_note: str | None
    timings: Sequence[Timing]
    provenance: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class LabelledSlice:
    """A plane of labels, with the grey values under them where there are some.

    plane, position_um, spacing_um : as of Slice. labels : integers or bool (row, column), 0 on background.
    grey : numbers (row, column), or None.
    """

    plane: str
    position_um: float
    labels: NDArray[Any]
    spacing_um: tuple[float, float]
    grey: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class StructuresContent:
    """Everything the page of a description shows.

    statistics : the contents of statistics.json of the workflow `statistics`. objects : components by label, where they
    were looked for; None elsewhere. slices, slices_note, timings, provenance : as of ComparisonContent.
    """

    title: str
    statistics: Mapping[str, Any]
    objects: Mapping[str, int] | None
    slices: Sequence[LabelledSlice]
    slices_note: str | None
    timings: Sequence[Timing]
    provenance: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Lookalike:
    """One prediction beside others of the same reference.

    comparison : the contents of its comparison.json, with one label.
    slice : a plane, the same one for all. report : address of its own report, relative to the page; None for none.
    """

    name: str
    comparison: Mapping[str, Any]
    slice: ComparedSlice
    report: str | None


@dataclass(frozen=True, eq=False)
class LookalikesContent:
    """Predictions of one reference, side by side."""

    title: str
    voxel_size_um: tuple[float, float, float]
    predictions: Sequence[Lookalike]
