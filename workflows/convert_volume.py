"""`voxcaliper convert` and `voxcaliper info`: any volume into OME-Zarr 0.5, and what a volume is.

The order: open the source, read it region by region (a block, or those that its chunks cross) and write the blocks,
each with the coarser levels that follow from it alone, then the levels that remain, each from the one below it, then
give the finished image its name.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.errors import InputError, StorageError
from pipeline.geometry import BlockGrid, Box, Index, VoxelSize
from pipeline.placement import AT_ORIGIN
from pipeline.plain_text import one_line
from pipeline.volume.checksums import describe_checksums
from pipeline.volume.choice import NOTHING_CHOSEN
from pipeline.volume.opening import Choice, Volume, at_level, check_chosen, open_volume
from pipeline.volume.whole_numbers import as_labels
from pipeline.volume.writing import (
    Multiscale,
    Reducer,
    create_multiscale,
    reduce_block_bytes,
    with_rotation_said,
    write_block_bytes,
)
from workflows.convert_room import check_room

Kind = Literal["auto", "grey", "labels"]

SIDE, SMALLEST_SIDE = 256, 32
"""Of blocks without a wish for their shape, voxels."""
REGION_BYTES = 2**30
"""Without such a wish, blocks are made thinner until what is read at a time fits this."""


def convert(
    source: str,
    target: Path,
    *,
    voxel_size: VoxelSize | tuple[float, float] | None = None,
    block_shape: Index | None = None,
    kind: Kind = "auto",
    choice: Choice = NOTHING_CHOSEN,
    report_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    warn: Callable[[Iterable[Volume]], None] = lambda volumes: None,
    say: Callable[[str], None] = lambda text: None,
    force: bool = False,
) -> Multiscale:
    """Write a source as an OME-Zarr 0.5 image with a pyramid, in the memory of `convert_bytes`.

    source : whatever `pipeline.volume.opening.open_volume` opens. What is stored in whole planes is read once, from the
        first plane to the last; of others, chunks at the borders of blocks may be decoded for each of them.
    target : must not exist. It appears when everything is written; until then the image is called TARGET.partial,
        which is removed when the conversion fails.
    voxel_size : goes before the one the source states; one of them is needed. Of one plane also (y, x) in µm.
    block_shape : shape of the shards (z, y, x); by default of `default_block_shape`.
    kind : the pyramid holds means (grey) or the most frequent values (labels); bool volumes always hold any.
        auto is grey for integers and floats. Labels that are stored as floats are written as int64: which of them
        occur is not known before all are read, it holds them all, and compresses as well as a narrower type.
    choice : channel and time point, where the source has several.
    report_progress : called with the stage ("volume", "pyramid") and with voxels done and in all.
    warn : called with what was opened, which may have been read although its metadata are wrong.
    say : told before anything is written how much that is. force : write although the disk seems to have less.
    Raises PlanError where memory or disk do not hold it (`workflows.convert_room.check_room`).
    """
    target = Path(os.path.abspath(target))
    draft = target.with_name(target.name + ".partial")
    if target.exists():
        raise InputError(f"{target} exists already; remove it or choose another name.")
    if draft.exists():
        raise InputError(
            f"{draft} is there: another conversion is writing it, or one was stopped; in the second case remove it."
        )
    given = voxel_size.um if isinstance(voxel_size, VoxelSize) else voxel_size
    opened = with_rotation_said(open_volume(source, voxel_size_um=given, **choice))
    check_chosen([opened], choice)
    if kind == "labels":
        opened = as_labels(opened)
    warn([opened])
    spacing = opened.voxel_size
    if spacing is None:
        raise InputError(
            f"{source} states no voxel size; give it with --voxel-size-um 7.5 or --voxel-size-um 3,0.7,0.7."
        )
    blocks = block_shape or default_block_shape(opened)
    say(check_room(opened, target, convert_bytes(opened, blocks), force=force))
    multiscale = create_multiscale(
        draft,
        shape=opened.shape,
        dtype=opened.dtype,
        voxel_size=spacing,
        block_shape=blocks,
        name=target.name.removesuffix(".zarr").removesuffix(".ome"),
        reducer=choose_reducer(opened, kind),
        placement=opened.placement or AT_ORIGIN,
        attributes={"converted_from": Path(source).name, "source_format": opened.format},
    )
    try:
        _write_volume(opened, multiscale, report_progress)
        _write_pyramid(multiscale, report_progress)
        draft.rename(target)
    except OSError as error:
        raise StorageError(f"{draft} cannot become {target}: {error.strerror or error}; check the folder.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return replace(multiscale, path=target)


def _write_volume(source: Volume, multiscale: Multiscale, report_progress: Callable[[str, int, int], None]) -> None:
    regions = regions_of(source, multiscale.block_shape)
    done, total = 0, math.prod(multiscale.shape)
    for region in regions:
        for count in _write_region(source, multiscale, regions.box(region)):
            done += count
            report_progress("volume", done, total)


def _write_region(source: Volume, multiscale: Multiscale, region: Box) -> Iterator[int]:
    """Read whole blocks and write one after the other; the voxels of each. Their memory is free at the end."""
    voxels = source.read(region)
    blocks = BlockGrid(region.shape, multiscale.block_shape)
    z, y, x = (start // side for start, side in zip(region.start, multiscale.block_shape, strict=True))
    for block in blocks:
        box = blocks.box(block)
        multiscale.write_own_levels((z + block[0], y + block[1], x + block[2]), voxels[box.slices])
        yield box.voxels


def regions_of(source: Volume, block_shape: Index) -> BlockGrid:
    """The parts of a source that are read at a time, in their order: a block, or as many as a chunk crosses.

    Lines and planes that cannot be read in part are so decoded once: of planes, regions are slabs from the first to the
    last, which is the order that a compressed file needs.
    """
    z, y, x = (
        -(-min(chunk, n) // side) * side
        for chunk, n, side in zip(source.chunk_shape, source.shape, block_shape, strict=True)
    )
    return BlockGrid(source.shape, (z, y, x))


def _write_pyramid(multiscale: Multiscale, report_progress: Callable[[str, int, int], None]) -> None:
    done, total = 0, sum(math.prod(shape) for shape in multiscale.level_shapes[multiscale.own_levels :])
    for level in range(multiscale.own_levels, len(multiscale.level_shapes)):
        grid = multiscale.grid(level)
        for block in grid:
            multiscale.reduce_block(level, block)
            done += grid.box(block).voxels
            report_progress("pyramid", done, total)


def choose_reducer(source: Volume, kind: Kind) -> Reducer:
    """How the pyramid of a source is made: any for bool, mode for labels, mean for grey."""
    dtype = np.dtype(source.dtype)
    if dtype.kind == "b":
        return "any"
    if kind != "labels":
        return "mean"
    return "mode"


def default_block_shape(source: Volume) -> Index:
    """256 along each axis, or what whole chunks of the source give below that; less along z for large regions.

    It is halved to at least 32 (and a chunk) until a region of `regions_of` fits REGION_BYTES.
    """
    z, y, x = (
        SIDE // chunk * chunk if SMALLEST_SIDE <= chunk < min(n, SIDE) else SIDE
        for chunk, n in zip(source.chunk_shape, source.shape, strict=True)
    )
    while z >= 2 * max(SMALLEST_SIDE, source.chunk_shape[0]) and _region_bytes(source, (z, y, x)) > REGION_BYTES:
        z //= 2
    return z, y, x


def convert_bytes(source: Volume, block_shape: Index) -> int:
    """Most memory that `convert` takes: a region with what reads it or writes a block, or one block of the pyramid."""
    dtype = np.dtype(source.dtype)
    block = math.prod(block_shape) * dtype.itemsize
    reading = source.read_bytes(_region_shape(source, block_shape))
    # A block in one piece and what encodes it; or padded to even sides, with its eighths in three orders and counts.
    writing = block + write_block_bytes(block_shape, dtype)
    halving = 4 * block + 2 * math.prod(block_shape)
    region = _region_bytes(source, block_shape)
    return source.kept_bytes + max(reading, region + max(writing, halving), reduce_block_bytes(block_shape, dtype))


def _region_shape(source: Volume, block_shape: Index) -> Index:
    return regions_of(source, block_shape).box((0, 0, 0)).shape


def _region_bytes(source: Volume, block_shape: Index) -> int:
    return math.prod(_region_shape(source, block_shape)) * np.dtype(source.dtype).itemsize


def describe_volume(volume: Volume) -> str:
    """What a volume is, in lines to print."""
    voxels = math.prod(volume.shape)
    itemsize = np.dtype(volume.dtype).itemsize
    rows = [
        ("volume", volume.name),
        ("format", volume.format),
        ("shape", f"{_times(volume.shape)} voxels (z, y, x), {voxels:,} in all"),
        ("type", volume.dtype),
    ]
    rows += [(kind, str(position)) for kind, position in volume.selection]
    if volume.voxel_size:
        extent = [n * um / 1000 for n, um in zip(volume.shape, volume.voxel_size.um, strict=True)]
        rows += [
            ("voxel size", f"{_times(volume.voxel_size.um)} µm (z, y, x)"),
            ("extent", f"{_times(extent)} mm (z, y, x)"),
        ]
    else:
        rows.append(("voxel size", "not stated; give it with --voxel-size-um"))
    rows += _place(volume)
    objects = _objects(volume)
    shards = f" in shards of {_times(volume.shard_shape)}" if volume.shard_shape and objects == "shards" else ""
    rows.append(("chunks", f"{_times(volume.chunk_shape)}{shards}"))
    if volume.level_count > 1:
        rows += [(f"level {level}", _level(volume, level)) for level in range(volume.level_count)]
    rows.append(("bytes", f"{voxels * itemsize:,} as plain voxels"))
    stored = volume.stored_objects()
    if stored:
        count, size = stored
        expected = len(BlockGrid(volume.shape, volume.objects.block_shape))
        rows[-1] = ("bytes", f"{voxels * itemsize:,} as plain voxels, {size:,} stored")
        rows.append((objects, f"{count:,} of {expected:,} stored{_missing(volume, expected - count)}"))
    rows.append(("checksums", describe_checksums(volume)))
    return "\n".join(f"{title:<11} {one_line(text)}" for title, text in rows)


def _place(volume: Volume) -> list[tuple[str, str]]:
    if volume.placement is None:
        return [("place", "not stated")]
    z, y, x = volume.placement.origin_um
    return [
        ("origin", f"{z:.9g}, {y:.9g}, {x:.9g} µm (z, y, x), the centre of the first voxel"),
        ("axes", volume.placement.describe_directions()),
    ]


def _objects(volume: Volume) -> str:
    """What people call the stored objects of a volume."""
    if volume.decode_bytes is not None:
        return "files" if volume.shard_shape else "slices"
    return "shards" if volume.shard_shape else "chunks"


def _level(volume: Volume, level: int) -> str:
    if level == volume.level:
        return f"{_times(volume.shape)} (this one)"
    try:
        return _times(at_level(volume, level).shape)
    except InputError:
        return "named in the metadata, but not there"


def _missing(volume: Volume, missing: int) -> str:
    if missing <= 0:
        return ""
    if volume.every_chunk_stored:
        return f"; {missing:,} are MISSING although the writer stored every one: the volume is damaged"
    return f"; the other {missing:,} read as {volume.fill_value:g}"


def _times(numbers: tuple[float, ...] | list[float]) -> str:
    return " × ".join(f"{number:,}" if isinstance(number, int) else f"{number:.6g}" for number in numbers)
