"""Damaged, unreadable and full stores: the exact sentence, and nothing half-written that looks finished."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from pipeline.errors import PlanError, StorageError
from pipeline.geometry import Box, VoxelSize
from pipeline.volume.opening import Volume, open_volume
from pipeline.volume.writing import Multiscale, create_multiscale, sweep_partials
from tests.volume.layouts import write_n5_array
from tests.volume.servers import s3_bucket, web_server
from tests.volume.stores import grey
from tests.volume.test_writing import write
from workflows.convert_volume import convert, describe_volume

VOXELS = grey((40, 40, 40))
CORNER = Box((0, 0, 0), (8, 8, 8))


@pytest.fixture
def image(tmp_path: Path) -> Multiscale:
    return write(tmp_path / "i.ome.zarr", VOXELS, block_shape=(32, 32, 32))


def shard(volume: Volume) -> Path:
    return Path(volume.location) / volume.object_key((0, 0, 0))


def failure(volume: Volume, box: Box) -> str:
    with pytest.raises(StorageError) as caught:
        volume.read(box)
    return str(caught.value)


@pytest.mark.parametrize("position", [100, -10])
def test_a_flipped_bit_in_a_chunk_or_in_the_index(image: Multiscale, position: int) -> None:
    volume = image.volume(0)
    damaged = bytearray(shard(volume).read_bytes())
    damaged[position] ^= 1
    shard(volume).write_bytes(damaged)
    assert failure(volume, volume.box) == (
        f"{image.path}/0: the voxels (0, 0, 0) to (40, 40, 40) (z, y, x) cannot be read: corrupt chunk, its checksum"
        " does not match (stored object 0/c/0/0/0); check the store, or restore it from a copy."
    )
    away = Box((32, 0, 0), (40, 40, 40))
    np.testing.assert_array_equal(volume.read(away), VOXELS[away.slices])


def test_a_missing_shard(image: Multiscale) -> None:
    volume = image.volume(0)
    shard(volume).unlink()
    assert failure(volume, CORNER) == (
        f"{image.path}/0: the voxels (0, 0, 0) to (8, 8, 8) (z, y, x) cannot be read because the stored object"
        " 0/c/0/0/0 is missing although every chunk was stored; restore it from a copy or write the volume again."
    )
    assert volume.missing_chunks(volume.box) == 1
    assert "1 are MISSING" in describe_volume(volume)


@pytest.mark.parametrize("where", ["local", "http", "s3"])
@pytest.mark.parametrize("kind", ["Zarr v2", "Zarr v3", "sharded", "N5"])
def test_a_store_that_disappears_does_not_read_as_zeros(
    kind: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unmounted folder, a web server with another root, and a bucket that was deleted."""
    root = tmp_path / "stores"
    if kind == "N5":
        write_n5_array(root / "v", VOXELS, {
            "dimensions": [40, 40, 40], "blockSize": [16, 16, 16], "dataType": "uint16", "compression": {"type": "raw"},
        })  # fmt: skip
    else:
        sides = (32, 32, 32) if kind == "sharded" else None
        zarr.create_array(
            root / "v", data=VOXELS, chunks=(16, 16, 16), shards=sides, zarr_format=2 if kind == "Zarr v2" else 3
        )
    with contextlib.ExitStack() as stack:
        location = str(root / "v")
        gone: Callable[[], None] = functools.partial(shutil.rmtree, root)
        if where == "http":
            server = stack.enter_context(web_server(root))
            location = f"{server.url}/v"
        elif where == "s3":
            bucket = stack.enter_context(s3_bucket(monkeypatch, tmp_path))
            location, gone = bucket.upload(root / "v", "v"), bucket.delete
        volume = open_volume(location)
        np.testing.assert_array_equal(volume.read(CORNER), VOXELS[CORNER.slices])
        gone()
        assert not volume.every_chunk_stored
        text = failure(volume, CORNER)
        words = "the bucket does not exist" if where == "s3" else "was there when the volume was opened and is gone"
        assert words in text
        assert location in text


@pytest.mark.parametrize("kind", ["Zarr", "N5"])
def test_one_request_tells_that_a_sparse_store_is_there(kind: str, tmp_path: Path) -> None:
    if kind == "N5":
        write_n5_array(tmp_path / "v", np.zeros((40, 40, 40), np.uint8), {
            "dimensions": [40, 40, 40], "blockSize": [8, 8, 8], "dataType": "uint8", "compression": {"type": "raw"},
        })  # fmt: skip
    else:
        zarr.create_array(tmp_path / "v", shape=(40, 40, 40), dtype="u1", chunks=(8, 8, 8))
    with web_server(tmp_path) as server:
        volume = open_volume(f"{server.url}/v")
        volume.read(CORNER)  # opens the array in this process
        server.clear()
        assert not volume.read(volume.box).any()
        assert len([request for request in server.requests if request.path.endswith(".json")]) == 1


def test_an_empty_shard(image: Multiscale) -> None:
    volume = image.volume(0)
    shard(volume).write_bytes(b"")
    assert "0/c/0/0/0 is empty (0 bytes)" in failure(volume, volume.box)


def test_a_cut_shard(image: Multiscale) -> None:
    volume = image.volume(0)
    shard(volume).write_bytes(shard(volume).read_bytes()[:500])
    assert "0/c/0/0/0" in failure(volume, volume.box)


