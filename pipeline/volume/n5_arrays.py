"""N5, as the Human Organ Atlas, Paintera and BigDataViewer publish it.

Documents and chunks come through the store, as those of every format; tensorstore decodes them. A pyramid is a group
with the arrays s0, s1, …; where they lie, and how large their voxels are, is in `pipeline.volume.n5_metadata`.
N5 names the axis that runs fastest first, so axes are x, y, z where the metadata do not name them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from zarr.core.buffer import default_buffer_prototype

from pipeline.errors import InputError
from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import Position
from pipeline.volume.axes import as_zyx, in_order, object_index, stored_axes, stored_index, stored_selection
from pipeline.volume.bounded import check_blosc
from pipeline.volume.choice import Choice, positions
from pipeline.volume.layout import check_layout
from pipeline.volume.limits import room, stored_bytes
from pipeline.volume.metadata import THICKNESS_TAKEN
from pipeline.volume.n5_codecs import RAW, with_lz4_decoded, without_extras
from pipeline.volume.n5_metadata import factors_of, in_space
from pipeline.volume.patience import reason, within_time
from pipeline.volume.stores import ObjectStat, Store, open_store
from pipeline.volume.volumes import Volume

DOCUMENT = "attributes.json"
ESSENTIAL = ("dimensions", "blockSize", "dataType", "compression")
"""What decoding needs, and so what a result depends on; all else describes."""
LEVEL = re.compile(r"s(\d+)")
FIRST = 3
"""Numbers among which the first setup and time point of BigDataViewer are looked for."""
AT_ONCE = 16
"""Chunks in flight for one box."""


@dataclass(frozen=True)
class N5Array:
    """A `StoredArray` of N5.

    metadata : the essential part of attributes.json. stored_axes : see `pipeline.volume.axes.stored_axes`.
    at : the position along each stored axis that is left out, 0 for the others; () where all are 0.
    """

    location: str
    array_path: str
    stored_axes: str
    metadata: str
    at: tuple[int, ...] = ()

    def read(self, box: Box) -> npt.NDArray[Any]:
        _, sides = self._sizes()
        selection = stored_selection(self.stored_axes, box, self.at)
        bounds = [(s, s + 1) if isinstance(s, int) else (s.start, s.stop) for s in selection]
        touched = [range(start // side, -(-stop // side)) for (start, stop), side in zip(bounds, sides, strict=True)]
        chunks = within_time(self._fetch(list(product(*touched))))
        return as_zyx(self.stored_axes, _decoded(self.metadata, chunks, selection))

    def object_key(self, index: Index) -> str:
        return self._key(stored_index(self.stored_axes, index, self._chunk_at()))

    def object_stat(self, index: Index) -> ObjectStat | None:
        return open_store(self.location).stat(self.object_key(index))

    def listed(self) -> Iterator[tuple[str, ObjectStat]] | None:
        store = open_store(self.location)
        if not store.can_list:
            return None
        counts = [-(-n // side) for n, side in zip(*self._sizes(), strict=True)]
        at = self._chunk_at()

        def is_own(key: str) -> bool:
            index = self._index(key)
            return index is not None and all(
                axis != "." or i == chosen for axis, i, chosen in zip(self.stored_axes, index, at, strict=True)
            )

        return ((key, stat) for key, stat in store.list_array(self.array_path, counts) if is_own(key))

    def is_object(self, key: str) -> bool:
        """Whether a chunk of the array as it is stored, with all channels, has this key."""
        return self._index(key) is not None

    def _index(self, key: str) -> tuple[int, ...] | None:
        counts = [-(-n // side) for n, side in zip(*self._sizes(), strict=True)]
        index = object_index(key.removeprefix(f"{self.array_path}/"), counts)
        return index if index is not None and self._key(index) == key else None

    def _chunk_at(self) -> tuple[int, ...]:
        """The index of chunks along each stored axis that is left out."""
        _, sides = self._sizes()
        return tuple(p // side for p, side in zip(self.at or (0,) * len(sides), sides, strict=True))

    def _sizes(self) -> tuple[list[int], list[int]]:
        document = json.loads(self.metadata)
        return document["dimensions"], document["blockSize"]

    def _key(self, stored: tuple[int, ...]) -> str:
        key = "/".join(map(str, stored))
        return f"{self.array_path}/{key}" if self.array_path else key

    def _most_stored(self) -> int:
        document = json.loads(self.metadata)
        return room(math.prod(document["blockSize"]) * np.dtype(document["dataType"]).itemsize)

    async def _fetch(self, indices: list[tuple[int, ...]]) -> dict[str, bytes]:
        """The stored bytes of chunks under their keys within the array; those that are not stored are left out."""
        store, prototype, turn = open_store(self.location).zarr, default_buffer_prototype(), asyncio.Semaphore(AT_ONCE)

        async def one(index: tuple[int, ...]) -> tuple[str, bytes | None]:
            async with turn:
                buffer = await store.get(self._key(index), prototype)
            return "/".join(map(str, index)), None if buffer is None else buffer.to_bytes()

        with stored_bytes(self._most_stored()):
            found = {key: body for key, body in await asyncio.gather(*map(one, indices)) if body is not None}
        if len(found) < len(indices):
            await open_store(self.location).expect("/".join(filter(None, (self.array_path, DOCUMENT))))
        return found


def _decoded(metadata: str, chunks: dict[str, bytes], selection: tuple[slice | int, ...]) -> npt.NDArray[Any]:
    """What a selection holds of an array of which some chunks are stored."""
    import tensorstore  # here: commands that read no N5 start without it

    context = tensorstore.Context({"data_copy_concurrency": {"limit": 1}})  # workers have a core each
    memory = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()
    document = json.loads(metadata)
    is_lz4 = document["compression"].get("type") == "lz4"  # which tensorstore does not know
    memory.write(DOCUMENT, json.dumps(document | {"compression": RAW} if is_lz4 else document).encode()).result()
    for key in list(chunks):
        _check_header(document, key, chunks[key])
        chunk = chunks.pop(key)
        memory.write(key, with_lz4_decoded(document, chunk) if is_lz4 else chunk).result()
    spec = {"driver": "n5", "kvstore": {"driver": "memory"}}
    try:
        array = tensorstore.open(spec, context=context, open=True, read=True).result()
        return np.asarray(array[selection].read().result())
    except ValueError as error:
        raise ValueError(str(error).partition(" [tensorstore_spec=")[0].partition(": ")[2]) from error


def _check_header(document: dict[str, Any], key: str, chunk: bytes) -> None:
    """Raise ValueError where a chunk does not hold all voxels of its place; those it lacks would be read as zeros.

    The header: mode, number of axes (2 bytes each), and the sides (4 bytes each), the first byte the highest.
    """
    index, sides = list(map(int, key.split("/"))), document["blockSize"]
    if len(chunk) < 4 + 4 * len(sides):
        raise ValueError(f"it was cut off after {len(chunk):,} bytes, within its header")
    mode, count, *stated = struct.unpack_from(f">HH{len(sides)}I", chunk)
    if mode:
        raise ValueError(
            f"it is of {'variable length' if mode == 1 else f'the unknown mode {mode}'}, which is not read"
        )
    needed = [min(side, n - i * side) for i, side, n in zip(index, sides, document["dimensions"], strict=True)]
    if count != len(sides) or any(not a <= b <= c for a, b, c in zip(needed, stated, sides, strict=True)):
        shown = " × ".join(map(str, stated))
        raise ValueError(f"its header says {shown} voxels, but its place takes {' × '.join(map(str, needed))}")
    if document["compression"].get("type") == "blosc":  # the others are decoded piece by piece
        body = chunk[4 + 4 * len(sides) :]
        check_blosc(body, room(math.prod(sides) * np.dtype(document["dataType"]).itemsize))


def is_n5(store: Store) -> bool:
    """Whether an N5 array, or the group of a pyramid, lies at a location."""
    return store.holds(DOCUMENT, f"s0/{DOCUMENT}")


def open_n5(location: str, level: int, voxel_size_um: Position | None, choice: Choice) -> Volume:
    """The volume at a location that holds N5; see `pipeline.volume.opening.open_volume`."""
    document = _document(location)
    if document is not None and "dimensions" in document:
        if level:
            raise InputError(f"{location} is one array, so it has no level {level}; give the group that holds it.")
        head, _, name = location.rpartition("/")
        found = LEVEL.fullmatch(name)
        around = _documents(head) if found else []
        if found is None or not _is_pyramid(around):
            return _describe(
                location, "", [document], level=0, level_count=1, voxel_size_um=voxel_size_um, choice=choice
            )
        location, level = head, int(found[1])
    else:
        around = _documents(location)
    count = _level_count(location, around)
    if not 0 <= level < count:
        raise InputError(f"{location} has no level {level}; its levels are 0 to {count - 1} (s0 to s{count - 1}).")
    document = _document(f"{location}/s{level}")
    if document is None or "dimensions" not in document:
        if (first := _first_time_point(location)) is not None:
            raise InputError(f"{location} is a setup of BigDataViewer; give one of its time points, {first}.")
        raise InputError(f"{location}/s{level} holds no N5 array ({DOCUMENT} with dimensions); give another level.")
    return _describe(
        location, f"s{level}", [document, *around],
        level=level, level_count=count, voxel_size_um=voxel_size_um, choice=choice,
    )  # fmt: skip


def _document(location: str) -> dict[str, Any] | None:
    content = open_store(location).document(DOCUMENT)
    if content is None:
        return None
    try:
        document = json.loads(content)
    except ValueError as error:
        raise InputError(f"{location}/{DOCUMENT} is not JSON ({reason(error)}); fetch it again.") from error
    if not isinstance(document, dict):
        raise InputError(f"{location}/{DOCUMENT} holds no attributes; fetch it again.")
    return document


def _documents(location: str) -> list[dict[str, Any]]:
    """The attributes of a group; those of BigDataViewer's setup, too, for a time point of it."""
    head, _, name = location.rpartition("/")
    places = [location, head] if name.startswith("timepoint") else [location]
    return [document for place in places if (document := _document(place)) is not None]


