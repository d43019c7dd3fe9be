"""The CUDA kernels of distance, run by the CPU: equal to the definition and to the CPU's kernels, list by list."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry import VoxelSize
from pipeline.kernels import distance
from pipeline.kernels.reference import squared_distance
from tests.cuda_shim.compiling import compiler
from tests.cuda_shim.cupy_on_cpu import pool, pretended
from tests.kernels.distance_twins import (
    assert_same_columns,
    assert_same_lines,
    distances_in_blocks,
    lowest_beyond,
    on_host,
    random_columns,
)
from tests.phantoms import SPACINGS, Mask, ball, masks, nearly_full, noise, plates, shapes

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs g++ to run CUDA kernels on the CPU")

DTYPES = st.sampled_from([np.dtype(np.int32), np.dtype(np.int64)])


@settings(max_examples=60)
@given(
    mask=masks(largest=18), spacing=st.sampled_from(SPACINGS), closed=st.booleans(), dtype=DTYPES,
    cuts=st.tuples(*(st.lists(st.integers(1, 17), max_size=3, unique=True) for _ in range(3))),
)  # fmt: skip
def test_blocks_equal_the_definition(
    mask: Mask, spacing: tuple[float, float, float], dtype: Any, cuts: tuple[list[int], ...], *, closed: bool
) -> None:
    if mask.all() and not closed:
        return
    weights = VoxelSize(spacing).weights
    inside = tuple(sorted(c for c in axis if c < n) for axis, n in zip(cuts, mask.shape, strict=True))
    with pretended() as cupy:
        found = distances_in_blocks(cupy.asarray, mask, weights, dtype, inside, closed=closed)
    assert np.array_equal(found, squared_distance(mask, weights, closed=closed))


@pytest.mark.parametrize(
    "mask",
    [
        noise((20, 33, 70), 2.0, 3, share=0.05),
        ball((40, 40, 40), 19.0),
        plates((9, 50, 67), 30, 29, 1),
        plates((64, 5, 33), 64, 63, 0),
        nearly_full((25, 31, 37), 4),
        np.zeros((3, 4, 65), np.bool_),
    ],
    ids=["noise", "ball", "plates", "one wall", "nearly full", "empty"],
)
@pytest.mark.parametrize("weights", [(1, 1, 1), (900, 49, 49)])
def test_blocks_equal_the_other_back_end(mask: Mask, weights: tuple[int, int, int]) -> None:
    cuts = tuple([n // 3, n // 2] for n in mask.shape)
    expected = distances_in_blocks(on_host, mask, weights, np.dtype(np.int32), cuts, closed=True)
    with pretended() as cupy:
        found = distances_in_blocks(cupy.asarray, mask, weights, np.dtype(np.int32), cuts, closed=True)
    assert np.array_equal(found, expected)


@settings(max_examples=60)
@given(mask=masks(largest=70), weight=st.sampled_from([1, 2, 49]), dtype=DTYPES)
def test_lines(mask: Mask, weight: int, dtype: Any) -> None:
    with pretended() as cupy:
        assert_same_lines(cupy.asarray, mask, weight, dtype)


@settings(max_examples=150)
@given(
    shape=shapes(largest=40), seed=st.integers(0, 2**32 - 1), weight=st.sampled_from([1, 2, 9, 49]),
    reach=st.integers(0, 60), gap=st.integers(1, 50), dtype=DTYPES,
)  # fmt: skip
def test_columns(shape: tuple[int, int, int], seed: int, weight: int, reach: int, gap: int, dtype: Any) -> None:
    heights = random_columns(np.random.default_rng(seed), shape, dtype)
    with pretended() as cupy:
        assert_same_columns(cupy.asarray, heights, weight, reach, gap)


@given(
    seed=st.integers(0, 2**32 - 1), weight=st.sampled_from([1, 2, 5]), reach=st.integers(1, 40), on_gpu=st.booleans()
)
def test_a_parabola_is_exported_where_it_is_lowest(seed: int, weight: int, reach: int, *, on_gpu: bool) -> None:
    heights = random_columns(np.random.default_rng(seed), (2, 11, 3), np.dtype(np.int32))
    with pretended() as cupy:
        place = cupy.asarray if on_gpu else on_host
        counts, depth, height = distance.export_parabolas(
            place(heights), weight, distance.unreached(np.int32), reach, False
        )
    expected = [lowest_beyond(heights[o, :, c], weight, reach) for o in range(2) for c in range(3)]
    assert counts.tolist() == [len(column) for column in expected]
    assert list(zip(depth.tolist(), height.tolist(), strict=True)) == [pair for column in expected for pair in column]


def test_values_next_to_the_end_of_an_integer() -> None:
    """Weights for which a few voxels more would not fit into the distances' type."""
    for dtype, weight in ((np.dtype(np.int32), 2**29), (np.dtype(np.int64), 2**53)):
        heights = np.full((1, 5, 3), distance.unreached(dtype), dtype)
        heights[0, 2] = (0, weight, 2 * weight)
        with pretended() as cupy:
            found = cupy.asarray(heights)
            distance.envelope_along_columns(found, weight, distance.unreached(dtype))
            reached = found.get()[0, :, 0] if dtype == np.int64 else found.get()[0, 1:4, 0]
        assert reached.tolist() == [weight * d * d for d in ((2, 1, 0, 1, 2) if dtype == np.int64 else (1, 0, 1))]


def test_an_envelope_takes_a_second_array_and_no_more() -> None:
    with pretended() as cupy:
        heights = cupy.asarray(random_columns(np.random.default_rng(1), (8, 40, 40), np.dtype(np.int32)))
        before = pool.used
        pool.peak = before
        distance.envelope_along_columns(heights, 1, distance.unreached(np.int32))
        assert pool.peak - before == heights.nbytes
        assert pool.used == before
