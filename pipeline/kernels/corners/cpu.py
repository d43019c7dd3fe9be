"""Corners kernel for the CPU: encode whole lines with vector instructions, then look at the corners that are mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.accelerate import Integer, kernel

Array = npt.NDArray[Any]

FOREGROUND = 0
"""The row that counts the corners of any label."""


@kernel
def _copy(line: Array, padded: Array) -> None:
    """A line between the zeros of a padded one; this loop is three times as fast as assigning a slice."""
    for x in range(len(line)):
        padded[x + 1] = line[x]


@kernel
def _widen(line: Array, largest: Array, smallest: Array) -> None:
    """Take a line into the largest label of each column, and into the smallest one but 0 (held minus one)."""
    for x in range(len(line)):
        largest[x] = max(largest[x], line[x])
    for x in range(len(line)):
        smallest[x] = min(smallest[x], line.dtype.type(line[x] - 1))


@kernel
def _mark(line: Array, bit: Integer, label: Array, others: Array) -> None:
    """Set `bit` of a corner where the voxel before it has not its label, and the next lower bit for the one after."""
    before = np.uint8(bit)
    after = np.uint8(bit >> 1)
    for k in range(len(line) - 1):
        others[k] |= (before if line[k] != label[k] else np.uint8(0)) | (
            after if line[k + 1] != label[k] else np.uint8(0)
        )


@kernel
def _encode(lines: Array, largest: Array, smallest: Array, label: Array, others: Array, several: Array) -> None:
    """The largest label around each corner of four lines, which voxels have another one, and whether that is a label.

    lines : (4, n + 2), the lines (low z, low y), (low, high), (high, low), (high, high), with a 0 at both ends.
    largest, smallest : room for a value a column. label, others, several : of corner k, that is between the columns
    k and k + 1 of `lines`; others has the bits of the code inverted, so that it is 0 where all voxels are equal.
    """
    corners = lines.shape[1] - 1
    largest[:] = 0
    smallest[:] = lines.dtype.type(0) - lines.dtype.type(1)
    for i in range(4):
        _widen(lines[i], largest, smallest)
    for k in range(corners):
        label[k] = max(largest[k], largest[k + 1])
    for k in range(corners):
        several[k] = min(smallest[k], smallest[k + 1]) != lines.dtype.type(label[k] - 1)
    others[:] = 0
    for i in range(4):
        _mark(lines[i], 128 >> (2 * i), label, others)


@kernel
def _slot(label: Integer, slots: Array, labels: Array) -> Integer:
    """Where a label lies in the open-addressing table `slots` (row of `labels`, or −1), or its free slot."""
    mask = np.uint64(len(slots) - 1)
    mixed = np.uint64(label) * np.uint64(0x9E3779B97F4A7C15)
    at = (mixed ^ (mixed >> np.uint64(29))) & mask
    while slots[at] >= 0 and labels[slots[at]] != label:
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@kernel
def _code(lines: Array, k: Integer, label: Integer) -> Integer:
    """The code of one corner for one label."""
    code = 0
    for i in range(4):
        code = 4 * code + 2 * (lines[i, k] == label) + (lines[i, k + 1] == label)
    return code


@kernel
def _next_label(lines: Array, k: Integer, label: Integer) -> Integer:
    """The largest label around a corner that is below another one; 0 where there is none."""
    found: Integer = lines.dtype.type(0)
    for i in range(4):
        for j in range(2):
            if found < lines[i, k + j] < label:
                found = lines[i, k + j]
    return found


@kernel
def _count_line(
    lines: Array,
    label: Array,
    others: Array,
    several: Array,
    start: Integer,
    stop: Integer,
    places: Array,
    slots: Array,
    labels: Array,
    counts: Array,
    used: Integer,
) -> tuple[Integer, Integer]:
    """Count the codes of the mixed corners start ≤ k < stop of four lines.

    places : room for one corner more than the line has. Returns the first corner that was not counted, because the
    table may be too small for its labels, and the labels used.
    """
    mixed = 0
    for k in range(start, stop):  # without branches, which no processor foresees at the border of a noisy mask
        places[mixed] = k
        mixed += others[k] != 0
    row: Integer = -1
    last = np.uint64(0)
    for i in range(mixed):
        k = places[i]
        if used + 8 > len(labels):
            return k, used
        one = label[k]
        code: Integer = np.int64(others[k]) ^ 255
        foreground: Integer = 0
        while one != 0:
            foreground |= code
            if one != last or row < 0:
                last = np.uint64(one)
                at = _slot(last, slots, labels)
                row = slots[at]
                if row < 0:
                    row = used
                    used += 1
                    slots[at] = row
                    labels[row] = one
            counts[row, code] += 1
            if several[k] == 0:
                break
            one = _next_label(lines, k, one)
            code = _code(lines, k, one)
        if foreground != 255:
            counts[FOREGROUND, foreground] += 1
    return stop, used


@kernel
def count_corner_codes(volume: Array, start: tuple[int, int, int], stop: tuple[int, int, int]) -> tuple[Array, Array]:
    """The codes of the corners start ≤ k < stop of a label volume, outside of which there is background.

    volume : unsigned, contiguous labels (z, y, x); 0 is background. start, stop : corners (z, y, x), from 0 to the
    voxels of the axis + 1. Returns the labels that have a mixed corner, uint64 (n,), and how many corners have which
    code, int64 (n, 256); first label 0, which stands for the foreground: any label at all. The codes 0 and 255 (no
    voxel or all eight) are not counted: they have no part in any surface. Takes 2 kB a label and a few lines.
    """
    size_z, size_y, size_x = volume.shape
    capacity = 64
    slots = np.full(2 * capacity, -1, np.int64)
    labels = np.zeros(capacity, np.uint64)
    counts = np.zeros((capacity, 256), np.int64)
    used: Integer = 1  # the foreground
    lines = np.zeros((4, size_x + 2), volume.dtype)
    largest = np.zeros(size_x + 2, volume.dtype)
    smallest = np.zeros(size_x + 2, volume.dtype)
    label = np.zeros(size_x + 1, volume.dtype)
    several = np.zeros(size_x + 1, np.uint8)
    others = np.zeros(size_x + 1, np.uint8)
    places = np.empty(size_x + 1, np.int64)
    for z in range(start[0], stop[0]):
        for y in range(start[1], stop[1]):
            for i in range(4):
                at_z = z - 1 + i // 2
                at_y = y - 1 + i % 2
                if 0 <= at_z < size_z and 0 <= at_y < size_y:
                    _copy(volume[at_z, at_y], lines[i])
                else:
                    lines[i] = 0
            _encode(lines, largest, smallest, label, others, several)
            k: Integer = start[2]
            while k < stop[2]:
                if used + 8 > capacity:
                    capacity *= 2
                    larger_labels = np.zeros(capacity, np.uint64)
                    larger_counts = np.zeros((capacity, 256), np.int64)
                    larger_labels[:used] = labels[:used]
                    larger_counts[:used] = counts[:used]
                    labels, counts = larger_labels, larger_counts
                    slots = np.full(2 * capacity, -1, np.int64)
                    for row in range(1, used):
                        slots[_slot(labels[row], slots, labels)] = row
                k, used = _count_line(lines, label, others, several, k, stop[2], places, slots, labels, counts, used)
    return labels[:used].copy(), counts[:used].copy()
