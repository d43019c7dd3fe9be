"""Volumes in one file: NIfTI (.nii, .nii.gz), .npy, TIFF, PNG and BMP, from a folder or from behind a URL.

The file is the only stored object, and only what a box needs is read of it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, StorageError, VoxcaliperError
from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import Placement, Position
from pipeline.volume.choice import NOTHING_CHOSEN, Choice, Kind
from pipeline.volume.compressed import KEPT_BYTES, CompressedFile
from pipeline.volume.file_header import FileHeader
from pipeline.volume.flat import Flat, NotAVolumeError, volume_shape
from pipeline.volume.inflated import KEPT_BYTES as INFLATED_BYTES
from pipeline.volume.inflated import PIECE_BYTES, InflatedFile
from pipeline.volume.limits import check_deflated
from pipeline.volume.meta_image import read_meta_image
from pipeline.volume.mgh import read_mgh
from pipeline.volume.mrc import read_mrc
from pipeline.volume.nifti import NIFTI_BYTES, NiftiHeader, read_nifti_header
from pipeline.volume.nifti_pair import read_nifti_pair
from pipeline.volume.npz import read_npz
from pipeline.volume.nrrd import read_nrrd
from pipeline.volume.patience import patiently, reason
from pipeline.volume.pictures import Picture
from pipeline.volume.ranged import HEADER_BYTES, RangedFile
from pipeline.volume.raw import read_raw
from pipeline.volume.stores import ObjectStat, Store, open_store
from pipeline.volume.tiff import TiffSlice, TiffVolume
from pipeline.volume.volumes import Volume
from pipeline.volume.vtk import read_vti, read_vtk

GZIP = b"\x1f\x8b"
"""What files begin with that gzip compressed."""


@dataclass(frozen=True)
class Contents:
    """A file whose header has been read.

    chunk_shape : what cannot be read in part. decode_bytes, kept_bytes : of the volume. read : a box.
    layout : how the voxels lie, in words; what a volume is told from another one by.
    placement : None where the file says nothing of it.
    warnings : the rest of sentences that begin with the file's name.
    selection : channel and time point that were chosen.
    beside : location of a second file, with the voxels or with what is said of them; "" where there is none.
    """

    format: str
    shape: Index
    dtype: np.dtype[Any]
    voxel_size: VoxelSize | None
    chunk_shape: Index
    decode_bytes: int
    kept_bytes: int
    layout: str
    read: Callable[[Box], npt.NDArray[Any]]
    placement: Placement | None = None
    warnings: tuple[str, ...] = ()
    selection: tuple[tuple[Kind, int], ...] = ()
    beside: str = ""

    @property
    def metadata_sha256(self) -> str:
        """Of shape, type and layout."""
        return hashlib.sha256(repr((self.format, self.shape, self.dtype.str, self.layout)).encode()).hexdigest()


@dataclass(frozen=True)
class FileArray:
    """A `StoredArray` in one file. opened : what its store said of it when the volume was opened.

    beside : location of a second file that the volume needs, and what was said of it; None of one that was not there.
    channel, time : as they were chosen.
    """

    location: str
    opened: ObjectStat
    beside: tuple[str, ObjectStat | None] | None = None
    channel: str | None = None
    time: int | None = None
    stored_axes: ClassVar[str] = "zyx"
    """Whatever the file's layout, which is in the volume's metadata_sha256."""

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The voxels of a box (z, y, x).

        Raises StorageError where the file is cut off or damaged, or was changed or replaced since it was opened, up to
        the end of this read.
        """
        store = open_store(self.location)
        try:
            voxels = _read_header(store, self.opened, self.beside, self.channel, self.time).read(box)
        except (ValueError, FileNotFoundError, InputError) as error:
            self._check_unchanged(store)
            raise StorageError(
                f"{self.location}: the voxels {box.start} to {box.stop} (z, y, x) cannot be read ({error});"
                " the file may be cut off or damaged, so fetch it again."
            ) from error
        self._check_unchanged(store)
        return voxels

    def _check_unchanged(self, store: Store) -> None:
        found = store.stat("")
        if found is None:
            raise StorageError(f"{self.location} is missing; restore it from a copy.")
        if found != self.opened:
            raise StorageError(
                f"{self.location} changed while it was read, so its voxels may be of two volumes; start again when it"
                " is complete."
            )
        if self.beside and (held := open_store(self.beside[0]).stat("")) != self.beside[1]:
            raise StorageError(
                f"{self.location} goes with {self.beside[0]}, which"
                f" {'changed since it was opened; start again' if held else 'is missing; restore it from a copy'}."
            )

    def object_key(self, index: Index) -> str:
        """The location itself."""
        return ""

    def object_stat(self, index: Index) -> ObjectStat | None:
        """Of the file; None where it is missing."""
        return open_store(self.location).stat("")

    def listed(self) -> Iterator[tuple[str, ObjectStat]] | None:
        """None: one object is soon asked for. Where there is a second one, both."""
        if self.beside is None:
            return None
        found = {"": self.object_stat((0, 0, 0)), self.beside[0]: open_store(self.beside[0]).stat("")}
        return ((key, stat) for key, stat in found.items() if stat is not None)