def test_an_unreadable_object(image: Multiscale) -> None:
    volume = image.volume(0)
    shard(volume).unlink()
    shard(volume).symlink_to(shard(volume))
    assert "Too many levels of symbolic links" in failure(volume, CORNER)


def test_permission_denied(image: Multiscale) -> None:
    volume = image.volume(0)
    shard(volume).chmod(0)
    if os.access(shard(volume), os.R_OK):
        pytest.skip("this user may read everything")
    assert "permission denied (stored object 0/c/0/0/0)" in failure(volume, CORNER)


def test_a_removed_store(image: Multiscale, tmp_path: Path) -> None:
    volume = image.volume(0)
    image.path.rename(tmp_path / "elsewhere")
    assert "cannot be read: no such file or folder; check the store" in failure(volume, CORNER)


def test_chunks_of_others_without_checksum(tmp_path: Path) -> None:
    path = tmp_path / "v2.zarr"
    zarr.create_array(path, data=VOXELS, chunks=(20, 20, 20), zarr_format=2)
    volume = open_volume(str(path))
    chunk = path / "0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:50])
    assert "corrupt chunk (" in failure(volume, volume.box)
    assert "(stored object 0.0.0)" in failure(volume, volume.box)
    chunk.unlink()
    assert volume.missing_chunks(volume.box) == 1
    assert not volume.read(CORNER).any()
    assert "7 of 8 stored; the other 1 read as 0" in describe_volume(volume)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_cut_chunk_of_blosc(tmp_path: Path, zarr_format: Any) -> None:
    """Its decoder would read on behind the end; of values that cannot be compressed it returns whatever is there."""
    noise = np.random.default_rng(0).integers(0, 2**16, (32, 32, 32), np.uint16)
    codec = numcodecs.Blosc("zstd") if zarr_format == 2 else BloscCodec(cname="zstd")
    zarr.create_array(tmp_path / "b.zarr", data=noise, chunks=(32, 32, 32), zarr_format=zarr_format, compressors=codec)
    volume = open_volume(str(tmp_path / "b.zarr"))
    chunk = shard(volume)
    whole = len(chunk.read_bytes())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert f"corrupt chunk (it was cut off after {whole - 1:,} of {whole:,} bytes)" in failure(volume, volume.box)
    chunk.write_bytes(chunk.read_bytes()[:5])
    assert "corrupt chunk (it was cut off after 5 of 16 bytes)" in failure(volume, volume.box)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_while_blocks_are_written(small_disk: Path) -> None:
    multiscale = create_multiscale(
        small_disk / "i.ome.zarr",
        shape=(64, 64, 128),
        dtype="uint64",
        voxel_size=VoxelSize((1, 1, 1)),
        block_shape=(64, 64, 64),
        name="full",
        reducer="mean",
    )
    noise = np.random.default_rng(0).integers(0, 2**63, (64, 64, 64), dtype=np.uint64)
    with pytest.raises(
        StorageError, match=r"the disk is full, block \(0, 0, 1\) of level 0 needs up to 2,097,152 bytes"
    ):
        multiscale.write_block(0, (0, 0, 1), noise)
    volume = multiscale.volume(0)
    assert volume.missing_chunks(volume.box) == 2
    assert not list(small_disk.rglob("*.partial"))


def test_a_full_disk_while_converting(small_disk: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.random.default_rng(0).integers(0, 2**16, (64, 64, 64), dtype=np.uint16))
    with pytest.raises(StorageError, match="the disk is full"):
        convert(str(tmp_path / "v.npy"), small_disk / "t.ome.zarr", voxel_size=VoxelSize((1, 1, 1)), force=True)
    assert not list(small_disk.iterdir())
    with pytest.raises(PlanError, match=r"has 0\.3 MB free"):
        convert(str(tmp_path / "v.npy"), small_disk / "t.ome.zarr", voxel_size=VoxelSize((1, 1, 1)))
    assert not list(small_disk.iterdir())


WRITER = """
import sys
from pathlib import Path
import numpy as np
from pipeline.geometry import VoxelSize
from pipeline.volume.writing import create_multiscale
m = create_multiscale(Path(sys.argv[1]), shape=(64, 64, 6400), dtype="uint64", voxel_size=VoxelSize((1, 1, 1)),
                      block_shape=(64, 64, 64), name="killed", reducer="max")
noise = np.random.default_rng(0).integers(0, 2**63, (64, 64, 64), dtype=np.uint64)
for block in m.grid(0):
    m.write_block(0, block, noise)
"""


def test_a_killed_writer_leaves_whole_shards(tmp_path: Path) -> None:
    path = tmp_path / "i.ome.zarr"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=Path(__file__).parents[2])
    first = path / "0" / "c" / "0" / "0" / "2"
    deadline = time.monotonic() + 30
    while not first.exists() and writer.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert first.exists()
    (first.parent / "orphan.0123.partial").write_bytes(b"half a shard")
    assert sweep_partials(path) >= 1
    assert not list(path.rglob("*.partial"))
    volume = open_volume(str(path))
    written = [int(file.name) for file in first.parent.iterdir()]
    for x in written:
        assert volume.read(Box((0, 0, 64 * x), (64, 64, 64 * x + 64))).any()
    assert volume.missing_chunks(volume.box) == 100 - len(written)
