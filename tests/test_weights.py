"""The integer weights of squared distances: exact where they are small, else within 5e-7 of every ratio; one rule."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.geometry import BlockGrid, Box, VoxelSize
from pipeline.job import distance_dtype
from pipeline.ledger import Ledger
from pipeline.surface import CropGrid, LabelSurfaces
from pipeline.weights import (
    LARGEST_SQUARED_DISTANCE,
    TOLERANCE,
    decimals,
    exact_weights,
    largest_squared_distance,
    rounded_weights,
)
from tests.voxel_sizes import Size, sizes

CT = (2500.0, 789.062, 789.062)
CT_SHAPE = (116, 512, 512)


def spread(weights: tuple[int, int, int], um: Size) -> Fraction:
    """How far, relatively, ratios of weights are from those of the squared spacings, at most."""
    shares = [w / spacing**2 for w, spacing in zip(weights, decimals(um), strict=True)]
    return max(shares) / min(shares) - 1


def test_every_clinical_grid_is_accepted() -> None:
    """Fields of view of 150 to 500 mm in 512 voxels with six decimals, as DICOM writes them, and usual slices."""
    grids, narrow, exact = 0, 0, 0
    for field_of_view, slices in itertools.product(range(150, 501), (0.625, 0.7, 1, 1.25, 1.5, 2, 2.5, 3, 5)):
        pixel = float(f"{round(field_of_view / 512, 6) * 1000:.12g}")
        um = (slices * 1000, pixel, pixel)
        for number in (100, 300):
            size = VoxelSize(um).for_distances((number, 512, 512))
            assert spread(size.weights, um) <= TOLERANCE
            assert size.largest_rounding <= 1.26e-7
            grids += 1
            narrow += distance_dtype((number, 512, 512), size) == np.int32
            exact += size.largest_rounding == 0
    assert (grids, exact) == (6318, 6318 - 4735)  # 4,735 have too many digits for exact weights
    assert narrow > 5000


@pytest.mark.parametrize(
    ("um", "weights", "unit"),
    [
        ((7.5, 7.5, 7.5), (1, 1, 1), 7.5),
        ((3.0, 0.7, 0.7), (900, 49, 49), 0.1),
        ((1.0, 2.0, 3.0), (1, 4, 9), 1.0),
        ((5000.0, 703.125, 703.125), (4096, 81, 81), 78.125),
        ((3.0, 0.97656, 0.97656), (12500**2, 4069**2, 4069**2), 2.4e-4),
    ],
)
def test_few_digits_are_exact(um: Size, weights: tuple[int, int, int], unit: float) -> None:
    size = VoxelSize(um).for_distances((512, 512, 512) if weights[0] < 1e6 else (12, 20, 17))
    assert (size.weights, size.unit_um, size.largest_rounding) == (weights, unit, 0.0)


def test_exactness_comes_before_32_bits() -> None:
    """What was measured exactly stays so, although rounded weights would fit 32 bits."""
    um, shape = (1000.0, 820.312, 820.312), (100, 512, 512)
    size = VoxelSize(um).for_distances(shape)
    assert size.weights == exact_weights(um).of_axes
    assert distance_dtype(shape, size) == np.int64
    assert largest_squared_distance(rounded_weights(um).of_axes, shape) < 2**31


@pytest.mark.parametrize(
    ("um", "weights"),
    [
        ((7.5, 7.5000001, 7.4999999), (1, 1, 1)),
        ((float(np.float32(0.7)), 0.7, float(np.float32(0.7))), (1, 1, 1)),
        ((1.0, 0.3333333333333333, 0.3333333333333333), (9, 1, 1)),
        ((19.498000001, 19.498, 19.498), (1, 1, 1)),
    ],
)
def test_noise_on_simple_ratios_goes(um: Size, weights: tuple[int, int, int]) -> None:
    size = VoxelSize(um).for_distances((20, 20, 20))
    assert size.weights == weights
    assert size.unit_um * np.sqrt(weights) == pytest.approx(um, rel=1.3e-7)


def test_what_is_no_noise_stays() -> None:
    size = VoxelSize((7.5, 7.5, 7.50001)).for_distances((20, 20, 20))
    assert size.weights[0] == size.weights[1] < size.weights[2]
    assert spread(size.weights, size.um) <= TOLERANCE


@given(sizes(), st.tuples(*[st.integers(1, 2000)] * 3))
def test_any_size_is_refused_only_beyond_2_53(um: Size, shape: tuple[int, int, int]) -> None:
    rounded = rounded_weights(um)
    try:
        size = VoxelSize(um).for_distances(shape)
    except InputError:
        assert largest_squared_distance(rounded.of_axes, shape) >= LARGEST_SQUARED_DISTANCE
        return
    assert largest_squared_distance(size.weights, shape) < LARGEST_SQUARED_DISTANCE
    assert size.um == um
    assert spread(size.weights, um) <= TOLERANCE
    of_axes = [abs(size.unit_um * w**0.5 / v - 1) for w, v in zip(size.weights, um, strict=True)]
    assert max(of_axes) == pytest.approx(size.largest_rounding, abs=1e-14)
    assert size.largest_rounding < float(TOLERANCE) / 4 * 1.001


@given(sizes(most=20.0))
def test_no_smaller_integers_do(um: Size) -> None:
    found = rounded_weights(um).of_axes
    assert spread(found, um) <= TOLERANCE
    finest = min(decimals(um))
    squares = [(spacing / finest) ** 2 for spacing in decimals(um)]
    for least in range(1, min(*found, 300)):
        in_z, in_y, in_x = ({int(least * square), int(least * square) + 1} for square in squares)
        assert all(
            spread(weights, um) > TOLERANCE for weights in itertools.product(in_z, in_y, in_x) if min(weights) == least
        ), least


@given(sizes(), st.permutations(range(3)), st.sampled_from(["1e-3", "1e3", "25400"]))
def test_axes_may_be_permuted_and_units_changed(um: Size, order: list[int], factor: str) -> None:
    weights = rounded_weights(um)
    permuted = rounded_weights((um[order[0]], um[order[1]], um[order[2]]))
    assert permuted.of_axes == tuple(weights.of_axes[axis] for axis in order)
    assert permuted[1:] == weights[1:]
    scaled = [float(spacing * Fraction(factor)) for spacing in decimals(um)]
    if [spacing * Fraction(factor) for spacing in decimals(um)] == list(decimals((scaled[0], scaled[1], scaled[2]))):
        assert rounded_weights((scaled[0], scaled[1], scaled[2])).of_axes == weights.of_axes


def test_what_no_integers_hold_is_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match=r"1 × 1 × 1000000000 µm .* beyond 2\^53 .* 8 × 8 × 8 voxels"):
        VoxelSize((1.0, 1.0, 1e9)).for_distances((8, 8, 8))
    assert VoxelSize((1e-300, 1.0, 1e300)).um == (1e-300, 1.0, 1e300)  # where no distance is formed nothing is asked
    with pytest.raises(InputError, match="beyond 2"):
        VoxelSize((1e-300, 1.0, 1e300)).for_distances((8, 8, 8))


def test_a_small_label_of_a_large_volume_has_the_weights_of_the_volume() -> None:
    size = VoxelSize(CT).for_distances(CT_SHAPE)
    assert size.weights == (5250, 523, 523)
    box = Box((3, 3, 3), (5, 5, 5))
    for block_shape in ((8, 512, 512), (116, 64, 64)):
        label = LabelSurfaces("1", BlockGrid(CT_SHAPE, block_shape), box, box, size, Ledger(None))  # type: ignore[arg-type]
        assert CropGrid(label.grid, box).shape == (2, 2, 2)
        assert label.field("voxels", "reference").weights == size.weights
        assert label.dtype == np.int32
