"""Scheduler and worker as runs have them: they answer nobody without the credentials, or the token, of their run.

Dask's scheduler serves web pages to whoever reaches its port, and each worker has a web server of its own. Here a
worker has none, and the pages of the scheduler lie under a path that cannot be guessed; all else is not found.
"""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

import dask
from distributed import Scheduler, Worker
from tornado import httputil
from tornado.routing import Router

ROUTES = ("distributed.http.statics",)
"""Of Dask's routes beside the dashboard only style sheets and pictures: others show logs, arguments and stacks, or pass
requests on to other ports."""
PAGES = ("status", "tasks", "workers", "system", "groups")
"""What Dask's pages link to at their top."""


class ClosedWorker(Worker):
    """A worker without a web server."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Dask calls it for pages of health and metrics."""


class ClosedScheduler(Scheduler):
    """A scheduler whose web pages are for those who know their address. token : the first part of every path."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.token = secrets.token_urlsafe(16)
        with dask.config.set({"distributed.scheduler.http.routes": list(ROUTES)}):
            super().__init__(*arguments, **options, http_prefix=f"/{self.token}/")
        from distributed.dashboard.scheduler import template_variables  # takes a while, and workers need it not

        template_variables(self)["pages"][:] = PAGES

    def start_http_server(self, *arguments: Any, **options: Any) -> None:
        """As Dask does, with the gate before it: the loop that takes requests goes on after this."""
        super().start_http_server(*arguments, **options)  # type: ignore[no-untyped-call]
        self.http_server.request_callback = Gate(self.http_application, self.token)

    @property
    def link(self) -> str:
        """The address of the dashboard."""
        server: Any = self.http_server
        return f"http://127.0.0.1:{server.port}/{self.token}/status"


class Gate(Router):
    """Hands to an application what only looks, under the token, and from no other web page; all else is not found."""

    def __init__(self, application: Router, token: str) -> None:
        self._application = application
        self._token = token.encode()

    def find_handler(
        self, request: httputil.HTTPServerRequest, **options: Any
    ) -> httputil.HTTPMessageDelegate | None:  # fmt: skip
        """What answers a request; None for "not found"."""
        first, _, rest = request.path.removeprefix("/").partition("/")
        origin = request.headers.get("Origin")
        admitted = (
            request.method in ("GET", "HEAD")
            and secrets.compare_digest(first.encode(), self._token)
            and bool(rest)
            and (origin is None or urlsplit(origin).netloc == request.host)
        )
        return self._application.find_handler(request, **options) if admitted else None
