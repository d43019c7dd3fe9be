"""What the Human Organ Atlas publishes, read where it lies: the same statistics as of a plain Zarr of the same voxels.

Over a real web server and a real S3 API, with requests that fail in between; what is missing, cut or late is told.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Box, VoxelSize
from pipeline.volume import patience
from pipeline.volume.fingerprint import fingerprint
from pipeline.volume.opening import open_volume
from tests.volume.layouts import (
    HOA_N5,
    HOA_ZARR,
    LEVEL,
    UM,
    phantom,
    write_hoa_n5,
    write_hoa_zarr,
    write_n5_array,
    write_stack_to_chunk,
)
from tests.volume.servers import Bucket, Server, first_tries, s3_bucket, web_server
from tests.volume.stores import grey, shared
from tests.workflows.runs import Finished, started_scheduler

VOXELS = phantom()
THRESHOLD = ("--threshold", 500, "--block-shape", 64)
FAULTS = (500, "drop", 503, "truncate", 429, 0.05)


@dataclass(frozen=True)
class World:
    """Stores in a folder, on a web server and in a bucket, and a Dask worker who can reach them."""

    folder: Path
    web: Server
    bucket: Bucket
    scheduler: str

    def address(self, name: str, where: str) -> str:
        places = {"local": str(self.folder), "http": self.web.url, "s3": self.bucket.url}
        return f"{places[where]}/{name}"


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "N5": lambda store: write_hoa_n5(store, VOXELS),
    "N5 of the atlas": lambda store: write_hoa_n5(store, VOXELS, shared(HOA_N5)),
    "OME-Zarr 0.4": lambda store: write_hoa_zarr(store, VOXELS),
    "OME-Zarr 0.4 of the atlas": lambda store: write_hoa_zarr(store, VOXELS, shared(HOA_ZARR)),
    "OME-Zarr 0.5": lambda store: write_stack_to_chunk(store, VOXELS),
}
SIZES = {"OME-Zarr 0.4 of the atlas": 96.528}
"""Voxel sizes in µm; the others have that of the atlas' N5."""
MISSING = {"N5": 4, "N5 of the atlas": 1, "OME-Zarr 0.4": 4, "OME-Zarr 0.4 of the atlas": 1, "OME-Zarr 0.5": 0}
"""Objects of zeros, which are not stored: those from voxel 96 on along z and x, in chunks of 32³ and 128³."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base = tmp_path_factory.mktemp("world")
    folder = base / "stores"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        web = stack.enter_context(web_server(folder))
        bucket = stack.enter_context(s3_bucket(environment, base))
        zarr.create_array(folder / "plain.zarr", data=VOXELS, chunks=(32, 32, 32))
        scheduler = stack.enter_context(started_scheduler(base / "scheduler", workers=1))
        yield World(folder, web, bucket, scheduler.address)


@pytest.fixture
def plain(world: World, here: Callable[..., Finished]) -> Callable[[float], dict[str, Any]]:
    """Statistics of the plain Zarr with a voxel size; each is measured once."""

    def statistics(um: float) -> dict[str, Any]:
        run = world.folder.parent / f"plain-{um:g}"
        if not run.exists():
            done = here(
                "thickness", world.folder / "plain.zarr", "--run", run, "--voxel-size-um", um,
                "--scheduler", world.scheduler, "--unencrypted", "--quiet", *THRESHOLD,
            )  # fmt: skip
            assert done.code == 0, done
        return dict(json.loads((run / "statistics.json").read_text()))

    return statistics


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest, world: World) -> str:
    name = str(request.param)
    store = world.folder / name.replace(" ", "-")
    if not store.exists():
        LAYOUTS[name](store)
        world.bucket.upload(store, store.name)
    return name


@pytest.mark.parametrize("where", ["local", "http", "s3"])
def test_the_same_statistics(
    world: World, here: Callable[..., Finished], plain: Callable[[float], dict[str, Any]], layout: str, where: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    server = {"http": world.web, "s3": world.bucket.server}.get(where)
    if server:
        server.clear()
        server.faults = first_tries(*FAULTS)
    location = world.address(layout.replace(" ", "-"), where)
    run = tmp_path / "run"
    done = here(
        "thickness",
        location,
        "--level",
        LEVEL,
        "--run",
        run,
        "--scheduler",
        world.scheduler,
        "--unencrypted",
        "--quiet",
        *THRESHOLD,
    )
    assert done.code == 0, done
    assert json.loads((run / "statistics.json").read_text()) == plain(SIZES.get(layout, UM))
    source = json.loads((run / "provenance.json").read_text())["input"]
    assert source["objects_missing_read_as_fill_value"] == MISSING[layout]
    assert source["format"] == layout.removesuffix(" of the atlas")
    words = {"OME-Zarr 0.4": ["translation before"], "OME-Zarr 0.5": ["both in its attr", "translation before"]}
    expected = words.get(layout.removesuffix(" of the atlas"), [])
    assert len(source["warnings"]) == len(expected)
    assert all(any(word in warning for warning in source["warnings"]) for word in expected)
    assert done.err.count("voxcaliper: warning: ") == len(expected)
    if server:
        assert {request.status for request in server.requests} >= {0, 500, 503, 429}


BOX = Box((10, 0, 20), (100, 32, 120))


@pytest.mark.parametrize("where", ["http", "s3"])
def test_a_chunk_that_stays_cut_is_named(
    world: World, layout: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.volume.patience.sleep", lambda _: None)
    monkeypatch.setattr("pipeline.volume.remote.QUICK_PAUSES_SECONDS", (0.0,))
    server = world.web if where == "http" else world.bucket.server
    server.faults = lambda *_: None
    volume = open_volume(world.address(layout.replace(" ", "-"), where), level=LEVEL)
    key = volume.object_key((0, 0, 0))
    for fault, words in (("truncate", "the connection failed"), ("half", "corrupt chunk"), (410, "answered 410 Gone")):
        if fault == "half" and volume.shard_shape:
            continue  # a part of a shard is asked for by its length, which the server cannot get wrong unnoticed
        server.faults = lambda _method, path, _number, fault=fault: fault if path.endswith(key) else None  # type: ignore[misc]
        with pytest.raises(StorageError) as caught:
            volume.read(BOX)
        assert words in str(caught.value)
        assert key in str(caught.value)
        assert volume.location in str(caught.value)
    server.faults = lambda *_: None
    np.testing.assert_array_equal(volume.read(BOX), VOXELS[BOX.slices])


@pytest.mark.parametrize("where", ["http", "s3"])
@pytest.mark.parametrize("kind", ["N5", "Zarr"])
def test_missing_is_not_zero(world: World, where: str, kind: str, here: Callable[..., Finished]) -> None:
    """One chunk of zeros is stored, one is not, and one is gone from the server (404)."""
    voxels = np.ones((8, 8, 24), np.uint8)
    voxels[:, :, :16] = 0
    store = world.folder / f"sparse-{kind}"
    if not store.exists():
        if kind == "N5":
            write_n5_array(store, voxels, {
                "dimensions": [24, 8, 8], "blockSize": [8, 8, 8], "dataType": "uint8", "compression": {"type": "gzip"},
            })  # fmt: skip
            (store / "0" / "0").mkdir(parents=True, exist_ok=True)
            # An N5 block: mode 0, three axes, their lengths, then the values.
            block = b"".join(n.to_bytes(width, "big") for n, width in ((0, 2), (3, 2), (8, 4), (8, 4), (8, 4)))
            (store / "0" / "0" / "0").write_bytes(block + gzip.compress(bytes(512)))
        else:
            array = zarr.create_array(
                store, shape=voxels.shape, chunks=(8, 8, 8), dtype="u1", config={"write_empty_chunks": True}
            )
            array[:, :, :8] = voxels[:, :, :8]
            array[:, :, 16:] = voxels[:, :, 16:]
        world.bucket.upload(store, store.name)
    for server in (world.web, world.bucket.server):
        server.faults = lambda *_: None
    volume = open_volume(world.address(store.name, where))
    assert volume.missing_chunks(volume.box) == 1
    assert volume.missing_chunks(Box((0, 0, 0), (8, 8, 8))) == 0
    assert volume.stored_objects() is not None
    np.testing.assert_array_equal(volume.read(volume.box), voxels)
    said = here("info", world.address(store.name, where))
    assert "2 of 3 stored; the other 1 read as 0" in said.out
    gone = volume.object_key((0, 0, 2))
    for server in (world.web, world.bucket.server):
        server.faults = lambda _method, path, _number: 404 if path.endswith(gone) else None
    assert volume.missing_chunks(volume.box) == 2
    assert not volume.read(volume.box).any()


def test_objects_are_listed_once_to_be_counted(world: World, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.volume.volumes.MOST_ASKED", 1)
    world.bucket.server.faults = lambda *_: None
    volume = open_volume(world.address(layout.replace(" ", "-"), "s3"), level=LEVEL)
    world.bucket.server.clear()
    stored = volume.stored_objects()
    assert stored is not None
    assert stored[0] == len(volume.objects) - MISSING[layout]
    assert [request.path for request in world.bucket.server.requests].count(world.bucket.name) == 1


def test_a_bucket_that_does_not_list(world: World, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a bucket answers 403 for what is not there; what is there can be read all the same."""
    server, plain = world.bucket.server, world.bucket.server.answer
    server.faults = lambda *_: None

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        status, own, content = plain(method, path, headers, body)
        return (403, {}, b"") if status == 404 or "list-type" in path else (status, own, content)

    monkeypatch.setattr(server, "answer", answer)
    volume = open_volume(world.address(layout.replace(" ", "-"), "s3"), level=LEVEL)
    box = Box((0, 0, 0), (50, 32, 60))
    np.testing.assert_array_equal(volume.read(box), VOXELS[box.slices])
    if MISSING[layout]:
        with pytest.raises(StorageError, match=r"permission denied .*buckets say this of a missing object, too"):
            fingerprint(volume)
    else:
        assert fingerprint(volume).objects == len(volume.objects)
    with pytest.raises(StorageError, match=r"nothing/zarr\.json cannot be read: permission denied"):
        open_volume(f"{world.bucket.url}/nothing")
    monkeypatch.setenv("VOXCALIPER_REFUSED_IS_ABSENT", "1")
    assert fingerprint(volume).objects == len(volume.objects) - MISSING[layout]
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
    with pytest.raises(StorageError, match=r"nothing cannot be read: permission denied"):  # no list, no slices
        open_volume(f"{world.bucket.url}/nothing")
    server.faults = lambda *_: 403  # the credentials have run out
    with pytest.raises(StorageError, match=r"was there when the volume was opened and is gone|is missing"):
        volume.read(volume.box)


