"""The fingerprint of a volume's content: what its store says of every stored object, without reading a voxel.

It changes when a chunk is written again, is added or is removed, in exactly this array; edited attributes and other
levels do not count. Two stores of the same voxels have different fingerprints: it tells whether one store changed.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import StorageError
from pipeline.volume.volumes import Volume

ETAGS, TIMES = "etags", "sizes and times"


class UnmarkedError(StorageError):
    """A store that does not say by what an object is told from what it was."""


@dataclass(frozen=True)
class Fingerprint:
    """What a store says of an array.

    method : "etags" (names of contents) where every object has one, else "sizes and times".
    objects, bytes : stored ones; what is not stored counts as absent.
    digest : 64 hexadecimal digits, the same in whatever order the store lists.
    """

    method: str
    objects: int
    bytes: int
    digest: str

    def as_json(self) -> dict[str, Any]:
        """For records and comparisons."""
        return asdict(self)


def fingerprint(volume: Volume) -> Fingerprint:
    """The fingerprint of one array as it is now, in memory that does not grow with its objects.

    The store is listed, or asked for each object, some at a time, where it cannot list (a plain web server).
    Raises StorageError where it cannot be read, UnmarkedError where it says neither ETag nor time of an object.
    """
    etags, times = _Sum(), _Sum()
    every_etag = every_time = True
    count = size = 0
    for key, stat in volume.stored():
        count, size = count + 1, size + stat.size
        every_etag, every_time = every_etag and stat.etag is not None, every_time and stat.modified is not None
        etags.add(key, str(stat.size), stat.etag or "")
        times.add(key, str(stat.size), stat.modified or "")
    if not (every_etag or every_time):
        raise UnmarkedError(
            f"{volume.name}: the store says neither the ETag nor the time of some of its objects, so whether they"
            " changed cannot be told; copy the volume to a store that does."
        )
    return Fingerprint(ETAGS if every_etag else TIMES, count, size, (etags if every_etag else times).digest())


class _Sum:
    """Sum of hashes modulo 2**256: it does not depend on the order, and two changes do not cancel but by chance."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, *parts: str) -> None:
        hashed = hashlib.sha256("\0".join(parts).encode()).digest()
        self._sum = (self._sum + int.from_bytes(hashed, "big")) % 2**256

    def digest(self) -> str:
        return f"{self._sum:064x}"
