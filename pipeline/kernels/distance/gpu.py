"""Distance kernels for a GPU: launches of distance.cu on the current stream. The contract is the package's."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np
import numpy.typing as npt

from pipeline.kernels import cuda
from pipeline.kernels.backends import Voxels
from pipeline.kernels.distance import Parabolas, unreached

SOURCE = "distance/distance.cu"
THREADS = 256
TILE_THREADS = 512
"""Threads that share what they read of a few neighbouring columns."""
MOST_BLOCKS_Y_Z = 2**16 - 1


def unpack_bits(packed: Voxels, size_x: int) -> Voxels:
    """Foreground from bits."""
    size_z, size_y, _ = packed.shape
    mask: Voxels = cupy.empty((size_z, size_y, size_x), np.uint8)
    _over_lines("unpack_bits", np.int32, size_z * size_y, (packed, size_z * size_y, size_x, mask))
    return mask


def pack_bits(mask: Voxels) -> Voxels:
    """A thread takes eight voxels."""
    size_z, size_y, size_x = mask.shape
    packed: Voxels = cupy.empty((size_z, size_y, -(-size_x // 8)), np.uint8)
    if packed.size:
        kernel = cuda.function(SOURCE, "pack_bits", np.int32)
        kernel((cuda.blocks_for(packed.size, THREADS),), (THREADS,), (mask, size_z * size_y, size_x, packed))
    return packed


def unswept(mask: Voxels, dtype: npt.DTypeLike) -> Voxels:
    """0 on the background, unreached on the foreground."""
    distances: Voxels = cupy.empty(mask.shape, dtype)
    if mask.size:
        kernel = cuda.function(SOURCE, "unswept", dtype)
        kernel((cuda.blocks_for(mask.size, THREADS),), (THREADS,), (mask, mask.size, unreached(dtype), distances))
    return distances


def distance_along_lines(mask: Voxels, weight: int, infinity: int, out: Voxels) -> None:
    """A warp takes a line."""
    size_z, size_y, size_x = mask.shape
    lines = size_z * size_y
    _over_lines("distance_along_lines", out.dtype, lines, (mask, lines, size_x, int(weight), int(infinity), out))


def _over_lines(name: str, dtype: npt.DTypeLike, lines: int, arguments: tuple[Any, ...]) -> None:
    cuda.function(SOURCE, name, dtype)((cuda.blocks_for(32 * lines, THREADS),), (THREADS,), arguments)


def envelope_along_columns(distances: Voxels, weight: int, infinity: int) -> None:
    """A thread takes a voxel and looks at a copy, so that nobody waits for anybody."""
    farthest = math.isqrt(int(infinity) // int(weight))
    arguments = (distances.copy(), *distances.shape, int(weight), farthest, distances)
    _over_voxels("envelope_along_columns", distances, arguments)


def relax_wall(distances: Voxels, weight: int, gap: int, from_high_side: bool) -> None:
    """A thread takes a voxel."""
    _over_voxels("relax_wall", distances, (distances, *distances.shape, int(weight), int(gap), bool(from_high_side)))


def _over_voxels(name: str, distances: Voxels, arguments: tuple[Any, ...]) -> None:
    """Launch over (outer, n, inner); the threads of a warp are neighbours in memory, however short inner is."""
    outer, n, inner = distances.shape
    threads_x = min(32, 1 << (inner - 1).bit_length())
    threads_y = TILE_THREADS // threads_x
    grid = (
        cuda.blocks_for(inner, threads_x),
        min(cuda.blocks_for(n, threads_y), MOST_BLOCKS_Y_Z),
        min(outer, MOST_BLOCKS_Y_Z),
    )
    cuda.function(SOURCE, name, distances.dtype)(grid, (threads_x, threads_y), arguments)


def export_parabolas(distances: Voxels, weight: int, infinity: int, reach: int, from_high_face: bool) -> Parabolas:
    """Count, add up, fill; a thread takes a column."""
    outer, n, inner = distances.shape
    columns = outer * inner
    if reach <= 0:
        return np.zeros(columns, np.uint32), np.empty(0, np.uint16), np.empty(0, distances.dtype)
    arguments = (distances, columns, n, inner, int(weight), int(infinity), int(reach), bool(from_high_face))
    counts = cupy.empty(columns, np.uint32)
    _over_columns("export_parabolas_count", distances, (*arguments, counts))
    ends = cupy.cumsum(counts, dtype=np.int64)
    total = int(ends[-1])
    depth = cupy.empty(total, np.uint16)
    height = cupy.empty(total, distances.dtype)
    if total:
        _over_columns("export_parabolas_fill", distances, (*arguments, counts, ends, depth, height))
    return cupy.asnumpy(counts), cupy.asnumpy(depth), cupy.asnumpy(height)


def relax_parabolas(
    distances: Voxels, weight: int, gap: int, from_high_side: bool,
    counts: npt.NDArray[np.uint32], depth: npt.NDArray[np.uint16], height: npt.NDArray[Any],
) -> None:  # fmt: skip
    """A thread takes a column."""
    if not len(depth):
        return
    outer, n, inner = distances.shape
    ours = cupy.asarray(counts)
    ends = cupy.cumsum(ours, dtype=np.int64)
    arguments = (distances, outer * inner, n, inner, int(weight), int(gap), bool(from_high_side))
    _over_columns("relax_parabolas", distances, (*arguments, ours, ends, cupy.asarray(depth), cupy.asarray(height)))


def _over_columns(name: str, distances: Voxels, arguments: tuple[Any, ...]) -> None:
    outer, _, inner = distances.shape
    grid = (cuda.blocks_for(outer * inner, THREADS),)
    cuda.function(SOURCE, name, distances.dtype)(grid, (THREADS,), arguments)
