"""Exact squared distance of a block, whatever the radius: its columns, lowered by parabolas of the blocks beyond.

Three stages export what other blocks need, one per axis; each redoes the axes before it, which costs less than
storing dense distances. A block reads the lists of the blocks in its row, nearest first, until the next block is too
far to lower any of its columns. What is far or near is a `Field`: the thickness of a mask has one, the surface
distances of a label have several in the same ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Box, Index
from pipeline.job import Border, ThicknessJob
from pipeline.kernels import distance as kernels
from pipeline.ledger import Ledger

Array = npt.NDArray[Any]

AXES = (2, 1, 0)
"""Order in which the axes are swept: x, y, z."""
STAGE_OF_AXIS = {2: "mask", 1: "distance-y", 0: "distance-z"}
"""The stage of a thickness run that exports the parabolas along an axis."""


class Grid(Protocol):
    """Blocks that may touch, in rows along each axis; some may be empty."""

    @property
    def shape(self) -> Index: ...

    @property
    def counts(self) -> Index: ...

    def box(self, block: Index) -> Box: ...


@dataclass(frozen=True)
class Field:
    """One distance transform over the blocks of a grid: what its tasks in all stages have in common.

    grid : the blocks; its shape is the whole of what is measured. weights, dtype : of squared distances (z, y, x).
    border : what lies outside. ledger : where parabolas travel. stages : axis -> the stage that exports along it.
    prefix : of the names of its arrays in the parcels, which may hold more than one field.
    background, wanted : boxes that hold all background, and all voxels whose distance is asked for; None for the
    whole. They spare the blocks that have nothing to pass on, and never change a distance that is asked for.
    """

    grid: Grid
    weights: Index
    dtype: np.dtype[np.int32] | np.dtype[np.int64]
    border: Border
    ledger: Ledger
    stages: Mapping[int, str]
    prefix: str = ""
    background: Box | None = None
    wanted: Box | None = None

    def matters(self, block: Index, *, axes: int) -> bool:
        """Whether a block can hold a distance after the first axes of AXES that some asked-for distance needs.

        Along an axis that is swept the block must meet `wanted`, along one that is not it must meet `background`.
        """
        box = self.grid.box(block)
        if not box.voxels:
            return False
        for number, axis in enumerate(AXES):
            needed = self.wanted if number < axes else self.background
            if needed and (needed.stop[axis] <= box.start[axis] or box.stop[axis] <= needed.start[axis]):
                return False
        return True


def thickness_field(job: ThicknessJob) -> Field:
    """The distance of a mask to its background."""
    return Field(job.grid, job.weights, job.dtype, job.border, job.ledger, STAGE_OF_AXIS)


def _as_columns(distances: Array, axis: int) -> Array:
    """The block as (outer, n, inner) with the axis in the middle, sharing memory."""
    size_z, size_y, size_x = distances.shape
    if axis == 0:
        return distances.reshape(1, size_z, size_y * size_x)
    if axis == 1:
        return distances
    return distances.reshape(size_z * size_y, size_x, 1)


def squared_distance(field: Field, block: Index, mask: npt.NDArray[np.uint8], *, axes: int) -> Array:
    """Squared distance to the background after the first axes of AXES; exact for the whole volume when axes = 3.

    mask : 0 or 1 (z, y, x) of the block; the distances lie where it lies. Returns int32 or int64 of the same shape,
    0 on background, `unreached` where no background lies in the directions swept so far.
    """
    infinity = kernels.unreached(field.dtype)
    distances: Array = kernels.unswept(mask, field.dtype) if axes == 0 else np.empty_like(mask, dtype=field.dtype)
    for axis in AXES[:axes]:
        columns = _as_columns(distances, axis)
        if axis == 2:
            kernels.distance_along_lines(mask, field.weights[axis], infinity, distances)
        else:
            kernels.envelope_along_columns(columns, field.weights[axis], infinity)
        for high in (False, True):
            _import(field, block, columns, axis, high)
    return distances


def _import(field: Field, block: Index, columns: Array, axis: int, high: bool) -> None:
    """Lower the columns by what lies beyond one face: the blocks of the row, then the wall of a closed border."""
    weight = field.weights[axis]
    stage = field.stages[axis]
    face = columns[:, -1 if high else 0, :]
    box = field.grid.box(block)
    for neighbour, gap in _row(field, block, axis, high):
        if not field.matters(neighbour, axes=AXES.index(axis)):
            continue
        if int(face.max()) <= weight * gap * gap:
            return
        receipt = field.ledger.receipt(stage, neighbour)
        name = f"{field.prefix}{'low' if high else 'high'}"  # the neighbour above looks down to us through its low face
        counts, depth, height = (receipt.read(f"{name}-{part}") for part in ("counts", "depth", "height"))
        kernels.relax_parabolas(columns, weight, gap, high, counts, depth, height)
        del counts, depth, height  # the next block's come in their place
    if field.border == "closed":
        gap = field.grid.shape[axis] - (box.stop[axis] - 1) if high else box.start[axis] + 1
        kernels.relax_wall(columns, weight, gap, high)


def _row(field: Field, block: Index, axis: int, high: bool) -> Iterator[tuple[Index, int]]:
    """The blocks beyond a face, nearest first, with the voxels from our face voxel to theirs."""
    box = field.grid.box(block)
    step = 1 if high else -1
    position = block[axis] + step
    while 0 <= position < field.grid.counts[axis]:
        z, y, x = (position if a == axis else i for a, i in enumerate(block))
        other = field.grid.box((z, y, x))
        gap = other.start[axis] - (box.stop[axis] - 1) if high else box.start[axis] - (other.stop[axis] - 1)
        yield (z, y, x), gap
        position += step


def export_parabolas(field: Field, block: Index, distances: Array, *, axis: int) -> dict[str, Array]:
    """What the blocks beyond both faces of an axis need of this one: parabolas per column, as named arrays.

    distances : the block after the axes before this one, not yet swept along this one. At most voxels + columns
    parabolas in all, because only the lowest one of a column can matter beyond both faces.
    """
    columns = _as_columns(distances, axis)
    infinity = kernels.unreached(field.dtype)
    box = field.grid.box(block)
    arrays: dict[str, Array] = {}
    for side, reach in (("low", box.start[axis]), ("high", field.grid.shape[axis] - box.stop[axis])):
        counts, depth, height = kernels.export_parabolas(columns, field.weights[axis], infinity, reach, side == "high")
        name = f"{field.prefix}{side}"
        arrays |= {f"{name}-counts": counts, f"{name}-depth": depth, f"{name}-height": height}
    return arrays
