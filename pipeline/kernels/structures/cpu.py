"""Structures kernel for the CPU: runs along x, a hash table of pairs, a hash table of (pair, grey value)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.accelerate import Integer, kernel

Array = npt.NDArray[Any]

_WORD = 8
"""Voxels whose flags are read at once."""

_NARROW_PAGE_BITS = 4
"""Grey values of 16 bits and less are counted 16 neighbours to a page, a cache line; wider ones one by one."""


@kernel
def _mixed(a: Integer, b: Integer) -> Integer:
    """Two integers hashed into 64 bits."""
    mixed = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F)
    return mixed ^ (mixed >> np.uint64(29))


@kernel
def _pair_slot(reference: Integer, prediction: Integer, slots: Array, pairs: Array) -> Integer:
    """Where a pair lies in the open-addressing table `slots` (row of `pairs`, or −1), or its free slot."""
    mask = np.uint64(len(slots) - 1)
    at = _mixed(reference, prediction) & mask
    while slots[at] >= 0 and (pairs[slots[at], 0] != reference or pairs[slots[at], 1] != prediction):
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@kernel
def _page_slot(page: Integer, row: Integer, pages: Array) -> Integer:
    """Where a page of grey values of a pair lies in an open-addressing table of (page, row + 1), or its free slot."""
    mask = np.uint64(len(pages) - 1)
    at = _mixed(page, row) & mask
    while pages[at, 1] != 0 and (pages[at, 0] != page or pages[at, 1] != row + np.uint64(1)):
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@kernel
def _flag_runs(reference: Array, prediction: Array, one_volume: bool, changes: Array) -> None:
    """changes[x] = 1 where a new run of equal (reference, prediction) begins; loops that become vector instructions."""
    for x in range(1, len(reference)):
        changes[x] = reference[x] != reference[x - 1]
    if not one_volume:
        for x in range(1, len(reference)):
            changes[x] |= prediction[x] != prediction[x - 1]


@kernel
def _count_line(
    z: Integer,
    y: Integer,
    reference: Array,
    prediction: Array,
    one_volume: bool,
    changes: Array,
    slots: Array,
    pairs: Array,
    voxels: Array,
    sums: Array,
    boxes: Array,
    used: Integer,
    rows: Array,
) -> Integer:
    """Count one line of voxels, with room for a new pair at every voxel, and leave the row of each run's pair.

    rows : at the first voxel of a run, the row of its pair, −1 for the background. Returns the pairs used.
    """
    size_x = len(reference)
    words = changes.view(np.uint64)
    row: Integer = -1
    last_label = np.uint64(0)
    last_predicted = np.uint64(0)
    x: Integer = 0
    for word in range(len(words)):
        if words[word] == 0:
            continue
        for stop in range(word * _WORD, min(word * _WORD + _WORD, size_x + 1)):
            if changes[stop] == 0:
                continue
            label = np.uint64(reference[x])
            predicted = np.uint64(prediction[0 if one_volume else x])
            if label == 0 and predicted == 0:
                rows[x] = -1
                x = stop
                continue
            if row < 0 or label != last_label or predicted != last_predicted:
                last_label = label
                last_predicted = predicted
                at = _pair_slot(label, predicted, slots, pairs)
                row = slots[at]
                if row < 0:
                    row = used
                    used += 1
                    slots[at] = row
                    pairs[row, 0] = label
                    pairs[row, 1] = predicted
                    boxes[row, 0] = boxes[row, 3] = z
                    boxes[row, 1] = boxes[row, 4] = y
                    boxes[row, 2] = boxes[row, 5] = x
            run = stop - x
            voxels[row] += run
            sums[row, 0] += run * z
            sums[row, 1] += run * y
            sums[row, 2] += run * (x + stop - 1) // 2
            boxes[row, 3] = z  # layers come in ascending order
            boxes[row, 1] = min(boxes[row, 1], y)
            boxes[row, 4] = max(boxes[row, 4], y)
            boxes[row, 2] = min(boxes[row, 2], x)
            boxes[row, 5] = max(boxes[row, 5], stop - 1)
            rows[x] = row
            x = stop
    return used


@kernel
def _count_values(grey: Array, changes: Array, rows: Array, pages: Array, counts: Array, used: Integer) -> Integer:
    """Count the grey values of one line, with room for a new page at every voxel. Returns the pages used."""
    width = counts.shape[1]
    page_bits = np.uint64(_NARROW_PAGE_BITS if width > 1 else 0)
    row = rows[0]
    for x in range(len(grey)):
        if changes[x] != 0:
            row = rows[x]
        if row >= 0:
            value = np.uint64(grey[x])
            page = value >> page_bits
            at = _page_slot(page, np.uint64(row), pages)
            if pages[at, 1] == 0:
                pages[at, 0] = page
                pages[at, 1] = row + 1
                used += 1
            counts[at, value & np.uint64(width - 1)] += np.uint32(1)
    return used


@kernel
def _listed(pages: Array, counts: Array) -> tuple[Array, Array, Array]:
    """The counted values out of the table: row of the pair, pattern, voxels."""
    width = counts.shape[1]
    total = np.count_nonzero(counts)
    rows = np.empty(total, np.int64)
    values = np.empty(total, np.uint64)
    voxels = np.empty(total, np.int64)
    n = 0
    for at in range(len(pages)):
        if pages[at, 1] != 0:
            for i in range(width):
                if counts[at, i] != 0:
                    rows[n] = np.int64(pages[at, 1]) - 1
                    values[n] = pages[at, 0] * np.uint64(width) + np.uint64(i)
                    voxels[n] = counts[at, i]
                    n += 1
    return rows, values, voxels


@kernel
def _grown(table: Array, length: Integer) -> Array:
    bigger = np.zeros((length, *table.shape[1:]), table.dtype)
    bigger[: len(table)] = table
    return bigger


@kernel
def count_structures(
    reference: Array, prediction: Array, grey: Array, first: tuple[int, int, int], z_start: int, z_stop: int
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """Every pair of labels in a block but (0, 0), with what is needed of it; rows in no particular order.

    reference, prediction : unsigned, contiguous labels (z, y, x) of one shape; the block begins at voxel `first` of
    them and reaches to their end. A prediction of shape (1, 1, 1) is one label everywhere.
    grey : unsigned patterns of the grey values of the block alone, or of shape (0, 0, 0) where there are none.
    z_start, z_stop : the layers of the block that are counted.

    Returns per pair: labels uint64 (n, 2), voxels int64 (n,), sums of the coordinates from the block's first voxel
    int64 (n, 3), bounding box int64 (n, 6) as three first and three last voxels; and per (pair, grey value): row of
    the pair int64 (m,), pattern uint64 (m,), voxels int64 (m,). A block has fewer than 2³² voxels.
    """
    first_z, first_y, first_x = first
    size_y = reference.shape[1] - first_y
    size_x = reference.shape[2] - first_x
    one_volume = prediction.size == 1 and reference.size != 1
    with_grey = grey.size > 0

    capacity = 64
    while capacity < 2 * size_x:
        capacity *= 2
    slots = np.full(2 * capacity, -1, np.int64)
    pairs = np.zeros((capacity, 2), np.uint64)
    voxels = np.zeros(capacity, np.int64)
    sums = np.zeros((capacity, 3), np.int64)
    boxes = np.zeros((capacity, 6), np.int64)
    used: Integer = 0

    width = 1 << _NARROW_PAGE_BITS if grey.itemsize <= 2 else 1
    pages = np.zeros((4 * capacity if with_grey else 0, 2), np.uint64)
    counts = np.zeros((len(pages), width), np.uint32)
    pages_used: Integer = 0

    rows = np.zeros(size_x, np.int64)
    changes = np.zeros((size_x + _WORD) // _WORD * _WORD, np.uint8)
    changes[size_x] = 1  # the end of a line ends a run

    for z in range(z_start, z_stop):
        for y in range(size_y):
            line = reference[z + first_z, y + first_y, first_x:]
            other = prediction[0, 0, :] if one_volume else prediction[z + first_z, y + first_y, first_x:]
            if used + size_x > capacity:
                capacity *= 2
                pairs = _grown(pairs, capacity)
                voxels = _grown(voxels, capacity)
                sums = _grown(sums, capacity)
                boxes = _grown(boxes, capacity)
                slots = np.full(2 * capacity, -1, np.int64)
                for row in range(used):
                    slots[_pair_slot(pairs[row, 0], pairs[row, 1], slots, pairs)] = row
            _flag_runs(line, other, one_volume, changes)
            used = _count_line(z, y, line, other, one_volume, changes, slots, pairs, voxels, sums, boxes, used, rows)
            if with_grey:
                if 2 * (pages_used + size_x) > len(pages):
                    old_pages, old_counts = pages, counts
                    pages = np.zeros((2 * len(old_pages), 2), np.uint64)
                    counts = np.zeros((len(pages), width), np.uint32)
                    for old in range(len(old_pages)):
                        if old_pages[old, 1] != 0:
                            at = _page_slot(old_pages[old, 0], old_pages[old, 1] - np.uint64(1), pages)
                            pages[at] = old_pages[old]
                            counts[at] = old_counts[old]
                pages_used = _count_values(grey[z, y], changes, rows, pages, counts, pages_used)
    value_rows, values, value_voxels = _listed(pages, counts)
    return (
        pairs[:used].copy(),
        voxels[:used].copy(),
        sums[:used].copy(),
        boxes[:used].copy(),
        value_rows,
        values,
        value_voxels,
    )
