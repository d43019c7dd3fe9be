"""Bytes by their key below a location: a local folder or file, http(s)://, s3://, gs://, or what fsspec knows.

Every read has a time limit, and what may pass is tried again (pipeline.volume.patience). What is not there is None;
what is not for us, or cannot be read, is a StorageError.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

import fsspec
import obstore
import zarr.abc.store
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore

from pipeline.errors import InputError, StorageError, VoxcaliperError
from pipeline.volume.patience import patiently, reason, within_time
from pipeline.volume.remote import RemoteStore
from pipeline.volume.web_index import children

T = TypeVar("T")

AT_ONCE = 64
"""Requests in flight where many objects are asked for."""
PAGE = 1000
"""Objects in one answer of a listing."""


@dataclass(frozen=True)
class ObjectStat:
    """What a store says of an object: bytes, and by what its content is told from another; None where it does not say.

    etag : the server's name of this content. modified : time of the last change, as the store writes it.
    """

    size: int
    etag: str | None
    modified: str | None


class RefusedError(StorageError):
    """The store does not let us read; those that may not list hear this of objects that are not there, too."""


class Store(ABC):
    """Objects below a location. Keys are relative to it, with slashes; the key "" is the location itself, a file.

    zarr : the same as a store of Zarr, read only.
    can_list : whether `list` tells sizes and times of many objects with one request. Web servers cannot, though
        `list` may work there, with a request for each object.
    """

    def __init__(self, location: str, store: zarr.abc.store.Store, *, can_list: bool = True) -> None:
        self.location, self.zarr, self.can_list = location, store, can_list

    def get(self, key: str, start: int | None = None, stop: int | None = None) -> bytes | None:
        """The bytes of an object, or those from `start` up to `stop`; None where it is not there."""
        if not key and (above := self._above()):
            return above[0].get(above[1], start, stop)
        if stop is not None:
            wanted: ByteRequest | None = RangeByteRequest(start or 0, stop)
        else:
            wanted = OffsetByteRequest(start) if start else None
        buffer = self._read(key, lambda: self._get(key, wanted))
        return None if buffer is None else buffer.to_bytes()

    def document(self, key: str) -> bytes | None:
        """As `get`, for what need not be there: an answer of no permission is taken for that."""
        try:
            return self.get(key)
        except RefusedError:
            return None

    def holds(self, *keys: str) -> bool:
        """Whether one of these objects is there. Raises RefusedError where none is and one was refused."""
        refused = None
        for key in keys:
            try:
                if self.get(key) is not None:
                    return True
            except RefusedError as error:
                refused = refused or error
        if refused:
            raise refused
        return False

    def stat(self, key: str) -> ObjectStat | None:
        """Size and mark of an object without its bytes; None where it is not there."""
        if not key and (above := self._above()):
            return above[0].stat(above[1])
        return self._read(key, lambda: self._stat(key))

    def list(self, prefix: str = "") -> Iterator[tuple[str, ObjectStat]]:
        """Keys and marks of all objects below a folder (`prefix`, "" for all), page by page, in any order.

        Raises InputError where the store cannot list, RefusedError where it does not let us.
        """
        return self._list(prefix.strip("/"))

    def address(self, key: str) -> str:
        """Where an object lies, for messages."""
        return f"{self.location}/{key}" if key else self.location

    async def _get(self, key: str, wanted: ByteRequest | None) -> Buffer | None:
        return await self.zarr.get(key, default_buffer_prototype(), wanted)

    @abstractmethod
    async def _stat(self, key: str) -> ObjectStat | None: ...

    @abstractmethod
    def _list(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]: ...

    def _above(self) -> tuple[Store, str] | None:
        """The store of the folder around this location, and the key of the location there."""
        folder, _, name = self.location.rpartition("/")
        return None if not name or folder.endswith(("/", ":")) else (open_store(folder or "/"), name)

    def _read(self, key: str, reading: Callable[[], Coroutine[Any, Any, T | None]]) -> T | None:
        try:
            return patiently(lambda: within_time(reading()))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except (MemoryError, VoxcaliperError):
            raise
        except Exception as error:  # packages behind fsspec have their own kinds of errors
            kind = RefusedError if isinstance(error, PermissionError) else StorageError
            raise kind(
                f"{self.address(key)} cannot be read: {reason(error)}; check the store and the connection to it."
            ) from error


class LocalFiles(Store):
    """A folder, or a file, of this machine."""

    def __init__(self, location: str) -> None:
        super().__init__(location, LocalStore(location, read_only=True))

    def stat(self, key: str) -> ObjectStat | None:
        """As `Store.stat`; a file system needs no second thread for it."""
        path = os.path.join(self.location, key) if key else self.location
        try:
            return patiently(lambda: _file_stat(os.stat(path)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {reason(error)}; check the store.") from error

    async def _stat(self, key: str) -> ObjectStat | None:
        return self.stat(key)

    def _list(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]:
        folders = [prefix]
        while folders:
            folder = folders.pop()
            try:
                entries = os.scandir(os.path.join(self.location, folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise StorageError(f"{self.address(folder)} cannot be listed: {reason(error)}.") from error
            with entries:
                for entry in entries:
                    key = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir():
                        folders.append(key)
                    elif entry.is_file():
                        yield key, _file_stat(entry.stat())


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
            except obstore.exceptions.BaseError as error:
                stream = None  # begins again behind the last key
                raise self.zarr.in_plain_words(error) from error

        while page := self._read(prefix, next_page):
            for meta in page:
                yield meta["path"], _remote_stat(meta)
            last = page[-1]["path"]

    def _linked(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]:
        folders = [prefix]
        while folders:
            folder = folders.pop()
            page = self.get(folder)
            names = children(self.address(folder), page) if page is not None else None
            if names is None:
                raise InputError(
                    f"{self.address(folder)}: this web server does not show what the folder holds; give the address of"
                    " a Zarr or N5 volume or of one file, or an s3:// or gs:// address."
                )
            keys = [f"{folder}/{name}" if folder else name for name in names]
            folders += [key.rstrip("/") for key in keys if key.endswith("/")]
            files = iter([key for key in keys if not key.endswith("/")])
            while part := list(islice(files, AT_ONCE)):
                stats = patiently(lambda: within_time(self._stats(part)))
                yield from ((key, stat) for key, stat in zip(part, stats, strict=True) if stat is not None)

    async def _stats(self, keys: list[str]) -> list[ObjectStat | None]:
        return await asyncio.gather(*map(self._stat, keys))


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

    async def _stat(self, key: str) -> ObjectStat | None:
        found = await asyncio.to_thread(self._files.info, f"{self._root}/{key}" if key else self._root)
        return _fsspec_stat(found)

    def _list(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]:
        root = f"{self._root}/{prefix}" if prefix else self._root
        for folder, _, files in self._files.walk(root, detail=True):
            for name, found in files.items():
                key = f"{folder}/{name}".removeprefix(self._root).lstrip("/")
                if name and (stat := _fsspec_stat(found)) is not None:
                    yield key, stat


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


KINDS: dict[str, type[LocalFiles | RemoteObjects | FsspecObjects]] = {
    "": LocalFiles,
    **dict.fromkeys(("http", "https", "s3", "gs"), RemoteObjects),
}
"""By the scheme of a location; all others go to fsspec."""


def open_store(location: str) -> Store:
    """The store of a location; within a process, the same one for the same location. Nothing is read yet.

    Raises InputError for a scheme that nobody knows or that needs a package which is not installed.
    """
    return _open_store(absolute_location(location))


@lru_cache(maxsize=256)
def _open_store(location: str) -> Store:
    scheme = location.partition("://")[0] if "://" in location else ""
    try:
        return KINDS.get(scheme, FsspecObjects)(location)
    except ImportError as error:
        raise InputError(f"{location} cannot be opened without a further package: {error}.") from error
    except ValueError as error:
        raise InputError(f"{location} is no address that can be read ({reason(error)}); check it.") from error


def absolute_location(location: str) -> str:
    """A local path made absolute (a worker may run in another folder), file:// URLs included; other URLs unchanged.

    The Human Organ Atlas writes n5://gs://BUCKET/… and zarr://gs://…: the word in front says no more than the store
    does, so it is left out. gcs:// is gs://, and s3a:// is s3://.
    """
    for word in ("n5://", "zarr://", "zarr2://", "zarr3://"):
        location = location.removeprefix(word)
    parts = urlsplit(location)
    if parts.scheme == "file":
        return os.path.abspath(unquote(parts.path))
    if "://" not in location:
        return os.path.abspath(location)
    scheme, _, rest = location.partition("://")
    return f"{ {'gcs': 'gs', 's3a': 's3'}.get(scheme, scheme) }://{rest.rstrip('/')}"
