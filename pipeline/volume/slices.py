"""Folders of slices as volumes: TIFF, JPEG 2000 as the Human Organ Atlas publishes it, PNG or BMP.

A slice is a stored object, named by its file. Which slices there are, their order and their one shape are found when
the stack is opened.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt
import zict

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import Position
from pipeline.volume.jpeg2000 import Jpeg2000Slice
from pipeline.volume.patience import patiently, reason
from pipeline.volume.picture_slices import PictureSlice
from pipeline.volume.ranged import RangedFile
from pipeline.volume.slice_names import MOST_FILES, check_names, names_in, natural
from pipeline.volume.stores import ObjectStat, Store, open_store
from pipeline.volume.tiff import TiffSlice
from pipeline.volume.volumes import PIECE_BYTES, Volume

CODECS: dict[str, tuple[type[TiffSlice | Jpeg2000Slice | PictureSlice], tuple[str, ...]]] = {
    "TIFF": (TiffSlice, (".tif", ".tiff")),
    "JPEG 2000": (Jpeg2000Slice, (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc")),
    "PNG": (PictureSlice, (".png",)),
    "BMP": (PictureSlice, (".bmp",)),
}
PLANES_BYTES = 256 * 2**20
"""Decoded planes that a process keeps, of all its stacks together."""
KEPT_PLANES = 64
"""Planes of which fewer than these fit are not kept: hardly a block is so thin that its row would meet them again."""
AT_ONCE = 16
"""Headers that are read at the same time; a store answers each after its latency."""

_planes: zict.LRU[tuple[str, ObjectStat | None], npt.NDArray[Any]] = zict.LRU(
    PLANES_BYTES, {}, weight=lambda _, plane: plane.nbytes
)
_decoding = [Lock() for _ in range(64)]
"""Of threads that want the same plane at once one decodes it, and the others wait."""


@dataclass(frozen=True)
class SliceArray:
    """A `StoredArray` whose objects are slices.

    codec : of CODECS. shape : (z, y, x). dtype : numpy's name. metadata_sha256 : of the names and of these.

    A slice that is replaced by another of the same shape is read as it is then; that the stack changed in a run is told
    by its fingerprints before and after, which releases compare.
    """

    location: str
    codec: str
    shape: Index
    dtype: str
    metadata_sha256: str
    stored_axes: ClassVar[str] = "zyx"

    @property
    def plane_bytes(self) -> int:
        """Of a decoded plane."""
        return self.shape[1] * self.shape[2] * np.dtype(self.dtype).itemsize

    @property
    def keeps_planes(self) -> bool:
        """Whether whole planes are decoded and stay for the next block of a row.

        Of formats that decode parts of a plane, only where all planes fit; otherwise, where those of a block do.
        """
        count = self.shape[0] if CODECS[self.codec][0].decodes_parts else min(self.shape[0], KEPT_PLANES)
        return count * self.plane_bytes <= PLANES_BYTES

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The voxels of a box (z, y, x).

        Raises StorageError for a slice that is missing, damaged or of another shape than the others.
        """
        voxels = np.empty(box.shape, self.dtype)
        part = box.slices[1:]
        for z in range(box.start[0], box.stop[0]):
            name = _planned_names(self)[z]
            voxels[z - box.start[0]] = self._plane(name)[part] if self.keeps_planes else self._decoded(name, part)
        return voxels

    def object_key(self, index: Index) -> str:
        """The name of a slice."""
        return _planned_names(self)[index[0]]

    def object_stat(self, index: Index) -> ObjectStat | None:
        """Of a slice; None where it is missing."""
        return open_store(self.location).stat(self.object_key(index))

    def listed(self) -> Iterator[tuple[str, ObjectStat]] | None:
        """The slices that are there, where a store lists them with their marks."""
        store = open_store(self.location)
        if "://" not in self.location or not store.can_list:
            return None
        names = frozenset(_planned_names(self))
        return ((name, stat) for name, stat in store.children(limit=MOST_FILES) if name in names)

    def _plane(self, name: str) -> npt.NDArray[Any]:
        store = open_store(self.location)
        # What the store says of a slice is part of the key: one that was replaced is decoded anew.
        key = (store.address(name), store.stat(name))
        with _decoding[hash(key) % len(_decoding)]:
            plane = _planes.get(key)
            if plane is None:
                plane = _planes[key] = self._decoded(name, (slice(0, self.shape[1]), slice(0, self.shape[2])))
        return plane

    def _decoded(self, name: str, part: tuple[slice, slice]) -> npt.NDArray[Any]:
        store = open_store(self.location)
        try:
            found = CODECS[self.codec][0](self._file(store, name))
            agrees = (found.shape, found.dtype) == (self.shape[1:], self.dtype)
            plane = found.read(part) if agrees else None
        except FileNotFoundError as error:
            raise StorageError(f"{store.address(name)} is missing; restore this slice and start again.") from error
        except ValueError as error:
            raise StorageError(
                f"{store.address(name)} cannot be read ({reason(error)}); replace this slice and start again."
            ) from error
        if plane is None:
            raise StorageError(
                f"{store.address(name)} is {found.shape} {found.dtype}, but the other slices are {self.shape[1:]}"
                f" {self.dtype}; replace this slice and start again."
            )
        return plane

    def _file(self, store: Store, name: str) -> BinaryIO:
        """Slices behind a URL whole, unless they are large: a request each."""
        if "://" not in self.location or self.plane_bytes > PIECE_BYTES:
            return RangedFile(store, name).buffered()
        content = store.get(name)
        if content is None:
            raise FileNotFoundError
        return io.BytesIO(content)


