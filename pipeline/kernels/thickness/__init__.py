"""Squared local radius by gathering: every tile collects the balls that reach it, largest first.

T(p) = max { D(q) : |p − q|² < D(q) } over the kept centres q, for a tile of TILE³ voxels at a time. Bricks of centres
that can reach the tile are visited in descending order of their largest D; the visit ends when that is no larger
than the smallest T of the tile's foreground. A centre is tested against sub-tiles (does its ball reach one whose
smallest T is still below D?), and updates those that remain, many voxels at once. A maximum does not depend on the
order, so tiles, batches of centres and blocks may come in any order with the same result.

T (z, y, x) is updated in place, so centres can come in batches. Background voxels hold `sealed(dtype)` during the
gather, which no ball can raise and no minimum sees; `seal` and `unseal` put it there and take it away.

T stays where it lives, on the host or on a GPU; centres and cells come from the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels import backends
from pipeline.kernels.backends import Voxels

TILE = 16
"""Side of a tile in voxels."""


def sealed(dtype: npt.DTypeLike) -> int:
    """The value that background voxels hold while balls are gathered."""
    return int(np.iinfo(np.dtype(dtype)).max)


def seal(mask: Voxels, smallest: int, seal_value: int, out: Voxels) -> None:
    """Begin: the smallest possible squared radius on the foreground, seal_value on the background."""
    backends.twin(__name__, mask).seal(mask, smallest, seal_value, out)


def unseal(radii: Voxels, seal_value: int) -> None:
    """End: 0 on the background."""
    backends.twin(__name__, radii).unseal(radii, seal_value)


def to_thickness(radii: Voxels, unit_um: float, out: Voxels) -> None:
    """Local thickness = diameter = 2·√T·unit_um, in µm, rounded once to float32; 0 on background.

    out : float32 (z, y, x); it may be the memory of radii.
    """
    backends.twin(__name__, radii).to_thickness(radii, unit_um, out)


def tile_minima(radii: Voxels) -> Voxels:
    """Smallest value of every tile (z, y, x of tiles)."""
    minima: Voxels = backends.twin(__name__, radii).tile_minima(radii)
    return minima


def still_useful(
    minima: Voxels, origin: npt.NDArray[np.int64], cells: npt.NDArray[np.int64], cell_max: npt.NDArray[np.int64],
    weight_z: int, weight_y: int, weight_x: int,
) -> npt.NDArray[np.bool_]:  # fmt: skip
    """Which cells of centres may still raise a voxel: they reach a tile whose smallest T is below their largest D.

    minima : of `tile_minima`. origin, cells (c, 3), cell_max (c,) and the result : on the host.
    """
    useful: npt.NDArray[np.bool_] = backends.twin(__name__, minima).still_useful(
        minima, origin, cells, cell_max, weight_z, weight_y, weight_x
    )
    return useful


def gather(
    radii: Voxels, origin: npt.NDArray[np.int64], cells: npt.NDArray[np.int64], counts: npt.NDArray[np.uint16],
    centre_d: npt.NDArray[Any], centre_position: npt.NDArray[np.uint16],
    weight_z: int, weight_y: int, weight_x: int, seal_value: int,
) -> None:  # fmt: skip
    """Raise radii (z, y, x), in place, by the balls of a batch of centres.

    origin : position of radii[0, 0, 0] in the volume. cells : (c, 3) first voxel of each cell in the volume.
    counts : (c, BRICKS_PER_CELL) centres per brick. centre_d, centre_position : all centres, cell by cell, brick by
    brick, largest D first. All of these are on the host; on a GPU their copies and the pyramid take 6 or 10 bytes a
    centre and 14 or 18 bytes a brick while it works.
    """
    backends.twin(__name__, radii).gather(
        radii, origin, cells, counts, centre_d, centre_position, weight_z, weight_y, weight_x, seal_value
    )
