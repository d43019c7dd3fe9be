"""Chunks of HDF5 that are refused by their size before its filters decode them.

The library's own deflate doubles its buffer as long as more comes out. What others hold stands in their header.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import imagecodecs

from pipeline.volume.bounded import zstd_size
from pipeline.volume.limits import DEFLATE_RATIO, room

HARMLESS_BYTES = 64 * 2**20
"""What deflate may at most make of a chunk that is not looked at."""
DEFLATE, BLOSC, ZSTD = 1, 32001, 32015
"""HDF5's numbers of filters."""


def check_chunks(dataset: Any, selection: tuple[slice | int, ...]) -> None:
    """Raise ValueError where a chunk that a selection touches holds more than its voxels take.

    Of what goes through several filters, the one that is decoded first is looked at. Not of virtual data sets, whose
    chunks lie elsewhere.
    """
    if not dataset.chunks:
        return
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(n)[0] for n in range(properties.get_nfilters())]
    # Checksums are no compression; they are taken off before it.
    kind = next((number for number in reversed(filters) if number != 3), None)  # 3: Fletcher's
    most = room(math.prod(dataset.chunks) * dataset.dtype.itemsize)
    bounds = [(s, s + 1) if isinstance(s, int) else (s.start, s.stop) for s in selection]
    touched = [
        range(start // side * side, stop, side) for (start, stop), side in zip(bounds, dataset.chunks, strict=True)
    ]
    for place in product(*touched):
        info = dataset.id.get_chunk_info_by_coord(place)
        if info.byte_offset is None:  # never written
            continue
        if info.size > most:
            raise ValueError(f"a chunk is stored in {info.size:,} bytes, and its voxels take no more than {most:,}")
        check = CHECKS.get(kind) if kind is not None and not info.filter_mask else None
        if check is not None and not (kind == DEFLATE and info.size * DEFLATE_RATIO <= max(most, HARMLESS_BYTES)):
            check(bytes(dataset.id.read_direct_chunk(place)[1]), most)


def _deflate(content: bytes, most: int) -> None:
    try:
        imagecodecs.deflate_decode(content, out=most)
    except RuntimeError as error:  # of damage the library tells itself
        if "INSUFFICIENT_SPACE" in str(error):
            raise ValueError(f"a chunk holds more than the {most:,} bytes that its voxels may take") from error


def _header(size: int | None, most: int) -> None:
    if size is not None and size > most:
        raise ValueError(f"a chunk holds {size:,} bytes, and its voxels take no more than {most:,}")


CHECKS: dict[int, Callable[[bytes, int], None]] = {
    DEFLATE: _deflate,
    BLOSC: lambda content, most: _header(int.from_bytes(content[4:8], "little"), most),
    ZSTD: lambda content, most: _header(zstd_size(content), most),
}
