"""OME-Zarr 0.5 out of blocks: one block is one whole shard, at every level of the pyramid.

    level 0        level 1, 2 …     a block halves itself into the shards of the first coarser levels while it is in
    ┌──┬──┬──┐     ┌┬┬┐             memory; where it would become too small or odd, a level has shards of the full
    ├──┼──┼──┤  →  ├┼┼┤  →  ┌──┐    block shape again, each made of the level below it, chunk by chunk
    └──┴──┴──┘     └┴┴┘     └──┘

Two writers never meet in a shard, every chunk is stored and carries a crc32c, and a shard appears under its name only
when it is complete (Zarr writes `<shard>.<uuid>.partial` and renames). Codec: zstd 1 without shuffle, the smallest and
fastest for maps made of constant patches.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import zarr
from ome_zarr_models.v05.axes import Axis
from ome_zarr_models.v05.image import ImageAttrs
from ome_zarr_models.v05.multiscales import Dataset
from ome_zarr_models.v05.multiscales import Multiscale as MultiscaleModel
from zarr.codecs import Crc32cCodec, ZstdCodec

from pipeline.errors import InputError, StorageError
from pipeline.geometry import BlockGrid, Box, Index, VoxelSize
from pipeline.placement import AT_ORIGIN, Placement, Position
from pipeline.volume.metadata import OWN
from pipeline.volume.opening import Volume, open_volume

Reducer = Literal["mean", "mode", "any", "max"]
"""What a coarse voxel says about the (up to) 2 × 2 × 2 fine voxels under it.

