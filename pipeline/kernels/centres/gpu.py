"""Centre kernels for a GPU: launches of centres.cu on the current stream. The contract is the package's."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import numpy.typing as npt

from pipeline.kernels import cuda
from pipeline.kernels.backends import Voxels
from pipeline.kernels.centres import BRICKS_PER_CELL, CELL, Packed, Survey

SOURCE = "centres/centres.cu"
THREADS = 256
SURVEY_THREADS = 256
BRICK_THREADS = 128


def prune(
    distances: Voxels, table: npt.NDArray[np.int64], weight_z: int, weight_y: int, weight_x: int, keep: Voxels
) -> int:
    """A thread takes a voxel."""
    kept = cupy.zeros(1, np.uint64)
    limit = table.shape[1] - 1
    cuda.function(SOURCE, "prune", distances.dtype)(
        (cuda.blocks_for(distances.size, THREADS),), (THREADS,),
        (distances, *distances.shape, cupy.asarray(table), limit, int(weight_z), int(weight_y), int(weight_x), keep,
         kept),
    )  # fmt: skip
    return int(kept[0])


def survey_cells(distances: Voxels, keep: Voxels) -> Survey:
    """A block of threads takes a cell."""
    cells_z, cells_y, cells_x = (-(-n // CELL) for n in distances.shape)
    cells = cells_z * cells_y * cells_x
    number, largest = cupy.empty(cells, np.int64), cupy.empty(cells, np.int64)
    cuda.function(SOURCE, "survey_cells", distances.dtype)(
        (cells,), (SURVEY_THREADS,), (distances, keep, *distances.shape, cells_y, cells_x, number, largest)
    )
    return cupy.asnumpy(number), cupy.asnumpy(largest)


def pack_cells(distances: Voxels, keep: Voxels, starts: npt.NDArray[np.int64], total: int) -> Packed:
    """Count, add up, fill; a warp, then a block of threads takes a brick."""
    bricks = len(starts) * BRICKS_PER_CELL
    counts = cupy.empty((len(starts), BRICKS_PER_CELL), np.uint16)
    centre_d, position = cupy.empty(total, distances.dtype), cupy.empty(total, np.uint16)
    if total:
        ours = cupy.asarray(np.ascontiguousarray(starts, np.int64))
        cuda.function(SOURCE, "pack_cells_count", distances.dtype)(
            (cuda.blocks_for(32 * bricks, THREADS),), (THREADS,), (keep, *keep.shape, ours, len(starts), counts)
        )
        ends: Any = cupy.cumsum(counts.reshape(-1), dtype=np.int64)
        cuda.function(SOURCE, "pack_cells_fill", distances.dtype)(
            (cuda.blocks_for(bricks, 1),), (BRICK_THREADS,),
            (distances, keep, *keep.shape, ours, bricks, counts, ends, centre_d, position),
        )  # fmt: skip
    else:
        counts[...] = 0
    return cupy.asnumpy(counts), cupy.asnumpy(centre_d), cupy.asnumpy(position)
