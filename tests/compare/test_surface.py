"""The tally of surfaces equals its definition, for every blocking."""

from __future__ import annotations

import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import distance, surface
from pipeline.geometry import BlockGrid, Box, Index, VoxelSize
from pipeline.kernels.surface import UNREACHABLE
from pipeline.ledger import Ledger
from pipeline.surface import CornerGrid, LabelSurfaces, SurfaceTally
from tests.compare.surfaces import (
    Mask,
    blocks_at_most,
    expected_layers,
    expected_rows,
    layers_of,
    measured_tally,
    rows_of,
)
from tests.phantoms import SPACINGS, ball, masks, noise

WIDTHS = (1, 2, 4)


@st.composite
def pairs(draw: st.DrawFn, *, largest: int = 20) -> tuple[Mask, Mask]:
    """Pairs of one shape: unrelated, shifted, a voxel against a mask, two far voxels, empty ones."""
    reference = draw(masks(largest=largest))
    kind = draw(st.sampled_from(["other", "shifted", "voxel", "far", "empty", "same"]))
    prediction = np.zeros_like(reference)
    seed = draw(st.integers(0, 2**16))
    z, y, x = reference.shape
    if kind == "other":
        prediction = noise((z, y, x), draw(st.sampled_from([0.0, 1.0, 2.5])), seed, share=0.65)
    elif kind == "shifted":
        prediction = np.roll(reference, draw(st.tuples(*[st.integers(-3, 3)] * 3)), (0, 1, 2))
    elif kind == "voxel":
        prediction[tuple(np.random.default_rng(seed).integers(0, n) for n in reference.shape)] = True
    elif kind == "far":
        reference = np.zeros_like(reference)
        reference[0, 0, 0] = True
        prediction[-1, -1, -1] = True
    elif kind == "same":
        prediction = reference.copy()
    return (reference, prediction) if draw(st.booleans()) else (prediction, reference)


def blockings(shape: tuple[int, ...]) -> st.SearchStrategy[Index]:
    """Odd block shapes down to 3³, at most 30 blocks, and the whole."""
    z, y, x = shape
    return st.tuples(*(st.sampled_from([3, 5, 8, 11, 40]) for _ in range(3))).filter(
        lambda b: blocks_at_most((z, y, x), b, 30)
    )


@settings(max_examples=60)
@given(data=st.data())
def test_every_blocking_equals_the_definition(data: st.DataObject) -> None:
    reference, prediction = data.draw(pairs())
    spacing = data.draw(st.sampled_from(SPACINGS))
    block_shape = data.draw(blockings(reference.shape))
    loose = data.draw(st.booleans())
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(distance, "FACE_VOXELS", data.draw(st.sampled_from([1, 2, 4, 32])))
        tally = measured_tally(Path(folder), reference, prediction, block_shape, spacing, WIDTHS, loose=loose)
    assert rows_of(tally) == expected_rows(reference, prediction, VoxelSize(spacing).weights)
    assert layers_of(tally) == expected_layers(reference, prediction, WIDTHS)


def test_distances_over_many_blocks(tmp_path: Path) -> None:
    """Two balls in opposite corners: rows, planes and whole layers of blocks without an element lie between."""
    reference, prediction = np.zeros((2, 40, 44, 90), np.bool_)
    reference[:9, :9, :9] = ball((9, 9, 9), 4)
    prediction[-7:, -5:, -8:] = ball((7, 5, 8), 2.5)
    tally = measured_tally(tmp_path, reference, prediction, (10, 12, 9), (3.0, 0.7, 0.7), WIDTHS)
    assert rows_of(tally) == expected_rows(reference, prediction, VoxelSize((3.0, 0.7, 0.7)).weights)
    assert layers_of(tally) == expected_layers(reference, prediction, WIDTHS)


def test_boundary_wider_than_blocks(tmp_path: Path) -> None:
    reference, prediction = noise((30, 27, 33), 4.0, 1), noise((30, 27, 33), 4.0, 2)
    widths = (3, 11, 64)
    tally = measured_tally(tmp_path, reference, prediction, (8, 10, 7), (1.0, 1.0, 1.0), widths)
    assert layers_of(tally) == expected_layers(reference, prediction, widths)