def test_info_and_conversion_warn(
    world: World, layout: str, here: Callable[..., Finished], tmp_path: Path
) -> None:  # fmt: skip
    said = here("info", world.address(layout.replace(" ", "-"), "local"), "--level", LEVEL)
    assert said.code == 0
    assert "level 0     named in the metadata, but not there" in said.out
    assert f"level {LEVEL}     130 × 32 × 134 (this one)" in said.out
    lines = said.err.splitlines()
    name = f"s{LEVEL}" if layout.startswith("N5") else str(LEVEL)
    location = f"{world.address(layout.replace(' ', '-'), 'local')}/{name}"
    assert here("convert", location, tmp_path / "copy.ome.zarr", "--quiet").err.splitlines() == lines
    assert all(line.startswith("voxcaliper: warning: ") and line.endswith(".") for line in lines)
    assert len(lines) == {"N5": 0, "OME-Zarr 0.4": 1, "OME-Zarr 0.5": 2}[layout.removesuffix(" of the atlas")]


def test_slow_answers_end(world: World, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.volume.patience.sleep", lambda _: None)
    world.web.faults = lambda *_: None
    volume = open_volume(world.address(layout.replace(" ", "-"), "http"), level=LEVEL)
    key = volume.object_key((0, 0, 0))
    monkeypatch.setattr(patience, "READ_SECONDS", 0.3)
    world.web.faults = lambda _method, path, _number: 60.0 if path.endswith(key) else None
    with pytest.raises(StorageError, match=r"the store did not answer within 0\.3 s"):
        volume.read(Box((0, 0, 0), (4, 4, 4)))
    world.web.faults = lambda *_: None


def test_a_small_box_of_a_large_shard_moves_few_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2**16, (128, 256, 256), np.uint16)
    write_stack_to_chunk(tmp_path / "large.ome.zarr", noise, chunk=32, slices=128)
    with web_server(tmp_path) as server:
        volume = open_volume(f"{server.url}/large.ome.zarr", level=LEVEL)
        assert volume.shard_shape == (128, 256, 256)
        server.clear()
        box = Box((40, 40, 40), (60, 60, 60))
        np.testing.assert_array_equal(volume.read(box), noise[box.slices])
        shard = (tmp_path / "large.ome.zarr" / volume.object_key((0, 0, 0))).stat().st_size
        assert server.sent < 32**3 * 2 * 1.2  # a chunk and the index of the shard
        assert server.sent < shard / 200


