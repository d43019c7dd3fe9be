"""From a configuration to a job and its plan: volumes are opened, blocks chosen, memory summed up. No voxel is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.local import Workers
from pipeline.device import SLOTS, Device
from pipeline.errors import InputError, PlanError
from pipeline.geometry import BlockGrid, Index, VoxelSize
from pipeline.job import ThicknessJob, ledger_of
from pipeline.memory import POOL_SHARE, WORKER_BYTES, card_bytes, task_bytes
from pipeline.placement import AT_ORIGIN
from pipeline.plain_text import one_line
from pipeline.volume.opening import Volume, check_chosen, open_volume
from pipeline.volume.whole_numbers import as_labels
from pipeline.volume.writing import Multiscale, with_rotation_said
from workflows.config import RunConfig, StagePlan, ThicknessConfig, ThicknessPlan
from workflows.lay_volumes import lay_volumes

BLOCK_SIDES = (512, 384, 256, 192, 128, 96, 64)
"""Sides that are tried for a block, largest first; each is fitted to the source's shards or chunks."""
BLOCKS_PER_THREAD = 2
"""So many blocks a thread, at least, before blocks larger than this side are taken: nobody waits long for the last."""
SMALLEST_SIDE_FOR_SPREAD = 128
LARGEST_SIDE = 32768
"""Of a block, whose depths are stored in 16 bits; volumes have sides of any length."""
SCRATCH_BYTES_PER_VOXEL = 1.2
"""Bits, parabolas and centres on disk, before compression, as measured on masks of half foreground."""


def open_job(
    config: ThicknessConfig, run: Path, *, block_shape: Index | None = None, device: Device = "cpu"
) -> ThicknessJob:
    """The job of a configuration with blocks of the given shape (or the configuration's, or of one block).

    Raises InputError for what cannot be measured as asked.
    """
    mask = open_volume(config.mask, level=config.level, voxel_size_um=config.voxel_size_um, **config.choice)
    if config.label is not None:
        mask = as_labels(mask)
    foreground = config.foreground
    foreground.check(mask)
    voxel_size = mask.voxel_size
    if voxel_size is None:
        raise InputError(
            f"{mask.name} states no voxel size; give it with --voxel-size-um 7.5 or --voxel-size-um 3,0.7,0.7 (z,y,x)."
        )
    others = {"regions": open_regions(config, mask)} if config.regions is not None else {}
    check_chosen([mask, *others.values()], config.choice)
    mask, laid = lay_volumes(mask, others, called="mask", box=config.box, ignore_place=config.ignore_place)
    if config.map != "none":
        mask = with_rotation_said(mask)
    voxel_size = voxel_size.for_distances(mask.shape)
    blocks = block_shape or block_asked_for(config) or one_block(mask.shape)
    return with_blocks(
        ThicknessJob(
            mask=mask,
            foreground=foreground,
            regions=laid.get("regions"),
            voxel_size=voxel_size,
            border=config.border,
            grid=BlockGrid(mask.shape, mask.shape),
            ledger=ledger_of(run),
            map=None,
            map_kind=config.map,
            device=device,
        ),
        blocks,
        run,
    )


def block_asked_for(config: RunConfig) -> Index | None:
    """The block shape of --block-shape, None where none was given. Raises InputError where blocks cannot have it."""
    blocks = config.block_shape
    if blocks is not None and any(not 1 <= side <= LARGEST_SIDE for side in blocks):
        raise InputError(f"--block-shape {','.join(map(str, blocks))}: sides must lie between 1 and {LARGEST_SIDE}.")
    return blocks


def one_block(shape: Index) -> Index:
    """A whole volume as a block, as far as blocks reach."""
    z, y, x = (min(n, LARGEST_SIDE) for n in shape)
    return z, y, x


def open_regions(config: RunConfig, whole: Volume) -> Volume:
    """The labels of the regions of a configuration, on the level of the whole where they have levels."""
    assert config.regions is not None
    regions = open_volume(config.regions, voxel_size_um=config.voxel_size_um, **config.choice)
    if regions.level_count > 1 and regions.level != whole.level < regions.level_count:
        level = whole.level
        regions = open_volume(config.regions, level=level, voxel_size_um=config.voxel_size_um, **config.choice)
    return as_labels(regions)


def with_blocks(job: ThicknessJob, block_shape: Index, run: Path) -> ThicknessJob:
    """The same job cut into other blocks; the map's shards are the blocks."""
    z, y, x = (min(b, n) for b, n in zip(block_shape, job.mask.shape, strict=True))
    thickness_map = None
    if job.map_kind != "none":
        thickness_map = Multiscale(
            path=run / "thickness.ome.zarr",
            shape=job.mask.shape,
            dtype="float32" if job.map_kind == "thickness" else np.dtype(job.dtype).name,
            voxel_size=job.voxel_size,
            placement=job.mask.placement or AT_ORIGIN,
            block_shape=(z, y, x),
            name="local thickness" if job.map_kind == "thickness" else "squared local radius",
            reducer="max",
        )
    return replace(job, grid=BlockGrid(job.mask.shape, (z, y, x)), map=thickness_map)


