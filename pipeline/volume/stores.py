"""The one door to stores of bytes: a local folder or file, http(s)://, s3://, gs://, or what fsspec knows.

Every read has a time limit, and what may pass is tried again (pipeline.volume.patience).
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, cast
from urllib.parse import quote, unquote, urlsplit

import fsspec
import obstore
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore

from pipeline.errors import InputError, StorageError
from pipeline.volume.limits import check_special, check_whole, open_regular, read_whole
from pipeline.volume.patience import patiently, reason
from pipeline.volume.remote import RemoteStore
from pipeline.volume.stored_objects import AT_ONCE, PAGE, ObjectStat, RefusedError, Store, opened
from pipeline.volume.web_index import children
from pipeline.volume.zip_store import ZipMembers, in_archive

__all__ = ["AT_ONCE", "ObjectStat", "RefusedError", "Store", "absolute_location", "open_store"]


class LinkedStore(LocalStore):
    """Zarr's store of a folder, in which a link that points nowhere is no missing object.

    Data sets of git-annex are such links where their content was not fetched.
    """

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        path = os.path.join(self.root, key) if key else str(self.root)
        try:
            body = await asyncio.to_thread(_body, path, key, byte_range)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            _check_link(path)
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(body)


def _body(path: str, key: str, wanted: ByteRequest | None) -> bytes:
    """Bytes of a file: refused by its kind and size before they are read."""
    with open(open_regular(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if wanted is None:
            check_whole(path, key, size)
            return read_whole(file, size)
        start = wanted.start if isinstance(wanted, RangeByteRequest) else 0
        if isinstance(wanted, OffsetByteRequest):
            start = wanted.offset
        elif isinstance(wanted, SuffixByteRequest):
            start = max(0, size - wanted.suffix)
        stop = min(size, wanted.end) if isinstance(wanted, RangeByteRequest) else size
        file.seek(start)
        return read_whole(file, max(0, stop - start))


def _check_link(path: str) -> None:
    """Raise StorageError where a path that is not there is a link."""
    if os.path.islink(path):
        raise StorageError(
            f"{path} is a link that points nowhere ({os.readlink(path)}); fetch what it stands for (with git-annex or"
            " DataLad: get), or mend the link."
        )


class LocalFiles(Store):
    """A folder, or a file, of this machine."""

    def __init__(self, location: str) -> None:
        super().__init__(location, LinkedStore(location, read_only=True))

    def stat(self, key: str) -> ObjectStat | None:
        """As `Store.stat`; a file system needs no second thread for it."""
        path = os.path.join(self.location, key) if key else self.location
        try:
            found = patiently(lambda: os.stat(path))
            check_special(path, found.st_mode)
            return _file_stat(found)
        except (FileNotFoundError, NotADirectoryError):
            _check_link(path)
            return None
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {reason(error)}; check the store.") from error

    async def _stat(self, key: str) -> ObjectStat | None:
        return self.stat(key)

    def _list(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]:
        folders = [prefix]
        while folders:
            folder = folders.pop()
            for entry in self._entries(folder):
                key = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir():
                    folders.append(key)
                elif entry.is_file():
                    yield key, _file_stat(entry.stat())
                else:  # a link that points nowhere, or a pipe, which is told when it is read
                    yield key, ObjectStat(0, None, None)

    def _children(self, prefix: str, limit: int) -> Iterator[tuple[str, ObjectStat]]:
        files = (entry for entry in self._entries(prefix) if entry.is_file())
        return ((entry.name, _file_stat(entry.stat())) for entry in files)

    def _names(self, prefix: str, limit: int) -> Iterator[str]:
        # Links that point nowhere, pipes and devices are among them: a slice may be one, which is told when it is read.
        return (entry.name for entry in self._entries(prefix) if not entry.is_dir())

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self.location, folder)) as entries:
                yield from entries
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StorageError(f"{self.address(folder)} cannot be listed: {reason(error)}.") from error


def _file_stat(found: os.stat_result) -> ObjectStat:
    return ObjectStat(found.st_size, None, str(found.st_mtime_ns))


class RemoteObjects(Store):
    """Objects of S3 and GCS, or behind a plain web server."""

    zarr: RemoteStore

    def __init__(self, location: str) -> None:
        store = RemoteStore(location)
        super().__init__(location, store, can_list=store.lists)

    async def _get(self, key: str, wanted: ByteRequest | None) -> Buffer | None:
        return await self.zarr.fetch(key, default_buffer_prototype(), wanted)

    async def _stat(self, key: str) -> ObjectStat | None:
        meta = await self.zarr.head(key)
        return None if meta is None else _remote_stat(meta)

    def _list(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]:
        return self._pages(prefix) if self.can_list else self._linked(prefix)

    def _pages(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]:
        stream, last = None, None

        async def next_page() -> list[obstore.ObjectMeta] | None:
            nonlocal stream
            if stream is None:
                stream = obstore.list(self.zarr.store, prefix or None, offset=last, chunk_size=PAGE)
            try:
                return cast("list[obstore.ObjectMeta] | None", await anext(stream, None))
            except BaseException as error:  # also where it is ended after its time
                stream = None  # begins again behind the last key
                if isinstance(error, obstore.exceptions.BaseError):
                    raise self.zarr.in_plain_words(error) from error
                raise

        while page := self._read(prefix, next_page):
            for meta in page:
                yield meta["path"], _remote_stat(meta)
            last = page[-1]["path"]

    def _linked(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]:
        folders = [prefix]
        while folders:
            folder = folders.pop()
            names = self._links(folder)
            if names is None:
                raise InputError(
                    f"{self.address(folder)}: this web server does not show what the folder holds; give the address of"
                    " a Zarr or N5 volume or of one file, or an s3:// or gs:// address."
                )
            keys = [f"{folder}/{name}" if folder else name for name in names]
            folders += [key.rstrip("/") for key in keys if key.endswith("/")]
            yield from self._stats([key for key in keys if not key.endswith("/")])

    def _children(self, prefix: str, limit: int) -> Iterator[tuple[str, ObjectStat]]:
        folder = f"{prefix}/" if prefix else ""
        if self.can_list:

            async def listed() -> list[obstore.ObjectMeta]:
                try:
                    found = await obstore.list_with_delimiter_async(self.zarr.store, prefix or None)
                except obstore.exceptions.BaseError as error:
                    raise self.zarr.in_plain_words(error) from error
                return cast("list[obstore.ObjectMeta]", found["objects"])

            stats: Any = ((meta["path"], _remote_stat(meta)) for meta in self._read(prefix, listed) or ())
        else:
            # One more than the limit tells that there are too many; the others need not be asked for.
            stats = self._stats([folder + name for name in islice(self._names(prefix, limit), limit + 1)])
        return ((key.removeprefix(folder), stat) for key, stat in stats)

    def _names(self, prefix: str, limit: int) -> Iterator[str]:
        if self.can_list:
            return super()._names(prefix, limit)
        return (name for name in self._links(prefix) or () if not name.endswith("/"))

    def _links(self, folder: str) -> list[str] | None:
        """Names in a folder, those of folders with a slash at their end; None where the server does not show them."""
        page = self._read(folder, lambda: self.zarr.index_page(folder))
        return None if page is None else children(*page)

    def _above(self) -> tuple[Store, str] | None:
        above = super()._above()
        return (
            (above[0], unquote(above[1])) if above and not self.can_list else above
        )  # addresses are encoded, keys not

    def _stats(self, keys: list[str]) -> Iterator[tuple[str, ObjectStat]]:
        async def ask(part: list[str]) -> list[ObjectStat | None]:
            return await asyncio.gather(*map(self._stat, part))

        rest = iter(keys)
        while part := list(islice(rest, AT_ONCE)):
            stats = self._read(part[0], lambda: ask(part)) or ()
            yield from ((key, stat) for key, stat in zip(part, stats, strict=True) if stat is not None)


def _remote_stat(meta: obstore.ObjectMeta) -> ObjectStat:
    modified: datetime | None = meta["last_modified"]
    known = (
        modified is not None and modified.timestamp() > 0
    )  # where the server does not say, obstore has the year 1970
    return ObjectStat(meta["size"], meta["e_tag"], modified.isoformat() if modified and known else None)


class FsspecObjects(Store):
    """Whatever else fsspec knows: memory://, abfs://, sftp:// and more, each with its own optional package."""

    def __init__(self, location: str) -> None:
        super().__init__(location, FsspecStore.from_url(location, read_only=True))
        self._files, self._root = fsspec.core.url_to_fs(location)

    def _now(self) -> fsspec.AbstractFileSystem:
        self._files.invalidate_cache()  # what it listed earlier may have changed
        return self._files

    async def _stat(self, key: str) -> ObjectStat | None:
        found = await asyncio.to_thread(self._now().info, f"{self._root}/{key}" if key else self._root)
        return _fsspec_stat(found)

    def _list(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]:
        root = f"{self._root}/{prefix}" if prefix else self._root
        for folder, _, files in self._now().walk(root, detail=True):
            for name, found in files.items():
                key = f"{folder}/{name}".removeprefix(self._root).lstrip("/")
                if name and (stat := _fsspec_stat(found)) is not None:
                    yield key, stat

    def _children(self, prefix: str, limit: int) -> Iterator[tuple[str, ObjectStat]]:
        root = f"{self._root}/{prefix}" if prefix else self._root

        async def listed() -> list[dict[str, Any]]:
            return cast("list[dict[str, Any]]", await asyncio.to_thread(self._now().ls, root, detail=True))

        for found in self._read(prefix, listed) or ():
            name = found["name"].rstrip("/").rpartition("/")[2]
            if found["name"].strip("/") != root.strip("/") and (stat := _fsspec_stat(found)) is not None:
                yield name, stat