def test_weights_that_need_int64(tmp_path: Path) -> None:
    reference, prediction = np.zeros((2, 12, 20, 17), np.bool_)
    reference[:3] = noise((3, 20, 17), 1.5, 2)
    prediction[9:] = noise((3, 20, 17), 1.5, 3)
    spacing = (30.0, 0.97656, 0.97656)
    tally = measured_tally(tmp_path, reference, prediction, (5, 9, 17), spacing)
    assert tally.rows[1].max() > 2**31
    assert rows_of(tally) == expected_rows(reference, prediction, VoxelSize(spacing).weights)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_label_in_one_volume_only_is_infinitely_far(tmp_path: Path, swapped: bool) -> None:
    mask, nothing = ball((11, 12, 13), 4), np.zeros((11, 12, 13), np.bool_)
    reference, prediction = (nothing, mask) if swapped else (mask, nothing)
    tally = measured_tally(tmp_path, reference, prediction, (4, 5, 6), (1.0, 1.0, 1.0), WIDTHS)
    assert set(tally.rows[0].tolist()) == ({1, 3} if swapped else {0, 2})
    assert set(tally.rows[1].tolist()) == {UNREACHABLE}
    assert layers_of(tally) == expected_layers(reference, prediction, WIDTHS)


def test_blocks_that_nobody_asks_leave_no_parabolas(tmp_path: Path) -> None:
    """Passing on is decided by boxes alone, so that a block which exports nothing is never asked."""
    reference, prediction = np.zeros((2, 8, 8, 40), np.bool_)
    reference[2:5, 2:5, 1:4] = True
    prediction[2:5, 2:5, 33:38] = True
    grid = BlockGrid((8, 8, 40), (8, 8, 8))
    held = [Box((2, 2, 1), (5, 5, 4)), Box((2, 2, 33), (5, 5, 38))]
    label = LabelSurfaces("1", grid, held[0], held[1], VoxelSize((1.0, 1.0, 1.0)), Ledger(tmp_path))
    sizes = []
    for block in grid:
        read = label.reading_box(block).slices
        arrays = dict(surface.find_elements(label, block, reference[read], prediction[read]))
        label.ledger.commit("surface", block, {}, arrays)
        sizes.append(sum(1 for name in arrays if name.endswith("-counts")))
        assert dict(surface.face_neighbours(label, block, axes=1)) == {}
        assert dict(surface.face_neighbours(label, block, axes=2)) == {}
    assert sizes == [4, 0, 0, 0, 4]


def test_corners_belong_to_one_block_each() -> None:
    label = LabelSurfaces(
        "1", BlockGrid((20, 21, 22), (8, 9, 10)), Box((3, 0, 9), (20, 9, 21)), None, VoxelSize((1.0, 1.0, 1.0)),
        Ledger(Path()),
    )  # fmt: skip
    grid = CornerGrid(label.blocks)
    owners = np.zeros(grid.shape, np.int64)
    for block in label.grid:
        owners[grid.box(block).slices] += 1
        assert label.touches(block) == (grid.box(block).voxels > 0)
    assert grid.shape == (18, 10, 13)
    assert (owners == 1).all()


def test_merging_does_not_depend_on_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    tallies = [
        SurfaceTally.of_rows(
            np.stack((rng.integers(0, 4, 50), rng.integers(0, 9, 50), rng.integers(0, 3, 50), rng.integers(1, 9, 50))),
            rng.integers(0, 99, (2, 3, 2)),
        )
        for _ in range(7)
    ]
    whole = surface.merged(tallies, 3)
    monkeypatch.setattr(surface, "ROWS_PER_MERGE", 60)
    assert surface.merged(reversed(tallies), 3) == whole
    assert whole.rows[3].sum() == sum(t.rows[3].sum() for t in tallies)
    assert surface.merged([], 3) == SurfaceTally.empty(3)
    assert whole != surface.merged(tallies[:-1], 3)


def test_a_label_travels_to_workers(tmp_path: Path) -> None:
    label = LabelSurfaces(
        "1", BlockGrid((20, 21, 22), (8, 9, 10)), Box((3, 0, 9), (20, 9, 21)), None, VoxelSize((1.0, 1.0, 1.0)),
        Ledger(tmp_path), (1, 2),
    )  # fmt: skip
    assert label.crop == Box((3, 0, 9), (20, 9, 21))  # what is remembered travels too
    copy: Any = pickle.loads(pickle.dumps(label))
    assert copy == label


@pytest.mark.parametrize("width", [0, 65])
def test_widths_beyond_the_limit_are_refused(width: int) -> None:
    with pytest.raises(ValueError, match="1 to 64 voxels"):
        LabelSurfaces(
            "1", BlockGrid((2, 2, 2), (2, 2, 2)), Box((0, 0, 0), (1, 1, 1)), None, VoxelSize((1.0, 1.0, 1.0)),
            Ledger(Path()), (1, width),
        )  # fmt: skip


def test_a_label_in_neither_volume_is_refused() -> None:
    with pytest.raises(ValueError, match="neither volume"):
        LabelSurfaces("7", BlockGrid((2, 2, 2), (2, 2, 2)), None, None, VoxelSize((1.0, 1.0, 1.0)), Ledger(Path()))
