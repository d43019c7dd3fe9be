"""ZIP archives as stores, for Zarr in one file (.zarr.zip, .ozx of RFC 9), wherever the archive lies.

Only the directory at the archive's end and what is asked for are read; whole members are checked with their CRC-32. An
archive that was replaced is told by the head of a member, and its directory is read anew.
"""

from __future__ import annotations

import asyncio
import os
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, NamedTuple

import zarr.abc.store
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from pipeline.volume.bounded import BARE, inflated
from pipeline.volume.limits import check_whole
from pipeline.volume.read_only_file import ReadOnlyFile
from pipeline.volume.stored_objects import ObjectStat, Store

SUFFIXES = (".zip", ".ozx")
DOCUMENTS = ("zarr.json", ".zgroup", ".zarray")
TAIL_BYTES = 64 * 2**10
"""Of an archive's end, which are fetched for its directory; more where that is longer."""
HEAD = struct.Struct("<4s5H3I2H")
"""Of a member, before its name: signature, …, CRC-32 and sizes, lengths of the name and of what follows it."""


class Member(NamedTuple):
    """Of an archive. position : of its head."""

    position: int
    size: int
    packed: int
    method: int
    crc32: int
    modified: str


def in_archive(location: str) -> tuple[str, str] | None:
    """The archive in which a location lies, and its place there; None where it lies in none."""
    if not any(suffix in location.lower() for suffix in SUFFIXES):
        return None
    scheme, slashes, rest = location.rpartition("://")
    parts = rest.split("/")
    for n, part in enumerate(parts, 1):
        archive = scheme + slashes + "/".join(parts[:n])
        if part.lower().endswith(SUFFIXES) and n > bool(slashes) and (slashes or os.path.isfile(archive)):
            return archive, "/".join(parts[n:])
    return None


class ZipMembers(Store):
    """What lies at a place in an archive. above : the store around the archive, and the archive's key there."""

    zarr: ZipZarr

    def __init__(self, location: str, above: tuple[Store, str], place: str) -> None:
        super().__init__(location, ZipZarr(location, above, place))

    async def _stat(self, key: str) -> ObjectStat | None:
        member = (await self.zarr.members()).get(key)
        return None if member is None else _stat(member)

    def _list(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]:
        folder = f"{prefix}/" if prefix else ""
        found = self._read(prefix, lambda: self.zarr.members(anew=True)) or {}
        return ((key, _stat(member)) for key, member in found.items() if key.startswith(folder))

    def _children(self, prefix: str, limit: int) -> Iterator[tuple[str, ObjectStat]]:
        return iter(())  # slices and files in an archive are not looked for

    def _above(self) -> None:
        return None


def _stat(member: Member) -> ObjectStat:
    return ObjectStat(member.size, f"crc32:{member.crc32:08x}", member.modified)


