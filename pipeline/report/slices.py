"""Three orthogonal planes of a thickness map or of two segmentations, chosen and read with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import AT_ORIGIN, Placement
from pipeline.report.content import ComparedSlice, LabelledSlice, Slice

AnySlice = TypeVar("AnySlice", Slice, ComparedSlice, LabelledSlice)

LARGEST_SIDE = 1200
"""Pixels along a side; a larger plane is thinned."""
TRIES = 33
"""Planes looked at before a volume counts as empty: the middle, then halves, quarters … in between."""
COMPARED_TRIES = 9
"""Planes of the reference looked at for the one with most foreground; each may be a whole layer of chunks to read."""
SLAB = 32
"""Planes read at once where the whole volume is."""
ROWS_AND_COLUMNS = {"xy": (1, 2), "xz": (0, 2), "yz": (0, 1)}
AXES = "zyx"


def orthogonal_slices(read: Callable[[Box], NDArray[np.float32]], shape: Index, voxel_size: VoxelSize) -> list[Slice]:
    """The planes xy, xz and yz through the middle of the volume.

    read : returns thickness in µm (z, y, x) of a box, 0 on background; called for planes one voxel thick, so memory
        is that of one plane (pass a pyramid level whose sides are about LARGEST_SIDE or less).
    shape, voxel_size : of the volume that `read` reads.

    A central plane without foreground gives way: xy to the first of up to TRIES planes, spread over the volume, that
    has some, and the others to the nearest row or column of that one that has some. A volume that shows none gives
    its empty central planes.
    """
    centre = tuple(n // 2 for n in shape)
    positions = list(centre)
    first = _plane(read, shape, 0, centre[0])
    if not first.any():
        for position in _spread(shape[0]):
            candidate = _plane(read, shape, 0, position)
            if candidate.any():
                first, positions[0] = candidate, position
                break
    planes = [first]
    for axis in (1, 2):
        plane = _plane(read, shape, axis, centre[axis])
        if not plane.any() and first.any():
            filled = np.flatnonzero(first.any(axis=2 - axis))
            positions[axis] = int(filled[np.argmin(np.abs(filled - centre[axis]))])
            plane = _plane(read, shape, axis, positions[axis])
        planes.append(plane)
    return [
        _slice(name, plane, position * voxel_size.um[axis], voxel_size)
        for axis, (name, plane, position) in enumerate(zip(ROWS_AND_COLUMNS, planes, positions, strict=True))
    ]


def largest_projection(
    read: Callable[[Box], NDArray[np.float32]], shape: Index, voxel_size: VoxelSize, *, plane: str = "xz"
) -> Slice:
    """The largest thickness along the axis that a plane ("xy", "xz" or "yz") cuts: sparse things in one picture.

    read, shape, voxel_size : as of orthogonal_slices. The whole volume is read, SLAB planes at a time.
    """
    axis = AXES.index(third_axis(plane))
    largest = _slab(read, shape, axis, 0, 1).max(axis=axis)
    for start in range(0, shape[axis], SLAB):
        stop = min(start + SLAB, shape[axis])
        np.maximum(largest, _slab(read, shape, axis, start, stop).max(axis=axis), out=largest)
    return _slice(plane, largest, None, voxel_size)


def compared_slices(
    reference: Callable[[Box], NDArray[Any]], prediction: Callable[[Box], NDArray[Any]],
    shape: Index, voxel_size: VoxelSize, *,
    reference_thickness: Callable[[Box], NDArray[np.float32]] | None = None,
    prediction_thickness: Callable[[Box], NDArray[np.float32]] | None = None,
) -> list[ComparedSlice]:  # fmt: skip
    """The planes xy, xz and yz of a reference and a prediction where the reference has much foreground.

    reference, prediction : return the labels (z, y, x) of a box, integers or bool, 0 on background.
    reference_thickness, prediction_thickness : return thickness in µm of a box, 0 on background.
    shape, voxel_size : of the volumes that all of them read; memory is that of a few planes.

    xy is the fullest of COMPARED_TRIES planes spread over the volume, the middle one among equals; up to TRIES where
    those are empty. xz and yz cut it in its fullest row and column. Only the reference is asked, so that different
    predictions of it show the same planes; the prediction is where all those planes of the reference are empty.
    """
    positions = _fullest_planes((reference, prediction), shape)

    def cut(read: Callable[[Box], NDArray[Any]], axis: int, thin: int) -> NDArray[Any]:
        return np.ascontiguousarray(_layer(read, shape, axis, positions[axis])[::thin, ::thin])

    slices = []
    for axis, (name, (row, column)) in enumerate(ROWS_AND_COLUMNS.items()):
        thin = _thinning((shape[row], shape[column]))
        slices.append(
            ComparedSlice(
                plane=name,
                position_um=positions[axis] * voxel_size.um[axis],
                reference=cut(reference, axis, thin),
                prediction=cut(prediction, axis, thin),
                spacing_um=(voxel_size.um[row] * thin, voxel_size.um[column] * thin),
                reference_thickness_um=cut(reference_thickness, axis, thin) if reference_thickness else None,
                prediction_thickness_um=cut(prediction_thickness, axis, thin) if prediction_thickness else None,
            )
        )
    return slices


def labelled_slices(
    labels: Callable[[Box], NDArray[Any]], shape: Index, voxel_size: VoxelSize, *,
    grey: Callable[[Box], NDArray[Any]] | None = None,
) -> list[LabelledSlice]:  # fmt: skip
    """The planes xy, xz and yz of a label volume where it has much foreground, as compared_slices has them."""
    slices = []
    for axis, position in enumerate(_fullest_planes((labels,), shape)):
        name, (row, column) = list(ROWS_AND_COLUMNS.items())[axis]
        thin = _thinning((shape[row], shape[column]))
        planes = [
            np.ascontiguousarray(_layer(read, shape, axis, position)[::thin, ::thin]) for read in (labels, grey) if read
        ]
        slices.append(
            LabelledSlice(
                plane=name,
                position_um=position * voxel_size.um[axis],
                labels=planes[0],
                spacing_um=(voxel_size.um[row] * thin, voxel_size.um[column] * thin),
                grey=planes[1] if grey else None,
            )
        )
    return slices


def in_frame(slices: Iterable[AnySlice], placement: Placement | None, voxel_size: VoxelSize) -> list[AnySlice]:
    """Planes whose position is that in the frame of the source, not the distance from the first voxel.

    placement : of the volume they were cut from; see Placement.coordinates_um.
    """
    placement = placement or AT_ORIGIN
    start = [float(values[0]) for values in placement.coordinates_um(voxel_size, (1, 1, 1))]
    signs = placement.signs or (1, 1, 1)
    placed = []
    for each in slices:
        axis = AXES.index(third_axis(each.plane))
        from_first: Any = each.position_um  # None of projections alone
        position: Any = None if from_first is None else start[axis] + signs[axis] * from_first
        placed.append(replace(each, position_um=position))
    return placed


def _fullest_planes(reads: Sequence[Callable[[Box], NDArray[Any]]], shape: Index) -> list[int]:
    """Positions (z, y, x) of planes with much foreground of the first volume that shows any; see compared_slices."""
    tries = [shape[0] // 2, *_spread(shape[0])]
    for read in reads:
        fullness: list[int] = []
        while len(fullness) < len(tries) and not (len(fullness) >= COMPARED_TRIES and any(fullness)):
            fullness.append(int(np.count_nonzero(_layer(read, shape, 0, tries[len(fullness)]))))
        if any(fullness):
            break
    positions = [tries[int(np.argmax(fullness))]]
    foreground = _layer(read, shape, 0, positions[0]) != 0
    for axis in (1, 2):
        filled = foreground.sum(axis=2 - axis)
        fullest = np.flatnonzero(filled == filled.max())
        positions.append(int(fullest[np.argmin(np.abs(fullest - shape[axis] // 2))]))
    return positions


def third_axis(plane: str) -> str:
    """The axis that a plane cuts: "xy" cuts "z"."""
    return next(axis for axis in AXES if axis not in plane)


def _plane(read: Callable[[Box], NDArray[np.float32]], shape: Index, axis: int, position: int) -> NDArray[np.float32]:
    return np.asarray(_layer(read, shape, axis, position), dtype=np.float32)


def _layer(read: Callable[[Box], NDArray[Any]], shape: Index, axis: int, position: int) -> NDArray[Any]:
    return read(_slab_box(shape, axis, position, position + 1)).squeeze(axis)


def _slab(
    read: Callable[[Box], NDArray[np.float32]], shape: Index, axis: int, start: int, stop: int
) -> NDArray[np.float32]:
    return np.asarray(read(_slab_box(shape, axis, start, stop)), dtype=np.float32)


def _slab_box(shape: Index, axis: int, start: int, stop: int) -> Box:
    low, high = [0, 0, 0], list(shape)
    low[axis], high[axis] = start, stop
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def _spread(length: int) -> Iterator[int]:
    """Positions that halve the gaps again and again: 1/2, 1/4, 3/4, 1/8, 3/8 … of the length, TRIES at most."""
    given, parts = {length // 2}, 4
    while parts <= 4 * TRIES:
        for numerator in range(1, parts, 2):
            position = numerator * length // parts
            if position not in given and len(given) < TRIES:
                given.add(position)
                yield position
        parts *= 2


def _slice(name: str, plane: NDArray[np.float32], position_um: float | None, voxel_size: VoxelSize) -> Slice:
    row, column = ROWS_AND_COLUMNS[name]
    thin = _thinning(plane.shape)
    return Slice(
        plane=name,
        position_um=position_um,
        thickness_um=np.ascontiguousarray(plane[::thin, ::thin]),
        spacing_um=(voxel_size.um[row] * thin, voxel_size.um[column] * thin),
    )


def _thinning(shape: tuple[int, ...]) -> int:
    """Every how many pixels of a plane are kept."""
    return max(1, -(-max(shape) // LARGEST_SIDE))
