"""The cache of remote stores: nothing is sent twice, nothing stale is served, and it stays small and private."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import diskcache
import numpy as np
import pytest
from distributed import Client

from pipeline.errors import InputError, StorageError
from pipeline.volume import cache as caching
from pipeline.volume.opening import open_volume
from pipeline.volume.stores import open_store
from tests.volume.layouts import LEVEL, write_stack_to_chunk
from tests.volume.servers import Bucket, Server, s3_bucket, web_server
from tests.volume.stores import grey, write_ome_zarr
from tests.workflows.runs import ROOT, environment, started_scheduler, voxcaliper

VOXELS = grey((12, 12, 12))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own cache for each test."""
    monkeypatch.setenv("VOXCALIPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VOXCALIPER_CACHE_SIZE", "64 MiB")
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    write_ome_zarr(root / "image.ome.zarr", VOXELS)
    write_stack_to_chunk(root / "shards.ome.zarr", VOXELS, chunk=4, slices=8)
    return root


@pytest.fixture(params=["etags", "s3"])
def served(
    request: pytest.FixtureRequest, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Server, str, Callable[[], None]]]:
    """A server of the files, their address, and what brings changes there."""
    if request.param == "s3":
        with s3_bucket(monkeypatch, tmp_path / "home") as bucket:
            yield bucket.server, bucket.url, lambda: _upload(bucket, files)
    else:
        with web_server(files) as server:
            yield server, server.url, lambda: None


def _upload(bucket: Bucket, files: Path) -> None:
    for store in files.iterdir():
        bucket.upload(store, store.name)


def made_long_ago(root: Path, seconds: int = 3600) -> None:
    for path in root.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize(("name", "level"), [("image.ome.zarr", 0), ("shards.ome.zarr", LEVEL)])
def test_nothing_is_sent_twice(
    served: tuple[Server, str, Callable[[], None]], files: Path, name: str, level: int, folder: Path
) -> None:
    server, url, publish = served
    made_long_ago(files)
    publish()
    volume = open_volume(f"{url}/{name}", level=level)
    assert np.array_equal(volume.read(volume.box), VOXELS)
    assert folder.stat().st_mode & 0o777 == 0o700
    server.clear()
    assert np.array_equal(volume.read(volume.box), VOXELS)
    assert server.requests
    assert server.sent == 0
    assert {request.status for request in server.requests if request.method == "GET"} == {304}


def test_what_changed_is_never_stale(served: tuple[Server, str, Callable[[], None]], files: Path) -> None:
    server, url, publish = served
    path = files / "image.ome.zarr" / "0" / "c" / "0" / "0" / "0"
    made_long_ago(files)
    publish()
    store = open_store(f"{url}/image.ome.zarr/0")
    for number, seconds in enumerate((3600, 3000, 100, 1, 0, 0)):
        content = bytes([number]) * path.stat().st_size
        path.write_bytes(content)
        os.utime(path, (time.time() - seconds,) * 2)
        publish()
        for _ in range(3):
            assert store.get("c/0/0/0") == content
            assert store.get("c/0/0/0", 2, 9) == content[2:9]
    path.unlink()
    if url.startswith("http"):
        assert store.get("c/0/0/0") is None
    assert {request.status for request in server.requests} >= {200, 206}


def test_a_time_is_no_mark(files: Path, folder: Path) -> None:
    """An object that is replaced by one with an older time has not been modified since, says its server."""
    path = files / "image.ome.zarr" / "0" / "c" / "0" / "0" / "0"
    made_long_ago(files)
    with web_server(files, marks=False) as server:
        store = open_store(f"{server.url}/image.ome.zarr/0")
        assert store.get("c/0/0/0") == path.read_bytes()
        path.write_bytes(b"older")
        os.utime(path, (time.time() - 7200,) * 2)
        assert store.get("c/0/0/0") == b"older"
        assert {request.status for request in server.requests} == {200}
    assert not list(folder.rglob("*.val"))


def test_processes_share_it(files: Path) -> None:
    read = "import sys; from pipeline.volume.opening import open_volume; v = open_volume(sys.argv[1]); v.read(v.box)"
    with web_server(files) as server:
        for sent in (True, False):
            server.clear()
            subprocess.run(
                [sys.executable, "-c", read, f"{server.url}/image.ome.zarr"], cwd=ROOT, env=environment(), check=True
            )
            assert any(request.status == 200 for request in server.requests) == sent


