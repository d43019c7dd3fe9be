"""The CUDA kernels of centres and thickness, run by the CPU: equal to numba's and to the definition, hard cases first.

tests/kernels/test_whole_volume.py runs them on true distances; here balls are of any size and lie anywhere, so that
lists overflow, cells lie outside of the block, and nothing about a distance map helps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels import centres, cuda, thickness
from tests.cuda_shim.compiling import compiler
from tests.cuda_shim.cupy_on_cpu import pretended
from tests.kernels.distance_twins import Array, distances_in_blocks, on_host, to_numpy
from tests.phantoms import Mask, ball, nearly_full, noise, plates, shapes

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs g++ to run CUDA kernels on the CPU")

Weights = tuple[int, int, int]

SMALL_LIST = (*cuda.OPTIONS, "-DCAPACITY=512")
"""Room for the bricks of one cell alone, so that a tile works off its list after every cell."""
WEIGHTS = [(1, 1, 1), (9, 1, 1), (4, 25, 9)]
HUGE = (1_000_003, 490_007, 250_001)
"""Weights whose squared distances need int64, and more bits than a list sorts by."""


def random_centres(
    shape: tuple[int, int, int], number: int, largest: int, seed: int, dtype: Any
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Cells of a volume in any order, and their centres: squared radii up to largest at random voxels."""
    rng = np.random.default_rng(seed)
    distances = (1 + largest * rng.random(shape) ** 3).astype(dtype)
    keep = np.zeros(shape, np.uint8)
    keep.reshape(-1)[rng.choice(keep.size, min(number, keep.size), replace=False)] = 1
    starts = np.argwhere(np.ones([-(-n // centres.CELL) for n in shape])).astype(np.int64) * centres.CELL
    rng.shuffle(starts)
    return starts, centres.pack_cells(distances, keep, starts, int(keep.sum()))


def radii_by_definition(
    mask: Mask, origin: Array, starts: Array, packed: tuple[Array, Array, Array], weights: Weights
) -> Array:
    """One ball after the other."""
    counts, centre_d, position = packed
    side = centres.CELL // centres.BRICK
    brick = np.repeat(np.arange(counts.size), counts.reshape(-1))
    cell, b = np.divmod(brick, centres.BRICKS_PER_CELL)
    corner = starts[cell] + centres.BRICK * np.stack([b // side**2, b // side % side, b % side], axis=1)
    voxel = corner + np.stack([position >> 6, position >> 3 & 7, position & 7], axis=1) - origin
    out = np.where(mask, min(weights), 0).astype(np.int64)
    grids = np.ogrid[tuple(slice(0, n) for n in mask.shape)]
    for q, d in zip(voxel, centre_d.astype(np.int64), strict=True):
        squared: Any = sum(w * (g - c) ** 2 for w, g, c in zip(weights, grids, q, strict=True))
        inside = (squared < d) & mask
        out[inside] = np.maximum(out[inside], d)
    return out


def gathered(
    mask: Mask, origin: Array, starts: Array, packed: tuple[Array, Array, Array], weights: Weights, place: Any
) -> Array:
    """Seal, gather, unseal."""
    there = place(mask.view(np.uint8))
    radii = np.empty_like(there, dtype=packed[1].dtype)
    seal = thickness.sealed(radii.dtype)
    thickness.seal(there, min(weights), seal, radii)
    thickness.gather(radii, origin, starts, *packed, *weights, seal)
    thickness.unseal(radii, seal)
    return to_numpy(radii)


@settings(max_examples=30)
@given(
    volume=st.sampled_from([(64, 64, 64), (20, 70, 130), (65, 9, 200)]), shape=shapes(largest=24),
    origin=st.tuples(*3 * [st.integers(0, 90)]), number=st.sampled_from([1, 40, 300]),
    reach=st.sampled_from([2, 9, 40, 150]), weights=st.sampled_from([*WEIGHTS, HUGE]),
    share=st.sampled_from([0.0, 0.5, 0.97]), seed=st.integers(0, 2**16), small=st.booleans(),
)  # fmt: skip
def test_balls_of_any_size_from_anywhere(
    volume: tuple[int, int, int], shape: tuple[int, int, int], origin: tuple[int, int, int], number: int, reach: int,
    weights: Weights, share: float, seed: int, *, small: bool,
) -> None:  # fmt: skip
    dtype = np.int64 if weights == HUGE or seed % 4 == 0 else np.int32
    starts, packed = random_centres(volume, number, max(weights) * reach**2, seed, dtype)
    mask = np.random.default_rng(seed).random(shape) >= share
    here = np.array(origin, np.int64)
    expected = radii_by_definition(mask, here, starts, packed, weights)
    with pytest.MonkeyPatch.context() as patch, pretended() as cupy:
        if small:
            patch.setattr(cuda, "OPTIONS", SMALL_LIST)
        assert np.array_equal(gathered(mask, here, starts, packed, weights, cupy.asarray), expected)
    assert np.array_equal(gathered(mask, here, starts, packed, weights, on_host), expected)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("reach", [3, 90])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_more_bricks_than_a_list_holds(dtype: Any, reach: int, *, small: bool) -> None:
    starts, packed = random_centres((70, 130, 130), 60_000, reach**2, 3, dtype)
    mask = noise((20, 18, 33), 1.0, 7, share=0.3)
    origin = np.array([25, 55, 40], np.int64)
    with pytest.MonkeyPatch.context() as patch, pretended() as cupy:
        if small:
            patch.setattr(cuda, "OPTIONS", SMALL_LIST)
        found = gathered(mask, origin, starts, packed, (1, 1, 1), cupy.asarray)
    assert np.count_nonzero(packed[0]) > 2048  # more than a list holds, and a tile reaches most of them
    assert np.array_equal(found, gathered(mask, origin, starts, packed, (1, 1, 1), on_host))
    centre = (slice(8, 12), slice(6, 9), slice(10, 16))
    corner = np.array([s.start for s in centre])
    by_definition = radii_by_definition(mask[centre], origin + corner, starts, packed, (1, 1, 1))
    assert np.array_equal(found[centre], by_definition)


def test_more_cells_than_a_block_of_threads_tests_at_once() -> None:
    volume = (64 * 30, 64 * 30, 1)
    starts, packed = random_centres(volume, 9000, 40**2, 11, np.int32)
    assert len(starts) > 3 * 256  # a tile reaches few of them, and those come anywhere in their order
    mask = noise((60, 150, 2), 1.0, 5)
    origin = np.array([500, 480, 0], np.int64)
    with pretended() as cupy:
        found = gathered(mask, origin, starts, packed, (1, 1, 1), cupy.asarray)
    assert np.array_equal(found, radii_by_definition(mask, origin, starts, packed, (1, 1, 1)))


def test_a_batch_without_centres_changes_nothing() -> None:
    mask = noise((9, 10, 11), 1.0, 5)
    packed = np.zeros((1, centres.BRICKS_PER_CELL), np.uint16), np.zeros(0, np.int32), np.zeros(0, np.uint16)
    with pretended() as cupy:
        found = gathered(mask, np.zeros(3, np.int64), np.zeros((1, 3), np.int64), packed, (2, 1, 1), cupy.asarray)
    assert np.array_equal(found, mask)


@settings(max_examples=30)
@given(
    shape=shapes(largest=40), origin=st.tuples(*3 * [st.integers(0, 200)]), number=st.integers(0, 40),
    seed=st.integers(0, 2**16), weights=st.sampled_from(WEIGHTS), dtype=st.sampled_from([np.int32, np.int64]),
)  # fmt: skip
def test_useful_cells_are_the_same(
    shape: tuple[int, int, int], origin: tuple[int, int, int], number: int, seed: int, weights: Weights, dtype: Any
) -> None:
    rng = np.random.default_rng(seed)
    radii = (rng.integers(1, 3000, shape) + rng.integers(0, 2000)).astype(dtype)
    cells = rng.integers(-1, 6, (number, 3)) * centres.CELL
    largest = rng.integers(0, 4000, number) * max(weights)
    here = np.array(origin, np.int64)
    expected = thickness.tile_minima(radii)
    useful = thickness.still_useful(expected, here, cells, largest, *weights)
    for c, (cell, top) in enumerate(zip(cells, largest, strict=True)):
        low = here + thickness.TILE * np.argwhere(np.ones(expected.shape))
        apart = np.maximum(0, np.maximum(cell - (low + thickness.TILE - 1), low - (cell + centres.CELL - 1)))
        reached = (np.array(weights) * apart**2).sum(axis=1) < top
        assert useful[c] == (reached & (expected.reshape(-1) < top)).any()
    with pretended() as cupy:
        minima = thickness.tile_minima(cupy.asarray(radii))
        assert np.array_equal(to_numpy(minima), expected)
        assert np.array_equal(thickness.still_useful(minima, here, cells, largest, *weights), useful)


@pytest.mark.parametrize(
    ("mask", "weights", "dtype", "limit"),
    [
        (ball((65, 60, 63), 29.5), (1, 1, 1), np.int32, 4096),
        (ball((65, 60, 63), 29.5), (1, 1, 1), np.int32, 50),
        (nearly_full((30, 41, 67), 3), (9, 1, 4), np.int64, 300),
        (plates((20, 70, 66), 33, 30, 1), (1, 4, 1), np.int32, 20),
        (noise((70, 20, 68), 5.0, 8, share=0.3), (2, 3, 1), np.int64, 40),
        (ball((40, 40, 40), 18.0), HUGE, np.int64, 1 << 18),
        (np.ones((1, 1, 70), np.bool_), (1, 1, 1), np.int32, 10),
    ],
    ids=["ball", "ball without table", "nearly full", "plates", "noise", "huge weights", "line"],
)
def test_large_balls_are_pruned_surveyed_and_packed_the_same(
    mask: Mask, weights: Weights, dtype: Any, limit: int
) -> None:
    distances = distances_in_blocks(on_host, mask, weights, dtype, ([], [], []), closed=True)
    table = centres.containment_tables(limit, *weights)
    found = []
    with pretended() as cupy:
        for place in (on_host, cupy.asarray):
            there = place(distances)
            keep = np.empty_like(there, dtype=np.uint8)
            kept = centres.prune(there, table, *weights, keep)
            number, largest = centres.survey_cells(there, keep)
            starts = np.argwhere(np.ones([-(-n // centres.CELL) for n in mask.shape])).astype(np.int64) * centres.CELL
            some = np.flatnonzero(number)[::-1]  # not all cells, not in their order
            packed = centres.pack_cells(there, keep, starts[some], int(number[some].sum()))
            found.append([np.array(kept), to_numpy(keep), number, largest, *packed])
    assert found[0][0] == found[0][1].sum() == found[0][2].sum() > 0 or mask.shape[0] == 1
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
