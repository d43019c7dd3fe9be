"""Changes between releases: what was made again, why, by how much; what came, went and failed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RunError
from pipeline.report import ValueChange
from tests.atlas.released import Released
from tests.atlas.releases import Atlas, change_voxel, labels
from tests.workflows.conftest import Command
from workflows.atlas.changes import CSV_COLUMNS, SHOWN_VALUES, changed_entries, write_changes
from workflows.atlas.flattening import statistics_of
from workflows.atlas.release_folder import open_release


def rows_of(released: Released, identifier: str) -> list[dict[str, str]]:
    with (released.release(identifier).path / "changes.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def statistics_in(run: Path) -> dict[tuple[str, str, str], float | None]:
    results = json.loads((run / "statistics.json").read_text("utf-8"))
    return {(one.region, one.label, one.name): one.value for one in statistics_of("thickness", results)}


def test_every_entry_that_was_not_kept_is_there_with_what_became_of_it(released: Released) -> None:
    found = {f"{row['dataset']}/{row['workflow']}": row["change"] for row in rows_of(released, released.second)}
    assert found == {
        "ball/thickness": "redone",
        "gone/thickness": "failed",
        "new/statistics": "added",
        "old/statistics": "removed",
    }
    first = {f"{row['dataset']}/{row['workflow']}": row["change"] for row in rows_of(released, released.first)}
    assert set(first.values()) == {"added", "failed"}
    assert first["gone/thickness"] == "failed"


def test_an_entry_made_again_says_why_and_what_changed(released: Released) -> None:
    rows = [row for row in rows_of(released, released.second) if row["dataset"] == "ball"]
    assert {row["why"] for row in rows} == {"parameter border"}
    assert {row["key"] for row in rows} == {"parameters.border: unknown → closed"}
    runs = [released.root / "entries/ball/thickness/versions" / name for name in (released.first, released.second)]
    old, new = map(statistics_in, runs)
    different = {key: (old[key], new[key]) for key in new if old[key] != new[key]}
    assert different
    assert len(rows) == len(different)
    for row in rows:
        before, after = different[row["region"], row["label"], row["statistic"]]
        assert before is not None
        assert after is not None
        assert (float(row["old"]), float(row["new"])) == (before, after)
        assert float(row["difference"]) == after - before
        assert float(row["relative"]) == pytest.approx((after - before) / abs(before))
        assert row["unit"]


def test_the_page_is_told_the_values_of_the_whole_first(released: Released) -> None:
    changes = write_changes(released.root, released.second)
    assert changes.since == released.first
    assert changes.kept == 3
    ball = next(entry for entry in changes.entries if entry.dataset == "ball")
    assert len(ball.values) == SHOWN_VALUES < ball.changed
    assert [(one.region, one.statistic) for one in ball.values[:2]] == [
        ("all", "thickness_um.mean"),
        ("all", "thickness_um.quantiles.0.5"),
    ]
    full = next(entry for entry in changed_entries(*map(released.release, (released.first, released.second))))
    assert len(full.values) == ball.changed


def test_a_failure_says_its_sentence(released: Released) -> None:
    row = next(row for row in rows_of(released, released.second) if row["dataset"] == "gone")
    assert row["why"] == released.entry("gone/thickness").message
    assert "gone.ome.zarr" in row["why"]
    assert row["old"] == row["statistic"] == ""


def test_releases_are_compared_by_name_in_either_direction(released: Released) -> None:
    before = (released.release(released.first).path / "changes.csv").read_bytes()
    try:
        back = write_changes(released.root, released.first, since=released.second)
        assert back.since == released.second
        found = {f"{one.dataset}/{one.workflow}": one for one in back.entries}
        assert found["new/statistics"].kind == "removed"
        assert found["old/statistics"].kind == "added"
    finally:
        (released.release(released.first).path / "changes.csv").write_bytes(before)
    releases = [released.release(name) for name in (released.first, released.second)]
    forth, back_again = (
        next(one for one in changed_entries(*pair) if one.dataset == "ball") for pair in (releases, releases[::-1])
    )
    assert {(v.region, v.statistic, v.new, v.old) for v in forth.values} == {
        (v.region, v.statistic, v.old, v.new) for v in back_again.values
    }
    with pytest.raises(RunError, match=r"has no release 1999: it has .*Z, .*Z\."):
        write_changes(released.root, released.second, since="1999")


def test_a_release_compared_with_itself_has_only_its_failures(released: Released) -> None:
    same = released.release(released.second)
    assert [entry.kind for entry in changed_entries(same, same)] == ["failed"]


def test_a_first_release_has_nothing_to_compare_with(released: Released) -> None:
    assert write_changes(released.root, released.first).since is None


def test_a_missing_or_damaged_catalogue_is_named(released: Released, tmp_path: Path) -> None:
    for name in (released.first, released.second):
        folder = tmp_path / "releases" / name
        folder.mkdir(parents=True)
        for file in ("release.json", "catalogue.parquet"):
            (folder / file).write_bytes((released.release(name).path / file).read_bytes())
    old = tmp_path / "releases" / released.first / "catalogue.parquet"
    old.write_bytes(old.read_bytes()[:100])
    with pytest.raises(RunError, match=r"catalogue\.parquet is damaged; remove it and run"):
        write_changes(tmp_path, released.second, since=released.first)
    assert write_changes(tmp_path, released.second).damaged == (released.first,)
    old.unlink()
    with pytest.raises(RunError, match=r"catalogue\.parquet is missing"):
        write_changes(tmp_path, released.second, since=released.first)
    assert write_changes(tmp_path, released.second).since is None
    header = (tmp_path / "releases" / released.second / "changes.csv").read_text("utf-8").splitlines()[0]
    assert header == ",".join(CSV_COLUMNS)


def test_an_entry_made_in_a_release_between_says_why_and_what_changed(
    here: Command, scheduler: str, tmp_path: Path
) -> None:
    atlas = Atlas(tmp_path, here, f'kind = "scheduler"\naddress = "{scheduler}"\nunencrypted = true\n')
    for seed, name in enumerate(("one", "two")):
        atlas.add(name, labels(seed), workflows=["statistics"])
    identifiers = []
    for changed in ([], ["one"], ["two"]):
        for name in changed:
            change_voxel(atlas.volume(name))
        assert atlas.run().code == 0
        identifiers.append(atlas.release().identifier)
    first, second, third = identifiers
    assert atlas.entries()["one/statistics"].outcome == "kept"
    changes = write_changes(atlas.root, third, since=first)
    assert {(one.dataset, one.kind, one.why) for one in changes.entries} == {
        ("one", "redone", "mask: content"), ("two", "redone", "mask: content"),
    }  # fmt: skip
    assert changes.kept == 0
    assert all(one.changed and one.key for one in changes.entries)
    assert write_changes(atlas.root, third).kept == write_changes(atlas.root, third, since=second).kept == 1

    atlas.lose("one")
    assert atlas.run().code == 1
    last = atlas.release().identifier
    found = write_changes(atlas.root, last, since=first).entries
    failed, redone = (one for one in found if one.dataset == "one")
    assert (failed.kind, failed.values) == ("failed", ())
    assert "does not exist" in failed.why
    assert redone == changes.entries[0]
    assert [one.kind for one in write_changes(atlas.root, last, since=third).entries] == ["failed"]
    (atlas.root / "releases" / second / "release.json").write_text("{")
    redone = write_changes(atlas.root, last, since=first).entries[1]
    assert (redone.why, redone.key) == ("the record of the release that made it cannot be read", ())
    assert redone.values == changes.entries[0].values


def test_a_damaged_older_release_is_passed_over(released: Released, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(released.root / "releases", root / "releases")
    between, closed = f"{released.first}.between", f"{released.first}.closed"
    assert released.first < between < closed < released.second
    (root / "releases" / between).mkdir()
    (root / "releases" / between / "release.json").write_text('{"identifier": ')
    (root / "releases" / closed / "release.json").mkdir(parents=True)
    changes = write_changes(root, released.second)
    assert (changes.since, changes.damaged) == (released.first, (closed, between))
    with pytest.raises(RunError, match=r"release\.json is not the record of a release"):
        write_changes(root, released.second, since=between)


def test_a_record_of_a_later_voxcaliper_is_read(released: Released, tmp_path: Path) -> None:
    record = json.loads((released.release(released.second).path / "release.json").read_text("utf-8"))
    record["entries"] = [{**entry, "more": 1} for entry in record["entries"]]
    folder = tmp_path / "releases" / released.second
    folder.mkdir(parents=True)
    (folder / "release.json").write_text(json.dumps(record | {"more": 1}))
    assert open_release(tmp_path, released.second).record == released.release(released.second).record


values = st.none() | st.floats(-1e100, 1e100) | st.sampled_from([float("inf"), float("-inf")])


@given(values, values)
def test_relative_changes_are_finite_or_say_nothing(old: float | None, new: float | None) -> None:
    change = ValueChange("all", "all", "dice", "1", old, new)
    relative: Any = change.relative
    if old is None or new is None:
        assert change.difference is None is relative
    elif relative is not None:
        assert relative * abs(old) == pytest.approx(new - old, rel=1e-6, abs=1e-300)