def test_large_shards_of_a_server_without_ranges_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk would be the whole shard again; small shards are read so, and kept once."""
    monkeypatch.setenv("VOXCALIPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VOXCALIPER_CACHE_SIZE", "64 MiB")
    noise = np.random.default_rng(0).integers(0, 2**16, (64, 128, 128), np.uint16)
    write_stack_to_chunk(tmp_path / "large.ome.zarr", noise, chunk=32, slices=64)
    write_stack_to_chunk(tmp_path / "small.ome.zarr", noise[:32], chunk=32, slices=32)
    with web_server(tmp_path, ranges=False) as server:
        large, small = (open_volume(f"{server.url}/{name}.ome.zarr", level=LEVEL) for name in ("large", "small"))
        assert large.shard_shape == (64, 128, 128)
        with pytest.raises(StorageError, match=r"sends no parts of objects, and this one has 2,.*; copy the volume"):
            large.read(Box((1, 1, 1), (9, 9, 9)))
        monkeypatch.setattr("pipeline.volume.remote.LARGEST_WHOLE", 2 << 20)
        np.testing.assert_array_equal(small.read(small.box), noise[:32])
        shard = small.object_key((0, 0, 0))
        whole = [request for request in server.requests if request.path.endswith(shard) and request.status == 304]
        assert len(whole) >= 8


def test_what_fails_beside_an_array_is_said(world: World, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documents around an array are tried again like all others."""
    monkeypatch.setattr("pipeline.volume.patience.sleep", lambda _: None)
    monkeypatch.setattr("pipeline.volume.remote.QUICK_PAUSES_SECONDS", (0.0,))
    name = layout.replace(" ", "-")
    array = f"{world.address(name, 'http')}/{'s' if layout.startswith('N5') else ''}{LEVEL}"
    try:
        world.web.faults = lambda _method, path, number: 503 if path.startswith(f"{name}/") and number < 4 else None
        world.web.clear()
        assert open_volume(array) == open_volume(world.address(name, "http"), level=LEVEL)
        for document in ("zarr.json", ".zgroup", ".zattrs", "attributes.json"):
            if not (world.folder / name / document).exists():
                continue
            world.web.faults = lambda _method, path, _number, at=f"{name}/{document}": 503 if path == at else None  # type: ignore[misc]
            with pytest.raises(StorageError, match=r"cannot be (read|opened): the server answered 503"):
                open_volume(array)
    finally:
        world.web.faults = lambda *_: None


