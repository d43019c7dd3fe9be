"""Tallies by any back end, compared with numpy's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels import tally

Array = npt.NDArray[Any]


def assert_counts_every_pair(place: Callable[[Array], Any], radii: Array, region: Array) -> None:
    """Count where place takes the radii, and compare with numpy.unique."""
    columns = tally.count_pairs(place(radii), region)
    assert all(type(column) is np.ndarray and column.dtype == np.int64 for column in columns)
    labels = np.broadcast_to(region, radii.shape)[radii > 0].astype(np.int64)
    values, counts = np.unique(np.stack([labels, radii[radii > 0]], axis=1), axis=0, return_counts=True)
    found = np.stack(columns, axis=1)
    order = np.lexsort((found[:, 1], found[:, 0]))
    assert np.array_equal(found[order], np.column_stack([values, counts]).astype(np.int64).reshape(-1, 3))