def find_stack(store: Store) -> Callable[[int, Position | None], Volume] | None:
    """What opens the slices of a folder, given a level and a voxel size; None where there are none.

    Their headers are read then, and none is decoded. It raises InputError where slices differ in kind, shape or type,
    where one does not belong to the others by its name or is missing in their numbers, and for levels beside 0.
    """
    names = [name for name in names_in(store) if name.lower().endswith(_suffixes())]
    return partial(_open_stack, store, names) if names else None


def _open_stack(store: Store, listed: list[str], level: int, voxel_size_um: Position | None) -> Volume:
    location = store.location
    if level:
        raise InputError(f"{location} is a folder of slices, so it has no level {level}.")
    codec, names = _slices(location, listed)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        headers = list(threads.map(lambda name: _header(store, codec, name), names))
    plane, dtype, _, stated = headers[0]
    for name, header in zip(names, headers, strict=True):
        if header[:2] != headers[0][:2]:
            raise InputError(
                f"{store.address(name)} is {header[0]} {header[1]}, but the first slice {names[0]} is {plane} {dtype};"
                " all slices must agree, so remove it or convert it."
            )
    if np.dtype(dtype).kind not in "biuf":
        raise InputError(f"{location} holds values of type {dtype}; bool, integer or float is needed.")
    shape = (len(names), plane[0], plane[1])
    array = SliceArray(location, codec, shape, dtype, _digest(codec, names, shape, dtype))
    _names[array] = names  # in this process, that a slice is missing later is told by its name
    decode = CODECS[codec][0].decode_bytes
    return Volume(
        location=location,
        array_path="",
        array=array,
        shape=shape,
        dtype=dtype,
        chunk_shape=(1, *plane),
        shard_shape=None,
        voxel_size=VoxelSize(voxel_size_um) if voxel_size_um else stated,
        stated_voxel_size=stated,
        placement=None,
        level=0,
        level_count=1,
        format=f"folder of {codec} slices",
        every_chunk_stored=True,
        fill_value=0,
        metadata_sha256=array.metadata_sha256,
        decode_bytes=decode(plane[0] * plane[1], np.dtype(dtype).itemsize),
        kept_bytes=min(PLANES_BYTES, len(names) * array.plane_bytes) if array.keeps_planes else 0,
        warnings=(
            *dict.fromkeys(f"{location} {said}." for _, _, warnings, _ in headers for said in warnings),
            *_other_sizes(location, names, [size for *_, size in headers]),
        ),
    )


def _other_sizes(location: str, names: tuple[str, ...], sizes: list[VoxelSize | None]) -> tuple[str, ...]:
    """A warning where slices state another voxel size than the first one, which counts."""
    first = sizes[0]
    others = [name for name, size in zip(names, sizes, strict=True) if first and size and size != first]
    if not others:
        return ()
    more = f" and {len(others) - 1:,} more state" if len(others) > 1 else " states"
    size = " × ".join(f"{side:g}" for side in first.um) if first else ""
    return (f"{location}: {others[0]}{more} another voxel size than the first slice, {names[0]}: {size} µm count.",)


def _header(store: Store, codec: str, name: str) -> tuple[tuple[int, int], str, Sequence[str], VoxelSize | None]:
    try:
        found = patiently(lambda: CODECS[codec][0](RangedFile(store, name).buffered()))
        size = found.voxel_size if isinstance(found, TiffSlice) else None
    except FileNotFoundError as error:
        raise InputError(f"{store.address(name)} was removed while the stack was opened; restore it.") from error
    except OSError as error:
        raise StorageError(f"{store.address(name)} cannot be read: {reason(error)}; check the store.") from error
    except ValueError as error:
        raise InputError(
            f"{store.address(name)} is not a readable {codec} slice ({reason(error)}); remove or replace it."
        ) from error
    y, x = found.shape
    return (y, x), found.dtype, found.warnings, size


def _slices(location: str, listed: list[str]) -> tuple[str, tuple[str, ...]]:
    """The codec and the names of the slices among the files of a folder, in their order."""
    found = {
        codec: sorted((name for name in listed if name.lower().endswith(suffixes)), key=natural)
        for codec, (_, suffixes) in CODECS.items()
    }
    codecs = [codec for codec, names in found.items() if names]
    if len(codecs) > 1:
        raise InputError(
            f"{location} holds both {found[codecs[0]][0]} and {found[codecs[1]][0]}; give each stack a folder."
        )
    if not codecs:
        raise InputError(f"{location} holds no slices ({', '.join(_suffixes())}).")
    names = found[codecs[0]]
    check_names(location, names)
    return codecs[0], tuple(names)


def _suffixes() -> tuple[str, ...]:
    return tuple(suffix for _, suffixes in CODECS.values() for suffix in suffixes)


def _digest(codec: str, names: tuple[str, ...], shape: Index, dtype: str) -> str:
    return hashlib.sha256(repr((codec, names, shape, dtype)).encode()).hexdigest()


_names: zict.LRU[SliceArray, tuple[str, ...]] = zict.LRU(16, {})


def _planned_names(array: SliceArray) -> tuple[str, ...]:
    """The names of a stack, listed once in a process; they must be those of when it was opened."""
    if (known := _names.get(array)) is not None:
        return known
    try:
        codec, names = _slices(array.location, names_in(open_store(array.location)))
    except InputError as error:
        raise StorageError(str(error)) from error
    if _digest(codec, names, array.shape, array.dtype) != array.metadata_sha256:
        raise StorageError(
            f"{array.location} holds other slices than when it was opened ({len(names):,}, from {names[0]} to"
            f" {names[-1]}, for {array.shape[0]:,}); restore them or start anew."
        )
    _names[array] = names
    return names
