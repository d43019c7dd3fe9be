"""Parcels: what one task leaves behind for others, in one checksummed file that appears whole or not at all.

A parcel holds a small summary (JSON), what it is of (run, stage and block), and named arrays. Arrays are cut into
pieces of at most PIECE_BYTES, each a zstd frame whose crc32c the footer knows, so writing needs no second copy of an
array and a reader fetches only the arrays it names. The file is written under a temporary name and renamed: a parcel
that exists is complete, which makes it the receipt of its task as well.

    zstd frames … | footer: JSON {of, summary, arrays} | tail
    arrays: {name: {dtype, shape, pieces: [[offset, bytes, crc32c], …]}}

The tail is the footer's length and its crc32c, so every byte of the file hangs on it, and a parcel that is whole and
of another block or run is told by `of`.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from pipeline.errors import DamagedError
from pipeline.files import whole_file

Content = npt.NDArray[Any] | Iterable[npt.NDArray[Any]]

PIECE_BYTES = 4 << 20


class _Meter(threading.local):
    """Stored bytes that this thread has read from parcels."""

    bytes_read = 0


METER = _Meter()
_TAIL = struct.Struct("<QI8s")
_MAGIC = b"vxparce2"
_CODEC = Zstd(level=1)


@dataclass(frozen=True)
class Parcel:
    """An opened parcel: its summary, and arrays read on demand. of : what `write_parcel` was told that it is of."""

    path: Path
    of: str
    summary: dict[str, Any]
    arrays: dict[str, dict[str, Any]]
    stored_bytes: int

    def read(self, name: str) -> npt.NDArray[Any]:
        """One array, writable, with its stored dtype and shape. Raises DamagedError where it is damaged."""
        entry = self.arrays[name]
        out = np.empty(entry["shape"], dtype=np.dtype(entry["dtype"]))
        flat = out.reshape(-1).view(np.uint8)
        filled = 0
        try:
            with self.path.open("rb") as file:
                for offset, size, checksum in entry["pieces"]:
                    piece = np.frombuffer(_CODEC.decode(self._stored(file, offset, size, checksum)), np.uint8)
                    flat[filled : filled + piece.size] = piece
                    filled += piece.size
                    METER.bytes_read += size
        except (OSError, RuntimeError, ValueError) as error:
            raise _damaged(self.path, str(error)) from error
        if filled != flat.size:
            raise _damaged(self.path, f"array {name} has {filled} of {flat.size} bytes")
        return out

    def check(self) -> None:
        """Raise DamagedError where an array is damaged; nothing is decoded, and one piece is held at a time."""
        try:
            with self.path.open("rb") as file:
                for entry in self.arrays.values():
                    for offset, size, checksum in entry["pieces"]:
                        self._stored(file, offset, size, checksum)
        except OSError as error:
            raise _damaged(self.path, str(error)) from error

    def _stored(self, file: BinaryIO, offset: int, size: int, checksum: int) -> bytes:
        file.seek(offset)
        stored = file.read(size)
        if google_crc32c.value(stored) != checksum:
            raise _damaged(self.path, "its checksum does not match")
        return stored


def _damaged(path: Path, what: str) -> DamagedError:
    return DamagedError(
        f"The intermediate file {path} cannot be read ({what});"
        " delete it and run `voxcaliper resume` on the run folder."
    )


def open_parcel(path: Path) -> Parcel:
    """Read the footer of a parcel. Raises FileNotFoundError where there is none, DamagedError where it is damaged."""
    try:
        with path.open("rb") as file:
            stored = file.seek(0, os.SEEK_END)
            file.seek(max(0, stored - _TAIL.size))
            tail = file.read(_TAIL.size)
            if len(tail) != _TAIL.size:
                raise _damaged(path, "it is too short")
            length, checksum, magic = _TAIL.unpack(tail)
            if magic != _MAGIC or length > stored - _TAIL.size:
                raise _damaged(path, "it does not end as a parcel does")
            file.seek(stored - _TAIL.size - length)
            footer = file.read(length)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _damaged(path, str(error)) from error
    if google_crc32c.value(footer) != checksum:
        raise _damaged(path, "its checksum does not match")
    content = json.loads(footer)
    return Parcel(path, content["of"], content["summary"], content["arrays"], stored)


class Shelf:
    """Parcels that were opened last, by path: who takes its arrays one by one parses each footer once.

    A parcel that was written anew is opened anew. Holds at most `entries` arrays' entries of footers, about 1 kB each,
    or the one parcel that has more. Threads may share it.
    """

    def __init__(self, entries: int = 1 << 14) -> None:
        self.entries = entries
        self._parcels: OrderedDict[Path, tuple[tuple[int, int, int], Parcel]] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: Path) -> Parcel:
        """As `open_parcel`."""
        status = path.stat()
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            known = self._parcels.get(path)
            if known is not None and known[0] == stamp:
                self._parcels.move_to_end(path)
                return known[1]
        parcel = open_parcel(path)
        with self._lock:
            self._parcels[path] = stamp, parcel
            self._parcels.move_to_end(path)
            held = sum(len(other.arrays) for _, other in self._parcels.values())
            while held > self.entries and len(self._parcels) > 1:
                held -= len(self._parcels.popitem(last=False)[1][1].arrays)
        return parcel


def write_parcel(
    path: Path, summary: Mapping[str, Any], arrays: Mapping[str, Content] | Iterable[tuple[str, Content]], of: str = ""
) -> int:
    """Write a parcel and return its size in bytes.

    summary : JSON; read when the arrays are written, so what makes them may fill it. arrays : by name, or one by one as
    (name, array), so that none is held longer than it is written; each an array, or an iterable of 1-D arrays that are
    joined without being held at once. of : what it is of, told by `Parcel.of`.
    Raises OSError as the file system does; the temporary file is removed then.
    """
    table: dict[str, dict[str, Any]] = {}
    with whole_file(path, flush=False) as file:
        for name, value in arrays.items() if isinstance(arrays, Mapping) else arrays:
            pieces: list[tuple[int, int, int]] = []
            shape: tuple[int, ...] = (0,)
            dtype = np.dtype(np.uint8)
            for part in [value] if isinstance(value, np.ndarray) else value:
                shape = part.shape if isinstance(value, np.ndarray) else (shape[0] + part.size,)
                dtype = part.dtype
                flat = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
                for start in range(0, flat.size, PIECE_BYTES):
                    encoded = _CODEC.encode(flat[start : start + PIECE_BYTES])
                    pieces.append((file.tell(), len(encoded), google_crc32c.value(encoded)))
                    file.write(encoded)
                del part, flat
            table[name] = {"dtype": dtype.str, "shape": list(shape), "pieces": pieces}
            del value
        footer = json.dumps({"of": of, "summary": dict(summary), "arrays": table}, sort_keys=True).encode()
        file.write(footer)
        file.write(_TAIL.pack(len(footer), google_crc32c.value(footer), _MAGIC))
        return file.tell()
