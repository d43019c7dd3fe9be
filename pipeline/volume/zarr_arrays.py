"""Zarr: OME-Zarr 0.4 (Zarr v2), OME-Zarr 0.5 (Zarr v3, sharded or not) and bare arrays of both versions."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, cast
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import zarr
import zarr.abc.store
import zarr.errors
from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import StorePath, WrapperStore

from pipeline.errors import InputError, StorageError, VoxcaliperError
from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import Placement, Position, Turn
from pipeline.volume.axes import as_zyx, in_order, object_index, stored_axes, stored_index, stored_selection
from pipeline.volume.bounded import bounded
from pipeline.volume.choice import Choice, positions
from pipeline.volume.layout import check_layout
from pipeline.volume.limits import STORED_BYTES, check_shape, room, stored_bytes
from pipeline.volume.metadata import OWN, THICKNESS_TAKEN, ImageMetadata, exact_decimal, image_metadata
from pipeline.volume.patience import patiently, reason, within_time
from pipeline.volume.stores import ObjectStat, Store, open_store
from pipeline.volume.volumes import Volume

DOCUMENTS = ("zarr.json", ".zgroup", ".zarray")


@dataclass(frozen=True)
class ZarrArray:
    """A `StoredArray` of Zarr.

    location, array_path, metadata_sha256 : of the volume.
    stored_axes : the axes as they lie in the store, one letter each; "." is an axis that is left out.
    at : the position along each stored axis that is left out, 0 for the others; () where all are 0.
    """

    location: str
    array_path: str
    stored_axes: str
    metadata_sha256: str
    at: tuple[int, ...] = ()

    def read(self, box: Box) -> npt.NDArray[Any]:
        array, store = self._open(), open_store(self.location)
        opened = array.async_array
        blosc = array.shards is None and any("Blosc" in type(codec).__name__ for codec in array.compressors)
        checked = WholeChunks(opened.store_path.store, blosc=blosc)
        reading = replace(opened, store_path=StorePath(checked, opened.store_path.path))
        itemsize = np.dtype(array.dtype).itemsize
        pipeline = bounded(reading.codec_pipeline, math.prod(array.chunks) * itemsize)
        object.__setattr__(reading, "codec_pipeline", pipeline)  # as its own constructor does
        parts = [box]
        if array.shards is not None and "://" in self.location:
            # Zarr asks for the chunks of a shard one after the other.
            parts = _rows(box, in_order(self.stored_axes, array.chunks))

        async def read_all() -> list[npt.NDArray[Any]]:
            selections = [stored_selection(self.stored_axes, part, self.at) for part in parts]
            with stored_bytes(room(math.prod(array.shards or array.chunks) * itemsize)):
                found = await asyncio.gather(*(reading.getitem(selection) for selection in selections))
            if checked.found_nothing:
                await store.expect("/".join(filter(None, (self.array_path, _document_name(array)))))
            return [as_zyx(self.stored_axes, np.asarray(voxels)) for voxels in found]

        found = within_time(read_all())
        if len(parts) == 1:
            return found[0]
        voxels = np.empty(box.shape, array.dtype)
        for part, values in zip(parts, found, strict=True):
            place = (slice(p - b, q - b) for p, q, b in zip(part.start, part.stop, box.start, strict=True))
            voxels[tuple(place)] = values
        return voxels

    def object_key(self, index: Index) -> str:
        array = self._open()
        key = array.metadata.encode_chunk_key(stored_index(self.stored_axes, index, self._chunk_at(array)))
        return f"{self.array_path}/{key}" if self.array_path else key

    def object_stat(self, index: Index) -> ObjectStat | None:
        return open_store(self.location).stat(self.object_key(index))

    def listed(self) -> Iterator[tuple[str, ObjectStat]] | None:
        store = open_store(self.location)
        if not store.can_list:
            return None
        array = self._open()
        counts = self._counts(array)
        inside = "c" if array.metadata.encode_chunk_key((0,) * len(counts)).startswith("c/") else ""
        top = "/".join(filter(None, (self.array_path, inside)))
        at = self._chunk_at(array)

        def is_own(key: str) -> bool:
            index = self._index(key, array)
            return index is not None and all(
                axis != "." or i == chosen for axis, i, chosen in zip(self.stored_axes, index, at, strict=True)
            )

        return ((key, stat) for key, stat in store.list_array(top, counts) if is_own(key))

    def opened(self) -> zarr.Array[Any]:
        """The array as Zarr has it."""
        return self._open()

    def is_object(self, array: zarr.Array[Any], key: str) -> bool:
        """Whether an object of the array as it is stored, with all channels, has this key."""
        return self._index(key, array) is not None

    def _index(self, key: str, array: zarr.Array[Any]) -> tuple[int, ...] | None:
        own = key.removeprefix(f"{self.array_path}/" if self.array_path else "")
        index = object_index(own.removeprefix("c/").removeprefix("c."), self._counts(array))
        return index if index is not None and array.metadata.encode_chunk_key(index) == own else None

    @staticmethod
    def _counts(array: zarr.Array[Any]) -> list[int]:
        return [-(-n // side) for n, side in zip(array.shape, array.shards or array.chunks, strict=True)]

    def _chunk_at(self, array: zarr.Array[Any]) -> tuple[int, ...]:
        """The index of objects along each stored axis that is left out."""
        at = self.at or (0,) * len(self.stored_axes)
        return tuple(p // side for p, side in zip(at, array.shards or array.chunks, strict=True))

    def _open(self) -> zarr.Array[Any]:
        return _open_array(self.location, self.array_path, self.metadata_sha256)


def _rows(box: Box, chunk: Index) -> list[Box]:
    """A box cut at chunk borders along y or x, whichever gives more parts."""
    axis = max((1, 2), key=lambda n: -(-box.stop[n] // chunk[n]) - box.start[n] // chunk[n])
    start, stop, side = box.start[axis], box.stop[axis], chunk[axis]
    borders = [start, *range((start // side + 1) * side, stop, side), stop]

    def part(low: int, high: int) -> Box:
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        return Box((z0, low, x0), (z1, high, x1)) if axis == 1 else Box((z0, y0, low), (z1, y1, high))

    return [part(low, high) for low, high in pairwise(borders)]


class WholeChunks(WrapperStore[zarr.abc.store.Store]):
    """A store that takes no chunk for whole that was cut, and remembers whether one was not there (`found_nothing`).

    A decoder of Blosc reads on behind the end of its input, so that it finds what the memory there happens to hold.
    """

    def __init__(self, store: zarr.abc.store.Store, *, blosc: bool = False) -> None:
        super().__init__(store)
        self._blosc, self.found_nothing = blosc, False

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        most = STORED_BYTES.get()
        if isinstance(byte_range, RangeByteRequest) and most is not None and byte_range.end - byte_range.start > most:
            raise ValueError(f"its index asks for {byte_range.end - byte_range.start:,} bytes, more than it can take")
        buffer = await super().get(key, prototype, byte_range)
        if buffer is None:
            self.found_nothing = True
            return None
        whole = len(buffer)
        if isinstance(byte_range, RangeByteRequest):
            whole = byte_range.end - byte_range.start
        elif byte_range is None and self._blosc:
            # Blosc's header of 16 bytes ends with the length of all.
            whole = max(16, int.from_bytes(buffer[12:16].to_bytes(), "little"))
        if len(buffer) < whole:
            raise ValueError(f"it was cut off after {len(buffer):,} of {whole:,} bytes")
        return buffer


@lru_cache(maxsize=64)
def _open_array(location: str, array_path: str, _metadata_sha256: str) -> zarr.Array[Any]:
    # The digest is part of the key: a store that was replaced under the same name is opened anew.
    store = open_store(location).zarr
    return patiently(lambda: zarr.open_array(store, path=array_path, mode="r"))


def is_zarr(store: Store) -> bool:
    """Whether a Zarr array or group lies at a location."""
    return store.holds(*DOCUMENTS)


def open_zarr(location: str, level: int, voxel_size_um: Position | None, choice: Choice) -> Volume:
    """The volume at a location that holds Zarr; see `pipeline.volume.opening.open_volume`."""
    node = _open_node(location)
    if isinstance(node, zarr.Array):
        if level:
            raise InputError(f"{location} is one array, so it has no level {level}; give the group that holds it.")
        parent = _parent_image(location)
        if parent is None:
            return _describe(location, "", node, image=None, level=0, voxel_size_um=voxel_size_um, choice=choice)
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
        node = _open_node(location, path)
    if not isinstance(node, zarr.Array):
        raise InputError(f"{location}/{path} is a group, but level {level} of {location} must be an array.")
    return _describe(location, path, node, image=image, level=level, voxel_size_um=voxel_size_um, choice=choice)


def _open_node(location: str, path: str = "") -> zarr.Array[Any] | zarr.Group:
    """The array or group at a location, or the error that says what is there instead."""
    where = f"{location}/{path}" if path else location
    try:
        return patiently(lambda: zarr.open(open_store(location).zarr, path=path, mode="r"))
    except (FileNotFoundError, zarr.errors.NodeNotFoundError) as error:
        raise InputError(f"{where} holds no Zarr array or group; check the address.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{where} is not a readable Zarr store ({reason(error)}); check its address.") from error
    except (VoxcaliperError, MemoryError):
        raise
    except Exception as error:  # packages behind fsspec have their own kinds of errors
        raise StorageError(f"{where} cannot be opened: {reason(error)}; check the store.") from error


def _not_an_image(location: str, group: zarr.Group) -> str:
    if (image := _first_image(location, group)) is not None:
        return image
    members = sorted(name for name, _ in group.members()) if group.store.supports_listing else []
    held = f"; it holds {listing(members)}" if members else ""
    return (
        f"{location} is a Zarr group without OME-Zarr image metadata (multiscales){held}:"
        f" give one of its arrays or images, for example {location}/{members[0] if members else 'NAME'}."
    )


def _first_image(location: str, group: zarr.Group) -> str | None:
    """What a plate or a well of OME-Zarr says of its first image, as a sentence; None for other groups."""
    attributes = dict(group.attrs)
    stated: Any = {**attributes, **ome} if isinstance(ome := attributes.get("ome"), dict) else attributes
    try:
        if "plate" in stated:
            well = str(stated["plate"]["wells"][0]["path"]).strip("/")
            found: Any = _open_node(location, well).attrs
            found = dict(found).get("ome", found)
            image = f"{location}/{well}/{found['well']['images'][0]['path']}"
            return f"{location} is a plate of OME-Zarr; give one of the images in its wells, for example {image}."
        if "well" in stated:
            image = f"{location}/{stated['well']['images'][0]['path']}"
            return f"{location} is a well of OME-Zarr; give one of its images, for example {image}."
    except (InputError, LookupError, TypeError):  # documents that do not say, or wells that are not there
        return None
    return None


def listing(names: list[str]) -> str:
    """Some names, for messages."""
    shown = ", ".join(names[:8]) or "nothing"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _parent_image(location: str) -> tuple[str, ImageMetadata, int] | None:
    """The image group around an array: its location, metadata and the array's level."""
    head, path = location, ""
    for _ in range(3):  # an array lies one or two folders below its image; more is not looked for
        head, _, tail = head.rpartition("/")
        if not head or head.endswith(("/", ":")):
            return None
        tail = unquote(tail) if head.startswith("http") else tail  # addresses are encoded, paths in metadata are not
        path = f"{tail}/{path}" if path else tail
        try:
            group = patiently(partial(zarr.open_group, open_store(head).zarr, mode="r", use_consolidated=False))
            image = image_metadata(head, dict(group.attrs))
        except (FileNotFoundError, zarr.errors.NodeNotFoundError, zarr.errors.ContainsArrayError):
            continue
        except PermissionError:  # a folder of this machine: who may read an array need not be let into those above
            return None
        except (InputError, ValueError, TypeError, KeyError):  # who names the array can do without the metadata around
            return None
        except (VoxcaliperError, MemoryError):
            raise
        except Exception as error:  # packages behind fsspec have their own kinds of errors
            raise StorageError(f"{head} cannot be opened: {reason(error)}; check the store.") from error
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
    choice: Choice,
) -> Volume:
    where = f"{location}/{array_path}" if array_path else location
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "biuf":
        raise InputError(f"{where} holds values of type {dtype}; bool, integer or float is needed.")
    check_shape(where, array.shape, (*array.chunks, *(array.shards or ())))
    names = image.axis_names(location, array.ndim) if image else _axis_names(array)
    cut = positions(where, array.shape, names, choice, image.channels if image else ())
    axes = stored_axes(where, cut.shape, names)
    stated, placement = _in_space(location, image, level, axes, voxel_size_um)
    warnings = image.warnings if image else ()
    if "z" not in axes and stated and not voxel_size_um:
        warnings = (*warnings, f"{where} {THICKNESS_TAKEN}.")
    own = array.attrs.get(OWN)
    metadata_sha256 = _metadata_sha256(array)
    stored = ZarrArray(location, array_path, axes, metadata_sha256, cut.at if any(cut.at) else ())
    example = array.metadata.encode_chunk_key((0,) * array.ndim)
    unstored = check_layout(open_store(location), array_path, partial(stored.is_object, array), example)
    return Volume(
        location=location,
        array_path=array_path,
        array=stored,
        shape=in_order(axes, array.shape),
        dtype=dtype.name,
        chunk_shape=in_order(axes, array.chunks),
        shard_shape=in_order(axes, array.shards) if array.shards else None,
        voxel_size=VoxelSize(voxel_size_um) if voxel_size_um else stated,
        stated_voxel_size=stated,
        placement=placement,
        level=level,
        level_count=len(image.datasets) if image else 1,
        format=image.format if image else f"Zarr v{array.metadata.zarr_format} array",
        every_chunk_stored=isinstance(own, dict) and own.get("every_chunk_stored") is True,
        fill_value=np.asarray(array.fill_value or 0, dtype).item(),
        metadata_sha256=metadata_sha256,
        warnings=(*warnings, *unstored),
        selection=cut.selection,
        positions_per_chunk=math.prod(n for axis, n in zip(axes, array.chunks, strict=True) if axis == "."),
    )


