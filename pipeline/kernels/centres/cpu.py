"""Centre kernels for the CPU. The rules stand in the package's docstring."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.accelerate import Integer, kernel
from pipeline.kernels.centres import BRICK, BRICKS_PER_CELL, CELL, Packed

# The continuous test is rounded towards "not contained": a kept centre costs time, a wrongly dropped one a voxel.
ROUNDING = 1.0 + 2.0**-40
# Balls above this many voxels of squared radius are also tested along the gradient, this many steps far.
GRADIENT_FROM = 64
GRADIENT_STEPS = 8


@kernel
def _contained(d: Integer, other: Integer, squared_step: Integer) -> bool:
    """Whether the ball of squared radius d lies inside the one of other, √squared_step away (continuous test)."""
    slack = float(other - d - squared_step + 1)
    return slack > 2.0 * math.sqrt(float(squared_step) * float(d - 1)) * ROUNDING


@kernel
def prune(
    distances: npt.NDArray[Any], table: npt.NDArray[np.int64], weight_z: int, weight_y: int, weight_x: int,
    keep: npt.NDArray[np.uint8],
) -> int:  # fmt: skip
    """Mark the centres to keep (1) in keep (z, y, x) and return their number.

    distances : squared distances (z, y, x). Centres of the smallest possible distance are dropped as well: their
    ball is the voxel itself, and every foreground voxel is at least that thick.
    """
    size_z, size_y, size_x = distances.shape
    limit = table.shape[1] - 1
    smallest = min(weight_z, weight_y, weight_x)
    neighbours = np.empty((26, 5), np.int64)
    count = 0
    for manhattan in range(1, 4):
        for vz in range(-1, 2):
            for vy in range(-1, 2):
                for vx in range(-1, 2):
                    if abs(vz) + abs(vy) + abs(vx) == manhattan:
                        neighbours[count, 0] = vz
                        neighbours[count, 1] = vy
                        neighbours[count, 2] = vx
                        neighbours[count, 3] = 4 * abs(vz) + 2 * abs(vy) + abs(vx)
                        neighbours[count, 4] = weight_z * abs(vz) + weight_y * abs(vy) + weight_x * abs(vx)
                        count += 1
    kept = 0
    for z in range(size_z):
        for y in range(size_y):
            for x in range(size_x):
                keep[z, y, x] = 0
                d = np.int64(distances[z, y, x])
                if d <= smallest:
                    continue
                needed = True
                for k in range(26):
                    near_z = z + neighbours[k, 0]
                    near_y = y + neighbours[k, 1]
                    near_x = x + neighbours[k, 2]
                    if near_z < 0 or near_y < 0 or near_x < 0:
                        continue
                    if near_z >= size_z or near_y >= size_y or near_x >= size_x:
                        continue
                    other = np.int64(distances[near_z, near_y, near_x])
                    if other <= d:
                        continue
                    if d <= limit:
                        if other >= table[neighbours[k, 3], d]:
                            needed = False
                            break
                    elif _contained(d, other, neighbours[k, 4]):
                        needed = False
                        break
                inside = 0 < z < size_z - 1 and 0 < y < size_y - 1 and 0 < x < size_x - 1
                if needed and inside and d > GRADIENT_FROM * smallest:
                    slope_z = float(distances[z + 1, y, x]) - float(distances[z - 1, y, x])
                    slope_y = float(distances[z, y + 1, x]) - float(distances[z, y - 1, x])
                    slope_x = float(distances[z, y, x + 1]) - float(distances[z, y, x - 1])
                    # Steepest ascent in space, not in voxels: coarse axes take fewer steps.
                    slope_z /= weight_z
                    slope_y /= weight_y
                    slope_x /= weight_x
                    steepest = max(abs(slope_z), abs(slope_y), abs(slope_x))
                    if steepest > 0.0:
                        for k in range(2, GRADIENT_STEPS + 1):
                            step_z = int(np.rint(k * slope_z / steepest))
                            step_y = int(np.rint(k * slope_y / steepest))
                            step_x = int(np.rint(k * slope_x / steepest))
                            far_z = z + step_z
                            far_y = y + step_y
                            far_x = x + step_x
                            if far_z < 0 or far_y < 0 or far_x < 0:
                                break
                            if far_z >= size_z or far_y >= size_y or far_x >= size_x:
                                break
                            squared_step = (
                                weight_z * step_z * step_z + weight_y * step_y * step_y + weight_x * step_x * step_x
                            )
                            if _contained(d, np.int64(distances[far_z, far_y, far_x]), squared_step):
                                needed = False
                                break
                if needed:
                    keep[z, y, x] = 1
                    kept += 1
    return kept


@kernel
def _survey_cell(
    distances: npt.NDArray[Any], keep: npt.NDArray[np.uint8], start_z: int, start_y: int, start_x: int
) -> tuple[int, int]:
    size_z, size_y, size_x = keep.shape
    number = 0
    largest: Integer = np.int64(0)
    for z in range(start_z, min(start_z + CELL, size_z)):
        for y in range(start_y, min(start_y + CELL, size_y)):
            for x in range(start_x, min(start_x + CELL, size_x)):
                if keep[z, y, x]:
                    number += 1
                    largest = max(largest, np.int64(distances[z, y, x]))
    return number, int(largest)


@kernel
def survey_cells(
    distances: npt.NDArray[Any], keep: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cells in C order."""
    size_z, size_y, size_x = keep.shape
    cells_z, cells_y, cells_x = (size_z + CELL - 1) // CELL, (size_y + CELL - 1) // CELL, (size_x + CELL - 1) // CELL
    number = np.empty(cells_z * cells_y * cells_x, np.int64)
    largest = np.empty(cells_z * cells_y * cells_x, np.int64)
    for z in range(cells_z):
        for y in range(cells_y):
            for x in range(cells_x):
                cell = (z * cells_y + y) * cells_x + x
                number[cell], largest[cell] = _survey_cell(distances, keep, z * CELL, y * CELL, x * CELL)
    return number, largest


