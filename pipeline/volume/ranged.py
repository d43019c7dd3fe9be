"""A file that is read in parts, wherever it lies: in a folder of this machine, or in a store behind a URL.

A read that takes longer than pipeline.volume.patience allows is a TimeoutError: network file systems may hang, too.
"""

from __future__ import annotations

import errno
import io
import os
from typing import Any, BinaryIO, cast

from pipeline.volume.limits import open_regular
from pipeline.volume.patience import in_time
from pipeline.volume.read_only_file import ReadOnlyFile
from pipeline.volume.stores import Store

HEADER_BYTES = 64 * 2**10
"""Libraries read headers in many small steps; so much is fetched at a time."""
LARGEST_READ = 2**30
"""Of one call of the operating system, which may not read more than two GiB."""


class RangedFile(ReadOnlyFile):
    """An object of a store as a file, read only. key : "" for the location of the store itself."""

    def __init__(self, store: Store, key: str = "") -> None:
        super().__init__(0)
        self.store, self._key, self._descriptor = store, key, -1
        if "://" not in store.location:
            path = os.path.join(store.location, key) if key else store.location
            try:
                self._descriptor = in_time(open_regular, path)
            except FileNotFoundError:
                store.stat(key)  # which says of a link that it points nowhere
                raise
            self.size = os.fstat(self._descriptor).st_size
        else:
            found = store.stat(key)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), store.address(key))
            self.size = found.size

    def read_at(self, position: int, count: int) -> bytes:
        """So many bytes from a position on; fewer where the file ends. Threads may call it at the same time."""
        stop = min(position + count, self.size)
        if stop <= position:
            return b""
        if self._descriptor < 0:
            content = self.store.get(self._key, position, stop)
            if content is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.store.address(self._key))
            return content
        parts = []
        while position < stop:
            part = in_time(os.pread, self._descriptor, min(stop - position, LARGEST_READ), position)
            if not part:
                break
            parts.append(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        """As of any raw file."""
        view = memoryview(buffer).cast("B")
        content = self.read_at(self._position, len(view))
        view[: len(content)] = content
        self._position += len(content)
        return len(content)

    def readall(self) -> bytes:
        """The rest, in one request; Python's own would ask for a few kilobytes at a time."""
        content = self.read_at(self._position, self.size - self._position)
        self._position += len(content)
        return content

    def close(self) -> None:
        """Lets go of the file; so does the end of the object."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()

    def buffered(self, size: int = HEADER_BYTES) -> BinaryIO:
        """The same file for libraries that read it in small steps; so many bytes are fetched at a time."""
        return cast(BinaryIO, io.BufferedReader(self, size))
