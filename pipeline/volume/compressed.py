"""A gzip file as bytes at positions: in one pass while it is read in order, else by an index; always checked.

Making the index of places to begin at costs one pass over the file, in every process that reads it. That pass checks
the file's checksum, and so does reading it from the first byte to the last.
"""

from __future__ import annotations

import gzip
import zlib
from threading import Lock

import indexed_gzip

from pipeline.volume.limits import check_deflated
from pipeline.volume.ranged import RangedFile
from pipeline.volume.stores import Store

INDEX_POINTS = 256
"""Places at which reading can begin, at most; each takes 32 KiB of memory."""
INDEX_SPACING = 2**20
"""Decompressed bytes between two such places, at least."""
READ_BYTES = 2**20
"""Compressed bytes that are fetched at a time."""
SKIPPED_BYTES = 2**20
"""Decompressed bytes that may be left out by what still counts as reading in order: headers."""
KEPT_BYTES = INDEX_POINTS * 2**15 + 8 * READ_BYTES
"""Most memory that an open file takes."""


class CompressedFile:
    """The content of a gzip file. size : its decompressed bytes, as far as they are wanted."""

    def __init__(self, store: Store, size: int) -> None:
        self._store, self._size = store, size
        check_deflated(self._file_size(), size)
        self._stream: gzip.GzipFile | None = gzip.GzipFile(fileobj=RangedFile(store).buffered(READ_BYTES))
        self._index: indexed_gzip.IndexedGzipFile | None = None
        self._lock = Lock()  # the files have one position each

    def read_at(self, position: int, count: int) -> bytes:
        """So many bytes from a position on; fewer where the content is cut off.

        Raises ValueError where the file is damaged.
        """
        with self._lock:
            try:
                if self._stream is not None and 0 <= position - self._stream.tell() <= SKIPPED_BYTES:
                    return self._in_order(self._stream, position, count)
                return self._anywhere(position, count)
            except (gzip.BadGzipFile, zlib.error) as error:
                raise ValueError("its compressed data are damaged or its checksum does not match") from error

    def _in_order(self, stream: gzip.GzipFile, position: int, count: int) -> bytes:
        self._stream = None  # if it fails half-way, nobody goes on with it
        try:
            stream.read(position - stream.tell())
            content = stream.read(count)
            if position + count >= self._size:
                while stream.read(READ_BYTES):  # the checksum comes at the end
                    pass
        except EOFError as error:
            raise ValueError(f"it is cut off after {self._file_size():,} bytes") from error
        self._stream = stream
        return content

    def _anywhere(self, position: int, count: int) -> bytes:
        try:
            if self._index is None:
                index = indexed_gzip.IndexedGzipFile(
                    fileobj=RangedFile(self._store),
                    spacing=max(INDEX_SPACING, -(-self._size // INDEX_POINTS)),
                    readbuf_size=READ_BYTES,
                    buffer_size=READ_BYTES,
                )
                index.build_full_index()
                self._index = index
            content: bytes = self._index.pread(count, position)
        except OSError as error:
            if error.errno is not None:  # of the disk or the store, not of the content
                raise
            raise ValueError("its compressed data are damaged or its checksum does not match") from error
        return content

    def _file_size(self) -> int:
        found = self._store.stat("")
        return found.size if found else 0
