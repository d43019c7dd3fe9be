"""Reads from stores that hang, or fail for a moment: a time limit, and further tries after growing pauses.

Network file systems and object stores do both under load, and a run of days meets it. What is no matter of time (a
missing file, no permission, a corrupt chunk) is not tried again.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic, sleep
from typing import Any, TypeVar

from zarr.core.sync import sync

T = TypeVar("T")

PAUSES_SECONDS = (1.0, 4.0, 16.0)
MOST_READS = 1.5
READ_SECONDS = 180.0
"""A piece of some 16 MiB that takes longer has a store that hangs."""
PASSING = frozenset({
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.EIO,
    errno.ENETDOWN, errno.ENETUNREACH, errno.EPIPE, errno.ESTALE, errno.ETIMEDOUT,
})  # fmt: skip
"""Errors of the operating system that may be gone a moment later. pipeline.volume.remote speaks of servers in them."""
CLIENTS = ("aiohttp", "azure", "urllib3")
"""Packages behind fsspec whose own errors mean that a store did not answer as it should."""


async def limited(reading: Awaitable[T]) -> T:
    """What is awaited. Ends it after READ_SECONDS and raises TimeoutError."""
    limit = asyncio.timeout(READ_SECONDS)
    try:
        async with limit:
            return await reading
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TimeoutError(errno.ETIMEDOUT, f"the store did not answer within {READ_SECONDS:g} s") from error


def within_time(reading: Coroutine[Any, Any, T]) -> T:
    """The result of one of Zarr's coroutines. Ends it after READ_SECONDS and raises TimeoutError."""
    return sync(limited(reading))


def in_time(read: Callable[..., T], *arguments: Any) -> T:
    """What a blocking call returns, run in another thread (some 0.3 ms). Raises TimeoutError after READ_SECONDS."""
    return within_time(asyncio.to_thread(read, *arguments))


def patiently(read: Callable[[], T]) -> T:
    """What `read` returns, tried again where it fails with something that may pass; at last, its error.

    Not tried again after MOST_READS times READ_SECONDS: a server that sends byte after byte would be waited for anew.
    """
    end = monotonic() + MOST_READS * READ_SECONDS
    for pause in PAUSES_SECONDS:
        try:
            return read()
        except Exception as error:
            if not may_pass(error) or monotonic() > end:
                raise
        sleep(pause)
    return read()


def may_pass(error: Exception) -> bool:
    """Whether an error may be gone a moment later."""
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError):
        return error.errno in PASSING
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 429):
        return False  # the server has answered: not there, or not for us
    return type(error).__module__.split(".")[0] in CLIENTS


def reason(error: Exception) -> str:
    """What went wrong in a store, as a part of a sentence."""
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    if isinstance(error, PermissionError) and error.errno == errno.EACCES and error.strerror == "Permission denied":
        return "permission denied"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
