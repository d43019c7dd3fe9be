"""FreeSurfer's volumes (.mgh, and .mgz in gzip): big-endian, x fastest, placed by the volume's centre in mm, RAS."""

from __future__ import annotations

import math
import struct
import zlib
from decimal import Decimal

import numpy as np

from pipeline.volume.file_header import RAS, FileHeader, placed, spacing_um
from pipeline.volume.flat import Flat, NotAVolumeError, volume_shape
from pipeline.volume.inflated import ANY_HEADER, Deflated
from pipeline.volume.ranged import HEADER_BYTES, RangedFile

TYPES = {0: "u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
HEADER = struct.Struct(">7ih15f")
VOXELS_AT = 284


def read_mgh(file: RangedFile) -> FileHeader:
    """The header of an open file. Raises ValueError for what is none, NotAVolumeError for what is no volume."""
    content = file.read_at(0, HEADER_BYTES)
    packed = content.startswith(b"\x1f\x8b")
    if packed:
        try:
            content = zlib.decompressobj(ANY_HEADER).decompress(content, VOXELS_AT)
        except zlib.error as error:
            raise ValueError(str(error)) from error
    if len(content) < HEADER.size:
        raise ValueError("it ends in its header")
    version, x, y, z, frames, kind, _, good, *numbers = HEADER.unpack_from(content)
    if version != 1:
        raise ValueError("it has no MGH header")
    if frames != 1:
        raise NotAVolumeError(f"holds {frames} volumes; store them one by one")
    if kind not in TYPES:
        raise NotAVolumeError(f"holds values of the unknown type {kind}")
    flat = Flat(VOXELS_AT, volume_shape((z, y, x)), np.dtype(TYPES[kind]))
    deflated = Deflated() if packed else None
    if not good:
        return FileHeader(
            "MGH", flat, None, None, ("does not say where it lies or how large a voxel is",), "", deflated
        )
    warnings: list[str] = []
    sides = [float(Decimal(str(np.float32(side))) * 1000) for side in numbers[:3]]
    spacing_um(sides, [Decimal(1)] * 3)
    columns = np.reshape(numbers[3:12], (3, 3)).astype(np.float64)  # a row says how an axis runs
    # The header names the centre of the volume, half-way between voxels where a side is even.
    half = sum(side * n / 2 * row for side, n, row in zip(sides, (x, y, z), columns, strict=True))
    origin = 1000 * np.asarray(numbers[12:15], np.float64) - half
    steps = [(side * row / math.hypot(*row)).tolist() for side, row in zip(sides, columns, strict=True)]
    size, placement = placed(steps[::-1], origin.tolist(), RAS, warnings)
    return FileHeader("MGH", flat, size, placement, tuple(warnings), "", deflated)
