"""Bare voxels (.raw, .vol), whose shape and type stand elsewhere: in a file beside them, or in their name.

In this order: NAME.raw.json or NAME.raw.toml (ours), NAME.vol.info (ESRF's PyHST), else a name such as
bone_23x17x12_16bit.raw, which has x, y and z. The size of the file must be that of the voxels.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from typing import Any
from urllib.parse import unquote

import numpy as np

from pipeline.geometry import Index, VoxelSize
from pipeline.volume.file_header import FileHeader, spacing_um
from pipeline.volume.flat import Flat, NotAVolumeError, volume_shape
from pipeline.volume.metadata import unit_um
from pipeline.volume.patience import reason
from pipeline.volume.ranged import RangedFile
from pipeline.volume.stores import open_store

KEYS = ("shape", "dtype", "byte_order", "offset", "voxel_size_um")
BY_BYTES = {1: "uint8", 2: "uint16", 4: "float32"}
"""What PyHST writes, by the bytes of a voxel."""
SIDES = re.compile(r"(?<![0-9a-z.])(\d+)x(\d+)x(\d+)(?!\.?[0-9]|[a-z])")
TYPE = re.compile(r"(?<![a-z0-9])(u?int(?:8|16|32|64)|float(?:16|32|64)|[ui](?:8|16|32)|8-?bit|16-?bit)(?![a-z0-9])")
BYTE_ORDER = re.compile(r"(?<![a-z])(big|little|be|le)(?:-?endian)?(?![a-z])")


def read_raw(file: RangedFile) -> FileHeader:
    """What is said of an open file. Raises NotAVolumeError where nothing is, or something else than its size says."""
    location = file.store.location
    for suffix in (".json", ".toml"):
        if (content := open_store(location + suffix).document("")) is not None:
            return _by_sidecar(file, location + suffix, content)
    for name in (f"{location}.info", f"{location.rpartition('.')[0]}.info"):
        if (content := open_store(name).document("")) is not None:
            return _by_info(file, name, content)
    return _by_name(file)


def _by_sidecar(file: RangedFile, name: str, content: bytes) -> FileHeader:
    try:
        text = content.decode()
        stated: Any = json.loads(text) if name.endswith(".json") else tomllib.loads(text)
    except ValueError as error:
        raise NotAVolumeError(f"is described by {name}, which cannot be read ({reason(error)}); mend it") from error
    strange = sorted(set(stated) - set(KEYS)) if isinstance(stated, dict) else [str(stated)[:40]]
    if strange or not {"shape", "dtype"} <= set(stated):
        found = f"; it has {', '.join(strange)}" if strange else ""
        raise NotAVolumeError(
            f"is described by {name}, which needs shape and dtype, and may have {', '.join(KEYS[2:])}{found}"
        )
    order, offset, sides = stated.get("byte_order", "little"), stated.get("offset", 0), stated.get("voxel_size_um")
    try:
        z, y, x = (int(side) for side in stated["shape"])
        dtype = np.dtype(stated["dtype"])
        given = [float(side) for side in (sides if isinstance(sides, list) else [sides] * 3)] if sides else []
    except (TypeError, ValueError):
        dtype, given = np.dtype(object), []
    if (
        dtype.kind not in "biuf"
        or order not in ("little", "big")
        or not isinstance(offset, int)
        or offset < 0
        or len(given) not in (0, 3)
    ):
        raise NotAVolumeError(
            f"is described by {name}, which has a value that is none: shape is z, y, x in voxels, dtype a name such as"
            " uint16, byte_order little or big, offset a number of bytes, voxel_size_um one number or z, y, x"
        )
    size = spacing_um(given, [unit_um("um")] * 3) if given else None
    return _header(file, name, (z, y, x), dtype.newbyteorder("<" if order == "little" else ">"), offset, size)


def _by_info(file: RangedFile, name: str, content: bytes) -> FileHeader:
    fields = dict(re.findall(r"^\s*(\w+)\s*=\s*(\S+)", content.decode("latin-1"), re.MULTILINE))
    try:
        shape = volume_shape([int(fields[key]) for key in ("NUM_Z", "NUM_Y", "NUM_X")])
        side = float(fields.get("voxelSize", "nan"))
    except (KeyError, ValueError) as error:
        raise NotAVolumeError(f"is described by {name}, which lacks NUM_X, NUM_Y and NUM_Z") from error
    voxels = math.prod(shape)
    code = BY_BYTES.get(file.size // voxels) if file.size % voxels == 0 else None
    if code is None:
        shown = " × ".join(map(str, shape))
        raise NotAVolumeError(
            f"is {shown} voxels by {name}, but its {file.size:,} bytes are not one, two or four of each; fetch it again"
        )
    big = fields.get("BYTEORDER", "LOWBYTEFIRST").upper() == "HIGHBYTEFIRST"
    size = spacing_um([side] * 3, [unit_um("um")] * 3) if side > 0 else None
    return _header(file, name, shape, np.dtype(code).newbyteorder(">" if big else "<"), 0, size)


def _by_name(file: RangedFile) -> FileHeader:
    name = unquote(file.store.location.rpartition("/")[2]).lower()
    sides, kind = SIDES.search(name), TYPE.search(name)
    if sides is None or kind is None:
        raise NotAVolumeError(
            "does not say what it holds; write a file with its name and .json behind it, such as"
            ' {"shape": [12, 17, 23], "dtype": "uint16", "byte_order": "little", "offset": 0, "voxel_size_um": [3, 0.7,'
            " 0.7]} (z, y, x), or name it like bone_23x17x12_uint16.raw (x, y, z)"
        )
    word = kind[1].replace("-", "")
    code = {"8bit": "u1", "16bit": "u2"}.get(word, word)
    dtype = np.dtype({"u": "uint", "i": "int"}[code[0]] + code[1:] if re.fullmatch(r"[ui]\d+", word) else code)
    order = BYTE_ORDER.search(name)
    shape = volume_shape([int(side) for side in reversed(sides.groups())])
    return _header(file, "", shape, dtype.newbyteorder(">" if order and order[1][0] == "b" else "<"), 0, None)


def _header(
    file: RangedFile, source: str, shape: Index, dtype: np.dtype[Any], offset: int, size: VoxelSize | None
) -> FileHeader:
    shape, needed = volume_shape(shape), offset + math.prod(shape) * dtype.itemsize
    if file.size != needed:
        shown = f"{' × '.join(map(str, shape))} {dtype.name}"
        raise NotAVolumeError(
            f"is {shown} by {source or 'its name'}, which takes {needed:,} bytes, but has {file.size:,}; mend either"
        )
    said_in = source or f"{file.store.location}.json"
    return FileHeader("raw voxels", Flat(offset, shape, dtype), size, said_in=said_in)
