"""Point files and the BugNIST score, against the definition on every assignment."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.errors import InputError
from pipeline.geometry import Index
from pipeline.measures.detections import NO_POINTS, Point, bugnist_score, points_of, read_points, write_points
from pipeline.objects import Described
from tests.compare.blockwise import STRUCTURE, cut_volumes, labels_in, measured_objects

coordinates = st.integers(0, 6).map(float)
points = st.lists(
    st.builds(
        Point, st.sampled_from(["a", "b"]), st.sampled_from(["AC", "bl"]), st.tuples(*[coordinates] * 3)
    ),
    max_size=8,
)  # fmt: skip
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=1)
reals = st.floats(allow_nan=False, allow_infinity=False)


@given(table=st.lists(st.builds(Point, names, names, st.tuples(reals, reals, reals))))
def test_a_point_file_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, table: list[Point]) -> None:
    path = tmp_path_factory.mktemp("points") / "points.csv"
    write_points(path, table)
    assert read_points(path) == table


def test_columns_in_any_order_and_others_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_bytes('\ufeffX, y ,z,score,Class,volume\r\n1,2,3.5,0.9,AC,"one, two"\r\n\r\n'.encode())
    assert read_points(path) == [Point("one, two", "AC", (3.5, 2.0, 1.0))]


HEADER = b"volume,class,z,y,x\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"line 1: the header must name volume, class, z, y, x once each"),
        (b"volume,class,z,y\n", r"line 1: .* but x is missing"),
        (b"volume,class,z,z,y\n", r"line 1: .* but z, x are missing or named twice"),
        (HEADER + b"a,AC,1,2,3\na,AC,1,2\n", r"line 3: 4 values, but the header names 5 columns"),
        (HEADER + b"a,AC,1,two,3\n", r"line 2: y is 'two', not a finite number"),
        (HEADER + b"a,AC,nan,2,3\n", r"line 2: z is 'nan', not a finite number"),
        (HEADER + b"a,AC,1,2,inf\n", r"line 2: x is 'inf', not a finite number"),
        (HEADER + b"a,,1,2,3\n", r"line 2: the class is empty"),
        (HEADER + b"\n ,AC,1,2,3\n", r"line 3: the volume is empty"),
        (HEADER + b'a,"AC,1,2,3\n', r"line 2: this is not CSV"),
        (HEADER + b"a,\xff,1,2,3\n", r"line 2: this is not UTF-8"),
    ],
)
def test_a_bad_point_file_is_one_sentence_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "points.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_points(path)
    assert str(caught.value).startswith(f"{path}, line ")
    assert "\n" not in str(caught.value)


def test_a_missing_point_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.csv cannot be read"):
        read_points(tmp_path / "nothing.csv")


def distance(a: Point, b: Point) -> float:
    return math.dist(a.position, b.position)


def best_f1(reference: list[Point], prediction: list[Point]) -> set[float]:
    """F1 of every shortest assignment of one volume, by trying all."""
    few, many = sorted((reference, prediction), key=len)
    lengths = [
        (sum(map(distance, few, chosen)), sum(a.category == b.category for a, b in zip(few, chosen, strict=True)))
        for chosen in itertools.permutations(many, len(few))
    ]
    shortest = min(length for length, _ in lengths)
    found = set()
    for length, true_positives in lengths:
        if math.isclose(length, shortest, rel_tol=1e-12, abs_tol=1e-12):
            precision = true_positives / len(prediction) if prediction else 0
            recall = true_positives / len(reference) if reference else 0
            found.add(2 * precision * recall / (precision + recall + 1e-6))
    return found


@given(reference=points, prediction=points)
def test_the_score_is_that_of_a_shortest_assignment(reference: list[Point], prediction: list[Point]) -> None:
    reference, prediction = reference[:5], prediction[:5]
    result = bugnist_score(reference, prediction)
    json.dumps(result, allow_nan=False)
    volumes = {p.volume for p in reference + prediction}
    assert set(result["volumes"]) == volumes
    for name, found in result["volumes"].items():
        sides = [[p for p in side if p.volume == name] for side in (reference, prediction)]
        assert min(abs(found["f1"] - f1) for f1 in best_f1(*sides)) < 1e-12
    if volumes:
        assert result["score"] == pytest.approx(np.mean([v["f1"] for v in result["volumes"].values()]))
    else:
        assert result["score"] is None
        assert result["reasons"] == {"score": NO_POINTS}


@given(reference=points, prediction=points, seed=st.integers(0, 99))
def test_the_order_of_lines_does_not_matter(reference: list[Point], prediction: list[Point], seed: int) -> None:
    rng = np.random.default_rng(seed)
    mixed = [[side[i] for i in rng.permutation(len(side))] for side in (reference, prediction)]
    assert repr(bugnist_score(mixed[0], mixed[1])) == repr(bugnist_score(reference, prediction))


def test_the_assignment_is_blind_to_classes_and_has_no_gate() -> None:
    reference = [Point("v", "AC", (0, 0, 0)), Point("v", "BL", (0, 0, 10))]
    crossed = [Point("v", "BL", (0, 0, 1)), Point("v", "AC", (0, 0, 9))]
    assert bugnist_score(reference, crossed)["score"] == 0
    far = [Point("v", "ac", (0, 900, 0)), Point("v", "bl", (0, 900, 10))]
    assert bugnist_score(reference, far)["score"] == 2 / (2 + 1e-6)


def test_a_volume_of_one_file_counts_as_zero() -> None:
    reference = [Point("both", "AC", (1, 1, 1)), Point("missed", "AC", (1, 1, 1))]
    prediction = [Point("both", "AC", (1, 1, 1)), Point("invented", "AC", (1, 1, 1))]
    result = bugnist_score(reference, prediction)
    assert [v["f1"] for v in result["volumes"].values()] == [2 / (2 + 1e-6), 0, 0]
    assert list(result["volumes"]) == ["both", "invented", "missed"]
    assert result["score"] == 2 / (2 + 1e-6) / 3


@given(cut=cut_volumes(largest=11))
def test_centres_of_components_through_blocks(cut: tuple[npt.NDArray[Any], Index]) -> None:
    labels, block_shape = cut
    found = points_of(measured_objects((labels, labels), block_shape).reference, "v")
    expected = []
    for label in labels_in(labels):
        numbered, count = ndimage.label(labels == label, STRUCTURE[26])
        centres = ndimage.center_of_mass(labels == label, numbered, range(1, count + 1))
        expected += [(label, *centre) for centre in centres]
    ours = sorted((int(p.category), *p.position) for p in found)
    assert [row[0] for row in ours] == [row[0] for row in sorted(expected)]
    if expected:
        assert np.allclose(sorted(np.round(ours, 6).tolist()), sorted(np.round(expected, 6).tolist()), atol=1e-5)
    assert found == points_of(measured_objects((labels, labels), (99, 99, 99)).reference, "v")


def test_centres_of_sums_beyond_float64() -> None:
    voxels = 2**31 + 1
    row = np.zeros((1, 10), np.int64)
    row[0, :4] = voxels, 10**9 * voxels + 1, 5 * voxels, 0
    point = points_of(Described(np.array([2**63], np.uint64), row), "v")[0]
    assert point.category == str(2**63)
    assert point.position == (float(10**9) + 1 / voxels, 5.0, 0.0)
