"""Tally kernel for a GPU: launches of tally.cu on the current stream. The contract is the package's."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import numpy.typing as npt

from pipeline.kernels import cuda
from pipeline.kernels.backends import Voxels
from pipeline.kernels.tables import lines_per_block
from pipeline.kernels.tally import Counts

SOURCE = "tally/tally.cu"
THREADS = 256
FIRST_SLOTS = 1 << 16
STRETCH = 1024
"""Voxels that a warp counts before it takes others."""


def count_pairs(radii: Voxels, region: npt.NDArray[Any]) -> Counts:
    """Count into a table, and into larger ones until the pairs fill no more than half of it."""
    width = 0 if region.size == 1 else region.dtype.itemsize
    # Without labels the kernel never looks at the array in their place.
    labels = cupy.asarray(np.ascontiguousarray(region).view(f"u{width}")) if width else radii
    stretches = lines_per_block(STRETCH)
    blocks = cuda.blocks_for(radii.size, stretches * STRETCH)
    count = cuda.function(SOURCE, "count_pairs", radii.dtype)
    slots = FIRST_SLOTS
    while True:
        owners, counts = cupy.zeros(slots, np.uint64), cupy.zeros(slots, np.uint64)
        used = cupy.zeros(1, np.uint64)
        spans = (radii.size, STRETCH, stretches)
        count((blocks,), (THREADS,), (radii, labels, width, *spans, owners, counts, slots, used))
        pairs = int(used[0])
        if 2 * pairs <= slots:
            break
        del owners, counts
        slots *= 2
    collected = cupy.zeros(1, np.uint64)
    rows = [cupy.empty(pairs, np.int64) for _ in range(3)]
    collect = cuda.function(SOURCE, "count_pairs_collect", radii.dtype)
    collect((cuda.blocks_for(slots, THREADS),), (THREADS,), (radii, owners, counts, slots, collected, *rows))
    first_voxels, squared_radii, voxels = (cupy.asnumpy(row) for row in rows)
    label = region.reshape(-1)[first_voxels if width else np.zeros(pairs, np.int64)]
    return label.astype(np.int64), squared_radii, voxels
