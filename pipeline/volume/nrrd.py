"""NRRD (.nrrd, and .nhdr with its data in another file): raw or gzip, any order of bytes, oblique or not.

The axis that runs fastest comes first, so the three spatial axes become z, y, x in reverse. Where the space is
anatomical (3D Slicer, ITK) and no unit is stated, lengths are mm, as those programs mean them.
"""

from __future__ import annotations

import math
import re
import shlex
from decimal import Decimal
from typing import Any

import numpy as np

from pipeline.geometry import VoxelSize
from pipeline.placement import Placement
from pipeline.volume.file_header import RAS, FileHeader, beside, in_um, placed, spacing_um
from pipeline.volume.flat import Flat, NotAVolumeError, volume_shape
from pipeline.volume.inflated import Deflated
from pipeline.volume.metadata import unit_um
from pipeline.volume.ranged import HEADER_BYTES, RangedFile
from pipeline.volume.stores import open_store

LONGEST_HEADER = 2**22
TYPES: dict[str, str] = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(
        ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"), "i8"
    ),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras"), RAS),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}
"""The anatomical ones."""
OTHER_SPACES = ("scanner-xyz", "3d-right-handed", "3d-left-handed")
SPATIAL = ("domain", "space", "???", "none")
CONVERT = "write it anew with gzip or raw (SimpleITK, unu)"


def read_nrrd(file: RangedFile) -> FileHeader:
    """The header of an open file. Raises ValueError for what is none, NotAVolumeError for what is no volume."""
    fields, end = _fields(file)
    spatial = _spatial(fields)
    sizes = [int(size) for size in fields["sizes"].split()]
    if len(sizes) != int(fields["dimension"]):
        raise ValueError(f"its dimension is {fields['dimension']}, its sizes are {len(sizes)}")
    others = [size for n, size in enumerate(sizes) if n not in spatial]
    if len(spatial) != 3 or any(size != 1 for size in others):
        raise NotAVolumeError(
            f"has the sizes {tuple(sizes)} with {len(spatial)} axes in space; a grey volume is needed"
        )
    shape = volume_shape([sizes[n] for n in reversed(spatial)])
    dtype = _dtype(fields)
    warnings: list[str] = []
    voxel_size, placement = _in_space(fields, spatial, warnings)
    data, start = "", end
    if (name := fields.get("data file", fields.get("datafile"))) is not None:
        if name.startswith("LIST") or "%" in name:
            raise NotAVolumeError(f"has its voxels in several files ({name}); {CONVERT}")
        data, start = beside(file.store.location, name), 0
    held = RangedFile(open_store(data)) if data else file
    start = _behind_lines(held, start, int(fields.get("line skip", fields.get("lineskip", "0"))))
    skip = int(fields.get("byte skip", fields.get("byteskip", "0")))
    encoding = fields["encoding"].lower()
    if encoding in ("gzip", "gz"):
        if skip < 0:
            raise ValueError("its byte skip is negative, which compressed data cannot have")
        flat, deflated = Flat(skip, shape, dtype), Deflated(start)
    elif encoding == "raw":
        start = held.size - math.prod(shape) * dtype.itemsize if skip == -1 else start + skip
        flat, deflated = Flat(start, shape, dtype), None
    else:
        raise NotAVolumeError(f"has the encoding {encoding}, and raw and gzip are read; {CONVERT}")
    return FileHeader("NRRD", flat, voxel_size, placement, tuple(warnings), data, deflated)


def _fields(file: RangedFile) -> tuple[dict[str, str], int]:
    """Fields by their names in lower case, and where the header ends."""
    content = file.read_at(0, HEADER_BYTES)
    if not content.startswith(b"NRRD000"):
        raise ValueError("it has no NRRD header")
    ends = re.compile(rb"\n\r?\n")
    while (found := ends.search(content)) is None and len(content) < min(file.size, LONGEST_HEADER):
        content += file.read_at(len(content), HEADER_BYTES)
    end = found.end() if found else len(content)
    fields = {}
    for line in content[:end].decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(": ")
        if not line.startswith("#") and colon and ":=" not in name:
            fields[name.strip().lower()] = value.strip()
    missing = [name for name in ("dimension", "type", "sizes", "encoding") if name not in fields]
    if missing:
        raise ValueError(f"its header lacks {', '.join(missing)}")
    return fields, end


