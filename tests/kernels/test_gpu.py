"""The GPU's kernels on a GPU: equal to the CPU's, as test_cuda_on_cpu_* has them without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.kernels import cuda, distance
from pipeline.kernels.reference import squared_distance
from tests.kernels.comparison_twins import (
    KINDS,
    assert_same_corners,
    assert_same_structures,
    assert_same_surface,
    random_labels,
)
from tests.kernels.distance_twins import (
    assert_same_columns,
    assert_same_lines,
    distances_in_blocks,
    on_host,
    random_columns,
)
from tests.kernels.tally_twins import assert_counts_every_pair
from tests.phantoms import Mask, ball, nearly_full, noise, plates

pytestmark = pytest.mark.gpu

DTYPES = [np.dtype(np.int32), np.dtype(np.int64)]


@pytest.fixture(scope="module")
def cupy() -> Any:
    """CuPy on a GPU."""
    return cuda.checked_cupy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(20))
def test_distance_of_lines_and_columns(cupy: Any, seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 20)), int(rng.integers(1, 300)), int(rng.integers(1, 300)))
    assert_same_lines(cupy.asarray, rng.random(shape) < rng.choice([0.5, 0.9, 0.999]), int(rng.integers(1, 50)), dtype)
    reach = int(rng.integers(0, 500))
    assert_same_columns(cupy.asarray, random_columns(rng, shape, dtype), int(rng.integers(1, 50)), reach, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "mask",
    [noise((90, 120, 131), 3.0, 5), ball((128, 128, 128), 63.0), plates((64, 70, 200), 40, 39, 1),
     nearly_full((65, 100, 33), 1)],
    ids=["noise", "ball", "plates", "nearly full"],
)  # fmt: skip
@pytest.mark.parametrize("weights", [(1, 1, 1), (900, 49, 49)])
def test_distance_in_blocks(cupy: Any, mask: Mask, weights: tuple[int, int, int], dtype: Any) -> None:
    cuts = tuple([n // 3, n // 2] for n in mask.shape)
    expected = distances_in_blocks(on_host, mask, weights, dtype, cuts, closed=True)
    assert np.array_equal(distances_in_blocks(cupy.asarray, mask, weights, dtype, cuts, closed=True), expected)


def test_distance_equals_the_definition(cupy: Any) -> None:
    mask = noise((17, 33, 40), 1.5, 2, share=0.1)
    found = distances_in_blocks(cupy.asarray, mask, (4, 1, 9), DTYPES[0], ([5], [16], [32]), closed=False)
    assert np.array_equal(found, squared_distance(mask, (4, 1, 9), closed=False))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("largest", [2, 300, 2**31 - 1])
@pytest.mark.parametrize("run", [1, 50])
@pytest.mark.parametrize("label_type", [None, np.uint8, np.int64])
def test_tally(cupy: Any, largest: int, run: int, label_type: Any, dtype: Any) -> None:
    rng = np.random.default_rng(largest + run)
    radii = np.repeat(rng.integers(0, largest, (40, 50, 60)), run, axis=2).astype(dtype)
    region = np.ones((1, 1, 1), np.uint16) if label_type is None else rng.integers(0, 5, radii.shape).astype(label_type)
    assert_counts_every_pair(cupy.asarray, radii, region)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
@pytest.mark.parametrize("kind", KINDS)
def test_overlap_of_labels(cupy: Any, kind: str, dtype: str) -> None:
    """Tables that overflow (every voxel a pair, or a grey value, of its own) and few pairs that all threads add to."""
    rng = np.random.default_rng(3)
    reference = random_labels(kind, (70, 150, 131), dtype, rng)
    prediction = random_labels("patches", (70, 150, 131), "u2", rng)
    grey = rng.integers(0, 3000, (69, 150, 130)).astype(dtype)
    for volumes in ((reference, prediction, grey), (reference, None, None)):
        assert_same_structures(cupy.asarray, volumes, (1, 0, 1), (2, 69))
    part = np.ascontiguousarray(reference[:25, :50]) if kind == "own" else reference  # 2 kB a label
    assert_same_corners(cupy.asarray, part, (1, 0, 1), (part.shape[0] + 1, part.shape[1] + 1, part.shape[2]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("largest", [50, 2**31 - 1])
def test_surface(cupy: Any, largest: int, dtype: Any) -> None:
    rng = np.random.default_rng(largest)
    padded = np.pad(noise((90, 120, 131), 1.0, 5), 1)
    distances = rng.integers(0, largest, padded.shape).astype(dtype)
    distances[rng.random(padded.shape) < 0.3] = distance.unreached(dtype)
    assert_same_surface(cupy.asarray, padded, (1, 0, 1), distances)


def test_columns_longer_than_any_block(cupy: Any) -> None:
    """All distances are infinite but one at the end, and so long a column takes several blocks of threads."""
    heights = cupy.full((1, 5000, 40), distance.unreached(np.int32), np.int32)
    heights[0, 0] = 0
    distance.envelope_along_columns(heights, 3, distance.unreached(np.int32))
    assert np.array_equal(heights.get()[0, :, 7], 3 * np.arange(5000) ** 2)
