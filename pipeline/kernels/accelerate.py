"""The one place that knows numba's flags, and how workers share what it compiled."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from numba import njit
from numba.core import caching

P = ParamSpec("P")
R = TypeVar("R")

Integer = int | np.integer[Any]
"""A scalar of a kernel."""


class OneWriter(caching.IndexDataCacheFile):
    """A kernel's cache on disk, which processes write to one after the other.

    numba numbers what it stores by an index that it reads and writes again: two processes that compile one kernel for
    different types at the same time would give both the same number, and one of them the other's machine code.
    """

    def __init__(self, cache_path: str, filename_base: str, source_stamp: object) -> None:
        super().__init__(cache_path, filename_base, source_stamp)  # type: ignore[no-untyped-call]

    def save(self, key: object, data: object) -> None:
        """Store one compiled kernel. Where files cannot be locked, as numba does it."""
        with open(f"{self._index_path}.lock", "ab") as lock:
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            super().save(key, data)  # type: ignore[no-untyped-call]


caching.IndexDataCacheFile = OneWriter  # type: ignore[misc]


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a serial kernel that releases the GIL, so that threads of one worker run blocks side by side."""
    compiled = njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")(function)
    return cast(Callable[P, R], compiled)
