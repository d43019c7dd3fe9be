"""Count the voxels of every (label, squared radius): the mergeable summary of a block of thickness.

Radii stay where they live, on the host or on a GPU; labels are read from a file and so are always on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels import backends
from pipeline.kernels.backends import Voxels

Counts = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Labels, squared radii and voxels, of one length; on the host."""


def count_pairs(radii: Voxels, region: npt.NDArray[Any]) -> Counts:
    """Every pair of (label, squared radius > 0) with its number of voxels, in no particular order.

    radii : squared radii (z, y, x), 0 on background. region : integer labels of the same shape, or of shape
    (1, 1, 1) when all voxels have that one label. Returns labels, squared radii and voxels, int64.
    On a GPU it takes the labels' own bytes a voxel and 56 to 88 bytes a pair while it works, at least 1 MiB.
    """
    counts: Counts = backends.twin(__name__, radii).count_pairs(radii, region)
    return counts
