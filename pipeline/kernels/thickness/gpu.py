"""Thickness kernels for a GPU: launches of thickness.cu on the current stream. The contract is the package's."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np
import numpy.typing as npt

from pipeline.kernels import cuda
from pipeline.kernels.backends import Voxels
from pipeline.kernels.centres import BRICKS_PER_CELL
from pipeline.kernels.thickness import TILE

SOURCE = "thickness/thickness.cu"
THREADS = 256
GATHER_THREADS = 256
KEY_BITS = 31
"""Bits of the largest D of a brick that candidates are sorted by."""


def _over_voxels(name: str, dtype: npt.DTypeLike, voxels: int, arguments: tuple[Any, ...]) -> None:
    cuda.function(SOURCE, name, dtype)((cuda.blocks_for(voxels, THREADS),), (THREADS,), arguments)


def _tiles(radii: Voxels) -> tuple[int, int, int]:
    z, y, x = (-(-n // TILE) for n in radii.shape)
    return z, y, x


def seal(mask: Voxels, smallest: int, seal_value: int, out: Voxels) -> None:
    """A thread takes a voxel."""
    _over_voxels("seal", out.dtype, out.size, (mask, out.size, int(smallest), int(seal_value), out))


def unseal(radii: Voxels, seal_value: int) -> None:
    """A thread takes a voxel."""
    _over_voxels("unseal", radii.dtype, radii.size, (radii, radii.size, int(seal_value)))


def to_thickness(radii: Voxels, unit_um: float, out: Voxels) -> None:
    """A thread takes a voxel."""
    _over_voxels("to_thickness", radii.dtype, radii.size, (radii, radii.size, float(unit_um), out))


def tile_minima(radii: Voxels) -> Voxels:
    """A warp takes a tile."""
    tiles = _tiles(radii)
    minima: Voxels = cupy.empty(tiles, radii.dtype)
    count = math.prod(tiles)
    _over_voxels("tile_minima", radii.dtype, 32 * count, (radii, *radii.shape, count, *tiles[1:], minima))
    return minima


def still_useful(
    minima: Voxels, origin: npt.NDArray[np.int64], cells: npt.NDArray[np.int64], cell_max: npt.NDArray[np.int64],
    weight_z: int, weight_y: int, weight_x: int,
) -> npt.NDArray[np.bool_]:  # fmt: skip
    """A block of threads takes a cell."""
    useful = cupy.empty(len(cells), np.bool_)
    if len(cells):
        cuda.function(SOURCE, "still_useful", minima.dtype)(
            (len(cells),), (THREADS,),
            (minima, minima.size, *minima.shape[1:], _up(origin), _up(cells), _up(cell_max),
             int(weight_z), int(weight_y), int(weight_x), useful),
        )  # fmt: skip
    found: npt.NDArray[np.bool_] = cupy.asnumpy(useful)
    return found


def gather(
    radii: Voxels, origin: npt.NDArray[np.int64], cells: npt.NDArray[np.int64], counts: npt.NDArray[np.uint16],
    centre_d: npt.NDArray[Any], centre_position: npt.NDArray[np.uint16],
    weight_z: int, weight_y: int, weight_x: int, seal_value: int,
) -> None:  # fmt: skip
    """The pyramid of the batch, then a block of threads takes a tile, the cells coming largest D first."""
    if not len(centre_d):
        return
    ours, ours_d, position = cupy.asarray(counts), cupy.asarray(centre_d), cupy.asarray(centre_position)
    ends = cupy.cumsum(ours.reshape(-1), dtype=np.int64)
    brick_max = cupy.empty(counts.size, radii.dtype)
    cell_max = cupy.empty(len(cells), np.int64)
    cuda.function(SOURCE, "gather_pyramid", radii.dtype)(
        (len(cells),), (BRICKS_PER_CELL,), (ours, ends, ours_d, brick_max, cell_max)
    )
    largest_first = cupy.asnumpy(cell_max)
    shift = max(0, int(largest_first.max()).bit_length() - KEY_BITS)
    order = np.argsort(-largest_first, kind="stable")
    tiles = _tiles(radii)
    cuda.function(SOURCE, "gather", radii.dtype)(
        (math.prod(tiles),), (GATHER_THREADS,),
        (radii, *radii.shape, *tiles[1:], cupy.asarray(np.ascontiguousarray(cells - origin, np.int32)), len(cells),
         _up(order), cell_max, brick_max, ours, ends, ours_d, position, int(weight_z), int(weight_y), int(weight_x),
         int(seal_value), shift),
    )  # fmt: skip


def _up(table: npt.NDArray[Any]) -> Any:
    return cupy.asarray(np.ascontiguousarray(table, np.int64))
