"""Neuroglancer's precomputed volumes, as tensorstore writes them: every encoding, place, gzip, far away, damaged."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Box, VoxelSize
from pipeline.volume.fingerprint import fingerprint
from pipeline.volume.opening import Volume, open_volume
from tests.volume.formats import Voxels
from tests.volume.servers import web_server
from tests.volume.stores import grey
from tests.volume.test_memory import SLACK, peak_bytes

VOXELS = grey((12, 17, 23), "uint32")
OFFSET = (5, 7, 100)
"""x, y, z."""


def write(
    folder: Path, voxels: Voxels = VOXELS, *, encoding: str = "raw", step: int = 1, chunk: int = 8, **more: Any
) -> Path:
    metadata: dict[str, Any] = {
        "size": voxels.shape[::-1],
        "encoding": encoding,
        "chunk_size": [chunk] * 3,
        "resolution": [4.5 * step, 4.5 * step, 40.0 * step],
        "voxel_offset": [n // step for n in OFFSET],
        **more,
    }
    if encoding == "compressed_segmentation":
        metadata["compressed_segmentation_block_size"] = [8, 8, 8]
    kind = "segmentation" if encoding == "compressed_segmentation" else "image"
    tensorstore.open({
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "multiscale_metadata": {"type": kind, "data_type": voxels.dtype.name, "num_channels": 1},
        "scale_metadata": metadata,
        "create": True,
    }).result()[..., 0].write(voxels.T).result()  # fmt: skip
    return folder


def check(location: Path | str, voxels: Voxels = VOXELS) -> Volume:
    volume: Volume = pickle.loads(pickle.dumps(open_volume(str(location))))
    for box in (Box((3, 2, 1), (11, 9, 20)), volume.box):
        np.testing.assert_array_equal(volume.read(box), voxels[box.slices])
    return volume


@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [("raw", "uint8"), ("raw", "uint16"), ("raw", "uint64"), ("raw", "float32"), ("raw", "int16"), ("png", "uint16"),
     ("compressed_segmentation", "uint32"), ("compressed_segmentation", "uint64")],
)  # fmt: skip
def test_encodings(tmp_path: Path, encoding: str, dtype: str) -> None:
    voxels = grey(VOXELS.shape, dtype)
    volume = check(write(tmp_path / "v", voxels, encoding=encoding), voxels)
    assert (volume.dtype, volume.chunk_shape, volume.format) == (dtype, (8, 8, 8), "Neuroglancer precomputed")
    assert volume.stored_objects() == (
        len(volume.objects),
        sum(file.stat().st_size for file in (tmp_path / "v" / volume.array_path).iterdir()),
    )


def test_scales_are_levels_in_one_frame(tmp_path: Path) -> None:
    write(tmp_path / "v")
    write(tmp_path / "v", VOXELS[::2, ::2, ::2], step=2)
    fine, coarse = (open_volume(str(tmp_path / "v"), level=level) for level in (0, 1))
    assert (fine.level_count, coarse.level) == (2, 1)
    assert (fine.voxel_size, coarse.voxel_size) == (VoxelSize((0.04, 0.0045, 0.0045)), VoxelSize((0.08, 0.009, 0.009)))
    assert fine.origin_um == (4.02, 0.03375, 0.02475)
    assert coarse.origin_um == (4.04, 0.0315, 0.0225)
    np.testing.assert_array_equal(coarse.read(coarse.box), VOXELS[::2, ::2, ::2])
    with pytest.raises(InputError, match="has no level 2; its levels are 0 to 1"):
        open_volume(str(tmp_path / "v"), level=2)


def test_chunks_in_gzip(tmp_path: Path) -> None:
    """Named .gz as cloud-volume leaves them in folders, or as web servers keep them."""
    folder = write(tmp_path / "v")
    stored = check(folder)
    for n, file in enumerate(sorted((folder / stored.array_path).iterdir())):
        packed = gzip.compress(file.read_bytes())
        if n % 2:
            file.write_bytes(packed)
        else:
            Path(f"{file}.gz").write_bytes(packed)
            file.unlink()
    volume = check(folder)
    assert volume.missing_chunks(volume.box) == 0
    assert fingerprint(volume).objects == len(volume.objects)
    victim = next((folder / volume.array_path).glob("*.gz"))
    victim.write_bytes(victim.read_bytes()[:-20])
    with pytest.raises(StorageError, match="its gzip is damaged or cut off"):
        volume.read(volume.box)


def test_over_the_web(tmp_path: Path) -> None:
    write(tmp_path / "v")
    with web_server(tmp_path) as server:
        check(f"{server.url}/v")


def test_chunks_that_are_missing_or_cut_off(tmp_path: Path) -> None:
    volume = check(write(tmp_path / "v"))
    chunk = tmp_path / "v" / volume.object_key((0, 0, 0))
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1])
    with pytest.raises(StorageError, match=rf"v/{volume.array_path}: the voxels .*{chunk.name}"):
        volume.read(volume.box)
    chunk.unlink()
    assert volume.missing_chunks(volume.box) == 1
    assert not volume.read(Box((0, 0, 0), (8, 8, 8))).any()
    (tmp_path / "v" / "info").unlink()
    with pytest.raises(StorageError, match="was there when the volume was opened and is gone"):
        volume.read(volume.box)


def test_what_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "s", sharding={"@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 0, "minishard_bits": 0,
                                    "shard_bits": 0, "hash": "identity"})  # fmt: skip
    with pytest.raises(InputError, match=r"is sharded, which is not read; copy it without shards"):
        open_volume(str(tmp_path / "s"))
    write(tmp_path / "j", VOXELS.astype("uint8"), encoding="jpeg")
    assert "is compressed as JPEG, which changes grey values" in open_volume(str(tmp_path / "j")).warnings[0]
    (tmp_path / "two").mkdir()
    info = json.loads((tmp_path / "j" / "info").read_text())
    (tmp_path / "two" / "info").write_text(json.dumps(info | {"num_channels": 2}))
    with pytest.raises(InputError, match="has 2 channels; store the volumes one by one"):
        open_volume(str(tmp_path / "two"))
    info["scales"][0]["size"] = [1, 2]
    (tmp_path / "two" / "info").write_text(json.dumps(info))
    with pytest.raises(InputError, match="has an `info` that cannot be read"):
        open_volume(str(tmp_path / "two"))


def test_memory_of_a_box(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 60000, (64, 200, 200)).astype("u2")
    volume = open_volume(str(write(tmp_path / "v", voxels, chunk=32)))
    box = Box((3, 20, 30), (60, 190, 180))
    assert peak_bytes(lambda: volume.read(box)) <= volume.read_bytes(box.shape) + SLACK
