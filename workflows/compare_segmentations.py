"""A prediction beside a reference, from voxels to mergeable counts: the order of the science.

    overlap           both volumes read once: pairs of labels, structures, 2×2×2 codes, grey values
    components        components of every label (6, 18, 26) and of the background; objects and where they meet
    seams             which components go on across the borders of blocks
    surface … -z      surface elements, and the parabolas that other blocks need of them, along x, y and z
    surface-distance  how far each element lies from the other surface, counted
    mask … thickness  thickness of every label of both volumes, as in a thickness run; the maps
    pyramid-…-n       the coarser levels of the maps that a block cannot write alone

Whatever is not asked for has no stage. Every count merges by addition or union: blocks, order and workers never show.
A task files what it finds label by label, while it goes on with the next: pipeline/comparison_memory.py is the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import cavities, centres, components, device, distance, objects, overlap, regions, surface, thickness
from pipeline.comparison import FOUND, ComparisonJob, FoundLabel, Structure, read_ignored, read_pair, read_side, within
from pipeline.components import CONNECTIVITIES, Connectivity
from pipeline.device import Host
from pipeline.engine import Client, Outcome, Progress, Stage, Stopwatch
from pipeline.geometry import Box, Index
from pipeline.kernels import distance as distance_kernels
from pipeline.kernels import tally as tally_kernels
from pipeline.ledger import SHARDS
from pipeline.surface import SIDES, LabelSurfaces, Side
from pipeline.tally import Tally
from workflows.measure_thickness import create_whole
from workflows.stages import Conclusion, resource, run_stages

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Found = Iterator[tuple[str, Any]]
"""What a task finds, as it finds it."""

OVERLAP = "overlap"
REACH = "reach"
CONTRIBUTIONS_PER_MERGE = 16
OBJECT_CONNECTIVITY: Connectivity = 26


def named(prefix: str, arrays: Mapping[str, Array]) -> Found:
    """Arrays under names of their own in a parcel that holds several kinds."""
    return ((f"{prefix}{name}", array) for name, array in arrays.items())


def count_overlap(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """Pairs of labels, structures and corner codes of the block."""
    box = job.grid.box(block)
    with clock("read"):
        wide = overlap.reading_box(box)
        reference, prediction, ignored = read_pair(job, wide)
        image = job.image.read(box) if job.image else None
    left_out = None if ignored is None else ignored.over(box)

    def work(place: Host) -> Arrays:
        return overlap.overlap_of_block(
            reference, prediction, image, box=box, shape=job.grid.shape, place=place,
            image_name=f"The image {job.image.name}" if job.image else "",
            left_out=0 if left_out is None else int(np.count_nonzero(left_out)),
        )  # fmt: skip

    with clock("overlap"):
        arrays = device.run(job.device, work)
    if job.regions is not None and prediction is not None:
        with clock("read"):
            of_block = regions.read_regions(job.regions, box)
        pair = reference[within(box, wide)], prediction[within(box, wide)]
        with clock("regions"):
            found = device.run(job.device, lambda place: regions.region_overlap(*pair, of_block, place, left_out))
            arrays |= found.arrays()
    return Outcome({}, arrays)


def label_components(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """Components of both volumes, cavities, and the objects that they are. block : of the topology grid."""
    return Outcome({}, _components(job, block, clock))


def _components(job: ComparisonJob, block: Index, clock: Stopwatch) -> Found:
    box, shape = job.topology_grid.box(block), job.grid.shape
    found: dict[Side, objects.Objects] = {}
    for side in job.sides:
        with clock("read"):
            labels = read_side(job, side, box)
        with clock("components"):
            cavity = cavities.block_cavities(labels, box, shape)
        yield from named(f"{side}-6-", cavity)
        del cavity
        for connectivity in CONNECTIVITIES[1:]:
            with clock("components"):
                numbered, exported = components.block_components(labels, box, shape, connectivity)
            yield from named(f"{side}-{connectivity}-", exported)
            del exported
        del labels
        if job.objects != "none":
            with clock("objects"):
                found[side] = (
                    objects.label_objects(numbered, box)
                    if job.objects == "labels"
                    else objects.component_objects(numbered, box, shape)
                )
            yield from _described(side, found[side])
        del numbered
    if len(found) == len(SIDES):
        with clock("objects"):
            met = objects.block_objects(found["reference"], found["prediction"])
        yield from named("objects-", met)


def _described(side: Side, found: objects.Objects) -> Found:
    """The objects of a block: those that other blocks may continue, and those that are complete."""
    closed = objects.closed_objects(found)
    yield f"{side}-object-label", found.label[found.open]
    yield f"{side}-open-description", found.description[found.open]
    yield f"{side}-closed-label", closed.label
    yield f"{side}-closed-description", closed.description


def find_seams(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """The components of the block (of the topology grid) that go on in the blocks before it."""
    arrays: Arrays = {}
    with clock("seams"):
        for side in job.sides:
            for connectivity in CONNECTIVITIES:
                prefix = f"{side}-{connectivity}-"

                def read(other: Index, name: str, prefix: str = prefix) -> Array:
                    return job.ledger.read("components", other, f"{prefix}{name}")

                # The graph of cavities needs to know who touches whom, whatever the labels.
                rows = components.seams(job.topology_grid, block, connectivity, read, same_label=connectivity != 6)
                arrays[f"{prefix}seams"] = rows
    return Outcome({}, arrays)


def _labels_of(job: ComparisonJob, block: Index) -> Iterator[LabelSurfaces]:
    return (label for label in job.surfaces() if label.touches(block))


def _timed(clock: Stopwatch, kind: str, found: Found) -> Found:
    """What is found, and the time it took to find."""
    while True:
        with clock(kind):
            item = next(found, None)
        if item is None:
            return
        yield item
        del item


def find_surfaces(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """The surface elements of every label in the block."""
    return Outcome({}, _surfaces(job, block, clock))


def _surfaces(job: ComparisonJob, block: Index, clock: Stopwatch) -> Found:
    assert job.prediction is not None
    labels = list(_labels_of(job, block))
    if not labels:
        return
    boxes = [label.reading_box(block) for label in labels]
    wide = Box(
        tuple(min(box.start[a] for box in boxes) for a in range(3)),  # type: ignore[arg-type]
        tuple(max(box.stop[a] for box in boxes) for a in range(3)),  # type: ignore[arg-type]
    )
    if job.ignore_label is not None:
        wide = job.around(block, 1)  # beyond a label's box there may be what is no background
    with clock("read"):
        reference, prediction, ignored = read_pair(job, wide)
    assert prediction is not None
    for label, box in zip(labels, boxes, strict=True):
        part, number = within(box, wide), int(label.name)
        found = partial(surface.find_elements, label, block, ignored=ignored)
        yield from _timed(clock, "surface", found(reference[part] == number, prediction[part] == number))


def surface_neighbours(job: ComparisonJob, block: Index, clock: Stopwatch, *, axes: int) -> Outcome:
    """The parabolas of the surfaces of the block along the next axis."""
    found = (item for label in _labels_of(job, block) for item in surface.face_neighbours(label, block, axes=axes))
    return Outcome({}, _timed(clock, "surface", found))


def count_surface_distances(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """How far the surface elements of the block lie from the other surface."""
    return Outcome({}, _timed(clock, "surface", _distances(job, block, _regions_of(job, block, clock))))


def _distances(job: ComparisonJob, block: Index, of_block: Array | None) -> Found:
    box = job.grid.box(block)
    labels = list(_labels_of(job, block))
    # Only boundary layers ask for it again: surface elements were found without what is ignored.
    ignored = read_ignored(job, job.around(block, max(job.widths))) if labels and job.widths else None
    for label in labels:
        split = None if of_block is None else of_block[within(label.blocks.part(block), box)]
        yield from _counted(label, block, split, ignored).items()


def _counted(label: LabelSurfaces, block: Index, split: Array | None, ignored: surface.Ignored | None) -> Arrays:
    """The surface elements of a label in a block; split : the regions of the label's part of it."""
    by_region: Arrays = {}

    def note(side: Side, distances: Array, elements: Array, place: Host) -> None:
        assert split is not None
        tally = regions.region_distances(distances, elements, split, place)
        by_region.update(named(label.array("region-", side), tally.arrays()))

    return surface.count_distances(label, block, note if split is not None else None, ignored) | by_region


