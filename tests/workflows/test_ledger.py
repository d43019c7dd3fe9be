"""The ledger says what is done, whatever was killed while it was written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StorageError
from pipeline.files import write_json
from pipeline.ledger import Ledger


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


def test_finished_tasks(ledger: Ledger) -> None:
    assert list(ledger.finished_tasks("mask")) == []
    blocks = [(0, 0, 0), (0, 10, 2), (11, 0, 0)]
    for number, block in enumerate(blocks):
        ledger.commit("mask", block, {"number": number}, {})
    ledger.commit("distance-y", (5, 5, 5), {}, {})
    found = {block: parcel.summary["number"] for block, parcel in ledger.finished_tasks("mask")}
    assert found == {block: number for number, block in enumerate(blocks)}


def test_a_damaged_receipt_is_not_finished(ledger: Ledger) -> None:
    for x in range(3):
        ledger.commit("mask", (0, 0, x), {}, {"bits": np.zeros(5, np.uint8)})
    victim = ledger.path("mask", (0, 0, 1))
    victim.write_bytes(victim.read_bytes()[:-1])
    ledger.path("mask", (0, 0, 2)).write_bytes(b"")
    assert [block for block, _ in ledger.finished_tasks("mask")] == [(0, 0, 0)]


def test_committing_twice_changes_nothing(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.commit("mask", (0, 0, 0), {"n": 1}, {"bits": np.ones(9, np.uint8)})
    assert len(list(ledger.finished_tasks("mask"))) == 1
    assert [path.name for path in ledger.folder.rglob("*.parcel*")] == ["0.0.parcel"]


def test_stages(ledger: Ledger) -> None:
    assert ledger.stage_totals("mask") is None
    ledger.finish_stage("mask", {"tasks": 8, "seconds": {"read": 0.5}})
    assert ledger.stage_totals("mask") == {"tasks": 8, "seconds": {"read": 0.5}}
    ledger.commit("mask", (0, 0, 0), {}, {})
    ledger.commit("mask", (1, 0, 0), {}, {})
    assert ledger.count("mask") == 2
    ledger.forget_scratch()
    assert list(ledger.finished_tasks("mask")) == []
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