def test_chunks_of_a_shard_are_asked_for_together(tmp_path: Path) -> None:
    write_stack_to_chunk(tmp_path / "s.ome.zarr", grey((16, 128, 32)), chunk=16, slices=16)
    with web_server(tmp_path) as server:
        volume = open_volume(f"{server.url}/s.ome.zarr", level=LEVEL)
        shard = volume.object_key((0, 0, 0))
        at_once, most = [0], [0]
        plain, lock = server.answer, threading.Lock()

        def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
            with lock:
                at_once[0] += path.endswith(shard)
                most[0] = max(most[0], at_once[0])
            time.sleep(0.1)
            with lock:
                at_once[0] -= path.endswith(shard)
            return plain(method, path, headers, body)

        server.answer = answer
        box = Box((1, 3, 2), (16, 125, 20))
        np.testing.assert_array_equal(volume.read(box), grey((16, 128, 32))[box.slices])
        assert most[0] >= 4


@pytest.mark.parametrize("where", ["local", "http", "s3"])
def test_conversion(world: World, layout: str, where: str, here: Callable[..., Finished], tmp_path: Path) -> None:
    for server in (world.web, world.bucket.server):
        server.clear()
        server.faults = first_tries(*FAULTS)
    location = world.address(layout.replace(" ", "-"), where)
    name = f"s{LEVEL}" if layout.startswith("N5") else str(LEVEL)
    done = here("convert", f"{location}/{name}", tmp_path / "copy.ome.zarr", "--quiet")
    assert done.code == 0, done
    copy = open_volume(str(tmp_path / "copy.ome.zarr"))
    assert copy.voxel_size == VoxelSize((SIZES.get(layout, UM),) * 3)
    np.testing.assert_array_equal(copy.read(copy.box), VOXELS)


def test_levels_and_identities(world: World, layout: str) -> None:
    where = world.address(layout.replace(" ", "-"), "local")
    volume = open_volume(where, level=LEVEL)
    array = f"{where}/{volume.array_path}"
    assert open_volume(array) == volume
    assert volume.level_count == (8 if layout == "OME-Zarr 0.4 of the atlas" else 5)
    with pytest.raises(InputError, match=rf"has no level 9; its levels are 0 to {volume.level_count - 1}"):
        open_volume(where, level=9)
    with pytest.raises(InputError):
        open_volume(where, level=0)  # it is named by the metadata, but not there
    assert volume.identity()["metadata_sha256"] == volume.metadata_sha256
    assert open_volume(where, level=LEVEL, voxel_size_um=(3, 2, 1)).voxel_size == VoxelSize((3, 2, 1))
