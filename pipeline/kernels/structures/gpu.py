"""Structures kernel for a GPU: launches of structures.cu on the current stream. The contract is the package's."""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from pipeline.kernels import cuda, structures
from pipeline.kernels.backends import Voxels
from pipeline.kernels.structures import LONGEST_SIDE, VALUE_SLOTS, Tables
from pipeline.kernels.tables import added_up, count_in_spans, lines_per_block

SOURCE = "structures/structures.cu"
THREADS = 256
FIRST_SLOTS = 1 << 14


class _Table(NamedTuple):
    """A table in the memory of the card: places of first voxels (0 is free), and how many slots are in use."""

    entries: Any
    slots: int
    used: Any

    @staticmethod
    def of(slots: int) -> _Table:
        return _Table(cupy.zeros(slots, np.uint64), slots, cupy.zeros(1, np.uint64))

    def overfull(self) -> bool:
        return 2 * int(self.used[0]) > self.slots


def count_structures(
    reference: Voxels, prediction: Voxels, grey: Voxels, widths: tuple[int, int, int],
    first: tuple[int, int, int], z_start: int, z_stop: int,
) -> Tables:  # fmt: skip
    """A warp takes a line and adds its runs to a small table of its block of threads, and that to one of all."""
    width_r, width_p, width_g = (int(width) for width in widths)
    label_y, label_x = reference.shape[1], reference.shape[2] // width_r
    size_y, size_x = label_y - first[1], label_x - first[2]
    if max(z_stop, size_y, size_x) > LONGEST_SIDE:
        raise ValueError(f"sides of a block on a GPU are at most {LONGEST_SIDE} voxels")
    volumes = (
        reference, prediction, grey, width_r, width_p, width_g, *map(int, first), label_y, label_x, size_y, size_x,
    )  # fmt: skip

    def count(begin: int, end: int, slots: int) -> Tables | None:
        return _counted(volumes, begin, end, slots)

    parts = count_in_spans(count, z_start * size_y, z_stop * size_y, FIRST_SLOTS, structures.MOST_SLOTS)
    return parts[0] if len(parts) == 1 else _merged(parts)


def _counted(volumes: tuple[Any, ...], begin: int, end: int, slots: int) -> Tables | None:
    """The lines of a span; None where a table is overfull."""
    size_x, has_grey = volumes[-1], volumes[5] > 0
    lines = lines_per_block(size_x)
    span = ((cuda.blocks_for(end - begin, lines),), (THREADS,))
    labels = (*volumes[:5], 0, *volumes[6:])  # as if there were no grey values
    pairs = _Table.of(slots)
    totals = cupy.zeros((slots, 4), np.uint64)
    lows, highs = cupy.full((slots, 3), np.iinfo(np.int32).max, np.int32), cupy.zeros((slots, 3), np.int32)
    if end > begin:
        _kernel("count_pairs")(*span, (*labels, begin, end, lines, *pairs, totals, lows, highs))
    if pairs.overfull():
        return None
    n = int(pairs.used[0])
    over_slots = ((cuda.blocks_for(slots, THREADS),), (THREADS,))
    rows = cupy.empty(slots, np.uint32)
    out = (cupy.empty((n, 2), np.uint64), cupy.empty(n, np.int64), cupy.empty((n, 3), np.int64),
           cupy.empty((n, 6), np.int64))  # fmt: skip
    collected = cupy.zeros(1, np.uint64)
    _kernel("collect_pairs")(*over_slots, (*labels, pairs.entries, slots, totals, lows, highs, collected, rows, *out))
    of_pairs = [cupy.asnumpy(column) for column in out]
    del out, totals, lows, highs
    m = 0
    if has_grey and end > begin:
        values = _Table.of(VALUE_SLOTS * slots)
        counts = cupy.zeros(values.slots, np.uint32)
        _kernel("count_values")(*span, (*volumes, begin, end, lines, *values, counts))
        if values.overfull():
            return None
        m = int(values.used[0])
    columns = (cupy.empty(m, np.int64), cupy.empty(m, np.uint64), cupy.empty(m, np.int64))
    if m:
        collected = cupy.zeros(1, np.uint64)
        over_slots = ((cuda.blocks_for(values.slots, THREADS),), (THREADS,))
        _kernel("collect_values")(
            *over_slots, (*volumes, values.entries, values.slots, counts, *pairs, rows, collected, *columns)
        )
    labels_, voxels, sums, boxes = of_pairs
    value_rows, patterns, value_voxels = (cupy.asnumpy(column) for column in columns)
    return labels_, voxels, sums, boxes, value_rows, patterns, value_voxels


def _merged(parts: list[Tables]) -> Tables:
    """The tables of spans as those of all their lines."""
    pairs, voxels, sums, boxes = (np.concatenate([part[column] for part in parts]) for column in range(4))
    distinct, totals = added_up(pairs, np.column_stack((voxels, sums)))
    row_of = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    merged = np.empty((len(distinct), 6), np.int64)
    merged[:, :3] = np.iinfo(np.int64).max
    merged[:, 3:] = -1
    np.minimum.at(merged[:, :3], row_of, boxes[:, :3])
    np.maximum.at(merged[:, 3:], row_of, boxes[:, 3:])
    starts = np.cumsum([0, *(len(part[0]) for part in parts)])
    rows = np.concatenate([row_of[start + part[4]] for start, part in zip(starts, parts, strict=False)])
    patterns = np.concatenate([part[5] for part in parts])
    values, counts = added_up(
        np.column_stack((rows.astype(np.uint64), patterns)), np.concatenate([part[6] for part in parts])
    )
    return distinct, totals[:, 0], totals[:, 1:], merged, values[:, 0].astype(np.int64), values[:, 1], counts


def _kernel(name: str) -> Any:
    return cuda.function(SOURCE, name, np.int32)  # no squared distances: either type does
