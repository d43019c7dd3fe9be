"""The one place that knows numba's flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from numba import njit

P = ParamSpec("P")
R = TypeVar("R")

Integer = int | np.integer[Any]
"""A scalar of a kernel."""


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a serial kernel that releases the GIL, so that threads of one worker run blocks side by side."""
    compiled = njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")(function)
    return cast(Callable[P, R], compiled)
