"""What was read from remote stores, on a local disk and up to a stated size; what was used longest ago goes first.

An entry is a body with the mark (ETag) that the server gave with it. It is used only after the server has said, now,
that the object still has this mark, so that nothing that changed is ever served. Times of the last change are no marks:
one object may be replaced by an older one. What a server sends without an ETag is not kept.

VOXCALIPER_CACHE : folder, for one user alone; several processes share it. By default one in the temporary folder.
VOXCALIPER_CACHE_SIZE : "20 GiB", or 0 for no cache. By default 4 GiB.
The cache is an aid: an entry that is damaged, or cannot be kept for want of disk, is read from the server again.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import tempfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import diskcache

from pipeline.errors import InputError, StorageError
from pipeline.volume.own_folder import make_own
from pipeline.volume.patience import reason

FOLDER, SIZE = "VOXCALIPER_CACHE", "VOXCALIPER_CACHE_SIZE"
DEFAULT_BYTES = 4 << 30
LARGEST_SHARE = 16
"""A body of more than this part of the cache is not kept: it would push out all others."""
AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?([kKMGT]?)(i?)B?")


@dataclass(frozen=True)
class Entry:
    """A body and its mark."""

    body: bytes
    etag: str


class Cache:
    """Bodies by name in a folder, which is made with mode 0700.

    Raises StorageError for a folder that others may read or write, or that cannot be used.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        try:
            if wrong := make_own(folder):
                raise StorageError(
                    f"The cache {folder} {wrong}, so others could exchange what is in it; name another one in {FOLDER},"
                    f" or set {SIZE}=0."
                )
            self._kept = diskcache.Cache(str(folder), size_limit=size, eviction_policy="least-recently-used")
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"The cache {folder} cannot be used: {reason(error)}; name another folder in {FOLDER}, or set {SIZE}=0."
            ) from error

    def get(self, name: str) -> Entry | None:
        """What is kept under a name; None where nothing is, or it is damaged."""
        try:
            found = self._kept.get(name)
        except (OSError, sqlite3.Error, diskcache.Timeout):
            return None
        head, _, body = found.partition(b"\n") if isinstance(found, bytes) else (b"", b"", b"")
        try:
            mark = json.loads(head)
            whole = mark["crc"] == zlib.crc32(body)
            return Entry(body, mark["etag"]) if whole and mark["etag"] else None
        except (ValueError, KeyError, TypeError):
            return None

    def put(self, name: str, entry: Entry) -> None:
        """Keep a body, unless it is too large."""
        if len(entry.body) > self.size // LARGEST_SHARE:
            return
        mark = {"etag": entry.etag, "crc": zlib.crc32(entry.body)}
        try:
            self._kept.set(name, json.dumps(mark).encode() + b"\n" + entry.body)
        except (OSError, sqlite3.Error, diskcache.Timeout):
            return


def cache() -> Cache | None:
    """The cache that the environment names; None where it is turned off."""
    return _cache(os.environ.get(FOLDER), os.environ.get(SIZE))


@lru_cache(maxsize=4)
def _cache(folder: str | None, size: str | None) -> Cache | None:
    most = DEFAULT_BYTES if size is None else amount(size)
    where = Path(folder).expanduser() if folder else Path(tempfile.gettempdir()) / f"voxcaliper-cache-{os.getuid()}"
    return Cache(where, most) if most else None


def amount(text: str) -> int:
    """Bytes of "20 GiB", "500 MB" or a plain number. Raises InputError for anything else."""
    found = AMOUNT.fullmatch(text.strip())
    if found is None:
        raise InputError(f'{SIZE} is {text!r}, which is no amount; write "20 GiB", or 0 for no cache.')
    power = " KMGT".index(found[2].upper() or " ")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)
