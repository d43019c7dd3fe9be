"""Volumes: what a Zarr store holds, and boxes of voxels out of it, with every failure as one plain sentence.

Read here: OME-Zarr 0.4 (Zarr v2), OME-Zarr 0.5 (Zarr v3, sharded or not) and bare Zarr arrays of both versions, from
a local path or an fsspec URL (file://, memory://, s3://, gs://, https:// …, each with its own optional package).

A missing chunk is not an error to Zarr: it reads as the fill value. That is right for sparse stores and wrong for a
damaged one, so volumes that declare `every_chunk_stored` (all that voxcaliper writes) refuse it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
import zarr
import zarr.errors
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from pipeline.errors import InputError, StorageError
from pipeline.geometry import BlockGrid, Box, Index, VoxelSize
from pipeline.volume.metadata import ImageMetadata, image_metadata
from pipeline.volume.patience import patiently, within_time

Position = tuple[float, float, float]
"""A point in µm (z, y, x)."""

PIECE_BYTES = 16 * 2**20
"""Boxes are read in pieces of about this size, so that decoding needs little beside the box itself."""


@dataclass(frozen=True)
class Volume:
    """One three-dimensional array in a store. Small and picklable: a task opens it again where it runs.

    location : the group or bare array, an absolute path or an fsspec URL.
    array_path : the array inside the group; "" for a bare array.
    shape, chunk_shape, shard_shape : voxels (z, y, x). A chunk is the smallest readable unit, a shard a stored object
        that holds several chunks; shard_shape is None where every chunk is an object of its own.
    dtype : bool, integer or float, in numpy's words and in the byte order of this machine.
    voxel_size : spacing in µm, None where neither the metadata nor the caller gave one.
    origin_um : centre of voxel (0, 0, 0) in µm; the levels of a pyramid share one frame.
    level, level_count : which step of the pyramid this is, of how many; 0 of 1 for a bare array.
    format : "OME-Zarr 0.5", "OME-Zarr 0.4", "Zarr v3 array" or "Zarr v2 array".
    every_chunk_stored : the writer promised to store every chunk, so a missing one means damage.
    fill_value : what a chunk that is not stored reads as.
    stored_axes : the axes as they lie in the store, one letter each; "." is an axis of length 1 that is left out.
    metadata_sha256 : of the array's metadata document without its attributes.
    """

    location: str
    array_path: str
    shape: Index
    dtype: str
    chunk_shape: Index
    shard_shape: Index | None
    voxel_size: VoxelSize | None
    origin_um: Position
    level: int
    level_count: int
    format: str
    every_chunk_stored: bool
    fill_value: float
    stored_axes: str
    metadata_sha256: str

    @property
    def name(self) -> str:
        """The address of the array, for messages."""
        return f"{self.location}/{self.array_path}" if self.array_path else self.location

    @property
    def box(self) -> Box:
        """All voxels."""
        return Box((0, 0, 0), self.shape)

    @property
    def objects(self) -> BlockGrid:
        """The grid of stored objects: shards, or chunks where there are no shards."""
        return BlockGrid(self.shape, self.shard_shape or self.chunk_shape)

    def identity(self) -> dict[str, Any]:
        """What a result depends on beside the voxels; edited attributes do not change it. Ready for JSON."""
        return {
            "location": self.location,
            "array_path": self.array_path,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "chunk_shape": list(self.chunk_shape),
            "metadata_sha256": self.metadata_sha256,
        }

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The voxels of a box as a C-ordered array (z, y, x) of the stored dtype.

        Raises StorageError when a stored object is corrupt, unreadable or missing where every chunk is stored.
        """
        pieces = list(self.pieces(box))
        if len(pieces) == 1:
            return self.read_piece(box)
        voxels = np.empty(box.shape, self.dtype)
        for piece in pieces:
            voxels[piece.start[0] - box.start[0] : piece.stop[0] - box.start[0]] = self.read_piece(piece)
        return voxels

    def read_bytes(self, shape: Index) -> int:
        """Most memory that reading a box of this shape takes: the box, and what decodes one piece of it."""
        return math.prod(shape) * np.dtype(self.dtype).itemsize + self.piece_bytes(shape)

    def piece_bytes(self, shape: Index) -> int:
        """Most memory that `read_piece` takes for a piece of a box of this shape, its result included.

        A piece exists twice (result of the shards, result of Zarr), the chunks it touches at worst twice as well
        (as stored, where they cannot be compressed, and decoded).
        """
        planes = min(shape[0], self._planes(shape))
        touched = [
            min(-(-n // chunk), -(-(side - 1) // chunk) + 1) * chunk
            for n, side, chunk in zip(self.shape, (planes, *shape[1:]), self.chunk_shape, strict=True)
        ]
        return 2 * (planes * shape[1] * shape[2] + math.prod(touched)) * np.dtype(self.dtype).itemsize

    def pieces(self, box: Box) -> Iterator[Box]:
        """The box cut along z at chunk borders into parts of about PIECE_BYTES."""
        chunk, step, start = self.chunk_shape[0], self._planes(box.shape), box.start[0]
        while start < box.stop[0]:
            stop = min(box.stop[0], start // chunk * chunk + step)
            yield Box((start, *box.start[1:]), (stop, *box.stop[1:]))
            start = stop

    def _planes(self, shape: Index) -> int:
        """Planes in a piece of a box: whole chunks, as many as PIECE_BYTES hold, at least one."""
        plane_bytes = max(1, shape[1] * shape[2] * np.dtype(self.dtype).itemsize)
        return max(1, PIECE_BYTES // plane_bytes // self.chunk_shape[0]) * self.chunk_shape[0]

    def read_piece(self, box: Box) -> npt.NDArray[Any]:
        """As `read`, in one go: for boxes from `pieces`."""
        try:
            if self.every_chunk_stored or self.shard_shape:
                patiently(lambda: self._check_objects(box))
            return patiently(lambda: self._voxels(box))
        except (MemoryError, StorageError):
            raise
        except Exception as error:  # codecs raise whatever they like; all of it means that the store is unreadable
            raise self._unreadable(box, error) from error

    def missing_chunks(self, box: Box) -> int:
        """How many stored objects (shards or chunks) of the box are absent and read as the fill value."""
        try:
            return sum(self._object_bytes(index) is None for index in self._objects_in(box))
        except OSError as error:
            raise self._unreadable(box, error) from error

    def stored_objects(self, limit: int = 1_000_000) -> tuple[int, int] | None:
        """Number and bytes of the stored objects; None where counting is not cheap: not local, or more than `limit`."""
        if "://" in self.location or len(self.objects) > limit:
            return None
        sizes = [
            os.path.getsize(os.path.join(folder, name))
            for folder, _, names in os.walk(os.path.join(self.location, self.array_path))
            for name in names
            if not name.startswith(".") and name != "zarr.json" and not name.endswith(".partial")
        ]
        return len(sizes), sum(sizes)

    def object_key(self, index: Index) -> str:
        """The store's name of a stored object, relative to the location."""
        in_store = tuple(index["zyx".index(axis)] if axis != "." else 0 for axis in self.stored_axes)
        key = self._array().metadata.encode_chunk_key(in_store)
        return f"{self.array_path}/{key}" if self.array_path else key

    def _array(self) -> zarr.Array[Any]:
        return _open_array(self.location, self.array_path, self.metadata_sha256)

    def _voxels(self, box: Box) -> npt.NDArray[Any]:
        of_axis = dict(zip("zyx", box.slices, strict=True))
        selection = tuple(of_axis.get(axis, 0) for axis in self.stored_axes)
        voxels = np.asarray(within_time(self._array().async_array.getitem(selection)))
        spatial = self.stored_axes.replace(".", "")
        voxels = voxels.transpose([spatial.index(axis) for axis in "zyx"])
        return np.ascontiguousarray(voxels, dtype=self.dtype)

    def _objects_in(self, box: Box) -> Iterator[Index]:
        sides = self.objects.block_shape
        ranges = (
            range(start // side, -(-stop // side)) for start, stop, side in zip(box.start, box.stop, sides, strict=True)
        )
        return ((z, y, x) for z, y, x in product(*ranges))

    def _object_bytes(self, index: Index) -> int | None:
        try:
            return within_time(self._array().store.getsize(self.object_key(index)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _check_objects(self, box: Box) -> None:
        for index in self._objects_in(box):
            size = self._object_bytes(index)
            # Zarr reads a shard of no bytes as fill value, without a word.
            if size == 0 or (size is None and self.every_chunk_stored):
                found = "is empty (0 bytes)" if size == 0 else "is missing although every chunk was stored"
                raise StorageError(
                    f"{self.name}: the voxels {_span(box)} cannot be read because the stored object"
                    f" {self.object_key(index)} {found}; restore it from a copy or write the volume again."
                )

    def _unreadable(self, box: Box, error: Exception) -> StorageError:
        where = ""
        try:
            for index in self._objects_in(box) if not isinstance(error, TimeoutError) else ():
                where = f" (stored object {self.object_key(index)})"
                part = self.objects.box(index)
                start = cast(Index, tuple(map(max, part.start, box.start)))
                stop = cast(Index, tuple(map(min, part.stop, box.stop)))
                self._voxels(Box(start, stop))
            where = ""
        except Exception as culprit:  # noqa: BLE001  the search is for what fails, whatever it fails with
            error = culprit
        return StorageError(
            f"{self.name}: the voxels {_span(box)} cannot be read: {_reason(error)}{where};"
            " check the store, or restore it from a copy."
        )


def _span(box: Box) -> str:
    return f"{box.start} to {box.stop} (z, y, x)"


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    if isinstance(error, OSError):
        return error.strerror or text
    if "checksum" in text:
        return "corrupt chunk, its checksum does not match"
    return f"corrupt chunk ({text})"


@lru_cache(maxsize=64)
def _open_array(location: str, array_path: str, _metadata_sha256: str) -> zarr.Array[Any]:
    # The digest is part of the key: a store that was replaced under the same name is opened anew.
    return zarr.open_array(location, path=array_path, mode="r")


def absolute_location(location: str) -> str:
    """A local path made absolute (a worker may run in another folder), file:// URLs included; other URLs unchanged."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return os.path.abspath(unquote(parts.path))
    return location.rstrip("/") if "://" in location else os.path.abspath(location)


def open_volume(location: str, *, level: int = 0, voxel_size_um: Position | None = None) -> Volume:
    """Open an OME-Zarr image, one array of it, or a bare Zarr array; voxels are not read.

    location : path or fsspec URL of an image group, of an array in it (x.ome.zarr/1: then level must stay 0), or of a
        bare array. Axes are z, y, x in any stored order (named by the metadata, else z, y, x); other axes must have
        length 1 and are left out.
    level : step of the pyramid.
    voxel_size_um : spacing (z, y, x) of the array that is opened; it goes before the metadata.
    The metadata give a voxel size when every spatial axis has a scale and a unit; without a unit there is none.
    Metadata written with the translation before the scale (invalid, but published) count with their scale alone.

    Raises InputError for what is not a volume, StorageError for what cannot be read.
    """
    location = absolute_location(location)
    node = _open_node(location)
    if isinstance(node, zarr.Array):
        if level:
            raise InputError(f"{location} is one array, so it has no level {level}; give the group that holds it.")
        parent = _parent_image(location)
        if parent is None:
            return _describe(location, "", node, image=None, level=0, voxel_size_um=voxel_size_um)
        location, image, level = parent
    else:
        found = image_metadata(location, dict(node.attrs))
        if found is None:
            raise InputError(_not_an_image(location, node))
        image = found
    paths = [dataset.path for dataset in image.datasets]
    if not 0 <= level < len(paths):
        raise InputError(f"{location} has no level {level}; its levels are 0 to {len(paths) - 1} ({', '.join(paths)}).")
    path = paths[level].strip("/")
    if not isinstance(node, zarr.Array):
        node = _open_node(f"{location}/{path}")
    if not isinstance(node, zarr.Array):
        raise InputError(f"{location}/{path} is a group, but level {level} of {location} must be an array.")
    return _describe(location, path, node, image=image, level=level, voxel_size_um=voxel_size_um)


def _open_node(location: str) -> zarr.Array[Any] | zarr.Group:
    """The array or group at a location, or the error that says what is there instead."""
    try:
        return patiently(lambda: zarr.open(location, mode="r"))
    except PermissionError as error:
        raise StorageError(f"{location} cannot be opened: permission denied; ask its owner for access.") from error
    except (FileNotFoundError, zarr.errors.NodeNotFoundError) as error:
        raise InputError(_nothing_there(location)) from error
    except ImportError as error:
        raise InputError(f"{location} cannot be opened without a further package: {error}.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{location} is not a readable Zarr store ({_first_line(error)}); check its address."
        ) from error
    except Exception as error:  # a remote file system raises its own kinds of errors
        raise StorageError(
            f"{location} cannot be opened ({_first_line(error)}); check the address and the connection."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _nothing_there(location: str) -> str:
    if "://" in location:
        return f"{location} holds no Zarr array or group; check the address."
    if os.path.isdir(location):
        names = sorted(os.listdir(location))
        return (
            f"{location} is a folder without Zarr metadata (it holds {_listing(names)}); give a Zarr volume,"
            " or make one with: voxcaliper convert SOURCE TARGET.ome.zarr"
        )
    if os.path.exists(location):
        return f"{location} is a file, not a Zarr volume; make one with: voxcaliper convert {location} TARGET.ome.zarr"
    folder = os.path.dirname(location)
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return f"{location} does not exist; {folder} holds {_listing(names)}."


def _listing(names: list[str]) -> str:
    shown = ", ".join(names[:8]) or "nothing"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _not_an_image(location: str, group: zarr.Group) -> str:
    members = sorted(name for name, _ in group.members()) if group.store.supports_listing else []
    return (
        f"{location} is a Zarr group without OME-Zarr image metadata (multiscales); it holds {_listing(members)}:"
        f" give one of its arrays or images, for example {location}/{members[0] if members else 'NAME'}."
    )


def _parent_image(location: str) -> tuple[str, ImageMetadata, int] | None:
    """The image group around an array: its location, metadata and the array's level."""
    head, path = location, ""
    for _ in range(3):  # an array lies one or two folders below its image; more is not looked for
        head, _, tail = head.rpartition("/")
        if not head or head.endswith(("/", ":")):
            return None
        path = f"{tail}/{path}" if path else tail
        try:
            group = zarr.open_group(head, mode="r", use_consolidated=False)
        except (FileNotFoundError, zarr.errors.NodeNotFoundError, zarr.errors.ContainsArrayError):
            continue
        try:
            image = image_metadata(head, dict(group.attrs))
        except InputError:  # who names the array itself can do without the metadata around it
            return None
        if image is not None:
            paths = [dataset.path.strip("/") for dataset in image.datasets]
            return (head, image, paths.index(path)) if path in paths else None
    return None


def _describe(
    location: str,
    array_path: str,
    array: zarr.Array[Any],
    *,
    image: ImageMetadata | None,
    level: int,
    voxel_size_um: Position | None,
) -> Volume:
    where = f"{location}/{array_path}" if array_path else location
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "biuf":
        raise InputError(f"{where} holds values of type {dtype}; bool, integer or float is needed.")
    axes = _stored_axes(where, array, image.axis_names(location) if image else None)
    order = [axes.index(axis) for axis in "zyx"]

    def in_order(values: tuple[int, ...]) -> Index:
        z, y, x = (int(values[i]) for i in order)
        return z, y, x

    voxel_size, origin_um = VoxelSize(voxel_size_um) if voxel_size_um else None, (0.0, 0.0, 0.0)
    if image and not voxel_size:
        placing, units = image.placing(level), image.units_um(location)
        if placing and units:
            scale, translation = (
                cast(Position, tuple(float(values[i] * units[i]) for i in order)) for values in placing
            )
            voxel_size, origin_um = VoxelSize(scale), translation
    own = array.attrs.get("voxcaliper")
    return Volume(
        location=location,
        array_path=array_path,
        shape=in_order(array.shape),
        dtype=dtype.name,
        chunk_shape=in_order(array.chunks),
        shard_shape=in_order(array.shards) if array.shards else None,
        voxel_size=voxel_size,
        origin_um=origin_um,
        level=level,
        level_count=len(image.datasets) if image else 1,
        format=image.format if image else f"Zarr v{array.metadata.zarr_format} array",
        every_chunk_stored=isinstance(own, dict) and own.get("every_chunk_stored") is True,
        fill_value=np.asarray(array.fill_value or 0, dtype).item(),
        stored_axes=axes,
        metadata_sha256=_metadata_sha256(array),
    )


def _stored_axes(where: str, array: zarr.Array[Any], names: list[str] | None) -> str:
    if array.ndim < 3:
        raise InputError(f"{where} has {array.ndim} axes, shape {array.shape}; a volume has three: z, y, x.")
    if 0 in array.shape:
        raise InputError(f"{where} is empty, shape {array.shape}; a volume has at least one voxel.")
    if names is None:
        stated = [str(name).lower() for name in getattr(array.metadata, "dimension_names", None) or ()]
        names = stated if {"z", "y", "x"} <= set(stated) else [*map(str, range(array.ndim - 3)), "z", "y", "x"]
    if len(names) != array.ndim:
        raise InputError(
            f"{where} has {array.ndim} axes, but its image metadata name {len(names)}: {', '.join(names)}."
        )
    axes = "".join(name if name in ("z", "y", "x") else "." for name in names)
    for axis, name, length in zip(axes, names, array.shape, strict=True):
        if axis == "." and length != 1:
            raise InputError(
                f"{where} has {length} positions along axis {name}"
                f" (shape {array.shape}); only axes z, y, x may be longer than 1, so store the volumes one by one."
            )
    return axes


def _metadata_sha256(array: zarr.Array[Any]) -> str:
    key = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
    buffer = sync((array.store_path / key).get(prototype=default_buffer_prototype()))
    if buffer is None:
        raise StorageError(f"{array.store_path} lost its {key} while it was opened; check the store.")
    document = json.loads(buffer.to_bytes())
    document.pop("attributes", None)
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
