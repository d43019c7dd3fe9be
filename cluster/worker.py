"""The process of a worker on this machine, `python -m cluster.worker`; its driver tells it what to be.

That comes on standard input, and the process ends when that does: with its driver, however that ended.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import threading
from typing import Any

LENGTH_BYTES = 8


def told(options: dict[str, Any], settings: dict[str, Any]) -> bytes:
    """What a driver writes. options : of the worker, with the address of its scheduler. settings : Dask's."""
    content = pickle.dumps((options, settings))
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


def read_exactly(count: int) -> bytes:
    """So many bytes of standard input, without a buffer that would hold what comes next."""
    content = b""
    while len(content) < count:
        piece = os.read(0, count - len(content))
        if not piece:
            sys.exit(0)  # the driver ended in the middle of it
        content += piece
    return content


def end_with_driver() -> None:
    """Wait for the end of standard input."""
    while os.read(0, 1):
        pass
    os._exit(1)


async def work(options: dict[str, Any]) -> None:
    """Be a worker until the scheduler lets it go."""
    from cluster.closed import ClosedWorker

    async with ClosedWorker(**options) as worker:
        await worker.finished()


def main() -> None:
    """Read what to be, and be it."""
    options, settings = pickle.loads(read_exactly(int.from_bytes(read_exactly(LENGTH_BYTES), "big")))  # noqa: S301  of the driver
    threading.Thread(target=end_with_driver, name="end with driver", daemon=True).start()
    import dask

    with dask.config.set(settings):
        asyncio.run(work(options))


if __name__ == "__main__":
    main()