def pack_cells(
    distances: npt.NDArray[Any], keep: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], total: int
) -> Packed:
    """Cell by cell."""
    counts = np.empty((len(starts), BRICKS_PER_CELL), np.uint16)
    centre_d, position = np.empty(total, distances.dtype), np.empty(total, np.uint16)
    _pack_cells(distances, keep, starts, counts, centre_d, position)
    return counts, centre_d, position


@kernel
def _pack_cells(
    distances: npt.NDArray[Any], keep: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64],
    counts: npt.NDArray[np.uint16], centre_d: npt.NDArray[Any], centre_position: npt.NDArray[np.uint16],
) -> None:  # fmt: skip
    size_z, size_y, size_x = keep.shape
    keys = np.empty(BRICK * BRICK * BRICK, np.int64)
    written = 0
    side = CELL // BRICK
    for c in range(len(starts)):
        for b in range(BRICKS_PER_CELL):
            brick_z = starts[c, 0] + (b // (side * side)) * BRICK
            brick_y = starts[c, 1] + (b // side % side) * BRICK
            brick_x = starts[c, 2] + (b % side) * BRICK
            n = 0
            for z in range(brick_z, min(brick_z + BRICK, size_z)):
                for y in range(brick_y, min(brick_y + BRICK, size_y)):
                    for x in range(brick_x, min(brick_x + BRICK, size_x)):
                        if keep[z, y, x]:
                            position = ((z - brick_z) << 6) | ((y - brick_y) << 3) | (x - brick_x)
                            keys[n] = (np.int64(distances[z, y, x]) << 9) | position
                            n += 1
            if n > 1:
                keys[:n].sort()
            for k in range(n):
                key = keys[n - 1 - k]
                centre_d[written] = key >> 9
                centre_position[written] = key & 511
                written += 1
            counts[c, b] = n
