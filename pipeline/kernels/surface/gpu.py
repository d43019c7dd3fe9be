"""Surface kernels for a GPU: launches of surface.cu on the current stream. The contract is the package's."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np
import numpy.typing as npt

from pipeline.kernels import cuda, surface
from pipeline.kernels.backends import Voxels
from pipeline.kernels.surface import UNREACHABLE, Counts, Mask
from pipeline.kernels.tables import added_up, count_in_spans, lines_per_block

SOURCE = "surface/surface.cu"
THREADS = 256
FIRST_SLOTS = 1 << 16


def surface_voxels(padded: Voxels) -> Voxels:
    """A thread takes a voxel."""
    shape = tuple(n - 2 for n in padded.shape)
    out: Voxels = cupy.empty(shape, np.uint8)
    _launch("surface_voxels", out.size, (padded, *shape, out))
    return out


def corner_codes(padded: Voxels, shape: tuple[int, int, int]) -> Voxels:
    """A thread takes a corner."""
    out: Voxels = cupy.empty(shape, np.uint8)
    _launch("corner_codes", out.size, (padded, *padded.shape[1:], *map(int, shape), out))
    return out


def mixed_corners(codes: Voxels) -> tuple[Voxels, Mask]:
    """Count on every line, add up, list; a warp takes a line."""
    lines, size_x = math.prod(codes.shape[:2]), codes.shape[2]
    elements: Voxels = cupy.empty(codes.shape, np.uint8)
    counts = cupy.empty(lines, np.uint32)
    _launch("mixed_corners", 32 * lines, (codes, lines, size_x, elements, counts))
    ends = cupy.cumsum(counts, dtype=np.int64)
    listed = cupy.empty(int(ends[-1]), np.uint8)
    if listed.size:
        _launch("list_codes", 32 * lines, (codes, elements, lines, size_x, counts, ends, listed))
    return elements, cupy.asnumpy(listed)


def count_distances(distances: Voxels, elements: Voxels, codes: Mask, unreached: int) -> tuple[Counts, Counts, Counts]:
    """A warp takes a line and adds to a small table of its block of threads, and that to one of all."""
    lines, size_x = math.prod(distances.shape[:2]), distances.shape[2]
    numbers, ends = cupy.empty(lines, np.uint32), None
    ours = cupy.asarray(codes)
    if codes.size:
        _launch("count_elements", 32 * lines, (elements, lines, size_x, numbers))
        ends = cupy.cumsum(numbers, dtype=np.int64)
    arguments = (
        distances, elements, size_x, codes.size > 0, ours, numbers, cupy.empty(0, np.int64) if ends is None else ends,
        int(unreached), UNREACHABLE,
    )  # fmt: skip

    def count(begin: int, end: int, slots: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]] | None:
        return _counted(distances.dtype, arguments, (begin, end), slots)

    parts = count_in_spans(count, 0, lines, FIRST_SLOTS, surface.MOST_SLOTS)
    keys, counts = parts[0]
    if len(parts) > 1:
        keys, counts = added_up(*(np.concatenate([part[column] for part in parts]) for column in (0, 1)))
    signed = keys.astype(np.int64) - 1
    return signed >> 8, signed & 255, counts.astype(np.int64)


def _counted(
    dtype: npt.DTypeLike, arguments: tuple[Any, ...], span: tuple[int, int], slots: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]] | None:
    """The lines of a span; None where the table is overfull."""
    lines = lines_per_block(arguments[2])
    entries, used = cupy.zeros(slots, np.uint64), cupy.zeros(1, np.uint64)
    counts = cupy.zeros(slots, np.uint32)
    cuda.function(SOURCE, "count_distances", dtype)(
        (cuda.blocks_for(span[1] - span[0], lines),), (THREADS,),
        (*arguments, *span, lines, entries, slots, used, counts),
    )  # fmt: skip
    if 2 * int(used[0]) > slots:
        return None
    keys = cupy.asnumpy(entries)
    filled = np.flatnonzero(keys)
    return keys[filled], cupy.asnumpy(counts)[filled]


def _launch(name: str, threads: int, arguments: tuple[Any, ...]) -> None:
    cuda.function(SOURCE, name, np.int32)((cuda.blocks_for(threads, THREADS),), (THREADS,), arguments)
