"""Image data of VTK and ParaView: legacy .vtk (STRUCTURED_POINTS, binary) and .vti (raw, in the file or appended).

VTK knows no units, so a voxel size has to be given. The last scalars of points or cells are the voxels; x runs fastest.
"""

from __future__ import annotations

import re
import struct
from typing import Any
from xml.etree import ElementTree

import numpy as np

from pipeline.volume.file_header import FileHeader
from pipeline.volume.flat import Flat, NotAVolumeError, volume_shape
from pipeline.volume.ranged import HEADER_BYTES, RangedFile

LEGACY = {
    "unsigned_char": "u1", "char": "i1", "signed_char": "i1", "unsigned_short": "u2", "short": "i2",
    "unsigned_int": "u4", "int": "i4", "vtktypeint64": "i8", "vtktypeuint64": "u8", "long": "i8", "unsigned_long": "u8",
    "float": "f4", "double": "f8",
}  # fmt: skip
XML = {
    "Int8": "i1", "UInt8": "u1", "Int16": "i2", "UInt16": "u2", "Int32": "i4", "UInt32": "u4", "Int64": "i8",
    "UInt64": "u8", "Float32": "f4", "Float64": "f8",
}  # fmt: skip
SCALARS = re.compile(
    r"^(POINT_DATA|CELL_DATA)\s+\d+\s*\n"
    r"(?:SCALARS\s+\S+\s+(\w+)(?:[ \t]+(\d+))?\s*\nLOOKUP_TABLE\s+\S+|COLOR_SCALARS\s+\S+\s+(\d+))[ \t]*\r?\n",
    re.MULTILINE | re.IGNORECASE,
)
"""As colours VTK writes bytes without sign."""
CONVERT = "write it anew as raw appended .vti without compression (ParaView), or as .mha"


def read_vtk(file: RangedFile) -> FileHeader:
    """The header of an open legacy file. Raises ValueError for what is none, NotAVolumeError for what is no volume."""
    content = file.read_at(0, HEADER_BYTES)
    if not content.startswith(b"# vtk DataFile"):
        raise ValueError("it has no VTK header")
    head = content.split(b"\n", 3)
    if head[2].strip().upper() != b"BINARY":
        raise NotAVolumeError(f"holds its voxels as text; {CONVERT}")
    text = content.decode("latin-1")
    if not re.search(r"^DATASET\s+STRUCTURED_POINTS", text, re.MULTILINE | re.IGNORECASE):
        raise NotAVolumeError(f"is no image (STRUCTURED_POINTS); {CONVERT}")
    fields = {name: _words(text, name) for name in ("DIMENSIONS", "SPACING", "ASPECT_RATIO")}
    if fields["DIMENSIONS"] is None:
        raise ValueError("its header lacks DIMENSIONS")
    sides = [int(side) for side in fields["DIMENSIONS"]]
    found = SCALARS.search(text)
    if found is None:
        raise NotAVolumeError(f"holds no scalars right behind its header; {CONVERT}")
    if found[1].upper() == "CELL_DATA":
        sides = [max(1, side - 1) for side in sides]
    kind, components = found[2] or "unsigned_char", found[3] or found[4] or "1"
    code = LEGACY.get(kind.lower())
    if code is None or components != "1":
        raise NotAVolumeError(f"holds {components} values of type {kind} in each voxel; a grey volume is needed")
    flat = Flat(found.end(), volume_shape(sides[::-1]), np.dtype(code).newbyteorder(">"))
    spacing = fields["SPACING"] or fields["ASPECT_RATIO"]
    return FileHeader("VTK", flat, warnings=_without_unit(spacing))


def read_vti(file: RangedFile) -> FileHeader:
    """The header of an open XML file. Raises ValueError for what is none, NotAVolumeError for what is no volume."""
    content = file.read_at(0, HEADER_BYTES)
    begin = content.find(b"<AppendedData")
    start = content.find(b"_", content.find(b">", begin)) + 1 if begin >= 0 else 0
    if b"<VTKFile" not in content[:4096]:
        raise ValueError("it has no VTK header")
    if not start:
        raise NotAVolumeError(f"has its voxels within its header; {CONVERT}")
    root: Any = ElementTree.fromstring(content[:begin] + b"</VTKFile>")
    image = root.find("ImageData")
    if image is None:
        raise NotAVolumeError(f"is no image (ImageData); {CONVERT}")
    if root.get("compressor"):
        raise NotAVolumeError(f"is compressed; {CONVERT}")
    encoding = re.search(rb'encoding="(\w+)"', content[begin:start])
    if encoding is None or encoding[1] != b"raw":
        raise NotAVolumeError(f"has its voxels as text; {CONVERT}")
    pieces = image.findall("Piece")
    if len(pieces) != 1:
        raise NotAVolumeError(f"is in {len(pieces)} pieces; {CONVERT}")
    extent = [int(word) for word in pieces[0].get("Extent").split()]
    kind = next((kind for kind in ("PointData", "CellData") if pieces[0].find(f"{kind}/DataArray") is not None), None)
    if kind is None:
        raise NotAVolumeError("holds no scalars")
    group = pieces[0].find(kind)
    arrays = group.findall("DataArray")
    named = group.get("Scalars")
    array = next((one for one in arrays if one.get("Name") == named), arrays[0] if len(arrays) == 1 else None)
    if array is None:
        raise NotAVolumeError(
            f"holds {len(arrays)} arrays ({', '.join(str(one.get('Name')) for one in arrays)}); keep one"
        )
    code, components = XML.get(array.get("type", "")), array.get("NumberOfComponents", "1")
    if code is None or components not in ("1", "0"):
        raise NotAVolumeError(
            f"holds {components} values of type {array.get('type')} in each voxel; a grey volume is needed"
        )
    ends = 1 if kind == "PointData" else 0
    sides = [max(1, high - low + ends) for low, high in zip(extent[::2], extent[1::2], strict=True)]
    order = "<" if root.get("byte_order", "LittleEndian") == "LittleEndian" else ">"
    counter = struct.Struct(order + ("Q" if root.get("header_type") == "UInt64" else "I"))
    flat = Flat(
        start + int(array.get("offset", "0")) + counter.size,
        volume_shape(sides[::-1]),
        np.dtype(order + code),
    )
    return FileHeader("VTK", flat, warnings=_without_unit(image.get("Spacing", "").split()))


def _words(text: str, name: str) -> list[str] | None:
    found = re.search(rf"^{name}\s+(\S+)\s+(\S+)\s+(\S+)", text, re.MULTILINE | re.IGNORECASE)
    return list(found.groups()) if found else None


def _without_unit(spacing: list[str] | None) -> tuple[str, ...]:
    if not spacing or len(spacing) != 3:
        return ()
    shown = ", ".join(reversed(spacing))
    return (f"states the spacing {shown} (z, y, x) without a unit, which VTK does not know; give --voxel-size-um",)
