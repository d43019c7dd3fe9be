"""A real web server and a real S3 API on 127.0.0.1, which fail as tests tell them and count what they send."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import html
import http.client
import http.server
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import boto3
import pytest
from moto.server import ThreadedMotoServer

Fault = int | float | str | None
"""An HTTP status (int), "drop" (the connection closes without an answer), "truncate" (half of the body, then the
connection closes), "half" (half of the body, as if it were all), "stall" (half of the body, then nothing more), or
seconds (float) that the answer is late."""
Faults = Callable[[str, str, int], Fault]
"""What goes wrong with a request: its method, its path without the leading slash, and which try it is, from 1."""
Headers = dict[str, str]
Answer = Callable[[str, str, Headers, bytes], tuple[int, Headers, bytes]]
"""From method, path with query, headers and body of a request to status, headers and body."""


def no_faults(_method: str, _path: str, _number: int) -> Fault:
    """Everything goes well."""
    return None


def first_tries(*faults: Fault) -> Faults:
    """The first GET of every path fails, with one fault after the other."""
    turns: dict[str, int] = {}

    def fault(method: str, path: str, number: int) -> Fault:
        if method != "GET" or number > 1:
            return None
        return faults[turns.setdefault(path, len(turns)) % len(faults)]

    return fault


@dataclass(frozen=True)
class Request:
    """What was asked, and how many bytes of body were sent."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int


class Server:
    """A server in a thread. `faults` may be exchanged at any time; `requests` lists everything asked so far."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.faults: Faults = no_faults
        self.requests: list[Request] = []
        self._tries: Counter[tuple[str, str]] = Counter()
        self._lock, self._stopped = threading.Lock(), threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                outer.handle(self)

            def __getattr__(self, name: str) -> Callable[[], None]:
                if name.startswith("do_"):
                    return self.handle_any
                raise AttributeError(name)

            def log_message(self, *_: object) -> None:
                return

        class Threads(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                return  # clients that gave up

        self._server = Threads(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def sent(self) -> int:
        """Bytes of all bodies."""
        return sum(request.sent for request in self.requests)

    def clear(self) -> None:
        """Forget what was asked."""
        self.requests.clear()
        self._tries.clear()

    def stop(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def handle(self, client: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request, or fail as told."""
        path = unquote(urlsplit(client.path).path).lstrip("/")
        asked = client.rfile.read(int(client.headers.get("Content-Length") or 0))
        with self._lock:
            self._tries[client.command, path] += 1
            fault = self.faults(client.command, path, self._tries[client.command, path])
        if isinstance(fault, float):
            self._stopped.wait(fault)
        if fault == "drop":
            status, headers, body = 0, {}, b""
        elif isinstance(fault, int) and not isinstance(fault, bool):
            status, headers, body = fault, {"Content-Type": "text/plain"}, f"{fault} on purpose".encode()
        else:
            status, headers, body = self.answer(client.command, client.path, dict(client.headers.items()), asked)
        length = len(body)
        if headers.get("Transfer-Encoding") == "chunked":  # the server does not say how long it is
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:100], body[100:]) if part)
            body += b"0\r\n\r\n"
        if fault in ("truncate", "half", "stall"):
            body = body[: length // 2]
        if client.command == "HEAD":
            body = b""
        with self._lock:
            self.requests.append(Request(client.command, path, client.headers.get("Range"), status, len(body)))
        if status:
            client.send_response(status)
            if "Transfer-Encoding" not in headers:
                headers["Content-Length"] = headers.get("Content-Length", str(len(body) if fault == "half" else length))
            for name, value in headers.items():
                client.send_header(name, value)
            client.end_headers()
            client.wfile.write(body)
            client.wfile.flush()
        if fault == "stall":
            self._stopped.wait(60)
        if fault in ("drop", "truncate", "stall"):
            client.close_connection = True


def folder(
    root: Path, *, index: bool = False, chunked: bool = False, ranges: bool = True, marks: bool = True
) -> Answer:
    """A plain web server of a folder.

    index : it shows what folders hold; chunked : without saying how long that is. marks : it sends ETags.
    """

    def answer(method: str, path: str, headers: Headers, _body: bytes) -> tuple[int, Headers, bytes]:
        file = root / unquote(urlsplit(path).path).lstrip("/")
        if method not in ("GET", "HEAD"):
            return 405, {}, b""
        if file.is_dir() and index:
            names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in file.iterdir())
            links = "".join(f'<li><a href="{quote(name)}">{html.escape(name)}</a></li>' for name in names)
            page = f'<!DOCTYPE html><html><body><a href="../">..</a><a href="?C=M">date</a>{links}</body></html>'
            base = urlsplit(path).path.rstrip("/") + "/"
            length: Headers = {"Transfer-Encoding": "chunked"} if chunked else {}
            return (200, length, page.encode()) if path.endswith("/") else (301, {"Location": base}, b"")
        if not file.is_file():
            return 404, {}, b"not here"
        content, found = file.read_bytes(), file.stat()
        own = {"Last-Modified": email.utils.formatdate(found.st_mtime, usegmt=True)}
        if marks:
            own["ETag"] = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
            if headers.get("If-None-Match", headers.get("if-none-match")) == own["ETag"]:
                return 304, own, b""
        since = headers.get("If-Modified-Since", headers.get("if-modified-since"))
        if since and int(found.st_mtime) <= email.utils.parsedate_to_datetime(since).timestamp():
            return 304, own, b""
        if ranges:
            own["Accept-Ranges"] = "bytes"
        wanted = headers.get("Range", headers.get("range")) if ranges else None
        if wanted and method == "GET":
            first, last = wanted.removeprefix("bytes=").split("-")
            start = int(first) if first else max(0, len(content) - int(last))
            stop = min(len(content), int(last) + 1) if first and last else len(content)
            if start >= len(content):
                return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
            return 206, own | {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}, content[start:stop]
        return 200, own, content

    return answer


