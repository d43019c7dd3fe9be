"""Distance kernels for the CPU. The algorithm stands in the package's docstring."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.accelerate import Integer, kernel
from pipeline.kernels.distance import unreached

Distances = npt.NDArray[Any]
"""int32 or int64 squared distances."""

# Columns are copied to a tile of this many neighbours: memory is read in whole cache lines, and loops are long enough
# for vector code to pay. A tile of 256 voxels along its columns still fits the cache of a core.
TILE_COLUMNS = 128
# Where every parabola that matters stands within so many voxels, looking at all of them beats building the envelope.
NEAR = 64
# Steps between two looks at whether any farther parabola can matter, after the first.
STEPS_PER_LOOK = 2
# After a tile whose parabolas matter farther, its neighbours are not tried: they rarely differ.
UNTRIED_TILES = 2


def unpack_bits(packed: npt.NDArray[np.uint8], size_x: int) -> npt.NDArray[np.uint8]:
    """Foreground from bits."""
    return np.unpackbits(packed, axis=2, count=size_x)


def pack_bits(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Foreground as bits."""
    return np.packbits(mask, axis=2)


def unswept(mask: npt.NDArray[np.uint8], dtype: npt.DTypeLike) -> Distances:
    """0 on the background, unreached on the foreground."""
    return np.multiply(mask, unreached(dtype), dtype=dtype)


@kernel
def distance_along_lines(mask: npt.NDArray[np.uint8], weight: int, infinity: int, out: Distances) -> None:
    """Squared distance to the nearest background voxel of the same x-line of the block, into out (z, y, x)."""
    size_z, size_y, size_x = mask.shape
    narrow = out.dtype.type
    before = np.empty(size_x, np.int32)
    after = np.empty(size_x, np.int32)
    for z in range(size_z):
        for y in range(size_y):
            foreground, line = mask[z, y], out[z, y]
            # From both ends at once, without branches; a line without background counts on from its length.
            low, high = np.int32(size_x), np.int32(size_x)
            for x in range(size_x):
                low = np.int32(low + 1) if foreground[x] != 0 else np.int32(0)
                before[x] = low
                k = size_x - 1 - x
                high = np.int32(high + 1) if foreground[k] != 0 else np.int32(0)
                after[k] = high
            if low == 2 * size_x:
                for x in range(size_x):
                    line[x] = infinity
            else:
                for x in range(size_x):
                    steps = narrow(before[x] if before[x] < after[x] else after[x])
                    line[x] = narrow(weight * steps * steps)


