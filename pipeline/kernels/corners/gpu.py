"""Corners kernel for a GPU: launches of corners.cu on the current stream. The contract is the package's."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import numpy.typing as npt

from pipeline.kernels import cuda
from pipeline.kernels.backends import Voxels
from pipeline.kernels.corners import CODES, FOREGROUND, most_slots
from pipeline.kernels.tables import added_up, count_in_spans, lines_per_block

SOURCE = "corners/corners.cu"
THREADS = 256
FIRST_SLOTS = 1 << 10

Counts = tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]


def count_corner_codes(volume: Voxels, start: tuple[int, int, int], stop: tuple[int, int, int]) -> Counts:
    """A warp takes a line of corners, a thread a corner; a block of threads adds up before it counts for all."""
    corners_z, corners_y, corners_x = (int(b - a) for a, b in zip(start, stop, strict=True))
    arguments = (volume, volume.dtype.itemsize, *volume.shape, *map(int, start), corners_y, corners_x)

    def count(begin: int, end: int, slots: int) -> Counts | None:
        return _counted(arguments, begin, end, slots)

    parts = count_in_spans(count, 0, corners_z * corners_y, FIRST_SLOTS, most_slots(volume.shape[2]))
    if len(parts) == 1:
        return parts[0]
    labels, counts = added_up(*(np.concatenate([part[column] for part in parts]) for column in (0, 1)))
    return labels, counts


def _counted(arguments: tuple[Any, ...], begin: int, end: int, slots: int) -> Counts | None:
    """The lines of a span; None where the table is overfull."""
    lines = lines_per_block(max(1, arguments[-1]))
    labels, used = cupy.zeros(slots, np.uint64), cupy.zeros(1, np.uint64)
    counts = cupy.zeros((slots + 1, CODES), np.uint32)  # the last row is the foreground's
    if end > begin:
        cuda.function(SOURCE, "count_corner_codes", np.int32)(
            (cuda.blocks_for(end - begin, lines),), (THREADS,),
            (*arguments, begin, end, lines, labels, slots, used, counts),
        )  # fmt: skip
    if 2 * int(used[0]) > slots:
        return None
    found = cupy.asnumpy(labels)
    rows = np.concatenate(([slots], np.flatnonzero(found)))
    of_rows = cupy.asnumpy(counts[cupy.asarray(rows)]).astype(np.int64)
    return np.append(np.uint64(FOREGROUND), found[rows[1:]]), of_rows
