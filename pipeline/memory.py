"""Memory of a task: a sum over the block's voxels that does not contain the radius.

With S bytes per squared distance (4, or 8 for very large weights), V voxels in the block and C voxels in its largest
face, the most that a task holds at once is, beside FIXED_BYTES:

    mask          reading (a few pieces and chunks of the source) + V, then V·(1 + S) + faces
    distance-y/z  V·(1 + S) distances and mask + V·(S + 2) parabolas (at most one a voxel) + faces
    centres       the same while parabolas are imported, then V·(2 + S) + one cell of centres
    thickness     V·(1 + S) + V·(S + 2) centres of one batch, then the map while it is encoded
    pyramid       one block of the coarser level and 2 × 2 × 2 chunks of the finer one
    faces         C·2·(2·4 + S + 2): counts on two sides, and up to one parabola a column more
    in all stages what reading the source keeps in use (decoded planes of a stack, the index of a compressed file)

so 11 V while distances are swept and about 12 V while a float32 map is written, when S = 4.

On a card, beside CARD_FIXED_BYTES, for each of the blocks that are there at the same time (device.SLOTS):

    mask … z      V/8 bits + V·(1 + S) mask and distances + V·(S + 2) parabolas that come or go, or their copy while
                  columns are lowered, whichever is more + C·COLUMN_BYTES of counts and where each column begins
    centres       the same, then V·(1 + S) + V·(S + 2) packed centres
    thickness     V·(1 + S) + V·(S + 2) centres of one batch and their pyramid, or the labels of the regions

and the host beside it takes less than the sum above, which is used for both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.geometry import Index
from pipeline.job import ThicknessJob
from pipeline.kernels.centres import CELL
from pipeline.thickness import batch_bytes
from pipeline.volume.writing import reduce_block_bytes, write_block_bytes

FIXED_BYTES = 32 << 20
"""Pieces in the hands of codecs, containment tables, Python objects."""
CARD_FIXED_BYTES = 96 << 20
"""Containment tables, the table of the tally, what CuPy's pool rounds up."""
COLUMN_BYTES = 2 * (4 + 8)
"""Of a column on a card: how many parabolas it has, and where they begin."""
POOL_SHARE = 0.85
"""Share of a card's free memory that blocks may take; CuPy's pool cannot use every gap for the next array."""
WORKER_BYTES = 450 << 20
"""An idle worker process: Python, numba, Zarr, Dask and compiled kernels."""


def task_bytes(job: ThicknessJob) -> Mapping[str, int]:
    """Most memory a task of each stage takes, in bytes, beside an idle worker."""
    shape = tuple(min(b, n) for b, n in zip(job.grid.block_shape, job.grid.shape, strict=True))
    block: Index = (shape[0], shape[1], shape[2])
    voxels = math.prod(block)
    face = voxels // min(block)
    size = job.dtype.itemsize
    faces = face * 2 * (2 * 4 + size + 2)
    swept = voxels * (1 + size)
    cell = min(voxels, CELL**3) * 2 * (size + 2)
    gathered = swept + batch_bytes(voxels, job.dtype) + cell
    written = voxels * size + (write_block_bytes(job.grid.block_shape, job.map.dtype) if job.map else 0)
    if job.map and np.dtype(job.map.dtype).itemsize != size:  # int32 turns into float32 in place, int64 does not
        written += voxels * np.dtype(job.map.dtype).itemsize
    tallied = swept + (job.regions.read_bytes(block) if job.regions else 0)
    stages = {
        "mask": max(job.foreground.read_bytes(job.mask, block), swept) + faces,
        "distance-y": swept + voxels * (size + 2) + faces,
        "distance-z": swept + voxels * (size + 2) + faces,
        "centres": swept + max(voxels * (size + 2) + faces, voxels + cell),
        "thickness": max(gathered, tallied, written),
    }
    if job.map and len(job.map.level_shapes) > job.map.own_levels:
        stages["pyramid"] = reduce_block_bytes(job.map.block_shape, job.map.dtype)
    kept = sum(volume.kept_bytes for volume in job.volumes.values())
    return {name: value + kept + FIXED_BYTES for name, value in stages.items()}


def card_bytes(job: ThicknessJob) -> Mapping[str, int]:
    """Most memory of a card that a task of each stage takes, in bytes."""
    z, y, x = (min(b, n) for b, n in zip(job.grid.block_shape, job.grid.shape, strict=True))
    swept = swept_card_bytes((z, y, x), job.dtype)
    gathered = gathered_card_bytes((z, y, x), job.dtype, job.regions.dtype if job.regions else None)
    stages = {"mask": swept, "distance-y": swept, "distance-z": swept, "centres": swept, "thickness": gathered}
    return {name: value + CARD_FIXED_BYTES for name, value in stages.items()}


def swept_card_bytes(shape: Index, dtype: np.dtype[Any]) -> int:
    """Most bytes on a card, beside CARD_FIXED_BYTES, while the distances of a mask (z, y, x) are swept or pruned.

    dtype : of squared distances.
    """
    voxels = math.prod(shape)
    distances_and_parabolas = voxels * dtype.itemsize + voxels * (dtype.itemsize + 2)
    return _mask_card_bytes(shape) + distances_and_parabolas + voxels // min(shape) * COLUMN_BYTES


def gathered_card_bytes(shape: Index, dtype: np.dtype[Any], regions: str | None = None) -> int:
    """The same while thickness is gathered and counted. regions : the dtype of labels to count by, or None."""
    voxels = math.prod(shape)
    labels = voxels * np.dtype(regions).itemsize if regions is not None else 0
    return _mask_card_bytes(shape) + voxels * dtype.itemsize + max(batch_bytes(voxels, dtype), labels)


def _mask_card_bytes(shape: Index) -> int:
    """A mask and its bits, whose lines are whole bytes."""
    voxels = math.prod(shape)
    return voxels + voxels // 8 + voxels // min(shape)
