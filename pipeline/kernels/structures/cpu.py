"""Structures kernel for the CPU: runs along x, a hash table of pairs, a hash table of (pair, grey value)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.accelerate import Integer, kernel

Array = npt.NDArray[Any]

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
def _flag_steps(line: Array, changes: Array) -> None:
    """changes[x] = 1 where a voxel differs from the one before it; a loop that becomes vector instructions."""
    for x in range(1, len(line)):
        changes[x] |= line[x] != line[x - 1]


@kernel
def _flag_runs(line: Array, width: Integer, changes: Array) -> None:
    """The same for a line of bytes, `width` of them to a voxel; 0 where there is no such volume."""
    if width == 1:
        _flag_steps(line, changes)
    elif width == 2:
        _flag_steps(line.view(np.uint16), changes)
    elif width == 4:
        _flag_steps(line.view(np.uint32), changes)
    elif width == 8:
        _flag_steps(line.view(np.uint64), changes)


@kernel
def _take(values: Array, out: Array) -> None:
    for x in range(len(values)):
        out[x] = values[x]


@kernel
def _take_line(line: Array, width: Integer, out: Array) -> None:
    """A line of bytes, `width` of them to a voxel, as uint64."""
    if width == 1:
        _take(line, out)
    elif width == 2:
        _take(line.view(np.uint16), out)
    elif width == 4:
        _take(line.view(np.uint32), out)
    else:
        _take(line.view(np.uint64), out)


@kernel
def _value(line: Array, width: Integer, x: Integer) -> Integer:
    """One voxel of a line of bytes, the lowest first; 0 where there is no such volume."""
    value = np.uint64(0)
    for i in range(width):
        value |= np.uint64(line[x * width + i]) << np.uint64(8 * i)
    return value


@kernel
def _count_line(
    z: Integer,
    y: Integer,
    reference: Array,
    reference_width: Integer,
    prediction: Array,
    prediction_width: Integer,
    size_x: Integer,
    changes: Array,
    stops: Array,
    slots: Array,
    pairs: Array,
    voxels: Array,
    sums: Array,
    boxes: Array,
    used: Integer,
    rows: Array,
) -> Integer:
    """Count one line of voxels, with room for a new pair at every voxel, and leave the row of each run's pair.

    stops : room for one place more than the line has. rows : at the first voxel of a run, the row of its pair, −1 for
    the background. Returns the pairs used.
    """
    found = 0
    for at in range(size_x + 1):  # without branches: where the next run begins cannot be foreseen
        stops[found] = at
        found += changes[at]
    row: Integer = -1
    last_label: Integer = np.uint64(0)
    last_predicted: Integer = np.uint64(0)
    x: Integer = 0
    for i in range(found):
        stop = stops[i]
        label = _value(reference, reference_width, x)
        predicted = _value(prediction, prediction_width, x)
        if label == 0 and predicted == 0:
            rows[x] = -1
            x = stop
            continue
        if row < 0 or label != last_label or predicted != last_predicted:
            last_label = label
            last_predicted = predicted
            slot = _pair_slot(label, predicted, slots, pairs)
            row = slots[slot]
            if row < 0:
                row = used
                used += 1
                slots[slot] = row
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
            value = grey[x]
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
    reference: Array,
    prediction: Array,
    grey: Array,
    widths: tuple[int, int, int],
    first: tuple[int, int, int],
    z_start: int,
    z_stop: int,
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """Every pair of labels in a block but (0, 0), with what is needed of it; rows in no particular order."""
    first_z, first_y, first_x = first
    size_y = reference.shape[1] - first_y
    reference_width, prediction_width, grey_width = widths
    size_x = reference.shape[2] // reference_width - first_x

    capacity = 64
    while capacity < 2 * size_x:
        capacity *= 2
    slots = np.full(2 * capacity, -1, np.int64)
    pairs = np.zeros((capacity, 2), np.uint64)
    voxels = np.zeros(capacity, np.int64)
    sums = np.zeros((capacity, 3), np.int64)
    boxes = np.zeros((capacity, 6), np.int64)
    used: Integer = 0

    width = 1 << _NARROW_PAGE_BITS if grey_width <= 2 else 1
    pages = np.zeros((4 * capacity if grey_width else 0, 2), np.uint64)
    counts = np.zeros((len(pages), width), np.uint32)
    pages_used: Integer = 0

    rows = np.zeros(size_x, np.int64)
    line_values = np.zeros(size_x, np.uint64)
    changes = np.zeros(size_x + 1, np.uint8)
    stops = np.empty(size_x + 2, np.int64)

    for z in range(z_start, z_stop):
        for y in range(size_y):
            line = reference[z + first_z, y + first_y, first_x * reference_width :]
            other = prediction[z + first_z, y + first_y, first_x * prediction_width :] if prediction_width else line
            if used + size_x > capacity:
                capacity *= 2
                pairs = _grown(pairs, capacity)
                voxels = _grown(voxels, capacity)
                sums = _grown(sums, capacity)
                boxes = _grown(boxes, capacity)
                slots = np.full(2 * capacity, -1, np.int64)
                for row in range(used):
                    slots[_pair_slot(pairs[row, 0], pairs[row, 1], slots, pairs)] = row
            for x in range(size_x):
                changes[x] = 0
            changes[size_x] = 1  # the end of a line ends a run
            _flag_runs(line, reference_width, changes)
            _flag_runs(other, prediction_width, changes)
            used = _count_line(
                z,
                y,
                line,
                reference_width,
                other,
                prediction_width,
                size_x,
                changes,
                stops,
                slots,
                pairs,
                voxels,
                sums,
                boxes,
                used,
                rows,
            )
            if grey_width:
                if 2 * (pages_used + size_x) > len(pages):
                    old_pages, old_counts = pages, counts
                    pages = np.zeros((2 * len(old_pages), 2), np.uint64)
                    counts = np.zeros((len(pages), width), np.uint32)
                    for old in range(len(old_pages)):
                        if old_pages[old, 1] != 0:
                            at = _page_slot(old_pages[old, 0], old_pages[old, 1] - np.uint64(1), pages)
                            pages[at] = old_pages[old]
                            counts[at] = old_counts[old]
                _take_line(grey[z, y], grey_width, line_values)
                pages_used = _count_values(line_values, changes, rows, pages, counts, pages_used)
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
