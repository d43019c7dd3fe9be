"""What the pages of comparisons and of descriptions show: planes of the volumes, histograms, times, provenance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.comparison import IGNORED, ComparisonJob, read_labels, read_side
from pipeline.geometry import Box
from pipeline.objects import Described
from pipeline.report import (
    ComparedSlice,
    ComparisonContent,
    HistogramPair,
    LabelledSlice,
    StructuresContent,
    ThicknessHistogram,
    Timing,
    compared_slices,
    in_frame,
    labelled_slices,
)
from pipeline.surface import SIDES, Side
from pipeline.tally import Histogram
from pipeline.volume.laying import LaidVolume
from pipeline.volume.opening import Volume, at_level
from pipeline.volume.whole_numbers import WholeNumbers
from workflows.plan_thickness import describe_distances
from workflows.provenance import shown_circumstances, shown_place

Array = npt.NDArray[Any]
Measures = dict[str, Any]

SLICE_PIXELS = 1024
"""Slices of the report come from the finest level of the maps whose longest axis is not longer than this."""
NO_COARSE_LEVEL = f"Planes are shown from levels of at most {SLICE_PIXELS} voxels a side, and the volume has none."
NO_VOXELS = Histogram(np.zeros(0, np.int64), np.zeros(0, np.int64))


def structures_content(
    job: ComparisonJob, results: Measures, found: Described | None, totals: dict[str, dict[str, Any]],
    provenance: Mapping[str, Any],
) -> StructuresContent:  # fmt: skip
    """The page of `statistics` and `detect`. found : every component, where they were looked for."""
    objects_of = None
    if found is not None:
        labels, counts = np.unique(found.label, return_counts=True)
        objects_of = {str(label): int(count) for label, count in zip(labels, counts, strict=True)}
    planes = _labelled_planes(job)
    return StructuresContent(
        title=f"Structures of {Path(job.reference.location).name}",
        statistics=results,
        objects=objects_of,
        slices=planes or [],
        slices_note=None if planes is not None else NO_COARSE_LEVEL,
        timings=_timings(job, totals),
        provenance=_shown(job, provenance),
    )


def _labelled_planes(job: ComparisonJob) -> list[LabelledSlice] | None:
    """Planes of the labels, from the finest level that is not too large; None where there is no such level."""
    levels = range(job.reference.level, job.reference.level_count)
    if isinstance(job.reference.array, WholeNumbers):  # coarser levels of floats may hold means
        levels = levels[:1]
    opened = (_at_level(job.reference, level) for level in levels)
    labels = next((volume for volume in opened if volume and max(volume.shape) <= SLICE_PIXELS), None)
    if labels is None:
        return None
    grey = _at_level(job.image, labels.level) if job.image and labels.level < job.image.level_count else None
    if grey is not None and grey.shape != labels.shape:
        grey = None
    wanted = None if job.labels is None else np.array(job.labels)
    planes = labelled_slices(
        lambda box: _selected(read_labels(labels, box), wanted), labels.shape, labels.voxel_size or job.voxel_size,
        grey=grey.read if grey is not None else None,
    )  # fmt: skip
    return in_frame(planes, labels.placement, labels.voxel_size or job.voxel_size)


def _at_level(volume: Volume, level: int) -> Volume | None:
    """Another level of a volume; None where it is laid on another one, whose coarser levels may lie otherwise."""
    if level == volume.level:
        return volume
    return None if isinstance(volume, LaidVolume) else at_level(volume, level)


def _timings(job: ComparisonJob, totals: Mapping[str, Mapping[str, Any]]) -> list[Timing]:
    voxels = math.prod(job.grid.shape)
    return [
        Timing(name, stage["tasks"], stage["wall_seconds"], voxels / stage["wall_seconds"] / 1e6)
        for name, stage in totals.items()
    ]


def _shown(job: ComparisonJob, provenance: Mapping[str, Any]) -> dict[str, str]:
    """What a report shows of the provenance."""
    return {
        "voxcaliper": provenance["versions"]["voxcaliper"],
        **({} if job.ignore_label is None else {"Ignored label": f"{job.ignore_label}. {IGNORED}"}),
        **{
            what.capitalize(): f"{volume.name} ({volume.format}, {volume.dtype})"
            for what, volume in job.volumes.items()
        },
        **shown_place(job.reference, job.volumes.values()),
        **({"Distances": describe_distances(job.dtype, job.voxel_size)} if job.forms_distances else {}),
        "Border of the volume": job.border,
        "Blocks": f"{len(job.grid):,} of {' × '.join(map(str, job.grid.block_shape))} voxels",
        **shown_circumstances(provenance),
    }


def comparison_content(
    job: ComparisonJob, results: Measures, histograms: Mapping[tuple[int, Side], Histogram],
    totals: dict[str, dict[str, Any]], provenance: Mapping[str, Any],
) -> ComparisonContent:  # fmt: skip
    """The page of a comparison. results : the contents of comparison.json."""
    assert job.prediction is not None
    return ComparisonContent(
        title=f"{Path(job.prediction.location).name} compared with {Path(job.reference.location).name}",
        comparison=results,
        voxel_size_um=job.voxel_size.um,
        volume_voxels=math.prod(job.grid.shape) - results.get("ignored", {}).get("voxels", 0),
        histograms=_histogram_pairs(job, histograms),
        slices=slices_of(job),
        slices_note=None,
        timings=_timings(job, totals),
        provenance=_shown(job, provenance),
    )


def _histogram_pairs(job: ComparisonJob, histograms: Mapping[tuple[int, Side], Histogram]) -> dict[str, HistogramPair]:
    unit = job.voxel_size.unit_um
    return {
        str(label): HistogramPair(
            *(ThicknessHistogram(*histograms.get((label, side), NO_VOXELS), unit) for side in SIDES)
        )
        for label in sorted({label for label, _ in histograms})
    }


def slices_of(job: ComparisonJob) -> list[ComparedSlice]:
    """Planes of both, at the finest level that is not too large; labels are read with its step."""
    assert job.prediction is not None
    if not job.maps:
        return _planes(job.reference, job.prediction, None, None, job)
    shapes = job.maps["reference"].level_shapes
    level = next((n for n, shape in enumerate(shapes) if max(shape) <= SLICE_PIXELS), len(shapes) - 1)
    if level == 0:
        thickness = [job.maps[side].volume(0) for side in SIDES]
        return _planes(job.reference, job.prediction, thickness[0], thickness[1], job)
    # Where the maps are too large for a page, where they are above 0 is what there is of the labels.
    maps = [job.maps[side].volume(level) for side in SIDES]
    return _planes(maps[0], maps[1], maps[0], maps[1], job)


def _planes(
    reference: Volume, prediction: Volume, thickness: Volume | None, other_thickness: Volume | None, job: ComparisonJob
) -> list[ComparedSlice]:
    def labels(volume: Volume, side: Side) -> Callable[[Box], Array]:
        if np.dtype(volume.dtype).kind == "f":
            return lambda box: volume.read(box) > 0
        wanted = None if job.labels is None else np.array(job.labels)
        return lambda box: _selected(read_side(job, side, box), wanted)

    def read(volume: Volume | None) -> Callable[[Box], npt.NDArray[np.float32]] | None:
        return (lambda box: np.asarray(volume.read(box), np.float32)) if volume is not None else None

    planes = compared_slices(
        labels(reference, "reference"), labels(prediction, "prediction"), reference.shape,
        reference.voxel_size or job.voxel_size,
        reference_thickness=read(thickness), prediction_thickness=read(other_thickness),
    )  # fmt: skip
    return in_frame(planes, reference.placement, reference.voxel_size or job.voxel_size)


def _selected(labels: Array, wanted: Array | None) -> Array:
    return labels if wanted is None else np.where(np.isin(labels, wanted), labels, 0)
