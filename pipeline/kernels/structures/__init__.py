"""What two label volumes and a grey one say about each other, in one pass over a block.

Everything is kept per PAIR of (reference label, predicted label) that occurs and is not (0, 0): voxels, sums of the
coordinates, bounding box and the histogram of grey values. The numbers of a label of either volume are sums over its
pairs, so one look-up per run of voxels serves both volumes.

Labels and grey values are opaque patterns of one to eight bytes here, whatever their type: no value is ever rounded,
and the kernel is compiled once, not for each of a hundred combinations of types.

On a GPU the grey values are counted there too: whoever counts them needs the pair of every voxel, so leaving them to
the CPU would leave it all of the work.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels import backends
from pipeline.kernels.backends import Voxels

Tables = tuple[
    npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64],
    npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.int64],
]  # fmt: skip
"""Of pairs: labels (n, 2), voxels, sums (n, 3), boxes (n, 6); of grey values: row, pattern, voxels. On the host."""

MOST_SLOTS = 1 << 19
"""Slots of the table of pairs on a GPU; what fills more than half of a table is counted in spans of lines."""
VALUE_SLOTS = 4
"""Slots of the table of grey values on a GPU for each of that of pairs."""
LONGEST_SIDE = 1 << 15
"""Sides of a block on a GPU, in voxels."""


def count_structures(
    reference: Voxels, prediction: Voxels, grey: Voxels, widths: tuple[int, int, int],
    first: tuple[int, int, int], z_start: int, z_stop: int,
) -> Tables:  # fmt: skip
    """Every pair of labels in a block but (0, 0), with what is needed of it; rows in no particular order.

    reference, prediction, grey : the bytes of three volumes, uint8 (z, y, x · width), contiguous, lowest byte first.
    widths : their bytes per voxel, 1, 2, 4 or 8; 0 for a prediction or a grey volume that is not there.
    first : the voxel (z, y, x) of both label volumes where the block begins; it reaches to their end. The grey volume
    is that of the block alone. z_start, z_stop : the layers of the block that are counted.

    Returns per pair: labels uint64 (n, 2), voxels int64 (n,), sums of the coordinates from the block's first voxel
    int64 (n, 3), bounding box int64 (n, 6) as three first and three last voxels; and per (pair, grey value): row of
    the pair int64 (m,), pattern uint64 (m,), voxels int64 (m,). A block has fewer than 2³² voxels.
    On a GPU it takes at most `table_bytes` while it works, and sides of at most LONGEST_SIDE.
    """
    tables: Tables = backends.twin(__name__, reference).count_structures(
        reference, prediction, grey, widths, first, z_start, z_stop
    )
    return tables


def table_bytes(*, grey: bool) -> int:
    """Most bytes that the tables take on a GPU, with the rows that are collected while half of them is full.

    grey : whether there is a grey volume.
    """
    pairs = 68 + 96 // 2
    values = 12 + VALUE_SLOTS * (12 + 24 // 2) if grey else 0
    return MOST_SLOTS * max(pairs, values)
