"""Surface kernels for the CPU. Inner loops run over bytes along x without branches, so that they become vector code."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.accelerate import Integer, kernel
from pipeline.kernels.surface import UNREACHABLE

Mask = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.int16]
Counts = npt.NDArray[np.int64]


@kernel
def surface_voxels(padded: Mask) -> Mask:
    """The mask voxels with a background voxel among their six neighbours (1, else 0).

    padded : the mask with one voxel more on every side. Returns (z, y, x) without them.
    """
    size_z, size_y, size_x = padded.shape[0] - 2, padded.shape[1] - 2, padded.shape[2] - 2
    out = np.empty((size_z, size_y, size_x), np.uint8)
    for z in range(size_z):
        for y in range(size_y):
            here = padded[z + 1, y + 1]
            below, above = padded[z, y + 1], padded[z + 2, y + 1]
            front, back = padded[z + 1, y], padded[z + 1, y + 2]
            for x in range(size_x):
                inside = below[x + 1] & above[x + 1] & front[x + 1] & back[x + 1] & here[x] & here[x + 2]
                out[z, y, x] = here[x + 1] & (inside ^ 1)
    return out


@kernel
def corner_codes(padded: Mask, shape: tuple[int, int, int]) -> Mask:
    """The code of every corner of a block, from its low corner on.

    padded : the mask of the block with one voxel more on every side. shape : corners wanted (z, y, x); one more than
    the block has voxels where it also owns the closing plane of the volume.
    """
    size_z, size_y, size_x = shape
    out = np.empty((size_z, size_y, size_x), np.uint8)
    for z in range(size_z):
        for y in range(size_y):
            a, b, c, d = padded[z, y], padded[z, y + 1], padded[z + 1, y], padded[z + 1, y + 1]
            for x in range(size_x):
                high = (a[x] << 7) | (a[x + 1] << 6) | (b[x] << 5) | (b[x + 1] << 4)
                out[z, y, x] = high | (c[x] << 3) | (c[x + 1] << 2) | (d[x] << 1) | d[x + 1]
    return out


@kernel
def mixed_corners(codes: Mask) -> tuple[Mask, Mask]:
    """The corners that are elements (1, else 0), and their codes in C order."""
    elements = np.empty(codes.shape, np.uint8)
    flat, mixed = codes.reshape(-1), elements.reshape(-1)
    number = 0
    for i in range(len(flat)):
        mixed[i] = np.uint8(flat[i] + 1) > 1  # neither 0 nor 255
        number += mixed[i]
    listed = np.empty(number + 1, np.uint8)  # one is written too many
    found = 0
    for i in range(len(flat)):  # without branches: most corners are no elements
        listed[found] = flat[i]
        found += mixed[i]
    return elements, listed[:number]


@kernel
def _slot(key: Integer, keys: Counts) -> Integer:
    """Where a key lies in an open-addressing table of a power of two of slots (−1 = free), or its free slot."""
    mask = np.uint64(len(keys) - 1)
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    at = (mixed ^ (mixed >> np.uint64(29))) & mask
    while keys[at] >= 0 and keys[at] != key:
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@kernel
def _count_line(
    distances: npt.NDArray[Any],
    elements: Mask,
    codes: Mask,
    unreached: int,
    places: npt.NDArray[np.int64],
    keys: Counts,
    counts: Counts,
    used: Integer,
) -> tuple[Integer, Integer]:
    """Count the elements of one line, with room for a new key at every voxel. Returns them, and the keys used."""
    found = 0
    for x in range(len(elements)):  # without branches: most voxels are no elements
        places[found] = x
        found += elements[x]
    for i in range(found):
        squared = np.int64(distances[places[i]])
        key = (squared if squared < unreached else np.int64(UNREACHABLE)) << 8
        if codes.size > 0:
            key |= np.int64(codes[i])
        at = _slot(key, keys)
        if keys[at] < 0:
            keys[at] = key
            used += 1
        counts[at] += 1
    return found, used


@kernel
def count_distances(
    distances: npt.NDArray[Any], elements: Mask, codes: Mask, unreached: int
) -> tuple[Counts, Counts, Counts]:
    """Every pair of (squared distance, code) with its number of elements, in no particular order.

    distances : squared distances (z, y, x), less than UNREACHABLE, or `unreached`, which is counted as UNREACHABLE.
    elements : where to count (1). codes : those of the elements in C order, or empty for code 0. Returns squared
    distances, codes and elements, int64.
    """
    size_z, size_y, size_x = distances.shape
    slots = 1024
    while slots < 2 * size_x:
        slots *= 2
    keys = np.full(slots, -1, np.int64)
    counts = np.zeros(slots, np.int64)
    places = np.empty(size_x, np.int64)
    used: Integer = 0
    number: Integer = 0
    for z in range(size_z):
        for y in range(size_y):
            if 2 * (used + size_x) > len(keys):
                old_keys, old_counts = keys, counts
                keys = np.full(2 * len(old_keys), -1, np.int64)
                counts = np.zeros(2 * len(old_keys), np.int64)
                for old in range(len(old_keys)):
                    if old_keys[old] >= 0:
                        at = _slot(old_keys[old], keys)
                        keys[at] = old_keys[old]
                        counts[at] = old_counts[old]
            found, used = _count_line(
                distances[z, y], elements[z, y], codes[number:], unreached, places, keys, counts, used
            )
            number += found
    filled = np.flatnonzero(keys >= 0)
    return keys[filled] >> 8, keys[filled] & 255, counts[filled]


@kernel
def _deepen_line(line: npt.NDArray[np.int16], reach: int, squared: bool, depth: npt.NDArray[np.int16]) -> None:
    """Distance, or its square, to the nearest 0 of a line that elsewhere holds reach or reach², into depth.

    line : with `reach` voxels more at both ends.
    """
    size = len(depth)
    here = line[reach : reach + size]
    for x in range(size):
        depth[x] = here[x]
    for step in range(1, reach):
        value = np.int16(step * step if squared else step)
        low, high = line[reach - step : reach - step + size], line[reach + step : reach + step + size]
        for x in range(size):
            near = low[x] if low[x] < high[x] else high[x]
            near = near if near > value else value
            depth[x] = near if near < depth[x] else depth[x]


@kernel
def _deepen(depth: Depth, line: Depth, reach: int, squared: bool) -> None:
    """Least of line[j] + (i − j)², or of max(line[j], |i − j|), over |i − j| < reach for every row i, into depth.

    depth, line : (n, columns) with different memory and equal contents.
    """
    rows, columns = depth.shape
    for i in range(rows):
        for step in range(1, min(reach, rows)):
            # Beyond an end stands the last row, taken to be farther than it is: that lowers nothing too much.
            low, high = max(i - step, 0), min(i + step, rows - 1)
            value = np.int16(step * step if squared else step)
            if squared:
                for c in range(columns):
                    near = line[low, c] if line[low, c] < line[high, c] else line[high, c]
                    near = np.int16(near + value)
                    depth[i, c] = near if near < depth[i, c] else depth[i, c]
            else:
                for c in range(columns):
                    near = line[low, c] if line[low, c] < line[high, c] else line[high, c]
                    near = near if near > value else value
                    depth[i, c] = near if near < depth[i, c] else depth[i, c]


@kernel
def _depth(seeds: Mask, seed: int, reach: int, squared: bool) -> Depth:
    """Distance, or its square, to the nearest voxel of value seed; reach or reach² from there on."""
    size_z, size_y, size_x = seeds.shape
    out = np.empty(seeds.shape, np.int16)
    far = np.int16(reach * reach if squared else reach)
    line = np.full(size_x + 2 * reach, far, np.int16)
    for z in range(size_z):
        for y in range(size_y):
            for x in range(size_x):
                line[x + reach] = np.int16(0) if seeds[z, y, x] == seed else far
            _deepen_line(line, reach, squared, out[z, y])
        _deepen(out[z], out[z].copy(), reach, squared)
    for y in range(size_y):
        column = out[:, y].copy()
        deeper = column.copy()  # contiguous, so that the inner loop becomes vector code
        _deepen(deeper, column, reach, squared)
        out[:, y] = deeper
    return out


@kernel
def squared_depth(border: Mask, reach: int) -> Depth:
    """Squared Euclidean distance to the nearest border voxel (1), in voxels; reach² stands for reach² or more.

    reach : at most 128.
    """
    return _depth(border, 1, reach, True)


@kernel
def chebyshev_depth(mask: Mask, reach: int) -> Depth:
    """Chebyshev distance to the nearest background voxel (0): n-fold 26-erosion keeps what lies deeper than n.

    reach stands for reach or more.
    """
    return _depth(mask, 0, reach, False)


@kernel
def _within(mask: Mask, depth: Depth, limit: Integer, out: Mask) -> None:
    for x in range(len(out)):
        out[x] = mask[x] & np.uint8(depth[x] < limit)


@kernel
def count_layers(
    mask_a: Mask, depth_a: Depth, mask_b: Mask, depth_b: Depth, limits: npt.NDArray[np.int64]
) -> tuple[Counts, Counts]:
    """Per limit the voxels that lie in both layers and in either; a layer holds the mask voxels of depth < limit."""
    size_z, size_y, size_x = mask_a.shape
    both = np.zeros(len(limits), np.int64)
    either = np.zeros(len(limits), np.int64)
    a = np.empty(size_x, np.uint8)
    b = np.empty(size_x, np.uint8)
    for z in range(size_z):
        for y in range(size_y):
            for n in range(len(limits)):
                limit = np.int16(limits[n])
                _within(mask_a[z, y], depth_a[z, y], limit, a)
                _within(mask_b[z, y], depth_b[z, y], limit, b)
                shared, joined = np.int32(0), np.int32(0)
                for x in range(size_x):
                    shared = np.int32(shared + (a[x] & b[x]))
                    joined = np.int32(joined + (a[x] | b[x]))
                both[n] += shared
                either[n] += joined
    return both, either
