"""An OME-TIFF in several files of one folder of this machine, as Micro-Manager and Bio-Formats write large ones.

Any of its files is given; all of them name the others. They count as one stored object.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import tifffile

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import Position
from pipeline.volume.choice import Choice
from pipeline.volume.flat import NotAVolumeError
from pipeline.volume.patience import in_time, reason
from pipeline.volume.stores import ObjectStat, Store, open_store
from pipeline.volume.tiff import TiffSlice, TiffVolume
from pipeline.volume.tiff_pages import other_files
from pipeline.volume.volumes import Volume

SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class OmeFilesArray:
    """A `StoredArray` in several files.

    location : of the one that was given. opened : of all of them, when the volume was opened. channel, time : as they
    were chosen.
    """

    location: str
    opened: ObjectStat
    channel: str | None
    time: int | None
    stored_axes: ClassVar[str] = "zyx"

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The voxels of a box (z, y, x).

        Raises StorageError where a file is missing or damaged, or was changed since the volume was opened.
        """
        try:
            tiff, one_at_a_time = _opened(self.location, self.opened, self.channel, self.time)
            with one_at_a_time:
                voxels = tiff.read(box)
        except (ValueError, FileNotFoundError, InputError) as error:
            self._check_unchanged()
            raise StorageError(
                f"{self.location}: the voxels {box.start} to {box.stop} (z, y, x) cannot be read ({error}); one of the"
                " files of this OME-TIFF may be cut off or damaged, so fetch them again."
            ) from error
        self._check_unchanged()
        return voxels

    def _check_unchanged(self) -> None:
        if self.object_stat((0, 0, 0)) != self.opened:
            raise StorageError(
                f"{self.location}: one of the files of this OME-TIFF is missing or changed since it was opened; restore"
                " it, or start again."
            )

    def object_key(self, index: Index) -> str:
        """The location itself."""
        return ""

    def object_stat(self, index: Index) -> ObjectStat | None:
        """Of all files together; None where one is missing."""
        return _stat(open_store(self.location))

    def listed(self) -> Iterator[tuple[str, ObjectStat]] | None:
        """One object is soon asked for."""


def find_ome_files(store: Store) -> Callable[[int, Position | None, Choice], Volume] | None:
    """What opens an OME-TIFF in several files; None where a location is none, or some of them do not lie beside it."""
    if "://" in store.location or not store.location.lower().endswith(SUFFIXES) or store.stat("") is None:
        return None
    return partial(_open, store.location) if _names(store.location) and _stat(store) else None


def _open(location: str, level: int, voxel_size_um: Position | None, choice: Choice) -> Volume:
    if level:
        raise InputError(f"{location} is one file of an OME-TIFF, so it has no level {level}.")
    channel, time, stat = choice.get("channel"), choice.get("time"), _stat(open_store(location))
    if stat is None:
        raise StorageError(f"{location}: one of the files of this OME-TIFF is missing; restore it.")
    try:
        tiff, _ = _opened(location, stat, channel, time)
    except NotAVolumeError as error:
        raise InputError(f"{location} {error}.") from error
    except ValueError as error:
        raise InputError(
            f"{location} is one file of an OME-TIFF that cannot be read ({reason(error)}); one of its files may be cut"
            " off or damaged, so fetch them again."
        ) from error
    if tiff.dtype.kind not in "biuf":
        raise InputError(f"{location} holds values of type {tiff.dtype}; bool, integer or float is needed.")
    planes = tuple(tiff.places)
    return Volume(
        location=location,
        array_path="",
        array=OmeFilesArray(location, stat, channel if tiff.selection else None, time if tiff.selection else None),
        shape=tiff.shape,
        dtype=tiff.dtype.name,
        chunk_shape=tiff.chunk_shape,
        shard_shape=tiff.shape,
        voxel_size=VoxelSize(voxel_size_um) if voxel_size_um else tiff.voxel_size,
        stated_voxel_size=tiff.voxel_size,
        placement=tiff.placement,
        level=0,
        level_count=1,
        format=f"OME-TIFF in {len(_names(location)) + 1} files",
        every_chunk_stored=True,
        fill_value=0,
        metadata_sha256=hashlib.sha256(repr((tiff.shape, tiff.dtype.str, planes)).encode()).hexdigest(),
        decode_bytes=TiffSlice.decode_bytes(tiff.shape[1] * tiff.shape[2], np.dtype(tiff.dtype).itemsize),
        warnings=tuple(f"{location} {warning}." for warning in tiff.warnings),
        selection=tiff.selection,
    )


@lru_cache(maxsize=4)
def _opened(location: str, _stat: ObjectStat, channel: str | None, time: int | None) -> tuple[TiffVolume, Lock]:
    # What the store says of the files is part of the key: those that were replaced are opened anew.
    with in_time(tifffile.TiffFile, location) as tiff:  # all files are open again as long as they are read
        return TiffVolume(tiff, location, Choice(channel=channel, time=time)), Lock()


def _names(location: str) -> list[str]:
    """The other files; none of what cannot be read, which is told by who opens a single file."""
    try:
        with tifffile.TiffFile(location) as tiff:
            return [name for name in other_files(tiff) if name != os.path.basename(location)]
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  the library raises whatever it likes where a file is damaged
        return []


def _stat(store: Store) -> ObjectStat | None:
    """Bytes of all files, and a digest of what the store says of them; None where one of them is missing."""
    found = {"": store.stat("")}
    folder = open_store(os.path.dirname(store.location))
    found |= {name: folder.stat(name) for name in _names(store.location)}
    if None in found.values():
        return None
    said = sorted((name, stat.size, stat.modified) for name, stat in found.items() if stat)
    size = sum(stat.size for stat in found.values() if stat)
    return ObjectStat(size, None, hashlib.sha256(repr(said).encode()).hexdigest())