@kernel
def _envelope_of_column(
    heights: npt.NDArray[np.int64],
    out: npt.NDArray[np.int64],
    n: int,
    weight: int,
    infinity: int,
    apex: npt.NDArray[np.int64],
    start: npt.NDArray[np.int64],
) -> None:
    """Lower envelope of the parabolas heights[i] + weight·(p − i)² at p = 0 … n−1.

    A background voxel (height 0) is a wall: runs between two of them are independent, which keeps the stack short.
    """
    begin = 0
    while begin < n:
        if heights[begin] == 0:
            out[begin] = 0
            begin += 1
            continue
        end = begin
        while end < n and heights[end] != 0:
            end += 1
        first = begin - 1 if begin > 0 else begin
        last = end if end < n else end - 1
        top = -1
        for j in range(first, last + 1):
            height = heights[j]
            if height >= infinity:
                continue
            # The newcomer hides every parabola that it undercuts where that one's reign begins.
            while top >= 0:
                i = apex[top]
                s = start[top]
                if height + weight * (s - j) * (s - j) <= heights[i] + weight * (s - i) * (s - i):
                    top -= 1
                else:
                    break
            if top < 0:
                top = 0
                apex[0] = j
                start[0] = begin
            else:
                i = apex[top]
                rise = height - heights[i] + weight * (j * j - i * i)
                s = -((-rise) // (2 * weight * (j - i)))
                if s < end:
                    top += 1
                    apex[top] = j
                    start[top] = s
        if top < 0:
            for p in range(begin, end):
                out[p] = infinity
        for k in range(top + 1):
            i = apex[k]
            height = heights[i]
            stop = start[k + 1] if k < top else end
            for p in range(start[k], stop):
                out[p] = height + weight * (p - i) * (p - i)
        begin = end


@kernel
def _lower_by_near_parabolas(lines: Distances, lowered: Distances, weight: int, columns: int) -> bool:
    """Lower envelope of a tile of columns by looking at all near parabolas; False where that is not enough.

    lines : (n + 2, TILE_COLUMNS), its first and last row unreached. lowered : (n, TILE_COLUMNS), the result. Written so
    that the loops over columns become vector code of the dtype's width.
    """
    n = len(lowered)
    narrow = lines.dtype.type
    look = 1  # the step after which to look first: what the row before needed, for rows differ little
    for p in range(n):
        for c in range(columns):
            lowered[p, c] = lines[p + 1, c]
        farthest = max(p, n - 1 - p)
        step = 1
        while True:
            look = min(look, farthest)
            while step <= look:
                rise = narrow(weight * step * step)
                low, high = max(p - step, -1) + 1, min(p + step, n) + 1
                for c in range(columns):
                    height = lines[low, c] if lines[low, c] < lines[high, c] else lines[high, c]
                    # The rise is taken off first and added last: unreached + rise would overflow.
                    room = narrow(lowered[p, c] - rise)
                    height = height if height < room else room
                    lowered[p, c] = narrow(height + rise)
                step += 1
            largest = narrow(0)
            for c in range(columns):
                largest = lowered[p, c] if lowered[p, c] > largest else largest
            if step > farthest or weight * step * step >= largest:
                break
            if step > NEAR:
                return False
            look = step - 1 + STEPS_PER_LOOK
        look = max(1, step - STEPS_PER_LOOK)
    return True


@kernel
def envelope_along_columns(distances: Distances, weight: int, infinity: int) -> None:
    """Replace every column of distances (outer, n, inner) by its lower envelope, in place."""
    outer, n, inner = distances.shape
    lines = np.empty((n + 2, TILE_COLUMNS), distances.dtype)
    lines[0] = infinity
    lines[n + 1] = infinity
    near = np.empty((n, TILE_COLUMNS), distances.dtype)
    heights = np.empty((TILE_COLUMNS, n), np.int64)
    lowered = np.empty((TILE_COLUMNS, n), np.int64)
    apex = np.empty(n + 1, np.int64)
    start = np.empty(n + 1, np.int64)
    untried = 0
    for o in range(outer):
        for first in range(0, inner, TILE_COLUMNS):
            columns = min(TILE_COLUMNS, inner - first)
            if untried == 0:
                for j in range(n):
                    for c in range(columns):
                        lines[j + 1, c] = distances[o, j, first + c]
                if _lower_by_near_parabolas(lines, near, weight, columns):
                    for j in range(n):
                        for c in range(columns):
                            distances[o, j, first + c] = near[j, c]
                    continue
                untried = UNTRIED_TILES
            else:
                untried -= 1
            for j in range(n):
                for c in range(columns):
                    heights[c, j] = distances[o, j, first + c]
            for c in range(columns):
                _envelope_of_column(heights[c], lowered[c], n, weight, infinity, apex, start)
            for j in range(n):
                for c in range(columns):
                    distances[o, j, first + c] = lowered[c, j]


def export_parabolas(
    distances: Distances, weight: int, infinity: int, reach: int, from_high_face: bool
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16], Distances]:
    """Counts per column, then depth and height of all columns one after the other."""
    outer, _, inner = distances.shape
    counts = np.zeros(outer * inner, np.uint32)
    total = 0
    if reach > 0:
        none = np.empty(0, np.uint16), np.empty(0, distances.dtype)
        total = _walk_to_the_face(distances, weight, infinity, reach, from_high_face, False, counts, *none)
    depth = np.empty(total, np.uint16)
    height = np.empty(total, distances.dtype)
    if total:
        _walk_to_the_face(distances, weight, infinity, reach, from_high_face, True, counts, depth, height)
    return counts, depth, height


