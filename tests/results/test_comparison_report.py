"""The page of a comparison and the sentences on it: one file, right for one label and many, undefined and infinite."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.geometry import Box, Index
from pipeline.report import (
    ComparedSlice,
    ComparisonContent,
    HistogramPair,
    Lookalike,
    LookalikesContent,
    ThicknessHistogram,
    compared_slices,
    disagreements,
    render_comparison,
    render_lookalikes,
    write_comparison,
    write_lookalikes,
)
from pipeline.report import numbers as shown
from pipeline.report.comparison_figures import (
    PALETTE,
    PLOT,
    agreement_pixels,
    difference_pixels,
    distributions,
    planes,
    thickness_pixels,
)
from tests.results.comparisons import (
    ABSENT,
    NOWHERE,
    VOXEL,
    comparison_of,
    content_of,
    label_measures,
    labels_of_noise,
    nowhere,
    only_in_reference,
)
from tests.results.pages import BROWSER, Page, dom_of

SPONGE = label_measures(dice=0.8, betti={"reference": [3, 15, 0], "prediction": [1107, 2951, 3970]})


def without_thickness() -> ComparisonContent:
    content = content_of(comparison_of({"1": label_measures(thickness=None), "2": label_measures(thickness=None)}))
    slices = [replace(s, reference_thickness_um=None, prediction_thickness_um=None) for s in content.slices]
    return replace(content, slices=slices, histograms={})


CASES: dict[str, Callable[[], ComparisonContent]] = {
    "one label": lambda: content_of(comparison_of({"1": label_measures()})),
    "one wrong label": lambda: content_of(comparison_of({"1": SPONGE})),
    "two": lambda: content_of(comparison_of({"1": SPONGE, str(2**63): label_measures()}, multiclass_mcc=0.7)),
    "hundred labels": lambda: content_of(comparison_of({str(n): label_measures() for n in range(1, 105)})),
    "many sentences": lambda: content_of(comparison_of({str(n): SPONGE for n in range(1, 42)})),
    "only in the reference": lambda: content_of(comparison_of({"7": only_in_reference()})),
    "nowhere": lambda: content_of(comparison_of({"7": nowhere()}), histograms={}),
    "no label": lambda: content_of({"labels": {}, "overall": {}}, histograms={}, slices=[], slices_note="No planes."),
    "overlap alone": lambda: content_of(
        {"labels": {str(n): {"dice": 0.9, "iou": 0.8} for n in (1, 2)}}, histograms={}, timings=[]
    ),
    "no thickness": without_thickness,
    "grey values and objects": lambda: content_of(
        comparison_of(
            {
                "1": label_measures(
                    objects={"recognition_quality": 0.9, "segmentation_quality": None, "reasons": {
                        "segmentation_quality": "no two objects match"}},
                    intensity={"reference": {"n": 12, "mean": -3.5, "touches_border": True, "box": [[0, 1], [2, 3]]},
                               "prediction": {"n": 13, "mean": None, "touches_border": False, "box": [[0, 1], [2, 4]]}},
                    betti_error=[1, 4, 0],
                )
            }
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_one_file_without_references(case: str) -> None:
    source = render_comparison(CASES[case]())
    page = Page(source)
    inner = {f"#{name}" for name in re.findall(r'id="([^"]+)"', source)}
    assert all(link.startswith("data:image/") or link in inner for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"@import|url\(", source)
    assert not re.search(r"https?://", source)
    assert not re.search(r"\b(nan|none|inf|undefined|null)\b", page.text.replace("Undefined and", ""), re.IGNORECASE)
    assert "Vessels & <script>alert(1)</script>" in page.text
    numbered = re.findall(r"Table (\d+)\.", page.text)
    assert numbered == [str(i) for i in range(1, len(numbered) + 1)]


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_comparison(tmp_path / name, CASES["two"]())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_four_kinds_stand_side_by_side() -> None:
    label = label_measures()
    text = Page(render_comparison(CASES["one label"]())).text
    for name in ("dice", "iou", "mcc", "kappa", "specificity"):
        assert f"{label[name]:.4f}" in text
    for name in ("hausdorff_um", "hausdorff95_um", "hausdorff95_pooled_um", "assd_um", "masd_um"):
        assert shown.significant(label[name]) in text
    for values in (label["nsd_voxel"], label["nsd_surfel"], label["boundary_iou"]):
        assert all(f"{value:.4f}" in text for value in values.values())
    assert re.search(r"Tunnels b₁ 15 19 \+4", text)
    assert re.search(r"Euler number χ −12 −15 −3", text)
    assert re.search(r"Mean \(µm\) (\S+) \1 =", text)
    assert re.search(r"1-Wasserstein \(µm\) (?:how .*? )?0\.4000", text)
    assert "NSD, voxels ≤\u202f3.5\u202fµm" in text
    assert "3.0 × 0.7 × 0.7 µm (z × y × x)" in text
    assert "nothing contradicts it" in text


def test_every_label_has_a_line_and_all_its_measures() -> None:
    source = render_comparison(CASES["hundred labels"]())
    for n in range(1, 105):
        assert f'<a href="#label-{n}">{n}</a>' in source
        assert f'id="label-{n}"' in source
    assert source.count('<svg class="plot"') == 105
    assert len(source) < 3_000_000


def test_labels_come_by_number_not_by_text() -> None:
    source = render_comparison(content_of(comparison_of({n: label_measures() for n in ("10", "9", str(2**63))})))
    assert re.findall(r'<a href="#label-(\d+)">', source) == ["9", "10", str(2**63)]


def test_undefined_and_infinite_values_carry_their_reason() -> None:
    page = Page(render_comparison(CASES["only in the reference"]()))
    text = page.text
    assert text.count(ABSENT) == 1
    number = re.search(r"HD95 \(µm\) ∞ (\d)", text)
    assert number
    notes = text[text.index("Undefined and infinite values") :]
    listed = re.findall(r"the label is in only one|0/0|no thickness in one of the two", notes)
    assert listed[int(number[1]) - 1].startswith("the label is in only one")
    assert "Label 7 is in the reference only (1\u202f200 voxels), not in the prediction." in text
    assert NOWHERE in Page(render_comparison(CASES["nowhere"]())).text


def test_reasons_may_stand_with_the_label_with_its_group_or_with_the_whole() -> None:
    text = Page(render_comparison(CASES["grey values and objects"]())).text
    assert "no two objects match" in text
    comparison = comparison_of({"1": label_measures(mcc=None)})
    comparison["reasons"] = {"labels.1.mcc": "a row of the confusion matrix is empty"}
    assert "a row of the confusion matrix is empty" in Page(render_comparison(content_of(comparison))).text


def test_what_is_no_measure_of_the_four_kinds_is_shown_too() -> None:
    text = Page(render_comparison(CASES["grey values and objects"]())).text
    assert "recognition quality 0.9000" in text
    assert "touches border yes no" in text
    assert "box 0, 1 – 2, 3 0, 1 – 2, 4" in text
    assert "Multi-class MCC 0.7000" in Page(render_comparison(CASES["two"]())).text


def test_many_sentences_come_folded_and_counted() -> None:
    page = Page(render_comparison(CASES["many sentences"]()))
    assert "41 of 41 labels ask for a second look" in page.text
    assert "35 more" in page.text
    assert page.text.count("look at the Betti numbers") == 41


def test_why_there_are_no_planes_is_said() -> None:
    content = CASES["one label"]()
    empty = [replace(s, reference=s.reference * 0, prediction=s.prediction * 0) for s in content.slices]
    assert "hold no foreground" in Page(render_comparison(replace(content, slices=empty))).text
    none = replace(content, slices=[], slices_note="No planes: no map was stored.")
    assert "No planes: no map was stored." in Page(render_comparison(none)).text


THICKNESS = label_measures()["thickness"]


def thicker(percent: float) -> dict[str, Any]:
    reference = THICKNESS["reference"]
    return {**THICKNESS, "prediction": {**reference, "mean": reference["mean"] * (1 + percent / 100)}}


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({}, None, ""),
        ({"betti": {"reference": [1, 9, 0], "prediction": [1, 25, 0]}}, "topology", "25 tunnels (b₁) where"),
        ({"betti": {"reference": [1, 0, 0], "prediction": [1, 9, 0]}}, None, ""),
        ({"betti": {"reference": [1, 10, 0], "prediction": [1, 20, 0]}}, None, ""),
        ({"betti": {"reference": [40, 0, 0], "prediction": [12, 0, 0]}}, "topology", "has 12 pieces (b₀) where"),
        ({"betti": {"reference": [40, 9, 0], "prediction": [12, 9, 3970]}}, "topology", "3\u202f970 cavities (b₂)"),
        ({"betti": None}, None, ""),
        ({"nsd_voxel": {"0": 0.1, "3": 0.899}}, "surface", "only 89.9 % of the surfaces lie within 3.00 µm"),
        ({"nsd_voxel": {"0": 0.1, "3": 0.9}}, None, ""),
        ({"nsd_voxel": {"0": 0.1, "2.9": 0.1}}, None, ""),
        ({"nsd_voxel": {"3": 0.95, "0.7": 0.1, "25": 0.99}}, None, ""),
        ({"hausdorff95_um": 15.1}, "surface", "15.1 µm or more away"),
        ({"hausdorff95_um": 14.9}, None, ""),
        ({"thickness": thicker(16)}, "thickness", "16 % thicker"),
        ({"thickness": thicker(-16)}, "thickness", "16 % thinner"),
        ({"thickness": thicker(14)}, None, ""),
        ({"thickness": {**THICKNESS, "wasserstein_um": 3.1}}, "thickness", "3.10 µm away (1-Wasserstein)"),
        ({"thickness": {**THICKNESS, "wasserstein_um": 2.9}}, None, ""),
        ({"thickness": None}, None, ""),
        ({"objects": {"recognition_quality": 0.6}}, "objects", "F1 of only 0.60"),
        ({"objects": {"recognition_quality": None}}, None, ""),
        ({"dice": 0.7, "nsd_voxel": {"3": 0.97}}, "overlap", "Dice is only 0.700, but 97.0 % of the surfaces"),
        ({"dice": 0.7, "nsd_voxel": {"3": 0.94}}, None, ""),
        ({"dice": 0.7, "thickness": thicker(90)}, "overlap", "look at the NSD"),
        ({"dice": 0.3, "nsd_voxel": {"3": 0.2}, "hausdorff95_um": 500.0}, None, ""),
        ({"reference_voxels": 0}, "presence", "in the prediction only (1\u202f250 voxels), not in the reference"),
        ({"reference_voxels": 0, "prediction_voxels": 0, "dice": None}, "presence", "Label 4 is in neither volume"),
    ],
)
def test_a_sentence_where_measures_disagree(changes: dict[str, Any], kind: str | None, text: str) -> None:
    found = disagreements(comparison_of({"4": label_measures(**changes)}), VOXEL.um)
    assert [item.kind for item in found] == ([kind] if kind else [])
    if kind:
        assert found[0].sentence.startswith("Label 4")
        assert text in found[0].sentence


def test_each_kind_is_said_once_and_names_the_number_to_look_at() -> None:
    label = label_measures(
        dice=0.8,
        betti={"reference": [15, 82, 0], "prediction": [1107, 2951, 3970]},
        nsd_voxel={"3": 0.5},
        hausdorff95_um=99.0,
        thickness=thicker(-60) | {"wasserstein_um": 50.0},
    )
    found = disagreements(comparison_of({"1": label}), VOXEL.um)
    assert [item.kind for item in found] == ["topology", "surface", "thickness"]
    assert all(item.sentence.endswith(f"look at the {item.measure}.") for item in found)
    assert all("Dice is 0.800" in item.sentence for item in found)


def test_the_foreground_is_named_where_there_are_several_labels() -> None:
    comparison = comparison_of({"2": label_measures(), "10": SPONGE})
    comparison["overall"]["foreground"] = SPONGE
    assert [item.label for item in disagreements(comparison, VOXEL.um)] == ["foreground", "10"]
    one = comparison_of({"1": SPONGE})
    one["overall"]["foreground"] = SPONGE
    assert [item.label for item in disagreements(one, VOXEL.um)] == ["1"]


def colour(pixels: NDArray[np.uint8], row: int, column: int) -> str:
    return "#" + bytes(pixels[row, column, :3].tolist()).hex()


@pytest.mark.parametrize(("low", "types"), [(1, ("u1", "?")), (2**62 + 1, ("i8", "u8"))])
def test_agreement_tells_missed_false_and_confused(low: int, types: tuple[str, str]) -> None:
    reference, prediction = np.array([[0, low, 0, low]], types[0]), np.array([[0, 0, low, low]], types[1])
    pixels = agreement_pixels(ComparedSlice("xy", 0.0, reference, prediction, (1.0, 1.0)))
    expected = [PALETTE[name] for name in ("night", "missed", "false", "agreement")]
    assert [colour(pixels, 0, i) for i in range(4)] == expected
    if low > 1:
        other = ComparedSlice("xy", 0.0, reference, prediction + np.uint64(1) * (prediction != 0), (1.0, 1.0))
        assert colour(agreement_pixels(other), 0, 3) == PALETTE["confused"]


def test_thickness_has_one_scale_and_differences_their_sign() -> None:
    thin, thick = np.array([[0.0, 5.0, 10.0]], np.float32), np.array([[10.0, 10.0, 5.0]], np.float32)
    a, b = thickness_pixels(thin, 10.0), thickness_pixels(thick, 10.0)
    assert colour(a, 0, 2) == colour(b, 0, 0)
    assert colour(a, 0, 0) == PALETTE["night"]
    difference = difference_pixels(thin, thick, 10.0)
    assert colour(difference, 0, 0) == PALETTE["night"]
    red, _, blue = (difference[0, :, channel].astype(int) for channel in range(3))
    assert blue[1] > red[1]
    assert red[2] > blue[2]


def test_planes_keep_their_proportions() -> None:
    content = CASES["one label"]()
    drawn = planes(content.slices, 10.0)
    assert [row.title for row in drawn.rows] == [
        f"{s.plane}, {axis} = {shown.position(s.position_um)} µm" for s, axis in zip(content.slices, "zyx", strict=True)
    ]
    sizes = {"x": 24 * 0.7, "y": 12 * 0.7, "z": 8 * 3.0}
    wide = [sizes["x"], sizes["x"], sizes["y"]]
    high = [sizes["y"], sizes["z"], sizes["z"]]
    assert [row.aspect for row in drawn.rows] == pytest.approx([w / h for w, h in zip(wide, high, strict=True)])
    assert [row.width / drawn.rows[0].width for row in drawn.rows] == pytest.approx([w / wide[0] for w in wide])
    assert all(len(row.panels) == 4 for row in drawn.rows)
    assert all(0 < row.bar <= 40 for row in drawn.rows)
    flat = planes([replace(s, reference_thickness_um=None) for s in content.slices], 10.0)
    assert all(len(row.panels) == 1 for row in flat.rows)
    assert flat.thickness is None


Read = Callable[[Box], NDArray[Any]]


def reader(volume: NDArray[Any], boxes: list[Box]) -> Read:
    def read(box: Box) -> NDArray[Any]:
        boxes.append(box)
        return volume[box.slices]

    return read


def test_planes_are_cut_where_the_reference_is_full() -> None:
    shape: Index = (16, 20, 30)
    reference, prediction = np.zeros(shape, np.uint64), np.zeros(shape, bool)
    reference[4, 3:9, 5:25] = 2**60
    reference[4, 7, :] = 2**60 + 1
    prediction[8] = True
    thickness = np.random.default_rng(0).random(shape, dtype=np.float32)
    boxes: list[Box] = []
    xy, xz, yz = compared_slices(
        reader(reference, boxes), reader(prediction, boxes), shape, VOXEL, reference_thickness=reader(thickness, boxes)
    )
    np.testing.assert_array_equal(xy.reference, reference[4])
    np.testing.assert_array_equal(xz.prediction, prediction[:, 7])
    np.testing.assert_array_equal(yz.reference, reference[:, :, 15])
    np.testing.assert_array_equal(yz.reference_thickness_um, thickness[:, :, 15])
    assert xy.reference.dtype == np.uint64
    assert xy.prediction_thickness_um is None
    assert [s.position_um for s in (xy, xz, yz)] == pytest.approx([12.0, 4.9, 10.5])
    assert [s.spacing_um for s in (xy, xz, yz)] == [(0.7, 0.7), (3.0, 0.7), (3.0, 0.7)]
    assert all(1 in box.shape for box in boxes)


def test_another_prediction_shows_the_same_planes() -> None:
    reference = labels_of_noise(5)
    cuts = [
        compared_slices(reader(reference, []), reader(labels_of_noise(5, seed), []), (8, 12, 20), VOXEL)
        for seed in (1, 2)
    ]
    assert [s.position_um for s in cuts[0]] == [s.position_um for s in cuts[1]]


@pytest.mark.parametrize("full", ["reference", "prediction", "neither"])
def test_planes_of_sparse_and_empty_volumes(full: str) -> None:
    shape: Index = (100, 6, 6)
    volumes = {name: np.zeros(shape, np.uint8) for name in ("reference", "prediction")}
    if full != "neither":
        volumes[full][40:45, 2, 3] = 1
    boxes: list[Box] = []
    reference, prediction = (reader(volume, boxes) for volume in volumes.values())
    xy, xz, yz = compared_slices(reference, prediction, shape, VOXEL)
    assert all((s.reference.any() or s.prediction.any()) == (full != "neither") for s in (xy, xz, yz))
    assert len(boxes) < 80


def test_a_large_plane_is_thinned_alike() -> None:
    volume = np.arange(2500 * 10).reshape(1, 10, 2500)
    xy = compared_slices(reader(volume, []), reader(volume, []), (1, 10, 2500), VOXEL)[0]
    np.testing.assert_array_equal(xy.reference, volume[0, ::3, ::3])
    np.testing.assert_array_equal(xy.reference, xy.prediction)
    assert xy.spacing_um == pytest.approx((2.1, 2.1))


def histogram(radii: list[int], voxels: list[int]) -> ThicknessHistogram:
    return ThicknessHistogram(np.array(radii, np.int64), np.array(voxels, np.int64), 1.0)


def test_distributions_share_their_bins_and_each_sums_to_the_whole() -> None:
    pair = HistogramPair(histogram([4, 25], [3, 1]), histogram([4], [70]))
    drawn = distributions(pair, 1.0)
    assert drawn is not None
    heights = [PLOT["bottom"] - y for y, _ in drawn.up]
    per_percent = (heights[-1] - heights[0]) / float(drawn.up[-1][1])
    for outline, shares in ((drawn.reference, {4: 75, 10: 25}), (drawn.prediction, {4: 100})):
        levels = [float(y) for y in re.findall(r"V([\d.]+)", outline.path)]
        found = {i: (PLOT["bottom"] - y) / per_percent for i, y in enumerate(levels[:-1]) if y < PLOT["bottom"]}
        assert found == pytest.approx(shares, abs=0.2)
    ticks = {float(text): x for x, text in drawn.across}
    per_um = (ticks[10.0] - ticks[0.0]) / 10
    assert drawn.reference.mean == pytest.approx(ticks[0.0] + per_um * (3 * 4 + 10) / 4, abs=0.2)


def test_distributions_of_nothing() -> None:
    nothing = histogram([], [])
    assert distributions(HistogramPair(nothing, nothing), 1.0) is None
    half = distributions(HistogramPair(nothing, histogram([9], [1])), 1.0)
    assert half is not None
    assert half.reference.path == ""
    assert half.reference.mean is None
    assert half.prediction.path


def lookalikes_page(*labels: dict[str, Any]) -> LookalikesContent:
    plane = CASES["one label"]().slices[0]
    predictions = [
        Lookalike(f"prediction {i}", comparison_of({"1": label}), plane, f"run-{i}/report.html")
        for i, label in enumerate(labels)
    ]
    return LookalikesContent("Lookalikes", VOXEL.um, predictions)


def test_lookalikes_stand_side_by_side(tmp_path: Path) -> None:
    same = label_measures(dice=0.8001)
    wrong = {**SPONGE, "dice": 0.8}
    write_lookalikes(tmp_path / "lookalikes.html", lookalikes_page(wrong, same))
    page = Page((tmp_path / "lookalikes.html").read_text("utf-8"))
    assert "all with Dice 0.800" in page.text
    assert [link for link in page.links if not link.startswith("data:")] == ["run-0/report.html", "run-1/report.html"]
    assert page.tags.count("img") == 6
    assert re.search(r"reference 3 15 0 −12", page.text)
    assert re.search(r"prediction 0 0\.8000 0\.8518 2\.100 0\.9800 1\u202f107 2\u202f951 3\u202f970 −15", page.text)
    assert "look at the Betti numbers" in page.text


def test_predictions_of_different_dice_are_not_called_equal() -> None:
    page = lookalikes_page(label_measures(dice=0.8), label_measures(dice=0.802))
    assert "all with Dice" not in render_lookalikes(page)


@pytest.mark.skipif(BROWSER is None, reason="needs chromium, which is not installed")
def test_a_browser_shows_the_numbers_offline(tmp_path: Path) -> None:
    write_comparison(tmp_path / "report.html", CASES["many sentences"]())
    dom = dom_of(tmp_path / "report.html")
    assert dom.count("<img ") == 12
    assert dom.count('<details class="each') == 42
    assert dom.count('<path class="prediction"') == 42
    assert "has 3\u202f970 cavities (b₂) where the reference has 0" in dom
