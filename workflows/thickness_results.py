"""The results of a thickness run: statistics, histogram, report, provenance, out of its ledger and map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.local import Workers
from pipeline.errors import RunError, StorageError
from pipeline.files import write_json
from pipeline.geometry import Box
from pipeline.job import ThicknessJob
from pipeline.report import (
    Comparison,
    ReportContent,
    Slice,
    ThicknessHistogram,
    Timing,
    in_frame,
    largest_projection,
    orthogonal_slices,
    write_report,
)
from pipeline.statistics import thickness_statistics, write_histogram_csv, write_statistics
from pipeline.tally import Tally
from workflows.checksums import sealed
from workflows.measure_thickness import create_map, merged_tally, stages
from workflows.plan_thickness import describe_distances
from workflows.provenance import circumstances, described_input, shown_circumstances, shown_place
from workflows.run_folder import RunFolder

SLICE_PIXELS = 1024
"""Slices of the report come from the finest level of the map whose longest axis is not longer than this."""

SPARSE = 0.15
"""Below this share of foreground the report shows a projection too: slices of a sparse tree are scattered discs."""

DEFINITION = (
    "Local thickness is the diameter 2·√T of the largest open ball inside the foreground that covers a voxel:"
    " T(p) = max { D(q) : |p − q|² < D(q) }, D(q) the squared distance from voxel centre q to the nearest background"
    " voxel centre (Hildebrand and Rüegsegger 1997). The border of the volume is "
)
BORDERS = {"unknown": "unknown: outside of it is no wall.", "closed": "closed: outside of it is background."}


def write_results(
    run: RunFolder, job: ThicknessJob, totals: dict[str, dict[str, Any]], workers: Workers, seconds: float,
    compare: Callable[[dict[str, Any]], Comparison] | None,
) -> dict[str, Any]:  # fmt: skip
    """Merge the tally and write everything, provenance last; returns the statistics.

    Raises StorageError where the disk refuses; resuming the run then writes the results again.
    """
    tally = merged_tally(job)
    statistics = thickness_statistics(
        tally,
        voxel_size=job.voxel_size,
        volume_voxels=job.mask.box.voxels,
        definition=DEFINITION + BORDERS[job.border],
        regions=job.regions is not None,
    )
    if statistics["foreground_voxels"] != totals["mask"]["foreground_voxels"]:
        raise RunError(
            f"The run {run.path} counted {statistics['foreground_voxels']:,} voxels of thickness but"
            f" {totals['mask']['foreground_voxels']:,} of foreground; measure it anew with `voxcaliper resume"
            f" {run.path} --restart`."
        )
    provenance = _provenance(run, job, totals, workers, seconds)
    try:
        write_statistics(run.statistics, statistics)
        write_histogram_csv(run.histogram, tally, job.voxel_size.unit_um)
        write_report(run.report, _report(job, tally, statistics, totals, provenance, compare))
        if job.map is not None:
            create_map(job)
        write_json(run.provenance, sealed(run, job, stages(job), provenance))
    except OSError as error:
        raise StorageError(
            f"The results in {run.path} could not be written: {error.strerror or error};"
            f" make room and go on with `voxcaliper resume {run.path}`."
        ) from error
    return statistics


def _provenance(
    run: RunFolder, job: ThicknessJob, totals: dict[str, dict[str, Any]], workers: Workers, seconds: float
) -> dict[str, Any]:
    plan = run.plan()
    voxels = job.mask.box.voxels
    stored = job.mask.stored_objects()
    missing = None if stored is None or job.mask.every_chunk_stored else max(0, len(job.mask.objects) - stored[0])
    return {
        **circumstances(totals, workers, job.device, seconds),
        "configuration": run.config().model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "input": {
            **described_input(job.mask),
            "objects_missing_read_as_fill_value": missing,
        },
        "regions": described_input(job.regions) if job.regions else None,
        "tasks_per_block": sum(stage["tasks"] for stage in totals.values()) / len(job.grid),
        "bytes_read_per_voxel": {
            "source": plan.source_bytes / voxels,
            "scratch": sum(stage["scratch_bytes_read"] for stage in totals.values()) / voxels,
        },
    }


def _report(
    job: ThicknessJob, tally: Tally, statistics: dict[str, Any], totals: dict[str, dict[str, Any]],
    provenance: dict[str, Any], compare: Callable[[dict[str, Any]], Comparison] | None,
) -> ReportContent:  # fmt: skip
    slices, note = _slices(job, statistics["foreground_voxels"] / statistics["volume_voxels"])
    whole = tally.total()
    blocks = " × ".join(map(str, job.grid.block_shape))
    shown = {
        "voxcaliper": provenance["versions"]["voxcaliper"],
        "Mask": f"{job.mask.name} ({job.mask.format}, level {job.mask.level}, {job.mask.dtype})",
        **shown_place(job.mask, job.volumes.values()),
        "Foreground": job.foreground.describe(),
        "Distances": describe_distances(job.dtype, job.voxel_size),
        "Border of the volume": job.border,
        "Blocks": f"{len(job.grid):,} of {blocks} voxels",
        "Tasks per block": f"{provenance['tasks_per_block']:.2f}",
        "Bytes read per voxel": "source {source:.2f}, scratch {scratch:.2f}".format(
            **provenance["bytes_read_per_voxel"]
        ),
        **shown_circumstances(provenance),
    }
    if job.regions is not None:
        shown["Regions"] = job.regions.name
    missing = provenance["input"]["objects_missing_read_as_fill_value"]
    if missing:
        shown["Not stored in the source"] = (
            f"{missing:,} of {len(job.mask.objects):,} chunks or shards, read as the fill value {job.mask.fill_value:g}"
        )
    return ReportContent(
        title=f"Local thickness of {Path(job.mask.location).name}",
        statistics=statistics,
        histogram=ThicknessHistogram(whole.squared_radius, whole.voxels, job.voxel_size.unit_um),
        slices=slices,
        slices_note=note,
        timings=[
            Timing(name, stage["tasks"], stage["wall_seconds"], job.mask.box.voxels / stage["wall_seconds"] / 1e6)
            for name, stage in totals.items()
        ],
        provenance=shown,
        comparison=compare(statistics) if compare else None,
    )


def _slices(job: ThicknessJob, foreground_share: float) -> tuple[list[Slice], str | None]:
    if job.map is None:
        return [], "No slices: the run stored no map (--map none)."
    level = next(
        (n for n, shape in enumerate(job.map.level_shapes) if max(shape) <= SLICE_PIXELS), len(job.map.level_shapes) - 1
    )
    volume = job.map.volume(level)
    assert volume.voxel_size is not None
    unit_um = job.voxel_size.unit_um

    def thickness_um(values: NDArray[Any]) -> NDArray[np.float32]:
        if job.map_kind == "squared-radius":
            values = 2.0 * np.sqrt(values.astype(np.float64)) * unit_um
        return np.asarray(values, np.float32)

    def read(box: Box) -> NDArray[np.float32]:
        return thickness_um(volume.read(box))

    slices = orthogonal_slices(read, volume.shape, volume.voxel_size)
    if foreground_share < SPARSE:
        slices.append(largest_projection(read, volume.shape, volume.voxel_size))
    return in_frame(slices, volume.placement, volume.voxel_size), None