def upstream(url: str) -> Answer:
    """What another server answers: in front of it, this one brings its faults and counts."""
    place = urlsplit(url)

    def answer(method: str, path: str, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        try:
            connection.request(method, path, body=body or None, headers=headers)
            reply = connection.getresponse()
            dropped = ("transfer-encoding", "connection", "server", "date")
            own = {name: value for name, value in reply.getheaders() if name.lower() not in dropped}
            content = reply.read()
            if method != "HEAD":
                own = {name: value for name, value in own.items() if name.lower() != "content-length"}
            return reply.status, own, content
        finally:
            connection.close()

    return answer


@contextlib.contextmanager
def web_server(root: Path, **options: Any) -> Iterator[Server]:
    """A folder behind a web server; options as of `folder`."""
    server = Server(folder(root, **options))
    try:
        yield server
    finally:
        server.stop()


@dataclass(frozen=True)
class Bucket:
    """A bucket of S3 behind a server that brings faults. url : s3://NAME. Everyone may read and list."""

    server: Server
    name: str
    client: Any
    access: str = "public-read"

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def upload(self, source: Path, prefix: str) -> str:
        """Copy a folder or file; the address it has then."""
        for file in [source] if source.is_file() else [path for path in sorted(source.rglob("*")) if path.is_file()]:
            inside = file.relative_to(source).as_posix()
            key = prefix if inside == "." else f"{prefix}/{inside}"
            self.client.put_object(Bucket=self.name, Key=key, Body=file.read_bytes(), ACL=self.access)
        return f"{self.url}/{prefix}"

    def delete(self) -> None:
        """The bucket with all that is in it."""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name):
            for found in page.get("Contents", ()):
                self.client.delete_object(Bucket=self.name, Key=found["Key"])
        self.client.delete_bucket(Bucket=self.name)


@contextlib.contextmanager
def s3_bucket(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Bucket]:
    """An empty bucket behind moto's S3 API, as the environment of this process and its children describes it.

    home : an empty folder in place of the user's, who may have credentials.
    """
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    server = Server(upstream(f"http://{host}:{port}"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106  moto takes any
    )
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name, ACL="public-read")
    try:
        yield Bucket(server, name, client)
    finally:
        client.close()
        server.stop()
        moto.stop()


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Until something is so; an assertion where it never is."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
