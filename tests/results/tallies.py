"""Tallies for hypothesis, and the plain arrays that they stand for."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.tally import Tally

Rows = list[tuple[int, int, int]]

rows: st.SearchStrategy[Rows] = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 50)), max_size=25
)
"""(label, squared radius, voxels) in any order, pairs repeated."""


def tally_of(items: Rows) -> Tally:
    """The tally of such rows."""
    label, squared_radius, voxels = zip(*items, strict=True) if items else ((), (), ())
    return Tally.of_counts(label=label, squared_radius=squared_radius, voxels=voxels)


tallies = rows.map(tally_of)


def expanded(items: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label and squared radius of every voxel."""
    table = np.array(items, dtype=np.int64).reshape(-1, 3)
    return np.repeat(table[:, 0], table[:, 2]), np.repeat(table[:, 1], table[:, 2])