class ZipZarr(zarr.abc.store.Store):
    """The same as a store of Zarr."""

    supports_writes = supports_deletes = False
    supports_listing = True

    def __init__(self, location: str, above: tuple[Store, str], place: str) -> None:
        super().__init__(read_only=True)
        self._location, self._above, self._place = location, above, place
        self._members: dict[str, Member] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZipZarr) and self._location == other._location

    def __hash__(self) -> int:
        return hash(self._location)

    def __repr__(self) -> str:
        return f"ZipZarr({self._location!r})"

    async def members(self, *, anew: bool = False) -> dict[str, Member]:
        """By their keys below the place; nothing where there is no archive."""
        if self._members is None or anew:
            self._members = await self._directory()
        return self._members

    async def _directory(self) -> dict[str, Member]:
        store, key = self._above
        stat = await store._stat(key) if "://" in self._location else store.stat(key)  # noqa: SLF001  its own kind
        if stat is None:
            return {}
        count = min(TAIL_BYTES, stat.size)
        tail = _Tail(stat.size, await self._bytes(stat.size - count, stat.size))
        while True:
            try:
                found = await asyncio.to_thread(_members_of, tail)
                break
            except _EarlierError as earlier:
                tail = _Tail(stat.size, await self._bytes(earlier.position, stat.size))
        return _below(found, self._place)

    async def _bytes(self, start: int, stop: int) -> bytes:
        store, key = self._above
        buffer = await store.zarr.get(key, default_buffer_prototype(), RangeByteRequest(start, stop))
        content = b"" if buffer is None else buffer.to_bytes()
        if len(content) < stop - start:
            raise ValueError(f"the archive ends after {start + len(content):,} of {stop:,} bytes")
        return content

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        for anew in (False, True):
            member = (await self.members(anew=anew)).get(key)
            if member is None:
                return None
            try:
                return prototype.buffer.from_bytes(await self._content(member, key, byte_range))
            except (ValueError, zlib.error):
                if anew:
                    raise
        return None

    async def _content(self, member: Member, key: str, wanted: ByteRequest | None) -> bytes:
        if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"it is compressed in a way that is not read (method {member.method})")
        start, stop = _bounds(wanted, member.size)
        stored = member.method == zipfile.ZIP_STORED
        head = await self._bytes(member.position, member.position + HEAD.size)
        signature, _, flags, _, _, _, crc32, _, _, name, extra = HEAD.unpack(head)
        # Where the head was written before the content was known, its checksum is 0.
        if signature != b"PK\3\4" or (crc32 != member.crc32 and not flags & 8):
            raise ValueError("the archive changed since its directory was read, or is damaged")
        first = member.position + HEAD.size + name + extra
        if stored and (start, stop) != (0, member.size):
            return await self._bytes(first + start, first + stop)
        check_whole(f"{self._location}/{key}", key, member.size)
        content = await self._bytes(first, first + member.packed)
        if not stored:
            content = await asyncio.to_thread(inflated, content, member.size, BARE)
        if len(content) != member.size or zlib.crc32(content) != member.crc32:
            raise ValueError(f"its checksum in the archive does not match ({key})")
        return content[start:stop]

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]

    async def exists(self, key: str) -> bool:
        return key in await self.members()

    async def list(self) -> AsyncIterator[str]:
        for key in await self.members():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in await self.members():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        folder = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
        inside = (key.removeprefix(folder) for key in await self.members() if key.startswith(folder))
        for name in dict.fromkeys(key.partition("/")[0] for key in inside):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        raise PermissionError(f"{self._location} is only read")

    async def delete(self, key: str) -> None:
        raise PermissionError(f"{self._location} is only read")


def _bounds(wanted: ByteRequest | None, size: int) -> tuple[int, int]:
    if isinstance(wanted, RangeByteRequest):
        return wanted.start, min(wanted.end, size)
    if isinstance(wanted, OffsetByteRequest):
        return min(wanted.offset, size), size
    if isinstance(wanted, SuffixByteRequest):
        return max(0, size - wanted.suffix), size
    return 0, size


class _EarlierError(Exception):
    """The directory begins before what is known of the archive."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class _Tail(ReadOnlyFile):
    """A file of which only the end is known."""

    def __init__(self, size: int, content: bytes) -> None:
        super().__init__(size)
        self._content = content

    def readinto(self, buffer: Any) -> int:
        before = self.size - len(self._content)
        if self._position < before:
            raise _EarlierError(self._position)
        part = self._content[self._position - before :][: len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


def _members_of(tail: _Tail) -> dict[str, Member]:
    tail.seek(0)
    try:
        with zipfile.ZipFile(tail) as archive:
            return {
                info.filename: Member(
                    info.header_offset, info.file_size, info.compress_size, info.compress_type, info.CRC,
                    "-".join(map(str, info.date_time)),
                )
                for info in archive.infolist()
                if not info.is_dir()
            }  # fmt: skip
    except zipfile.BadZipFile as error:
        raise ValueError(f"it is no ZIP archive ({error})") from error


def _below(members: dict[str, Member], place: str) -> dict[str, Member]:
    """By keys relative to a place in the archive, whose only folder stands for the archive itself where it has Zarr."""
    tops = {key.partition("/")[0] for key in members}
    top = next(iter(tops)) if len(tops) == 1 else ""
    inside = f"{top}/" if top and any(f"{top}/{name}" in members for name in DOCUMENTS) else ""
    folder = "/".join(filter(None, (inside.rstrip("/"), place)))
    folder = f"{folder}/" if folder else ""
    return {key[len(folder) :]: member for key, member in members.items() if key.startswith(folder)}
