"""Bytes out of local folders, a web server, S3 and memory: the same from each, with faults in between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import InputError, StorageError
from pipeline.volume import patience
from pipeline.volume.stores import absolute_location, open_store
from tests.volume.servers import Bucket, Fault, Server, first_tries, s3_bucket, web_server

CONTENT = {"a.bin": bytes(range(200)), "deep/er/b 1.bin": b"x" * 5000, "deep/empty": b""}


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No test waits long; how long a person would have waited is kept."""
    waited: list[float] = []
    monkeypatch.setattr("pipeline.volume.patience.sleep", waited.append)
    monkeypatch.setattr("pipeline.volume.remote.QUICK_PAUSES_SECONDS", (0.0, 0.0))
    return waited


@pytest.fixture
def files(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    for key, content in CONTENT.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(content)
    return root


@pytest.fixture
def web(files: Path) -> Iterator[Server]:
    with web_server(files, index=True) as server:
        yield server


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    with s3_bucket(monkeypatch, tmp_path) as made:
        yield made


@pytest.fixture(params=["local", "file", "http", "s3", "memory"])
def location(request: pytest.FixtureRequest, files: Path) -> str:
    if request.param == "http":
        return str(request.getfixturevalue("web").url)
    if request.param == "s3":
        return str(request.getfixturevalue("bucket").upload(files, "some/where"))
    if request.param == "memory":
        url = f"memory://{files.parent.name}/files"
        for key, content in CONTENT.items():
            with fsspec.open(f"{url}/{key}", "wb") as file:
                file.write(content)
        return url
    return str(files) if request.param == "local" else f"file://{files}"


def test_the_same_bytes_from_everywhere(location: str) -> None:
    store = open_store(location)
    assert store is open_store(location + "/")
    for key, content in CONTENT.items():
        assert store.get(key) == content
        stat = store.stat(key)
        assert stat is not None
        assert stat.size == len(content)
        assert stat.etag or stat.modified
    assert store.get("a.bin", 10, 20) == CONTENT["a.bin"][10:20]
    assert store.get("a.bin", 150) == CONTENT["a.bin"][150:]
    assert store.get("a.bin", 0, 7) == CONTENT["a.bin"][:7]
    assert store.get("nothing") is None
    assert store.get("nothing", 3, 4) is None
    assert store.stat("nothing") is None
    assert store.stat("a.bin/deeper") is None
    assert {key: stat.size for key, stat in store.list()} == {key: len(content) for key, content in CONTENT.items()}
    assert {key for key, _ in store.list("deep")} == {"deep/er/b 1.bin", "deep/empty"}
    assert all(store.stat(key) == stat for key, stat in store.list())


def test_what_lies_in_a_folder_itself(location: str) -> None:
    store = open_store(location)
    for folder, key in (("", "a.bin"), ("deep", "deep/empty"), ("deep/er/", "deep/er/b 1.bin")):
        assert store.children(folder, limit=1) == [(key.rpartition("/")[2], store.stat(key))]
    for folder in ("nothing", "a.bin"):
        assert store.children(folder, limit=5) == []
    with pytest.raises(InputError, match="deep/er holds more than 0 files"):
        store.children("deep/er", limit=0)


def test_a_file_is_a_location_of_its_own(location: str) -> None:
    store = open_store(f"{location}/a.bin")
    assert store.get("") == CONTENT["a.bin"]
    assert store.get("", 5, 9) == CONTENT["a.bin"][5:9]
    stat = store.stat("")
    assert stat is not None
    assert stat.size == 200
    assert open_store(f"{location}/nothing").get("") is None


def test_a_changed_object_has_another_mark(location: str, files: Path, request: pytest.FixtureRequest) -> None:
    store = open_store(location)
    before = store.stat("a.bin")
    changed = bytes(199) + b"!"
    if location.startswith("memory"):
        with fsspec.open(f"{location}/a.bin", "wb") as file:
            file.write(changed)
    elif location.startswith("s3"):
        bucket: Bucket = request.getfixturevalue("bucket")
        bucket.client.put_object(Bucket=bucket.name, Key="some/where/a.bin", Body=changed, ACL=bucket.access)
    else:
        (files / "a.bin").write_bytes(changed)
    assert store.stat("a.bin") != before
    assert store.get("a.bin") == changed


FAULTS: list[Fault] = [500, 503, 429, "drop", "truncate"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("tries", [2, 5])
def test_what_passes_is_tried_again(web: Server, pauses: list[float], fault: Fault, tries: int) -> None:
    web.faults = lambda _method, _path, number: fault if number <= tries else None
    store = open_store(web.url)
    assert store.get("a.bin") == CONTENT["a.bin"]
    assert store.get("a.bin", 5, 50) == CONTENT["a.bin"][5:50]
    assert len([request for request in web.requests if request.path == "a.bin"]) == tries + 2
    if fault == "drop":  # of a connection that it used before, the client itself tries again
        assert len(pauses) <= tries // 3
    else:
        assert len(pauses) == tries // 3


def test_listing_goes_on_where_it_was_cut(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.volume.stores.PAGE", 7)
    many = tmp_path / "many"
    many.mkdir()
    for number in range(40):
        (many / f"{number:03d}").write_bytes(b"." * number)
    location = bucket.upload(many, "many")
    bucket.server.faults = first_tries(503)
    assert [(key, stat.size) for key, stat in open_store(location).list()] == [(f"{n:03d}", n) for n in range(40)]


def test_no_page_of_a_listing_is_lost_after_a_time_limit(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late answer comes while the listing is asked for again."""
    monkeypatch.setattr("pipeline.volume.stores.PAGE", 7)
    many = tmp_path / "many"
    many.mkdir()
    for number in range(40):
        (many / f"{number:03d}").write_bytes(b".")
    location, late = bucket.upload(many, "late"), iter([1.0])
    bucket.server.faults = lambda *_: next(late, None)
    monkeypatch.setattr(patience, "READ_SECONDS", 0.7)
    assert [key for key, _ in open_store(location).list()] == [f"{n:03d}" for n in range(40)]


def test_a_read_that_took_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "READ_SECONDS", 0.1)
    ended = threading.Event()

    async def hanging() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(TimeoutError, match=r"did not answer within 0\.1 s"):
        patience.within_time(hanging())
    assert ended.is_set()


def test_a_bucket_that_is_not_there(bucket: Bucket) -> None:
    store = open_store(f"{bucket.url}-not")
    for asking in (lambda: store.get("a"), lambda: list(store.list()), lambda: store.children(limit=5)):
        with pytest.raises(StorageError, match="the bucket does not exist"):
            asking()


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_pass_is_said_with_its_address(web: Server, pauses: list[float], fault: Fault) -> None:
    web.faults = lambda *_: fault
    with pytest.raises(StorageError) as caught:
        open_store(web.url).get("a.bin")
    assert str(caught.value).startswith(f"{web.url}/a.bin cannot be read: the ")
    assert ("connection failed" if isinstance(fault, str) else f"server answered {fault}") in str(caught.value)
    assert pauses == list(patience.PAUSES_SECONDS)


@pytest.mark.parametrize("status", [401, 403])
def test_no_permission(web: Server, bucket: Bucket, pauses: list[float], status: int) -> None:
    web.faults = bucket.server.faults = lambda *_: status
    with pytest.raises(StorageError, match=r"a\.bin cannot be read: permission denied \(give credentials in the env"):
        open_store(web.url).get("a.bin")
    with pytest.raises(StorageError, match=r"permission denied .*buckets say this of a missing object, too"):
        open_store(bucket.url).stat("a.bin")
    assert not pauses


def test_what_s3_keeps_private(bucket: Bucket) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="private", Body=b"mine", ACL="private")
    with pytest.raises(StorageError, match=r"/private cannot be read: permission denied"):
        open_store(bucket.url).get("private")
    with pytest.raises(StorageError, match=r"/private cannot be read: permission denied"):
        open_store(bucket.url).stat("private")


def test_a_large_object_of_a_server_without_ranges_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.volume.remote.LARGEST_WHOLE", 1000)
    with web_server(files, ranges=False) as server:
        store = open_store(server.url)
        assert store.get("a.bin", 3, 5) == CONTENT["a.bin"][3:5]
        with pytest.raises(StorageError, match="the server sends no parts of objects, and this one has 5,000 bytes"):
            store.get("deep/er/b 1.bin", 3, 5)


def test_a_client_error_is_not_tried_again(web: Server, pauses: list[float]) -> None:
    web.faults = lambda *_: 410
    with pytest.raises(StorageError, match="the server answered 410 Gone"):
        open_store(web.url).get("a.bin")
    assert (len(web.requests), pauses) == (1, [])


def test_a_slow_server(web: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "READ_SECONDS", 0.2)
    web.faults = lambda _method, _path, number: 60.0 if number == 1 else None
    assert open_store(web.url).get("a.bin") == CONTENT["a.bin"]
    web.faults = lambda *_: 60.0
    with pytest.raises(StorageError, match=r"a\.bin cannot be read: the store did not answer within 0\.2 s"):
        open_store(web.url).get("a.bin")


def test_nobody_there(pauses: list[float]) -> None:
    with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:9/a cannot be read: the connection failed"):
        open_store("http://127.0.0.1:9").get("a")
    assert pauses == list(patience.PAUSES_SECONDS)


def test_a_web_server_without_ranges_and_index(files: Path) -> None:
    with web_server(files, ranges=False) as server:
        store = open_store(server.url)
        assert store.get("a.bin", 5, 9) == CONTENT["a.bin"][5:9]
        assert store.get("a.bin", 190) == CONTENT["a.bin"][190:]
        assert not store.can_list
        with pytest.raises(InputError, match="does not show what the folder holds; give the address of"):
            list(store.list())


def test_credentials_of_the_environment_sign(bucket: Bucket, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[bool] = []
    plain = bucket.server.answer

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        signed.append(any(name.lower() == "authorization" for name in headers))
        return plain(method, path, headers, body)

    bucket.server.answer = answer
    assert open_store(bucket.upload(files, "anonymous")).get("a.bin") == CONTENT["a.bin"]
    assert signed == [False]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    assert open_store(bucket.upload(files, "signed")).get("a.bin") == CONTENT["a.bin"]
    assert signed == [False, True]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    login = Path.home() / ".aws" / "credentials"
    login.parent.mkdir()
    login.write_text("[lab]\naws_access_key_id = me\naws_secret_access_key = hush\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert open_store(bucket.upload(files, "profile")).get("a.bin") == CONTENT["a.bin"]
    assert signed == [False, True, True]


def test_an_address_with_a_password_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        open_store("https://me:hush@example.org/volume.zarr")
    assert "https://example.org/volume.zarr: an address with a password" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_gcs_speaks_to_its_endpoint(files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Anonymous GCS is the folder of the bucket on a web server; a login of this machine must not count."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with web_server(files.parent) as server:
        monkeypatch.setenv("GOOGLE_BASE_URL", server.url)
        store = open_store("gs://files/deep")
        assert store.get("er/b 1.bin") == b"x" * 5000
        assert store.get("nothing") is None


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("n5://gs://bucket/a/b/", "gs://bucket/a/b"),
        ("zarr://gs://bucket/a.ome.zarr/", "gs://bucket/a.ome.zarr"),
        ("gcs://bucket/a", "gs://bucket/a"),
        ("s3a://bucket/a", "s3://bucket/a"),
        ("file:///data/a%20b", "/data/a b"),
        ("n5:///data/a", "/data/a"),
        ("https://host/a/", "https://host/a"),
    ],
)
def test_addresses(given: str, meant: str) -> None:
    assert absolute_location(given) == meant
