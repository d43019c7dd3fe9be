"""Ball centres that matter: prune those whose ball lies inside another one, pack the rest into cells and bricks.

Containment (exact): the ball of q is the set of voxels with |p − q|² < D(q). If it is contained in the ball of
another foreground voxel q + v, then q is never needed, because D(q + v) > D(q) on all of it; chains of containment
end at a kept ball. The test reads D alone, so a neighbour that lies in another block merely keeps more centres.
  * table test, small balls and the 26 neighbours: D(q + v) ≥ table_v[D(q)],
    table_v[d] = 1 + max { |p + v|² : |p|² ≤ d − 1 };
  * continuous test, any v and radius: with a = D' − D − |v|² + 1, contained if a > 2·|v|·√(D − 1).
Large balls are tested along the gradient of D too, where a better centre is most likely to be.

Layout: a block is cut into cells of CELL³ voxels and these into bricks of BRICK³; a cell's centres are stored brick
by brick (C order), largest D first, as D (int32 or int64) and position inside the brick (uint16, z·64 + y·8 + x).

Distances stay where they live, on the host or on a GPU; what becomes files is always on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels import backends
from pipeline.kernels.backends import Voxels

BRICK = 8
"""Side of a brick in voxels: the unit that the gather accepts or skips at once."""
CELL = 64
"""Side of a cell in voxels: the unit that is read from a file."""
BRICKS_PER_CELL = (CELL // BRICK) ** 3

Survey = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Of every cell, in C order: how many centres are kept, and the largest D among them (0 where none is)."""
Packed = tuple[npt.NDArray[np.uint16], npt.NDArray[Any], npt.NDArray[np.uint16]]
"""Counts (cells, BRICKS_PER_CELL), then D and position in the brick of all centres, one cell after the other."""


def containment_tables(limit: int, weight_z: int, weight_y: int, weight_x: int) -> npt.NDArray[np.int64]:
    """table[4·|vz| + 2·|vy| + |vx|, d] for the neighbour vectors v in {−1, 0, 1}³ and 1 ≤ d ≤ limit; on the host."""
    weights = (weight_z, weight_y, weight_x)
    # Every voxel p ≥ 0 with |p|² < limit, |p|² and |p + v|² being sums over the axes.
    sides = [np.arange(int(np.sqrt(limit / weight)) + 2, dtype=np.int64) for weight in weights]
    squares = [weight * side**2 for weight, side in zip(weights, sides, strict=True)]
    moved = [weight * (side + 1) ** 2 for weight, side in zip(weights, sides, strict=True)]

    def summed(parts: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        return (parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None, :]).reshape(-1)

    d = summed(squares) + 1
    near = d <= limit
    table = np.zeros((8, limit + 1), np.int64)
    for kind in range(1, 8):
        parts = [moved[axis] if kind >> (2 - axis) & 1 else squares[axis] for axis in range(3)]
        np.maximum.at(table[kind], d[near], summed(parts)[near] + 1)
        np.maximum.accumulate(table[kind], out=table[kind])
    return table


def prune(
    distances: Voxels, table: npt.NDArray[np.int64], weight_z: int, weight_y: int, weight_x: int, keep: Voxels
) -> int:
    """Mark the centres to keep (1) in keep (z, y, x) and return their number.

    distances : squared distances (z, y, x). table : on the host. Centres of the smallest possible distance are
    dropped as well: their ball is the voxel itself, and every foreground voxel is at least that thick.
    """
    return int(backends.twin(__name__, distances).prune(distances, table, weight_z, weight_y, weight_x, keep))


def survey_cells(distances: Voxels, keep: Voxels) -> Survey:
    """How many centres every cell of a block keeps, and the largest D among them."""
    survey: Survey = backends.twin(__name__, distances).survey_cells(distances, keep)
    return survey


def pack_cells(distances: Voxels, keep: Voxels, starts: npt.NDArray[np.int64], total: int) -> Packed:
    """The kept centres of some cells.

    starts : (cells, 3), first voxel of each in the block, on the host. total : how many centres they keep.
    On a GPU it takes 6 or 10 bytes a centre and 10 bytes a brick while it works.
    """
    packed: Packed = backends.twin(__name__, distances).pack_cells(distances, keep, starts, total)
    return packed
