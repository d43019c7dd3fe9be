"""Hash tables on a card that keep to a size, whatever there is to count.

A table begins small and grows while it is overfull. What has more entries than the largest one holds is counted in
spans of lines, which are halved until each fits, and the results of the spans are added up on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
T = TypeVar("T")

GROWTH = 8
"""An overfull table is made so many times larger."""
VOXELS_PER_BLOCK = 1 << 15
"""Voxels of the lines that a block of threads takes; their sums of coordinates have less than 32 bits."""
LINES_PER_BLOCK = 256


def lines_per_block(size_x: int) -> int:
    """Lines of so many voxels that a block of threads takes."""
    return min(max(1, VOXELS_PER_BLOCK // size_x), LINES_PER_BLOCK)


def slots_for(entries: int) -> int:
    """The slots of a table that is not overfull with so many entries: a power of two."""
    return 2 << max(0, entries - 1).bit_length()


def count_in_spans(
    count: Callable[[int, int, int], T | None], first_line: int, stop_line: int, first_slots: int, most_slots: int
) -> list[T]:
    """What is counted in all lines together, or in several spans of them where one table cannot hold it.

    count : counts the lines of a span (its first, the one after its last) into tables of so many slots, None where
    one of them is overfull. most_slots : enough for any single line.
    """
    found: list[T] = []
    spans = [(first_line, stop_line)]
    slots = min(first_slots, most_slots)
    while spans:
        begin, end = spans.pop()
        result = count(begin, end, slots)
        while result is None and slots < most_slots:
            slots = min(GROWTH * slots, most_slots)
            result = count(begin, end, slots)
        if result is not None:
            found.append(result)
        elif end - begin == 1:
            raise ValueError(f"a line has too many entries for a table of {most_slots} slots")
        else:
            middle = (begin + end) // 2
            spans += [(middle, end), (begin, middle)]
    return found


def added_up(keys: Array, numbers: Array) -> tuple[Array, Array]:
    """Each row of keys (n, k) once, and the sum of the numbers (n, …) of its rows."""
    distinct, place = np.unique(keys, axis=0, return_inverse=True)
    sums = np.zeros((len(distinct), *numbers.shape[1:]), numbers.dtype)
    np.add.at(sums, place.reshape(-1), numbers)
    return distinct, sums
