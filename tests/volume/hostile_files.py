"""Files made to use up memory or time, or to wait for ever: what each must be refused with, and how it is made."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numcodecs
import numpy as np
import tifffile

BOMB_BYTES = 2**29
TOO_MUCH = r"hold|take|corrupt"
PIPE = "is a pipe, not a file"


@lru_cache(maxsize=1)
def zeros() -> bytes:
    return bytes(BOMB_BYTES)


@lru_cache(maxsize=1)
def deflated() -> bytes:
    return gzip.compress(zeros(), 9)


def zarr_document(**changes: Any) -> str:
    grid = {"name": "regular", "configuration": {"chunk_shape": changes.pop("chunks", [16, 16, 16])}}
    document = {
        "zarr_format": 3, "node_type": "array", "shape": [16, 16, 16], "data_type": "uint8", "chunk_grid": grid,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}, "fill_value": 0,
        "codecs": [{"name": "bytes"}], "attributes": {},
    }  # fmt: skip
    return json.dumps({**document, **changes})


def _zarr(path: Path, text: str, chunk: bytes | None = None) -> None:
    path.mkdir()
    (path / "zarr.json").write_text(text)
    if chunk is not None:
        (path / "c/0/0").mkdir(parents=True)
        (path / "c/0/0/0").write_bytes(chunk)


def _zarr_v2(path: Path, compressor: dict[str, Any] | None, chunk: bytes, **changes: Any) -> None:
    path.mkdir()
    document = {
        "zarr_format": 2, "shape": [16, 16, 16], "chunks": [16, 16, 16], "dtype": "|u1", "compressor": compressor,
        "fill_value": 0, "order": "C", "filters": None,
    }  # fmt: skip
    (path / ".zarray").write_text(json.dumps({**document, **changes}))
    (path / "0.0.0").write_bytes(chunk)


def _n5(path: Path, compression: dict[str, Any], chunk: bytes) -> None:
    (path / "0/0").mkdir(parents=True)
    document = {"dimensions": [16] * 3, "blockSize": [16] * 3, "dataType": "uint8", "compression": compression}
    (path / "attributes.json").write_text(json.dumps(document))
    (path / "0/0/0").write_bytes(struct.pack(">HH3I", 0, 3, 16, 16, 16) + chunk)


def _hdf5(path: Path, _: bytes = b"") -> None:
    with h5py.File(path, "w") as file:
        made = file.create_dataset("v", (16, 16, 16), "u1", chunks=(16, 16, 16), compression="gzip")
        made.id.write_direct_chunk((0, 0, 0), zlib.compress(zeros(), 1))


def _nifti(path: Path, side: int, *, compressed: bool = False) -> None:
    kind: Any = nib.Nifti1Header
    header = kind()
    header.set_data_dtype("u1")
    content = bytearray(header.binaryblock)
    struct.pack_into("<8h", content, 40, 3, side, side, side, 1, 1, 1, 1)
    struct.pack_into("<f", content, 108, 352.0)
    content[344:348] = b"n+1\0"
    whole = bytes(content) + bytes(4 + 2**20)
    path.write_bytes(gzip.compress(whole) if compressed else whole)


def _npy(path: Path, shape: str) -> None:
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + bytes(64))


def _jpeg2000(path: Path) -> None:
    path.mkdir()
    side = 2**31 - 1
    size = struct.pack(">H H 8I H 3B", 41, 0, side, side, 0, 0, side, side, 0, 0, 1, 7, 1, 1)
    head = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\0jp2c" + b"\xff\x4f\xff\x51" + size + b"\xff\xd9"
    for name in ("a_1.jp2", "a_2.jp2"):
        (path / name).write_bytes(head)


def _tiff(path: Path) -> None:
    """A header of 20000² pixels in one strip, which holds 100²."""
    tifffile.imwrite(path, np.zeros((100, 100), np.uint8), compression="zlib", rowsperstrip=100)
    content = bytearray(path.read_bytes())
    for at in range(len(content) - 12):
        for tag in (256, 257, 278):
            if content[at : at + 4] in (struct.pack("<HH", tag, 3), struct.pack("<HH", tag, 4)):
                struct.pack_into("<HHII", content, at, tag, 4, 1, 20000)
    path.write_bytes(bytes(content))


def _stack(path: Path, put_last: Callable[[Path], None]) -> None:
    path.mkdir()
    for n in range(5):
        tifffile.imwrite(path / f"s_{n:03}.tif", np.zeros((8, 8), np.uint8))
    put_last(path / "s_005.tif")


def _pipe_in(path: Path, key: str) -> None:
    _zarr(path, zarr_document())
    (path / key).unlink(missing_ok=True)
    (path / key).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path / key)


BLOSC = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}
FRAME_OF_2_40 = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**40) + b"\1\0\0"
GZIP_V3 = {"name": "gzip", "configuration": {"level": 5}}
ZSTD_V3 = {"name": "zstd", "configuration": {"level": 5, "checksum": False}}
ONE_BYTE = [{"name": "bytes"}]

CASES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "gzip.zarr": (TOO_MUCH, lambda p: _zarr(p, zarr_document(codecs=[*ONE_BYTE, GZIP_V3]), deflated())),
    "twice.zarr": (
        TOO_MUCH,
        lambda p: _zarr(p, zarr_document(codecs=[*ONE_BYTE, GZIP_V3, GZIP_V3]), gzip.compress(deflated())),
    ),
    "zstd.zarr": (
        TOO_MUCH,
        lambda p: _zarr(p, zarr_document(codecs=[*ONE_BYTE, ZSTD_V3]), bytes(numcodecs.Zstd().encode(zeros()))),
    ),
    "zstd_of_2_40.zarr": ("1,099,511,627,776 bytes", lambda p: _zarr_v2(p, {"id": "zstd", "level": 5}, FRAME_OF_2_40)),
    "gzip_v2.zarr": (TOO_MUCH, lambda p: _zarr_v2(p, {"id": "gzip", "level": 5}, deflated())),
    "blosc_v2.zarr": (TOO_MUCH, lambda p: _zarr_v2(p, BLOSC, bytes(numcodecs.Blosc(cname="zstd").encode(zeros())))),
    "lz4_v2.zarr": (
        TOO_MUCH,
        lambda p: _zarr_v2(p, {"id": "lz4", "acceleration": 1}, struct.pack("<I", 2**30) + bytes(1000)),
    ),
    "bz2_v2.zarr": (TOO_MUCH, lambda p: _zarr_v2(p, {"id": "bz2", "level": 1}, bz2.compress(zeros()[: 2**26]))),
    "lzma_v2.zarr": (
        TOO_MUCH,
        lambda p: _zarr_v2(
            p,
            {"id": "lzma", "format": 1, "check": -1, "preset": 0, "filters": None},
            lzma.compress(zeros()[: 2**26], preset=0),
        ),
    ),
    "pickle.zarr": ("pickle", lambda p: _zarr_v2(p, None, b"cos\nsystem\n(S'false'\ntR.", filters=[{"id": "pickle"}])),
    "gzip.n5": ("End of data expected", lambda p: _n5(p, {"type": "gzip", "level": 5}, deflated())),
    "blosc.n5": (
        TOO_MUCH,
        lambda p: _n5(
            p,
            {"type": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 0},
            bytes(numcodecs.Blosc(cname="zstd").encode(zeros())),
        ),
    ),
    "deflate.h5": (TOO_MUCH, _hdf5),
    "shape_of_2_62.zarr": ("more voxels than any store holds", lambda p: _zarr(p, zarr_document(shape=[2**62] * 3))),
    "shape_of_10_7.zarr": ("more voxels than any store holds", lambda p: _zarr(p, zarr_document(shape=[10**7] * 3))),
    "chunk_of_0.zarr": ("each side needs at least one voxel", lambda p: _zarr(p, zarr_document(chunks=[0, 16, 16]))),
    "negative.zarr": ("is not a readable Zarr store", lambda p: _zarr(p, zarr_document(shape=[-4, 16, 16]))),
    "attributes.zarr": (
        "documents of more than 16 MiB are not read",
        lambda p: _zarr(p, zarr_document(attributes={"a": "x" * 300_000_000})),
    ),
    "deep.zarr": ("maximum recursion depth", lambda p: _zarr(p, "[" * 10_000_000)),
    "negative.npy": ("each side needs at least one voxel", lambda p: _npy(p, "(-3, 4, 4)")),
    "long.npy": ("more voxels than any store holds", lambda p: _npy(p, f"({2**40}, {2**40}, 4)")),
    "negative.nii": ("each side needs at least one voxel", lambda p: _nifti(p, -5)),
    "large.nii.gz": ("more than its .* compressed bytes can hold", lambda p: _nifti(p, 32767, compressed=True)),
    "jpeg2000": ("more voxels than any store holds", _jpeg2000),
    "strip.tif": ("cannot be read", _tiff),
    "pipe.tif": (PIPE, os.mkfifo),
    "pipe.nii": (PIPE, os.mkfifo),
    "pipe.nii.gz": (PIPE, os.mkfifo),
    "pipe.npy": (PIPE, os.mkfifo),
    "pipe.h5": (PIPE, os.mkfifo),
    "device.tif": ("is a device, not a file", lambda p: p.symlink_to("/dev/zero")),
    "pipe_for_document.zarr": (PIPE, lambda p: _pipe_in(p, "zarr.json")),
    "pipe_for_chunk.zarr": (PIPE, lambda p: _pipe_in(p, "c/0/0/0")),
    "pipe_at_the_end": (PIPE, lambda p: _stack(p, os.mkfifo)),
    "device_at_the_end": ("is a device, not a file", lambda p: _stack(p, lambda last: last.symlink_to("/dev/zero"))),
}
"""Name -> what the sentence says, and what makes the file."""
