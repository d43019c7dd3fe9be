"""Neuroglancer's precomputed volumes: a document `info`, and for each scale a folder of chunks, in gzip or not.

Chunks are raw, compressed_segmentation, PNG or JPEG. Documents and chunks come through the store; tensorstore decodes
them. Lengths are nanometres. A voxel reaches from its index to the next one, so its centre lies half a voxel further:
that way, all scales share one frame.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import product
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from zarr.core.buffer import default_buffer_prototype

from pipeline.errors import InputError
from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import Placement, Position
from pipeline.volume.bounded import GZIP, inflated
from pipeline.volume.limits import room, stored_bytes
from pipeline.volume.metadata import plain_decimal, voxel_size_of
from pipeline.volume.patience import reason, within_time
from pipeline.volume.stores import ObjectStat, Store, open_store
from pipeline.volume.volumes import Volume

DOCUMENT = "info"
UM_PER_NM = Decimal("1e-3")
AT_ONCE = 16
"""Chunks in flight for one box."""
NAME = re.compile(r"(\d+)-(\d+)_(\d+)-(\d+)_(\d+)-(\d+)(?:\.gz)?")


@dataclass(frozen=True)
class PrecomputedArray:
    """A `StoredArray` of one scale. metadata : what decoding needs of `info`, of this scale alone."""

    location: str
    array_path: str
    metadata: str
    stored_axes: ClassVar[str] = "xyz"

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The voxels of a box (z, y, x); chunks that are not stored are 0."""
        _, side, _ = _sizes(json.loads(self.metadata))
        touched = [range(a // s, -(-b // s)) for a, b, s in zip(box.start, box.stop, side, strict=True)]
        chunks = within_time(self._fetch([(z, y, x) for z, y, x in product(*touched)]))
        return _decoded(self.metadata, chunks, box)

    def object_key(self, index: Index) -> str:
        """The name of a chunk; one in gzip may have .gz behind it."""
        shape, side, offset = _sizes(json.loads(self.metadata))
        parts = [
            f"{i * s + o}-{min(n, (i + 1) * s) + o}" for i, s, n, o in zip(index, side, shape, offset, strict=True)
        ]
        return f"{self.array_path}/{'_'.join(reversed(parts))}"

    def object_stat(self, index: Index) -> ObjectStat | None:
        """Of a chunk; None where it is not stored."""
        store, key = open_store(self.location), self.object_key(index)
        return store.stat(key) or store.stat(f"{key}.gz")

    def listed(self) -> Iterator[tuple[str, ObjectStat]] | None:
        """The chunks of this scale, where a store lists them."""
        store = open_store(self.location)
        return (
            ((key, stat) for key, stat in store.list(self.array_path) if self._is_chunk(key))
            if store.can_list
            else None
        )

    def _is_chunk(self, key: str) -> bool:
        found = NAME.fullmatch(key.removeprefix(f"{self.array_path}/"))
        if found is None:
            return False
        shape, side, offset = _sizes(json.loads(self.metadata))
        x, y, z = map(int, found.groups()[::2])
        z, y, x = ((start - o) // s for start, o, s in zip((z, y, x), offset, side, strict=True))
        inside = all(0 <= i * s < n for i, s, n in zip((z, y, x), side, shape, strict=True))
        return inside and self.object_key((z, y, x)) == key.removesuffix(".gz")

    async def _fetch(self, indices: list[Index]) -> dict[str, bytes]:
        """The content of chunks under their keys; those that are not stored are left out."""
        store = open_store(self.location)
        prototype, turn = default_buffer_prototype(), asyncio.Semaphore(AT_ONCE)

        async def one(index: Index) -> tuple[str, bytes | None]:
            key = self.object_key(index)
            async with turn:
                buffer = await store.zarr.get(key, prototype)
                if buffer is None and "://" not in self.location:  # cloud-volume names files so
                    buffer = await store.zarr.get(f"{key}.gz", prototype)
            return key, None if buffer is None else buffer.to_bytes()

        with stored_bytes(room(math.prod(_sizes(json.loads(self.metadata))[1]) * 8 * 4)):  # labels, and their tables
            found = {key: body for key, body in await asyncio.gather(*map(one, indices)) if body is not None}
        if len(found) < len(indices):
            await store.expect(DOCUMENT)
        return found


def _sizes(document: dict[str, Any]) -> tuple[Index, Index, Index]:
    """Shape, chunk and offset of a scale, voxels (z, y, x)."""
    scale = document["scales"][0]
    (x, y, z), (cx, cy, cz), (ox, oy, oz) = scale["size"], scale["chunk_sizes"][0], scale["voxel_offset"]
    return (z, y, x), (min(cz, z), min(cy, y), min(cx, x)), (oz, oy, ox)


def _decoded(metadata: str, chunks: dict[str, bytes], box: Box) -> npt.NDArray[Any]:
    """What a box holds of a scale of which some chunks are stored."""
    import tensorstore  # here: commands that read nothing of this kind start without it

    context = tensorstore.Context({"data_copy_concurrency": {"limit": 1}})  # workers have a core each
    memory = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()
    memory.write(DOCUMENT, metadata.encode()).result()
    document = json.loads(metadata)
    raw = document["scales"][0]["encoding"] == "raw"
    for key in list(chunks):
        content = chunks.pop(key)
        if content.startswith(b"\x1f\x8b") and not (raw and len(content) == _raw_bytes(document, key)):
            try:
                content = inflated(content, room(_raw_bytes(document, key)), GZIP)
            except ValueError as error:
                raise ValueError(f"its gzip is damaged or cut off ({reason(error)})") from error
        memory.write(key, content).result()
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "memory"}, "scale_index": 0}
    _, _, offset = _sizes(document)
    z, y, x = (slice(a + o, b + o) for a, b, o in zip(box.start, box.stop, offset, strict=True))
    try:
        array = tensorstore.open(spec, context=context, open=True, read=True).result()
        return np.asarray(array[x, y, z, 0].read().result()).transpose(2, 1, 0)
    except ValueError as error:
        raise ValueError(str(error).partition(" [tensorstore_spec=")[0].partition(": ")[2]) from error


def _raw_bytes(document: dict[str, Any], key: str) -> int:
    x0, x1, y0, y1, z0, z1 = map(int, re.findall(r"\d+", key.rpartition("/")[2]))
    return (x1 - x0) * (y1 - y0) * (z1 - z0) * int(np.dtype(document["data_type"]).itemsize)


def find_precomputed(store: Store) -> Callable[[int, Position | None], Volume] | None:
    """What opens the volume at a location, given a level and a voxel size; None where no precomputed volume lies."""
    if store.location.rpartition("/")[2] == DOCUMENT or (content := store.document(DOCUMENT)) is None:
        return None
    try:
        document = json.loads(content)
    except ValueError:
        return None
    return partial(_open, store.location, document) if isinstance(document, dict) and "scales" in document else None


def _open(location: str, document: dict[str, Any], level: int, voxel_size_um: Position | None) -> Volume:
    scales = document["scales"]
    if not 0 <= level < len(scales):
        keys = ", ".join(str(scale.get("key")) for scale in scales)
        raise InputError(f"{location} has no level {level}; its levels are 0 to {len(scales) - 1} ({keys}).")
    scale = scales[level]
    where = f"{location}/{scale.get('key')}"
    if scale.get("sharding") is not None:
        raise InputError(
            f"{where} is sharded, which is not read; copy it without shards (igneous image xfer --no-shard)."
        )
    if document.get("num_channels") != 1:
        raise InputError(f"{where} has {document.get('num_channels')} channels; store the volumes one by one.")
    try:
        essential = {
            "@type": "neuroglancer_multiscale_volume",
            "type": document.get("type", "image"),
            "data_type": document["data_type"],
            "num_channels": 1,
            "scales": [
                {"voxel_offset": [0, 0, 0]}
                | {
                    name: scale[name]
                    for name in (
                        "key", "size", "resolution", "chunk_sizes", "encoding", "voxel_offset",
                        "compressed_segmentation_block_size",
                    )
                    if name in scale
                }
            ],
        }  # fmt: skip
        metadata = json.dumps(essential, sort_keys=True)
        shape, side, offset = _sizes(essential)
        _decoded(metadata, {}, Box((0, 0, 0), (0, 0, 0)))
        dtype = np.dtype(str(essential["data_type"]))
        sides = [plain_decimal(float(length)) * UM_PER_NM for length in reversed(scale["resolution"])]
        stated = voxel_size_of(list(sides), [Decimal(1)] * 3)
    except (ValueError, TypeError, KeyError, LookupError) as error:
        raise InputError(f"{where} has an `info` that cannot be read ({reason(error)}).") from error
    z, y, x = (float((o + Decimal("0.5")) * length) for o, length in zip(offset, sides, strict=True))
    lossy = scale["encoding"] == "jpeg"
    return Volume(
        location=location,
        array_path=str(scale["key"]),
        array=PrecomputedArray(location, str(scale["key"]), metadata),
        shape=shape,
        dtype=dtype.name,
        chunk_shape=side,
        shard_shape=None,
        voxel_size=VoxelSize(voxel_size_um) if voxel_size_um else stated,
        stated_voxel_size=stated,
        placement=Placement((z, y, x)),
        level=level,
        level_count=len(scales),
        format="Neuroglancer precomputed",
        every_chunk_stored=False,
        fill_value=0,
        metadata_sha256=hashlib.sha256(metadata.encode()).hexdigest(),
        warnings=(f"{where} is compressed as JPEG, which changes grey values.",) if lossy else (),
    )
