"""Fingerprints change with the stored objects of exactly one array, and with nothing else."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pipeline.errors import StorageError
from pipeline.geometry import Box, Index
from pipeline.volume.fingerprint import fingerprint
from pipeline.volume.opening import Volume, open_volume
from pipeline.volume.stores import ObjectStat
from tests.volume.servers import Bucket, s3_bucket, web_server
from tests.volume.stores import grey, write_ome_zarr


@dataclass
class Kept:
    """An image on this machine and its address; `publish` brings changes there."""

    path: Path
    location: str
    method: str
    publish: Callable[[], None]


@pytest.fixture(params=["local", "http", "http without etags", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    path = tmp_path / "image.ome.zarr"
    write_ome_zarr(path, grey())
    if request.param == "local":
        yield Kept(path, str(path), "sizes and times", lambda: None)
    elif request.param == "s3":
        with s3_bucket(monkeypatch, tmp_path / "home") as bucket:
            yield Kept(path, f"{bucket.url}/i", "etags", lambda: _mirror(bucket, path, "i"))
    else:
        etags = request.param == "http"
        with web_server(tmp_path, marks=etags) as server:
            yield Kept(path, f"{server.url}/{path.name}", "etags" if etags else "sizes and times", lambda: None)


def _mirror(bucket: Bucket, path: Path, prefix: str) -> None:
    for found in bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", ()):
        bucket.client.delete_object(Bucket=bucket.name, Key=found["Key"])
    bucket.upload(path, prefix)


def now(kept: Kept, level: int = 0) -> dict[str, Any]:
    kept.publish()
    found = fingerprint(open_volume(kept.location, level=level)).as_json()
    return dict(json.loads(json.dumps(found)))


def touch(path: Path, seconds: int) -> None:
    """Times as if it had been written later: web servers tell whole seconds."""
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + seconds))


def test_what_counts(kept: Kept) -> None:
    chunk = kept.path / "0" / "c" / "0" / "0" / "0"
    first = now(kept)
    assert first["method"] == kept.method
    assert first["objects"] == 2 * 3 * 4
    assert first["bytes"] == sum(file.stat().st_size for file in (kept.path / "0" / "c").rglob("*") if file.is_file())
    assert now(kept) == first

    zarr.open_array(kept.path, path="0", mode="r+").attrs["note"] = "edited"
    zarr.open_group(kept.path, mode="r+").attrs["note"] = "edited"
    level1 = kept.path / "1" / "c" / "0" / "0" / "0"
    level1.write_bytes(level1.read_bytes()[:-1] + b"!")
    (kept.path / "0" / "c" / "0" / "0" / ".DS_Store").write_bytes(b"someone looked")
    (kept.path / "0" / "c" / "9").mkdir()
    (kept.path / "0" / "c" / "9" / "partial").write_bytes(b"")
    assert now(kept) == first

    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    touch(chunk, 2)
    changed = now(kept)
    assert changed["digest"] != first["digest"]
    assert (changed["objects"], changed["bytes"]) == (first["objects"], first["bytes"])

    chunk.unlink()
    removed = now(kept)
    assert removed["objects"] == first["objects"] - 1
    assert removed["digest"] not in (first["digest"], changed["digest"])
    chunk.write_bytes(whole)
    touch(chunk, 4)
    assert now(kept)["objects"] == first["objects"]
    assert now(kept)["digest"] != removed["digest"]


def test_the_method_is_what_the_store_offers(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "i.zarr", grey())
    for marks, method in ((True, "etags"), (False, "sizes and times")):
        with web_server(tmp_path, marks=marks) as server:
            assert fingerprint(open_volume(f"{server.url}/i.zarr")).method == method


def test_an_etag_does_not_depend_on_times(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "i.zarr", grey())
    with web_server(tmp_path) as server:
        before = fingerprint(open_volume(f"{server.url}/i.zarr"))
        touch(tmp_path / "i.zarr" / "0" / "c" / "0" / "0" / "0", 100)
        assert fingerprint(open_volume(f"{server.url}/i.zarr")) == before


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("separator", [".", "/"])
def test_bare_arrays_with_either_separator(tmp_path: Path, zarr_format: Any, separator: Any) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(
        path,
        data=grey(),
        chunks=(2, 3, 4),
        zarr_format=zarr_format,
        chunk_key_encoding={"name": "v2" if zarr_format == 2 else "default", "separator": separator},
    )
    assert fingerprint(open_volume(str(path))).objects == 4 * 4 * 4


@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize("kind", ["v2", "default"])
def test_folders_of_large_arrays_are_listed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: Any, kind: Any
) -> None:
    zarr.create_array(
        tmp_path / "a.zarr", data=grey((11, 5, 6)), chunks=(1, 2, 3), zarr_format=3,
        chunk_key_encoding={"name": kind, "separator": separator},
    )  # fmt: skip
    with s3_bucket(monkeypatch, tmp_path / "home") as bucket:
        volume = open_volume(bucket.upload(tmp_path / "a.zarr", "a.zarr"))
        plain = fingerprint(volume)
        assert plain.objects == 11 * 3 * 2
        monkeypatch.setattr("pipeline.volume.stored_objects.PAGE", 4)
        bucket.server.clear()
        assert fingerprint(volume) == plain
        lists = [request for request in bucket.server.requests if request.path == bucket.name]
        assert len(lists) == (11 if separator == "/" else 12)


def test_copies_differ_and_stay(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "a.zarr", grey())
    shutil.copytree(tmp_path / "a.zarr", tmp_path / "b.zarr")
    first = fingerprint(open_volume(str(tmp_path / "a.zarr")))
    (tmp_path / "a.zarr").rename(tmp_path / "c.zarr")
    assert fingerprint(open_volume(str(tmp_path / "c.zarr"))) == first


@dataclass(frozen=True)
class Counted:
    """A back end of many objects that only says what it has."""

    etag: str | None = "same"
    modified: str | None = None

    def read(self, box: Box) -> Any:
        return np.zeros(box.shape, np.uint8)

    def object_key(self, index: Index) -> str:
        return "/".join(map(str, index))

    def object_stat(self, index: Index) -> ObjectStat | None:
        return ObjectStat(1, self.etag, self.modified) if index[2] % 2 else None

    def listed(self) -> None:
        return None


def counted(tmp_path: Path, chunks: int, array: Any) -> Volume:
    zarr.create_array(tmp_path / f"{chunks}.zarr", shape=(1, 1, chunks), chunks=(1, 1, 1), dtype="u1")
    return replace(open_volume(str(tmp_path / f"{chunks}.zarr")), array=array)


def test_any_back_end_in_constant_memory(tmp_path: Path) -> None:
    peaks = []
    for chunks in (2000, 40000):
        volume = counted(tmp_path, chunks, Counted())
        tracemalloc.start()
        assert fingerprint(volume).objects == chunks // 2
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000, peaks


def test_a_store_that_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="says neither the ETag nor the time"):
        fingerprint(counted(tmp_path, 4, Counted(etag=None)))
    assert fingerprint(counted(tmp_path, 6, Counted(None, "yesterday"))).method == "sizes and times"
