"""Bytes out of local folders, a web server, S3 and memory: the same from each, with faults in between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.errors import InputError, StorageError
from pipeline.volume import patience
from pipeline.volume.stores import absolute_location, open_store
from tests.volume.servers import Bucket, Fault, Server, first_tries, folder, s3_bucket, web_server

CONTENT = {"a.bin": bytes(range(200)), "deep/er/b 1.bin": b"x" * 5000, "deep/empty": b""}
ODD = "50% of a%20b"
"""A name that an address holds as 50%25%20of%20a%2520b."""


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


@pytest.fixture(params=["local", "file", "http", "http, chunked", "s3", "memory"])
def location(request: pytest.FixtureRequest, files: Path) -> str:
    if request.param == "http, chunked":
        request.getfixturevalue("web").answer = folder(files, index=True, chunked=True)
    if request.param.startswith("http"):
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
    for place, key in (("", "a.bin"), ("deep", "deep/empty"), ("deep/er/", "deep/er/b 1.bin")):
        assert store.children(place, limit=1) == [(key.rpartition("/")[2], store.stat(key))]
        assert store.names(place, limit=1) == [key.rpartition("/")[2]]
    for place in ("nothing", "a.bin"):
        assert not store.children(place, limit=5)
        assert not store.names(place, limit=5)
    for asking in (store.children, store.names):
        with pytest.raises(InputError, match="deep/er holds more than 0 files"):
            asking("deep/er", limit=0)


def test_names_alone_cost_one_request_of_a_web_server(web: Server) -> None:
    assert open_store(web.url).names("deep", limit=9) == ["empty"]
    assert [request.method for request in web.requests] == ["GET"]


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
        with pytest.raises(
            StorageError, match="this server sends no parts of objects, and this one has 5,000 bytes; copy"
        ):
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


@pytest.mark.parametrize("key", ["a.bin", "deep/"])
def test_an_answer_that_stalls_midway(web: Server, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    def asked() -> int:
        return (
            len(open_store(web.url).get(key) or b"") if key == "a.bin" else len(list(open_store(web.url).list("deep")))
        )

    monkeypatch.setattr(patience, "READ_SECONDS", 0.5)
    web.faults = lambda _method, path, number: "stall" if path == key and number == 1 else None
    assert asked() == (200 if key == "a.bin" else 2)
    web.faults = lambda _method, path, _number: "stall" if path == key else None
    with pytest.raises(StorageError, match=r"cannot be read: the store did not answer within 0\.5 s"):
        asked()


def test_redirects_are_followed(web: Server, files: Path) -> None:
    """To another path, and to another server."""
    with web_server(files, index=True) as other:
        plain = web.answer

        def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
            for start, target in (("/moved/", "/"), ("/away/", f"{other.url}/")):
                if path.startswith(start):
                    return 302, {"Location": target + path.removeprefix(start)}, b""
            return plain(method, path, headers, body)

        web.answer = answer
        for place in ("moved", "away"):
            store = open_store(f"{web.url}/{place}")
            assert store.get("a.bin") == CONTENT["a.bin"]
            assert store.get("a.bin", 5, 9) == CONTENT["a.bin"][5:9]
            assert store.get("nothing") is None
            assert {key: stat.size for key, stat in store.list()} == {key: len(body) for key, body in CONTENT.items()}
        assert any(request.status == 206 for request in other.requests)


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


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("https://me:hush@example.org/v.zarr", "https://example.org/v.zarr: an address with a password"),
        ("https://hush@example.org/v.zarr", "https://example.org/v.zarr: an address with a password"),
        ("s3://KEY:hush@bucket/v.zarr", "s3://bucket/v.zarr: an address with a password"),
        ("zarr://s3a://KEY:hush@bucket/v.zarr", "s3://bucket/v.zarr: an address with a password"),
        ("sftp://me:hush@host/v.zarr", "sftp://host/v.zarr: an address with a password"),
        ("abfs://box@account/v.zarr?sig=hush", "abfs://account/v.zarr: an address with a password or a signature"),
        ("https://host/v.zarr?hush", "https://host/v.zarr: an address with a password or a signature"),
        ("simplecache::s3://KEY:hush@bucket/v.zarr", "simplecache::… is an address within an address"),
        ("zip://a::sftp://me:hush@host/a.zip", "zip::… is an address within an address"),
        ("sftp://me:hu/sh@host/v.zarr", "An address that begins with sftp:// cannot be understood"),
        ("http://[bad/x", "An address that begins with http:// cannot be understood"),
    ],
)
def test_an_address_with_a_secret_is_refused(given: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        absolute_location(given)
    assert words in str(caught.value)
    assert "hu" not in str(caught.value)
    assert "sh" not in str(caught.value).replace("should", "")


def test_odd_names_behind_the_web(tmp_path: Path) -> None:
    """Addresses are encoded, keys and the names in folders are not."""
    inside = tmp_path / ODD / ODD
    inside.mkdir(parents=True)
    (inside / f"{ODD}.bin").write_bytes(b"odd")
    encoded = quote(ODD)
    assert encoded == "50%25%20of%20a%2520b"
    with web_server(tmp_path, index=True, chunked=True) as server:
        at = f"{server.url}/{encoded}"
        for store, key in (
            (open_store(f"{at}/{encoded}/{encoded}.bin"), ""),
            (open_store(f"{at}/{encoded}"), f"{ODD}.bin"),
            (open_store(at), f"{ODD}/{ODD}.bin"),
        ):
            assert store.get(key) == store.get(key, 0, 3) == b"odd"
            assert store.stat(key) is not None
        assert [name for name, _ in open_store(at).children(ODD, limit=9)] == [f"{ODD}.bin"]
        assert [key for key, _ in open_store(server.url).list(ODD)] == [f"{ODD}/{ODD}/{ODD}.bin"]
        assert open_store(f"{server.url}/a b") is open_store(f"{server.url}/a%20b")


def test_files_of_credentials_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("none", None), ("bad", "{")):
        if content is not None:
            (tmp_path / name).write_text(content)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / name))
        with pytest.raises(
            InputError, match=rf"gs://bucket-{name} cannot be opened \(.*\); check the environment"
        ) as caught:
            open_store(f"gs://bucket-{name}")
        assert "\n" not in str(caught.value)


def test_an_object_of_unknown_length(web: Server, files: Path, pauses: list[float]) -> None:
    web.answer = lambda *_: (200, {"Transfer-Encoding": "chunked"}, b"made up")
    with pytest.raises(StorageError, match="does not say how long this object is"):
        open_store(web.url).get("a.bin")
    web.answer = folder(files, index=True, chunked=True)
    web.faults = lambda _method, path, number: "truncate" if path == "deep/" and number == 1 else None
    assert len(list(open_store(web.url).list())) == len(CONTENT)
    web.faults = lambda method, *_: 503 if method == "HEAD" else None
    with pytest.raises(StorageError, match=r"/a\.bin cannot be read: the server answered 503"):
        list(open_store(web.url).list())
    assert pauses == list(patience.PAUSES_SECONDS)
    web.faults = lambda *_: 403
    with pytest.raises(StorageError, match="permission denied"):
        list(open_store(web.url).list())


class Remembering(MemoryFileSystem):  # type: ignore[misc]
    """Keeps what it listed, as the file systems behind a network do."""

    protocol = "remembering"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("remembering://", "/")))

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True, **options)
        return self.dircache[path] if detail else [found["name"] for found in self.dircache[path]]

    def info(self, path: str, **_: Any) -> Any:
        path = self._strip_protocol(path)
        for found in self.ls(self._parent(path)):
            if found["name"] == path:
                return found
        raise FileNotFoundError(path)

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


def test_listings_are_never_those_of_before() -> None:
    fsspec.register_implementation("remembering", Remembering, clobber=True)
    files = Remembering()
    files.pipe("/dir/a", b"1")
    store = open_store("remembering://dir")
    for names in ("a", "ab", "abc"):
        files.pipe(f"/dir/{names[-1]}", b"1" * len(names))
        assert [name for name, _ in store.children(limit=9)] == list(names)
        assert sorted(key for key, _ in store.list()) == list(names)
        stat = store.stat(names[-1])
        assert stat is not None
        assert stat.size == len(names)


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
        ("https://host:80/a b/%63%25", "https://host:80/a%20b/c%25"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("abfs://container@account/a", "abfs://container@account/a"),
        ("sftp://me@host/a", "sftp://me@host/a"),
    ],
)
def test_addresses(given: str, meant: str) -> None:
    assert absolute_location(given) == absolute_location(meant) == meant
