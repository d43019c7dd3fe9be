"""The catalogue: every number of every result once, with unit, origin and reason, as pandas, xarray and CSV have it."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RunError
from tests.atlas.released import NO_LABEL, Released
from workflows.atlas.catalogue import COLUMNS, open_catalogue, to_xarray, write_catalogue
from workflows.atlas.flattening import statistics_of, unit_of
from workflows.atlas.records import EntryRecord, ReleaseRecord
from workflows.atlas.release_folder import RESULT_FILES


def numbers_in(value: Any) -> Iterator[float | None]:
    """Every number and null of a result file, reasons and words left out; counted without our code."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name not in ("reasons", "voxel_size_um", "shape", "unit_um"):
                yield from numbers_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from numbers_in(part)
    elif value == "inf":
        yield math.inf
    elif not isinstance(value, str):
        yield None if value is None else float(value)


def sorted_values(values: Any) -> list[float]:
    return sorted(math.inf if value is None or math.isnan(value) else value for value in values)


def test_every_number_of_every_result_is_there_once(released: Released) -> None:
    table = open_catalogue(released.root)
    assert list(table.columns) == list(COLUMNS)
    for entry in released.release(released.second).record.entries:
        rows = table[(table["dataset"] == entry.dataset) & (table["workflow"] == entry.workflow)]
        assert set(rows["status"]) == {entry.outcome}
        if entry.run is None:
            continue
        results = json.loads((released.root / entry.run / RESULT_FILES[entry.workflow]).read_text())
        assert sorted_values(rows["value"]) == sorted_values(numbers_in(results)), entry.dataset
        assert not rows.duplicated(["region", "label", "statistic"]).any()
        assert set(rows["version"]) == {entry.version}
        assert set(rows["algorithm_version"]) == {1}
        assert set(rows["voxel_y_um"]) == {2.0}
        assert set(rows["level"]) == {0}


def test_rows_say_where_they_come_from(released: Released) -> None:
    table = open_catalogue(released.root).astype({"region": str, "label": str}).set_index(["dataset", "workflow"])
    ball = table.loc[("ball", "thickness")]
    assert set(ball["donor"]) == {"LADAF-2"}, "descriptive metadata are those of the release"
    assert set(ball["organ"]) == {"kidney"}
    assert set(ball["source"]) == {str(released.atlas.volume("ball"))}
    assert set(ball["status_reason"]) == {"parameter border"}
    assert set(ball["region"]) == {"all", "1", "2"}
    assert set(ball["release"]) == {released.second} == set(ball["version"])
    statistics = table.loc[("ball", "statistics")]
    assert set(statistics["version"]) == {released.first}
    assert set(statistics["status_reason"]) == {""}
    pair = table.loc[("pair", "compare")]
    assert set(pair["source"]) == {str(released.atlas.volume("pair"))}
    assert set(pair["reference"]) == {str(released.atlas.volume("ball"))}
    assert set(pair["label"]) == {"all", "average", "1", str(NO_LABEL)}
    assert pair["donor"].isna().all()
    gone = table.loc[[("gone", "thickness")]].iloc[0]
    assert gone["status"] == "failed"
    assert "gone" in gone["status_reason"]
    assert np.isnan(gone["value"])


def test_a_missing_value_has_its_reason_and_a_value_has_none(released: Released) -> None:
    table = open_catalogue(released.root).astype({"reason": str})
    assert (table["value"].isna() == (table["reason"] != "")).all()
    empty = table[(table["dataset"] == "empty") & (table["statistic"] == "thickness_um.quantiles.0.5")]
    assert empty["reason"].tolist() == ["no voxel of the volume is foreground, so there is no thickness to describe"]
    absent = table[(table["label"] == str(NO_LABEL)) & (table["statistic"] == "dice")]
    assert absent["reason"].tolist() == ["the label is in neither volume"]


def test_parquet_and_csv_hold_the_same_and_say_what_columns_mean(released: Released) -> None:
    folder = released.release(released.second).path
    file = pyarrow.parquet.ParquetFile(folder / "catalogue.parquet")
    schema = file.schema_arrow
    assert {name: schema.field(name).metadata[b"description"].decode() for name in COLUMNS} == {
        name: text for name, (_, text) in COLUMNS.items()
    }
    with (folder / "catalogue.csv").open(newline="", encoding="utf-8") as text:
        plain = list(csv.DictReader(text))
    rows = file.read().to_pylist()
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows] == plain
    assert not list(folder.glob("*.partial"))


