"""Local thickness of a mask, from voxels to statistics: the order of the science.

    mask        read once: bits, and along x the parabolas that other blocks need
    distance-y  with the x-neighbours: the parabolas along y
    distance-z  with the x- and y-neighbours: the parabolas along z
    centres     exact distance; the balls that matter
    thickness   the balls of all blocks that reach this one; tally, map and its first coarser levels
    pyramid-n   the coarser levels of the map that a block cannot write alone

Stages meet at barriers: a block of one stage needs blocks of the stage before it in a whole row, or in reach of the
largest ball, and with a few blocks a worker the barrier costs less than the bookkeeping of such dependencies would.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import centres, device, distance, thickness
from pipeline.device import Host
from pipeline.engine import Client, Outcome, Progress, Stage, Stopwatch
from pipeline.errors import InputError
from pipeline.geometry import Index
from pipeline.job import ThicknessJob
from pipeline.kernels import distance as distance_kernels
from pipeline.kernels import tally as tally_kernels
from pipeline.ledger import SHARDS
from pipeline.regions import NO_REGIONS, read_regions
from pipeline.tally import Tally, merge
from pipeline.volume.writing import Multiscale, create_multiscale
from workflows.stages import Conclusion, resource, run_stages

Array = npt.NDArray[Any]

TALLIES_PER_MERGE = 64
REACH = "reach"


def read_mask(job: ThicknessJob, block: Index, clock: Stopwatch) -> Outcome:
    """Foreground of the block as bits, and its parabolas along x."""
    box = job.grid.box(block)
    with clock("read"):
        mask = job.foreground.read(job.mask, box).view(np.uint8)
        foreground = int(np.count_nonzero(mask))
        bits = np.packbits(mask, axis=2)
    del mask
    return Outcome({"foreground_voxels": foreground}, {"bits": bits, **_exported(job, block, bits, clock, axes=0)})


def face_neighbours(job: ThicknessJob, block: Index, clock: Stopwatch, *, axes: int) -> Outcome:
    """The parabolas of the block along the next axis, after the first axes are done."""
    return Outcome({}, _exported(job, block, stored_bits(job, block, clock), clock, axes=axes))


def _exported(job: ThicknessJob, block: Index, bits: Array, clock: Stopwatch, *, axes: int) -> dict[str, Array]:
    def work(place: Host) -> dict[str, Array]:
        mask = unpacked(job, block, bits, place)
        field = distance.thickness_field(job)
        distances = distance.squared_distance(field, block, mask, axes=axes)
        return distance.export_parabolas(field, block, distances, axis=distance.AXES[axes])

    with clock("distance"):
        return device.run(job.device, work)


def keep_centres(job: ThicknessJob, block: Index, clock: Stopwatch) -> Outcome:
    """The centres of the block whose balls matter, from its exact distance."""
    field = distance.thickness_field(job)
    bits = stored_bits(job, block, clock)

    def work(place: Host) -> tuple[dict[str, Any], int]:
        mask = unpacked(job, block, bits, place)
        with clock("distance"):
            distances = distance.squared_distance(field, block, mask, axes=3)
            place.wait()
        del mask
        with clock("prune"):
            return centres.pack_centres(field, block, distances, at_once=place.is_card)

    arrays, largest = device.run(job.device, work)
    return Outcome({"largest": largest}, arrays)


def measure_block(job: ThicknessJob, block: Index, clock: Stopwatch) -> Outcome:
    """Thickness of the block into the map, and its tally."""
    field = distance.thickness_field(job)
    bits = stored_bits(job, block, clock)
    with clock("read"):
        largest = read_reach(job)

    def work(place: Host) -> tuple[Tally, Array | None]:
        mask = unpacked(job, block, bits, place)
        with clock("gather"):
            radii = thickness.squared_local_radius(field, block, mask, largest, batch_divisor=place.batch_divisor)
            place.wait()
        del mask
        with clock("read"):
            regions = read_regions(job.regions, job.grid.box(block)) if job.regions else NO_REGIONS
        with clock("tally"):
            label, squared_radius, voxels = tally_kernels.count_pairs(radii, regions)
            tally = Tally.of_counts(label=label, squared_radius=squared_radius, voxels=voxels)
        if job.map is None:
            return tally, None
        with clock("map"):
            in_um = job.map_kind == "thickness"
            return tally, place.down(thickness.thickness_um(radii, job.voxel_size.unit_um) if in_um else radii)

    tally, values = device.run(job.device, work)
    if job.map is None or values is None:
        return Outcome({}, tally.arrays())
    with clock("write"):
        written = job.map.write_own_levels(block, values)
    return Outcome({SHARDS: job.ledger.beside(written)}, tally.arrays())


def stored_bits(job: ThicknessJob, block: Index, clock: Stopwatch) -> npt.NDArray[np.uint8]:
    """Foreground of a block as bits along x; a mask travels eight voxels a byte until a kernel needs it."""
    with clock("read"):
        return job.ledger.read("mask", block, "bits")


def unpacked(job: ThicknessJob, block: Index, bits: Array, place: Host) -> npt.NDArray[np.uint8]:
    """Foreground as 0 and 1 (z, y, x), where the work is done."""
    return distance_kernels.unpack_bits(place.up(bits), job.grid.box(block).shape[2])


def coarsen_map(job: ThicknessJob, block: Index, clock: Stopwatch, *, level: int) -> Outcome:
    """A block of a coarser level of the map."""
    assert job.map is not None
    with clock("write"):
        return Outcome({SHARDS: job.ledger.beside([job.map.reduce_block(level, block)])})


def stages(job: ThicknessJob) -> list[Stage]:
    """The stages of a run in their order."""
    gpu, cpu = resource(job.device, kernels=True), resource(job.device, kernels=False)
    blockwise = [
        Stage("mask", job.grid, read_mask, gpu),
        Stage("distance-y", job.grid, partial(face_neighbours, axes=1), gpu),
        Stage("distance-z", job.grid, partial(face_neighbours, axes=2), gpu),
        Stage("centres", job.grid, keep_centres, gpu),
        Stage("thickness", job.grid, measure_block, gpu, writes=job.map is not None),
    ]
    if job.map is None:
        return blockwise
    levels = range(job.map.own_levels, len(job.map.level_shapes))
    return blockwise + [
        Stage(f"pyramid-{n}", job.map.grid(n), partial(coarsen_map, level=n), cpu, writes=True) for n in levels
    ]


def measure(client: Client, job: ThicknessJob, *, report: Callable[[Progress], None]) -> dict[str, dict[str, Any]]:
    """Run every stage that is not finished; returns the totals of each, in order."""
    job.ledger.sweep()
    if job.map is not None:
        create_map(job)
    return run_stages(client, job, stages(job), report=report, conclusions=conclusions(job))


def conclusions(job: ThicknessJob) -> dict[str, Callable[[], Conclusion]]:
    """What gathers the summaries of a stage, by its name."""
    return {"mask": partial(_Foreground, job), centres.STAGE: partial(_Reach, job)}


class _Foreground(Conclusion):
    """Foreground voxels of the volume; without any background there is no distance."""

    def __init__(self, job: ThicknessJob) -> None:
        self.job = job
        self.voxels = 0

    def absorb(self, block: Index, summary: Mapping[str, Any]) -> None:
        self.voxels += summary["foreground_voxels"]

    def conclude(self, totals: dict[str, Any]) -> dict[str, Any]:
        check_background(self.job, self.voxels)
        return {**totals, "foreground_voxels": self.voxels}


class _Reach(Conclusion):
    """The largest kept squared distance of every block."""

    def __init__(self, job: ThicknessJob) -> None:
        self.job = job
        self.largest = np.zeros(job.grid.counts, np.int64)

    def absorb(self, block: Index, summary: Mapping[str, Any]) -> None:
        self.largest[block] = summary["largest"]

    def conclude(self, totals: dict[str, Any]) -> dict[str, Any]:
        note_reach(self.job, self.largest)
        return totals

    def is_noted(self) -> bool:
        return self.job.ledger.is_noted(REACH)


def create_map(job: ThicknessJob) -> None:
    """The empty map of a job, or, where it is there, its metadata as they should be."""
    assert job.map is not None
    create_whole(job.map, {"map": job.map_kind, "unit_um": job.voxel_size.unit_um})


def create_whole(image: Multiscale, attributes: dict[str, Any]) -> None:
    """An empty image, in its place only when its metadata are whole; of one that is there, those that are not."""
    draft = image.path.with_name(image.path.name + ".partial")
    shutil.rmtree(draft, ignore_errors=True)
    create_multiscale(
        draft, shape=image.shape, dtype=image.dtype, voxel_size=image.voxel_size, block_shape=image.block_shape,
        name=image.name, reducer=image.reducer, placement=image.placement, attributes=attributes,
    )  # fmt: skip
    if not image.path.exists():
        draft.rename(image.path)
        return
    for made in draft.rglob("zarr.json"):
        path = image.path / made.relative_to(draft)
        if not path.is_file() or path.read_bytes() != made.read_bytes():
            path.parent.mkdir(parents=True, exist_ok=True)
            made.replace(path)
    shutil.rmtree(draft)


def check_background(job: ThicknessJob, foreground_voxels: int) -> None:
    """Without any background there is no distance."""
    if foreground_voxels == job.mask.box.voxels and job.border == "unknown":
        raise InputError(
            f"All {foreground_voxels:,} voxels of {job.mask.name} are foreground ({job.foreground.describe()}), so no"
            " distance to the background exists; check what is foreground, or take the border of the volume for a wall"
            " with --border closed."
        )


def note_reach(job: ThicknessJob, largest: npt.NDArray[np.int64]) -> None:
    """File the largest kept squared distance of every block (grid.counts), which tells how far its balls can reach."""
    job.ledger.note(REACH, {"largest": largest})


def read_reach(job: ThicknessJob) -> npt.NDArray[np.int64]:
    """The largest kept squared distance of every block (grid.counts)."""
    return job.ledger.noted(REACH).read("largest")


def merged_tally(job: ThicknessJob) -> Tally:
    """The tally of the whole volume out of the receipts of the thickness stage.

    Memory grows with the distinct squared radii (at most the largest one) per region, not with voxels.
    """
    whole, waiting = Tally.empty(), Tally.empty()
    for n, (_, receipt) in enumerate(job.ledger.receipts("thickness", job.grid), start=1):
        label, squared_radius, voxels = (receipt.read(name) for name in ("label", "squared_radius", "voxels"))
        waiting = merge(waiting, Tally.of_counts(label=label, squared_radius=squared_radius, voxels=voxels))
        if n % TALLIES_PER_MERGE == 0:
            whole, waiting = merge(whole, waiting), Tally.empty()
    return merge(whole, waiting)
