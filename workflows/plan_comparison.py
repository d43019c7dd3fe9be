"""From a configuration to the job of a comparison and its plan: volumes are opened, blocks chosen. No voxel is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster.local import Workers
from pipeline import overlap, surface
from pipeline.comparison import ComparisonJob
from pipeline.comparison_memory import comparison_bytes
from pipeline.device import SLOTS, Device
from pipeline.errors import InputError, PlanError
from pipeline.geometry import BlockGrid, Index
from pipeline.job import distance_dtype, ledger_of
from pipeline.kernels import surface as surface_kernels
from pipeline.memory import CARD_FIXED_BYTES, WORKER_BYTES, gathered_card_bytes, swept_card_bytes
from pipeline.placement import AT_ORIGIN
from pipeline.plain_text import one_line
from pipeline.surface import WIDEST_BOUNDARY
from pipeline.volume.opening import Volume, check_chosen, open_volume
from pipeline.volume.whole_numbers import as_labels
from pipeline.volume.writing import Multiscale, with_rotation_said
from workflows.config import COMPARISON_MAPS, ComparisonConfig, ComparisonPlan, StagePlan
from workflows.lay_volumes import lay_volumes
from workflows.plan_thickness import (
    BLOCK_SIDES,
    BLOCKS_PER_THREAD,
    SMALLEST_SIDE_FOR_SPREAD,
    advice,
    block_asked_for,
    check_card,
    decoded_bytes,
    describe_cards,
    describe_distances,
    fitted,
    gib,
    one_block,
    open_regions,
    times,
    usable_bytes,
)

LABELS = 2**64
"""How many different labels there can be, with the background."""
READS = {"overlap": 1, "components": 1, "surface": 1, "mask": 1}
"""Stages that read the label volumes, each once."""
READS_OF_IGNORED = ("components", "mask", surface.COUNT_STAGE)
"""Stages that read the reference once more to know what is ignored."""


def open_comparison(
    config: ComparisonConfig, run: Path, *, block_shape: Index | None = None, device: Device = "cpu"
) -> ComparisonJob:  # fmt: skip
    """The job of a configuration, in blocks of the given shape (or the configuration's, or of one block).

    Raises InputError for what cannot be compared as asked.
    """
    reference = as_labels(
        open_volume(config.reference, level=config.level, voxel_size_um=config.voxel_size_um, **config.choice)
    )
    others: dict[str, Volume] = {}
    for what, location in (("prediction", config.prediction), ("image", config.image)):
        if location is not None:
            opened = open_volume(location, level=config.level, voxel_size_um=config.voxel_size_um, **config.choice)
            others[what] = as_labels(opened) if what == "prediction" else opened
    if config.regions is not None:
        others["regions"] = open_regions(config, reference)
    check_chosen([reference, *others.values()], config.choice)
    reference, others = lay_volumes(
        reference, others, called="reference", box=config.box, ignore_place=config.ignore_place
    )
    if config.stores_maps:
        reference = with_rotation_said(reference)
    prediction = others.get("prediction")
    voxel_size = reference.voxel_size or (prediction.voxel_size if prediction else None)
    if voxel_size is None:
        raise InputError(
            f"{reference.name} states no voxel size; give it with --voxel-size-um 7.5 or --voxel-size-um 3,0.7,0.7"
            " (z,y,x)."
        )
    if reference.shape[0] == 1 and prediction is not None and "surface" in config.parts:
        said = f"{reference.name} is one plane; beyond a volume lies background, so all of a label is surface there."
        reference = replace(reference, warnings=(*reference.warnings, said))
    if any(not 1 <= width <= WIDEST_BOUNDARY for width in config.boundary_widths):
        raise InputError(f"--boundary-width takes 1 to {WIDEST_BOUNDARY} voxels, not {config.boundary_widths}.")
    if config.labels is not None and any(not 0 < label < LABELS for label in config.labels):
        raise InputError(f"--label takes whole numbers from 1 to 2^64 − 1, not {', '.join(map(str, config.labels))}.")
    check_ignore_label(config)
    if config.class_names and (config.prediction is not None or config.objects != "components"):
        raise InputError(
            "class_names are the classes of detections, and none are looked for; leave the key out, or give workflow ="
            ' "statistics" and objects = "components".'
        )
    if any(not (math.isfinite(t) and t >= 0) for t in config.tolerances_um):
        raise InputError(f"--tolerance-um takes lengths of 0 µm or more, not {config.tolerances_um}.")
    blocks = block_shape or block_asked_for(config) or one_block(reference.shape)
    job = ComparisonJob(
        reference=reference,
        prediction=prediction,
        image=others.get("image"),
        regions=others.get("regions"),
        labels=config.labels,
        voxel_size=voxel_size,
        border=config.border,
        grid=BlockGrid(reference.shape, reference.shape),
        ledger=ledger_of(run),
        parts=config.parts,
        widths=config.boundary_widths if prediction is not None else (),
        objects=config.objects,
        device=device,
        ignore_label=config.ignore_label,
    )
    if job.forms_distances:
        job = replace(job, voxel_size=voxel_size.for_distances(reference.shape))
    return with_blocks(job, blocks, run, maps=config.stores_maps)


def check_ignore_label(config: ComparisonConfig) -> None:
    """Raise InputError where the ignored label is none, or is asked for."""
    ignored = config.ignore_label
    if ignored is None:
        return
    if not 0 < ignored < LABELS:
        raise InputError(f"--ignore-label takes a whole number from 1 to 2^64 − 1, not {ignored}.")
    if config.prediction is None:
        raise InputError(
            f"ignore_label = {ignored} leaves voxels out of a comparison, and the workflow statistics compares nothing;"
            " leave the key out."
        )
    if ignored in (config.labels or ()):
        raise InputError(f"--label and --ignore-label both name {ignored}; a label is compared or ignored.")


def with_blocks(job: ComparisonJob, block_shape: Index, run: Path, *, maps: bool) -> ComparisonJob:
    """The same job cut into other blocks; the shards of the maps are the blocks."""
    z, y, x = (min(b, n) for b, n in zip(block_shape, job.grid.shape, strict=True))
    made: dict[str, Multiscale] = {}
    if maps:
        for name, (title, reducer) in COMPARISON_MAPS.items():
            made[name] = Multiscale(
                path=run / f"{name}.ome.zarr", shape=job.grid.shape, dtype="float32", voxel_size=job.voxel_size,
                placement=job.reference.placement or AT_ORIGIN, block_shape=(z, y, x), name=title, reducer=reducer,  # type: ignore[arg-type]
            )  # fmt: skip
    return replace(job, grid=BlockGrid(job.grid.shape, (z, y, x)), maps=made)


def comparison_card_bytes(job: ComparisonJob) -> Mapping[str, int]:
    """Most memory of a card that a task of each stage takes, in bytes; the stages that are left out take none.

    Both label volumes and the grey one with the tables of the overlap; then one label at a time, which fills the block
    at most: distances between its surfaces, over the corners of the block, and its thickness (pipeline/memory.py).
    """
    z, y, x = (min(b, n) for b, n in zip(job.grid.block_shape, job.grid.shape, strict=True))
    block: Index = (z, y, x)
    labels = sum(np.dtype(volume.dtype).itemsize for volume in job.sides.values())
    grey = np.dtype(job.image.dtype).itemsize if job.image else 0
    stages = {"overlap": overlap.card_bytes(block, labels=labels, grey=grey)}
    if "surface" in job.parts and job.prediction is not None:
        corners: Index = (z + 1, y + 1, x + 1)
        along = job.grid.shape
        dtype = distance_dtype((along[0] + 1, along[1] + 1, along[2] + 1), job.voxel_size)
        swept = swept_card_bytes(corners, dtype)
        elements = math.prod(corners) * (1 + 1 + dtype.itemsize) + math.prod(corners[:2]) * 12
        stages |= dict.fromkeys((surface.SEEDS_STAGE, *surface.STAGE_OF_AXIS.values()), swept)
        stages[surface.COUNT_STAGE] = max(swept, elements + surface_kernels.table_bytes())
    if "thickness" in job.parts:
        dtype = job.dtype
        stages |= dict.fromkeys(("mask", "distance-y", "distance-z", "centres"), swept_card_bytes(block, dtype))
        stages["thickness"] = gathered_card_bytes(block, dtype)
    return {name: value + CARD_FIXED_BYTES for name, value in stages.items()}


def choose_comparison_blocks(
    job: ComparisonJob, run: Path, workers: Workers, *, below: int = BLOCK_SIDES[0] + 1
) -> ComparisonJob:  # fmt: skip
    """The largest blocks that fit a worker's memory and leave every thread some, aligned to the reference.

    below : only blocks of smaller sides than this are tried.
    """
    unit = job.reference.shard_shape or job.reference.chunk_shape
    smallest = with_blocks(job, fitted(BLOCK_SIDES[-1], unit), run, maps=bool(job.maps))
    for side in (side for side in BLOCK_SIDES if side < below):
        candidate = with_blocks(job, fitted(side, unit), run, maps=bool(job.maps))
        few = len(candidate.grid) < BLOCKS_PER_THREAD * workers.threads and len(candidate.grid) < len(smallest.grid)
        if few and max(candidate.grid.block_shape) > SMALLEST_SIDE_FOR_SPREAD:
            continue
        if max(comparison_bytes(candidate).values()) + WORKER_BYTES > workers.memory_bytes:
            continue
        if job.device == "gpu" and SLOTS * max(comparison_card_bytes(candidate).values()) > usable_bytes(workers):
            continue
        return candidate
    return smallest


def check_comparison_memory(job: ComparisonJob, workers: Workers) -> None:
    """Refuse what does not fit, with the sum spelled out."""
    needed = comparison_bytes(job)
    stage = max(needed, key=lambda name: needed[name])
    total = needed[stage] + WORKER_BYTES
    if total > workers.memory_bytes:
        raise PlanError(
            f"A block of {times(job.grid.block_shape)} voxels does not fit: a task of stage {stage} takes up to"
            f" {gib(needed[stage])} and its worker {gib(WORKER_BYTES)}, together {gib(total)}, but each task has"
            f" {gib(workers.memory_bytes)} ({workers.count} workers, {workers.threads} threads); choose a smaller"
            " --block-shape or fewer --workers."
        )
    if job.device == "gpu":
        check_card(job.grid.block_shape, comparison_card_bytes(job), workers)


def make_comparison_plan(job: ComparisonJob, stage_names: list[tuple[str, int]]) -> ComparisonPlan:
    """The plan of a job. stage_names : every stage and how many tasks it has."""
    memory = comparison_bytes(job)
    on_card = comparison_card_bytes(job) if job.device == "gpu" else {}
    stages = tuple(
        StagePlan(
            name=name, tasks=tasks, memory_bytes=memory[name.split("-")[0] if name.startswith("pyramid") else name],
            card_bytes=on_card.get(name, 0),
        )
        for name, tasks in stage_names
    )  # fmt: skip
    reads = sum(READS.get(name, 0) for name, _ in stage_names)
    source = reads * sum(decoded_bytes(volume, job.grid) for volume in job.sides.values())
    source += decoded_bytes(job.image, job.grid) if job.image else 0
    if job.ignore_label is not None:
        source += sum(name in READS_OF_IGNORED for name, _ in stage_names) * decoded_bytes(job.reference, job.grid)
    counted = 1 + ("surface" in job.parts) + ("thickness" in job.parts)
    source += counted * decoded_bytes(job.regions, job.grid) if job.regions else 0
    levels = [(math.prod(shape), image) for image in job.maps.values() for shape in image.level_shapes]
    return ComparisonPlan(
        shape=job.grid.shape,
        voxel_size_um=job.voxel_size.um,
        weights=job.voxel_size.weights if job.forms_distances else None,
        unit_um=job.voxel_size.unit_um if job.forms_distances else None,
        largest_rounding=job.voxel_size.largest_rounding if job.forms_distances else 0.0,
        block_shape=job.grid.block_shape,
        blocks=job.grid.counts,
        device=job.device,
        stages=stages,
        source_bytes=source,
        map_bytes=sum(voxels * np.dtype(image.dtype).itemsize for voxels, image in levels),
        identities={name: volume.identity() for name, volume in job.volumes.items()},
    )


def describe_comparison(job: ComparisonJob, plan: ComparisonPlan, workers: Workers) -> str:
    """The plan as a person reads it."""
    worst = max(stage.memory_bytes for stage in plan.stages)
    rows = {
        name: f"{volume.name}: {times(volume.shape)} voxels, {volume.dtype}" for name, volume in job.volumes.items()
    }
    if job.ignore_label is not None:
        rows["ignored"] = f"voxels where the reference holds {job.ignore_label}"
    rows |= {
        "voxel size": f"{', '.join(f'{v:g}' for v in plan.voxel_size_um)} µm (z, y, x)",
        **({"distances": describe_distances(job.dtype, job.voxel_size)} if job.forms_distances else {}),
        "labels": "all" if job.labels is None else ", ".join(map(str, job.labels)),
        "measures": ", ".join(job.parts) + (f", objects by {job.objects}" if job.objects != "none" else ""),
        "border": job.border,
        "blocks": f"{times(plan.blocks)} = {math.prod(plan.blocks):,} of {times(plan.block_shape)} voxels",
        "read": f"{gib(plan.source_bytes)} of voxels, decoded",
        "write": f"maps {gib(plan.map_bytes)} before compression",
        "memory": f"{gib(worst)} a task + {gib(WORKER_BYTES)} a worker",
        "available": f"{gib(workers.memory_bytes)} for each of {workers.threads} threads on {workers.description}",
        "device": plan.device.upper(),
    }
    on_gpu = plan.device == "gpu"
    if on_gpu:
        rows["device"] = describe_cards(max(stage.card_bytes for stage in plan.stages), plan.block_shape, workers)
    lines = [f"{name:<12}{one_line(text)}" for name, text in rows.items()]
    lines.append("stages                tasks  memory a task" + ("  on the card" if on_gpu else ""))
    lines += [
        f"  {stage.name:<20}{stage.tasks:>7,}{gib(stage.memory_bytes):>15}"
        + (f"{gib(stage.card_bytes):>13}" if on_gpu else "")
        for stage in plan.stages
    ]
    return "\n".join([*lines, *map(one_line, advice(job.volumes.values(), job.grid))])
