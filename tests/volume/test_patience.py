"""Stores that fail for a moment, are slow or hang: read after all, or given up with a sentence."""

from __future__ import annotations

import errno
import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import StorageError
from pipeline.volume import patience
from pipeline.volume.opening import open_volume
from pipeline.volume.remote import QUICK_PAUSES_SECONDS
from pipeline.volume.stores import LinkedStore
from tests.volume.stores import grey, write_ome_zarr


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No test waits; how long a person would have waited is kept."""
    waited: list[float] = []
    monkeypatch.setattr("pipeline.volume.patience.sleep", waited.append)
    return waited


SHAPE = (3, 4, 4)
"""Of one chunk."""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    write_ome_zarr(tmp_path / "image.ome.zarr", grey(SHAPE))
    return tmp_path / "image.ome.zarr"


class Failing:
    """The local store, whose reads of chunks fail so many times with an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, error: OSError) -> None:
        plain, self.tries = LinkedStore.get, 0

        async def get(store: Any, key: str, *arguments: Any, **options: Any) -> Any:
            if "/c/" in key:
                self.tries += 1
                if self.tries <= times:
                    raise error
            return await plain(store, key, *arguments, **options)

        monkeypatch.setattr(LinkedStore, "get", get)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN])
def test_an_error_that_passes(volume: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float], number: int) -> None:
    opened = open_volume(str(volume))
    Failing(monkeypatch, 3, OSError(number, "not now"))
    assert np.array_equal(opened.read(opened.box), grey(SHAPE))
    assert pauses == list(patience.PAUSES_SECONDS)


def test_an_error_that_does_not_pass(volume: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    opened = open_volume(str(volume))
    Failing(monkeypatch, 10**6, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(StorageError, match=r"cannot be read: Input/output error \(stored object 0/c/0/0/0\)"):
        opened.read(opened.box)
    assert pauses == list(patience.PAUSES_SECONDS)


def test_what_waiting_cannot_mend_is_not_tried_again(
    volume: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    opened = open_volume(str(volume))
    Failing(monkeypatch, 10**6, PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(StorageError, match="permission denied"):
        opened.read(opened.box)
    assert not pauses


Answer = Callable[[http.server.SimpleHTTPRequestHandler, int], bool]


@pytest.fixture
def served(volume: Path) -> Iterator[Callable[[Answer], str]]:
    """The volume behind a real HTTP server. A test gives what is done before a chunk is sent, and with which try."""
    servers = []

    def serve(answer: Answer) -> str:
        tries = iter(range(1, 10**6))

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                if "/c/" not in self.path or answer(self, next(tries)):
                    super().do_GET()

            def log_message(self, *_: object) -> None:
                return

        handler = functools.partial(Handler, directory=str(volume.parent))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/{volume.name}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_server_that_is_overloaded_for_a_while(served: Callable[[Answer], str], pauses: list[float]) -> None:
    quick_tries = 1 + len(QUICK_PAUSES_SECONDS)

    def answer(handler: http.server.SimpleHTTPRequestHandler, number: int) -> bool:
        if number <= 2 * quick_tries:
            handler.send_error(503)
        return number > 2 * quick_tries

    opened = open_volume(served(answer))
    assert np.array_equal(opened.read(opened.box), grey(SHAPE))
    assert pauses == list(patience.PAUSES_SECONDS[:2])


def test_a_server_that_hangs_once(
    served: Callable[[Answer], str], pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()

    def answer(_handler: http.server.SimpleHTTPRequestHandler, number: int) -> bool:
        return number > 1 or done.wait(60)

    opened = open_volume(served(answer))
    monkeypatch.setattr(patience, "READ_SECONDS", 3.0)
    assert np.array_equal(opened.read(opened.box), grey(SHAPE))
    done.set()
    assert pauses == [patience.PAUSES_SECONDS[0]]


def test_a_server_that_hangs_for_ever(served: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    opened = open_volume(served(lambda _handler, _number: done.wait(60)))
    monkeypatch.setattr(patience, "READ_SECONDS", 0.3)
    with pytest.raises(StorageError, match=r"cannot be read: the store did not answer within 0\.3 s; check the store"):
        opened.read(opened.box)
    done.set()
