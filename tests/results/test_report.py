"""The report: one file that needs nothing else, right for empty, uniform, rich and many-region results."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import Placement
from pipeline.report import (
    Comparison,
    ComparisonRow,
    ReportContent,
    Slice,
    ThicknessHistogram,
    Timing,
    in_frame,
    largest_projection,
    orthogonal_slices,
    render_report,
    write_report,
)
from pipeline.report import numbers as shown
from pipeline.report.figures import round_below, thickness_bins
from pipeline.statistics import thickness_statistics
from pipeline.tally import Tally
from tests.results.pages import BROWSER, Page, dom_of

VOXEL = VoxelSize((3.0, 0.7, 0.7))
SHAPE: Index = (12, 40, 50)


def result_of(radii: NDArray[np.int64], *, regions: int = 0, **changes: Any) -> ReportContent:
    """The report of a volume of squared radii, its foreground dealt out to this many regions."""
    values = radii[radii > 0]
    label = np.arange(values.size) % (regions + 1)
    tally = Tally.of_counts(label=label, squared_radius=values, voxels=np.ones(values.size, dtype=np.int64))
    statistics = thickness_statistics(
        tally, voxel_size=VOXEL, volume_voxels=radii.size, definition="The border is unknown.", regions=regions > 0
    )
    thickness = (2 * np.sqrt(radii) * VOXEL.unit_um).astype(np.float32)
    content = {
        "title": "Vessels & <script>alert(1)</script>",
        "statistics": statistics,
        "histogram": ThicknessHistogram(*tally.total(), VOXEL.unit_um),
        "slices": orthogonal_slices(lambda box: thickness[box.slices], SHAPE, VOXEL),
        "slices_note": None,
        "timings": [Timing("distance", 8, 3.25, 12.5), Timing("thickness", 8, 4000.0, 0.00125)],
        "provenance": {"voxcaliper": "0.1.0", "mask": "vessels.ome.zarr"},
    }
    return ReportContent(**{**content, **changes})


def rich(shape: Index = SHAPE) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, 4000, shape) ** 2 // 100


def comparison() -> Comparison:
    rows = [ComparisonRow(f"tube {i}", 10.0 * i, 10.0 * i - 0.07, 1000 * i) for i in range(1, 14)]
    return Comparison("Designed and measured diameters", "Middle parts only.", rows, 0.7, (-0.35, 0.1))


CASES: dict[str, Callable[[], ReportContent]] = {
    "rich": lambda: result_of(rich()),
    "forty regions": lambda: result_of(rich(), regions=40),
    "hundred regions": lambda: result_of(rich(), regions=100),
    "comparison": lambda: result_of(rich(), comparison=comparison()),
    "one value": lambda: result_of(np.where(rich() % 2 > 0, 49, 0)),
    "one voxel": lambda: result_of(np.eye(1, 12 * 40 * 50, 777, dtype=np.int64).reshape(SHAPE)),
    "empty": lambda: result_of(np.zeros(SHAPE, dtype=np.int64), regions=1),
    "no map": lambda: result_of(rich(), slices=(), slices_note="No slices: the run stored no map."),
    "no timings": lambda: result_of(rich(), timings=()),
}


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_one_file_without_references(case: str) -> None:
    source = render_report(CASES[case]())
    page = Page(source)
    assert all(link.startswith("data:image/") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"@import|url\(", source)
    assert not re.search(r"https?://", re.sub(r"data:[^\"]*", "", source))
    assert not re.search(r"\b(nan|none|inf|undefined)\b", page.text, re.IGNORECASE)
    assert "Vessels & <script>alert(1)</script>" in page.text


def test_the_page_says_what_was_measured() -> None:
    content = result_of(rich(), regions=3, comparison=comparison())
    text = Page(render_report(content)).text
    thickness = content.statistics["thickness_um"]
    for value in (thickness["mean"], thickness["maximum"], thickness["log_variance"], *thickness["quantiles"].values()):
        assert shown.significant(value) in text
    assert shown.count(content.statistics["foreground_voxels"]) in text
    assert "3.0 × 0.7 × 0.7 µm (z × y × x)" in text
    assert "The border is unknown." in text
    assert "lie outside every region" in text
    assert text.count("−0.10") == 13
    assert "1\u202fh 06\u202fmin" in text
    assert "vessels.ome.zarr" in text
    numbered = re.findall(r"(?:Figure|Table) \d+\.", text)
    assert sorted(numbered) == [f"{kind} {i}." for kind, n in (("Figure", 3), ("Table", 6)) for i in range(1, n + 1)]


def test_an_empty_mask_is_said_in_words() -> None:
    page = Page(render_report(CASES["empty"]()))
    assert "no foreground" in page.text
    assert "img" not in page.tags


def test_why_there_are_no_slices_is_said() -> None:
    assert "No slices: the run stored no map." in Page(render_report(CASES["no map"]())).text


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, CASES["comparison"]())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 300, 2), (900, 5, 7), (3, 400, 500)])
def test_slices_of_any_proportion_can_be_drawn(shape: Index) -> None:
    thickness = np.full(shape, 2.8, dtype=np.float32)
    slices = orthogonal_slices(lambda box: thickness[box.slices], shape, VOXEL)
    slices.append(largest_projection(lambda box: thickness[box.slices], shape, VOXEL))
    for some in (slices, slices[:1]):
        assert "data:image/png" in render_report(result_of(np.full(SHAPE, 196), slices=some))


def reader(volume: NDArray[np.float32], boxes: list[Box]) -> Callable[[Box], NDArray[np.float32]]:
    def read(box: Box) -> NDArray[np.float32]:
        boxes.append(box)
        return volume[box.slices]

    return read


def test_slices_are_the_central_planes() -> None:
    volume = np.random.default_rng(0).random((10, 20, 31), dtype=np.float32)
    boxes: list[Box] = []
    xy, xz, yz = orthogonal_slices(reader(volume, boxes), (10, 20, 31), VOXEL)
    assert [s.plane for s in (xy, xz, yz)] == ["xy", "xz", "yz"]
    np.testing.assert_array_equal(xy.thickness_um, volume[5])
    np.testing.assert_array_equal(xz.thickness_um, volume[:, 10])
    np.testing.assert_array_equal(yz.thickness_um, volume[:, :, 15])
    assert [s.position_um for s in (xy, xz, yz)] == [15.0, 7.0, 10.5]
    assert [s.spacing_um for s in (xy, xz, yz)] == [(0.7, 0.7), (3.0, 0.7), (3.0, 0.7)]
    assert len(boxes) == 3
    assert all(1 in box.shape for box in boxes)


def test_empty_central_planes_give_way_to_planes_with_foreground() -> None:
    volume = np.zeros((64, 64, 64), dtype=np.float32)
    volume[10:20, 3:9, 50:60] = 2.0
    slices = orthogonal_slices(reader(volume, []), (64, 64, 64), VOXEL)
    assert all(s.thickness_um.any() for s in slices)
    assert [s.position_um for s in slices] == pytest.approx([16 * 3.0, 8 * 0.7, 50 * 0.7])


def test_an_empty_volume_costs_a_few_planes() -> None:
    boxes: list[Box] = []
    slices = orthogonal_slices(reader(np.zeros((100, 8, 8), dtype=np.float32), boxes), (100, 8, 8), VOXEL)
    assert len(boxes) < 40
    assert [s.position_um for s in slices] == pytest.approx([150.0, 2.8, 2.8])


def test_a_large_plane_is_thinned() -> None:
    volume = np.ones((1, 10, 2500), dtype=np.float32)
    xy = orthogonal_slices(reader(volume, []), (1, 10, 2500), VOXEL)[0]
    assert xy.thickness_um.shape == (4, 834)
    assert xy.spacing_um == pytest.approx((2.1, 2.1))


@pytest.mark.parametrize(("plane", "axis"), [("xy", 0), ("xz", 1), ("yz", 2)])
def test_projection_is_the_largest_along_the_third_axis(plane: str, axis: int) -> None:
    volume = np.random.default_rng(0).random((70, 33, 65), dtype=np.float32)
    boxes: list[Box] = []
    seen: Slice = largest_projection(reader(volume, boxes), (70, 33, 65), VOXEL, plane=plane)
    np.testing.assert_array_equal(seen.thickness_um, volume.max(axis=axis))
    assert seen.position_um is None
    assert max(box.shape[axis] for box in boxes) == 32


def test_bins_hold_the_whole_foreground() -> None:
    squared_radius = np.arange(1, 10_000, dtype=np.int64)
    bins = thickness_bins(ThicknessHistogram(squared_radius, squared_radius, 0.1), 0.7)
    assert bins.share.sum() == pytest.approx(1)
    assert bins.share.size <= 61
    one = thickness_bins(ThicknessHistogram(np.array([4]), np.array([9]), 7.5), 7.5)
    assert one.share.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (shown.significant(159.13), "159.1"),
        (shown.significant(1234567.0), "1\u202f234\u202f567"),
        (shown.significant(3.41e8), "3.410\u202f×\u202f10⁸"),
        (shown.significant(-0.00001234), "−1.234\u202f×\u202f10⁻⁵"),
        (shown.significant(None), "–"),
        (shown.significant(0.0), "0"),
        (shown.plus_minus(159.13, 60.633), "159.1 ± 60.6"),
        (shown.plus_minus(15.0, 0.0), "15.00 ± 0.00"),
        (shown.position(960.0), "960"),
        (shown.position(0.7), "0.7"),
        (shown.length(500.0), "500\u202fµm"),
        (shown.length(2000.0), "2\u202fmm"),
        (shown.length(0.2), "200\u202fnm"),
        (shown.volume(3.41e8), "0.3410\u202fmm³"),
        (shown.volume(0.0), "0\u202fµm³"),
        (shown.duration(4.321), "4.32\u202fs"),
        (shown.duration(725.0), "12\u202fmin 05\u202fs"),
        (f"{round_below(0.93):g}", "0.5"),
        (f"{round_below(2000.0):g}", "2000"),
    ],
)
def test_numbers_for_readers(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.skipif(BROWSER is None, reason="needs chromium, which is not installed")
def test_a_browser_shows_the_numbers_offline(tmp_path: Path) -> None:
    content = result_of(rich(), regions=4, comparison=comparison())
    write_report(tmp_path / "report.html", content)
    dom = dom_of(tmp_path / "report.html")
    thickness = content.statistics["thickness_um"]
    for value in (thickness["mean"], thickness["quantiles"]["0.5"], thickness["lognormal_mode"]):
        assert shown.significant(value) in dom
    assert dom.count("<img ") == 3
    assert "Figure 3." in dom


def test_planes_are_named_by_their_place_in_the_frame() -> None:
    volume = np.ones((10, 20, 30), dtype=np.float32)
    slices = orthogonal_slices(reader(volume, []), (10, 20, 30), VOXEL)
    slices.append(largest_projection(reader(volume, []), (10, 20, 30), VOXEL))
    backwards = Placement((100.0, -50.0, 7.0), ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)))
    z, y, x = VOXEL.um
    assert [each.position_um for each in in_frame(slices, backwards, VOXEL)] == pytest.approx(
        [100 + 5 * z, -50 - 10 * y, 7 + 15 * x, None]
    )
    assert in_frame(slices, None, VOXEL)[0].position_um == 5 * z
