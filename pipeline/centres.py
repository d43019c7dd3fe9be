"""The centres of a block whose balls matter, packed cell by cell: all that thickness needs of a block.

Only centres travel between blocks: neither distances nor the mask are exchanged, and the radius is unbounded.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Box, Index
from pipeline.job import ThicknessJob
from pipeline.kernels import centres as kernels
from pipeline.parcels import Parcel

Array = npt.NDArray[Any]

STAGE = "centres"
"""The stage that leaves the centres behind."""

TABLE_RADIUS_VOXELS = 64
TABLE_LIMIT = 1 << 18


@functools.lru_cache(maxsize=4)
def _containment_tables(weights: Index) -> npt.NDArray[np.int64]:
    limit = min(TABLE_RADIUS_VOXELS**2 * min(weights), TABLE_LIMIT)
    return kernels.containment_tables(limit, *weights)


def cell_starts(shape: Index) -> list[Index]:
    """First voxel of every cell of a block of this shape, in C order."""
    steps = [range(0, n, kernels.CELL) for n in shape]
    return [(z, y, x) for z in steps[0] for y in steps[1] for x in steps[2]]


def pack_centres(job: ThicknessJob, block: Index, distances: Array) -> tuple[dict[str, Any], int]:
    """Prune the centres of a block and pack the rest into arrays of one cell each.

    distances : exact squared distances (z, y, x) of the block. Returns the arrays for the ledger, packed one by one
    while they are written, and the largest squared distance of a kept centre (0 where none is kept).
    """
    keep = np.empty(distances.shape, np.uint8)
    kernels.prune(distances, _containment_tables(job.weights), *job.weights, keep)
    origin = job.grid.box(block).start
    starts: list[Index] = []
    counts: list[int] = []
    largest: list[int] = []
    for z, y, x in cell_starts(job.grid.box(block).shape):
        count = kernels.count_kept(keep, z, y, x)
        if count == 0:
            continue
        cell = np.s_[z : z + kernels.CELL, y : y + kernels.CELL, x : x + kernels.CELL]
        starts.append((z, y, x))
        counts.append(count)
        largest.append(int(np.max(distances[cell], where=keep[cell].view(bool), initial=0)))

    def packed(start: Index, count: int) -> Iterator[Array]:
        brick_counts = np.empty(kernels.BRICKS_PER_CELL, np.uint16)
        centre_d = np.empty(count, distances.dtype)
        position = np.empty(count, np.uint16)
        kernels.pack_cell(distances, keep, *start, brick_counts, centre_d, position)
        yield from (part.view(np.uint8) for part in (brick_counts, centre_d, position))

    arrays: dict[str, Any] = {
        "cells": (np.array(starts, np.int64).reshape(-1, 3) + np.array(origin, np.int64)),
        "cell-counts": np.array(counts, np.int64),
        "cell-largest": np.array(largest, np.int64),
    }
    arrays |= {f"cell-{i}": packed(s, n) for i, (s, n) in enumerate(zip(starts, counts, strict=True))}
    return arrays, max(largest, default=0)


@dataclass(frozen=True)
class Cells:
    """Cells of centres that may matter to a block: where they lie, how many centres, their largest D, their file."""

    receipts: tuple[Parcel, ...]
    source: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    largest: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.number)

    def take(self, which: npt.NDArray[Any] | slice) -> Cells:
        """A selection, or another order."""
        return Cells(
            self.receipts, self.source[which], self.number[which], self.start[which], self.count[which],
            self.largest[which],
        )  # fmt: skip


def squared_gaps(
    box: Box, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64], weights: Index
) -> npt.NDArray[np.int64]:
    """Least weighted squared distance between voxel centres of a box and of each of many boxes (n, 3)."""
    low = np.array(box.start, np.int64)
    high = np.array(box.stop, np.int64)
    gap = np.maximum(0, np.maximum(starts - (high - 1), low - (stops - 1)))
    out: npt.NDArray[np.int64] = (gap * gap * np.array(weights, np.int64)).sum(axis=1)
    return out


def blocks_in_reach(job: ThicknessJob, block: Index, largest: npt.NDArray[np.int64]) -> list[Index]:
    """The blocks with a ball that may reach this one. largest : the largest kept D of every block (grid.counts)."""
    indices = np.indices(job.grid.counts).reshape(3, -1).T
    starts = indices * np.array(job.grid.block_shape)
    stops = np.minimum(starts + np.array(job.grid.block_shape), np.array(job.grid.shape))
    reach = squared_gaps(job.grid.box(block), starts, stops, job.weights) < largest.reshape(-1)
    return [(int(z), int(y), int(x)) for z, y, x in indices[reach]]


def cells_in_reach(job: ThicknessJob, block: Index, largest: npt.NDArray[np.int64]) -> Cells:
    """The cells with a ball that may reach a block, largest D first; reads the cell tables, no centres."""
    receipts: list[Parcel] = []
    tables: list[tuple[Array, ...]] = []
    box = job.grid.box(block)
    for other in blocks_in_reach(job, block, largest):
        receipt = job.ledger.receipt(STAGE, other)
        start, count, top = (receipt.read(name) for name in ("cells", "cell-counts", "cell-largest"))
        stop = np.minimum(start + kernels.CELL, np.array(job.grid.box(other).stop))
        reach = np.flatnonzero(squared_gaps(box, start, stop, job.weights) < top)
        tables.append((np.full(len(reach), len(receipts)), reach, start[reach], count[reach], top[reach]))
        receipts.append(receipt)
    if not tables:
        none = np.zeros(0, np.int64)
        return Cells((), none, none, none.reshape(0, 3), none, none)
    source, number, start, count, top = (np.concatenate(column) for column in zip(*tables, strict=True))
    return Cells(tuple(receipts), source, number, start, count, top).take(np.argsort(-top, kind="stable"))


def read_centres(cells: Cells, dtype: npt.DTypeLike) -> tuple[npt.NDArray[np.uint16], Array, npt.NDArray[np.uint16]]:
    """The centres of cells as the gather wants them: (c, bricks) counts, D, and position in the brick."""
    total = int(cells.count.sum())
    brick_counts = np.empty((len(cells), kernels.BRICKS_PER_CELL), np.uint16)
    centre_d = np.empty(total, dtype)
    position = np.empty(total, np.uint16)
    table_bytes = brick_counts[:1].nbytes
    filled = 0
    for i, (source, number, count) in enumerate(zip(cells.source, cells.number, cells.count, strict=True)):
        packed = cells.receipts[source].read(f"cell-{number}")
        split = table_bytes + count * centre_d.itemsize
        brick_counts[i] = packed[:table_bytes].view(np.uint16)
        centre_d[filled : filled + count] = packed[table_bytes:split].view(centre_d.dtype)
        position[filled : filled + count] = packed[split:].view(np.uint16)
        filled += count
    return brick_counts, centre_d, position


def centre_bytes(dtype: npt.DTypeLike) -> int:
    """Bytes of one centre in memory."""
    return np.dtype(dtype).itemsize + 2


def cell_table_bytes() -> int:
    """Bytes of one cell's tables while it is gathered: brick counts, begin and the largest-D pyramid."""
    return kernels.BRICKS_PER_CELL * (2 + 8 + 8) + 64 * 8 + 64