def test_it_stays_within_its_size(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXCALIPER_CACHE_SIZE", "2 MiB")
    root = tmp_path / "objects"
    root.mkdir()
    noise = np.random.default_rng(0).bytes(100_000)
    for number in range(60):
        (root / str(number)).write_bytes(noise)
    (root / "large").write_bytes(noise * 2)
    with web_server(root) as server:
        store = open_store(server.url)
        for number in range(60):
            assert store.get(str(number)) == noise
            assert store.get("0") == noise  # used all the time, so it stays
            assert sum(path.stat().st_size for path in folder.rglob("*.val")) <= 2 * 2**20 + 100_000
        server.clear()
        for key in ("0", "59", "1", "large", "large"):
            store.get(key)
        assert [request.status for request in server.requests] == [304, 304, 200, 200, 200]


def test_a_folder_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    monkeypatch.setenv("VOXCALIPER_CACHE", str(tmp_path / "open"))
    with pytest.raises(StorageError, match=r"open is not a folder of this user alone \(mode 0700\).*VOXCALIPER_CACHE"):
        caching.cache()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VOXCALIPER_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"The cache .*/file cannot be used"):
        caching.cache()


def test_a_damaged_entry_is_read_again(files: Path, folder: Path) -> None:
    with web_server(files) as server:
        store = open_store(f"{server.url}/image.ome.zarr")
        (files / "image.ome.zarr" / "big").write_bytes(b"content " * 10_000)
        assert store.get("big") == b"content " * 10_000
        for damage in (lambda body: body[:5000] + b"?" + body[5001:], lambda body: body[:5000], lambda _: b""):
            (kept,) = [path for path in folder.rglob("*.val") if path.stat().st_size > 80_000]
            kept.write_bytes(damage(kept.read_bytes()))
            assert store.get("big") == b"content " * 10_000
        assert {request.status for request in server.requests} == {200}


def test_it_can_be_turned_off(files: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXCALIPER_CACHE_SIZE", "0")
    with web_server(files) as server:
        for _ in range(2):
            assert open_store(server.url).get("image.ome.zarr/zarr.json")
        assert {request.status for request in server.requests} == {200}
    assert not folder.exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("20 GiB", 20 << 30), ("20GiB", 20 << 30), ("1.5 MB", 1_500_000), ("4096", 4096), ("0", 0), ("2 TiB", 2 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert caching.amount(text) == size


def test_a_size_that_is_none() -> None:
    with pytest.raises(InputError, match=r"VOXCALIPER_CACHE_SIZE is 'much', which is no amount; write \"20 GiB\""):
        caching.amount("much")


@pytest.mark.parametrize("kind", ["local", "scheduler"])
def test_a_profile_says_where_it_is(
    kind: str, files: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver and its workers, and workers that run already: these forget it when the run ends."""
    for variable in ("VOXCALIPER_CACHE", "VOXCALIPER_CACHE_SIZE"):
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv("CACHES", str(tmp_path / "caches"))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(web_server(files))
        workers = "workers = 1"
        if kind == "scheduler":
            running = stack.enter_context(started_scheduler(tmp_path / "scheduler", workers=1))
            workers = f'address = "{running.address}"\nunencrypted = true'
        profile = tmp_path / "profile.toml"
        profile.write_text(f'kind = "{kind}"\n{workers}\ncache = "$CACHES/of-it"\ncache_size = "1 GiB"\n')
        done = voxcaliper(
            tmp_path / "log", "thickness", f"{server.url}/image.ome.zarr", "--run", tmp_path / "run", "--threshold",
            500, "--profile", profile, "--quiet",
        )  # fmt: skip
        assert done.code == 0, done
        chunks = {request.path for request in server.requests if "/0/c/" in request.path}
        kept = diskcache.Cache(str(tmp_path / "caches" / "of-it"))
        assert len(chunks) == 27
        assert {name.split(" ")[-2].removeprefix(f"{server.url}/") for name in kept if "/0/c/" in name} == chunks
        kept.close()
        if kind == "scheduler":
            with Client(running.address) as client:
                assert set(client.run(lambda: os.environ["VOXCALIPER_CACHE_SIZE"]).values()) == {"0"}
    assert not folder.exists()
