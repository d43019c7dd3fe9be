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
FACE_VOXELS = 32
"""How far from a face its parabolas are looked for before the whole block is."""
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


def squared_distance(
    field: Field, block: Index, mask: npt.NDArray[np.uint8], *, axes: int, part: Box | None = None
) -> Array:  # fmt: skip
    """Squared distance to the background after the first axes of AXES; exact for the whole volume when axes = 3.

    mask : 0 or 1 (z, y, x) of the block; the distances lie where it lies. part : a box of the block that reaches from
    face to face along the axes that are swept, in voxels of the block; the mask is its mask then, and so are the
    distances. Returns int32 or int64 of the mask's shape, 0 on background, `unreached` where no background lies in the
    directions swept so far.
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
            _import(field, block, columns, axis, high, part)
    return distances


def _import(field: Field, block: Index, columns: Array, axis: int, high: bool, part: Box | None) -> None:
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
        counts, depth, height = (receipt.read(f"{name}-{what}") for what in ("counts", "depth", "height"))
        if part is not None:
            counts, depth, height = _of_part(part, box.shape, axis, counts, depth, height)
        kernels.relax_parabolas(columns, weight, gap, high, counts, depth, height)
        del counts, depth, height  # the next block's come in their place
    if field.border == "closed":
        gap = field.grid.shape[axis] - (box.stop[axis] - 1) if high else box.start[axis] + 1
        kernels.relax_wall(columns, weight, gap, high)


def _of_part(
    part: Box, shape: Index, axis: int, counts: Array, depth: Array, height: Array
) -> tuple[Array, Array, Array]:  # fmt: skip
    """The parabolas of those columns of a block of this shape that lie in a part of it."""
    others = [other for other in range(3) if other != axis]
    inside = np.zeros([shape[other] for other in others], np.bool_)
    inside[tuple(part.slices[other] for other in others)] = True
    chosen = inside.reshape(-1)
    of_chosen = np.repeat(chosen, counts)
    return counts[chosen], depth[of_chosen], height[of_chosen]


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
    arrays: dict[str, Array] = {}
    for high in (False, True):
        arrays |= _named(field, high, _beyond_face(field, block, distances, axis, high))
    return arrays


def near_faces(field: Field, block: Index, mask: npt.NDArray[np.uint8], *, axes: int) -> dict[str, Array]:
    """The same, out of the mask of the block, for the axis that comes after the first axes of AXES.

    As a rule only the voxels near a face are swept: where every column has a parabola there that none from farther can
    be lower than beyond the face. Where that is not so the whole block is swept, once.
    """
    axis = AXES[axes]
    box = field.grid.box(block)
    arrays: dict[str, Array] = {}
    distances: Array | None = None
    for high in (False, True):
        part = _near_face(box.shape, axis, high)
        found: kernels.Parabolas | None = None
        if not _reach(field, box, axis, high):
            found = np.zeros(box.voxels // box.shape[axis], np.uint32), np.empty(0, np.uint16), np.empty(0, field.dtype)
        elif axes and distances is None and part.voxels < box.voxels:
            near = squared_distance(field, block, mask[part.slices].copy(), axes=axes, part=part)
            found = _beyond_face(field, block, near, axis, high)
            del near
            found = found if _are_all(found, field.weights[axis]) else None
        if found is None:
            if distances is None:
                distances = squared_distance(field, block, mask, axes=axes)
            found = _beyond_face(field, block, distances, axis, high)
        arrays |= _named(field, high, found)
    return arrays


def _near_face(shape: Index, axis: int, high: bool) -> Box:
    """The voxels near one face of a block, in voxels of the block."""
    start, stop = [0, 0, 0], list(shape)
    if high:
        start[axis] = max(0, shape[axis] - FACE_VOXELS)
    else:
        stop[axis] = min(FACE_VOXELS, shape[axis])
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _are_all(found: kernels.Parabolas, weight: int) -> bool:
    """Whether the parabolas of the voxels near a face are all: none from farther is lower at the first voxel beyond."""
    counts, depth, height = found
    if not counts.all():
        return False
    first = np.cumsum(counts, dtype=np.int64) - counts  # of a column: it is the lowest there
    lowest = height[first] + weight * (depth[first].astype(np.int64) + 1) ** 2
    return bool((lowest <= weight * (FACE_VOXELS + 1) ** 2).all())


def _reach(field: Field, box: Box, axis: int, high: bool) -> int:
    """Voxels beyond a face of a block."""
    return field.grid.shape[axis] - box.stop[axis] if high else box.start[axis]


def _beyond_face(field: Field, block: Index, distances: Array, axis: int, high: bool) -> kernels.Parabolas:
    """The parabolas that are needed beyond one face, out of the distances of the voxels at it."""
    reach = _reach(field, field.grid.box(block), axis, high)
    infinity = kernels.unreached(field.dtype)
    return kernels.export_parabolas(_as_columns(distances, axis), field.weights[axis], infinity, reach, high)


def _named(field: Field, high: bool, parabolas: kernels.Parabolas) -> dict[str, Array]:
    name = f"{field.prefix}{'high' if high else 'low'}"
    counts, depth, height = parabolas
    return {f"{name}-counts": counts, f"{name}-depth": depth, f"{name}-height": height}
