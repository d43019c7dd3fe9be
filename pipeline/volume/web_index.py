"""The links of a web server's index page: what a folder holds, where a server shows that as HTML."""

from __future__ import annotations

from html.parser import HTMLParser
from http.client import HTTPResponse
from time import monotonic
from typing import cast
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import Request, urlopen

from pipeline.errors import InputError

LARGEST_PAGE = 64 << 20


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if tag == "a" and target:
            self.targets.append(target)


def page_at(url: str, seconds: float) -> tuple[str, bytes]:
    """A page and where it lies, after redirects. Servers do not say the length of pages that they make up (chunked).

    Raises what urllib and http.client raise, and TimeoutError where all of it takes longer than some seconds.
    """
    end, size, parts = monotonic() + seconds, 0, []
    with cast(HTTPResponse, urlopen(Request(url), timeout=seconds)) as answer:  # noqa: S310  http(s) is all we are given
        while part := answer.read1(2**16):
            size += len(part)
            parts.append(part)
            if size > LARGEST_PAGE:
                raise InputError(f"{url} shows more than {LARGEST_PAGE >> 20} MiB of names; give a smaller folder.")
            if monotonic() > end:
                raise TimeoutError(f"the page was not complete within {seconds:g} s")
        if answer.length:
            raise ConnectionError(f"the page was cut, {answer.length:,} bytes are missing")
        return answer.url, b"".join(parts)


def children(folder: str, page: bytes) -> list[str] | None:
    """Names of what lies in a folder, those of folders with a slash at their end; None where this is no HTML page.

    folder : the URL of the page. Links to elsewhere (the folder above, the order of the columns) do not count.
    """
    start = page[:1024].lstrip().lower()
    if not (start.startswith((b"<!doctype html", b"<html")) or b"<html" in start):
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
