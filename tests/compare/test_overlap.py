"""The overlap stage counts what is there, and its merged arrays are the same bytes for every blocking and order."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import overlap
from pipeline.errors import InputError
from pipeline.geometry import Box, Index
from pipeline.overlap import Contribution, merge, overlap_of_block, reading_box
from pipeline.wide_integers import carried, to_integer
from tests.compare.blockwise import Labels
from tests.compare.pairs import Grey, assert_equal, blockwise, images, label_pairs, whole


@st.composite
def cases(draw: st.DrawFn) -> tuple[Labels, Labels | None, Grey | None, Index, int]:
    reference, prediction = draw(label_pairs(largest=12))
    image = draw(st.none() | images(reference.shape))
    z, y, x = (draw(st.integers(max(1, n // 3), n + 1)) for n in reference.shape)
    return reference, draw(st.sampled_from([prediction, None])), image, (z, y, x), draw(st.integers(0, 99))


@given(cases())
@settings(max_examples=150)
def test_every_blocking_and_order_gives_the_arrays_of_the_whole(
    case: tuple[Labels, Labels | None, Grey | None, Index, int],
) -> None:
    reference, prediction, image, block_shape, seed = case
    assert_equal(blockwise(reference, prediction, image, block_shape, seed), merge(whole(reference, prediction, image)))


@given(cases())
@settings(max_examples=60)
def test_merging_one_block_changes_nothing(case: tuple[Labels, Labels | None, Grey | None, Index, int]) -> None:
    reference, prediction, image, _, _ = case
    alone = whole(reference, prediction, image)
    assert_equal(merge(alone), alone)


def positions(reference: Labels, prediction: Labels, pair: tuple[int, int]) -> npt.NDArray[np.bool_]:
    return np.asarray((reference == pair[0]) & (prediction == pair[1]))


@given(label_pairs(largest=10), st.data())
@settings(max_examples=150)
def test_pairs_are_those_of_the_voxels(pair: tuple[Labels, Labels], data: st.DataObject) -> None:
    reference, prediction = pair
    image = data.draw(images(reference.shape))
    found = whole(reference, prediction, image)
    ids = [[int(label) for label in volume.reshape(-1)] for volume in pair]
    expected = Counter(zip(*ids, strict=True))
    del expected[0, 0]
    assert found["volume-voxels"].tolist() == [reference.size]
    assert [tuple(labels) for labels in found["pair-labels"].tolist()] == sorted(expected)
    starts = [np.concatenate(([0], np.cumsum(found[name]))) for name in ("grey-powers", "grey-kinds")]
    for row, labels in enumerate(sorted(expected)):
        mask = positions(reference, prediction, labels)
        places = np.argwhere(mask)
        assert found["pair-voxels"][row] == expected[labels]
        assert [to_integer(limbs) for limbs in found["pair-sums"][row]] == places.sum(axis=0).tolist()
        assert found["pair-boxes"][row].tolist() == [places.min(axis=0).tolist(), (places.max(axis=0) + 1).tolist()]
        check_grey(found, row, [slice(s[row], s[row + 1]) for s in starts], image[mask])


def check_grey(found: Contribution, row: int, slices: list[slice], grey: Grey) -> None:
    """One pair against Python's fractions."""
    powers, kinds = slices
    values, counts = np.unique(grey, return_counts=True)
    np.testing.assert_array_equal(found["grey-values"][kinds], values)
    np.testing.assert_array_equal(found["grey-voxels"][kinds], counts)
    assert found["grey-extremes"][row].tolist() == [values[0], values[-1]]
    exact = [Fraction(value) for value in grey.tolist()]
    for columns, power in ((slice(0, 3), 1), (slice(3, 8), 2)):
        total = sum(
            to_integer(sums[columns]) * Fraction(2) ** (power * exponent)
            for sums, exponent in zip(found["grey-sums"][powers], found["grey-exponents"][powers].tolist(), strict=True)
        )
        assert total == sum(value**power for value in exact)


@given(label_pairs(largest=10))
@settings(max_examples=100)
def test_corner_codes_are_those_of_the_padded_volume(pair: tuple[Labels, Labels]) -> None:
    found = whole(*pair)
    for name, volume in zip(("reference", "prediction"), pair, strict=True):
        expected = {0: codes_of(volume != 0)} | {
            int(label): codes_of(volume == label) for label in np.unique(volume) if label
        }
        labels = found[f"{name}-corner-labels"].tolist()
        assert labels == sorted(expected)
        for label, counts in zip(labels, found[f"{name}-corner-codes"], strict=True):
            np.testing.assert_array_equal(counts, expected[label])


