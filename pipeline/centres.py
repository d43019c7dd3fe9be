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

from pipeline.distance import Field
from pipeline.geometry import Box, Index
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


def pack_centres(
    field: Field, block: Index, distances: Array, *, at_once: bool = False
) -> tuple[dict[str, Any], int]:  # fmt: skip
    """Prune the centres of a block and pack the rest into arrays of one cell each.

    distances : exact squared distances (z, y, x) of the block. at_once : pack all cells now, so that nothing stays
    where the distances lie; otherwise one by one while they are written, which takes the least memory.
    Returns the arrays for the ledger, and the largest squared distance of a kept centre (0 where none is kept).
    """
    keep = np.empty_like(distances, dtype=np.uint8)
    kernels.prune(distances, _containment_tables(field.weights), *field.weights, keep)
    number, largest = kernels.survey_cells(distances, keep)
    filled = np.flatnonzero(number)
    starts = np.array(cell_starts(field.grid.box(block).shape), np.int64)[filled]
    number, largest = number[filled], largest[filled]
    ends = np.cumsum(number)

    def pack(first: int, stop: int) -> tuple[Array, Array, Array]:
        return kernels.pack_cells(distances, keep, starts[first:stop], int(number[first:stop].sum()))

    def lazily(i: int) -> Iterator[Array]:
        yield from (part.reshape(-1).view(np.uint8) for part in pack(i, i + 1))

    cells: list[Iterator[Array]]
    if at_once:
        counts, centre_d, position = pack(0, len(starts))
        spans = [slice(end - n, end) for end, n in zip(ends, number, strict=True)]
        cells = [
            iter((counts[i].view(np.uint8), centre_d[span].view(np.uint8), position[span].view(np.uint8)))
            for i, span in enumerate(spans)
        ]
    else:
        cells = [lazily(i) for i in range(len(starts))]
    arrays: dict[str, Any] = {
        "cells": starts + np.array(field.grid.box(block).start, np.int64),
        "cell-counts": number,
        "cell-largest": largest,
    }
    arrays |= {f"cell-{i}": cell for i, cell in enumerate(cells)}
    arrays = {f"{field.prefix}{name}": array for name, array in arrays.items()}
    return arrays, int(largest.max(initial=0))


@dataclass(frozen=True)
class Cells:
    """Cells of centres that may matter to a block: where they lie, how many centres, their largest D, their file."""

    receipts: tuple[Parcel, ...]
    prefix: str
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
            self.receipts, self.prefix, self.source[which], self.number[which], self.start[which],
            self.count[which], self.largest[which],
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


def blocks_in_reach(field: Field, block: Index, largest: npt.NDArray[np.int64]) -> list[Index]:
    """The blocks with a ball that may reach this one. largest : the largest kept D of every block (grid.counts)."""
    boxes = [[field.grid.box(_on_axis(axis, i)) for i in range(count)] for axis, count in enumerate(field.grid.counts)]
    starts, stops = (
        np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 3)
        for sides in (
            [[box.start[axis] for box in row] for axis, row in enumerate(boxes)],
            [[box.stop[axis] for box in row] for axis, row in enumerate(boxes)],
        )
    )
    reach = squared_gaps(field.grid.box(block), starts, stops, field.weights) < largest.reshape(-1)
    indices = np.indices(field.grid.counts).reshape(3, -1).T
    return [(int(z), int(y), int(x)) for z, y, x in indices[reach]]


def _on_axis(axis: int, i: int) -> Index:
    """The i-th block along an axis, the first along the others."""
    return (i, 0, 0) if axis == 0 else (0, i, 0) if axis == 1 else (0, 0, i)


def cells_in_reach(field: Field, block: Index, largest: npt.NDArray[np.int64]) -> Cells:
    """The cells with a ball that may reach a block, largest D first; reads the cell tables, no centres."""
    receipts: list[Parcel] = []
    tables: list[tuple[Array, ...]] = []
    box = field.grid.box(block)
    for other in blocks_in_reach(field, block, largest):
        receipt = field.ledger.receipt(STAGE, other)
        names = ("cells", "cell-counts", "cell-largest")
        start, count, top = (receipt.read(f"{field.prefix}{name}") for name in names)
        stop = np.minimum(start + kernels.CELL, np.array(field.grid.box(other).stop))
        reach = np.flatnonzero(squared_gaps(box, start, stop, field.weights) < top)
        tables.append((np.full(len(reach), len(receipts)), reach, start[reach], count[reach], top[reach]))
        receipts.append(receipt)
    if not tables:
        none = np.zeros(0, np.int64)
        return Cells((), field.prefix, none, none, none.reshape(0, 3), none, none)
    source, number, start, count, top = (np.concatenate(column) for column in zip(*tables, strict=True))
    order = np.argsort(-top, kind="stable")
    return Cells(tuple(receipts), field.prefix, source, number, start, count, top).take(order)


def read_centres(cells: Cells, dtype: npt.DTypeLike) -> tuple[npt.NDArray[np.uint16], Array, npt.NDArray[np.uint16]]:
    """The centres of cells as the gather wants them: (c, bricks) counts, D, and position in the brick."""
    total = int(cells.count.sum())
    brick_counts = np.empty((len(cells), kernels.BRICKS_PER_CELL), np.uint16)
    centre_d = np.empty(total, dtype)
    position = np.empty(total, np.uint16)
    table_bytes = brick_counts[:1].nbytes
    filled = 0
    for i, (source, number, count) in enumerate(zip(cells.source, cells.number, cells.count, strict=True)):
        packed = cells.receipts[source].read(f"{cells.prefix}cell-{number}")
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
