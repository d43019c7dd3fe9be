"""The links of a web server's index page: what a folder holds, where a server shows that as HTML."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Timer
from typing import Any, cast
from urllib.error import HTTPError
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from pipeline.errors import InputError

HEAD_BYTES = 1024
"""Of a page, by which it is told to be one; of anything else no more than the first part is read."""
LARGEST_PAGE = 64 << 20


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if tag == "a" and target:
            self.targets.append(target)


class NotInside(HTTPRedirectHandler):
    """Follows no redirect from a server elsewhere to this machine or to a link-local address."""

    def redirect_request(self, req: Request, *others: Any) -> Request | None:
        try:
            check_redirect(req.full_url, others[-1])
        except InputError:
            others[0].close()  # the answer
            raise
        return super().redirect_request(req, *others)


class _Line:
    """The connections of a request, which are cut when its time is over; a plain timeout begins anew with each byte."""

    def __init__(self) -> None:
        self.is_cut, self.twins = False, list[socket.socket]()

    def cut(self) -> None:
        """End them all, in whatever thread they are read."""
        self.is_cut = True
        for twin in self.twins:
            with contextlib.suppress(OSError):
                twin.shutdown(socket.SHUT_RDWR)

    def connection(self, kind: type[_Plain]) -> Callable[..., _Plain]:
        """Makes connections of this line."""

        def made(*arguments: Any, **options: Any) -> _Plain:
            connection = kind(*arguments, **options)
            connection.line = self
            return connection

        return made


class _Plain(HTTPConnection):
    line: _Line

    def connect(self) -> None:
        super().connect()
        self.line.twins.append(self.sock.dup())


class _Tls(HTTPSConnection, _Plain):
    """Its own `connect` calls that of `_Plain` before both ends agree on a key."""


class _Opener(HTTPSHandler, HTTPHandler):
    def __init__(self, line: _Line) -> None:
        super().__init__()
        self.line = line

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(self.line.connection(_Plain), req)

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(self.line.connection(_Tls), req)


@contextlib.contextmanager
def answered(request: Request, seconds: float) -> Iterator[HTTPResponse]:
    """The answer of a server, after redirects. Raises TimeoutError where all of it takes longer than some seconds."""
    line = _Line()
    timer = Timer(seconds, line.cut)
    timer.daemon = True
    timer.start()
    try:
        with cast(HTTPResponse, build_opener(NotInside, _Opener(line)).open(request, timeout=seconds)) as answer:
            yield answer
    finally:
        timer.cancel()
        for twin in line.twins:
            twin.close()
        if line.is_cut:
            raise TimeoutError(f"the answer was not complete within {seconds:g} s")


def check_redirect(url: str, target: str) -> None:
    """Raise InputError where a server elsewhere leads to this machine, or to services of its own network segment."""
    if is_inside(target) and not is_inside(url):
        raise InputError(
            f"{url} leads to an address inside of this machine or its network, which a server elsewhere may not do;"
            " give the address of the volume itself."
        )


def is_inside(url: str) -> bool:
    """Whether the host of an address is this machine, or link-local, as the metadata services of clouds are."""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname or "", None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return False
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    mapped = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
    return any(address.is_loopback or address.is_link_local or address.is_unspecified for address in mapped)


def check_leads(url: str, seconds: float) -> None:
    """Ask once where an address leads; raise InputError as `check_redirect` does. What else fails is told later."""
    if is_inside(url):
        return
    asking = answered(Request(url, method="HEAD"), seconds)  # noqa: S310  http(s)
    with contextlib.suppress(OSError, HTTPException), closing_errors(), asking:
        pass


@contextlib.contextmanager
def closing_errors() -> Iterator[None]:
    """Answers that are errors hold a connection."""
    try:
        yield
    except HTTPError as error:
        error.close()


def page_at(url: str, seconds: float) -> tuple[str, bytes]:
    """A page and where it lies, after redirects. Servers do not say the length of pages that they make up (chunked).

    Raises what urllib and http.client raise, and TimeoutError where all of it takes longer than some seconds.
    """
    size, parts = 0, []
    with answered(Request(url), seconds) as answer:  # noqa: S310  http(s)
        while part := answer.read1(2**16):
            size += len(part)
            parts.append(part)
            head_is_there = size >= HEAD_BYTES > size - len(part)
            if head_is_there and not _is_html(b"".join(parts)):  # who knows how much it is, and it is no page
                return answer.url, parts[0]
            if size > LARGEST_PAGE:
                raise InputError(f"{url} shows more than {LARGEST_PAGE >> 20} MiB of names; give a smaller folder.")
        if answer.length:
            raise ConnectionError(f"the page was cut, {answer.length:,} bytes are missing")
        return answer.url, b"".join(parts)


def _is_html(page: bytes) -> bool:
    start = page[:HEAD_BYTES].lstrip().lower()
    return start.startswith(b"<!doctype html") or b"<html" in start


def children(folder: str, page: bytes) -> list[str] | None:
    """Names of what lies in a folder, those of folders with a slash at their end; None where this is no HTML page.

    folder : the URL of the page. Links to elsewhere (the folder above, the order of the columns) do not count.
    """
    if not _is_html(page):
        return None
    links = _Links()
    links.feed(page.decode("utf-8", "replace"))
    base = urlsplit(folder.rstrip("/") + "/")
    names = []
    for target in links.targets:
        parts = urlsplit(urljoin(base.geturl(), target))
        path, within = unquote(parts.path), unquote(base.path)
        name = path.removeprefix(within)
        if parts.netloc != base.netloc or parts.query or not path.startswith(within) or name in ("", "./"):
            continue
        if "/" not in name.rstrip("/") and name not in names:
            names.append(name)
    return names
