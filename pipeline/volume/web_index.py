"""The links of a web server's index page: what a folder holds, where a server shows that as HTML."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if tag == "a" and target:
            self.targets.append(target)


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
