"""MRC of electron microscopy (.mrc, .map, .rec, .st; CCP4): modes 0, 1, 2, 6 and 12, lengths in ångström.

Columns, rows and sections may run along any axis; the origin in Å counts where one is stated.
"""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

import numpy as np

from pipeline.placement import Placement
from pipeline.volume.file_header import FileHeader, in_um, spacing_um
from pipeline.volume.flat import Flat, NotAVolumeError, volume_shape
from pipeline.volume.ranged import RangedFile

HEADER_BYTES = 1024
UM_PER_ANGSTROM = Decimal("1e-4")
MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
OLD_IMOD = 1146047817
"""The stamp of IMOD, which stored bytes without sign unless a flag says otherwise."""


def read_mrc(file: RangedFile) -> FileHeader:
    """The header of an open file. Raises ValueError for what is none, NotAVolumeError for what is no volume."""
    head = file.read_at(0, HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise ValueError("it has no MRC header")
    order = next((mark for mark in "<>" if set(struct.unpack_from(f"{mark}3i", head, 64)) in ({1, 2, 3}, {0})), None)
    if order is None:
        raise ValueError("it has no MRC header")

    def read(form: str, position: int) -> Any:
        return struct.unpack_from(order + form, head, position)

    *sides, mode = read("4i", 0)
    grid, cell, axes, extra = read("3i", 28), read("3f", 40), read("3i", 64), read("i", 92)[0]
    if not min(sides) > 0 or not 0 <= extra < file.size:
        raise ValueError("it has no MRC header")
    if mode not in MODES:
        raise NotAVolumeError(
            f"holds values of mode {mode}, and modes 0, 1, 2, 6 and 12 are read; convert it (newstack)"
        )
    code = MODES[mode]
    stamp, flags = read("2i", 152)
    if mode == 0 and stamp == OLD_IMOD and not flags & 1:
        code = "u1"
    # Columns run fastest; each runs along the axis of this number.
    names = ["xyz"[axis - 1] if axis else "xyz"[n] for n, axis in enumerate(axes)]
    by_name = dict(zip(names, sides, strict=True))
    shape = volume_shape([by_name[axis] for axis in "zyx"])
    flat = Flat(HEADER_BYTES + extra, shape, np.dtype(order + code), "".join(reversed(names)))
    if any(n <= 0 for n in grid) or any(not side > 0 for side in cell):
        return FileHeader("MRC", flat)
    lengths = [float(np.float32(side)) / n for side, n in zip(cell, grid, strict=True)][::-1]
    size = spacing_um([float(f"{length:.7g}") for length in lengths], [UM_PER_ANGSTROM] * 3)
    angles = read("3f", 52)
    warnings: tuple[str, ...] = ()
    if any(angle and abs(angle - 90) > 1e-3 for angle in angles):
        shown = ", ".join(f"{angle:g}" for angle in angles)
        warnings = (
            f"has a cell with the angles {shown}°; volumes and distances are those of a grid with right angles",
        )
    origin, start = read("3f", 196)[::-1], read("3i", 16)
    placement = None
    if any(origin):
        z, y, x = (in_um(float(str(np.float32(value))), UM_PER_ANGSTROM) for value in origin)
        placement = Placement((z, y, x))
    elif any(start) and size is not None:
        first = dict(zip(names, start, strict=True))
        z, y, x = (first[axis] * side for axis, side in zip("zyx", size.um, strict=True))
        placement = Placement((z, y, x))
    return FileHeader("MRC", flat, size, placement, warnings)