def _is_pyramid(documents: list[dict[str, Any]]) -> bool:
    keys = {"multiScale", "multiscales", "downsamplingFactors", "scales"}
    return any(document.keys() & keys for document in documents)


def _level_count(location: str, around: list[dict[str, Any]]) -> int:
    factors, store, count = factors_of(around), open_store(location), 0
    if factors is not None:
        return len(factors)
    while store.document(f"s{count}/{DOCUMENT}") is not None:
        count += 1
    if not count:
        if (first := _first_time_point(location)) is not None:
            raise InputError(f"{location} holds images of BigDataViewer; give one of their time points, {first}.")
        raise InputError(f"{location} is an N5 group without the arrays s0, s1, …; give a group or array below it.")
    return count


def _first_time_point(location: str) -> str | None:
    """The first time point of a setup, or of the first setup, of BigDataViewer; None where there is none."""
    store = open_store(location)
    for setup in ("", *(f"setup{number}/" for number in range(FIRST))):
        for time in range(FIRST):
            if store.document(f"{setup}timepoint{time}/s0/{DOCUMENT}") is not None:
                return f"for example {store.address(f'{setup}timepoint{time}')}"
    return None


def _describe(
    location: str,
    array_path: str,
    documents: list[dict[str, Any]],
    *,
    level: int,
    level_count: int,
    voxel_size_um: Position | None,
    choice: Choice,
) -> Volume:
    """A volume of N5. documents : the attributes of the array, then those around it."""
    where, own = f"{location}/{array_path}" if array_path else location, documents[0]
    if isinstance(kind := own.get("compressionType"), str):  # N5 before version 2
        own = {"compression": {"type": kind}, **own}
    missing = [name for name in ESSENTIAL if name not in own]
    if missing:
        raise InputError(f"{where}/{DOCUMENT} lacks {', '.join(missing)}, without which N5 cannot be read.")
    own = {**own, "compression": without_extras(own["compression"])}
    metadata = json.dumps({name: own[name] for name in ESSENTIAL}, sort_keys=True)
    try:
        _decoded(metadata, {}, tuple(slice(0, 0) for _ in own["dimensions"]))
        dtype = np.dtype(own["dataType"])
    except (ValueError, TypeError) as error:
        raise InputError(f"{where} is no N5 array that can be read ({reason(error)}); convert it.") from error
    names = next((document["axes"] for document in documents if isinstance(document.get("axes"), list)), None)
    if names is None or len(names) != len(own["dimensions"]):
        names = [*"xyz", *map(str, range(3, len(own["dimensions"])))][: len(own["dimensions"])]
    names = [str(name).lower() for name in names]
    cut = positions(where, own["dimensions"], names, choice)
    axes = stored_axes(where, cut.shape, names)
    stated, placement = in_space(where, axes, documents, level, is_given=voxel_size_um is not None)
    array = N5Array(location, array_path, axes, metadata, cut.at if any(cut.at) else ())
    thickness = () if "z" in axes or voxel_size_um or stated is None else (f"{where} {THICKNESS_TAKEN}.",)
    unstored = check_layout(open_store(location), array_path, array.is_object, "/".join("0" * len(axes)))
    return Volume(
        location=location,
        array_path=array_path,
        array=array,
        shape=in_order(axes, own["dimensions"]),
        dtype=dtype.name,
        chunk_shape=in_order(axes, own["blockSize"]),
        shard_shape=None,
        voxel_size=VoxelSize(voxel_size_um) if voxel_size_um else stated,
        stated_voxel_size=stated,
        placement=placement,
        level=level,
        level_count=level_count,
        format="N5",
        every_chunk_stored=False,
        fill_value=0,
        metadata_sha256=hashlib.sha256(metadata.encode()).hexdigest(),
        warnings=(*thickness, *unstored),
        selection=cut.selection,
        positions_per_chunk=math.prod(n for axis, n in zip(axes, own["blockSize"], strict=True) if axis == "."),
    )