def _in_space(
    location: str, image: ImageMetadata | None, level: int, axes: str, given_um: Position | None
) -> tuple[VoxelSize | None, Placement | None]:
    """Spacing and placement of a level as stated. axes : as they are stored.

    given_um : where the unit is not known, a translation counts in voxels, and these are as large as it was given. A
    plane without z is as thick as its pixels are high, and lies at z = 0.
    """
    given = VoxelSize(given_um) if given_um else None
    placing = image.placing(level) if image else None
    if image is None or placing is None:
        return None, None
    order = [axes.index(axis if axis in axes else "y") for axis in "zyx"]
    scale, translation = ([values[i] for i in order] for values in placing)
    if "z" not in axes:
        scale[0], translation[0] = abs(scale[0]), Decimal(0)
    if given and not all(scale):
        return None, None
    units = image.units_um(location, given is not None)
    if units:
        scale, translation = (
            [value * units[i] for value, i in zip(values, order, strict=True)] for values in (scale, translation)
        )
    elif given is None:
        return None, None
    else:
        sides = [exact_decimal(side).copy_sign(value) for side, value in zip(given.um, scale, strict=True)]
        translation = [t / s * side for t, s, side in zip(translation, scale, sides, strict=True)]
        scale = sides
    z, y, x = map(float, translation)
    turn = Turn((0, 1, 2), (scale[0] < 0, scale[1] < 0, scale[2] < 0))  # a negative step runs against its axis
    placement = Placement((z, y, x), image.directions).turned(turn) if image.places else None
    return VoxelSize(cast(Position, tuple(abs(float(side)) for side in scale))), placement


def _axis_names(array: zarr.Array[Any]) -> list[str]:
    """Of an array without image metadata: as it names them, else z, y, x behind all others; y, x of two."""
    stated = [str(name).lower() for name in getattr(array.metadata, "dimension_names", None) or ()]
    usual = "zyx"[-array.ndim :]
    return stated if set(usual) <= set(stated) else [*map(str, range(array.ndim - 3)), *usual]


def _document_name(array: zarr.Array[Any]) -> str:
    return "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"


def _metadata_sha256(array: zarr.Array[Any]) -> str:
    key = _document_name(array)
    reading = array.store_path / key
    try:
        buffer = patiently(lambda: within_time(reading.get(prototype=default_buffer_prototype())))
    except VoxcaliperError:
        raise
    except Exception as error:  # packages behind fsspec have their own kinds of errors
        raise StorageError(f"{reading} cannot be read: {reason(error)}; check the store.") from error
    if buffer is None:
        raise StorageError(f"{array.store_path} lost its {key} while it was opened; check the store.")
    document = json.loads(buffer.to_bytes())
    document.pop("attributes", None)
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
