"""Volumes: boxes of voxels out of a stored array, with every failure as one plain sentence.

A missing object is not an error to most formats: it reads as the fill value. That is right for sparse stores and wrong
for a damaged one, so volumes that declare `every_chunk_stored` (all that voxcaliper writes) refuse it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pipeline.errors import StorageError, VoxcaliperError
from pipeline.geometry import BlockGrid, Box, Index, VoxelSize
from pipeline.placement import AT_ORIGIN, Lattice, Placement, Position
from pipeline.volume.arrays import StoredArray
from pipeline.volume.choice import Kind
from pipeline.volume.patience import patiently, reason
from pipeline.volume.stores import AT_ONCE, ObjectStat, RefusedError

PIECE_BYTES = 16 * 2**20
"""Boxes are read in pieces of about this size, so that decoding needs little beside the box itself."""
MOST_LISTED, MOST_ASKED = 1_000_000, 50_000
"""Objects that are counted for a report, where a store lists them and where each one is a request."""


@dataclass(frozen=True)
class Volume:
    """One three-dimensional array in a store. Small and picklable: a task opens it again where it runs.

    location : the group, bare array or file, an absolute path or a URL (pipeline.volume.stores).
    array_path : the array inside the group; "" for a bare array or a file.
    array : reads it.
    shape, chunk_shape, shard_shape : voxels (z, y, x). A chunk is the smallest readable unit, a shard a stored object
        that holds several chunks; shard_shape is None where every chunk is an object of its own.
    dtype : bool, integer or float, in numpy's words and in the byte order of this machine.
    voxel_size : spacing in µm, None where neither the metadata nor the caller gave one.
    placement : where it lies; the levels of a pyramid share one frame. None where the source says nothing of it.
    stated_voxel_size : what the source itself states, in which its placement counts; voxel_size goes before it.
    level, level_count : which step of the pyramid this is, of how many; 0 of 1 for a bare array.
    format : as people call it: "OME-Zarr 0.5", "Zarr v2 array", "N5" …
    every_chunk_stored : the writer promised to store every chunk, so a missing one means damage.
    fill_value : what a chunk that is not stored reads as.
    metadata_sha256 : of what the store says of the array, without descriptions (attributes).
    decode_bytes : most memory that reading takes beside its result, where objects are decoded one after the other and a
        missing one is told by the array; None where those of a piece are decoded together.
    kept_bytes : most memory that a process keeps in use between reads, for all volumes of a kind together.
    warnings : one sentence each on what is wrong in the metadata and was read all the same.
    selection : channel and time point that were chosen where there are several (pipeline.volume.choice).
    positions_per_chunk : along axes beside z, y, x, so many positions are decoded with a chunk.
    """

    location: str
    array_path: str
    array: StoredArray
    shape: Index
    dtype: str
    chunk_shape: Index
    shard_shape: Index | None
    voxel_size: VoxelSize | None
    placement: Placement | None
    level: int
    level_count: int
    format: str
    every_chunk_stored: bool
    fill_value: float
    metadata_sha256: str
    decode_bytes: int | None = None
    kept_bytes: int = 0
    warnings: tuple[str, ...] = ()
    selection: tuple[tuple[Kind, int], ...] = ()
    positions_per_chunk: int = 1
    stated_voxel_size: VoxelSize | None = None

    @property
    def lattice(self) -> Lattice | None:
        """Where the voxels lie as the source states it; None where that, or how large they are, is not known."""
        voxel_size = self.stated_voxel_size or self.voxel_size
        return Lattice(self.shape, voxel_size, self.placement) if voxel_size and self.placement else None

    @property
    def is_resized(self) -> bool:
        """Whether its voxels have another size than the source states."""
        return self.stated_voxel_size not in (None, self.voxel_size)

    @property
    def origin_um(self) -> Position:
        """Centre of the first voxel, µm (z, y, x); 0 where the source says nothing of its place."""
        return self.placement.origin_um if self.placement else (0.0, 0.0, 0.0)

    @property
    def name(self) -> str:
        """The address of the array, for messages."""
        return f"{self.location}/{self.array_path}" if self.array_path else self.location

    @property
    def box(self) -> Box:
        """All voxels."""
        return Box((0, 0, 0), self.shape)

    @property
    def objects(self) -> BlockGrid:
        """The grid of stored objects: shards, or chunks where there are no shards."""
        return BlockGrid(self.shape, self.shard_shape or self.chunk_shape)

    def identity(self) -> dict[str, Any]:
        """What a result depends on beside the voxels; of attributes only the place and the order of the axes change it.

        Ready for JSON. Without a place where there is none, or where it is the one that is taken then.
        """
        placed = self.placement not in (None, AT_ORIGIN)
        directions = [list(row) for row in self.placement.directions] if self.placement else []
        place = {"origin_um": list(self.origin_um), "directions": directions} if placed else {}
        return {
            "location": self.location,
            "array_path": self.array_path,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "chunk_shape": list(self.chunk_shape),
            "axes": self.array.stored_axes,
            "metadata_sha256": self.metadata_sha256,
            **place,
            **({"selection": dict(self.selection)} if self.selection else {}),
        }

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The voxels of a box as a C-ordered array (z, y, x) of the stored dtype.

        Raises StorageError when a stored object is corrupt, unreadable or missing where every chunk is stored.
        """
        pieces = list(self.pieces(box))
        if len(pieces) == 1:
            return self.read_piece(box)
        voxels = np.empty(box.shape, self.dtype)
        for piece in pieces:
            voxels[piece.start[0] - box.start[0] : piece.stop[0] - box.start[0]] = self.read_piece(piece)
        return voxels

    def read_bytes(self, shape: Index) -> int:
        """Most memory that reading a box of this shape takes: the box, and what decodes one piece of it."""
        return math.prod(shape) * np.dtype(self.dtype).itemsize + self.piece_bytes(shape)

    def piece_bytes(self, shape: Index) -> int:
        """Most memory that `read_piece` takes for a piece of a box of this shape, its result included.

        A piece exists twice (result of the shards, result of Zarr), the chunks it touches at worst twice as well
        (as stored, where they cannot be compressed, and decoded), unless the format says better (`decode_bytes`).
        """
        planes = min(shape[0], self._planes(shape))
        if self.decode_bytes is not None:
            return 2 * planes * shape[1] * shape[2] * np.dtype(self.dtype).itemsize + self.decode_bytes
        touched = [
            min(-(-n // chunk), -(-(side - 1) // chunk) + 1) * chunk
            for n, side, chunk in zip(self.shape, (planes, *shape[1:]), self.chunk_shape, strict=True)
        ]
        decoded = math.prod(touched) * self.positions_per_chunk
        return 2 * (planes * shape[1] * shape[2] + decoded) * np.dtype(self.dtype).itemsize

    def pieces(self, box: Box) -> Iterator[Box]:
        """The box cut along z at chunk borders into parts of about PIECE_BYTES."""
        chunk, step, start = self.chunk_shape[0], self._planes(box.shape), box.start[0]
        while start < box.stop[0]:
            stop = min(box.stop[0], start // chunk * chunk + step)
            yield Box((start, *box.start[1:]), (stop, *box.stop[1:]))
            start = stop

    def _planes(self, shape: Index) -> int:
        """Planes in a piece of a box: whole chunks, as many as PIECE_BYTES hold, at least one."""
        plane_bytes = max(1, shape[1] * shape[2] * np.dtype(self.dtype).itemsize)
        return max(1, PIECE_BYTES // plane_bytes // self.chunk_shape[0]) * self.chunk_shape[0]

    def read_piece(self, box: Box) -> npt.NDArray[Any]:
        """As `read`, in one go: for boxes from `pieces`."""
        try:
            if self.decode_bytes is None and (self.every_chunk_stored or self.shard_shape):
                self._check_objects(box)
            return patiently(lambda: self._voxels(box))
        except (MemoryError, VoxcaliperError):
            raise
        except Exception as error:  # codecs raise whatever they like; all of it means that the store is unreadable
            raise self._unreadable(box, error) from error

    def missing_chunks(self, box: Box) -> int:
        """How many stored objects (shards or chunks) of the box are absent and read as the fill value."""
        return sum(stat is None for _, stat in self.object_stats(self._objects_in(box)))

    def stored_objects(self) -> tuple[int, int] | None:
        """Number and bytes of the stored objects; None where there are too many to count them at every run."""
        expected = len(self.objects)
        listed = self._listed() if expected <= MOST_LISTED else None
        if expected > MOST_LISTED or (expected > MOST_ASKED and listed is None):
            return None
        count = size = 0
        for _, stat in self._asked() if listed is None else listed:
            count, size = count + 1, size + stat.size
        return count, size

    def is_countable(self) -> bool:
        """Whether the stored objects are few enough to ask for them at every run."""
        expected = len(self.objects)
        return expected <= MOST_ASKED or (expected <= MOST_LISTED and self._listed() is not None)

    def stored(self) -> Iterator[tuple[str, ObjectStat]]:
        """Key and mark of every stored object: listed, or asked for one by one where the store does not list."""
        listed = self._listed()
        return self._asked() if listed is None else listed

    def _asked(self) -> Iterator[tuple[str, ObjectStat]]:
        return ((key, stat) for key, stat in self.object_stats(iter(self.objects)) if stat is not None)

    def _listed(self) -> Iterator[tuple[str, ObjectStat]] | None:
        listed = self.array.listed()
        if listed is None:
            return None
        try:
            first = next(listed, None)
        except RefusedError:  # objects may be open to us although the list of them is not
            return None
        return iter(()) if first is None else chain((first,), listed)

    def object_stats(self, indices: Iterator[Index]) -> Iterator[tuple[str, ObjectStat | None]]:
        """Key and mark of objects, in order; some are asked for at a time."""
        if "://" not in self.location:
            yield from ((self.object_key(index), self.array.object_stat(index)) for index in indices)
            return
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for part in _parts(indices, 4 * AT_ONCE):
                yield from zip(map(self.object_key, part), threads.map(self.array.object_stat, part), strict=True)

    def object_key(self, index: Index) -> str:
        """The store's name of a stored object, relative to the location."""
        return self.array.object_key(index)

    def _voxels(self, box: Box) -> npt.NDArray[Any]:
        return np.ascontiguousarray(self.array.read(box), dtype=self.dtype)

    def _objects_in(self, box: Box) -> Iterator[Index]:
        sides = self.objects.block_shape
        ranges = (
            range(start // side, -(-stop // side)) for start, stop, side in zip(box.start, box.stop, sides, strict=True)
        )
        return ((z, y, x) for z, y, x in product(*ranges))

    def _check_objects(self, box: Box) -> None:
        for key, stat in self.object_stats(self._objects_in(box)):
            # Zarr reads a shard of no bytes as fill value, without a word.
            if (stat is None and self.every_chunk_stored) or (stat is not None and stat.size == 0):
                found = "is missing although every chunk was stored" if stat is None else "is empty (0 bytes)"
                raise StorageError(
                    f"{self.name}: the voxels {_span(box)} cannot be read because the stored object"
                    f" {key} {found}; restore it from a copy or write the volume again."
                )

    def _unreadable(self, box: Box, error: Exception) -> StorageError:
        where = ""
        try:
            for index in self._objects_in(box) if not isinstance(error, TimeoutError) else ():
                where = f" (stored object {key})" if (key := self.object_key(index)) else ""
                part = self.objects.box(index)
                start = cast(Index, tuple(map(max, part.start, box.start)))
                stop = cast(Index, tuple(map(min, part.stop, box.stop)))
                self._voxels(Box(start, stop))
            where = ""
        except Exception as culprit:  # noqa: BLE001  the search is for what fails, whatever it fails with
            error = culprit
        return StorageError(
            f"{self.name}: the voxels {_span(box)} cannot be read: {_reason(error)}{where};"
            " check the store, or restore it from a copy."
        )


def _span(box: Box) -> str:
    return f"{box.start} to {box.stop} (z, y, x)"


def _parts(indices: Iterator[Index], size: int) -> Iterator[list[Index]]:
    while part := list(islice(indices, size)):
        yield part


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return reason(error)
    if "checksum" in str(error):
        return "corrupt chunk, its checksum does not match"
    return f"corrupt chunk ({reason(error)})"
