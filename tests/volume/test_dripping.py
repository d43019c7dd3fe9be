"""Servers that send a byte now and then, for ever: whatever is asked of them, it ends with a sentence, and in time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StorageError
from pipeline.geometry import Box
from pipeline.volume import patience
from pipeline.volume.opening import open_volume
from pipeline.volume.web_index import check_leads
from tests.volume.servers import wait_for
from tests.volume.stores import grey, write_ome_zarr

SECONDS = 0.6
"""In place of READ_SECONDS."""
FOR_EVER = 20.0
"""What drips ends after this many seconds, so that a test that fails ends, too."""


class Dripping:
    """A server of the files of a folder. Answers drip if `drips` says so of a path and of how often it was asked for.

    how : "length" (it says that 1000 bytes come), "chunked" (not how many), or "headers". open : so many drip now.
    """

    def __init__(self, folder: Path) -> None:
        self.drips: Callable[[str, int], bool] = lambda _path, _number: False
        self.how, self.open, self.stopped = "length", 0, threading.Event()
        outer, asked = self, Counter[str]()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked[self.path] += 1
                file = folder / self.path.lstrip("/")
                drips = outer.drips(self.path, asked[self.path])
                if not drips and not file.is_file():
                    self.send_error(404)
                    return
                self.send_response(200)
                content = b"" if drips else file.read_bytes()
                if drips and outer.how == "headers":
                    self.flush_headers()
                    outer.drip(self.wfile, b"x")
                    return
                if drips and outer.how == "chunked":
                    self.send_header("Transfer-Encoding", "chunked")
                else:
                    self.send_header("Content-Length", str(1000 if drips else len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)
                    if drips:
                        outer.drip(self.wfile, b"1\r\n \r\n" if outer.how == "chunked" else b" ")

            do_HEAD = do_GET  # noqa: N815  the server's names

            def log_message(self, *_: Any) -> None:
                return

        class Threads(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                return  # clients that gave up

        self.server = Threads(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def drip(self, body: Any, drop: bytes) -> None:
        end = time.monotonic() + FOR_EVER
        self.open += 1
        try:
            while time.monotonic() < end and not self.stopped.wait(SECONDS / 10):
                body.write(drop)
                body.flush()
        finally:
            self.open -= 1


@pytest.fixture
def dripping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dripping]:
    monkeypatch.setattr("pipeline.volume.patience.sleep", lambda _: None)
    monkeypatch.setattr(patience, "READ_SECONDS", SECONDS)
    write_ome_zarr(tmp_path / "image.ome.zarr", grey((3, 4, 4)))
    server = Dripping(tmp_path)
    yield server
    server.stopped.set()
    server.server.shutdown()
    server.server.server_close()


def check_ends(location: str) -> None:
    """One sentence, in the time of two tries of READ_SECONDS."""
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"the store did not answer within 0\.6 s; check the store") as caught:
        open_volume(location).read(Box((0, 0, 0), (3, 4, 4)))
    took = time.monotonic() - began
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    assert SECONDS < took < 2.8 * SECONDS


@pytest.mark.parametrize("how", ["length", "headers"])
@pytest.mark.parametrize("what", ["/c/", "zarr.json"])
def test_a_volume_of_which_something_drips(dripping: Dripping, what: str, how: str) -> None:
    dripping.drips, dripping.how = lambda path, _number: what in path, how
    check_ends(f"{dripping.url}/image.ome.zarr")


@pytest.mark.parametrize("after", [1, 2])
def test_a_document_that_drips_when_it_is_asked_for_again(dripping: Dripping, after: int) -> None:
    """By Zarr itself, which sets no limit."""
    dripping.drips = lambda path, number: path.endswith("zarr.json") and number > after
    check_ends(f"{dripping.url}/image.ome.zarr")


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.h5", "a.nii.gz"])
def test_a_file_that_drips(dripping: Dripping, name: str) -> None:
    dripping.drips = lambda path, _number: name in path
    check_ends(f"{dripping.url}/{name}")


@pytest.mark.parametrize("how", ["length", "headers", "chunked"])
def test_the_page_of_a_folder_that_drips(dripping: Dripping, how: str) -> None:
    dripping.drips, dripping.how = lambda path, _number: path == "/slices/", how
    check_ends(f"{dripping.url}/slices")
    wait_for(lambda: not dripping.open, 3 * SECONDS)  # else the thread that reads would keep the process from its end


def test_asking_where_an_address_leads_ends(dripping: Dripping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.volume.web_index.is_inside", lambda _url: False)
    dripping.drips, dripping.how = lambda _path, _number: True, "headers"
    began = time.monotonic()
    check_leads(f"{dripping.url}/image.ome.zarr", SECONDS)
    assert time.monotonic() - began < 2 * SECONDS
