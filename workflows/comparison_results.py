"""The results of a comparison: counts of all blocks merged, numbers formed once, tables, report and provenance."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.local import Workers
from pipeline import cavities, components, objects, regions, surface
from pipeline.comparison import ComparisonJob, FoundLabel, read_labels
from pipeline.components import CONNECTIVITIES, Connectivity, Union
from pipeline.errors import StorageError
from pipeline.files import write_json, write_whole
from pipeline.geometry import Box, Index
from pipeline.measures import corners
from pipeline.measures.detections import points_of, write_points
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
from pipeline.objects import Described, ObjectTally
from pipeline.report import (
    ComparedSlice,
    ComparisonContent,
    HistogramPair,
    LabelledSlice,
    StructuresContent,
    ThicknessHistogram,
    Timing,
    compared_slices,
    labelled_slices,
    write_comparison,
    write_structures,
)
from pipeline.statistics import described
from pipeline.surface import SIDES, Side, SurfaceTally
from pipeline.tally import Histogram, Tally, merge
from pipeline.volume.opening import Volume, open_volume
from workflows.compare_segmentations import OBJECT_CONNECTIVITY, merged_regions, read_overlap
from workflows.provenance import circumstances, shown_circumstances
from workflows.run_folder import RunFolder

Array = npt.NDArray[Any]
Measures = dict[str, Any]

SLICE_PIXELS = 1024
"""Slices of the report come from the finest level of the maps whose longest axis is not longer than this."""
NO_COARSE_LEVEL = f"Planes are shown from levels of at most {SLICE_PIXELS} voxels a side, and the volume has none."
LABELS_AT_ONCE = 32
"""Labels whose surface tallies are merged in one pass over the parcels, and held together."""
FILLED = "the label fills the volume and what lies outside is unknown, so it has no background; try --border closed"
ABSENT = "the label is not in this volume"
NOT_HERE = "the label has no voxel with a thickness in this region"
NO_VOXELS = Histogram(np.zeros(0, np.int64), np.zeros(0, np.int64))
TALLY_COLUMNS = ("label", "squared_radius", "voxels")


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
    }
    try:
        if job.prediction is None:
            results = structures(job)
            write_json(run.path / "statistics.json", results)
            write_table(run.path / "statistics.csv", labelled(results))
            found = detected(job) if job.objects == "components" else None
            if found is not None:
                write_points(run.path / "detections.csv", points_of(found, job.reference.name))
            write_structures(run.report, _structures_content(job, results, found, totals, provenance))
        else:
            tallies = thickness_tallies(job)
            histograms = {key: tally.total() for key, tally in tallies.items()}
            results = comparison(job, histograms, config.tolerances_um)
            if job.regions is not None:
                results["regions"] = of_regions(job, tallies, config.tolerances_um)
            write_json(run.path / "comparison.json", results)
            write_table(run.path / "comparison.csv", labelled(results))
            if job.regions is not None:
                rows = [
                    {"region": region, **row} for region, part in results["regions"].items() for row in labelled(part)
                ]
                write_table(run.path / "regions.csv", rows)
            content = _content(job, results, histograms, totals, provenance)
            write_comparison(run.report, content)
        write_json(run.provenance, provenance)
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
                tally, side="reference", label=one.label, shape=job.grid.shape, voxel_size=job.voxel_size
            )
        )
        for one in job.found_labels()
    }
    result: Measures = {"voxel_size_um": list(job.voxel_size.um), "shape": list(job.grid.shape), "labels": found}
    if job.image is not None:
        result["totalsegmentator"] = {label: totalsegmentator_statistics(row) for label, row in found.items()}
    return result


def detected(job: ComparisonJob) -> Described:
    """Every component of every label with its centre."""
    blocks = job.topology_grid
    nodes = (job.ledger.read("components", block, "reference-object-label") for block in blocks)
    union = components.unite(nodes, (_seams(job, "reference", OBJECT_CONNECTIVITY)))
    closed = (
        Described(
            job.ledger.read("components", block, "reference-closed-label"),
            job.ledger.read("components", block, "reference-closed-description"),
        )
        for block in blocks
    )
    opened = (job.ledger.read("components", block, "reference-open-description") for block in blocks)
    return objects.merge_described(union, opened, closed)


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
                    unit_areas=unit_areas,
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
                    tally, side=side, label=one.label, shape=job.grid.shape, voxel_size=job.voxel_size
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
        "labels": {name: _plain(label) for name, label in labels.items()},
        "overall": _plain(overall),
    }


def surface_tallies(job: ComparisonJob) -> Iterator[SurfaceTally]:
    """The merged surface tally of every label that has a surface, in their order.

    A parcel holds the tallies of all labels of its block, so it is opened once for LABELS_AT_ONCE of them.
    """
    labels = list(job.surfaces())
    for start in range(0, len(labels), LABELS_AT_ONCE):
        group = labels[start : start + LABELS_AT_ONCE]
        merging = [surface.Merging(len(job.widths)) for _ in group]
        blocks: dict[Index, list[int]] = {}
        for number, label in enumerate(group):
            for block in label.touched():
                blocks.setdefault(block, []).append(number)
        for block, numbers in blocks.items():
            receipt = job.ledger.receipt(surface.COUNT_STAGE, block)
            for number in numbers:
                merging[number].add(surface.tally_of(group[number], receipt))
        yield from (one.whole() for one in merging)


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
    surfaces = _surfaces_by_region(job) if "surface" in job.parts else {}
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
                parts.append(region_surface_measures(here, job.voxel_size, tolerances_um=tolerances_um))
            if "thickness" in job.parts:
                of_sides = {side: tallies.get((label, side), Tally.empty()).of_label(region) for side in SIDES}
                parts.append(_thickness_of_both(of_sides, job, dict.fromkeys(SIDES, NOT_HERE)))
            labels[str(label)] = _joined(parts)
        foreground = overlap_measures(foreground_confusion(pairs), job.voxel_size)
        voxels = int(pairs["volume-voxels"][0])
        result[str(region)] = _plain({"voxels": voxels, "foreground": foreground, "labels": labels})
    return result


def _surfaces_by_region(job: ComparisonJob) -> dict[int, dict[Side, Tally]]:
    """Of every label and side: surface voxels by region and squared distance plus one."""
    found: dict[int, dict[Side, Tally]] = {}
    for label in job.surfaces():
        found[int(label.name)] = dict.fromkeys(SIDES, Tally.empty())
        for block in label.touched():
            receipt = job.ledger.receipt(surface.COUNT_STAGE, block)
            for side, so_far in found[int(label.name)].items():
                names = {name: label.array(f"region-{name}", side) for name in TALLY_COLUMNS}
                if names["label"] in receipt.arrays:
                    tally = Tally(**{name: receipt.read(stored) for name, stored in names.items()})
                    found[int(label.name)][side] = merge(so_far, tally)
    return found


def thickness_tallies(job: ComparisonJob) -> dict[tuple[int, Side], Tally]:
    """Voxels per region and squared radius of every label of either side, out of the receipts of stage thickness."""
    if "thickness" not in job.parts:
        return {}
    found: dict[tuple[int, Side], Tally] = {}
    structures = {structure.name("label"): structure for structure in job.structures()}
    for _, receipt in job.ledger.finished_tasks("thickness"):
        for structure in (structures[name] for name in receipt.arrays if name in structures):
            tally = Tally(**{name: receipt.read(structure.name(name)) for name in TALLY_COLUMNS})
            key = structure.label, structure.side
            found[key] = merge(found[key], tally) if key in found else tally
    return found


def merged_topology(job: ComparisonJob) -> dict[Side, tuple[dict[Connectivity, dict[int, int]], dict[int, int]]]:
    """Of each side: label → components by connectivity, and label → cavities."""
    found: dict[Side, tuple[dict[Connectivity, dict[int, int]], dict[int, int]]] = {}
    for side in SIDES:
        counts: dict[Connectivity, dict[int, int]] = {}
        holes: dict[int, int] = {}
        for connectivity in CONNECTIVITIES:
            union = _union(job, side, connectivity)
            final = _pairs(job, side, connectivity, "final-label", "final-count")
            counts[connectivity] = components.component_counts(union, final)
            if connectivity == 6:
                edges = (_read(job, block, side, 6, "edges") for block in job.topology_grid)
                leaves = _pairs(job, side, 6, "cavity-label", "cavity-count")
                holes = cavities.merge_cavities(union, edges, _seams(job, side, 6), leaves)
        found[side] = (counts, holes)
    return found


def merged_objects(job: ComparisonJob) -> ObjectTally:
    """Objects of both sides and how they meet."""
    unions = []
    for side in SIDES:
        nodes = (job.ledger.read("components", block, f"{side}-object-label") for block in job.topology_grid)
        unions.append(
            components.unite_labels(nodes)
            if job.objects == "labels"
            else components.unite(nodes, _seams(job, side, OBJECT_CONNECTIVITY))
        )
    reference, prediction = unions
    return objects.merge_objects(reference, prediction, _object_arrays(job), labels_are_objects=job.objects == "labels")


def _object_arrays(job: ComparisonJob) -> Iterator[dict[str, Array]]:
    for block in job.topology_grid:
        receipt = job.ledger.receipt("components", block)
        names = [name for name in receipt.arrays if name.startswith("objects-")]
        yield {name.removeprefix("objects-"): receipt.read(name) for name in names}


def _read(job: ComparisonJob, block: Any, side: Side, connectivity: Connectivity, name: str) -> Array:
    return job.ledger.read("components", block, f"{side}-{connectivity}-{name}")


def _pairs(job: ComparisonJob, side: Side, connectivity: Connectivity, *names: str) -> Iterable[tuple[Array, Array]]:
    first, second = names
    return (
        (_read(job, block, side, connectivity, first), _read(job, block, side, connectivity, second))
        for block in job.topology_grid
    )


def _seams(job: ComparisonJob, side: Side, connectivity: Connectivity) -> Iterator[Array]:
    return (job.ledger.read("seams", block, f"{side}-{connectivity}-seams") for block in job.topology_grid)


def _union(job: ComparisonJob, side: Side, connectivity: Connectivity) -> Union:
    labels = (_read(job, block, side, connectivity, "label") for block in job.topology_grid)
    return components.unite(labels, _seams(job, side, connectivity))


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
    writer.writerows(rows)
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


def _structures_content(
    job: ComparisonJob, results: Measures, found: Described | None, totals: dict[str, dict[str, Any]],
    provenance: Mapping[str, Any],
) -> StructuresContent:  # fmt: skip
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
    opened = (_at_level(job.reference, level) for level in levels)
    labels = next((volume for volume in opened if max(volume.shape) <= SLICE_PIXELS), None)
    if labels is None:
        return None
    grey = _at_level(job.image, labels.level) if job.image and labels.level < job.image.level_count else None
    if grey is not None and grey.shape != labels.shape:
        grey = None
    wanted = None if job.labels is None else np.array(job.labels)
    return labelled_slices(
        lambda box: _selected(read_labels(labels, box), wanted), labels.shape, labels.voxel_size or job.voxel_size,
        grey=grey.read if grey is not None else None,
    )  # fmt: skip


def _at_level(volume: Volume, level: int) -> Volume:
    return volume if level == volume.level else open_volume(volume.location, level=level)


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
        **{
            what.capitalize(): f"{volume.name} ({volume.format}, {volume.dtype})"
            for what, volume in job.volumes.items()
        },
        "Border of the volume": job.border,
        "Blocks": f"{len(job.grid):,} of {' × '.join(map(str, job.grid.block_shape))} voxels",
        **shown_circumstances(provenance),
    }


def _content(
    job: ComparisonJob, results: Measures, histograms: Mapping[tuple[int, Side], Histogram],
    totals: dict[str, dict[str, Any]], provenance: Mapping[str, Any],
) -> ComparisonContent:  # fmt: skip
    assert job.prediction is not None
    return ComparisonContent(
        title=f"{Path(job.prediction.location).name} compared with {Path(job.reference.location).name}",
        comparison=results,
        voxel_size_um=job.voxel_size.um,
        volume_voxels=math.prod(job.grid.shape),
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
    def labels(volume: Volume) -> Callable[[Box], Array]:
        if np.dtype(volume.dtype).kind == "f":
            return lambda box: volume.read(box) > 0
        wanted = None if job.labels is None else np.array(job.labels)
        return lambda box: _selected(read_labels(volume, box), wanted)

    def read(volume: Volume | None) -> Callable[[Box], npt.NDArray[np.float32]] | None:
        return (lambda box: np.asarray(volume.read(box), np.float32)) if volume is not None else None

    return compared_slices(
        labels(reference), labels(prediction), reference.shape, reference.voxel_size or job.voxel_size,
        reference_thickness=read(thickness), prediction_thickness=read(other_thickness),
    )  # fmt: skip


def _selected(labels: Array, wanted: Array | None) -> Array:
    return labels if wanted is None else np.where(np.isin(labels, wanted), labels, 0)
