"""A prediction beside a reference, from voxels to mergeable counts: the order of the science.

    overlap           both volumes read once: pairs of labels, structures, 2×2×2 codes, grey values
    components        components of every label (6, 18, 26) and of the background; objects and where they meet
    seams             which components go on across the borders of blocks
    surface … -z      surface elements, and the parabolas that other blocks need of them, along x, y and z
    surface-distance  how far each element lies from the other surface, counted
    mask … thickness  thickness of every label of both volumes, as in a thickness run; the maps
    pyramid-…-n       the coarser levels of the maps that a block cannot write alone

Whatever is not asked for has no stage. Every count merges by addition or union: blocks, order and workers never show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import cavities, centres, components, device, distance, objects, overlap, surface, thickness
from pipeline.comparison import ComparisonJob, FoundLabel, Structure, read_labels, within
from pipeline.components import CONNECTIVITIES, Connectivity
from pipeline.device import Host
from pipeline.engine import Client, Outcome, Progress, Stage, Stopwatch
from pipeline.errors import StorageError
from pipeline.geometry import Box, Index
from pipeline.kernels import distance as distance_kernels
from pipeline.kernels import tally as tally_kernels
from pipeline.parcels import open_parcel, write_parcel
from pipeline.surface import SIDES, Side
from pipeline.tally import Tally
from workflows.measure_thickness import create_whole
from workflows.stages import Conclusion, resource, run_stages

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

OVERLAP = "overlap.parcel"
REACH = "reach.parcel"
CONTRIBUTIONS_PER_MERGE = 16
OBJECT_CONNECTIVITY: Connectivity = 26


def named(prefix: str, arrays: Mapping[str, Array]) -> Arrays:
    """Arrays under names of their own in a parcel that holds several kinds."""
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def count_overlap(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """Pairs of labels, structures and corner codes of the block."""
    box = job.grid.box(block)
    with clock("read"):
        wide = overlap.reading_box(box)
        reference = job.reference.read(wide)
        prediction = job.prediction.read(wide) if job.prediction else None
        image = job.image.read(box) if job.image else None
    with clock("overlap"):
        return Outcome({}, overlap.overlap_of_block(reference, prediction, image, box=box, shape=job.grid.shape))


def label_components(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """Components of both volumes, cavities, and the objects that they are."""
    box, shape = job.grid.box(block), job.grid.shape
    arrays: Arrays = {}
    found: dict[Side, objects.Objects] = {}
    for side, volume in job.sides.items():
        with clock("read"):
            labels = read_labels(volume, box)
        with clock("components"):
            arrays |= named(f"{side}-6-", cavities.block_cavities(labels, box, shape))
            for connectivity in CONNECTIVITIES[1:]:
                numbered, exported = components.block_components(labels, box, shape, connectivity)
                arrays |= named(f"{side}-{connectivity}-", exported)
        if job.objects != "none":
            with clock("objects"):
                found[side] = (
                    objects.label_objects(numbered, box)
                    if job.objects == "labels"
                    else objects.component_objects(numbered, box, shape)
                )
                arrays |= _described(side, found[side])
    if len(found) == len(SIDES):
        with clock("objects"):
            arrays |= named("objects-", objects.block_objects(found["reference"], found["prediction"]))
    return Outcome({}, arrays)


def _described(side: Side, found: objects.Objects) -> Arrays:
    """The objects of a block: those that other blocks may continue, and those that are complete."""
    closed = objects.closed_objects(found)
    return {
        f"{side}-object-label": found.label[found.open],
        f"{side}-open-description": found.description[found.open],
        f"{side}-closed-label": closed.label,
        f"{side}-closed-description": closed.description,
    }


def find_seams(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """The components of the block that go on in the blocks before it."""
    arrays: Arrays = {}
    with clock("seams"):
        for side in job.sides:
            for connectivity in CONNECTIVITIES:
                prefix = f"{side}-{connectivity}-"

                def read(other: Index, name: str, prefix: str = prefix) -> Array:
                    return job.ledger.read("components", other, f"{prefix}{name}")

                # The graph of cavities needs to know who touches whom, whatever the labels.
                rows = components.seams(job.grid, block, connectivity, read, same_label=connectivity != 6)
                arrays[f"{prefix}seams"] = rows
    return Outcome({}, arrays)


def find_surfaces(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """The surface elements of every label in the block."""
    assert job.prediction is not None
    arrays: Arrays = {}
    labels = [label for label in job.surfaces() if label.touches(block)]
    if not labels:
        return Outcome()
    boxes = [label.reading_box(block) for label in labels]
    wide = Box(
        tuple(min(box.start[a] for box in boxes) for a in range(3)),  # type: ignore[arg-type]
        tuple(max(box.stop[a] for box in boxes) for a in range(3)),  # type: ignore[arg-type]
    )
    with clock("read"):
        reference, prediction = read_labels(job.reference, wide), read_labels(job.prediction, wide)
    with clock("surface"):
        for label, box in zip(labels, boxes, strict=True):
            part = within(box, wide)
            masks = (reference[part] == int(label.name), prediction[part] == int(label.name))
            arrays |= surface.find_elements(label, block, *masks)
    return Outcome({}, arrays)


def surface_neighbours(job: ComparisonJob, block: Index, clock: Stopwatch, *, axes: int) -> Outcome:
    """The parabolas of the surfaces of the block along the next axis."""
    arrays: Arrays = {}
    with clock("surface"):
        for label in job.surfaces():
            if label.touches(block):
                arrays |= surface.face_neighbours(label, block, axes=axes)
    return Outcome({}, arrays)


def count_surface_distances(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """How far the surface elements of the block lie from the other surface."""
    arrays: Arrays = {}
    with clock("surface"):
        for label in job.surfaces():
            if label.touches(block):
                arrays |= surface.count_distances(label, block)
    return Outcome({}, arrays)


def read_masks(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """Every structure of the block as bits, and its parabolas along x."""
    arrays: Arrays = {}
    structures = list(job.structures(block))
    for side, volume in job.sides.items():
        mine = [structure for structure in structures if structure.side == side]
        if not mine:
            continue
        box = job.grid.box(block)
        with clock("read"):
            labels = read_labels(volume, box)
        for structure in mine:
            mask = labels[within(structure.part(block), box)] == structure.label
            bits = np.packbits(mask, axis=2)
            arrays[structure.name("bits")] = bits
            arrays |= _exported(job, structure, block, bits, clock, axes=0)
    return Outcome({}, arrays)


def mask_neighbours(job: ComparisonJob, block: Index, clock: Stopwatch, *, axes: int) -> Outcome:
    """The parabolas of every structure of the block along the next axis."""
    arrays: Arrays = {}
    for structure in job.structures(block):
        arrays |= _exported(job, structure, block, _stored_bits(job, structure, block, clock), clock, axes=axes)
    return Outcome({}, arrays)


def _stored_bits(job: ComparisonJob, structure: Structure, block: Index, clock: Stopwatch) -> Array:
    with clock("read"):
        return job.ledger.read("mask", block, structure.name("bits"))


def _unpacked(structure: Structure, block: Index, bits: Array, place: Host) -> Array:
    return distance_kernels.unpack_bits(place.up(bits), structure.grid.box(block).shape[2])


def _exported(
    job: ComparisonJob, structure: Structure, block: Index, bits: Array, clock: Stopwatch, *, axes: int
) -> Arrays:  # fmt: skip
    def work(place: Host) -> Arrays:
        mask = _unpacked(structure, block, bits, place)
        distances = distance.squared_distance(structure.field, block, mask, axes=axes)
        return distance.export_parabolas(structure.field, block, distances, axis=distance.AXES[axes])

    with clock("distance"):
        return device.run(job.device, work)


def keep_centres(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """The centres of every structure of the block whose balls matter."""
    arrays: dict[str, Any] = {}
    largest: dict[str, int] = {}
    for structure in job.structures(block):
        bits = _stored_bits(job, structure, block, clock)

        def work(place: Host, structure: Structure = structure, bits: Array = bits) -> tuple[dict[str, Any], int]:
            mask = _unpacked(structure, block, bits, place)
            with clock("distance"):
                distances = distance.squared_distance(structure.field, block, mask, axes=3)
                place.wait()
            with clock("prune"):
                return centres.pack_centres(structure.field, block, distances, at_once=True)

        kept, top = device.run(job.device, work)
        arrays |= kept
        largest[structure.field.prefix] = top
    return Outcome({"largest": largest}, arrays)


def measure_structures(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """Thickness of every structure of the block: tallies, and the block of every map."""
    box = job.grid.box(block)
    arrays: Arrays = {}
    maps = {name: np.zeros(box.shape, np.float32) for name in job.maps}
    before: tuple[Structure, Array] | None = None
    with clock("read"):
        reach = open_parcel(job.ledger.folder / REACH)
    for structure in job.structures(block):
        bits = _stored_bits(job, structure, block, clock)
        largest = reach.read(structure.name("largest"))

        def work(
            place: Host, structure: Structure = structure, bits: Array = bits, largest: Array = largest
        ) -> tuple[Tally, Array | None]:
            mask = _unpacked(structure, block, bits, place)
            with clock("gather"):
                radii = thickness.squared_local_radius(
                    structure.field, block, mask, largest, batch_divisor=place.batch_divisor
                )
                place.wait()
            with clock("tally"):
                label, radius, voxels = tally_kernels.count_pairs(radii, np.zeros((1, 1, 1), np.int64))
                tally = Tally.of_counts(label=label, squared_radius=radius, voxels=voxels)
            with clock("map"):
                return tally, place.down(thickness.thickness_um(radii, job.voxel_size.unit_um)) if maps else None

        tally, values = device.run(job.device, work)
        arrays[structure.name("radius")], arrays[structure.name("voxels")] = tally.squared_radius, tally.voxels
        if values is not None:
            part = maps[structure.side][within(structure.part(block), box)]
            np.maximum(part, values, out=part)  # a voxel has one label, the others are 0 there
            if before is not None and before[0].label == structure.label:
                _note_difference(maps["difference"], box, block, before, (structure, values))
            before = structure, values
    with clock("write"):
        for name, image in job.maps.items():
            image.write_own_levels(block, maps[name])
    return Outcome({}, arrays)


def _note_difference(
    out: Array, box: Box, block: Index, reference: tuple[Structure, Array], prediction: tuple[Structure, Array]
) -> None:
    """Thickness of the prediction less that of the reference where both have the label."""
    boxes = [structure.part(block) for structure, _ in (reference, prediction)]
    start_z, start_y, start_x = (max(b.start[a] for b in boxes) for a in range(3))
    stop_z, stop_y, stop_x = (min(b.stop[a] for b in boxes) for a in range(3))
    if start_z >= stop_z or start_y >= stop_y or start_x >= stop_x:
        return
    common = Box((start_z, start_y, start_x), (stop_z, stop_y, stop_x))
    r, p = (values[within(common, b)] for (_, values), b in zip((reference, prediction), boxes, strict=True))
    np.subtract(p, r, out=out[within(common, box)], where=(r > 0) & (p > 0))


def coarsen_map(job: ComparisonJob, block: Index, clock: Stopwatch, *, name: str, level: int) -> Outcome:
    """A block of a coarser level of a map."""
    with clock("write"):
        job.maps[name].reduce_block(level, block)
    return Outcome()


def stages(job: ComparisonJob) -> list[Stage]:
    """The stages of a comparison in their order, those that are asked for."""
    grid = job.grid
    gpu, cpu = resource(job.device, kernels=True), resource(job.device, kernels=False)
    found = [Stage("overlap", grid, count_overlap, cpu)]
    if "topology" in job.parts or job.objects != "none":
        found += [Stage("components", grid, label_components, cpu), Stage("seams", grid, find_seams, cpu)]
    if "surface" in job.parts and job.prediction is not None:
        found += [
            Stage(surface.SEEDS_STAGE, grid, find_surfaces, cpu),
            Stage(surface.STAGE_OF_AXIS[1], grid, partial(surface_neighbours, axes=1), cpu),
            Stage(surface.STAGE_OF_AXIS[0], grid, partial(surface_neighbours, axes=2), cpu),
            Stage(surface.COUNT_STAGE, grid, count_surface_distances, cpu),
        ]
    if "thickness" in job.parts:
        found += [
            Stage("mask", grid, read_masks, gpu),
            Stage("distance-y", grid, partial(mask_neighbours, axes=1), gpu),
            Stage("distance-z", grid, partial(mask_neighbours, axes=2), gpu),
            Stage(centres.STAGE, grid, keep_centres, gpu),
            Stage("thickness", grid, measure_structures, gpu),
        ]
    for name, image in job.maps.items():
        found += [
            Stage(f"pyramid-{name}-{level}", image.grid(level), partial(coarsen_map, name=name, level=level), cpu)
            for level in range(image.own_levels, len(image.level_shapes))
        ]
    return found


def compare(client: Client, job: ComparisonJob, *, report: Callable[[Progress], None]) -> dict[str, dict[str, Any]]:
    """Run every stage that is not finished; returns the totals of each, in order."""
    job.ledger.sweep()
    for name, image in job.maps.items():
        if not image.path.exists():
            create_whole(image, {"voxcaliper": {"map": name}})
    conclusions: dict[str, Callable[[], Conclusion]] = {
        "overlap": partial(_Labels, job),
        centres.STAGE: partial(_Reach, job),
    }
    return run_stages(client, job, stages(job), report=report, conclusions=conclusions)


class _Labels(Conclusion):
    """The merged overlap, and in which box each label lies."""

    def __init__(self, job: ComparisonJob) -> None:
        self.job = job

    def conclude(self, totals: dict[str, Any]) -> dict[str, Any]:
        merged = merged_overlap(self.job)
        write_parcel(self.job.ledger.folder / OVERLAP, {}, merged)
        self.job.note_labels([one for one in labels_in(merged) if self.job.wants(one.label)])
        return totals

    def is_noted(self) -> bool:
        try:
            self.job.found_labels()
            read_overlap(self.job)
        except (FileNotFoundError, StorageError):
            return False
        return True


def merged_overlap(job: ComparisonJob) -> Arrays:
    """The overlap of the whole volume out of the parcels of its blocks.

    Memory grows with the distinct pairs of labels and grey values of the volume, not with voxels.
    """
    whole: Arrays | None = None
    waiting: list[Arrays] = []
    for _, parcel in job.ledger.finished_tasks("overlap"):
        waiting.append({name: parcel.read(name) for name in parcel.arrays})
        if len(waiting) == CONTRIBUTIONS_PER_MERGE:
            whole, waiting = overlap.merge(*([whole] if whole else []), *waiting), []
    return overlap.merge(*([whole] if whole else []), *waiting)


def read_overlap(job: ComparisonJob) -> Arrays:
    """The merged overlap, as the end of its stage noted it."""
    parcel = open_parcel(job.ledger.folder / OVERLAP)
    return {name: parcel.read(name) for name in parcel.arrays}


def labels_in(merged: Mapping[str, Array]) -> list[FoundLabel]:
    """Every label of either volume, ascending, with its boxes and voxels."""
    pairs, boxes, voxels = merged["pair-labels"], merged["pair-boxes"], merged["pair-voxels"]

    def held(side: int, label: int) -> tuple[Box | None, int]:
        mine = pairs[:, side] == label
        if not mine.any():
            return None, 0
        z, y, x = boxes[mine, 0].min(axis=0).tolist()
        end_z, end_y, end_x = boxes[mine, 1].max(axis=0).tolist()
        return Box((z, y, x), (end_z, end_y, end_x)), int(voxels[mine].sum())

    found = []
    for label in np.unique(pairs[pairs != 0]).tolist():
        (reference, reference_voxels), (prediction, prediction_voxels) = held(0, label), held(1, label)
        found.append(FoundLabel(label, reference, prediction, reference_voxels, prediction_voxels))
    return found


class _Reach(Conclusion):
    """The largest kept squared distance of every block, for every structure."""

    def __init__(self, job: ComparisonJob) -> None:
        self.job = job
        self.tables: dict[str, Array] = {}

    def absorb(self, block: Index, summary: Mapping[str, Any]) -> None:
        for prefix, value in summary["largest"].items():
            table = self.tables.setdefault(f"{prefix}largest", np.zeros(self.job.grid.counts, np.int64))
            table[block] = value

    def conclude(self, totals: dict[str, Any]) -> dict[str, Any]:
        write_parcel(self.job.ledger.folder / REACH, {}, self.tables)
        return totals

    def is_noted(self) -> bool:
        try:
            open_parcel(self.job.ledger.folder / REACH)
        except (FileNotFoundError, StorageError):
            return False
        return True
