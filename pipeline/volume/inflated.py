"""Deflated voxels (gzip, zlib, or bare as in ZIP) as bytes at positions, always checked, in bounded memory.

In order they are read in one pass. Anywhere else, one checked pass first leaves places to begin at.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from threading import Lock
from typing import Any

from pipeline.volume.flat import Read

ANY_HEADER = 47
"""zlib's number for gzip or zlib, whichever it is."""
BARE = -15
"""... and for a stream without header and checksum."""
INDEX_POINTS = 256
"""Places at which reading can begin, at most; each takes some 45 KiB of memory."""
INDEX_SPACING = 2**20
"""Inflated bytes between two such places, at least."""
READ_BYTES = 2**16
"""Deflated bytes that are fetched at a time."""
PIECE_BYTES = 2**20
"""Inflated bytes at a time."""
SKIPPED_BYTES = 2**20
"""Inflated bytes that may be left out by what still counts as reading in order: headers."""
KEPT_BYTES = INDEX_POINTS * 48 * 2**10 + 4 * PIECE_BYTES
"""Most memory that an open file takes."""


@dataclass(frozen=True)
class Deflated:
    """Where deflated voxels lie in a file.

    stop : None for its end. window_bits : zlib's number. crc32 : of all, where the stream itself has no checksum.
    """

    start: int = 0
    stop: int | None = None
    window_bits: int = ANY_HEADER
    crc32: int | None = None


class _Stream:
    """One pass through the content, from a place on."""

    def __init__(self, read: Read, where: Deflated) -> None:
        self._read, self._where = read, where
        self._position, self._rest = where.start, b""
        self._inflating: Any = zlib.decompressobj(where.window_bits)
        self._crc32 = 0
        self.done = 0

    def place(self) -> _Stream | None:
        """Another one that begins here; None between two places where that costs little memory."""
        if self._rest:
            return None
        other = _Stream(self._read, self._where)
        other._position, other._inflating, other._crc32, other.done = (
            self._position, self._inflating.copy(), self._crc32, self.done,
        )  # fmt: skip
        return other

    def next(self, count: int) -> bytes:
        """Up to so many bytes, at least one before the end. Raises ValueError where the content is damaged or cut."""
        while True:
            if self._inflating.eof:
                left = self._inflating.unused_data + self._rest_of_file(0)
                # A gzip file may have several members; zeros behind the end, or whatever, are not looked at.
                if self._where.window_bits != ANY_HEADER or not left.startswith(b"\x1f\x8b"):
                    self._check_sum()
                    return b""
                self._inflating, self._rest = zlib.decompressobj(self._where.window_bits), left
            source = self._rest or self._rest_of_file(READ_BYTES)
            try:
                content: bytes = self._inflating.decompress(source, count)
            except zlib.error as error:
                raise ValueError("its compressed data are damaged or its checksum does not match") from error
            self._rest = self._inflating.unconsumed_tail
            if content:
                self.done += len(content)
                if self._where.crc32 is not None:
                    self._crc32 = zlib.crc32(content, self._crc32)
                return content
            if not source and not self._inflating.eof:
                raise ValueError(f"it is cut off after {self._position:,} bytes")

    def _rest_of_file(self, least: int) -> bytes:
        wanted = least or (2 if len(self._inflating.unused_data) < 2 else 0)
        if self._where.stop is not None:
            wanted = min(wanted, self._where.stop - self._position)
        content = self._read(self._position, wanted) if wanted > 0 else b""
        self._position += len(content)
        return content

    def _check_sum(self) -> None:
        if self._where.crc32 is not None and self._crc32 != self._where.crc32:
            raise ValueError("its compressed data are damaged or its checksum does not match")


class InflatedFile:
    """The content of deflated bytes. size : its inflated bytes, as far as they are wanted."""

    def __init__(self, read: Read, where: Deflated, size: int) -> None:
        self._read, self._where, self._size = read, where, size
        self._stream: _Stream | None = _Stream(read, where)
        self._places: list[_Stream] = []
        self._lock = Lock()

    def read_at(self, position: int, count: int) -> bytes:
        """So many bytes from a position on; fewer where the content ends.

        Raises ValueError where it is damaged or cut off.
        """
        with self._lock:
            stream, self._stream = self._stream, None  # if it fails half-way, nobody goes on with it
            if stream is None or not 0 <= position - stream.done <= SKIPPED_BYTES:
                stream = self._nearest(position)
            while (skip := position - stream.done) > 0 and stream.next(min(skip, PIECE_BYTES)):
                pass
            parts, left = [], count
            while left and (part := stream.next(min(left, PIECE_BYTES))):
                parts.append(part)
                left -= len(part)
            if not self._places and position + count >= self._size:
                while stream.next(PIECE_BYTES):  # the checksum comes at the end
                    pass
            else:
                self._stream = stream
            return b"".join(parts)

    def _nearest(self, position: int) -> _Stream:
        if not self._places:
            spacing = max(INDEX_SPACING, -(-self._size // INDEX_POINTS))
            stream = _Stream(self._read, self._where)
            places = [_Stream(self._read, self._where)]
            while stream.next(PIECE_BYTES):
                far = stream.done - places[-1].done >= spacing and len(places) < INDEX_POINTS
                if far and (place := stream.place()) is not None:
                    places.append(place)
            self._places = places
        nearest = max((place for place in self._places if place.done <= position), key=lambda place: place.done)
        found = nearest.place()
        assert found is not None
        return found