def choose_blocks(job: ThicknessJob, run: Path, workers: Workers, *, below: int = BLOCK_SIDES[0] + 1) -> ThicknessJob:
    """The largest blocks that fit the memory of a worker and of its card and leave every thread some.

    They are aligned to the source. below : only blocks of smaller sides than this are tried.
    """
    unit = job.mask.shard_shape or job.mask.chunk_shape
    smallest = with_blocks(job, fitted(BLOCK_SIDES[-1], unit), run)
    for side in (side for side in BLOCK_SIDES if side < below):
        candidate = with_blocks(job, fitted(side, unit), run)
        few = len(candidate.grid) < BLOCKS_PER_THREAD * workers.threads and len(candidate.grid) < len(smallest.grid)
        if few and max(candidate.grid.block_shape) > SMALLEST_SIDE_FOR_SPREAD:
            continue
        if max(task_bytes(candidate).values()) + WORKER_BYTES > workers.memory_bytes:
            continue
        if job.device == "gpu" and SLOTS * max(card_bytes(candidate).values()) > usable_bytes(workers):
            continue
        return candidate
    return smallest


def usable_bytes(workers: Workers) -> int:
    """What the blocks on a card may take: of the card with the least free memory, less what the pool cannot use."""
    return int(min(card.free_bytes for card in workers.cards) * POOL_SHARE)


