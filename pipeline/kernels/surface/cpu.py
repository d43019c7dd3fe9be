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


def mixed_corners(codes: Mask) -> tuple[Mask, Mask]:
    """Where corners are mixed, and their codes."""
    mixed = (codes != 0) & (codes != 255)
    return mixed.view(np.uint8), codes[mixed]


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
def count_distances(
    distances: npt.NDArray[Any], elements: Mask, codes: Mask, unreached: int
) -> tuple[Counts, Counts, Counts]:
    """Every pair of (squared distance, code) with its number of elements, in no particular order.

    distances : squared distances (z, y, x), less than UNREACHABLE, or `unreached`, which is counted as UNREACHABLE.
    elements : where to count (1). codes : those of the elements in C order, or empty for code 0. Returns squared
    distances, codes and elements, int64.
    """
    size_z, size_y, size_x = distances.shape
    table_keys = np.full(1024, -1, np.int64)
    table_counts = np.zeros(1024, np.int64)
    used = 0
    number = 0
    for z in range(size_z):
        for y in range(size_y):
            for x in range(size_x):
                if elements[z, y, x] == 0:
                    continue
                squared = np.int64(distances[z, y, x])
                key = (squared if squared < unreached else np.int64(UNREACHABLE)) << 8
                if codes.size > 0:
                    key |= np.int64(codes[number])
                number += 1
                at = _slot(key, table_keys)
                if table_keys[at] < 0:
                    table_keys[at] = key
                    used += 1
                table_counts[at] += 1
                if 2 * used > len(table_keys):
                    bigger_keys = np.full(2 * len(table_keys), -1, np.int64)
                    bigger_counts = np.zeros(2 * len(table_keys), np.int64)
                    for i in range(len(table_keys)):
                        if table_keys[i] >= 0:
                            at = _slot(table_keys[i], bigger_keys)
                            bigger_keys[at] = table_keys[i]
                            bigger_counts[at] = table_counts[i]
                    table_keys, table_counts = bigger_keys, bigger_counts
    filled = np.flatnonzero(table_keys >= 0)
    return table_keys[filled] >> 8, table_keys[filled] & 255, table_counts[filled]


@kernel
def _depth_along_lines(seeds: Mask, seed: int, reach: int, squared: bool) -> Depth:
    """Distance, or its square, to the nearest voxel of value seed on the same x-line; reach or reach² from there on."""
    size_z, size_y, size_x = seeds.shape
    out = np.empty(seeds.shape, np.int16)
    for z in range(size_z):
        for y in range(size_y):
            steps: Integer = reach
            for x in range(size_x):
                steps = 0 if seeds[z, y, x] == seed else min(steps + 1, reach)
                out[z, y, x] = steps
            steps = reach
            for k in range(size_x):
                x = size_x - 1 - k
                ahead = np.int64(out[z, y, x])
                steps = ahead if ahead < steps + 1 else steps + 1
                out[z, y, x] = steps * steps if squared else steps
    return out


@kernel
def _deepen(depth: Depth, line: Depth, reach: int, squared: bool) -> None:
    """Least of line[j] + (i − j)², or of max(line[j], |i − j|), over |i − j| < reach for every row i, into depth.

    depth, line : (n, columns) with different memory and equal contents.
    """
    rows, columns = depth.shape
    for step in range(1, min(reach, rows)):
        rise = np.int16(step * step)
        floor = np.int16(step)
        for i in range(rows):
            for side in range(2):
                j = i - step if side == 0 else i + step
                if j < 0 or j >= rows:
                    continue
                if squared:
                    for c in range(columns):
                        value = np.int16(line[j, c] + rise)
                        depth[i, c] = value if value < depth[i, c] else depth[i, c]
                else:
                    for c in range(columns):
                        value = line[j, c] if line[j, c] > floor else floor
                        depth[i, c] = value if value < depth[i, c] else depth[i, c]


@kernel
def _depth(seeds: Mask, seed: int, reach: int, squared: bool) -> Depth:
    out = _depth_along_lines(seeds, seed, reach, squared)
    size_z, size_y, _ = out.shape
    for z in range(size_z):
        _deepen(out[z], out[z].copy(), reach, squared)
    for y in range(size_y):
        line = out[:, y].copy()
        deeper = line.copy()  # contiguous, so that the inner loop becomes vector code
        _deepen(deeper, line, reach, squared)
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
def count_layers(
    mask_a: Mask, depth_a: Depth, mask_b: Mask, depth_b: Depth, limits: npt.NDArray[np.int64]
) -> tuple[Counts, Counts]:
    """Per limit the voxels that lie in both layers and in either; a layer holds the mask voxels of depth < limit."""
    size_z, size_y, size_x = mask_a.shape
    both = np.zeros(len(limits), np.int64)
    either = np.zeros(len(limits), np.int64)
    for n in range(len(limits)):
        limit = limits[n]
        for z in range(size_z):
            for y in range(size_y):
                shared, joined = np.int64(0), np.int64(0)
                for x in range(size_x):
                    a = mask_a[z, y, x] & np.uint8(depth_a[z, y, x] < limit)
                    b = mask_b[z, y, x] & np.uint8(depth_b[z, y, x] < limit)
                    shared += a & b
                    joined += a | b
                both[n] += shared
                either[n] += joined
    return both, either
