"""HDF5 files, open for as long as something is done with them.

The library lets one thread in at a time, also while it waits for bytes of a file; whoever collects garbage of h5py
meanwhile waits for that thread. The thread that would bring the bytes from afar may be the one that collects. So behind
a URL nothing is fetched while the library is inside: what it lacks is noted and fetched afterwards, and it begins anew.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pipeline.errors import InputError, VoxcaliperError
from pipeline.volume.patience import reason
from pipeline.volume.ranged import HEADER_BYTES, RangedFile
from pipeline.volume.read_only_file import ReadOnlyFile
from pipeline.volume.stores import Store

T = TypeVar("T")
HDF4 = b"\x0e\x03\x13\x01"
CACHE_BYTES = 2**20
"""Of chunks that HDF5 keeps of an open data set."""
KNOWN_BYTES = 16 * 2**20
"""Of a file behind a URL that are kept from one use to the next: its index, above all."""


class OpenedFile:
    """A file to be used again and again. Raises InputError where it is none, or needs what is not installed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known = _KnownFile(RangedFile(store)) if "://" in store.location else None

    def use(self, use: Callable[[Any], T], *, wanted: range = range(0)) -> T:
        """What is made of the file; called again where bytes were lacking. wanted : bytes known to be needed."""
        if self._known is None:
            with _opened(self._store, self._store.location) as file:
                return use(file)
        self._known.fetch(wanted)
        while True:
            try:
                with _opened(self._store, self._known) as file:
                    result = use(file)
            except MemoryError:
                raise
            except Exception:
                if not self._known.lacking:
                    raise
            else:
                if not self._known.lacking:
                    self._known.forget_oldest()
                    return result
            self._known.fetch_lacking()


class _KnownFile(ReadOnlyFile):
    """What is known of a file; to read anything else of it is an error, and noted."""

    def __init__(self, file: RangedFile) -> None:
        super().__init__(file.size)
        self._file = file
        self._blocks: dict[int, bytes] = {}
        self.lacking: set[int] = set()

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._position + len(view), self.size)
        blocks = range(self._position // HEADER_BYTES, -(-stop // HEADER_BYTES))
        self.lacking |= {block for block in blocks if block not in self._blocks}
        if self.lacking:
            raise OSError("not fetched yet")
        content = b"".join(self._blocks[block] for block in blocks)
        start = self._position - blocks.start * HEADER_BYTES
        part = content[start : start + max(0, stop - self._position)]
        view[: len(part)] = part
        self._position += len(part)
        return len(part)

    def fetch(self, wanted: range) -> None:
        """The blocks with these bytes."""
        blocks = range(wanted.start // HEADER_BYTES, -(-wanted.stop // HEADER_BYTES)) if wanted else range(0)
        self.lacking |= {block for block in blocks if block not in self._blocks}
        self.fetch_lacking()

    def fetch_lacking(self) -> None:
        """What is lacking, neighbours in one request."""
        lacking = sorted(self.lacking)
        while lacking:
            count = next((n for n, block in enumerate(lacking) if block != lacking[0] + n), len(lacking))
            first, content = lacking[0], self._file.read_at(lacking[0] * HEADER_BYTES, count * HEADER_BYTES)
            for n in range(count):
                self._blocks[first + n] = content[n * HEADER_BYTES : (n + 1) * HEADER_BYTES]
            lacking = lacking[count:]
        self.lacking = set()
        self._position = 0

    def forget_oldest(self) -> None:
        """Keep to KNOWN_BYTES."""
        for block in list(self._blocks)[: max(0, len(self._blocks) - KNOWN_BYTES // HEADER_BYTES)]:
            del self._blocks[block]


def library_of(location: str) -> Any:
    """h5py. Raises InputError where it is not installed."""
    try:
        import h5py  # an extra
    except ImportError as error:
        raise InputError(f"{location} is HDF5, which needs h5py: pip install 'voxcaliper[hdf5]'.") from error
    return h5py


@contextmanager
def _opened(store: Store, source: str | io.RawIOBase) -> Iterator[Any]:
    library = library_of(store.location)
    try:
        locking = {"locking": False} if isinstance(source, str) else {}
        file = library.File(source, "r", rdcc_nbytes=CACHE_BYTES, **locking)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise unreadable(store, error) from None
    with file:
        yield file


def unreadable(store: Store, error: Exception) -> VoxcaliperError | OSError:
    """What is said of an error of the library; an error of the disk or the store stays what it is."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
        return error
    if isinstance(error, OSError) and "://" not in store.location and _is_hdf4(store.location):
        return InputError(f"{store.location} is HDF4, which is not read; convert it with h4toh5.")
    return InputError(f"{store.location} is not a readable HDF5 file ({reason(error)}).")


def _is_hdf4(location: str) -> bool:
    with open(location, "rb") as file:
        return file.read(len(HDF4)) == HDF4
