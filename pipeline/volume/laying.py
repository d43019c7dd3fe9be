"""Volumes on the lattice of another one: turned, cut to its box or continued as background, while they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pipeline.geometry import BlockGrid, Box, Index
from pipeline.placement import Turn
from pipeline.volume.stores import ObjectStat
from pipeline.volume.volumes import Volume


@dataclass(frozen=True, kw_only=True)
class LaidVolume(Volume):
    """A box of a turned volume; what of the box lies beside it is 0.

    stored_volume : as it lies in its store, with the objects there. turn : of its axes. start : voxel of the turned
    volume (z, y, x) that is the first one here, which may lie beside it.

    Chunks are as large as the stored ones, turned; where they begin is not said.
    """

    stored_volume: Volume
    turn: Turn
    start: Index

    @property
    def objects(self) -> BlockGrid:
        """The grid of stored objects, in the order in which they are stored."""
        return self.stored_volume.objects

    def identity(self) -> dict[str, Any]:
        """As of any volume, with how it is laid."""
        laid = {
            "order": list(self.turn.order),
            "backwards": list(self.turn.backwards),
            "start": list(self.start),
            "shape": list(self.shape),
        }
        return {**self.stored_volume.identity(), "laid": laid}

    def read_piece(self, box: Box) -> npt.NDArray[Any]:
        """As of any volume."""
        whole = self.turn.shape(self.stored_volume.shape)
        low = [start + shift for start, shift in zip(box.start, self.start, strict=True)]
        inside = Box(
            cast(Index, tuple(max(0, a) for a in low)),
            cast(Index, tuple(min(n, a + side) for n, a, side in zip(whole, low, box.shape, strict=True))),
        )
        if any(side <= 0 for side in inside.shape):
            return np.zeros(box.shape, self.dtype)
        stored = [slice(0, 0)] * 3
        for axis, back, part, n in zip(self.turn.order, self.turn.backwards, inside.slices, whole, strict=True):
            stored[axis] = slice(n - part.stop, n - part.start) if back else part
        found = self.stored_volume.read(
            Box(cast(Index, tuple(part.start for part in stored)), cast(Index, tuple(part.stop for part in stored)))
        )
        turned = found.transpose(self.turn.order)[tuple(slice(None, None, -1 if b else 1) for b in self.turn.backwards)]
        if inside.shape == box.shape:
            return np.ascontiguousarray(turned)
        voxels = np.zeros(box.shape, self.dtype)
        voxels[tuple(slice(p.start - a, p.stop - a) for p, a in zip(inside.slices, low, strict=True))] = turned
        return voxels

    def piece_bytes(self, shape: Index) -> int:
        """The stored voxels of a piece, with what reads them, and the same voxels turned."""
        piece: Index = (min(shape[0], self._planes(shape)), shape[1], shape[2])
        sides = [0, 0, 0]
        for axis, side in zip(self.turn.order, piece, strict=True):
            sides[axis] = side
        turned = math.prod(piece) * np.dtype(self.dtype).itemsize
        return turned + self.stored_volume.read_bytes((sides[0], sides[1], sides[2]))

    def missing_chunks(self, box: Box) -> int:
        """Of all objects, wherever they lie."""
        return self.stored_volume.missing_chunks(self.stored_volume.box)

    def stored_objects(self) -> tuple[int, int] | None:
        """As of the stored volume."""
        return self.stored_volume.stored_objects()

    def stored(self) -> Iterator[tuple[str, ObjectStat]]:
        """As of the stored volume."""
        return self.stored_volume.stored()


def lay(volume: Volume, turn: Turn, start: Index, shape: Index) -> Volume:
    """A box of a turned volume as a volume of its own.

    start : its first voxel in the turned volume, which may lie beside it. shape : of the box (z, y, x). Nothing is done
    where the box is the volume as it is stored.
    """
    whole = turn.shape(volume.shape)
    if (turn, start, shape) == (Turn(), (0, 0, 0), volume.shape):
        return volume
    placement, voxel_size = volume.placement, volume.voxel_size
    if voxel_size:
        if placement:
            first = [0, 0, 0]
            for axis, back, at, n in zip(turn.order, turn.backwards, start, whole, strict=True):
                first[axis] = n - 1 - at if back else at
            placement = placement.starting_at(first, voxel_size).turned(turn)
        voxel_size = type(voxel_size)(cast(tuple[float, float, float], tuple(voxel_size.um[a] for a in turn.order)))
    plain = {field.name: getattr(volume, field.name) for field in fields(Volume)}
    changed = {
        "shape": shape,
        "chunk_shape": turn.shape(volume.chunk_shape),
        "shard_shape": turn.shape(volume.shard_shape) if volume.shard_shape else None,
        "voxel_size": voxel_size,
        "placement": placement,
    }
    return LaidVolume(**{**plain, **changed}, stored_volume=volume, turn=turn, start=start)
