"""The results of a comparison: counts of all blocks merged, numbers formed once, tables, report and provenance."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.local import Workers
from pipeline import regions
from pipeline.comparison import IGNORED, ComparisonJob, FoundLabel
from pipeline.components import CONNECTIVITIES
from pipeline.errors import StorageError
from pipeline.files import write_json, write_whole
from pipeline.measures import corners
from pipeline.measures.detections import base_name, points_of, write_points
from pipeline.measures.distributions import EMPTY, distribution_distances
from pipeline.measures.objects import object_measures
from pipeline.measures.overlap import (
    confusions,
    empty_confusion,
    foreground_confusion,
    label_averages,
    multiclass_measures,
    overlap_measures,
)
from pipeline.measures.structures import structure_statistics, totalsegmentator_statistics
from pipeline.measures.surface import region_surface_measures, surface_measures
from pipeline.measures.topology import Topology, topology_measures
from pipeline.placement import AT_ORIGIN
from pipeline.plain_text import safe_row
from pipeline.report import (
    write_comparison,
    write_structures,
)
from pipeline.statistics import described
from pipeline.surface import SIDES, Side, SurfaceTally
from pipeline.tally import Histogram, Tally
from workflows.checksums import sealed
from workflows.compare_segmentations import create_maps, merged_regions, read_overlap, stages
from workflows.comparison_content import NO_VOXELS, comparison_content, structures_content
from workflows.merged_counts import (
    detected,
    merged_objects,
    merged_topology,
    surface_tallies,
    surfaces_by_region,
    thickness_tallies,
)
from workflows.provenance import circumstances, described_input
from workflows.run_folder import RunFolder

Measures = dict[str, Any]

FILLED = "the label fills the volume and what lies outside is unknown, so it has no background; try --border closed"
ABSENT = "the label is not in this volume"
NOT_HERE = "the label has no voxel with a thickness in this region"


def write_comparison_results(
    run: RunFolder, job: ComparisonJob, totals: dict[str, dict[str, Any]], workers: Workers, seconds: float
) -> Measures:
    """Merge everything and write the results, provenance last; returns the contents of the main result file.

    Raises StorageError where the disk refuses; resuming the run then writes the results again.
    """
    config = run.comparison_config()
    provenance = {
        **circumstances(totals, workers, job.device, seconds),
        "configuration": config.model_dump(mode="json"),
        "plan": run.comparison_plan().model_dump(mode="json"),
        "inputs": {what: described_input(volume) for what, volume in job.volumes.items()},
    }
    try:
        if job.prediction is None:
            results = structures(job)
            write_json(run.path / "statistics.json", results)
            write_table(run.path / "statistics.csv", labelled(results))
            found = detected(job) if job.objects == "components" else None
            if found is not None:
                volume = base_name(job.reference.location)
                points = points_of(found, volume, config.class_names)
                placement = job.reference.placement or AT_ORIGIN
                write_points(run.path / "detections.csv", points, lambda p: placement.position_um(p, job.voxel_size))
            write_structures(run.report, structures_content(job, results, found, totals, provenance))
        else:
            tallies = thickness_tallies(job)
            histograms = {key: tally.total() for key, tally in tallies.items()}
            results = comparison(job, histograms, config.tolerances_um)
            if job.regions is not None:
                results["regions"] = parts = of_regions(job, tallies, config.tolerances_um)
                rows = [{"region": region, **row} for region, part in parts.items() for row in labelled(part)]
                write_table(run.path / "regions.csv", rows)
            write_json(run.path / "comparison.json", results)
            write_table(run.path / "comparison.csv", labelled(results))
            content = comparison_content(job, results, histograms, totals, provenance)
            write_comparison(run.report, content)
        create_maps(job)
        write_json(run.provenance, sealed(run, job, stages(job), provenance))
    except OSError as error:
        raise StorageError(
            f"The results in {run.path} could not be written: {error.strerror or error};"
            f" make room and go on with `voxcaliper resume {run.path}`."
        ) from error
    return results


def structures(job: ComparisonJob) -> Measures:
    """The structures of one volume: statistics.json of the workflow `statistics`."""
    tally = read_overlap(job)
    found = {
        str(one.label): _plain(
            structure_statistics(
                tally,
                side="reference",
                label=one.label,
                shape=job.grid.shape,
                voxel_size=job.voxel_size,
                placement=job.reference.placement,
            )
        )
        for one in job.found_labels()
    }
    result: Measures = {"voxel_size_um": list(job.voxel_size.um), "shape": list(job.grid.shape), "labels": found}
    if job.image is not None:
        result["totalsegmentator"] = {label: totalsegmentator_statistics(row) for label, row in found.items()}
    return result


def comparison(
    job: ComparisonJob, histograms: Mapping[tuple[int, Side], Histogram], tolerances_um: tuple[float, ...]
) -> Measures:
    """The contents of comparison.json: labels → id → measures, overall, and what they mean."""
    tally = read_overlap(job)
    labels: dict[str, Measures] = {}
    topology = merged_topology(job) if "topology" in job.parts else {}
    object_tally = merged_objects(job) if job.objects != "none" else None
    areas = corners.surface_areas(job.voxel_size)
    unit_areas = corners.surface_areas(type(job.voxel_size)((1.0, 1.0, 1.0)))
    confusion, nowhere = confusions(tally), empty_confusion(tally)
    surfaces = surface_tallies(job) if "surface" in job.parts else None
    overlaps = []
    for one in job.found_labels():
        parts: list[Measures] = [overlap_measures(confusion.get(one.label, nowhere), job.voxel_size)]
        overlaps.append(parts[0])
        area_and_euler = corners.corner_measures(tally, one.label, areas)
        parts.append(area_and_euler)
        if surfaces is not None:
            there = one.reference is not None or one.prediction is not None
            merged = next(surfaces) if there else SurfaceTally.empty(len(job.widths))
            parts.append(
                surface_measures(
                    merged, job.voxel_size, tolerances_um=tolerances_um, widths=job.widths, areas=areas,
                    unit_areas=unit_areas, ignoring=job.ignore_label is not None,
                )
            )  # fmt: skip
        if topology:
            sides = [
                Topology(
                    {c: topology[side][0][c].get(one.label, 0) for c in CONNECTIVITIES},
                    topology[side][1].get(one.label, 0),
                    area_and_euler["euler_number"][side],
                )
                for side in SIDES
            ]
            parts.append(topology_measures(*sides))
        if "thickness" in job.parts:
            parts.append(_thickness(job, one, histograms))
        if object_tally is not None and job.objects == "components":
            parts.append({"objects": object_measures(object_tally, one.label)})
        if job.image is not None:
            statistics = {
                side: structure_statistics(
                    tally,
                    side=side,
                    label=one.label,
                    shape=job.grid.shape,
                    voxel_size=job.voxel_size,
                    placement=job.reference.placement,
                )
                for side in SIDES
            }
            parts.append({"structure": statistics})
        labels[str(one.label)] = _joined(parts)
    overall: Measures = {
        "foreground": _joined(
            [overlap_measures(foreground_confusion(tally), job.voxel_size),
             corners.corner_measures(tally, corners.FOREGROUND, areas)]
        ),
        "label_averaged": label_averages(overlaps),
        **multiclass_measures(tally),
    }  # fmt: skip
    if object_tally is not None:
        overall["objects"] = object_measures(object_tally)
    return {
        "voxel_size_um": list(job.voxel_size.um),
        "shape": list(job.grid.shape),
        "border": job.border,
        **({} if job.ignore_label is None else {"ignored": _ignored(job, int(tally["volume-voxels"][0]))}),
        "labels": {name: _plain(label) for name, label in labels.items()},
        "overall": _plain(overall),
    }


def _ignored(job: ComparisonJob, compared: int) -> Measures:
    """What was left out of a comparison. compared : voxels that were not."""
    return {"label": job.ignore_label, "voxels": math.prod(job.grid.shape) - compared, "definition": IGNORED}


def _thickness(job: ComparisonJob, one: FoundLabel, histograms: Mapping[tuple[int, Side], Histogram]) -> Measures:
    """The thickness of both, of a label of the whole volume."""
    why = {side: FILLED if present else ABSENT for side, present in zip(SIDES, one[3:], strict=True)}
    return _thickness_of_both({side: histograms.get((one.label, side), NO_VOXELS) for side in SIDES}, job, why)


def _thickness_of_both(
    histograms: Mapping[Side, Histogram], job: ComparisonJob, why: Mapping[Side, str]
) -> Measures:  # fmt: skip
    """Thickness statistics of both sides and how far their distributions are apart. why : one has no voxels."""
    wasserstein, kolmogorov_smirnov = distribution_distances(
        histograms["reference"], histograms["prediction"], job.voxel_size.unit_um
    )
    reasons = {f"thickness.{side}": why[side] for side in SIDES if not histograms[side].voxels.size}
    if math.isnan(wasserstein):
        reasons |= dict.fromkeys(("thickness.wasserstein_um", "thickness.kolmogorov_smirnov"), EMPTY)
    return {
        "thickness": {
            **{side: described(histograms[side], job.voxel_size)["thickness_um"] for side in SIDES},
            "wasserstein_um": wasserstein,
            "kolmogorov_smirnov": kolmogorov_smirnov,
        },
        "reasons": reasons,
    }


def of_regions(
    job: ComparisonJob, tallies: Mapping[tuple[int, Side], Tally], tolerances_um: tuple[float, ...]
) -> Measures:
    """Region → voxels, overlap of the foreground, and labels → id → the measures that a region has."""
    overlaps = merged_regions(job)
    surfaces = surfaces_by_region(job) if "surface" in job.parts else {}
    result: Measures = {}
    for region in overlaps.regions():
        pairs = overlaps.of_region(region)
        labels: dict[str, Measures] = {}
        for label, confusion in confusions(pairs).items():
            if not job.wants(label):
                continue
            parts = [overlap_measures(confusion, job.voxel_size)]
            if label in surfaces:
                here = regions.surface_of_region(surfaces[label], region)
                ignoring = job.ignore_label is not None
                parts.append(
                    region_surface_measures(here, job.voxel_size, tolerances_um=tolerances_um, ignoring=ignoring)
                )
            if "thickness" in job.parts:
                of_sides = {side: tallies.get((label, side), Tally.empty()).of_label(region) for side in SIDES}
                parts.append(_thickness_of_both(of_sides, job, dict.fromkeys(SIDES, NOT_HERE)))
            labels[str(label)] = _joined(parts)
        foreground = overlap_measures(foreground_confusion(pairs), job.voxel_size)
        voxels = int(pairs["volume-voxels"][0])
        result[str(region)] = _plain({"voxels": voxels, "foreground": foreground, "labels": labels})
    return result


def _joined(parts: Iterable[Measures]) -> Measures:
    """Measures of several kinds as one, their reasons together."""
    joined: Measures = {}
    reasons: dict[str, str] = {}
    for part in parts:
        reasons |= part.get("reasons", {})
        joined |= {name: value for name, value in part.items() if name != "reasons"}
    return joined | {"reasons": reasons}


def _plain(value: Any) -> Any:
    """Ready for JSON: undefined numbers are null, infinite ones the string "inf"."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value


def labelled(results: Measures) -> list[Measures]:
    """A row per label: every single number by its name, with dots where it lies deeper."""
    return [{"label": label, **_flat(measures)} for label, measures in results["labels"].items()]


def write_table(path: Path, rows: Sequence[Measures]) -> None:
    """A CSV with a column for every name that any row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["label"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(safe_row, rows))
    write_whole(path, text.getvalue())


def _flat(measures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in measures.items():
        if name == "reasons":
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat |= _flat({str(n): entry for n, entry in enumerate(value)}, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
