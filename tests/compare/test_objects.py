"""Objects and their matches: equal to plain definitions, whatever the blocks."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.components import CONNECTIVITIES, Connectivity
from pipeline.geometry import Index
from pipeline.measures.objects import NO_MATCH, NO_OBJECTS, object_measures
from pipeline.objects import ALL, ObjectTally
from tests.compare.blockwise import cut_volumes, labels_in, measured_objects, plain_objects
from tests.phantoms import noise

Labels = npt.NDArray[Any]
Pair = tuple[Labels, Labels]
PlainObjects = list[tuple[int, npt.NDArray[np.bool_]]]


@st.composite
def pairs(draw: st.DrawFn, *, largest: int) -> tuple[Pair, Index]:
    """A volume, the same with some voxels or a slab changed, and a shape of blocks."""
    reference, block_shape = draw(cut_volumes(largest=largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    changed = rng.random(reference.shape) < draw(st.sampled_from([0.0, 0.1, 0.5]))
    prediction = np.where(changed, rng.permutation(reference.reshape(-1)).reshape(reference.shape), reference)
    if draw(st.booleans()):
        prediction = np.roll(prediction, 1, axis=2)
    if draw(st.booleans()):
        prediction[rng.integers(0, reference.shape[0]) :] = 0
    if draw(st.booleans()):
        prediction, reference = reference, prediction
    return (reference, prediction), block_shape


def plain_matching(reference: PlainObjects, prediction: PlainObjects) -> tuple[Fraction, int, int, int]:
    """Σ IoU of the matches, their number, and the objects of either side that share a voxel with one of the other."""
    overlap, matched = Fraction(0), 0
    hit: tuple[set[int], set[int]] = (set(), set())
    for i, (label, a) in enumerate(reference):
        for j, (other, b) in enumerate(prediction):
            intersection = int((a & b).sum())
            if label == other and intersection:
                iou = Fraction(intersection, int((a | b).sum()))
                overlap, matched = (overlap + iou, matched + 1) if iou > Fraction(1, 2) else (overlap, matched)
                hit[0].add(i)
                hit[1].add(j)
    return overlap, matched, len(hit[0]), len(hit[1])


def check(tally: ObjectTally, sides: list[PlainObjects], category: int | None) -> None:
    """Measures of a tally against the definition."""
    measures = object_measures(tally, category)
    reference, prediction = sides
    overlap, matched, reference_hit, prediction_hit = plain_matching(reference, prediction)
    r, p = len(reference), len(prediction)
    assert (measures["reference_objects"], measures["prediction_objects"]) == (r, p)
    assert measures["matched_objects"] == matched
    nan = pytest.approx(math.nan, nan_ok=True)
    wrong = Fraction(p - matched, 2) + Fraction(r - matched, 2)
    assert measures["panoptic_quality"] == (pytest.approx(float(overlap / (matched + wrong))) if r + p else nan)
    assert measures["recognition_quality"] == (float(matched / (matched + wrong)) if r + p else nan)
    assert measures["segmentation_quality"] == (pytest.approx(float(overlap / matched)) if matched else nan)
    assert measures["lesion_recall"] == (reference_hit / r if r else nan)
    assert measures["lesion_precision"] == (prediction_hit / p if p else nan)
    f1 = 2 * reference_hit + (p - prediction_hit) + (r - reference_hit)
    assert measures["lesion_f1"] == (2 * reference_hit / f1 if f1 else nan)
    undefined = {name for name, value in measures.items() if isinstance(value, float) and math.isnan(value)}
    assert set(measures["reasons"]) == undefined


@given(cut=pairs(largest=9), connectivity=st.sampled_from(CONNECTIVITIES))
def test_components_as_objects(cut: tuple[Pair, Index], connectivity: Connectivity) -> None:
    pair, block_shape = cut
    tally = measured_objects(pair, block_shape, connectivity).tally
    sides = [plain_objects(side, connectivity) for side in pair]
    check(tally, sides, None)
    for label in {*labels_in(pair[0]), *labels_in(pair[1])}:
        check(tally, [[one for one in side if one[0] == label] for side in sides], label)


@given(cut=pairs(largest=9))
def test_labels_as_objects_meet_whatever_their_numbers(cut: tuple[Pair, Index]) -> None:
    pair, block_shape = cut
    tally = measured_objects(pair, block_shape, labels_are_objects=True).tally
    sides = [[(ALL, side == label) for label in labels_in(side)] for side in pair]
    check(tally, sides, None)
    check(tally, sides, ALL)


@pytest.mark.parametrize("labels_are_objects", [False, True])
@pytest.mark.parametrize("block_shape", [(7, 11, 13), (5, 30, 4), (1, 9, 30)])
def test_blocks_do_not_show(block_shape: Index, labels_are_objects: bool) -> None:
    names = np.array([0, 3, 2**33], np.int64)
    pair = tuple(
        names[noise((20, 26, 23), 1.0, seed, share=0.6) * (1 + noise((20, 26, 23), 3.0, 7))] for seed in (1, 2)
    )
    pair = (pair[0], np.where(noise((20, 26, 23), 2.0, 9, share=0.3), pair[0], pair[1]))
    whole = measured_objects(pair, (20, 26, 23), labels_are_objects=labels_are_objects)
    cut = measured_objects(pair, block_shape, labels_are_objects=labels_are_objects)
    for name, array in whole.tally.arrays().items():
        assert np.array_equal(array, cut.tally.arrays()[name]), name
    assert object_measures(cut.tally) == object_measures(whole.tally)
    assert whole.tally.objects.sum() >= (8 if labels_are_objects else 20)
    assert len(whole.tally.matches) > 0
    for a, b in ((whole.reference, cut.reference), (whole.prediction, cut.prediction)):
        rows = [sorted(zip(d.label.tolist(), d.description.tolist(), strict=True)) for d in (a, b)]
        assert rows[0] == rows[1]


@given(cut=cut_volumes(largest=11), connectivity=st.sampled_from(CONNECTIVITIES))
def test_voxels_sums_and_boxes(cut: tuple[Labels, Index], connectivity: Connectivity) -> None:
    labels, block_shape = cut
    found = measured_objects((labels, labels), block_shape, connectivity).reference
    expected = []
    for label, mask in plain_objects(labels, connectivity):
        at = np.argwhere(mask)
        expected.append((label, [len(at), *at.sum(axis=0), *at.min(axis=0), *(at.max(axis=0) + 1)]))
    rows = zip(found.label.tolist(), found.description.tolist(), strict=True)
    assert sorted(rows) == sorted((label, [int(v) for v in row]) for label, row in expected)


def test_a_closed_object_meets_two_pieces_that_are_one_elsewhere() -> None:
    """A horseshoe leaves two open pieces in the second block, where one closed predicted object covers both."""
    reference = np.zeros((1, 3, 20), np.uint8)
    reference[0, [0, 2], 7:15] = 1
    reference[0, 1, 7] = 1
    prediction = np.zeros_like(reference)
    prediction[0, [0, 2], 9:15] = 1
    prediction[0, 1, 14] = 1
    tally = measured_objects((reference, prediction), (1, 3, 8)).tally
    assert tally.matches.tolist() == [[12, 18, 1]]
    assert tally.objects.tolist() == [[1, 1, 1, 1]]


def test_iou_of_one_half_is_no_match() -> None:
    reference = np.zeros((1, 1, 8), np.uint8)
    reference[..., :4] = 1
    prediction = np.zeros_like(reference)
    prediction[..., :2] = 1
    tally = measured_objects((reference, prediction), (1, 1, 3)).tally
    assert len(tally.matches) == 0
    assert object_measures(tally)["reasons"] == {"segmentation_quality": NO_MATCH}
    prediction[..., 2] = 1
    tally = measured_objects((reference, prediction), (1, 1, 3)).tally
    assert tally.matches.tolist() == [[3, 4, 1]]
    assert object_measures(tally)["panoptic_quality"] == 0.75


def test_no_objects_and_a_label_of_one_side() -> None:
    empty = np.zeros((3, 4, 5), np.uint16)
    nothing = object_measures(measured_objects((empty, empty), (2, 2, 2)).tally)
    ratios = {name for name, value in nothing.items() if isinstance(value, float)}
    assert nothing["reasons"] == dict.fromkeys(ratios, NO_OBJECTS)
    one = empty.copy()
    one[1, 1, 1] = 700
    measures = object_measures(measured_objects((empty, one), (2, 2, 2)).tally, 700)
    assert (measures["panoptic_quality"], measures["lesion_f1"], measures["lesion_precision"]) == (0, 0, 0)
    assert set(measures["reasons"]) == {"segmentation_quality", "lesion_recall"}


@given(cut=pairs(largest=5), other=pairs(largest=5))
def test_tallies_merge_in_any_order(cut: tuple[Pair, Index], other: tuple[Pair, Index]) -> None:
    a, b = (measured_objects(*one).tally for one in (cut, other))
    both = ObjectTally.merged((a, b)).arrays()
    for name, array in ObjectTally.merged((b, ObjectTally.merged((a,)))).arrays().items():
        assert np.array_equal(array, both[name])
    assert both["final-objects"].sum() == a.objects.sum() + b.objects.sum()
