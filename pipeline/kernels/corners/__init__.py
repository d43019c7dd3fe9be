"""How often each label has each of the 256 codes of a 2×2×2 neighbourhood, all labels in one pass.

A corner is where eight voxels meet; corner k of an axis lies between the voxels k − 1 and k. Its code for a label has
a bit for each of the eight voxels that has the label, 128 for the one with the lowest (z, y, x), then along x, y and
z down to 1 for the highest: the code of google-deepmind's surface-distance. Surface area and Euler number are sums of
a table over the codes, and every corner belongs to one block, so the counts of blocks add up. Label 0 stands for the
foreground, the mask of any label at all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels import backends
from pipeline.kernels.backends import Voxels
from pipeline.kernels.tables import slots_for

FOREGROUND = 0
"""The label, and the row, of the corners of any label."""
CODES = 256
MOST_SLOTS = 1 << 15
"""Slots of the table on a GPU; labels that fill more than half of it are counted in spans of lines."""
_SLOT_BYTES = 8 + 4 * CODES + (8 + 4 * CODES) // 2


def count_corner_codes(
    volume: Voxels, start: tuple[int, int, int], stop: tuple[int, int, int]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The codes of the corners start ≤ k < stop of a label volume, outside of which there is background.

    volume : unsigned, contiguous labels (z, y, x); 0 is background. start, stop : corners (z, y, x), from 0 to the
    voxels of the axis + 1. Returns the labels that have a mixed corner, uint64 (n,), and how many corners have which
    code, int64 (n, 256); first label 0, which stands for the foreground: any label at all. The codes 0 and 255 (no
    voxel or all eight) are not counted: they have no part in any surface. Both results are on the host, and take 2 kB
    a label. On a GPU it takes at most `table_bytes` while it works.
    """
    labels, counts = backends.twin(__name__, volume).count_corner_codes(volume, start, stop)
    return labels, counts


def most_slots(size_x: int) -> int:
    """Slots of the largest table on a GPU, which holds the labels of any line of corners between so many voxels."""
    return max(MOST_SLOTS, slots_for(4 * size_x))


def table_bytes(size_x: int) -> int:
    """Most bytes that the table takes on a GPU, and the rows that are collected from it while half of it is full."""
    return most_slots(size_x) * _SLOT_BYTES
