"""Exact squared distance to the background, one axis after the other, block by block.

The squared Euclidean distance is separable: along x, then y, then z, every column is replaced by the lower
envelope of the parabolas that stand on its voxels (Felzenszwalb & Huttenlocher 2012, Meijster et al. 2000; all
intersections are integers here). A column that is cut by block faces needs of the blocks beyond only the parabolas
that are the lowest somewhere on this side of the face: `export_parabolas` finds them, `relax_parabolas` lowers a
column by them. A parabola that is nowhere lowest beyond the face can never matter there, so any radius is exact.

Layout: a column axis is the middle one of a contiguous array (outer, n, inner); x is (z·y, x, 1), y is (z, y, x)
and z is (1, z, y·x). Distances are int32 or int64 in units of unit_um²; UNREACHED stands for "no background yet".

Voxels stay where they live, on the host or on a GPU; parabolas are always on the host, where they become files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels import backends
from pipeline.kernels.backends import Voxels

Parabolas = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16], npt.NDArray[Any]]
"""Of all columns: how many (outer·inner), then depth and height, one column after the other; on the host."""


def unreached(dtype: npt.DTypeLike) -> int:
    """The value that stands for "no background found yet"; every real distance is smaller."""
    return int(np.iinfo(np.dtype(dtype)).max)


def unpack_bits(packed: Voxels, size_x: int) -> Voxels:
    """Foreground as 0 and 1, uint8 (z, y, x), from bits along x: uint8 (z, y, ⌈x/8⌉) as numpy.packbits makes them.

    Takes 1 byte a voxel for the result.
    """
    mask: Voxels = backends.twin(__name__, packed).unpack_bits(packed, size_x)
    return mask


def pack_bits(mask: Voxels) -> Voxels:
    """Bits along x, uint8 (z, y, ⌈x/8⌉), from a mask of 0 and 1, uint8 (z, y, x); the inverse of `unpack_bits`."""
    packed: Voxels = backends.twin(__name__, mask).pack_bits(mask)
    return packed


def unswept(mask: Voxels, dtype: npt.DTypeLike) -> Voxels:
    """Distances (z, y, x) before the first axis: 0 on the background, `unreached` on the foreground (mask 1).

    Takes 4 or 8 bytes a voxel for the result.
    """
    distances: Voxels = backends.twin(__name__, mask).unswept(mask, dtype)
    return distances


def distance_along_lines(mask: Voxels, weight: int, infinity: int, out: Voxels) -> None:
    """Squared distance to the nearest background voxel of the same x-line of the block, into out (z, y, x).

    mask : uint8 (z, y, x), 0 is background. infinity : `unreached`, where a line has no background.
    """
    backends.twin(__name__, mask).distance_along_lines(mask, weight, infinity, out)


def envelope_along_columns(distances: Voxels, weight: int, infinity: int) -> None:
    """Replace every column of distances (outer, n, inner) by its lower envelope, in place.

    On a GPU it takes a second array of distances while it works: 4 or 8 bytes a voxel.
    """
    backends.twin(__name__, distances).envelope_along_columns(distances, weight, infinity)


def export_parabolas(distances: Voxels, weight: int, infinity: int, reach: int, from_high_face: bool) -> Parabolas:
    """The parabolas of every column that are lowest somewhere beyond one face, nearest reign first.

    distances : (outer, n, inner). reach : voxels of the volume beyond the face; nothing is exported where it is 0.
    depth counts voxels from the face voxel (0 is on it); height has the dtype of distances. Of parabolas that are
    lowest at the same voxels one is exported: the deepest, but the shallowest at the voxel next to the face.
    On a GPU it takes 12 bytes a column and 6 or 10 bytes a parabola while it works.
    """
    parabolas: Parabolas = backends.twin(__name__, distances).export_parabolas(
        distances, weight, infinity, reach, from_high_face
    )
    return parabolas


def relax_parabolas(
    distances: Voxels, weight: int, gap: int, from_high_side: bool,
    counts: npt.NDArray[np.uint32], depth: npt.NDArray[np.uint16], height: npt.NDArray[Any],
) -> None:  # fmt: skip
    """Lower every column of distances (outer, n, inner) by the parabolas that another block exported to it, in place.

    gap : distance in voxels between this block's face voxel and the exporting block's face voxel.
    The difference of two parabolas of one width is linear, so once the column is lower than all of them it stays so.
    On a GPU it takes 12 bytes a column and 6 or 10 bytes a parabola while it works.
    """
    backends.twin(__name__, distances).relax_parabolas(distances, weight, gap, from_high_side, counts, depth, height)


def relax_wall(distances: Voxels, weight: int, gap: int, from_high_side: bool) -> None:
    """Lower every column of distances (outer, n, inner) by a wall of background gap voxels before its face voxel."""
    backends.twin(__name__, distances).relax_wall(distances, weight, gap, from_high_side)