def _dtype(fields: dict[str, str]) -> np.dtype[Any]:
    code = TYPES.get(fields["type"].lower())
    if code is None:
        raise NotAVolumeError(f"holds values of type {fields['type']}; integer or float is needed")
    endian = fields.get("endian", "").lower()
    if code[1] != "1" and endian not in ("little", "big"):
        raise ValueError("its header does not say in which order bytes are (endian)")
    return np.dtype(code).newbyteorder(">" if endian == "big" else "<")


def _vectors(text: str) -> list[list[float] | None]:
    """(1,0,0) none (0,1,0) → numbers, None for axes that are not in space."""
    words = re.findall(r"\([^)]*\)|[^\s()]+", text)
    return [[float(part) for part in word[1:-1].split(",")] if word.startswith("(") else None for word in words]


def _spatial(fields: dict[str, str]) -> list[int]:
    """The numbers of the axes that lie in space."""
    if "space directions" in fields:
        return [n for n, vector in enumerate(_vectors(fields["space directions"])) if vector is not None]
    kinds = [kind.lower() for kind in fields.get("kinds", "").split()] or ["space"] * int(fields["dimension"])
    return [n for n, kind in enumerate(kinds) if kind in SPATIAL]


def _in_space(
    fields: dict[str, str], spatial: list[int], warnings: list[str]
) -> tuple[VoxelSize | None, Placement | None]:
    if "space directions" not in fields:
        return _spacings(fields, spatial, warnings), None
    name = fields.get("space", "").lower()
    signs = SPACES.get(name, RAS)
    if name and name not in SPACES and name not in OTHER_SPACES:
        raise NotAVolumeError(f"lies in the space {name}, which is not known; {CONVERT}")
    stated = shlex.split(fields.get("space units", ""))
    units = [unit_um(unit) for unit in stated]
    if stated and (len(units) != 3 or None in units):
        warnings.append(f"has the space units {', '.join(stated)}, which are no lengths; give --voxel-size-um")
        return None, None
    if not stated and name in SPACES:
        warnings.append("does not say in which unit its voxel size is, so it is taken for mm")
        units = [Decimal(1000)] * 3
    if not units:
        warnings.append("states space directions without a unit, so its voxel size is not known; give --voxel-size-um")
        return None, None
    vectors = _vectors(fields["space directions"])
    steps, origin = [vectors[n] for n in reversed(spatial)], _vectors(fields.get("space origin", "(0,0,0)"))[0]
    if origin is None or any(step is None or len(step) != 3 for step in (*steps, origin)):
        raise NotAVolumeError("lies in a space that has not three axes")
    factors = [unit for unit in units if unit is not None]
    size, placement = placed(
        [[in_um(value, unit) for value, unit in zip(step or (), factors, strict=True)] for step in steps],
        [in_um(value, unit) for value, unit in zip(origin, factors, strict=True)],
        signs,
        warnings,
    )
    return size, placement if "space origin" in fields else None


def _spacings(fields: dict[str, str], spatial: list[int], warnings: list[str]) -> VoxelSize | None:
    stated, units = fields.get("spacings", "").split(), shlex.split(fields.get("units", ""))
    sides = [float(stated[n]) for n in reversed(spatial)] if stated else []
    if not sides or any(map(math.isnan, sides)):
        return None
    lengths = [unit_um(units[n]) for n in reversed(spatial)] if len(units) == len(stated) else []
    if not lengths or None in lengths:
        shown = ", ".join(f"{side:g}" for side in sides)
        warnings.append(f"states the spacings {shown} (z, y, x) without a unit of length; give --voxel-size-um")
        return None
    return spacing_um([abs(side) for side in sides], lengths)


def _behind_lines(file: RangedFile, start: int, lines: int) -> int:
    content = file.read_at(start, LONGEST_HEADER) if lines else b""
    position = 0
    for _ in range(lines):
        position = content.index(b"\n", position) + 1
    return start + position
