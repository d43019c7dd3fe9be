"""The kernels on a volume in one piece, without blocks, files or Dask: what they alone can do.

Masks and distances lie on the host or on a GPU; the work is done where they lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.volumes import Mask
from pipeline.centres import TABLE_RADIUS_VOXELS, cell_starts
from pipeline.kernels import centres, corners, distance, structures, surface, tally, thickness

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
    out: Array = np.empty_like(mask, dtype=DTYPE)
    distance.distance_along_lines(mask.view(np.uint8), 1, infinity, out)
    distance.envelope_along_columns(out, 1, infinity)
    distance.envelope_along_columns(out.reshape(1, size_z, size_y * size_x), 1, infinity)
    return out


def packed_centres(distances: Array) -> Packed:
    """Prune the centres and pack the rest."""
    keep: Array = np.empty_like(distances, dtype=np.uint8)
    total = centres.prune(distances, containment_tables(), 1, 1, 1, keep)
    starts = np.array(cell_starts((distances.shape[0], distances.shape[1], distances.shape[2])), np.int64)
    return Packed(starts, *centres.pack_cells(distances, keep, starts, total))


def squared_local_radius(mask: Mask, packed: Packed) -> Array:
    """Squared local radius, int32 (z, y, x), 0 on background."""
    seal = thickness.sealed(DTYPE)
    radii: Array = np.empty_like(mask, dtype=DTYPE)
    thickness.seal(mask.view(np.uint8), 1, seal, radii)
    thickness.gather(
        radii, np.zeros(3, np.int64), packed.starts, packed.counts, packed.centre_d, packed.position, 1, 1, 1, seal
    )
    thickness.unseal(radii, seal)
    return radii


def thickness_um(radii: Array) -> Array:
    """Local thickness with voxels of 1 µm, float32 (z, y, x), in the memory of the radii."""
    out = radii.view(np.float32)
    thickness.to_thickness(radii, 1.0, out)
    return out


def count_radii(radii: Array) -> Array:
    """Voxels per squared radius, in no particular order."""
    return tally.count_pairs(radii, np.zeros((1, 1, 1), np.int64))[2]


def distance_and_thickness(mask: Mask) -> Array:
    """Squared local radius from the mask: all that a peer does."""
    return squared_local_radius(mask, packed_centres(squared_distance(mask)))


def compare(reference: Array, prediction: Array, grey: Array) -> int:
    """What only a comparison needs: overlap and corner codes of all labels, and surface distances of the foreground.

    reference, prediction, grey : unsigned, one shape (z, y, x). Returns the surface elements that were counted.
    """
    shape = reference.shape
    widths = (reference.itemsize, prediction.itemsize, grey.itemsize)
    bytes_of = [volume.view(np.uint8) for volume in (reference, prediction, grey)]
    structures.count_structures(bytes_of[0], bytes_of[1], bytes_of[2], widths, (0, 0, 0), 0, shape[0])
    stop = (shape[0] + 1, shape[1] + 1, shape[2] + 1)
    for volume in (reference, prediction):
        corners.count_corner_codes(volume, (0, 0, 0), stop)
    found = []
    for volume in (reference, prediction):
        padded: Array = np.zeros_like(volume, np.uint8, shape=(shape[0] + 2, shape[1] + 2, shape[2] + 2))
        padded[1:-1, 1:-1, 1:-1] = volume != 0
        padded = distance.unpack_bits(distance.pack_bits(padded), padded.shape[2])  # as masks travel
        found.append((surface.surface_voxels(padded), surface.mixed_corners(surface.corner_codes(padded, stop))))
    (voxels, (mixed, codes)), (other_voxels, (other_mixed, _)) = found
    counted = 0
    for ours, theirs, listed in ((voxels, other_voxels, np.empty(0, np.uint8)), (mixed, other_mixed, codes)):
        distances = squared_distance((theirs ^ 1).view(np.bool_))
        counted += int(surface.count_distances(distances, ours, listed, distance.unreached(DTYPE))[2].sum())
    return counted


def compile_kernels() -> None:
    """Compile everything, or load it from the cache, so that it is not timed."""
    mask = np.zeros((3, 4, 5), np.bool_)
    mask[1] = True
    count_radii(distance_and_thickness(mask))
