"""MetaImage of ITK (.mha, and .mhd with its data in another file): raw or zlib, oblique or not.

Its frame counts to the left and to the back (LPS); lengths are mm unless DistanceUnits says otherwise.
"""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np

from pipeline.geometry import VoxelSize
from pipeline.placement import Placement
from pipeline.volume.file_header import LPS, FileHeader, beside, in_um, placed
from pipeline.volume.flat import Flat, NotAVolumeError, volume_shape
from pipeline.volume.inflated import Deflated
from pipeline.volume.metadata import unit_um
from pipeline.volume.ranged import HEADER_BYTES, RangedFile
from pipeline.volume.stores import open_store

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
CONVERT = "write it anew in one file (SimpleITK)"


def read_meta_image(file: RangedFile) -> FileHeader:
    """The header of an open file. Raises ValueError for what is none, NotAVolumeError for what is no volume."""
    fields, end = _fields(file)
    shape = [int(size) for size in fields["DimSize"].split()]
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    if channels != 1:
        raise NotAVolumeError(f"has {channels} values in each voxel; a grey volume is needed")
    if len(shape) != int(fields.get("NDims", len(shape))):
        raise ValueError(f"its NDims is {fields['NDims']}, its DimSize has {len(shape)}")
    dimensions = len(shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    size = volume_shape(shape[::-1])
    code = TYPES.get(fields["ElementType"].removesuffix("_ARRAY"))
    if code is None:
        raise NotAVolumeError(f"holds values of type {fields['ElementType']}; integer or float is needed")
    if not _true(fields.get("BinaryData", "True")):
        raise NotAVolumeError(f"holds its voxels as text; {CONVERT}")
    big = _true(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")))
    dtype = np.dtype(code).newbyteorder(">" if big else "<")
    warnings: list[str] = []
    voxel_size, placement = _in_space(fields, dimensions, warnings)
    name, data, start = fields["ElementDataFile"], "", end
    if name.upper().startswith("LIST") or "%" in name:
        raise NotAVolumeError(f"has its voxels in several files ({name}); {CONVERT}")
    if name.upper() != "LOCAL":
        data, start = beside(file.store.location, name), 0
    skip = int(fields.get("HeaderSize", "0"))
    deflated: Deflated | None = None
    if _true(fields.get("CompressedData", "False")):
        flat, deflated = Flat(0, size, dtype), Deflated(start + max(0, skip))
    elif skip == -1:
        held = RangedFile(open_store(data)) if data else file
        flat = Flat(held.size - math.prod(size) * dtype.itemsize, size, dtype)
    else:
        flat = Flat(start + skip, size, dtype)
    return FileHeader("MetaImage", flat, voxel_size, placement, tuple(warnings), data, deflated)


def _fields(file: RangedFile) -> tuple[dict[str, str], int]:
    """Fields by their names, and where the line of ElementDataFile ends."""
    content, fields, position = file.read_at(0, HEADER_BYTES), {}, 0
    while "ElementDataFile" not in fields:
        end = content.find(b"\n", position)
        end = len(content) if end < 0 else end + 1
        name, equals, value = content[position:end].decode("latin-1").partition("=")
        if not equals or not name.strip().isidentifier():
            raise ValueError("it has no MetaImage header that ends with ElementDataFile")
        fields[name.strip()], position = value.strip(), end
    missing = [name for name in ("DimSize", "ElementType") if name not in fields]
    if missing:
        raise ValueError(f"its header lacks {', '.join(missing)}")
    return fields, position


def _in_space(
    fields: dict[str, str], dimensions: int, warnings: list[str]
) -> tuple[VoxelSize | None, Placement | None]:
    spacing = _numbers(fields, "ElementSpacing", "ElementSize")
    if not spacing:
        return None, None
    named = fields.get("DistanceUnits", "?")
    unit = unit_um(named)
    if unit is None:
        warnings.append("does not say in which unit its voxel size is, so it is taken for mm")
        unit = Decimal(1000)
    origin = _numbers(fields, "Offset", "Position", "Origin")
    matrix = _numbers(fields, "TransformMatrix", "Rotation", "Orientation")
    rows = np.eye(3).tolist()  # a row says how an axis of the array runs
    if matrix:
        rows = np.reshape(matrix, (dimensions, dimensions))[:3, :3].tolist()
    steps = [[in_um(side, unit) * part for part in row] for side, row in zip(spacing[:3], rows, strict=True)]
    size, placement = placed(steps[::-1], [in_um(value, unit) for value in (origin or [0.0] * 3)[:3]], LPS, warnings)
    return size, placement if origin else None


def _numbers(fields: dict[str, str], *names: str) -> list[float]:
    stated = next((fields[name] for name in names if name in fields), "")
    return [float(word) for word in stated.split()]


def _true(text: str) -> bool:
    return text.strip().lower() in ("true", "1")
