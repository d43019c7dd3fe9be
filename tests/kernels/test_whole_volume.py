"""Distance, pruning and gathering of a whole volume in one piece equal the definition, for both integer types."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry import VoxelSize
from pipeline.kernels import centres, distance, tally, thickness
from pipeline.kernels.reference import squared_distance, squared_local_radius
from tests.phantoms import SPACINGS, Mask, masks, noise


def by_kernels(mask: Mask, weights: tuple[int, int, int], dtype: Any, *, closed: bool) -> tuple[Any, Any]:
    """Squared distance and squared local radius of a volume by the kernels alone."""
    size_z, _, size_x = mask.shape
    infinity = distance.unreached(dtype)
    squared = np.empty(mask.shape, dtype)
    views = {2: squared.reshape(-1, size_x, 1), 1: squared, 0: squared.reshape(1, size_z, -1)}
    for axis in (2, 1, 0):
        if axis == 2:
            distance.distance_along_lines(mask.view(np.uint8), weights[2], infinity, squared)
        else:
            distance.envelope_along_columns(views[axis], weights[axis], infinity)
        if closed:
            distance.relax_wall(views[axis], weights[axis], 1, False)
            distance.relax_wall(views[axis], weights[axis], 1, True)
    keep = np.empty(mask.shape, np.uint8)
    centres.prune(squared, centres.containment_tables(64**2 * min(weights), *weights), *weights, keep)
    starts = np.argwhere(np.ones([-(-n // centres.CELL) for n in mask.shape])) * centres.CELL
    counts = np.empty((len(starts), centres.BRICKS_PER_CELL), np.uint16)
    packed: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
    for i, (z, y, x) in enumerate(starts.tolist()):
        n = centres.count_kept(keep, z, y, x)
        packed.append((np.empty(n, dtype), np.empty(n, np.uint16)))
        centres.pack_cell(squared, keep, z, y, x, counts[i], *packed[-1])
    centre_d, position = (np.concatenate(parts) for parts in zip(*packed, strict=True))
    radii = np.empty(mask.shape, dtype)
    seal = thickness.sealed(dtype)
    thickness.seal(mask.view(np.uint8), min(weights), seal, radii)
    origin = np.zeros(3, np.int64)
    thickness.gather(radii, origin, starts.astype(np.int64), counts, centre_d, position, *weights, seal)
    thickness.unseal(radii, seal)
    return squared, radii


@settings(max_examples=60)
@given(
    mask=masks(largest=22), spacing=st.sampled_from(SPACINGS), closed=st.booleans(),
    dtype=st.sampled_from([np.int32, np.int64]),
)  # fmt: skip
def test_equals_the_definition(mask: Mask, spacing: tuple[float, float, float], *, closed: bool, dtype: Any) -> None:
    if mask.all() and not closed:
        return
    weights = VoxelSize(spacing).weights
    squared, radii = by_kernels(mask, weights, dtype, closed=closed)
    assert np.array_equal(squared, squared_distance(mask, weights, closed=closed))
    assert np.array_equal(radii, squared_local_radius(mask, weights, closed=closed))


@pytest.mark.parametrize("shape", [(6, 9, 131), (7, 66, 10), (66, 5, 17)])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_bricks_cells_and_tiles_do_not_show(shape: tuple[int, int, int], share: float) -> None:
    mask = noise(shape, 2.0, 5, share=share)
    squared, radii = by_kernels(mask, (1, 1, 1), np.int32, closed=False)
    assert np.array_equal(squared, squared_distance(mask, (1, 1, 1), closed=False))
    assert np.array_equal(radii, squared_local_radius(mask, (1, 1, 1), closed=False))


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
