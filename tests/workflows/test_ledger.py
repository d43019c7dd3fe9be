"""The ledger says what is done, whatever was killed while it was written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DamagedError, StorageError
from pipeline.files import write_json
from pipeline.ledger import SHARDS, Ledger
from tests.workflows.runs import flip


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def test_a_receipt(ledger: Ledger) -> None:
    bits = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    size = ledger.commit("mask", (1, 20, 3), {"foreground_voxels": 7}, {"bits": bits})
    assert ledger.path("mask", (1, 20, 3)).stat().st_size == size
    assert ledger.receipt("mask", (1, 20, 3)).summary == {"foreground_voxels": 7}
    assert np.array_equal(ledger.read("mask", (1, 20, 3), "bits"), bits)


def test_a_receipt_that_is_not_there(ledger: Ledger) -> None:
    with pytest.raises(StorageError, match=r"centres/0/0\.1\.parcel is missing; run `voxcaliper resume`"):
        ledger.receipt("centres", (0, 0, 1))


def test_receipts_of_blocks(ledger: Ledger) -> None:
    assert list(ledger.blocks("mask")) == []
    blocks = [(0, 0, 0), (0, 10, 2), (11, 0, 0)]
    for number, block in enumerate(blocks):
        ledger.commit("mask", block, {"number": number}, {})
    ledger.commit("distance-y", (5, 5, 5), {}, {})
    found = {block: parcel.summary["number"] for block, parcel in ledger.receipts("mask", blocks)}
    assert found == {block: number for number, block in enumerate(blocks)}
    assert set(ledger.blocks("mask")) == set(blocks)
    (ledger.folder / "mask" / "left").mkdir()
    (ledger.folder / "mask" / "left" / "over.parcel").write_bytes(b"")
    (ledger.folder / "mask" / "0" / "over.parcel").write_bytes(b"")
    assert ledger.count("mask") == len(blocks)
    with pytest.raises(DamagedError, match="is missing"):
        list(ledger.receipts("mask", [*blocks, (1, 1, 1)]))


def test_a_damaged_receipt_is_not_finished(ledger: Ledger) -> None:
    for x in range(3):
        ledger.commit("mask", (0, 0, x), {}, {"bits": np.zeros(5, np.uint8)})
    victim = ledger.path("mask", (0, 0, 1))
    victim.write_bytes(victim.read_bytes()[:-1])
    ledger.path("mask", (0, 0, 2)).write_bytes(b"")
    assert [x for x in range(3) if ledger.finished("mask", (0, 0, x))] == [0]


def test_a_receipt_of_another_block_stage_or_run_is_none(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path / "other", "another key")
    for one in (ledger, other):
        for stage in ("mask", "centres"):
            for x in range(2):
                one.commit(stage, (0, 0, x), {}, {"bits": np.zeros(5, np.uint8)})
        one.note("reach", {"largest": np.zeros(2, np.int64)})
        one.note("labels", {"label": np.zeros(2, np.int64)})
        one.finish_stage("mask", {"tasks": 2})
        one.finish_stage("centres", {"tasks": 2})
    mine = ledger.path("mask", (0, 0, 0))
    for strange in (ledger.path("mask", (0, 0, 1)), ledger.path("centres", (0, 0, 0)), other.path("mask", (0, 0, 0))):
        mine.write_bytes(strange.read_bytes())
        assert ledger.finished("mask", (0, 0, 0)) is None
        with pytest.raises(DamagedError, match=r"0\.0\.parcel is of another block or run"):
            ledger.read("mask", (0, 0, 0), "bits")
    for strange in (ledger.folder / "labels.parcel", other.folder / "reach.parcel"):
        (ledger.folder / "reach.parcel").write_bytes(strange.read_bytes())
        assert not ledger.is_noted("reach")
    keyed = Ledger(ledger.folder, "key")
    keyed.finish_stage("mask", {"tasks": 2})
    assert keyed.stage_totals("mask") == {"tasks": 2}
    for strange in (ledger.folder / "centres.json", other.folder / "mask.json"):
        (ledger.folder / "mask.json").write_bytes(strange.read_bytes())
        assert keyed.stage_totals("mask") is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "7", "null", '{"tasks": 2}', '{"seal": 3}', '{"seal": {"of": []}}', "é"]
)
def test_broken_totals_count_as_none(ledger: Ledger, content: str) -> None:
    ledger.folder.mkdir()
    (ledger.folder / "mask.json").write_bytes(content.encode("latin-1"))
    assert ledger.stage_totals("mask") is None
    assert Ledger(ledger.folder, "key").stage_totals("mask") is None


def test_edited_totals_count_as_none_and_those_of_old_runs_are_read(ledger: Ledger) -> None:
    totals = {"tasks": 2, "tasks_now": 2, "wall_seconds": 1.5}
    ledger.finish_stage("mask", totals)
    path = ledger.folder / "mask.json"
    path.write_text(path.read_text("utf-8").replace("1.5", "2.5"), "utf-8")
    assert ledger.stage_totals("mask") is None
    write_json(path, totals)
    assert ledger.stage_totals("mask") == totals
    assert Ledger(ledger.folder, "key").stage_totals("mask") is None, "a run that goes on adds them up again"


def test_what_was_written_beside_a_receipt(ledger: Ledger) -> None:
    shard = ledger.folder.parent / "map" / "0"
    shard.parent.mkdir()
    shard.write_bytes(b"voxels")
    ledger.commit("thickness", (0, 0, 0), {SHARDS: ledger.beside([shard])}, {"n": np.zeros(9)})
    thorough = Ledger(ledger.folder, thorough=True)
    assert ledger.finished("thickness", (0, 0, 0))
    assert thorough.finished("thickness", (0, 0, 0))
    shard.write_bytes(b"voxelz")
    assert ledger.finished("thickness", (0, 0, 0)), "as long as nobody looks through it"
    assert thorough.finished("thickness", (0, 0, 0)) is None
    for content in (b"", b"voxel"):
        shard.write_bytes(content)
        assert ledger.finished("thickness", (0, 0, 0)) is None
    shard.unlink()
    assert ledger.finished("thickness", (0, 0, 0)) is None
    shard.write_bytes(b"voxels")
    path = ledger.path("thickness", (0, 0, 0))
    flip(path, 12)
    assert ledger.finished("thickness", (0, 0, 0))
    assert thorough.finished("thickness", (0, 0, 0)) is None, "every byte of the receipt is looked at, too"


def test_committing_twice_changes_nothing(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.commit("mask", (0, 0, 0), {"n": 1}, {"bits": np.ones(9, np.uint8)})
    assert ledger.count("mask") == 1
    assert [path.name for path in ledger.folder.rglob("*.parcel*")] == ["0.0.parcel"]


def test_stages(ledger: Ledger) -> None:
    assert ledger.stage_totals("mask") is None
    ledger.finish_stage("mask", {"tasks": 8, "seconds": {"read": 0.5}})
    assert ledger.stage_totals("mask") == {"tasks": 8, "seconds": {"read": 0.5}}
    ledger.commit("mask", (0, 0, 0), {}, {})
    ledger.commit("mask", (1, 0, 0), {}, {})
    assert ledger.count("mask") == 2
    ledger.forget_scratch()
    assert ledger.count("mask") == 0
    assert ledger.stage_totals("mask") is not None, "what a stage added up to stays"


def test_sweeping(ledger: Ledger) -> None:
    ledger.sweep()
    ledger.commit("mask", (0, 0, 0), {}, {})
    ledger.finish_stage("mask", {})
    for name in ("mask/0/0.1.parcel.abc.partial", "mask.json.abc.partial"):
        (ledger.folder / name).write_bytes(b"half")
    ledger.sweep()
    assert sorted(path.name for path in ledger.folder.rglob("*") if path.is_file()) == ["0.0.parcel", "mask.json"]


def test_json_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.json"
    write_json(path, {"a": [1, 2.5, None]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text("utf-8")) == {"a": [1, 2.5, None]}
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]