def _regions_of(job: ComparisonJob, block: Index, clock: Stopwatch) -> Array | None:
    """The regions of a block, where measures are split by them."""
    if job.regions is None:
        return None
    with clock("read"):
        return regions.read_regions(job.regions, job.grid.box(block))


def read_masks(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """Every structure of the block as bits, and its parabolas along x."""
    return Outcome({}, _masks(job, block, clock))


def _masks(job: ComparisonJob, block: Index, clock: Stopwatch) -> Found:
    structures = list(job.structures(block))
    box = job.grid.box(block)
    for side in job.sides:
        mine = [structure for structure in structures if structure.side == side]
        if not mine:
            continue
        with clock("read"):
            labels = read_side(job, side, box)
        for structure in mine:
            bits = np.packbits(labels[within(structure.part(block), box)] == structure.label, axis=2)
            yield structure.name("bits"), bits
            yield from _exported(job, structure, block, bits, clock, axes=0).items()
        del labels


def mask_neighbours(job: ComparisonJob, block: Index, clock: Stopwatch, *, axes: int) -> Outcome:
    """The parabolas of every structure of the block along the next axis."""
    found = (
        item
        for structure in job.structures(block)
        for item in _exported(
            job, structure, block, _stored_bits(job, structure, block, clock), clock, axes=axes
        ).items()
    )
    return Outcome({}, found)


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
    largest: dict[str, int] = {}

    def found() -> Found:
        for structure in job.structures(block):
            kept, largest[structure.field.prefix] = _kept_centres(job, structure, block, clock)
            yield from kept.items()
            del kept

    return Outcome({"largest": largest}, found())


def _kept_centres(
    job: ComparisonJob, structure: Structure, block: Index, clock: Stopwatch
) -> tuple[dict[str, Any], int]:  # fmt: skip
    bits = _stored_bits(job, structure, block, clock)

    def work(place: Host) -> tuple[dict[str, Any], int]:
        mask = _unpacked(structure, block, bits, place)
        with clock("distance"):
            distances = distance.squared_distance(structure.field, block, mask, axes=3)
            place.wait()
        del mask
        with clock("prune"):
            return centres.pack_centres(structure.field, block, distances, at_once=place.is_card)

    return device.run(job.device, work)


def measure_structures(job: ComparisonJob, block: Index, clock: Stopwatch) -> Outcome:
    """Thickness of every structure of the block: tallies, and the block of every map."""
    shards: dict[str, Any] = {}
    return Outcome({SHARDS: shards}, _measured(job, block, clock, shards))


def _measured(job: ComparisonJob, block: Index, clock: Stopwatch, shards: dict[str, Any]) -> Found:
    box = job.grid.box(block)
    maps = {name: np.zeros(box.shape, np.float32) for name in job.maps}
    before: tuple[Structure, Array] | None = None
    of_block = _regions_of(job, block, clock)
    with clock("read"):
        reach = job.ledger.noted(REACH)
    for structure in job.structures(block):
        if before is not None and before[0].label != structure.label:
            before = None
        split = regions.NO_REGIONS if of_block is None else of_block[within(structure.part(block), box)]
        tally, values = _thickness_of(job, structure, block, reach.read(structure.name("largest")), split, clock)
        yield from named(structure.field.prefix, tally.arrays())
        if values is not None:
            part = maps[structure.side][within(structure.part(block), box)]
            np.maximum(part, values, out=part)  # a voxel has one label, the others are 0 there
            if before is not None:
                _note_difference(maps["difference"], box, block, before, (structure, values))
            before = structure, values
            del values
    before = None
    with clock("write"):
        for name, image in job.maps.items():
            shards |= job.ledger.beside(image.write_own_levels(block, maps.pop(name)))


def _thickness_of(
    job: ComparisonJob, structure: Structure, block: Index, largest: Array, split: Array, clock: Stopwatch
) -> tuple[Tally, Array | None]:
    """Voxels per region and squared radius of a structure in a block, and their thickness where there are maps."""
    bits = _stored_bits(job, structure, block, clock)

    def work(place: Host) -> tuple[Tally, Array | None]:
        mask = _unpacked(structure, block, bits, place)
        with clock("gather"):
            radii = thickness.squared_local_radius(
                structure.field, block, mask, largest, batch_divisor=place.batch_divisor
            )
            place.wait()
        del mask
        with clock("tally"):
            label, radius, voxels = tally_kernels.count_pairs(radii, split)
            tally = Tally.of_counts(label=label, squared_radius=radius, voxels=voxels)
        with clock("map"):
            return tally, place.down(thickness.thickness_um(radii, job.voxel_size.unit_um)) if job.maps else None

    return device.run(job.device, work)


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
        return Outcome({SHARDS: job.ledger.beside([job.maps[name].reduce_block(level, block)])})


def stages(job: ComparisonJob) -> list[Stage]:
    """The stages of a comparison in their order, those that are asked for."""
    grid = job.grid
    gpu, cpu = resource(job.device, kernels=True), resource(job.device, kernels=False)
    found = [Stage("overlap", grid, count_overlap, gpu)]
    if "topology" in job.parts or job.objects != "none":
        found += [
            Stage("components", job.topology_grid, label_components, cpu),
            Stage("seams", job.topology_grid, find_seams, cpu),
        ]
    if "surface" in job.parts and job.prediction is not None:
        found += [
            Stage(surface.SEEDS_STAGE, grid, find_surfaces, gpu),
            Stage(surface.STAGE_OF_AXIS[1], grid, partial(surface_neighbours, axes=1), gpu),
            Stage(surface.STAGE_OF_AXIS[0], grid, partial(surface_neighbours, axes=2), gpu),
            Stage(surface.COUNT_STAGE, grid, count_surface_distances, gpu),
        ]
    if "thickness" in job.parts:
        found += [
            Stage("mask", grid, read_masks, gpu),
            Stage("distance-y", grid, partial(mask_neighbours, axes=1), gpu),
            Stage("distance-z", grid, partial(mask_neighbours, axes=2), gpu),
            Stage(centres.STAGE, grid, keep_centres, gpu),
            Stage("thickness", grid, measure_structures, gpu, writes=bool(job.maps)),
        ]
    for name, image in job.maps.items():
        found += [
            Stage(
                f"pyramid-{name}-{level}",
                image.grid(level),
                partial(coarsen_map, name=name, level=level),
                cpu,
                writes=True,
            )
            for level in range(image.own_levels, len(image.level_shapes))
        ]
    return found


def compare(client: Client, job: ComparisonJob, *, report: Callable[[Progress], None]) -> dict[str, dict[str, Any]]:
    """Run every stage that is not finished; returns the totals of each, in order."""
    job.ledger.sweep()
    create_maps(job)
    return run_stages(client, job, stages(job), report=report, conclusions=conclusions(job))


def create_maps(job: ComparisonJob) -> None:
    """The empty maps of a job; of those that are there already, the metadata as they should be."""
    for name, image in job.maps.items():
        create_whole(image, {"map": name})


def conclusions(job: ComparisonJob) -> dict[str, Callable[[], Conclusion]]:
    """What gathers the summaries of a stage, by its name."""
    return {"overlap": partial(_Labels, job), centres.STAGE: partial(_Reach, job)}


class _Labels(Conclusion):
    """The merged overlap, and in which box each label lies."""

    def __init__(self, job: ComparisonJob) -> None:
        self.job = job

    def conclude(self, totals: dict[str, Any]) -> dict[str, Any]:
        merged = merged_overlap(self.job)
        self.job.ledger.note(OVERLAP, merged)
        self.job.note_labels(self.job.asked_for(labels_in(merged)))
        return totals

    def is_noted(self) -> bool:
        return self.job.ledger.is_noted(FOUND) and self.job.ledger.is_noted(OVERLAP)


def merged_overlap(job: ComparisonJob) -> Arrays:
    """The overlap of the whole volume out of the parcels of its blocks.

    Memory grows with the distinct pairs of labels and grey values of the volume, not with voxels.
    """
    whole: Arrays | None = None
    waiting: list[Arrays] = []
    for _, parcel in job.ledger.receipts("overlap", job.grid):
        waiting.append({name: parcel.read(name) for name in parcel.arrays if not name.startswith("region-")})
        if len(waiting) == CONTRIBUTIONS_PER_MERGE:
            whole, waiting = overlap.merge(*([whole] if whole else []), *waiting), []
    return overlap.merge(*([whole] if whole else []), *waiting)


def merged_regions(job: ComparisonJob) -> regions.RegionOverlap:
    """The overlap by region out of the parcels of all blocks; 64 bytes per distinct (region, label, label)."""
    whole = regions.RegionOverlap.merged(())
    for _, parcel in job.ledger.receipts("overlap", job.grid):
        found = regions.RegionOverlap(parcel.read("region-labels"), parcel.read("region-voxels"))
        whole = regions.RegionOverlap.merged((whole, found))
    return whole


def read_overlap(job: ComparisonJob) -> Arrays:
    """The merged overlap, as the end of its stage noted it."""
    parcel = job.ledger.noted(OVERLAP)
    return {name: parcel.read(name) for name in parcel.arrays}


def labels_in(merged: Mapping[str, Array]) -> list[FoundLabel]:
    """Every label of either volume, ascending, with its boxes and voxels."""
    reference, prediction = (_held(merged, column) for column in (0, 1))
    return [
        FoundLabel(label, *(side.get(label, (None, 0))[n] for n in (0, 1) for side in (reference, prediction)))  # type: ignore[arg-type]
        for label in sorted({*reference, *prediction})
    ]


def _held(merged: Mapping[str, Array], column: int) -> dict[int, tuple[Box, int]]:
    """Box and voxels of every label of one volume."""
    rows = merged["pair-labels"][:, column] != 0
    label, place = np.unique(merged["pair-labels"][rows, column], return_inverse=True)
    voxels = np.zeros(len(label), np.int64)
    np.add.at(voxels, place, merged["pair-voxels"][rows])
    start = np.full((len(label), 3), np.iinfo(np.int64).max)
    np.minimum.at(start, place, merged["pair-boxes"][rows, 0])
    stop = np.zeros((len(label), 3), np.int64)
    np.maximum.at(stop, place, merged["pair-boxes"][rows, 1])
    boxes = (Box((a, b, c), (d, e, f)) for a, b, c, d, e, f in np.concatenate((start, stop), axis=1).tolist())
    return dict(zip(label.tolist(), zip(boxes, voxels.tolist(), strict=True), strict=True))


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
        self.job.ledger.note(REACH, self.tables)
        return totals

    def is_noted(self) -> bool:
        return self.job.ledger.is_noted(REACH)
