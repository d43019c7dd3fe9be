"""Statistics against plain numpy on every voxel, and files that are the same bytes for the same tally."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given

from pipeline.errors import StorageError
from pipeline.geometry import VoxelSize
from pipeline.statistics import thickness_statistics, write_histogram_csv, write_statistics
from pipeline.tally import Tally, merge
from tests.results.tallies import Rows, expanded, rows, tally_of

ANISOTROPIC = VoxelSize((3.0, 0.7, 0.7))
NAMES = {
    "definition", "voxel_size_um", "unit_um", "volume_voxels", "foreground_voxels", "volume_um3",
    "largest_squared_radius", "thickness_um",
}  # fmt: skip
THICKNESS_NAMES = {
    "mean", "standard_deviation", "minimum", "maximum", "log_mean", "log_variance", "lognormal_median",
    "lognormal_mode", "quantiles",
}  # fmt: skip


def statistics_of(tally: Tally, *, voxel_size: VoxelSize = ANISOTROPIC, regions: bool = False) -> dict[str, Any]:
    return thickness_statistics(
        tally, voxel_size=voxel_size, volume_voxels=10**6, definition="strict, border unknown", regions=regions
    )


@given(rows)
def test_statistics_are_those_of_every_voxel(items: Rows) -> None:
    assume(items)
    label, squared_radius = expanded(items)
    result = statistics_of(tally_of(items), regions=True)
    assert set(result) == NAMES | {"regions"}
    assert result["voxel_size_um"] == [3.0, 0.7, 0.7]
    assert result["unit_um"] == 0.1
    _same(result, squared_radius)
    assert set(result["regions"]) == {str(one) for one in np.unique(label) if one}
    for one, region in result["regions"].items():
        _same(region, squared_radius[label == int(one)])


def _same(described: dict[str, Any], squared_radius: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    n = squared_radius.size
    h = 2 * np.sqrt(squared_radius) * 0.1
    thickness = described["thickness_um"]
    assert set(thickness) == THICKNESS_NAMES
    assert described["foreground_voxels"] == n
    assert described["largest_squared_radius"] == squared_radius.max()
    assert described["volume_um3"] == pytest.approx(n * 3.0 * 0.7 * 0.7, rel=1e-14)
    mu, variance = np.log(h).mean(), np.log(h).var()
    expected = {
        "mean": h.mean(), "standard_deviation": h.std(), "minimum": h.min(), "maximum": h.max(), "log_mean": mu,
        "log_variance": variance, "lognormal_median": np.exp(mu), "lognormal_mode": np.exp(mu - variance),
    }  # fmt: skip
    for name, value in expected.items():
        assert thickness[name] == pytest.approx(value, rel=1e-12, abs=1e-12), name
    ascending = np.sort(h)
    for name, percent in (("0.05", 5), ("0.25", 25), ("0.5", 50), ("0.75", 75), ("0.95", 95)):
        needed = -(-percent * n // 100)
        assert thickness["quantiles"][name] == ascending[needed - 1]


@given(rows, rows)
def test_statistics_do_not_depend_on_the_order_of_merging(a: Rows, b: Rows) -> None:
    one = statistics_of(merge(tally_of(a), tally_of(b)), regions=True)
    other = statistics_of(tally_of([*b, *a]), regions=True)
    assert repr(one) == repr(other)


def test_one_thickness_has_no_spread() -> None:
    thickness = statistics_of(tally_of([(0, 7, 123457)]))["thickness_um"]
    assert thickness["mean"] == thickness["minimum"] == thickness["maximum"] == 2 * math.sqrt(7) * 0.1
    assert thickness["standard_deviation"] == 0
    assert thickness["log_variance"] == 0


def test_an_organ_of_many_voxels_is_summed_exactly() -> None:
    # 2^53 + 1 voxels is where a float64 count goes wrong.
    thickness = statistics_of(tally_of([(0, 1, 2**53), (0, 4, 1)]), voxel_size=VoxelSize((0.5,) * 3))["thickness_um"]
    assert thickness["mean"] == 1.0
    assert thickness["quantiles"] == dict.fromkeys(("0.05", "0.25", "0.5", "0.75", "0.95"), 1.0)
    assert thickness["maximum"] == 2.0
    assert thickness["standard_deviation"] == pytest.approx(2**-26.5, rel=1e-12)


def test_volume_is_formed_once_from_decimal_text() -> None:
    assert statistics_of(tally_of([(0, 1, 1000)]))["volume_um3"] == 1470.0


def test_no_foreground_is_null_with_a_reason() -> None:
    result = statistics_of(Tally.empty(), regions=True)
    assert set(result) == NAMES | {"regions", "reasons"}
    assert result["foreground_voxels"] == 0
    assert result["volume_um3"] == 0.0
    assert result["largest_squared_radius"] is None
    assert result["regions"] == {}
    values = dict(result["thickness_um"])
    quantiles = values.pop("quantiles")
    assert set(values.values()) | set(quantiles.values()) == {None}
    assert "foreground" in result["reasons"]["thickness_um"]


def test_regions_come_where_asked_and_leave_out_what_lies_outside_of_them() -> None:
    tally = tally_of([(0, 1, 5), (2, 4, 6), (11, 9, 7)])
    assert "regions" not in statistics_of(tally)
    result = statistics_of(tally, regions=True)
    assert result["foreground_voxels"] == 18
    assert {label: region["foreground_voxels"] for label, region in result["regions"].items()} == {"2": 6, "11": 7}


@given(rows)
def test_json_reads_back(items: Rows) -> None:
    result = statistics_of(tally_of(items), regions=True)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_files_are_the_same_bytes_for_the_same_tally(tmp_path: Path) -> None:
    parts = [tally_of([(1, 3, 4), (0, 8, 1)]), tally_of([(0, 3, 2), (2, 50, 9)])]
    written = []
    for number, tally in enumerate((merge(*parts), merge(*reversed(parts)))):
        result = statistics_of(tally, regions=True)
        write_statistics(tmp_path / f"{number}.json", dict(reversed(result.items())) if number else result)
        write_histogram_csv(tmp_path / f"{number}.csv", tally, 0.1)
        written.append([(tmp_path / f"{number}.{kind}").read_bytes() for kind in ("json", "csv")])
        assert json.loads(written[-1][0]) == result
    assert written[0] == written[1]
    assert all(content.endswith(b"\n") and b"\r" not in content for content in written[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.csv", "0.json", "1.csv", "1.json"]


@given(items=rows)
def test_histogram_csv_round_trips(items: Rows, tmp_path_factory: pytest.TempPathFactory) -> None:
    tally = tally_of(items)
    path = tmp_path_factory.mktemp("csv") / "histogram.csv"
    write_histogram_csv(path, tally, 0.1)
    reader = csv.DictReader(io.StringIO(path.read_text("utf-8")))
    assert reader.fieldnames == ["squared_radius", "radius_um", "thickness_um", "voxels"]
    table = list(reader)
    assert [int(row["squared_radius"]) for row in table] == tally.total().squared_radius.tolist()
    assert [int(row["voxels"]) for row in table] == tally.total().voxels.tolist()
    for row in table:
        assert float(row["thickness_um"]) == 2 * math.sqrt(int(row["squared_radius"])) * 0.1
        assert float(row["radius_um"]) == float(row["thickness_um"]) / 2


def test_a_file_that_cannot_be_written_is_a_plain_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "statistics.json"
    path.write_text("the older one")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"statistics\.json could not be written: No space left on device"):
        write_statistics(path, {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["statistics.json"]
    assert path.read_text() == "the older one"


def test_nan_never_reaches_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_statistics(tmp_path / "statistics.json", {"mean": math.nan})
