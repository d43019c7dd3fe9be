"""What the blocks of a comparison found, merged: tallies, components, cavities and objects of the whole volume.

Read out of the receipts block after block; what is held meanwhile stands in pipeline/comparison_memory.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy.typing as npt

from pipeline import cavities, components, objects, surface
from pipeline.comparison import ComparisonJob
from pipeline.components import CONNECTIVITIES, Connectivity, Union
from pipeline.geometry import Index
from pipeline.objects import Described, ObjectTally
from pipeline.surface import SIDES, Side, SurfaceTally
from pipeline.tally import Tally, merge
from workflows.compare_segmentations import OBJECT_CONNECTIVITY

Array = npt.NDArray[Any]

LABELS_AT_ONCE = 32
"""Labels whose surface tallies are merged in one pass over the parcels, and held together."""
TALLY_COLUMNS = ("label", "squared_radius", "voxels")


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


def surfaces_by_region(job: ComparisonJob) -> dict[int, dict[Side, Tally]]:
    """Of every label and side: surface voxels by region and squared distance plus one."""
    labels = list(job.surfaces())
    found: dict[int, dict[Side, Tally]] = {int(label.name): dict.fromkeys(SIDES, Tally.empty()) for label in labels}
    for _, receipt in job.ledger.receipts(surface.COUNT_STAGE, job.grid):
        for label, side in itertools.product(labels, SIDES):
            names = {name: label.array(f"region-{name}", side) for name in TALLY_COLUMNS}
            if names["label"] in receipt.arrays:
                tally = Tally(**{name: receipt.read(stored) for name, stored in names.items()})
                of_label = found[int(label.name)]
                of_label[side] = merge(of_label[side], tally)
    return found


def thickness_tallies(job: ComparisonJob) -> dict[tuple[int, Side], Tally]:
    """Voxels per region and squared radius of every label of either side, out of the receipts of stage thickness."""
    if "thickness" not in job.parts:
        return {}
    found: dict[tuple[int, Side], Tally] = {}
    structures = {structure.name("label"): structure for structure in job.structures()}
    for _, receipt in job.ledger.receipts("thickness", job.grid):
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