mean : grey values; integers are rounded half up, exactly.
mode : labels; the most frequent, and of equally frequent ones the smallest that is not 0, so that thin things stay.
any : bool; True where any of them is.
max : thickness; the largest under the coarse voxel.
"""

ENCODERS = 10
"""Chunks of a shard that Zarr encodes at the same time (its setting async.concurrency)."""

COARSEST_SIDE = 64
"""The pyramid ends at the first level whose longest axis is not longer than this."""

SMALLEST_SHARD = 32**3
"""Voxels below which a block leaves the coarser level to others, so that no store ends as a heap of tiny files."""


@dataclass(frozen=True)
class Multiscale:
    """An OME-Zarr image that is written block by block. Frozen and picklable; everything follows from its fields.

    path : the image's folder.
    shape, block_shape : voxels (z, y, x); a block is a shard of level 0.
    dtype : bool, integer or float.
    voxel_size : spacing at level 0, µm.
    placement : where level 0 lies. OME-Zarr says the place of the first voxel; directions that are not those of the
        frame are kept in the attribute voxcaliper.directions, which voxcaliper alone reads.
    name : the title viewers show.
    reducer : how a level comes from the one below.
    """

    path: Path
    shape: Index
    dtype: str
    voxel_size: VoxelSize
    block_shape: Index
    name: str
    reducer: Reducer
    placement: Placement = AT_ORIGIN

    @property
    def factors(self) -> tuple[Index, ...]:
        """Fine voxels of level 0 along the side of a voxel, per level (z, y, x); an axis of length 1 is not halved."""
        factors, shape = [(1, 1, 1)], self.shape
        while max(shape) > COARSEST_SIDE:
            z, y, x = (f * (1 if n == 1 else 2) for f, n in zip(factors[-1], shape, strict=True))
            factors.append((z, y, x))
            shape = _ceil_divide(self.shape, (z, y, x))
        return tuple(factors)

    @property
    def level_shapes(self) -> tuple[Index, ...]:
        """Shape of every level (z, y, x), halved and rounded up."""
        return tuple(_ceil_divide(self.shape, factor) for factor in self.factors)

    @property
    def own_levels(self) -> int:
        """How many levels, 0 included, a block of level 0 can write alone: it halves into whole shards of some size."""
        for level, factor in enumerate(self.factors):
            sides = _ceil_divide(self.block_shape, factor)
            whole = all(
                b % f == 0 or b >= n for b, f, n in zip(self.block_shape, factor, self.shape, strict=True)
            ) and (level == 0 or math.prod(sides) >= SMALLEST_SHARD)
            if not whole:
                return level
        return len(self.factors)

    def shard_shape(self, level: int) -> Index:
        """Shape of a level's shards (z, y, x): the block, halved as often as it stays one block's own."""
        return _ceil_divide(self.block_shape, self.factors[level]) if level < self.own_levels else self.block_shape

    def chunk_shape(self, level: int) -> Index:
        """Shape of the chunks in a shard of a level (z, y, x)."""
        z, y, x = (chunk_side(side) for side in self.shard_shape(level))
        return z, y, x

    def grid(self, level: int) -> BlockGrid:
        """The shards of a level as blocks."""
        return BlockGrid(self.level_shapes[level], self.shard_shape(level))

    def volume(self, level: int) -> Volume:
        """A level as a volume to read."""
        return open_volume(str(self.path), level=level)

    def spacing_um(self, level: int) -> Position:
        """Distance of voxel centres of a level, µm (z, y, x)."""
        z, y, x = (float(f * _exact(v)) for f, v in zip(self.factors[level], self.voxel_size.um, strict=True))
        return z, y, x

    def origin_um(self, level: int) -> Position:
        """Centre of a level's first voxel, µm (z, y, x)."""
        return self.placement.position_um([Fraction(f - 1, 2) for f in self.factors[level]], self.voxel_size)

    def shard(self, level: int, block: Index) -> Path:
        """The file of a shard."""
        return self.path.joinpath(str(level), "c", *map(str, block))

    def folders(self) -> Iterator[Path]:
        """Every folder of the image, those that hold shards last; as many as there are rows of blocks, about."""
        yield self.path
        for level in range(len(self.factors)):
            rows, columns, _ = self.grid(level).counts
            top = self.path / str(level)
            yield from (top, top / "c")
            for z in range(rows):
                yield top / "c" / str(z)
                yield from (top / "c" / str(z) / str(y) for y in range(columns))

    def write_block(self, level: int, block: Index, voxels: npt.NDArray[Any]) -> None:
        """Write one whole shard; writing it again replaces it.

        voxels : array of the block's shape (smaller at the far borders) and of the volume's dtype.
        Raises StorageError when the disk is full or refuses; then there is no shard of that name.
        """
        box = self.grid(level).box(block)
        if voxels.shape != box.shape or voxels.dtype != np.dtype(self.dtype):
            raise ValueError(
                f"Block {block} of level {level} is {box.shape} {self.dtype}, not {voxels.shape} {voxels.dtype}."
            )
        try:
            array = zarr.open_array(self.path, path=str(level), mode="r+").with_config({"write_empty_chunks": True})
            # Zarr would merge new chunks into the old shard; a damaged old shard must not stop its replacement.
            self.shard(level, block).unlink(missing_ok=True)
            array[box.slices] = voxels
        except OSError as error:
            raise _not_written(self.path, f"block {block} of level {level}", voxels.nbytes, error) from error

    def write_own_levels(self, block: Index, voxels: npt.NDArray[Any]) -> list[Path]:
        """Write a block of level 0 and all of the coarser levels that follow from it alone; returns the files."""
        self.write_block(0, block, voxels)
        for level in range(1, self.own_levels):
            voxels = reduce_by_two(voxels, self.reducer)
            self.write_block(level, block, voxels)
        return [self.shard(level, block) for level in range(self.own_levels)]

    def reduce_block(self, level: int, block: Index) -> Path:
        """Make and write one block of a level ≥ own_levels from the finished level below it, chunk by chunk.

        Returns the file.
        """
        finer = self.volume(level - 1)
        step = tuple(c // f for c, f in zip(self.factors[level], self.factors[level - 1], strict=True))
        target = self.grid(level).box(block)
        voxels = np.empty(target.shape, self.dtype)
        chunks = BlockGrid(target.shape, self.chunk_shape(level))
        for chunk in chunks:
            part = chunks.box(chunk)
            start = tuple((a + b) * f for a, b, f in zip(target.start, part.start, step, strict=True))
            stop = tuple(
                min((a + b) * f, n) for a, b, f, n in zip(target.start, part.stop, step, finer.shape, strict=True)
            )
            source = finer.read(Box(cast(Index, start), cast(Index, stop)))
            voxels[part.slices] = reduce_by_two(source, self.reducer)
        self.write_block(level, block, voxels)
        return self.shard(level, block)


def create_multiscale(
    path: Path,
    *,
    shape: Index,
    dtype: npt.DTypeLike,
    voxel_size: VoxelSize,
    block_shape: Index,
    name: str,
    reducer: Reducer,
    placement: Placement = AT_ORIGIN,
    attributes: dict[str, Any] | None = None,
) -> Multiscale:
    """Write the metadata of an OME-Zarr 0.5 image and of its empty levels "0", "1", …; voxels follow block by block.

    shape, block_shape : voxels (z, y, x).
    placement : where it lies. attributes : what voxcaliper says of it beside that, ready for JSON.
    Raises InputError where `path` exists, StorageError where it cannot be written.
    """
    path = Path(os.path.abspath(path))  # a worker may run in another folder
    multiscale = Multiscale(path, shape, np.dtype(dtype).name, voxel_size, block_shape, name, reducer, placement)
    if (reducer == "any") != (multiscale.dtype == "bool") or (reducer == "mode" and np.dtype(dtype).kind == "f"):
        raise ValueError(f"The reducer {reducer!r} does not suit {multiscale.dtype} voxels.")
    ome = _image_model(multiscale).model_dump(mode="json", exclude_none=True)
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        raise InputError(f"{path} exists already; remove it or choose another name.") from error
    except OSError as error:
        raise _not_written(path, "its folder", 4096, error) from error
    try:
        own: dict[str, Any] = {} if placement.is_upright else {"directions": placement.directions}
        noted = {OWN: {**(attributes or {}), **own}, "ome": ome}
        group = zarr.create_group(path, zarr_format=3, attributes=noted)
        for level, level_shape in enumerate(multiscale.level_shapes):
            group.create_array(
                str(level),
                shape=level_shape,
                dtype=multiscale.dtype,
                chunks=multiscale.chunk_shape(level),
                shards=multiscale.shard_shape(level),
                compressors=[ZstdCodec(level=1), Crc32cCodec()],
                fill_value=0,
                dimension_names=("z", "y", "x"),
                attributes={OWN: {"every_chunk_stored": True}},
            )
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise _not_written(path, "the metadata", 64 * 1024, error) from error
    return multiscale


def with_rotation_said(source: Volume) -> Volume:
    """A volume of which images are made, with a warning where they lie in a way that OME-Zarr cannot say."""
    if source.placement is None or source.placement.is_upright:
        return source
    warning = (
        f"{source.name} has its axes {source.placement.describe_directions()}, which OME-Zarr cannot say: what is"
        f" written keeps it in the attribute {OWN}.directions, and other programs show it with upright axes."
    )
    return replace(source, warnings=(*source.warnings, warning))


def _image_model(multiscale: Multiscale) -> ImageAttrs:
    return ImageAttrs(
        version="0.5",
        multiscales=[
            MultiscaleModel(
                name=multiscale.name,
                type=multiscale.reducer,
                metadata={"description": f"Every voxel is the {multiscale.reducer} of 2 x 2 x 2 finer ones."},
                axes=[Axis(name=name, type="space", unit="micrometer") for name in "zyx"],
                datasets=tuple(
                    Dataset.build(
                        path=str(level), scale=multiscale.spacing_um(level), translation=multiscale.origin_um(level)
                    )
                    for level in range(len(multiscale.factors))
                ),
            )
        ],
    )


def write_block_bytes(block_shape: Index, dtype: npt.DTypeLike) -> int:
    """Most memory that `write_block` takes beside the block itself.

    The compressed chunks and the shard joined from them (each at worst as large as the block, where the voxels are
    noise), and the chunks in the hands of the encoders.
    """
    itemsize = np.dtype(dtype).itemsize
    chunk = math.prod(chunk_side(side) for side in block_shape)
    return (2 * math.prod(block_shape) + 3 * ENCODERS * chunk) * itemsize


def reduce_block_bytes(block_shape: Index, dtype: npt.DTypeLike) -> int:
    """Most memory that `reduce_block` takes: the block, what writes it, and 2 × 2 × 2 chunks of the finer level."""
    itemsize = np.dtype(dtype).itemsize
    chunk = math.prod(chunk_side(side) for side in block_shape)
    # The finer voxels, four times as much to decode them, a copy padded to even sides; and the sums in 64 bits.
    making = 6 * 8 * chunk * itemsize + 2 * 8 * chunk
    return math.prod(block_shape) * itemsize + max(making, write_block_bytes(block_shape, dtype))


def sweep_partials(path: Path) -> int:
    """Remove the files that killed writers left half-written; returns how many. Only while nobody writes."""
    partials = list(path.rglob("*.partial"))
    for partial in partials:
        partial.unlink(missing_ok=True)
    return len(partials)


def chunk_side(side: int) -> int:
    """The side of a chunk for a block's side: its largest divisor up to 64.

    Where that would be less than 16 (a prime, say), the smallest divisor beyond 64, at worst the side itself.
    """
    divisors = [d for d in range(1, side + 1) if side % d == 0]
    largest = max(d for d in divisors if d <= 64)
    return largest if largest >= min(16, side) else min(d for d in divisors if d > 64)


def reduce_by_two(voxels: npt.NDArray[Any], reducer: Reducer) -> npt.NDArray[Any]:
    """Halve every axis, rounding up. Windows at the far borders hold fewer voxels; an axis of length 1 stays.

    voxels : array (z, y, x). Returns the same dtype.
    """
    # Doubling the last plane gives every voxel of the border windows the same weight as before, so that no reducer
    # can tell, and all windows have eight voxels.
    if any(n % 2 for n in voxels.shape):
        voxels = np.pad(voxels, [(0, n % 2) for n in voxels.shape], mode="edge")
    corners = [voxels[z::2, y::2, x::2] for z in (0, 1) for y in (0, 1) for x in (0, 1)]
    return _REDUCERS[reducer](corners)


def _mean(corners: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    dtype = corners[0].dtype
    if dtype.kind == "f":
        # Sums of eight in double precision; the result is rounded once.
        total = corners[0].astype(np.float64)
        for corner in corners[1:]:
            total += corner
        return (total / 8).astype(dtype)
    # v = 8·(v >> 3) + (v & 7): sums of the two parts never leave the dtype, whatever it is, so that the mean is exact.
    whole, rest = np.zeros_like(corners[0]), np.zeros_like(corners[0])
    for corner in corners:
        whole += corner >> 3
        rest += corner & 7
    whole += (rest + 4) >> 3
    return whole


def _mode(corners: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    result = corners[0].copy()
    mixed = np.zeros(result.shape, np.bool_)
    for corner in corners[1:]:
        mixed |= corner != result
    ordered = np.sort(np.stack([corner[mixed] for corner in corners]), axis=0)
    best, best_count = ordered[0], np.ones(ordered.shape[1], np.int8)
    count = best_count.copy()
    for previous, current in pairwise(ordered):
        count = np.where(current == previous, count + 1, 1)
        better = (count > best_count) | ((count == best_count) & (best == 0))
        best, best_count = np.where(better, current, best), np.where(better, count, best_count)
    result[mixed] = best
    return result


def _max(corners: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    largest = corners[0].copy()
    for corner in corners[1:]:
        np.maximum(largest, corner, out=largest)
    return largest


_REDUCERS: dict[Reducer, Callable[[list[npt.NDArray[Any]]], npt.NDArray[Any]]] = {
    "mean": _mean,
    "mode": _mode,
    "any": _max,  # the larger of two bools is their or
    "max": _max,
}


def _ceil_divide(shape: Index, factor: Index) -> Index:
    z, y, x = (-(-n // f) for n, f in zip(shape, factor, strict=True))
    return z, y, x


def _exact(value: float) -> Fraction:
    return Fraction(repr(value))


def _not_written(path: Path, what: str, needed: int, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = next(folder for folder in (path, *path.parents) if folder.exists())
        free = shutil.disk_usage(folder).free
        return StorageError(
            f"{path}: the disk is full, {what} needs up to {needed:,} bytes and {free:,} are free;"
            " make room and start again."
        )
    return StorageError(f"{path}: {what} cannot be written: {error.strerror or error}; check the folder.")