def test_rows_that_are_written_in_many_parts_are_the_same(
    released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    shutil.copytree(released.root, root, symlinks=True)
    monkeypatch.setattr("workflows.atlas.catalogue.ROWS_AT_ONCE", 7)
    path = write_catalogue(root, released.second)
    assert pyarrow.parquet.ParquetFile(path).num_row_groups > 10
    before = released.release(released.second).path
    assert path.with_suffix(".csv").read_bytes() == (before / "catalogue.csv").read_bytes()
    pandas.testing.assert_frame_equal(open_catalogue(path.parent), open_catalogue(before), check_categorical=False)


def test_units_follow_from_names(released: Released) -> None:
    table = open_catalogue(released.root)
    units = dict(zip(table["statistic"].astype(str), table["unit"].astype(str), strict=True))
    assert units["thickness_um.quantiles.0.05"] == "µm"
    assert units["thickness_um.log_variance"] == "1"
    assert units["thickness.prediction.log_mean"] == "log µm"
    assert units["volume_um3"] == "µm³"
    assert units["largest_squared_radius"] == "(2 µm)²"
    assert units["surface_area_um2.reference"] == "µm²"
    assert units["foreground_voxels"] == units["bounding_box.start.0"] == "voxels"
    assert units["volume_mm3"] == unit_of("totalsegmentator.volume") == "mm³"
    assert units["dice"] == units["nsd_voxel.0"] == "1"


def test_as_xarray_each_statistic_is_a_variable_with_its_unit(released: Released) -> None:
    table = open_catalogue(released.root)
    found = to_xarray(table)
    mean = found["thickness_um.mean"]
    assert mean.attrs["units"] == "µm"
    assert mean.dims == ("dataset", "region", "label")
    entry = released.entry("ball/thickness")
    results = json.loads((released.root / str(entry.run) / "statistics.json").read_text())
    assert float(mean.sel(dataset="ball", region="all", label="all")) == results["thickness_um"]["mean"]
    assert float(mean.sel(dataset="ball", region="2", label="all")) == results["regions"]["2"]["thickness_um"]["mean"]
    assert np.isnan(mean.sel(dataset="empty", region="2", label="all"))
    assert found["organ"].sel(dataset="empty").item() == "lung"
    assert "gone" not in found["dataset"], "a data set without a result has no number"
    labels = to_xarray(table, "statistics")["voxels"]
    assert set(labels["dataset"].to_numpy()) == {"ball", "new"}
    assert not to_xarray(table[table["dataset"] == "gone"]).sizes


def test_a_damaged_result_is_said_and_hides_no_other(released: Released, tmp_path: Path) -> None:
    record = released.release(released.second).record
    kept = [entry for entry in record.entries if entry.run is not None]
    for entry in kept:
        target = tmp_path / str(entry.run)
        target.mkdir(parents=True)
        for name in (RESULT_FILES[entry.workflow], "provenance.json"):
            (target / name).write_bytes((released.root / str(entry.run) / name).read_bytes())
    (tmp_path / str(kept[0].run) / RESULT_FILES[kept[0].workflow]).write_text("{")
    _write_record(tmp_path, record.identifier, tuple(kept))
    table = open_catalogue(write_catalogue(tmp_path, record.identifier).parent)
    damaged = table[(table["dataset"] == kept[0].dataset) & (table["workflow"] == kept[0].workflow)]
    assert len(damaged) == 1
    assert damaged["reason"].iloc[0].endswith("is not JSON; restore it or make its entry again.")
    whole = open_catalogue(released.root)
    assert len(table) == len(whole[whole["version"].notna()]) - _rows_of(whole, kept[0]) + 1


def test_numbers_of_versions_that_are_no_longer_kept_stay(released: Released, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(released.root, root, symlinks=True)
    record = released.release(released.first).record
    for entry in record.entries:
        if entry.run is not None:
            shutil.rmtree(root / entry.run)
    before = released.release(released.first).path
    path = write_catalogue(root, released.first)
    assert path.with_suffix(".csv").read_bytes() == (before / "catalogue.csv").read_bytes()
    pandas.testing.assert_frame_equal(open_catalogue(path.parent), open_catalogue(before), check_categorical=False)
    path.unlink()
    lost = open_catalogue(write_catalogue(root, released.first).parent)
    assert lost["value"].isna().all()
    assert f"The version {released.first} is no longer kept." in set(lost["reason"])


def _rows_of(table: Any, entry: EntryRecord) -> int:
    return int(((table["dataset"] == entry.dataset) & (table["workflow"] == entry.workflow)).sum())


def _write_record(root: Path, identifier: str, entries: tuple[EntryRecord, ...], **more: Any) -> None:
    record = ReleaseRecord(
        identifier=identifier, name="test", manifest="m", began="2026-01-01", entries=entries, **more
    )
    folder = root / "releases" / identifier
    folder.mkdir(parents=True)
    (folder / "release.json").write_text(record.model_dump_json())


def test_an_empty_release_has_an_empty_catalogue(tmp_path: Path) -> None:
    _write_record(tmp_path, "one", ())
    assert open_catalogue(write_catalogue(tmp_path, "one").parent).empty


def test_what_is_no_release_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no release one: it has none; run `voxcaliper atlas run` first\."):
        write_catalogue(tmp_path, "one")
    _write_record(tmp_path, "two", ())
    with pytest.raises(RunError, match=r"has no release one: it has two\."):
        write_catalogue(tmp_path, "one")
    with pytest.raises(RunError, match=r"holds no catalogue\.parquet"):
        open_catalogue(tmp_path)
    (tmp_path / "catalogue.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="is damaged"):
        open_catalogue(tmp_path)


measures = st.recursive(
    st.none() | st.floats(allow_nan=False) | st.booleans() | st.integers(-(2**53), 2**53) | st.just("inf"),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from("0379"), st.dictionaries(st.sampled_from(["x", "y_um", "z"]), measures)))
def test_any_measures_become_as_many_statistics_of_distinct_names(labels: dict[str, Any]) -> None:
    found = list(statistics_of("statistics", {"labels": labels}))
    assert len({(one.region, one.label, one.name) for one in found}) == len(found)
    assert sorted_values(one.value for one in found) == sorted_values(numbers_in(labels))
    assert all((one.value is None) == bool(one.reason) for one in found)
