"""`voxcaliper convert` and `voxcaliper info`: any volume into OME-Zarr 0.5, and what a volume is.

The order: open the source, write its blocks slab by slab (a slab is one layer of blocks), each with the coarser
levels that follow from it alone, then the levels that remain, each from the one below it, then give the finished
image its name.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.errors import InputError, StorageError
from pipeline.geometry import BlockGrid, Index, VoxelSize
from pipeline.volume.opening import Volume, open_volume
from pipeline.volume.sources import Source, open_source
from pipeline.volume.writing import Multiscale, Reducer, create_multiscale, reduce_block_bytes, write_block_bytes

Kind = Literal["auto", "grey", "labels"]

SLAB_BYTES = 2**30
"""Without a wish for the block shape, slabs are made thinner until they fit this (but not thinner than 32 planes)."""


def convert(
    source: str,
    target: Path,
    *,
    voxel_size: VoxelSize | None = None,
    block_shape: Index | None = None,
    kind: Kind = "auto",
    report_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Multiscale:
    """Write a source as an OME-Zarr 0.5 image with a pyramid, in the memory of `convert_bytes`.

    source : see `pipeline.volume.sources.open_source`.
    target : must not exist. It appears when everything is written; until then the image is called TARGET.partial,
        which is removed when the conversion fails.
    voxel_size : goes before the one the source states; one of them is needed.
    block_shape : shape of the shards (z, y, x); by default 256 along each axis, less along z for large planes.
    kind : the pyramid holds means (grey) or the most frequent values (labels); bool volumes always hold any.
        auto is grey for integers and floats.
    report_progress : called with the stage ("volume", "pyramid") and with voxels done and in all.
    """
    target = Path(os.path.abspath(target))
    draft = target.with_name(target.name + ".partial")
    if target.exists():
        raise InputError(f"{target} exists already; remove it or choose another name.")
    if draft.exists():
        raise InputError(
            f"{draft} is there: another conversion is writing it, or one was stopped; in the second case remove it."
        )
    opened = open_source(source)
    spacing = voxel_size or opened.voxel_size
    if spacing is None:
        raise InputError(
            f"{source} states no voxel size; give it with --voxel-size-um 7.5 or --voxel-size-um 3,0.7,0.7."
        )
    multiscale = create_multiscale(
        draft,
        shape=opened.shape,
        dtype=opened.dtype,
        voxel_size=spacing,
        block_shape=block_shape or default_block_shape(opened.shape, opened.dtype.itemsize),
        name=target.name.removesuffix(".zarr").removesuffix(".ome"),
        reducer=choose_reducer(opened, kind),
        attributes={"voxcaliper": {"converted_from": Path(source).name, "source_format": opened.format}},
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


def _write_volume(source: Source, multiscale: Multiscale, report_progress: Callable[[str, int, int], None]) -> None:
    grid = multiscale.grid(0)
    _, count_y, count_x = grid.counts
    done, total = 0, math.prod(multiscale.shape)
    for z, slab in enumerate(source.slabs(multiscale.block_shape[0])):
        for y, x in np.ndindex(count_y, count_x):
            box = grid.box((z, y, x))
            multiscale.write_own_levels((z, y, x), slab[:, *box.slices[1:]])
            done += box.voxels
            report_progress("volume", done, total)


def _write_pyramid(multiscale: Multiscale, report_progress: Callable[[str, int, int], None]) -> None:
    done, total = 0, sum(math.prod(shape) for shape in multiscale.level_shapes[multiscale.own_levels :])
    for level in range(multiscale.own_levels, len(multiscale.level_shapes)):
        grid = multiscale.grid(level)
        for block in grid:
            multiscale.reduce_block(level, block)
            done += grid.box(block).voxels
            report_progress("pyramid", done, total)


def choose_reducer(source: Source, kind: Kind) -> Reducer:
    """How the pyramid of a source is made: any for bool, mode for labels, mean for grey."""
    if source.dtype.kind == "b":
        return "any"
    if kind != "labels":
        return "mean"
    if source.dtype.kind == "f":
        raise InputError(f"{source.location} holds {source.dtype} values, which are no labels; convert it as grey.")
    return "mode"


def default_block_shape(shape: Index, itemsize: int) -> Index:
    """256 along each axis; along z 128, 64 or 32 where a slab would be larger than SLAB_BYTES."""
    z = 256
    while z > 32 and z * shape[1] * shape[2] * itemsize > SLAB_BYTES:
        z //= 2
    return z, 256, 256


def convert_bytes(source: Source, block_shape: Index) -> int:
    """Most memory that `convert` takes: a slab with what reads and writes it, or one block of the pyramid."""
    _, y, x = source.shape
    itemsize = source.dtype.itemsize
    slab = min(block_shape[0], source.shape[0]) * y * x * itemsize
    block = math.prod(block_shape) * itemsize
    writing = slab + source.layer_bytes + y * x * itemsize + block + write_block_bytes(block_shape, source.dtype)
    return max(writing, reduce_block_bytes(block_shape, source.dtype))


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
    if volume.voxel_size:
        extent = [n * um / 1000 for n, um in zip(volume.shape, volume.voxel_size.um, strict=True)]
        rows += [
            ("voxel size", f"{_times(volume.voxel_size.um)} µm (z, y, x)"),
            ("extent", f"{_times(extent)} mm (z, y, x)"),
        ]
    else:
        rows.append(("voxel size", "not stated; give it with --voxel-size-um"))
    shards = f" in shards of {_times(volume.shard_shape)}" if volume.shard_shape else ""
    rows.append(("chunks", f"{_times(volume.chunk_shape)}{shards}"))
    if volume.level_count > 1:
        rows += [(f"level {level}", _level(volume, level)) for level in range(volume.level_count)]
    rows.append(("bytes", f"{voxels * itemsize:,} as plain voxels"))
    stored = volume.stored_objects()
    if stored:
        count, size = stored
        expected = len(BlockGrid(volume.shape, volume.objects.block_shape))
        rows[-1] = ("bytes", f"{voxels * itemsize:,} as plain voxels, {size:,} stored")
        what = "shards" if volume.shard_shape else "chunks"
        rows.append((what, f"{count:,} of {expected:,} stored{_missing(volume, expected - count)}"))
    return "\n".join(f"{title:<11} {text}" for title, text in rows)


def _level(volume: Volume, level: int) -> str:
    if level == volume.level:
        return f"{_times(volume.shape)} (this one)"
    try:
        return _times(open_volume(volume.location, level=level).shape)
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
