"""The CUDA kernels of a comparison, run by the CPU: equal to numba's, hard volumes first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels import corners, structures, surface
from pipeline.kernels.distance import unreached
from tests.cuda_shim.compiling import compiler
from tests.cuda_shim.cupy_on_cpu import pool, pretended
from tests.kernels.comparison_twins import (
    KINDS,
    SALT,
    assert_same_corners,
    assert_same_distances,
    assert_same_structures,
    assert_same_surface,
    random_labels,
)
from tests.phantoms import masks, shapes

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs g++ to run CUDA kernels on the CPU")

DTYPES = st.sampled_from(["u1", "u2", "u4", "u8"])


@settings(max_examples=60)
@given(
    shape=shapes(largest=20), kinds=st.tuples(*2 * [st.sampled_from(KINDS)]), dtypes=st.tuples(*3 * [DTYPES]),
    first=st.tuples(*3 * [st.integers(0, 1)]), seed=st.integers(0, 2**16), has_prediction=st.booleans(),
    grey=st.sampled_from(["none", "few", SALT]), layers=st.tuples(*2 * [st.integers(0, 20)]), small=st.booleans(),
)  # fmt: skip
def test_structures(
    shape: tuple[int, int, int], kinds: tuple[str, str], dtypes: tuple[str, str, str], first: tuple[int, int, int],
    seed: int, layers: tuple[int, int], grey: str, *, has_prediction: bool, small: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    wide = tuple(n + f for n, f in zip(shape, first, strict=True))
    reference, prediction = (
        random_labels(kind, wide, dtype, rng)  # type: ignore[arg-type]
        for kind, dtype in zip(kinds, dtypes, strict=False)
    )
    image = None if grey == "none" else random_labels(SALT if grey == SALT else "patches", shape, dtypes[2], rng)
    z_start, z_stop = sorted(min(z, shape[0]) for z in layers)
    with pretended() as cupy, pytest.MonkeyPatch.context() as patch:
        if small:  # what fills a table on the card is counted in spans
            patch.setattr("pipeline.kernels.structures.gpu.FIRST_SLOTS", 8)
            patch.setattr(structures, "MOST_SLOTS", 64)
        volumes = reference, prediction if has_prediction else None, image
        assert_same_structures(cupy.asarray, volumes, first, (z_start, z_stop))


def test_more_pairs_than_the_tables_hold() -> None:
    """More than a block of threads has places for, than the first table holds, and, in spans, than the largest one."""
    rng = np.random.default_rng(1)
    labels = random_labels("own", (9, 70, 64), "u8", rng)
    grey = rng.integers(0, 2**32, labels.shape, np.uint32)
    with pretended() as cupy, pytest.MonkeyPatch.context() as patch:
        assert_same_structures(cupy.asarray, (labels, labels[::-1], grey), (0, 0, 0), (0, 9))
        patch.setattr(structures, "MOST_SLOTS", 1 << 13)
        pool.peak = pool.used
        assert_same_structures(cupy.asarray, (labels, labels[::-1], grey), (0, 0, 0), (0, 9))
        assert pool.peak - pool.used <= 2 * labels.nbytes + grey.nbytes + structures.table_bytes(grey=True) + 64


def test_sums_of_a_long_line() -> None:
    """The longest line that a block may have: its sum of coordinates is the largest a block of threads adds up."""
    labels = np.ones((2, 1, structures.LONGEST_SIDE), np.uint8)
    labels[:, :, ::977] = 3
    with pretended() as cupy:
        assert_same_structures(cupy.asarray, (labels, None, None), (0, 0, 0), (0, 2))
        assert_same_structures(cupy.asarray, (labels.T.copy(), None, None), (0, 0, 0), (0, labels.shape[2]))
        long = cupy.zeros((1, 1, structures.LONGEST_SIDE + 1), np.uint8)
        with pytest.raises(ValueError, match="at most 32768"):
            structures.count_structures(long, long[:0], long[:0], (1, 0, 0), (0, 0, 0), 0, 1)


@settings(max_examples=60)
@given(
    shape=shapes(largest=20), kind=st.sampled_from(KINDS), dtype=DTYPES, seed=st.integers(0, 2**16),
    small=st.booleans(), data=st.data(),
)  # fmt: skip
def test_corners(shape: tuple[int, int, int], kind: str, dtype: str, seed: int, data: Any, *, small: bool) -> None:
    labels = random_labels(kind, shape, dtype, np.random.default_rng(seed))
    start = tuple(data.draw(st.integers(0, 1)) for _ in shape)
    stop = tuple(n + data.draw(st.integers(0, 1)) for n in shape)
    with pretended() as cupy, pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(corners, "MOST_SLOTS", 4)
        assert_same_corners(cupy.asarray, labels, start, stop)


def test_more_labels_than_the_table_holds() -> None:
    labels = random_labels("own", (12, 60, 40), "u8", np.random.default_rng(2))
    with pretended() as cupy, pytest.MonkeyPatch.context() as patch:
        patch.setattr(corners, "MOST_SLOTS", 1 << 12)
        pool.peak = pool.used
        assert_same_corners(cupy.asarray, labels, (0, 0, 0), (13, 61, 41))
        assert pool.peak - pool.used <= labels.nbytes + corners.table_bytes(40) + 4096


@settings(max_examples=60)
@given(
    mask=masks(largest=36), closing=st.tuples(*3 * [st.integers(0, 1)]), seed=st.integers(0, 2**16),
    largest=st.sampled_from([2, 50, 2**31 - 1, 2**53]), small=st.booleans(),
)  # fmt: skip
def test_surface(mask: Any, closing: tuple[int, int, int], seed: int, largest: int, *, small: bool) -> None:
    rng = np.random.default_rng(seed)
    dtype = np.dtype(np.int32 if largest < 2**31 else np.int64)
    padded = np.pad(mask, 1, mode=rng.choice(["constant", "edge"]))
    distances = rng.integers(0, largest, padded.shape).astype(dtype)
    distances[rng.random(padded.shape) < rng.choice([0, 0.3])] = unreached(dtype)
    with pretended() as cupy, pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(surface, "MOST_SLOTS", 256)
        assert_same_surface(cupy.asarray, padded, closing, distances)


def test_more_distances_than_the_first_table_holds() -> None:
    distances = np.arange(40 * 41 * 63, dtype=np.int64).reshape(40, 41, 63) << 20
    with pretended() as cupy:
        assert_same_distances(cupy.asarray, distances, np.ones(distances.shape, np.uint8), np.empty(0, np.uint8))
