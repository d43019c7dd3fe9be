"""What is refused by its size or kind before it is read or decoded: documents, stored chunks, shapes, special files.

A chunk is decoded only into about the memory that its shape says (`room`), which is what plans count on.
"""

from __future__ import annotations

import errno
import io
import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from pipeline.errors import InputError, StorageError

LARGEST_DOCUMENT = 16 * 2**20
"""Bytes of a document of metadata (zarr.json, attributes.json, info …)."""
DOCUMENTS = frozenset({"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata", "attributes.json", "info"})
MOST_VOXELS = 2**62
"""More than any store holds, and what sums of them can still be written in."""
LONGEST_SIDE = 2**40
DEFLATE_RATIO = 1032
"""Bytes that deflate can make of one byte, at most."""
STORED_BYTES: ContextVar[int | None] = ContextVar("STORED_BYTES", default=None)
"""Most bytes of an object that is read whole, in the tasks of a read; None for any number."""
LARGEST_READ = 2**30
"""Of one call of the operating system, which may not read more than two GiB."""
SPECIAL = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def room(size: int) -> int:
    """Most bytes that what decodes to so many may take on the way: stored, or between two filters."""
    return 2 * size + 2**20


def check_special(path: str, mode: int) -> None:
    """Raise StorageError for what is neither a file nor a folder: reading it may never end."""
    for is_kind, what in SPECIAL:
        if is_kind(mode):
            raise StorageError(f"{path} is {what}, not a file; remove it or put the file there.")


def open_regular(path: str) -> int:
    """A descriptor of a file, for reading; never waits for a writer of a pipe.

    Raises OSError, IsADirectoryError for a folder, and StorageError for pipes, devices and sockets.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_file(path, os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_file(path: str, mode: int) -> None:
    check_special(path, mode)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def read_whole(file: io.FileIO, count: int) -> bytes:
    """So many bytes from where a file stands; fewer where it ends."""
    parts: list[bytes] = []
    while count and (part := file.read(min(count, LARGEST_READ))):
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@contextmanager
def stored_bytes(most: int) -> Iterator[None]:
    """Within this context, and tasks begun in it, objects that are read whole have no more bytes than this."""
    token = STORED_BYTES.set(most)
    try:
        yield
    finally:
        STORED_BYTES.reset(token)


def check_whole(name: str, key: str, size: int) -> None:
    """Raise an error where an object is too large to be read whole.

    name : where it lies, for messages. InputError for documents, ValueError for chunks (`stored_bytes`).
    """
    if key.rpartition("/")[2] in DOCUMENTS and size > LARGEST_DOCUMENT:
        raise InputError(
            f"{name} has {size:,} bytes, and documents of more than {LARGEST_DOCUMENT >> 20} MiB are not read; take out"
            " of its attributes what does not describe the volume."
        )
    most = STORED_BYTES.get()
    if most is not None and size > most:
        raise ValueError(f"it is stored in {size:,} bytes, and its voxels take no more than {most:,}")


def check_document(name: str, size: int) -> None:
    """Raise InputError for a document that is too large, whatever its name."""
    if size > LARGEST_DOCUMENT:
        check_whole(name, "info", size)


def check_shape(name: str, shape: Sequence[int], chunk_shape: Sequence[int]) -> None:
    """Raise InputError for sizes that no volume has: sides below 1, or more voxels than can be counted."""
    if min(shape, default=1) == 0:
        raise InputError(f"{name} is empty, shape {tuple(shape)}; a volume has at least one voxel.")
    if any(side < 1 for side in (*shape, *chunk_shape)):
        raise InputError(
            f"{name} states the shape {_times(shape)} in chunks of {_times(chunk_shape)}; each side needs at least one"
            " voxel, so its metadata are damaged."
        )
    if math.prod(shape) > MOST_VOXELS or max(*shape, *chunk_shape) > LONGEST_SIDE:
        raise InputError(
            f"{name} states the shape {_times(shape)} in chunks of {_times(chunk_shape)}, more voxels than any store"
            " holds; its metadata are damaged."
        )


def check_deflated(stored: int, whole: int) -> None:
    """Raise ValueError where so many deflated bytes cannot hold a content of `whole` bytes."""
    if whole > (stored + 1) * DEFLATE_RATIO:
        raise ValueError(f"it states {whole:,} bytes of voxels, more than its {stored:,} compressed bytes can hold")


def _times(sides: Sequence[int]) -> str:
    return " × ".join(f"{side:,}" for side in sides)