def is_file(store: Store) -> bool:
    """Whether a location is named as one of these files and is one."""
    return store.location.lower().endswith(tuple(READERS)) and store.stat("") is not None


def open_file(location: str, level: int, voxel_size_um: Position | None, choice: Choice) -> Volume:
    """A volume in a file. Raises InputError for what is none, and for levels beside 0."""
    if level:
        raise InputError(f"{location} is one file, so it has no level {level}.")
    store = open_store(location)
    stat = store.stat("")
    if stat is None:
        raise StorageError(f"{location} is missing; restore it from a copy.")
    try:
        channel, time = choice.get("channel"), choice.get("time")
        found = patiently(lambda: _read_header(store, stat, None, channel, time))
        beside = (found.beside, open_store(found.beside).stat("")) if found.beside else None
        found = patiently(lambda: _read_header(store, stat, beside, channel, time))
    except OSError as error:
        raise StorageError(f"{location} cannot be read: {reason(error)}; check the store.") from error
    if found.dtype.kind not in "biuf":
        raise InputError(f"{location} holds values of type {found.dtype}; bool, integer or float is needed.")
    return Volume(
        location=location,
        array_path="",
        array=FileArray(location, stat, beside, *((channel, time) if found.selection else ())),
        shape=found.shape,
        dtype=found.dtype.name,
        chunk_shape=found.chunk_shape,
        shard_shape=found.shape,
        voxel_size=VoxelSize(voxel_size_um) if voxel_size_um else found.voxel_size,
        stated_voxel_size=found.voxel_size,
        placement=found.placement,
        level=0,
        level_count=1,
        format=found.format,
        every_chunk_stored=True,
        fill_value=0,
        metadata_sha256=found.metadata_sha256,
        decode_bytes=found.decode_bytes,
        kept_bytes=found.kept_bytes,
        warnings=tuple(f"{location} {warning}." for warning in found.warnings),
        selection=found.selection,
    )


@lru_cache(maxsize=16)
def _read_header(
    store: Store,
    _stat: ObjectStat,
    _beside: tuple[str, ObjectStat | None] | None,
    channel: str | None = None,
    time: int | None = None,
) -> Contents:
    # What the store says of the files is part of the key: a file that was replaced is opened anew.
    kind, reader = next(found for suffix, found in READERS.items() if store.location.lower().endswith(suffix))
    try:
        if reader is _tiff:
            return _tiff(RangedFile(store), Choice(channel=channel, time=time))
        return reader(RangedFile(store))
    except NotAVolumeError as error:
        raise InputError(f"{store.location} {error}.") from error
    except (MemoryError, OSError, VoxcaliperError):
        raise
    except Exception as error:  # libraries raise whatever they like where a header is damaged
        raise InputError(f"{store.location} is not a readable {kind} ({reason(error)}).") from error


def _flat_contents(file: RangedFile, kind: str, flat: Flat, voxel_size: VoxelSize | None) -> Contents:
    chunk: Index = (1, 1, flat.shape[2]) if flat.axes == "zyx" else (flat.shape[0], 1, 1)
    return Contents(
        format=kind,
        shape=flat.shape,
        dtype=flat.result_dtype,
        voxel_size=voxel_size,
        chunk_shape=chunk,
        decode_bytes=2 * flat.layer_bytes,
        kept_bytes=0,
        layout=repr(flat),
        read=lambda box: flat.read(file.read_at, box),
    )


def _npy(file: RangedFile) -> Contents:
    opened = io.BytesIO(file.read_at(0, HEADER_BYTES))
    version = np.lib.format.read_magic(opened)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version {version} is not known")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(opened)
    axes = "xyz" if fortran else "zyx"
    return _flat_contents(file, "NumPy .npy", Flat(opened.tell(), volume_shape(shape), dtype, axes), None)


def _tiff(file: RangedFile, choice: Choice = NOTHING_CHOSEN) -> Contents:
    tiff = TiffVolume(file.buffered(), file.store.location, choice)
    if tiff.flat is not None:
        # Opened anew: the library's file closes what it reads from when it is forgotten.
        flat = _flat_contents(RangedFile(file.store), "TIFF", tiff.flat, tiff.voxel_size)
        said = tuple(tiff.warnings)
        return replace(flat, placement=tiff.placement, warnings=said, selection=tiff.selection)
    one_at_a_time = Lock()  # tifffile and the file have one position

    def read(box: Box) -> npt.NDArray[Any]:
        with one_at_a_time:
            return tiff.read(box)

    return Contents(
        format="TIFF",
        shape=tiff.shape,
        dtype=tiff.dtype,
        voxel_size=tiff.voxel_size,
        chunk_shape=tiff.chunk_shape,
        decode_bytes=tiff.chunk_shape[0] * TiffSlice.decode_bytes(math.prod(tiff.shape[1:]), tiff.dtype.itemsize),
        kept_bytes=0,
        layout=f"chunks {tiff.chunk_shape}" + (", white is 0" if tiff.white_bits else ""),
        read=read,
        placement=tiff.placement,
        warnings=tuple(tiff.warnings),
        selection=tiff.selection,
    )


