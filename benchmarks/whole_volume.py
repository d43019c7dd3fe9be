"""The kernels on a volume in one piece, without blocks, files or Dask: what they alone can do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.volumes import Mask
from pipeline.centres import TABLE_RADIUS_VOXELS, cell_starts
from pipeline.kernels import centres, distance, tally, thickness

Array = npt.NDArray[Any]
DTYPE = np.dtype(np.int32)


@dataclass(frozen=True)
class Packed:
    """Kept centres as the gather wants them: first voxel of every cell, counts per brick, D, position in the brick."""

    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.uint16]
    centre_d: Array
    position: npt.NDArray[np.uint16]


@lru_cache(maxsize=1)
def containment_tables() -> npt.NDArray[np.int64]:
    """The tables of the pruning, made once per process as in a worker."""
    return centres.containment_tables(TABLE_RADIUS_VOXELS**2, 1, 1, 1)


def squared_distance(mask: Mask) -> Array:
    """Squared distance to the background, int32 (z, y, x)."""
    size_z, size_y, size_x = mask.shape
    infinity = distance.unreached(DTYPE)
    out = np.empty(mask.shape, DTYPE)
    distance.distance_along_lines(mask.view(np.uint8), 1, infinity, out)
    distance.envelope_along_columns(out, 1, infinity)
    distance.envelope_along_columns(out.reshape(1, size_z, size_y * size_x), 1, infinity)
    return out


def packed_centres(distances: Array) -> Packed:
    """Prune the centres and pack the rest."""
    keep = np.empty(distances.shape, np.uint8)
    total = centres.prune(distances, containment_tables(), 1, 1, 1, keep)
    shape = (distances.shape[0], distances.shape[1], distances.shape[2])
    starts = cell_starts(shape)
    counts = np.empty((len(starts), centres.BRICKS_PER_CELL), np.uint16)
    centre_d, position = np.empty(total, DTYPE), np.empty(total, np.uint16)
    filled = 0
    for i, (z, y, x) in enumerate(starts):
        stop = filled + centres.count_kept(keep, z, y, x)
        centres.pack_cell(distances, keep, z, y, x, counts[i], centre_d[filled:stop], position[filled:stop])
        filled = stop
    return Packed(np.array(starts, np.int64), counts, centre_d, position)


def squared_local_radius(mask: Mask, packed: Packed) -> Array:
    """Squared local radius, int32 (z, y, x), 0 on background."""
    seal = thickness.sealed(DTYPE)
    radii = np.empty(mask.shape, DTYPE)
    thickness.seal(mask.view(np.uint8), 1, seal, radii)
    thickness.gather(
        radii, np.zeros(3, np.int64), packed.starts, packed.counts, packed.centre_d, packed.position, 1, 1, 1, seal
    )
    thickness.unseal(radii, seal)
    return radii


def count_radii(radii: Array) -> Array:
    """Voxels per squared radius, in no particular order."""
    return tally.count_pairs(radii, np.zeros((1, 1, 1), np.int64))[2]


def distance_and_thickness(mask: Mask) -> Array:
    """Squared local radius from the mask: all that a peer does."""
    return squared_local_radius(mask, packed_centres(squared_distance(mask)))


def compile_kernels() -> None:
    """Compile everything, or load it from the cache, so that it is not timed."""
    mask = np.zeros((3, 4, 5), np.bool_)
    mask[1] = True
    count_radii(distance_and_thickness(mask))
