"""What every store of bytes can do: read by key, say what it has, list; patiently, and with plain words at the end.

What is not there is None; what is not for us, or cannot be read, is a StorageError.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import zarr.abc.store
from obstore.exceptions import BaseError
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, default_buffer_prototype

from pipeline.errors import InputError, StorageError, VoxcaliperError
from pipeline.volume.patience import patiently, reason, within_time

T = TypeVar("T")

AT_ONCE = 64
"""Requests in flight where many objects are asked for."""
LISTS_AT_ONCE = 8
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

    def children(self, prefix: str = "", *, limit: int) -> list[tuple[str, ObjectStat]]:
        """Names and marks of the files that lie in a folder itself, in any order; none where it is no folder.

        Nor are there any where a web server does not show what its folders hold. Raises InputError where there are more
        than `limit`, RefusedError where the store does not let us list.
        """
        return self._few(self._children(prefix.strip("/"), limit), prefix, limit)

    def names(self, prefix: str = "", *, limit: int) -> list[str]:
        """As `children`, without marks: a web server would have to be asked for that of each file."""
        return self._few(self._names(prefix.strip("/"), limit), prefix, limit)

    def _few(self, files: Iterator[T], folder: str, limit: int) -> list[T]:
        found = list(islice(files, limit + 1))
        if len(found) > limit:
            raise InputError(
                f"{self.address(folder)} holds more than {limit:,} files, which is more than can be looked through;"
                " give a folder of its own to what is meant."
            )
        return found

    def _names(self, prefix: str, limit: int) -> Iterator[str]:
        return (name for name, _ in self._children(prefix, limit))

    def list(self, prefix: str = "") -> Iterator[tuple[str, ObjectStat]]:
        """Keys and marks of all objects below a folder (`prefix`, "" for all), page by page, in any order.

        Raises InputError where the store cannot list, RefusedError where it does not let us.
        """
        return self._list(prefix.strip("/"))

    def list_array(self, folder: str, counts: Sequence[int]) -> Iterator[tuple[str, ObjectStat]]:
        """As `list`, of a folder with the objects of an array.

        counts : objects along each stored axis. Of many objects far away, which lie in folders that are named by their
        first index, some folders are listed at a time; what these hold is what lies in memory.
        """
        many = "://" in self.location and math.prod(counts) > LISTS_AT_ONCE * PAGE
        parts = [f"{folder}/{number}".lstrip("/") for number in range(counts[0])] if many else []
        found = False
        with ThreadPoolExecutor(LISTS_AT_ONCE) as threads:
            for first in range(0, len(parts), LISTS_AT_ONCE):
                held = threads.map(lambda part: [*self.list(part)], parts[first : first + LISTS_AT_ONCE])
                for objects in held:
                    found = found or bool(objects)
                    yield from objects
        if not found:  # few, or with keys like 0.0.0
            yield from self.list(folder)

    async def expect(self, key: str) -> None:
        """Raise StorageError where an object is not there any more; for coroutines of a read."""
        if await self._get(key, None) is None:
            raise StorageError(
                f"{self.address(key)} was there when the volume was opened and is gone, so what else is missing may not"
                " be taken for the fill value; check whether the store was moved, deleted or unmounted."
            )

    def address(self, key: str) -> str:
        """Where an object lies, for messages."""
        return f"{self.location}/{key}" if key else self.location

    async def _get(self, key: str, wanted: ByteRequest | None) -> Buffer | None:
        return await self.zarr.get(key, default_buffer_prototype(), wanted)

    @abstractmethod
    async def _stat(self, key: str) -> ObjectStat | None: ...

    @abstractmethod
    def _list(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]: ...

    @abstractmethod
    def _children(self, prefix: str, limit: int) -> Iterator[tuple[str, ObjectStat]]: ...

    def _above(self) -> tuple[Store, str] | None:
        """The store of the folder around this location, and the key of the location there."""
        folder, _, name = self.location.rpartition("/")
        return None if not name or folder.endswith(("/", ":")) else (opened(type(self), folder or "/"), name)

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


@lru_cache(maxsize=256)
def opened(kind: Callable[[str], Store], location: str) -> Store:
    """The store of an absolute location, by its class; within a process, the same one for the same location.

    Raises InputError for a scheme that nobody knows or that needs a package which is not installed.
    """
    try:
        return kind(location)
    except ImportError as error:
        raise InputError(f"{location} cannot be opened without a further package: {error}.") from error
    except ValueError as error:
        raise InputError(f"{location} is no address that can be read ({reason(error)}); check it.") from error
    except BaseError as error:  # files of credentials that the environment names
        raise InputError(f"{location} cannot be opened ({reason(error)}); check the environment.") from error