@kernel
def _walk_to_the_face(
    distances: Distances, weight: int, infinity: int, reach: int, from_high_face: bool, fill: bool,
    counts: npt.NDArray[np.uint32], depth: npt.NDArray[np.uint16], height: Distances,
) -> int:  # fmt: skip
    """Called twice: fill=False counts into counts (outer·inner), fill=True writes depth and height.

    Returns the number of parabolas.
    """
    outer, n, inner = distances.shape
    apex = np.empty(n + 1, np.int64)
    start = np.empty(n + 1, np.int64)
    total = 0
    for o in range(outer):
        for c in range(inner):
            top = -1
            least = np.int64(np.iinfo(np.int64).max)  # of all parabolas so far, at the voxel beyond the face
            # Positions count into the block: the face voxel is 0, the voxels beyond are −1 … −reach.
            for j in range(n):
                rise = weight * (j + 1) * (j + 1)
                if rise >= least:
                    break  # nothing that stands so deep can be the lowest anywhere beyond the face
                value = np.int64(distances[o, n - 1 - j if from_high_face else j, c])
                if value >= infinity or value + rise >= least:
                    continue
                least = value + rise
                while top >= 0:
                    i = apex[top]
                    s = start[top]
                    other = np.int64(distances[o, n - 1 - i if from_high_face else i, c])
                    if value + weight * (s - j) * (s - j) <= other + weight * (s - i) * (s - i):
                        top -= 1
                    else:
                        break
                if top < 0:
                    top = 0
                    apex[0] = j
                    start[0] = -reach
                else:
                    i = apex[top]
                    other = np.int64(distances[o, n - 1 - i if from_high_face else i, c])
                    top += 1
                    apex[top] = j
                    start[top] = -((other - value + weight * (i * i - j * j)) // (2 * weight * (j - i)))
            column = o * inner + c
            if fill:
                for k in range(top + 1):
                    i = apex[top - k]
                    depth[total + k] = i
                    height[total + k] = distances[o, n - 1 - i if from_high_face else i, c]
            else:
                counts[column] = top + 1
            total += top + 1
    return total


@kernel
def relax_parabolas(
    distances: Distances, weight: int, gap: int, from_high_side: bool,
    counts: npt.NDArray[np.uint32], depth: npt.NDArray[np.uint16], height: Distances,
) -> None:  # fmt: skip
    """Lower every column of distances (outer, n, inner) by the parabolas that another block exported to it, in place.

    gap : distance in voxels between this block's face voxel and the exporting block's face voxel.
    The difference of two parabolas of one width is linear, so once the column is lower than all of them it stays so.
    """
    outer, n, inner = distances.shape
    first: Integer = 0
    for o in range(outer):
        for c in range(inner):
            last = first + np.int64(counts[o * inner + c]) - 1
            k = first
            if last >= first:
                for e in range(n):
                    row = n - 1 - e if from_high_side else e
                    d = e + gap + np.int64(depth[k])
                    value = height[k] + weight * d * d
                    while k < last:
                        d = e + gap + np.int64(depth[k + 1])
                        other = height[k + 1] + weight * d * d
                        if other > value:
                            break
                        value = other
                        k += 1
                    if value >= distances[o, row, c]:
                        break
                    distances[o, row, c] = value
            first = last + 1


@kernel
def relax_wall(distances: Distances, weight: int, gap: int, from_high_side: bool) -> None:
    """Lower every column of distances (outer, n, inner) by a wall of background gap voxels before its face voxel."""
    outer, n, inner = distances.shape
    for e in range(n):
        row = n - 1 - e if from_high_side else e
        value = weight * (e + gap) * (e + gap)
        for o in range(outer):
            for c in range(inner):
                if value < distances[o, row, c]:
                    distances[o, row, c] = value
