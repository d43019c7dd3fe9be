"""Thickness kernels for the CPU. The algorithm stands in the package's docstring."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.accelerate import kernel
from pipeline.kernels.centres import BRICK, BRICKS_PER_CELL, CELL
from pipeline.kernels.thickness import TILE

Radii = npt.NDArray[Any]
"""int32 or int64 squared radii (z, y, x)."""

SUB = 4
"""Side of a sub-tile; TILE and SUB fix the 64 × 64 layout of a tile's working copy."""
GROUP = 16
"""Side of a group of 2³ bricks, the middle level of the max-D pyramid (cell, group, brick)."""

_lane = np.arange(64, dtype=np.int32)
# First voxel of sub-tile s in its tile, and offset of voxel j in its sub-tile. Constants in the compiled code:
# the vectoriser knows that stores to the tile cannot change them.
SUB_Z, SUB_Y, SUB_X = SUB * (_lane >> 4), SUB * ((_lane >> 2) & 3), SUB * (_lane & 3)
LANE_Z, LANE_Y, LANE_X = _lane >> 4, (_lane >> 2) & 3, _lane & 3


@kernel
def seal(mask: npt.NDArray[np.uint8], smallest: int, seal_value: int, out: Radii) -> None:
    """Begin: the smallest possible squared radius on the foreground, seal_value on the background."""
    size_z, size_y, size_x = mask.shape
    for z in range(size_z):
        for y in range(size_y):
            for x in range(size_x):
                out[z, y, x] = smallest if mask[z, y, x] else seal_value


@kernel
def unseal(radii: Radii, seal_value: int) -> None:
    """End: 0 on the background."""
    flat = radii.reshape(-1)
    for i in range(flat.size):
        if flat[i] == seal_value:
            flat[i] = 0


@kernel
def to_thickness(radii: Radii, unit_um: float, out: npt.NDArray[np.float32]) -> None:
    """Local thickness = diameter = 2·√T·unit_um, in µm, rounded once to float32; 0 on background."""
    flat = radii.reshape(-1)
    result = out.reshape(-1)
    for i in range(flat.size):
        result[i] = np.float32(2.0 * np.sqrt(float(flat[i])) * unit_um)


