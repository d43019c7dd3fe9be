"""Exact local thickness of a block: the balls of all blocks that reach it, in batches of bounded memory.

T(p) = max { D(q) : |p − q|² < D(q) } (strict: open balls) for foreground p, 0 on background; local thickness is the
diameter 2·√T in µm (Hildebrand & Rüegsegger 1997).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.centres import Cells, cell_table_bytes, cells_in_reach, centre_bytes, read_centres
from pipeline.distance import Field
from pipeline.geometry import Index
from pipeline.kernels import centres as centre_kernels
from pipeline.kernels import thickness as kernels

Array = npt.NDArray[Any]


def batch_bytes(voxels: int, dtype: npt.DTypeLike) -> int:
    """Memory for a batch of centres: as much as the block's own centres can take, and never less than one cell."""
    cell = centre_kernels.CELL**3
    return max(voxels, cell) * centre_bytes(dtype) + cell_table_bytes()


def _next_batch(cells: Cells, budget: int, dtype: npt.DTypeLike) -> int:
    """How many of the leading cells fit the budget."""
    needed = np.cumsum(cells.count * centre_bytes(dtype) + cell_table_bytes())
    return max(1, int(np.searchsorted(needed, budget, side="right")))


def squared_local_radius(
    field: Field, block: Index, mask: npt.NDArray[np.uint8], largest: npt.NDArray[np.int64], *,
    batch_divisor: int = 1,
) -> Array:  # fmt: skip
    """T of a block, exact for the whole volume.

    mask : 0 or 1 (z, y, x) of the block; the result lies where it lies. largest : the largest kept D of every block
    (grid.counts). batch_divisor : how much smaller than usual the batches of centres are.
    Returns int32 or int64 (z, y, x) in units of unit_um², 0 on background.
    """
    seal = kernels.sealed(field.dtype)
    box = field.grid.box(block)
    radii: Array = np.empty_like(mask, dtype=field.dtype)
    kernels.seal(mask, min(field.weights), seal, radii)
    origin = np.array(box.start, np.int64)
    cells = cells_in_reach(field, block, largest)
    while len(cells):
        n = _next_batch(cells, batch_bytes(box.voxels, field.dtype) // batch_divisor, field.dtype)
        batch, cells = cells.take(np.s_[:n]), cells.take(np.s_[n:])
        kernels.gather(radii, origin, batch.start, *read_centres(batch, field.dtype), *field.weights, seal)
        if len(cells):
            minima = kernels.tile_minima(radii)
            useful = kernels.still_useful(minima, origin, cells.start, cells.largest, *field.weights)
            cells = cells.take(np.flatnonzero(useful))
    kernels.unseal(radii, seal)
    return radii


def thickness_um(radii: Array, unit_um: float) -> npt.NDArray[np.float32]:
    """Local thickness (diameter) in µm as float32 (z, y, x), 0 on background; int32 radii are overwritten by it."""
    out = (
        radii.view(np.float32) if radii.itemsize == np.dtype(np.float32).itemsize else np.empty_like(radii, dtype="f4")
    )
    kernels.to_thickness(radii, unit_um, out)
    return out