def _picture(file: RangedFile) -> Contents:
    picture = Picture(file.buffered())
    one_at_a_time = Lock()

    def read(box: Box) -> npt.NDArray[Any]:
        with one_at_a_time:
            return picture.read()[box.slices]

    return Contents(
        format="picture",
        shape=picture.shape,
        dtype=picture.dtype,
        voxel_size=None,
        chunk_shape=picture.shape,
        decode_bytes=picture.decode_bytes,
        kept_bytes=0,
        layout="picture",
        read=read,
    )


def _nifti(file: RangedFile) -> Contents:
    head = file.read_at(0, NIFTI_BYTES)
    if head.startswith(GZIP):
        raise ValueError("it is compressed by gzip; call it .nii.gz")
    return _nifti_contents(file, read_nifti_header(head))


def _nifti_contents(file: RangedFile, header: NiftiHeader) -> Contents:
    contents = _flat_contents(file, "NIfTI", header.flat, header.voxel_size)
    return replace(contents, placement=header.placement, warnings=header.warnings)


def _compressed_nifti(file: RangedFile) -> Contents:
    try:
        with gzip.GzipFile(fileobj=file.buffered()) as opened:
            head = opened.read(NIFTI_BYTES)
    except (gzip.BadGzipFile, zlib.error) as error:
        plain = "" if file.read_at(0, 2) == GZIP else "it is not compressed by gzip; call it .nii, if it is NIfTI"
        raise ValueError(plain or str(error)) from error
    header = read_nifti_header(head)
    flat = header.flat
    content = CompressedFile(file.store, flat.offset + math.prod(flat.shape) * flat.dtype.itemsize)
    return replace(
        _nifti_contents(file, header),
        chunk_shape=(1, flat.shape[1], flat.shape[2]),
        decode_bytes=3 * flat.layer_bytes,
        kept_bytes=KEPT_BYTES,
        read=lambda box: flat.read(content.read_at, box),
    )


def _described(read_header: Callable[[RangedFile], FileHeader], file: RangedFile) -> Contents:
    """Of a file whose header says where voxels lie one after the other, deflated or not, here or in another file."""
    try:
        header = read_header(file)
        held = RangedFile(open_store(header.data)) if header.data else file
    except FileNotFoundError as error:
        raise NotAVolumeError(f"has its voxels in {error.filename}, which is missing; put it there") from error
    flat = header.flat
    contents = replace(
        _flat_contents(held, header.format, flat, header.voxel_size),
        placement=header.placement,
        warnings=header.warnings,
        beside=header.data or header.said_in,
    )
    whole = flat.offset + math.prod(flat.shape) * flat.dtype.itemsize
    if header.deflated is None:
        if flat.offset < 0 or held.size < whole:
            where = f" in {header.data}" if header.data else ""
            raise NotAVolumeError(f"has {held.size:,} bytes{where} where {whole:,} are needed; fetch it again")
        return contents
    check_deflated((header.deflated.stop or held.size) - header.deflated.start, whole)
    content = InflatedFile(held.read_at, header.deflated, whole)
    return replace(
        contents,
        chunk_shape=(1, flat.shape[1], flat.shape[2]),
        decode_bytes=3 * flat.layer_bytes + 4 * PIECE_BYTES,
        kept_bytes=INFLATED_BYTES,
        read=lambda box: flat.read(content.read_at, box),
    )


READERS: dict[str, tuple[str, Callable[[RangedFile], Contents]]] = {
    ".tif": ("TIFF file", _tiff),
    ".tiff": ("TIFF file", _tiff),
    ".nii": ("NIfTI file", _nifti),
    ".nii.gz": ("NIfTI file", _compressed_nifti),
    ".npy": (".npy file", _npy),
    ".png": ("PNG picture", _picture),
    ".bmp": ("BMP picture", _picture),
    ".nrrd": ("NRRD file", partial(_described, read_nrrd)),
    ".nhdr": ("NRRD header", partial(_described, read_nrrd)),
    ".mha": ("MetaImage file", partial(_described, read_meta_image)),
    ".mhd": ("MetaImage header", partial(_described, read_meta_image)),
    **dict.fromkeys((".raw", ".vol"), ("file of raw voxels", partial(_described, read_raw))),
    **dict.fromkeys((".mgh", ".mgz"), ("MGH file", partial(_described, read_mgh))),
    **dict.fromkeys((".hdr", ".hdr.gz", ".img", ".img.gz"), ("NIfTI pair", partial(_described, read_nifti_pair))),
    **dict.fromkeys((".mrc", ".map", ".rec", ".st"), ("MRC file", partial(_described, read_mrc))),
    ".npz": (".npz file", partial(_described, read_npz)),
    ".vtk": ("VTK file", partial(_described, read_vtk)),
    ".vti": ("VTK file", partial(_described, read_vti)),
}
"""By the end of a file's name."""
