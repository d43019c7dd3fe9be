"""Zarr in a ZIP archive: as zarr itself and zipfile write it, near and far, damaged and replaced."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import ZipStore

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Box, VoxelSize
from pipeline.volume import zip_store
from pipeline.volume.fingerprint import fingerprint
from pipeline.volume.opening import Volume, open_volume
from tests.volume.servers import s3_bucket, web_server
from tests.volume.stores import grey, write_ome_zarr

VOXELS = grey((12, 17, 23))


def by_zarr(folder: Path) -> Path:
    with ZipStore(folder / "v.zarr.zip", mode="w") as store:
        zarr.create_array(store, data=VOXELS, chunks=(4, 8, 8), shards=(8, 16, 16))
    return folder / "v.zarr.zip"


def image(folder: Path, method: int = zipfile.ZIP_STORED, inside: str = "", name: str = "v.ozx") -> Path:
    write_ome_zarr(folder / "v.ome.zarr", VOXELS, sharded=True)
    with zipfile.ZipFile(folder / name, "w", method) as archive:
        for file in sorted((folder / "v.ome.zarr").rglob("*")):
            if file.is_file():
                archive.write(file, inside + file.relative_to(folder / "v.ome.zarr").as_posix())
    shutil.rmtree(folder / "v.ome.zarr")
    return folder / name


WRITERS: dict[str, Callable[[Path], Path]] = {
    "zarr": by_zarr,
    "stored": image,
    "deflated": lambda folder: image(folder, zipfile.ZIP_DEFLATED),
    "a folder": lambda folder: image(folder, zipfile.ZIP_DEFLATED, "v.ome.zarr/", "v.ome.zarr.zip"),
}


def check(location: Path | str) -> Volume:
    volume: Volume = pickle.loads(pickle.dumps(open_volume(str(location))))
    assert volume.shape == VOXELS.shape
    for box in (Box((3, 2, 1), (11, 9, 20)), volume.box):
        np.testing.assert_array_equal(volume.read(box), VOXELS[box.slices])
    return volume


@pytest.mark.parametrize("kind", WRITERS)
def test_every_writer_near_and_far(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b").mkdir()
    file = WRITERS[kind](tmp_path / "a b")
    volume = check(file)
    if kind != "zarr":
        assert (volume.format, volume.voxel_size, volume.level_count) == ("OME-Zarr 0.5", VoxelSize((3, 0.7, 0.7)), 2)
        level = open_volume(str(file), level=1)
        np.testing.assert_array_equal(level.read(level.box), VOXELS[::2, ::2, ::2])
        assert open_volume(f"{file}/1") == level
    stored = fingerprint(volume)
    assert (stored.method, stored.objects) == ("etags", len(volume.objects))
    with web_server(tmp_path) as server:
        far = check(f"{server.url}/a b/{file.name}")
        assert fingerprint(far) == stored
        assert far.missing_chunks(far.box) == 0
    with s3_bucket(monkeypatch, tmp_path / "home") as bucket:
        check(bucket.upload(file, f"some/{file.name}"))


def test_a_long_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_store, "TAIL_BYTES", 100)
    check(image(tmp_path))


def test_only_what_is_asked_for_is_fetched(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 60000, (64, 64, 64)).astype("u2")
    with ZipStore(tmp_path / "v.zarr.zip", mode="w") as store:
        zarr.create_array(store, data=voxels, chunks=(16, 16, 16))
    with web_server(tmp_path) as server:
        volume = open_volume(f"{server.url}/v.zarr.zip")
        opened = server.sent
        np.testing.assert_array_equal(volume.read(Box((0, 0, 0), (4, 4, 4))), voxels[:4, :4, :4])
        assert server.sent - opened < 3 * 16**3 * 2


def test_an_archive_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    file = image(tmp_path)
    before = open_volume(str(file))
    check(file)
    changed = VOXELS[::-1].copy()
    (tmp_path / "new").mkdir()
    write_ome_zarr(tmp_path / "new" / "v.ome.zarr", changed, sharded=True)
    with zipfile.ZipFile(tmp_path / "new.ozx", "w") as archive:
        for path in sorted((tmp_path / "new" / "v.ome.zarr").rglob("*"), reverse=True):
            if path.is_file():
                archive.write(path, path.relative_to(tmp_path / "new" / "v.ome.zarr").as_posix())
    (tmp_path / "new.ozx").replace(file)
    after = open_volume(str(file))
    assert after.identity() == before.identity()
    np.testing.assert_array_equal(after.read(after.box), changed)


def test_a_damaged_member(tmp_path: Path) -> None:
    with ZipStore(tmp_path / "v.zarr.zip", mode="w") as store:
        zarr.create_array(store, data=VOXELS, chunks=(4, 8, 8), compressors=None)
    content = bytearray((tmp_path / "v.zarr.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "v.zarr.zip") as archive:
        position = archive.getinfo("c/1/0/0").header_offset
    content[position + 200] ^= 1
    (tmp_path / "v.zarr.zip").write_bytes(content)
    volume = open_volume(str(tmp_path / "v.zarr.zip"))
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), (4, 17, 23))), VOXELS[:4])
    with pytest.raises(StorageError, match=r"v\.zarr\.zip: the voxels .* its checksum does not match .*c/1/0/0"):
        volume.read(volume.box)


def test_archives_that_hold_no_volume(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_bytes(b"nothing")
    with pytest.raises(StorageError, match=r"text\.zip.* cannot be read: it is no ZIP archive"):
        open_volume(str(tmp_path / "text.zip"))
    with zipfile.ZipFile(tmp_path / "slices.zip", "w") as archive:
        archive.writestr("0.tif", b"II*")
    with pytest.raises(InputError, match=r"slices\.zip is not read; unpack it first"):
        open_volume(str(tmp_path / "slices.zip"))
    with pytest.raises(InputError, match=r"gone\.zarr\.zip does not exist"):
        open_volume(str(tmp_path / "gone.zarr.zip"))
    check(image(tmp_path, name="folder.zip"))
