"""The laws of merging: whatever the blocks and their order, the same tally."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tally import Tally, merge
from tests.results.tallies import Rows, expanded, rows, tallies, tally_of


@given(tallies, tallies, tallies)
def test_merging_is_associative(a: Tally, b: Tally, c: Tally) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(tallies, tallies)
def test_merging_is_commutative(a: Tally, b: Tally) -> None:
    assert merge(a, b) == merge(b, a)


@given(tallies)
def test_the_empty_tally_is_neutral(a: Tally) -> None:
    assert merge(a, Tally.empty()) == a == merge(Tally.empty(), a)


@given(rows, st.randoms(use_true_random=False), st.integers(1, 6))
def test_any_cut_into_blocks_gives_the_tally_of_the_whole(items: Rows, chance: object, parts: int) -> None:
    shuffled = list(items)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    blocks = [tally_of(shuffled[i::parts]) for i in range(parts)]
    assert reduce(merge, blocks, Tally.empty()) == tally_of(items)


@given(rows)
def test_counts_are_those_of_the_voxels(items: Rows) -> None:
    tally = tally_of(items)
    label, squared_radius = expanded(items)
    values, counts = np.unique(squared_radius, return_counts=True)
    np.testing.assert_array_equal(tally.total().squared_radius, values)
    np.testing.assert_array_equal(tally.total().voxels, counts)
    assert tally.labels() == tuple(np.unique(label).tolist())
    for one in range(5):
        values, counts = np.unique(squared_radius[label == one], return_counts=True)
        np.testing.assert_array_equal(tally.of_label(one).squared_radius, values)
        np.testing.assert_array_equal(tally.of_label(one).voxels, counts)


def test_counts_outgrow_32_bits() -> None:
    half = tally_of([(0, 5, 2**40)])
    assert merge(half, half).total().voxels.tolist() == [2**41]


@pytest.mark.parametrize(
    ("label", "squared_radius", "voxels"),
    [
        pytest.param([0], [0], [1], id="background"),
        pytest.param([0], [4], [0], id="no voxel"),
        pytest.param([0, 0], [4, 4], [1, 1], id="a pair twice"),
        pytest.param([1, 0], [4, 4], [1, 1], id="unsorted"),
        pytest.param([0, 0], [4], [1], id="lengths"),
    ],
)
def test_what_is_no_tally_is_refused(label: list[int], squared_radius: list[int], voxels: list[int]) -> None:
    columns = (np.array(c, dtype=np.int64) for c in (label, squared_radius, voxels))
    with pytest.raises(ValueError, match="tally"):
        Tally(*columns)