def _fsspec_stat(found: dict[str, Any]) -> ObjectStat | None:
    if found.get("type") == "directory":
        return None
    marks = {name.lower().replace("_", "").replace("-", ""): value for name, value in found.items()}
    etag = marks.get("etag") or marks.get("contentmd5") or marks.get("md5hash")
    modified = next((marks[n] for n in ("lastmodified", "mtime", "modified", "updated", "created") if n in marks), None)
    if isinstance(modified, datetime):  # some file systems write it so here and as seconds there
        modified = modified.timestamp()
    return ObjectStat(int(found["size"]), _text(etag), _text(modified))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


KINDS: dict[str, type[LocalFiles | RemoteObjects]] = {
    "": LocalFiles,
    **dict.fromkeys(("http", "https", "s3", "gs"), RemoteObjects),
}
"""By the scheme of a location; all others go to fsspec."""
IP_ADDRESS = re.compile(r"//\[[0-9a-fA-F:.]+\]")


SECRET = re.compile(r"[?#;&][^/=?#;&]*=")
"""How what is given to a server beside a path begins, such as ;token=, encoded or not."""


def _decoded(text: str) -> str:
    for _ in range(3):  # encoded more than once
        text = unquote(text)
    return text


def open_store(location: str) -> Store:
    """The store of a location; within a process, the same one for the same location. Nothing is read yet.

    Raises InputError for a scheme that nobody knows or that needs a package which is not installed.
    """
    location = absolute_location(location)
    if in_archive(location):
        return opened(_zip_members, location)
    scheme = location.partition("://")[0] if "://" in location else ""
    return opened(KINDS.get(scheme, FsspecObjects), location)