@kernel
def tile_minima(radii: Radii) -> Radii:
    """Smallest value of every tile (z, y, x of tiles)."""
    size_z, size_y, size_x = radii.shape
    tiles = ((size_z + TILE - 1) // TILE, (size_y + TILE - 1) // TILE, (size_x + TILE - 1) // TILE)
    minima = np.empty(tiles, radii.dtype)
    for tile_z in range(tiles[0]):
        for tile_y in range(tiles[1]):
            for tile_x in range(tiles[2]):
                least = radii[tile_z * TILE, tile_y * TILE, tile_x * TILE]
                for z in range(tile_z * TILE, min(tile_z * TILE + TILE, size_z)):
                    for y in range(tile_y * TILE, min(tile_y * TILE + TILE, size_y)):
                        for x in range(tile_x * TILE, min(tile_x * TILE + TILE, size_x)):
                            least = min(least, radii[z, y, x])
                minima[tile_z, tile_y, tile_x] = least
    return minima


@kernel
def _gap(low: int, side: int, other_low: int, other_side: int) -> int:
    """Voxels between two intervals, counted from centre to centre; 0 where they overlap."""
    return max(0, other_low - (low + side - 1), low - (other_low + other_side - 1))


@kernel
def _squared_gap(
    z: int, y: int, x: int, side: int, other_z: int, other_y: int, other_x: int, other_side: int,
    weight_z: int, weight_y: int, weight_x: int,
) -> int:  # fmt: skip
    gap_z = _gap(z, side, other_z, other_side)
    gap_y = _gap(y, side, other_y, other_side)
    gap_x = _gap(x, side, other_x, other_side)
    return weight_z * gap_z * gap_z + weight_y * gap_y * gap_y + weight_x * gap_x * gap_x


@kernel
def still_useful(
    minima: Radii, origin: npt.NDArray[np.int64], cells: npt.NDArray[np.int64], cell_max: npt.NDArray[np.int64],
    weight_z: int, weight_y: int, weight_x: int,
) -> npt.NDArray[np.bool_]:  # fmt: skip
    """Which cells of centres may still raise a voxel: they reach a tile whose smallest T is below their largest D."""
    useful = np.zeros(len(cells), np.bool_)
    _, tiles_y, tiles_x = minima.shape
    for c in range(len(cells)):
        for tile in range(minima.size):
            tile_z = tile // (tiles_y * tiles_x)
            tile_y = tile // tiles_x % tiles_y
            tile_x = tile % tiles_x
            if minima[tile_z, tile_y, tile_x] >= cell_max[c]:
                continue
            gap = _squared_gap(
                origin[0] + tile_z * TILE, origin[1] + tile_y * TILE, origin[2] + tile_x * TILE, TILE,
                cells[c, 0], cells[c, 1], cells[c, 2], CELL, weight_z, weight_y, weight_x,
            )  # fmt: skip
            if gap < cell_max[c]:
                useful[c] = True
                break
    return useful


@kernel
def _probe(minima: Radii, z: Any, y: Any, x: Any, d: Any, weight_z: Any, weight_y: Any, weight_x: Any) -> Any:
    """Find the sub-tiles that the ball of squared radius d at (z, y, x) reaches and can still raise.

    minima : 128 values, the smallest T of the 64 sub-tiles, then room for the answers (1 or 0). One array, because
    the vectoriser cannot tell that two arrays do not overlap. Returns the number of ones.
    """
    cast = minima.dtype.type
    zero = cast(0)
    hits = zero
    for s in range(64):
        low = cast(cast(SUB_Z[s]) - z)
        high = cast(cast(1 - SUB) - low)
        gap = low if low > high else high
        gap_z = gap if gap > zero else zero
        low = cast(cast(SUB_Y[s]) - y)
        high = cast(cast(1 - SUB) - low)
        gap = low if low > high else high
        gap_y = gap if gap > zero else zero
        low = cast(cast(SUB_X[s]) - x)
        high = cast(cast(1 - SUB) - low)
        gap = low if low > high else high
        gap_x = gap if gap > zero else zero
        threshold = cast(
            cast(weight_z * cast(gap_z * gap_z))
            + cast(weight_y * cast(gap_y * gap_y))
            + cast(weight_x * cast(gap_x * gap_x))
        )
        least = minima[s]
        threshold = threshold if threshold > least else least
        hit = cast(1) if threshold < d else zero
        minima[64 + s] = hit
        hits = cast(hits + hit)
    return hits


@kernel
def _raise_sub_tile(
    values: Radii, z: Any, y: Any, x: Any, d: Any, weight_z: Any, weight_y: Any, weight_x: Any, seal_value: Any
) -> Any:
    """T = max(T, d) on the 64 voxels of a sub-tile that lie in the open ball; returns the smallest T after."""
    cast = values.dtype.type
    least = cast(seal_value)
    for j in range(64):
        off_z = cast(cast(LANE_Z[j]) - z)
        off_y = cast(cast(LANE_Y[j]) - y)
        off_x = cast(cast(LANE_X[j]) - x)
        squared = cast(
            cast(weight_z * cast(off_z * off_z))
            + cast(weight_y * cast(off_y * off_y))
            + cast(weight_x * cast(off_x * off_x))
        )
        value = values[j]
        raised = d if squared < d else cast(0)
        value = value if value > raised else raised
        values[j] = value
        least = value if value < least else least
    return least


@kernel
def _load_tile(radii: Radii, tile_z: int, tile_y: int, tile_x: int, seal_value: Any, tile: Radii, minima: Radii) -> Any:
    """Copy a tile into 64 sub-tiles of 64 voxels, sealed outside of the block; returns its smallest T."""
    size_z, size_y, size_x = radii.shape
    least = seal_value
    for s in range(64):
        from_z, from_y, from_x = tile_z + SUB_Z[s], tile_y + SUB_Y[s], tile_x + SUB_X[s]
        to_z, to_y, to_x = min(SUB, size_z - from_z), min(SUB, size_y - from_y), min(SUB, size_x - from_x)
        if to_z < SUB or to_y < SUB or to_x < SUB:
            tile[s, :] = seal_value
        sub_least = seal_value
        for z in range(to_z):
            for y in range(to_y):
                for x in range(to_x):
                    value = radii[from_z + z, from_y + y, from_x + x]
                    tile[s, SUB * (SUB * z + y) + x] = value
                    sub_least = value if value < sub_least else sub_least
        minima[s] = sub_least
        least = sub_least if sub_least < least else least
    return least


@kernel
def _store_tile(tile: Radii, radii: Radii, tile_z: int, tile_y: int, tile_x: int) -> None:
    """Copy a tile back into the block."""
    size_z, size_y, size_x = radii.shape
    for s in range(64):
        from_z, from_y, from_x = tile_z + SUB_Z[s], tile_y + SUB_Y[s], tile_x + SUB_X[s]
        for z in range(min(SUB, size_z - from_z)):
            for y in range(min(SUB, size_y - from_y)):
                for x in range(min(SUB, size_x - from_x)):
                    radii[from_z + z, from_y + y, from_x + x] = tile[s, SUB * (SUB * z + y) + x]


@kernel
def gather(
    radii: Radii, origin: npt.NDArray[np.int64], cells: npt.NDArray[np.int64], counts: npt.NDArray[np.uint16],
    centre_d: Radii, centre_position: npt.NDArray[np.uint16],
    wide_z: int, wide_y: int, wide_x: int, seal_value: int,
) -> None:  # fmt: skip
    """Raise radii (z, y, x), in place, by the balls of a batch of centres.

    origin : position of radii[0, 0, 0] in the volume. cells : (c, 3) first voxel of each cell in the volume.
    counts : (c, BRICKS_PER_CELL) centres per brick. centre_d, centre_position : all centres, cell by cell, brick by
    brick, largest D first. wide_z, wide_y, wide_x : the weights.
    """
    cast = radii.dtype.type
    weight_z, weight_y, weight_x = cast(wide_z), cast(wide_y), cast(wide_x)
    sealed_value = cast(seal_value)
    size_z, size_y, size_x = radii.shape
    side = CELL // BRICK

    # The max-D pyramid over bricks, groups and cells, and where each brick's centres begin.
    bricks = len(cells) * BRICKS_PER_CELL
    begin = np.zeros(bricks + 1, np.int64)
    brick_max = np.zeros(bricks, radii.dtype)
    group_max = np.zeros((len(cells), 64), radii.dtype)
    cell_max = np.zeros(len(cells), radii.dtype)
    largest = cast(0)
    for c in range(len(cells)):
        for b in range(BRICKS_PER_CELL):
            i = c * BRICKS_PER_CELL + b
            begin[i + 1] = begin[i] + counts[c, b]
            if counts[c, b]:
                d = centre_d[begin[i]]
                brick_max[i] = d
                g = ((b // (side * side)) // 2) * 16 + ((b // side % side) // 2) * 4 + (b % side) // 2
                group_max[c, g] = max(group_max[c, g], d)
                cell_max[c] = max(cell_max[c], d)
                largest = max(largest, d)
    # Bricks are sorted by the leading 31 bits of their largest D.
    shift = 0
    while (np.int64(largest) >> shift) >= 2**31:
        shift += 1

    candidates = np.empty(1024, np.int64)
    tile = np.empty((64, 64), radii.dtype)
    minima = np.empty(128, radii.dtype)
    for tile_z in range(0, size_z, TILE):
        for tile_y in range(0, size_y, TILE):
            for tile_x in range(0, size_x, TILE):
                least = _load_tile(radii, tile_z, tile_y, tile_x, sealed_value, tile, minima)
                if least == sealed_value:
                    continue
                here_z = origin[0] + tile_z
                here_y = origin[1] + tile_y
                here_x = origin[2] + tile_x

                n = 0
                for c in range(len(cells)):
                    if cell_max[c] <= least:
                        continue
                    cell_z, cell_y, cell_x = cells[c, 0], cells[c, 1], cells[c, 2]
                    if (
                        _squared_gap(here_z, here_y, here_x, TILE, cell_z, cell_y, cell_x, CELL, wide_z, wide_y, wide_x)
                        >= cell_max[c]
                    ):
                        continue
                    for g in range(64):
                        if group_max[c, g] <= least:
                            continue
                        group_z = cell_z + (g >> 4) * GROUP
                        group_y = cell_y + ((g >> 2) & 3) * GROUP
                        group_x = cell_x + (g & 3) * GROUP
                        if (
                            _squared_gap(
                                here_z, here_y, here_x, TILE, group_z, group_y, group_x, GROUP, wide_z, wide_y, wide_x
                            )
                            >= group_max[c, g]
                        ):
                            continue
                        for h in range(8):
                            in_z = (g >> 4) * 2 + (h >> 2)
                            in_y = ((g >> 2) & 3) * 2 + ((h >> 1) & 1)
                            in_x = (g & 3) * 2 + (h & 1)
                            i = c * BRICKS_PER_CELL + (in_z * side + in_y) * side + in_x
                            if brick_max[i] <= least:
                                continue
                            if (
                                _squared_gap(
                                    here_z, here_y, here_x, TILE,
                                    cell_z + in_z * BRICK, cell_y + in_y * BRICK, cell_x + in_x * BRICK, BRICK,
                                    wide_z, wide_y, wide_x,
                                )
                                >= brick_max[i]
                            ):  # fmt: skip
                                continue
                            if n == candidates.size:
                                longer = np.empty(2 * n, np.int64)
                                longer[:n] = candidates
                                candidates = longer
                            candidates[n] = ((np.int64(brick_max[i]) >> shift) << 32) | i
                            n += 1
                candidates[:n].sort()

                for k in range(n):
                    key = candidates[n - 1 - k]
                    if (key >> 32) < (np.int64(least) >> shift):
                        break
                    i = key & 0xFFFFFFFF
                    if brick_max[i] <= least:
                        continue
                    c = i // BRICKS_PER_CELL
                    b = i % BRICKS_PER_CELL
                    brick_z = cells[c, 0] + (b // (side * side)) * BRICK - here_z
                    brick_y = cells[c, 1] + (b // side % side) * BRICK - here_y
                    brick_x = cells[c, 2] + (b % side) * BRICK - here_x
                    for q in range(begin[i], begin[i + 1]):
                        d = centre_d[q]
                        if d <= least:
                            break
                        position = np.int64(centre_position[q])
                        z = cast(brick_z + (position >> 6))
                        y = cast(brick_y + ((position >> 3) & 7))
                        x = cast(brick_x + (position & 7))
                        # Most centres of a brick that reaches the tile do not reach it themselves.
                        gap_z = max(0, -z, z - (TILE - 1))
                        gap_y = max(0, -y, y - (TILE - 1))
                        gap_x = max(0, -x, x - (TILE - 1))
                        if wide_z * gap_z * gap_z + wide_y * gap_y * gap_y + wide_x * gap_x * gap_x >= d:
                            continue
                        left = _probe(minima, z, y, x, d, weight_z, weight_y, weight_x)
                        if left == 0:
                            continue
                        raised = False
                        for s in range(64):
                            if minima[64 + s]:
                                sub_least = _raise_sub_tile(
                                    tile[s],
                                    cast(z - cast(SUB_Z[s])), cast(y - cast(SUB_Y[s])), cast(x - cast(SUB_X[s])),
                                    d, weight_z, weight_y, weight_x, sealed_value,
                                )  # fmt: skip
                                if sub_least > minima[s]:
                                    minima[s] = sub_least
                                    raised = True
                                left -= cast(1)
                                if left == 0:
                                    break
                        if raised:
                            least = sealed_value
                            for s in range(64):
                                least = min(least, minima[s])

                _store_tile(tile, radii, tile_z, tile_y, tile_x)
