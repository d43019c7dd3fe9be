"""`voxcaliper convert` and `voxcaliper info`: any volume into OME-Zarr 0.5, and what a volume is.

The order: open the source, write its blocks slab by slab (a slab is one layer of blocks), each with the coarser
levels that follow from it alone, then the levels that remain, each from the one below it, then give the finished
image its name.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, StorageError
from pipeline.geometry import BlockGrid, Box, Index, VoxelSize
from pipeline.volume.opening import Volume, open_volume
from pipeline.volume.volumes import PIECE_BYTES
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

    source : whatever `pipeline.volume.opening.open_volume` opens. It is read once, from the first plane to the last.
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
    opened = open_volume(source)
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
        block_shape=block_shape or default_block_shape(opened.shape, np.dtype(opened.dtype).itemsize),
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


def _write_volume(source: Volume, multiscale: Multiscale, report_progress: Callable[[str, int, int], None]) -> None:
    grid = multiscale.grid(0)
    _, count_y, count_x = grid.counts
    done, total = 0, math.prod(multiscale.shape)
    for z, slab in enumerate(slabs(source, multiscale.block_shape[0])):
        for y, x in np.ndindex(count_y, count_x):
            box = grid.box((z, y, x))
            multiscale.write_own_levels((z, y, x), slab[:, *box.slices[1:]])
            done += box.voxels
            report_progress("volume", done, total)


def slabs(volume: Volume, thickness: int) -> Iterator[npt.NDArray[Any]]:
    """The volume in slabs of `thickness` planes (the last may be thinner), arrays (z, y, x); every chunk is read once.

    All of them use the same memory: a slab is gone when the next one is asked for.
    """
    planes = _planes(volume)
    slab = np.empty((min(thickness, volume.shape[0]), *volume.shape[1:]), volume.dtype)
    for start in range(0, volume.shape[0], thickness):
        count = min(thickness, volume.shape[0] - start)
        for z in range(count):
            slab[z] = next(planes)
        yield slab[:count]


def _planes(volume: Volume) -> Iterator[npt.NDArray[Any]]:
    for piece in volume.pieces(volume.box):
        layer = np.empty(piece.shape, volume.dtype)
        for tile in _tiles(volume, piece):
            layer[:, tile.start[1] : tile.stop[1]] = volume.read_piece(tile)
        yield from layer


def _tiles(volume: Volume, layer: Box) -> list[Box]:
    """A layer of whole planes cut along y at chunk borders: a shard of whole planes is read in parts."""
    row = layer.shape[0] * layer.shape[2] * np.dtype(volume.dtype).itemsize * volume.chunk_shape[1]
    side = max(1, PIECE_BYTES // row) * volume.chunk_shape[1]
    (z0, _, x0), (z1, y1, x1) = layer.start, layer.stop
    return [Box((z0, y, x0), (z1, min(y + side, y1), x1)) for y in range(0, y1, side)]


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
    if dtype.kind == "f":
        raise InputError(f"{source.name} holds {source.dtype} values, which are no labels; convert it as grey.")
    return "mode"


def default_block_shape(shape: Index, itemsize: int) -> Index:
    """256 along each axis; along z 128, 64 or 32 where a slab would be larger than SLAB_BYTES."""
    z = 256
    while z > 32 and z * shape[1] * shape[2] * itemsize > SLAB_BYTES:
        z //= 2
    return z, 256, 256


def convert_bytes(source: Volume, block_shape: Index) -> int:
    """Most memory that `convert` takes: a slab with what reads and writes it, or one block of the pyramid."""
    _, y, x = source.shape
    dtype = np.dtype(source.dtype)
    slab = (min(block_shape[0], source.shape[0]) + 1) * y * x * dtype.itemsize
    layer = next(source.pieces(source.box))
    tile = source.piece_bytes(_tiles(source, layer)[0].shape)
    reading = math.prod(layer.shape) * dtype.itemsize + tile + source.kept_bytes
    writing = slab + reading + math.prod(block_shape) * dtype.itemsize + write_block_bytes(block_shape, dtype)
    return max(writing, source.kept_bytes + reduce_block_bytes(block_shape, dtype))


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
    return "\n".join(f"{title:<11} {text}" for title, text in rows)


def _objects(volume: Volume) -> str:
    """What people call the stored objects of a volume."""
    if volume.decode_bytes is not None:
        return "files" if volume.shard_shape else "slices"
    return "shards" if volume.shard_shape else "chunks"


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