def fitted(side: int, unit: Index) -> Index:
    """A block of about this side, whole units of the source where the units are not larger than it."""
    z, y, x = (side // u * u if 16 <= u <= side else side for u in unit)
    return z, y, x


def check_memory(job: ThicknessJob, workers: Workers) -> None:
    """Refuse what does not fit, with the sum spelled out."""
    needed = task_bytes(job)
    stage = max(needed, key=lambda name: needed[name])
    total = needed[stage] + WORKER_BYTES
    if total > workers.memory_bytes:
        shape = "×".join(map(str, job.grid.block_shape))
        raise PlanError(
            f"A block of {shape} voxels does not fit: a task of stage {stage} takes up to {gib(needed[stage])} and its"
            f" worker {gib(WORKER_BYTES)}, together {gib(total)}, but each task has {gib(workers.memory_bytes)}"
            f" ({workers.count} workers, {workers.threads} threads); choose a smaller --block-shape or fewer --workers."
        )
    if job.device == "gpu":
        check_card(job.grid.block_shape, card_bytes(job), workers)


def check_card(block_shape: Index, on_card: Mapping[str, int], workers: Workers) -> None:
    """Refuse blocks that do not fit the card with the least free memory. on_card : stage -> bytes of a block."""
    stage = max(on_card, key=lambda name: on_card[name])
    if SLOTS * on_card[stage] > usable_bytes(workers):
        card = min(workers.cards, key=lambda card: card.free_bytes)
        raise PlanError(
            f"A block of {'×'.join(map(str, block_shape))} voxels does not fit the {card.name}: {SLOTS} at"
            f" a time, each up to {gib(on_card[stage])} in stage {stage}, take {gib(SLOTS * on_card[stage])}, but"
            f" {gib(usable_bytes(workers))} of it can be used ({gib(card.free_bytes)} are free); choose a smaller"
            " --block-shape, or end what else runs on the card."
        )


def make_plan(job: ThicknessJob) -> ThicknessPlan:
    """The plan of a job: blocks, stages, memory, bytes."""
    memory = task_bytes(job)
    on_card = card_bytes(job) if job.device == "gpu" else {}
    blocks = len(job.grid)
    stages = [
        StagePlan(name=n, tasks=blocks, memory_bytes=memory[n], card_bytes=on_card.get(n, 0))
        for n in memory
        if n != "pyramid"
    ]
    voxels = math.prod(job.mask.shape)
    map_bytes = 0
    if job.map is not None:
        map_bytes = sum(math.prod(shape) for shape in job.map.level_shapes) * np.dtype(job.map.dtype).itemsize
        stages += [
            StagePlan(name=f"pyramid-{level}", tasks=len(job.map.grid(level)), memory_bytes=memory["pyramid"])
            for level in range(job.map.own_levels, len(job.map.level_shapes))
        ]
    volumes = [job.mask] + ([job.regions] if job.regions else [])
    return ThicknessPlan(
        shape=job.mask.shape,
        voxel_size_um=job.voxel_size.um,
        weights=job.weights,
        unit_um=job.voxel_size.unit_um,
        largest_rounding=job.voxel_size.largest_rounding,
        block_shape=job.grid.block_shape,
        blocks=job.grid.counts,
        device=job.device,
        stages=tuple(stages),
        source_bytes=sum(decoded_bytes(volume, job.grid) for volume in volumes),
        map_bytes=map_bytes,
        scratch_bytes=int(voxels * SCRATCH_BYTES_PER_VOXEL),
        mask_identity=job.mask.identity(),
        regions_identity=job.regions.identity() if job.regions else None,
    )


def decoded_bytes(volume: Volume, grid: BlockGrid) -> int:
    """Bytes of all chunks that reading every block once decodes; chunks that lie in several blocks count for each."""
    along = []
    for n, block, chunk in zip(grid.shape, grid.block_shape, volume.chunk_shape, strict=True):
        start = np.arange(0, n, block)
        stop = np.minimum(start + block, n)
        along.append(int((-(-stop // chunk) - start // chunk).sum()) * chunk)
    return math.prod(along) * np.dtype(volume.dtype).itemsize


MANY_TIMES = 2.0
"""How often over chunks are decoded before a plan says so."""


def advice(volumes: Iterable[Volume], grid: BlockGrid) -> list[str]:
    """A sentence for each volume whose chunks lie in many blocks, so that reading every block decodes them again.

    Volumes whose planes a process keeps, all of them, are left out.
    """
    sentences = []
    for volume in volumes:
        plain = math.prod(volume.shape) * np.dtype(volume.dtype).itemsize
        decoded = decoded_bytes(volume, grid)
        if decoded >= MANY_TIMES * plain and volume.kept_bytes < plain:
            sentences.append(
                f"{volume.name} is decoded {decoded / plain:.3g} times over, {decoded / math.prod(volume.shape):.3g}"
                f" bytes read a voxel, as its smallest readable part is {times(volume.chunk_shape)}; make it a Zarr"
                f" volume first: voxcaliper convert {volume.name} TARGET.ome.zarr"
            )
    return sentences


def describe_plan(job: ThicknessJob, plan: ThicknessPlan, workers: Workers) -> str:
    """The plan as a person reads it."""
    voxels = math.prod(plan.shape)
    worst = max(stage.memory_bytes for stage in plan.stages)
    spacing = ", ".join(f"{v:g}" for v in plan.voxel_size_um)
    share = worst / math.prod(plan.block_shape)
    rows = {
        "mask": f"{job.mask.name}: {times(plan.shape)} voxels, {job.mask.dtype}, {job.foreground.describe()}",
        "voxel size": f"{spacing} µm (z, y, x)",
        "distances": describe_distances(job.dtype, job.voxel_size),
        "border": job.border,
        "blocks": f"{times(plan.blocks)} = {math.prod(plan.blocks):,} of {times(plan.block_shape)} voxels",
        "read": f"{gib(plan.source_bytes)} of voxels, decoded ({plan.source_bytes / voxels:.2f} bytes a voxel)",
        "write": f"map {gib(plan.map_bytes)}, scratch about {gib(plan.scratch_bytes)}, before compression",
        "memory": f"{gib(worst)} a task ({share:.1f} bytes a voxel of a block) + {gib(WORKER_BYTES)} a worker",
        "available": f"{gib(workers.memory_bytes)} for each of {workers.threads} threads on {workers.description}",
    }
    rows["device"] = _describe_device(job, plan, workers)
    lines = [f"{name:<12}{one_line(text)}" for name, text in rows.items()]
    on_gpu = plan.device == "gpu"
    lines.append("stages        tasks  memory a task" + ("  on the card" if on_gpu else ""))
    lines += [
        f"  {stage.name:<12}{stage.tasks:>7,}{gib(stage.memory_bytes):>15}"
        + (f"{gib(stage.card_bytes):>13}" if on_gpu else "")
        for stage in plan.stages
    ]
    return "\n".join([*lines, *map(one_line, advice(job.volumes.values(), job.grid))])


def describe_distances(dtype: np.dtype[Any], voxel_size: VoxelSize) -> str:
    """How squared distances are formed, as a person reads it: type, unit and weights, and how they are rounded."""
    weights = ", ".join(map(str, voxel_size.weights))
    rounding = voxel_size.largest_rounding
    how = f"lengths rounded by at most {rounding:.1e} of them" if rounding else "exact"
    return f"{dtype} in ({voxel_size.unit_um:g} µm)², weights {weights}, {how}"


def _describe_device(job: ThicknessJob, plan: ThicknessPlan, workers: Workers) -> str:
    if plan.device == "cpu":
        return f"CPU ({workers.no_cards.rstrip('.')})" if workers.no_cards else "CPU"
    return describe_cards(max(stage.card_bytes for stage in plan.stages), job.grid.block_shape, workers)


def describe_cards(block_bytes: int, block_shape: Index, workers: Workers) -> str:
    """The cards, and what blocks take of them. block_bytes : most that a block takes."""
    share = block_bytes / math.prod(block_shape)
    names = ", ".join(sorted({card.name for card in workers.cards}))
    return (
        f"GPU, {len(workers.cards)} × {names}: {SLOTS} blocks at a time of {gib(block_bytes)}"
        f" ({share:.1f} bytes a voxel), of {gib(usable_bytes(workers))} that can be used"
    )


def times(shape: Index) -> str:
    """A shape as a person reads it."""
    return " × ".join(f"{n:,}" for n in shape)


def gib(value: float) -> str:
    """Bytes as a person reads them."""
    return f"{value / 2**30:.2f} GiB" if value >= 0.1 * 2**30 else f"{value / 2**20:.1f} MiB"
