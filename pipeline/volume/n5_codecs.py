"""Compressions of N5: what of their description counts, and LZ4, which tensorstore does not decode."""

from __future__ import annotations

import math
import struct
from typing import Any

import imagecodecs
import numpy as np
import xxhash

RAW = {"type": "raw"}
KNOWN = {
    "raw": (),
    "gzip": ("level", "useZlib"),
    "bzip2": ("blockSize",),
    "xz": ("preset",),
    "blosc": ("cname", "clevel", "shuffle", "blocksize"),
    "zstd": ("level",),
    "lz4": ("blockSize",),
}
"""What tensorstore takes of each compression. Java's writers leave more, such as nthreads: how they worked."""
LZ4_MAGIC = b"LZ4Block"
LZ4_HEADER = struct.Struct("<8sBIII")
"""Of a block of lz4-java's stream: magic, method and level, bytes as stored, bytes decoded, checksum."""
LZ4_STORED, LZ4_PACKED = 0x10, 0x20
"""Methods, in the upper half of their byte."""
LZ4_SEED, LZ4_CHECKSUM_BITS = 0x9747B28C, 0x0FFFFFFF
"""Of its checksum, xxHash, of which four bits are cut off."""


def without_extras(compression: Any) -> Any:
    """The description of a compression without what decoding does not need; of an unknown one, as it is."""
    kind = compression.get("type") if isinstance(compression, dict) else None
    if kind not in KNOWN:
        return compression
    return {name: value for name, value in compression.items() if name == "type" or name in KNOWN[kind]}


def with_lz4_decoded(document: dict[str, Any], chunk: bytes) -> bytes:
    """A chunk of N5 that is compressed by LZ4 as one that is not compressed: the header, then the voxels.

    Java writes the stream of lz4-java, a row of checked blocks; z5 writes one bare block. Raises ValueError for what is
    cut off or damaged.
    """
    start = 4 + 4 * len(document["dimensions"])
    sides = struct.unpack_from(f">{len(document['dimensions'])}I", chunk, 4)
    size = math.prod(sides) * np.dtype(document["dataType"]).itemsize
    body = chunk[start:]
    voxels = _stream(body, size) if body.startswith(LZ4_MAGIC) else _block(body, size)
    return chunk[:start] + voxels


def _stream(body: bytes, size: int) -> bytes:
    parts, at, left = [], 0, size
    while left:
        if len(body) < at + LZ4_HEADER.size:
            raise ValueError(f"its LZ4 stream was cut off after {len(body):,} bytes")
        magic, token, stored, decoded, checksum = LZ4_HEADER.unpack_from(body, at)
        at += LZ4_HEADER.size
        method, packed = token & 0xF0, body[at : at + stored]
        if magic != LZ4_MAGIC or method not in (LZ4_STORED, LZ4_PACKED) or not 0 < decoded <= left:
            raise ValueError("its LZ4 stream is damaged")
        if len(packed) < stored:
            raise ValueError(f"its LZ4 stream was cut off after {len(body):,} bytes")
        part = packed if method == LZ4_STORED else _block(packed, decoded)
        if len(part) != decoded or xxhash.xxh32_intdigest(part, LZ4_SEED) & LZ4_CHECKSUM_BITS != checksum:
            raise ValueError("its LZ4 stream is damaged, a checksum does not match")
        parts.append(part)
        at, left = at + stored, left - decoded
    return b"".join(parts)


def _block(packed: bytes, size: int) -> bytes:
    try:
        return _whole(imagecodecs.lz4_decode(packed, out=size), size)
    except imagecodecs.Lz4Error as error:
        raise ValueError("its LZ4 block is cut off or damaged") from error


def _whole(voxels: bytes | bytearray, size: int) -> bytes:
    if len(voxels) != size:
        raise ValueError(f"its LZ4 data hold {len(voxels):,} bytes for {size:,}")
    return bytes(voxels)