def _zip_members(location: str) -> ZipMembers:
    archive, place = in_archive(location) or (location, "")
    folder, _, name = archive.rpartition("/")
    scheme = location.partition("://")[0] if "://" in location else ""
    above = opened(KINDS.get(scheme, FsspecObjects), folder or "/")
    web = scheme.startswith("http")  # addresses are encoded, keys not
    return ZipMembers(location, (above, unquote(name) if web else name), unquote(place) if web else place)


def absolute_location(location: str) -> str:
    """The one way to write a location, which plans and results hold; given again, it stays as it is.

    A local path is made absolute (a worker may run in another folder), file:// URLs included. The Human Organ Atlas
    writes n5://gs://BUCKET/… and zarr://gs://…: the word in front says no more than the store does, so it is left out.
    gcs:// is gs://, and s3a:// is s3://. Of http(s)://, all that a URL must encode is encoded.

    Raises InputError for an address that holds a secret, which it does not repeat, and for one that is none.
    """
    for word in ("n5://", "zarr://", "zarr2://", "zarr3://"):
        location = location.removeprefix(word)
    if location.startswith("file:/"):
        return os.path.abspath(unquote(urlsplit(location).path))
    if "://" not in location:
        return os.path.abspath(location)
    scheme, _, rest = location.partition("://")
    scheme = {"gcs": "gs", "s3a": "s3"}.get(scheme, scheme)
    if "::" in IP_ADDRESS.sub("//", location):
        raise InputError(
            f"{location.partition(':')[0]}::… is an address within an address, which is not read; give that of the"
            " volume itself."
        )
    try:
        parts = urlsplit(location)
        _ = parts.port
    except ValueError as error:
        raise InputError(
            f"An address that begins with {scheme}:// cannot be understood; write {scheme}://HOST/PATH."
        ) from error
    user, _, host = parts.netloc.rpartition("@")
    secret = SECRET.search(plain_path := _decoded(parts.path))
    if (
        "?" in rest
        or ":" in user
        or (user and scheme in KINDS)
        or secret
        or SECRET.search(f"#{_decoded(parts.fragment)}")
    ):
        shown = plain_path[: secret.start()] if secret else parts.path
        raise InputError(
            f"{scheme}://{host}{shown}: an address with a password or a signature would be written into results;"
            " leave it out and give credentials in the environment."
        )
    if scheme in ("http", "https"):
        rest = parts.netloc + quote(unquote(rest[len(parts.netloc) :]), safe="/!$&'()*+,;=:@~")
    return f"{scheme}://{rest.rstrip('/')}"