def codes_of(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Corners per code, but for 0 and 255, from eight shifted copies."""
    padded = np.pad(mask, 1).astype(np.int64)
    codes = np.zeros([n + 1 for n in mask.shape], np.int64)
    for bit, corner in enumerate(np.ndindex(2, 2, 2)):
        codes += padded[tuple(slice(c, c + n + 1) for c, n in zip(corner, mask.shape, strict=True))] << (7 - bit)
    counts = np.bincount(codes.reshape(-1), minlength=256)
    counts[[0, 255]] = 0
    return counts


def test_more_labels_than_any_table_begins_with() -> None:
    labels = (1 + np.random.default_rng(3).permutation(9**3)).reshape(9, 9, 9).astype(np.uint64) << np.uint64(40)
    found = whole(labels, labels.T.copy(), np.arange(9**3, dtype=np.int32).reshape(9, 9, 9))
    assert len(found["pair-labels"]) == 9**3
    assert (found["pair-voxels"] == 1).all()
    assert len(found["reference-corner-labels"]) == 9**3 + 1, "one of them stands for any label"
    single = codes_of(np.pad(np.ones((1, 1, 1), np.bool_), 1))
    assert (found["reference-corner-codes"][1:] == single).all()


def test_sums_outgrow_64_bits() -> None:
    far = whole(np.ones((2, 2, 2), np.uint8))
    far["pair-voxels"] = np.array([2**62])
    far["pair-sums"] = carried(np.array([[[0, 0, 2**40]] * 3]))
    both = merge(far, merge(far, far))
    assert [to_integer(limbs) for limbs in both["pair-sums"][0]] == [3 * 2**104] * 3


def test_a_block_of_the_largest_values_is_summed_exactly() -> None:
    labels = np.ones((40, 50, 60), np.bool_)
    for value in (2**64 - 1, 2**63):
        found = whole(labels, None, np.full(labels.shape, value, np.uint64))
        assert to_integer(found["grey-sums"][0, :3]) == labels.size * value
        assert to_integer(found["grey-sums"][0, 3:]) == labels.size * value**2


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
def test_slabs_do_not_show(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, (9, 8, 7)).astype(np.uint8)
    image = (1000 * rng.standard_normal(labels.shape)).astype(dtype)
    expected = whole(labels, None, image)
    monkeypatch.setattr(overlap, "SLAB_VOXELS", 100)
    assert_equal(whole(labels, None, image), expected)


@given(st.integers(0, 99), st.sampled_from([1, 3, 20]))
@settings(max_examples=40)
def test_too_many_grey_values_are_too_many_for_every_blocking(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (6, 5, 7)).astype(np.uint8)
    image = (rng.integers(0, 12, labels.shape) * labels).astype(np.float32)
    z, y, x = rng.integers(1, 7, 3).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "MOST_VALUES", most)
        patch.setattr(overlap, "SLAB_VOXELS", 60)
        found = whole(labels, None, image)
        assert_equal(blockwise(labels, None, image, (z, y, x), seed), found)
    kinds = [len(np.unique(image[labels == label])) for label in (1, 2, 3)]
    assert found["grey-kinds"].tolist() == [n if n <= most else -1 for n in kinds]


def test_a_volume_that_is_not_contiguous_is_read_as_it_is() -> None:
    rng = np.random.default_rng(6)
    volume = rng.integers(0, 3, (9, 8, 7)).astype(">u4")
    plain = np.ascontiguousarray(volume[::2, :, ::-1], np.uint32)
    assert_equal(whole(volume[::2, :, ::-1], None), whole(plain))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8"])
@pytest.mark.parametrize("name", ["reference", "prediction"])
def test_negative_labels_are_refused(dtype: str, name: str) -> None:
    good, bad = np.ones((3, 3, 3), np.uint8), np.ones((3, 3, 3), dtype)
    bad[1, 1, 1] = -7
    pair = (bad, good) if name == "reference" else (good, bad)
    with pytest.raises(InputError, match=f"The {name} has the label -7"):
        whole(*pair)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_grey_values_that_are_not_finite_are_refused_inside_a_label_only(value: float) -> None:
    labels = np.zeros((3, 3, 3), np.uint16)
    labels[1, 1, 1:] = 500
    image = np.zeros((3, 3, 3), np.float32)
    image[0, 0, 0] = value
    assert whole(labels, None, image)["grey-values"].tolist() == [0.0]
    image[1, 1, 1] = value
    with pytest.raises(InputError, match=r"a value that is not finite .* inside label 500 of the reference"):
        whole(labels, None, image)
    with pytest.raises(InputError, match=r"label 500 of the prediction"):
        whole(np.zeros_like(labels), labels, image)


def test_types_without_order_are_refused() -> None:
    labels = np.ones((2, 2, 2), np.uint8)
    with pytest.raises(InputError, match="complex64"):
        whole(labels, None, np.zeros(labels.shape, np.complex64))
    with pytest.raises(InputError, match="float32"):
        whole(labels.astype(np.float32))


def test_a_block_needs_its_voxel_on_the_low_side() -> None:
    assert reading_box(Box((0, 4, 8), (4, 8, 12))) == Box((0, 3, 7), (4, 8, 12))
    labels = np.ones((4, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="needs arrays of"):
        overlap_of_block(labels, None, box=Box((4, 0, 0), (8, 4, 4)), shape=(8, 4, 4))
