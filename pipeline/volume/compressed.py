"""A gzip file as bytes at positions: in one pass where it is read in order, else by an index; always checked.

An index of places to begin at costs one pass over the file, in every process that reads it. That pass checks the
file's checksum, and so does reading it from the first byte to the last.
"""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

import indexed_gzip

from pipeline.volume.ranged import RangedFile

T = TypeVar("T")

INDEX_POINTS = 256
"""Places at which reading can begin, at most; each takes 32 KiB of memory."""
INDEX_SPACING = 2**20
"""Decompressed bytes between two such places, at least."""
READ_BYTES = 2**20
"""Compressed bytes that are fetched at a time."""
KEPT_BYTES = INDEX_POINTS * 2**15 + 4 * READ_BYTES
"""Most memory that an open file takes."""


class CompressedFile:
    """The content of a gzip file. size : its decompressed bytes, as far as they are wanted."""

    def __init__(self, file: RangedFile, size: int) -> None:
        self._file, self._size = file, size
        spacing = max(INDEX_SPACING, -(-size // INDEX_POINTS))
        self._gzip = indexed_gzip.IndexedGzipFile(
            fileobj=file, spacing=spacing, readbuf_size=READ_BYTES, buffer_size=READ_BYTES
        )
        self._in_order, self._checksum, self._indexed = 0, 0, False
        self._lock = Lock()  # the file has one position

    def read_at(self, position: int, count: int) -> bytes:
        """So many bytes from a position on; fewer where the content ends.

        Raises ValueError where the file is damaged or cut off.
        """
        with self._lock:
            if not self._indexed and 0 <= position - self._in_order <= READ_BYTES:
                self._next(position - self._in_order)
                content = self._next(count)
                if self._in_order >= self._size:
                    self._check()
                return content
            if not self._indexed:
                _plainly(self._gzip.build_full_index)
                self._indexed = True
            return self._read(position, count)

    def _next(self, count: int) -> bytes:
        content = self._read(self._in_order, count)
        self._checksum = zlib.crc32(content, self._checksum)
        self._in_order += len(content)
        return content

    def _read(self, position: int, count: int) -> bytes:
        def read() -> bytes:
            self._gzip.seek(position)
            content: bytes = self._gzip.read(count)
            return content

        return _plainly(read)

    def _check(self) -> None:
        while self._next(READ_BYTES):
            pass
        checksum, size = struct.unpack("<2I", self._file.read_at(self._file.size - 8, 8))
        if size != self._in_order % 2**32 or checksum != self._checksum:
            # Several gzip files in one have a checksum each, so that the last is not that of all; the index tells.
            _plainly(self._gzip.build_full_index)


def _plainly(read: Callable[[], T]) -> T:
    try:
        return read()
    except OSError as error:
        if error.errno is not None and error.errno != errno.EINVAL:  # of the disk or the store, not of the content
            raise
        damaged = "its checksum does not match" if "CRC" in str(error) else "its compressed data are damaged or cut off"
        raise ValueError(damaged) from error
