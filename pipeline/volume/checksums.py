"""Which volumes would tell that a bit of their voxels was flipped: those whose format keeps a checksum of them."""

from __future__ import annotations

import json
from typing import Any

from pipeline.volume.bounded import kind_of
from pipeline.volume.n5_arrays import N5Array
from pipeline.volume.precomputed import PrecomputedArray
from pipeline.volume.volumes import Volume
from pipeline.volume.zarr_arrays import ZarrArray

NONE = "none: damage that still decodes is not noticed"
BY_CODEC = {
    "crc32c": "CRC-32C", "crc32": "CRC-32", "adler32": "Adler-32", "fletcher32": "Fletcher-32",
    "gzip": "CRC-32 of gzip",
    "zlib": "Adler-32 of zlib", "bz2": "CRC-32 of bzip2", "bzip2": "CRC-32 of bzip2", "lzma": "that of xz",
    "xz": "that of xz",
}  # fmt: skip
"""What of a chunk's codecs keeps a checksum; zstd does where it was told so."""
BY_END = {
    ".nii.gz": "CRC-32 of gzip", ".img.gz": "CRC-32 of gzip", ".mgz": "CRC-32 of gzip", ".npz": "CRC-32 of the archive",
    ".png": "CRC-32 of PNG",
}  # fmt: skip


def describe_checksums(volume: Volume) -> str:
    """Which checksum the voxels of a volume have, or that damage would go unnoticed."""
    array = volume.array
    if isinstance(array, ZarrArray):
        return _of_zarr(array)
    if isinstance(array, N5Array):
        compression = json.loads(array.metadata)["compression"]
        kind = str(compression.get("type"))
        if kind == "gzip" and compression.get("useZlib"):
            return "Adler-32 of zlib in every chunk"
        if kind == "lz4":
            return "xxHash of LZ4 in every chunk, where Java wrote it"
        return f"{BY_CODEC[kind]} in every chunk" if kind in BY_CODEC else NONE
    if isinstance(array, PrecomputedArray):
        return "CRC-32 of gzip where chunks are in gzip, or of PNG; else none"
    if "PNG slices" in volume.format:
        return f"{BY_END['.png']} in every slice"
    found = next((said for end, said in BY_END.items() if volume.location.lower().endswith(end)), None)
    if found:
        return found
    if volume.format == "HDF5":
        return "those of its filters, if any (Fletcher-32, Adler-32 of deflate); without filters none"
    if "TIFF" in volume.format:
        return "Adler-32 where it is compressed by deflate; else none: damage that still decodes is not noticed"
    return f"none in this format: {NONE.partition(': ')[2]}"


def _of_zarr(array: ZarrArray) -> str:
    opened = array.opened()
    codecs: list[Any] = []
    for codec in getattr(opened.metadata, "codecs", ()):
        codecs += [codec, *getattr(codec, "codecs", ())]
    if opened.metadata.zarr_format == 2:
        codecs = [*(opened.filters or ()), *opened.compressors]
    for codec in codecs:
        kind = kind_of(codec)
        if kind == "zstd" and getattr(codec, "checksum", False):
            return "XXH64 of zstd in every chunk"
        if kind in BY_CODEC:
            return f"{BY_CODEC[kind]} in every chunk"
    if array.location.lower().rpartition("/")[2].endswith((".zip", ".ozx")) and opened.shards is None:
        return "CRC-32 of the archive for every chunk"
    return NONE
