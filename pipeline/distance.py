"""Exact squared distance of a block, whatever the radius: its columns, lowered by parabolas of the blocks beyond.

Three stages export what other blocks need, one per axis; each redoes the axes before it, which costs less than
storing dense distances. A block reads the lists of the blocks in its row, nearest first, until the next block is too
far to lower any of its columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Index
from pipeline.job import ThicknessJob
from pipeline.kernels import distance as kernels

Array = npt.NDArray[Any]

AXES = (2, 1, 0)
"""Order in which the axes are swept: x, y, z."""
STAGE_OF_AXIS = {2: "mask", 1: "distance-y", 0: "distance-z"}
"""The stage that exports the parabolas along an axis."""


def _as_columns(distances: Array, axis: int) -> Array:
    """The block as (outer, n, inner) with the axis in the middle, sharing memory."""
    size_z, size_y, size_x = distances.shape
    if axis == 0:
        return distances.reshape(1, size_z, size_y * size_x)
    if axis == 1:
        return distances
    return distances.reshape(size_z * size_y, size_x, 1)


def unpack_mask(packed: npt.NDArray[np.uint8], size_x: int) -> npt.NDArray[np.uint8]:
    """Foreground as 0 and 1 (z, y, x) from bits along x."""
    return np.unpackbits(packed, axis=2, count=size_x)


def squared_distance(job: ThicknessJob, block: Index, mask: npt.NDArray[np.uint8], *, axes: int) -> Array:
    """Squared distance to the background after the first axes of AXES; exact for the whole volume when axes = 3.

    mask : 0 or 1 (z, y, x) of the block. Returns int32 or int64 of the same shape, 0 on background,
    `unreached` where no background lies in the directions swept so far.
    """
    infinity = kernels.unreached(job.dtype)
    distances: Array = np.empty(mask.shape, job.dtype)
    if axes == 0:
        np.multiply(mask, infinity, out=distances, dtype=job.dtype)
    for axis in AXES[:axes]:
        columns = _as_columns(distances, axis)
        if axis == 2:
            kernels.distance_along_lines(mask, job.weights[axis], infinity, distances)
        else:
            kernels.envelope_along_columns(columns, job.weights[axis], infinity)
        for high in (False, True):
            _import(job, block, columns, axis, high)
    return distances


def _import(job: ThicknessJob, block: Index, columns: Array, axis: int, high: bool) -> None:
    """Lower the columns by what lies beyond one face: the blocks of the row, then the wall of a closed border."""
    weight = job.weights[axis]
    stage = STAGE_OF_AXIS[axis]
    face = columns[:, -1 if high else 0, :]
    box = job.grid.box(block)
    for neighbour, gap in _row(job, block, axis, high):
        if int(face.max()) <= weight * gap * gap:
            return
        receipt = job.ledger.receipt(stage, neighbour)
        side = "low" if high else "high"  # the neighbour above looks down to us through its low face
        counts = receipt.read(f"{side}-counts")
        depth = receipt.read(f"{side}-depth")
        height = receipt.read(f"{side}-height")
        kernels.relax_parabolas(columns, weight, gap, high, counts, depth, height)
    if job.border == "closed":
        gap = job.grid.shape[axis] - (box.stop[axis] - 1) if high else box.start[axis] + 1
        kernels.relax_wall(columns, weight, gap, high)


def _row(job: ThicknessJob, block: Index, axis: int, high: bool) -> Iterator[tuple[Index, int]]:
    """The blocks beyond a face, nearest first, with the voxels from our face voxel to theirs."""
    box = job.grid.box(block)
    step = 1 if high else -1
    position = block[axis] + step
    while 0 <= position < job.grid.counts[axis]:
        z, y, x = (position if a == axis else i for a, i in enumerate(block))
        other = job.grid.box((z, y, x))
        gap = other.start[axis] - (box.stop[axis] - 1) if high else box.start[axis] - (other.stop[axis] - 1)
        yield (z, y, x), gap
        position += step


def export_parabolas(job: ThicknessJob, block: Index, distances: Array, *, axis: int) -> dict[str, Array]:
    """What the blocks beyond both faces of an axis need of this one: parabolas per column, as named arrays.

    distances : the block after the axes before this one, not yet swept along this one. At most voxels + columns
    parabolas in all, because only the lowest one of a column can matter beyond both faces.
    """
    columns = _as_columns(distances, axis)
    outer, _, inner = columns.shape
    infinity = kernels.unreached(job.dtype)
    box = job.grid.box(block)
    arrays: dict[str, Array] = {}
    for side, reach in (("low", box.start[axis]), ("high", job.grid.shape[axis] - box.stop[axis])):
        counts = np.zeros(outer * inner, np.uint32)
        settings = (columns, job.weights[axis], infinity, reach, side == "high")
        total = 0
        if reach > 0:
            total = kernels.export_parabolas(*settings, False, counts, np.empty(0, np.uint16), np.empty(0, job.dtype))
        depth = np.empty(total, np.uint16)
        height = np.empty(total, job.dtype)
        if total:
            kernels.export_parabolas(*settings, True, counts, depth, height)
        arrays |= {f"{side}-counts": counts, f"{side}-depth": depth, f"{side}-height": height}
    return arrays
