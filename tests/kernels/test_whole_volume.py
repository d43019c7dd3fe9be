"""Distance, pruning and gathering of a whole volume in one piece equal the definition, for both integer types."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.geometry import VoxelSize
from pipeline.kernels import centres, distance, tally, thickness
from pipeline.kernels.reference import squared_distance, squared_local_radius
from tests.cuda_shim.compiling import compiler
from tests.cuda_shim.cupy_on_cpu import pretended
from tests.kernels.distance_twins import Array, Place, on_host, to_numpy
from tests.phantoms import SPACINGS, Mask, ball, masks, nearly_full, noise, plates


@pytest.fixture(scope="module", params=["cpu", "pretended gpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where the kernels work. pretended gpu : the CUDA kernels, run by the CPU."""
    if request.param == "pretended gpu":
        if compiler() is None:
            pytest.skip("needs g++ to run CUDA kernels on the CPU")
        with pretended() as cupy:
            yield cupy.asarray
    elif request.param == "gpu":
        yield importlib.import_module("cupy").asarray
    else:
        yield on_host


def by_kernels(
    place: Place, mask: Mask, weights: tuple[int, int, int], dtype: Any, *, closed: bool, batches: int = 1
) -> tuple[Array, Array]:
    """Squared distance and squared local radius of a volume by the kernels alone."""
    size_z, _, size_x = mask.shape
    infinity = distance.unreached(dtype)
    there = place(mask.view(np.uint8))
    squared = np.empty_like(there, dtype=dtype)
    views = {2: squared.reshape(-1, size_x, 1), 1: squared, 0: squared.reshape(1, size_z, -1)}
    for axis in (2, 1, 0):
        if axis == 2:
            distance.distance_along_lines(there, weights[2], infinity, squared)
        else:
            distance.envelope_along_columns(views[axis], weights[axis], infinity)
        if closed:
            distance.relax_wall(views[axis], weights[axis], 1, False)
            distance.relax_wall(views[axis], weights[axis], 1, True)
    keep = np.empty_like(squared, dtype=np.uint8)
    kept = centres.prune(squared, centres.containment_tables(64**2 * min(weights), *weights), *weights, keep)
    number, largest = centres.survey_cells(squared, keep)
    assert number.sum() == kept
    starts = np.argwhere(np.ones([-(-n // centres.CELL) for n in mask.shape])).astype(np.int64) * centres.CELL
    radii = np.empty_like(there, dtype=dtype)
    seal = thickness.sealed(dtype)
    thickness.seal(there, min(weights), seal, radii)
    origin = np.zeros(3, np.int64)
    for some in np.array_split(np.arange(len(starts)), batches):
        if not len(some):
            continue
        packed = centres.pack_cells(squared, keep, starts[some], int(number[some].sum()))
        thickness.gather(radii, origin, starts[some], *packed, *weights, seal)
        useful = thickness.still_useful(thickness.tile_minima(radii), origin, starts, largest, *weights)
        assert not useful[some].any() or largest.max() > thickness.tile_minima(radii).min()
    thickness.unseal(radii, seal)
    return to_numpy(squared), to_numpy(radii)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mask=masks(largest=22), spacing=st.sampled_from(SPACINGS), closed=st.booleans(),
    dtype=st.sampled_from([np.int32, np.int64]),
)  # fmt: skip
def test_equals_the_definition(
    place: Place, mask: Mask, spacing: tuple[float, float, float], *, closed: bool, dtype: Any
) -> None:
    if mask.all() and not closed:
        return
    weights = VoxelSize(spacing).weights
    squared, radii = by_kernels(place, mask, weights, dtype, closed=closed)
    assert np.array_equal(squared, squared_distance(mask, weights, closed=closed))
    assert np.array_equal(radii, squared_local_radius(mask, weights, closed=closed))


@pytest.mark.parametrize("shape", [(6, 9, 131), (7, 66, 10), (66, 5, 17)])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_bricks_cells_and_tiles_do_not_show(place: Place, shape: tuple[int, int, int], share: float) -> None:
    mask = noise(shape, 2.0, 5, share=share)
    squared, radii = by_kernels(place, mask, (1, 1, 1), np.int32, closed=False)
    assert np.array_equal(squared, squared_distance(mask, (1, 1, 1), closed=False))
    assert np.array_equal(radii, squared_local_radius(mask, (1, 1, 1), closed=False))


@pytest.mark.parametrize(
    ("mask", "weights", "dtype", "batches"),
    [
        (ball((70, 70, 70), 34.5), (1, 1, 1), np.int32, 1),
        (nearly_full((25, 31, 37), 4), (1, 1, 1), np.int32, 1),
        (plates((40, 30, 70), 31, 30, 2), (900, 49, 49), np.int64, 1),
        (noise((20, 70, 140), 2.0, 4, share=0.1), (1, 1, 1), np.int32, 3),
        (noise((66, 10, 66), 0.0, 2, share=0.5), (1, 4, 9), np.int64, 4),
    ],
    ids=["ball", "nearly full", "plates", "batches", "salt"],
)
def test_hard_volumes(place: Place, mask: Mask, weights: tuple[int, int, int], dtype: Any, batches: int) -> None:
    squared, radii = by_kernels(place, mask, weights, dtype, closed=False, batches=batches)
    expected, expected_radii = by_kernels(on_host, mask, weights, dtype, closed=False)
    assert np.array_equal(squared, expected)
    assert np.array_equal(radii, expected_radii)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mask=masks(largest=20), spacing=st.sampled_from(SPACINGS), wide=st.booleans())
def test_both_twins_keep_and_pack_the_same(
    place: Place, mask: Mask, spacing: tuple[float, float, float], *, wide: bool
) -> None:
    weights = VoxelSize(spacing).weights
    squared = squared_distance(mask, weights, closed=True).astype(np.int64 if wide else np.int32)
    table = centres.containment_tables(30 * min(weights), *weights)  # so low that the continuous test counts too
    found = []
    for where in (on_host, place):
        there = where(squared)
        keep = np.empty_like(there, dtype=np.uint8)
        kept = centres.prune(there, table, *weights, keep)
        number, largest = centres.survey_cells(there, keep)
        packed = centres.pack_cells(there, keep, np.zeros((1, 3), np.int64), kept)
        out = np.empty_like(there, dtype=np.float32)
        thickness.to_thickness(there, 0.7, out)
        found.append([np.array(kept), number, largest, to_numpy(keep), *packed, to_numpy(out)])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


def table_by_definition(limit: int, weights: tuple[int, int, int]) -> Array:
    """One voxel after the other."""
    table = np.zeros((8, limit + 1), np.int64)
    for z, y, x in itertools.product(range(12), repeat=3):
        d = weights[0] * z * z + weights[1] * y * y + weights[2] * x * x + 1
        for kind in range(1, 8):
            vz, vy, vx = kind >> 2, kind >> 1 & 1, kind & 1
            moved = weights[0] * (z + vz) ** 2 + weights[1] * (y + vy) ** 2 + weights[2] * (x + vx) ** 2 + 1
            table[kind, d : limit + 1] = np.maximum(table[kind, d : limit + 1], moved)
    return table


@pytest.mark.parametrize("weights", [(1, 1, 1), (9, 1, 4), (2, 3, 3)])
def test_the_containment_tables_equal_their_definition(weights: tuple[int, int, int]) -> None:
    limit = 90
    assert np.array_equal(centres.containment_tables(limit, *weights), table_by_definition(limit, weights))


def test_a_removed_centre_lies_inside_another_ball() -> None:
    mask = noise((40, 40, 40), 3.0, 1)
    weights = (4, 1, 1)
    squared = squared_distance(mask, weights, closed=True)
    keep = np.empty(mask.shape, np.uint8)
    centres.prune(squared.astype(np.int32), centres.containment_tables(64, *weights), *weights, keep)
    dropped = np.argwhere(mask & (keep == 0) & (squared > 1))
    assert len(dropped) > 1000
    grids = np.ogrid[:40, :40, :40]
    for q in dropped[:: len(dropped) // 40]:
        d = squared[tuple(q)]
        from_q = sum(w * (g - c) ** 2 for w, g, c in zip(weights, grids, q, strict=True))
        inside = np.argwhere(from_q < d)
        owners = np.argwhere(squared > d)
        gaps = (np.array(weights) * (inside[None] - owners[:, None]) ** 2).sum(axis=2)
        assert (gaps < squared[tuple(owners.T)][:, None]).all(axis=1).any()


@given(seed=st.integers(0, 1000), labelled=st.booleans())
def test_tally_counts_every_pair(seed: int, *, labelled: bool) -> None:
    rng = np.random.default_rng(seed)
    radii = rng.integers(0, rng.choice([3, 4000]), (7, 5, 90)).astype(np.int32)
    region = rng.integers(0, 4, radii.shape).astype(np.uint16) if labelled else np.full((1, 1, 1), 7, np.uint16)
    label, radius, voxels = tally.count_pairs(radii, region)
    found = dict(zip(zip(label.tolist(), radius.tolist(), strict=True), voxels.tolist(), strict=True))
    pairs = np.stack([np.broadcast_to(region, radii.shape)[radii > 0], radii[radii > 0]], axis=1)
    values, counts = np.unique(pairs, axis=0, return_counts=True)
    assert found == {(int(a), int(b)): int(n) for (a, b), n in zip(values, counts, strict=True)}
    assert len(label) == len(found)
