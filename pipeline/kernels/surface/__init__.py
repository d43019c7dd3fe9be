"""What a block knows of the surface of a mask: its elements, the distances found at them, and the layers below it.

Two kinds of surface elements: surface voxels (mask voxels with a background voxel among their six neighbours) and
corners of voxels whose eight voxels are neither all background nor all mask. The code of a corner (z, y, x) has a bit
for each voxel around it, most significant first: (z−1, y−1, x−1), (z−1, y−1, x), (z−1, y, x−1), (z−1, y, x),
(z, y−1, x−1), (z, y−1, x), (z, y, x−1), (z, y, x), the order of google-deepmind/surface-distance.

Masks are uint8 of 0 and 1 (z, y, x). Elements and distances stay where they live, on the host or on a GPU; lists of
codes and of counts are on the host. Layers are found by looking at most `reach` voxels far, which is exact below it;
they are found on the host alone: that takes a few looks at bytes and 16-bit integers a voxel where the distances of a
label take twelve sweeps, and the threads of a worker do it while its GPU works for others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels import backends
from pipeline.kernels.backends import Voxels

Mask = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.int16]
Counts = npt.NDArray[np.int64]

UNREACHABLE = 2**53
"""Squared distance to a surface that has no elements; every real one is less."""

MOST_SLOTS = 1 << 21
"""Slots of the table of distances on a GPU; more than half as many are counted in spans of lines."""


def surface_voxels(padded: Voxels) -> Voxels:
    """The mask voxels with a background voxel among their six neighbours (1, else 0).

    padded : the mask with one voxel more on every side. Returns (z, y, x) without them.
    """
    voxels: Voxels = backends.twin(__name__, padded).surface_voxels(padded)
    return voxels


def corner_codes(padded: Voxels, shape: tuple[int, int, int]) -> Voxels:
    """The code of every corner of a block, from its low corner on.

    padded : the mask of the block with one voxel more on every side. shape : corners wanted (z, y, x); one more than
    the block has voxels where it also owns the closing plane of the volume.
    """
    codes: Voxels = backends.twin(__name__, padded).corner_codes(padded, shape)
    return codes


def mixed_corners(codes: Voxels) -> tuple[Voxels, Mask]:
    """The corners that are elements (1, else 0), and their codes in C order, on the host.

    On a GPU it takes 13 bytes a line and 2 a corner while it works.
    """
    elements, listed = backends.twin(__name__, codes).mixed_corners(codes)
    return elements, listed


def count_distances(distances: Voxels, elements: Voxels, codes: Mask, unreached: int) -> tuple[Counts, Counts, Counts]:
    """Every pair of (squared distance, code) with its number of elements, in no particular order.

    distances : squared distances (z, y, x), less than UNREACHABLE, or `unreached`, which is counted as UNREACHABLE.
    elements : where to count (1). codes : those of the elements in C order, on the host, or empty for code 0. Returns
    squared distances, codes and elements, int64, on the host.
    On a GPU it takes 12 bytes a line, a byte a code, and `table_bytes` while it works.
    """
    squared_distance, code, count = backends.twin(__name__, distances).count_distances(
        distances, elements, codes, unreached
    )
    return squared_distance, code, count


def table_bytes() -> int:
    """Most bytes that the table of distances takes on a GPU."""
    return MOST_SLOTS * (8 + 4)


def squared_depth(border: Mask, reach: int) -> Depth:
    """Squared Euclidean distance to the nearest border voxel (1), in voxels; reach² stands for reach² or more.

    reach : at most 128.
    """
    depth: Depth = backends.twin(__name__, border).squared_depth(border, reach)
    return depth


def chebyshev_depth(mask: Mask, reach: int) -> Depth:
    """Chebyshev distance to the nearest background voxel (0): n-fold 26-erosion keeps what lies deeper than n.

    reach stands for reach or more.
    """
    depth: Depth = backends.twin(__name__, mask).chebyshev_depth(mask, reach)
    return depth


def count_layers(
    mask_a: Mask, depth_a: Depth, mask_b: Mask, depth_b: Depth, limits: npt.NDArray[np.int64]
) -> tuple[Counts, Counts]:
    """Per limit the voxels that lie in both layers and in either; a layer holds the mask voxels of depth < limit."""
    both, either = backends.twin(__name__, mask_a).count_layers(mask_a, depth_a, mask_b, depth_b, limits)
    return both, either
