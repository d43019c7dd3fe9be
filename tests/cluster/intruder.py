"""Another user of this machine, who tries what he can: run as root, it takes a task and becomes that user.

Whatever it needs is imported before, so that nothing fails for want of a library that the user may not read.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import psutil
from distributed.core import rpc
from distributed.security import Security

USER = 65534
PATHS = (
    "/", "/status", "/sitemap.json", "/info", "/info/main/workers.html", "/info/main/logs.html", "/json/identity.json",
    "/json/counts.json", "/metrics", "/health", "/sysview", "/individual-plots.json", "/individual-progress",
    "/eventstream", "/proxy/80/127.0.0.1/", "/statics/css/base.css", "/status/ws", "/static/js/bokeh.min.js",
    "/api/v1/retire_workers", "/..%2f..%2fstatus", "//status",
)  # fmt: skip
SECONDS = 10


async def asked(address: str, security: Security) -> Any:
    """What a server of Dask says of itself, or how it refuses."""
    try:
        arguments = security.get_connection_args("client")
        async with rpc(address, connection_args=arguments, timeout=SECONDS) as server:
            return await asyncio.wait_for(server.identity(), SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        return f"refused: {type(error).__name__}"


async def ask_all(ports: list[int]) -> dict[str, Any]:
    """Every port, in plain and with credentials of one's own."""
    others: Any = Security.temporary()
    with_own = {f"tls://127.0.0.1:{port}": others for port in ports}
    plain: Any = Security(require_encryption=False)
    ways = {f"tcp://127.0.0.1:{port}": plain for port in ports} | with_own
    answers = await asyncio.gather(*(asked(address, security) for address, security in ways.items()))
    return dict(zip(ways, answers, strict=True))


def requested(port: int, path: str, method: str = "GET") -> int | str:
    """The status of an answer to a request without the token."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        headers = {"Upgrade": "websocket", "Connection": "Upgrade"} if path.endswith("ws") else {}
        connection.request(method, path, headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def shaken(port: int) -> str:
    """How a port takes a TLS connection without a certificate: "open" where it talks on."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.recv(1)
    except (OSError, TimeoutError) as error:
        return type(error).__name__
    return "open"


def readable(folder: Path) -> dict[str, bytes]:
    """Every file below a folder that lets itself be read."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found[os.path.join(place, name)] = Path(place, name).read_bytes()
            except OSError:
                continue
    return found


def told_by_processes(processes: list[int]) -> dict[str, bytes]:
    """What the system tells of processes to this user."""
    found = {}
    for process in processes:
        for name in ("environ", "cmdline", "maps", "fd/0"):
            try:
                found[f"{process}/{name}"] = Path(f"/proc/{process}/{name}").read_bytes()
            except OSError:
                continue
    return found


def intrude(task: dict[str, Any]) -> dict[str, Any]:
    """Try everything. task : ports, processes, folders, and secrets to look for in all that can be read."""
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
    seen = told_by_processes(task["processes"])
    for folder in task["folders"]:
        seen |= readable(Path(folder))
    return {
        "user": os.getuid(),
        "asked": asyncio.run(ask_all(task["ports"])),
        "requested": {
            f"{method} {port} {path}": requested(port, path, method)
            for port in task["web_ports"]
            for path in PATHS
            for method in ("GET", "POST")
        },
        "shaken": {port: shaken(port) for port in task["ports"]},
        "seen": sorted(seen),
        "secrets": [name for name, text in seen.items() for secret in task["secrets"] if secret.encode() in text],
    }


if __name__ == "__main__":
    assert psutil.Process().uids().real == 0
    json.dump(intrude(json.load(sys.stdin)), sys.stdout, default=str)
