"""Where the arrays of a task live: in the memory of the host, or on a card.

A block goes up once and comes down once in every stage. Each thread of a worker has a stream of its own: while one
thread reads and decodes, the kernels of a second run, and a third encodes and writes. No more than SLOTS blocks are on
a card at the same time, which bounds its memory whatever the number of threads.

A card without room for a block is tried once more, by this block alone, with an empty pool and small batches; the task
says so in its receipt. Where even that fails, DeviceMemoryError says what to do.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import numpy.typing as npt

from pipeline.errors import DeviceMemoryError
from pipeline.kernels import cuda

Device = Literal["cpu", "gpu"]
T = TypeVar("T")

SLOTS = 3
"""Blocks on a card at the same time: one that comes up, one that is worked on, one that goes down."""
TIGHT_SHARE = 8
"""A batch of centres is this many times smaller when a block is tried once more."""


class Host:
    """The memory of the host, where arrays are already."""

    is_card = False
    batch_divisor = 1

    def up(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array

    def down(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array

    def wait(self) -> None:
        """Until all that was begun is done, so that a stopwatch tells the truth."""


class Card(Host):
    """The card of this process, through the stream of this thread. Arrays there are CuPy's."""

    is_card = True

    def __init__(self, *, tight: bool) -> None:
        self.batch_divisor = TIGHT_SHARE if tight else 1

    def up(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Copy to the card; CuPy stages it through pinned memory and does not wait."""
        return cuda.checked_cupy().asarray(array)  # type: ignore[no-any-return]

    def wait(self) -> None:
        _OWN.stream.synchronize()

    def down(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Copy to pinned memory of the host, and wait for it."""
        import cupyx

        pinned = cupyx.empty_pinned(array.shape, array.dtype)
        return cuda.checked_cupy().asnumpy(array, out=pinned)  # type: ignore[no-any-return]


class _OwnStream(threading.local):
    """The stream of this thread; the pool keeps memory per stream, so a thread keeps its stream."""

    stream: Any = None


class _Retries(threading.local):
    """How often this thread had to try a block once more."""

    count = 0


RETRIES = _Retries()
_OWN = _OwnStream()
_SLOTS = threading.BoundedSemaphore(SLOTS)
_ALONE = threading.Lock()


def run(device: Device, work: Callable[[Host], T]) -> T:
    """Do some work where the arrays shall live; what it returns has come down.

    Raises DeviceMemoryError where the card has no room even for this block alone, InputError where there is no card.
    """
    if device == "cpu":
        return work(Host())
    cupy = cuda.checked_cupy()
    try:
        with _SLOTS, _stream():
            return work(Card(tight=False))
    except cupy.cuda.memory.OutOfMemoryError:
        pass  # not handled in here: the exception holds the arrays of the failed attempt
    RETRIES.count += 1
    with _all_slots(), _stream():
        cupy.get_default_memory_pool().free_all_blocks()
        try:
            return work(Card(tight=True))
        except cupy.cuda.memory.OutOfMemoryError as error:
            free, total = cupy.cuda.runtime.memGetInfo()
            raise DeviceMemoryError(
                f"The card has no room for a block, even alone ({free / 2**30:.1f} of {total / 2**30:.1f} GiB are free:"
                f" {error}); choose a smaller --block-shape, or end what else runs on the card."
            ) from error


@contextlib.contextmanager
def _stream() -> Iterator[None]:
    if _OWN.stream is None:
        _OWN.stream = cuda.checked_cupy().cuda.Stream(non_blocking=True)
    with _OWN.stream:
        yield


@contextlib.contextmanager
def _all_slots() -> Iterator[None]:
    """The card for this thread alone."""
    with _ALONE, contextlib.ExitStack() as stack:
        for _ in range(SLOTS):
            stack.enter_context(_SLOTS)
        yield
