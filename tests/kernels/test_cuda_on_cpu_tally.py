"""The CUDA kernel of the tally, run by the CPU: every pair with its count, whatever the labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cuda_shim.compiling import compiler
from tests.cuda_shim.cupy_on_cpu import pretended
from tests.kernels.tally_twins import assert_counts_every_pair
from tests.phantoms import shapes

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs g++ to run CUDA kernels on the CPU")


@given(
    shape=shapes(largest=20), seed=st.integers(0, 2**32 - 1), largest=st.sampled_from([2, 40, 2**31 - 1]),
    run=st.sampled_from([1, 5, 40]), labels=st.sampled_from([1, 3, 120]),
    label_type=st.sampled_from(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", ">u2", "?"]),
    dtype=st.sampled_from(["i4", "i8"]),
)  # fmt: skip
def test_every_pair_is_counted(
    shape: tuple[int, int, int], seed: int, largest: int, run: int, labels: int, label_type: Any, dtype: Any
) -> None:
    rng = np.random.default_rng(seed)
    radii = np.repeat(rng.integers(0, largest, shape), run, axis=2).astype(dtype)
    region = rng.integers(0, labels, radii.shape) if labels > 1 else np.full((1, 1, 1), 7)
    with pretended() as cupy:
        assert_counts_every_pair(cupy.asarray, radii, region.astype(label_type))


def test_more_pairs_than_the_first_table_holds() -> None:
    radii = np.arange(1, 48 * 50 * 60 + 1, dtype=np.int64).reshape(48, 50, 60) << 20
    with pretended() as cupy:
        assert_counts_every_pair(cupy.asarray, radii, np.zeros((1, 1, 1), np.uint8))


def test_labels_of_more_than_32_bits() -> None:
    radii = np.full((3, 4, 50), 9, np.int32)
    region = (np.arange(radii.size).reshape(radii.shape) // 7).astype(np.uint64) << np.uint64(40)
    with pretended() as cupy:
        assert_counts_every_pair(cupy.asarray, radii, region)


def test_background_alone_has_no_pairs() -> None:
    with pretended() as cupy:
        assert_counts_every_pair(cupy.asarray, np.zeros((4, 5, 33), np.int32), np.ones((1, 1, 1), np.int64))
