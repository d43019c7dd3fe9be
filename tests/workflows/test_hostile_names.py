"""Names that hold control characters, formulas or line breaks: what a terminal, a table and a shell get of them."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from cluster.profile import SlurmProfile
from cluster.submit import all_scripts, driver_script
from pipeline.errors import InputError, PlanError
from pipeline.measures.detections import Point, read_points, write_points
from pipeline.plain_text import lines, one_line, plain_cell, safe_cell
from tests.cluster.test_profile import slurm
from tests.volume.stores import write_ome_zarr
from tests.workflows.runs import Finished, voxcaliper
from workflows import convert_room
from workflows.comparison_results import write_table
from workflows.convert_volume import convert
from workflows.lock import locked
from workflows.run_folder import RunFolder

ESCAPES = "\x1b]0;pwned\x07\x1b[31mred\rover\x08\x9b2J\u202egpj.\u2028"
CONTROLS = frozenset(map(chr, (*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2028)))


def check_plain(done: Finished) -> None:
    assert not CONTROLS & set(done.out + done.err), done
    assert "\\x1b]0;pwned" in done.out + done.err


def test_names_are_escaped_in_whatever_is_printed(tmp_path: Path) -> None:
    path = tmp_path / f"{ESCAPES}.ome.zarr"
    write_ome_zarr(path, np.ones((4, 4, 4), np.uint8))
    for words in (
        ("info", path),
        ("info", f"{path}-not-there"),
        ("plan", "thickness", path),
        ("status", path),
        ("convert", path, path),
        ("convert", path, tmp_path / f"{ESCAPES}2.ome.zarr"),
        ("thickness", path, "--run", tmp_path / "run", "--border", ESCAPES),
        (f"no-command{ESCAPES}",),
    ):
        check_plain(voxcaliper(tmp_path / "out", *words))


def test_a_line_break_in_a_name_makes_no_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a\nvoxcaliper: everything is fine.zarr"
    done = voxcaliper(tmp_path / "out", "info", path)
    assert done.failure().startswith(f"{tmp_path}/a\\nvoxcaliper: everything is fine.zarr does not exist")


def test_bytes_that_are_no_text_are_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.npy")
    np.save(tmp_path / name, np.ones((3, 4, 5), np.uint8))
    done = voxcaliper(tmp_path / "out", "info", tmp_path / name)
    assert done.code == 0, done
    assert "\\xff\\xfe.npy" in done.out


@pytest.mark.parametrize("text", ["", "plain", "µm – ü 漢字 👍🏽", "a b\\c"])
def test_text_of_people_stays(text: str) -> None:
    assert one_line(text) == text
    assert lines(f"{text}\n\t{text}") == f"{text}\n\t{text}"


FORMULAS = ["=cmd|' /C calc'!A1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "-bone", "'=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_as_a_formula_and_tables_come_back(tmp_path: Path, text: str) -> None:
    write_points(tmp_path / "points.csv", [Point(text, text, (1.0, 2.0, 3.0))])
    write_table(tmp_path / "table.csv", [{"label": text, "dice": -0.5}])
    for name in ("points.csv", "table.csv"):
        with (tmp_path / name).open(newline="") as file:
            rows = list(csv.reader(file))[1:]
        assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@", "\t", "\r", "-b", "-2"))]
    if text not in ("'=1", "\r=1"):  # an apostrophe means what a table means by it, and a row ends with \\r
        assert read_points(tmp_path / "points.csv") == [Point(text, text, (1.0, 2.0, 3.0))]


@pytest.mark.parametrize("value", ["-1", "+1.5e-3", "-inf", "7", "bone", "", None, -1, -0.5])
def test_numbers_and_words_stay_as_they_are(value: Any) -> None:
    assert safe_cell(value) == value
    assert plain_cell(str(value)) == str(value)


@pytest.mark.parametrize("run", ["r\ntouch X\n", "r\r", "r\x1b", "r\u2028x", "r\x7f", "r\x00"])
def test_no_script_takes_a_line_break(tmp_path: Path, run: str) -> None:
    profile = slurm("", tmp_path)
    for make in (driver_script, all_scripts):
        with pytest.raises(InputError, match="holds a line break or another control character"):
            make(profile, Path("/data") / run)


@pytest.mark.parametrize(
    "field",
    [
        r'shared_folder = "/data/a\ntouch X"', r'setup = ["module load x\ntouch X"]', r'directives = ["--qos=a\rb"]',
        r'python = "python3\ntouch X"', 'python = "python3; touch X"', 'python = "$(touch X)"',
        r'partition = "a\nb"', r'scratch = "/a\nb"', r'cache = "/a`touch X`"', r'interface = "ib0\n"',
    ],
)  # fmt: skip
def test_no_field_of_a_profile_becomes_shell(tmp_path: Path, field: str) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        slurm(field, tmp_path)
    assert isinstance(slurm('python = "conda run python3"', tmp_path), SlurmProfile)


def test_the_log_of_a_run_has_a_line_for_each_entry_and_no_control_character(tmp_path: Path) -> None:
    path = tmp_path / f"{ESCAPES}\n2026-12-01 10:00:00,000 INFO complete.ome.zarr"
    write_ome_zarr(path, np.eye(4, dtype=np.uint8)[None].repeat(4, 0))
    done = voxcaliper(tmp_path / "out", "thickness", path, "--run", tmp_path / "run", "--workers", "1", "--quiet")
    assert done.code == 0, done
    log = (tmp_path / "run" / "run.log").read_text("utf-8")
    assert not CONTROLS & set(log)
    assert "\\x1b]0;pwned" in log
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) ", line) for line in log.splitlines())
    assert len([line for line in log.splitlines() if "INFO complete" in line and "begin:" not in line]) == 1


def test_what_is_no_text_is_logged_too(tmp_path: Path) -> None:
    with RunFolder(tmp_path).logged() as log:
        log.info("begin: %s", os.fsdecode(b"\xff\xfe.npy"))
    assert "begin: \\xff\\xfe.npy\n" in (tmp_path / "run.log").read_text("utf-8")


def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(Exception, match="cannot be made"), locked(tmp_path / "lock", "this"):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def empty(folder: Path, side: int) -> str:
    """A Zarr array of which nothing is stored."""
    from tests.volume.hostile_files import zarr_document

    folder.mkdir()
    (folder / "zarr.json").write_text(zarr_document(shape=[side] * 3, chunks=[256] * 3))
    return str(folder)


def test_convert_says_what_it_writes_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    source = empty(tmp_path / "empty.zarr", 10**6)
    done = voxcaliper(tmp_path / "out", "convert", source, tmp_path / "t.ome.zarr", "--voxel-size-um", "1", "--quiet")
    assert done.code == 1, done
    assert "writes 1.1 EB of voxels, and " in done.err
    assert "\n" not in done.err.partition("voxcaliper: Converting")[2].rstrip("\n")
    assert not list(tmp_path.glob("t.ome.zarr*"))
    write_ome_zarr(tmp_path / "small.ome.zarr", np.ones((4, 4, 4), np.uint8))
    done = voxcaliper(tmp_path / "out", "convert", tmp_path / "small.ome.zarr", tmp_path / "t.ome.zarr")
    assert done.code == 0, done
    assert "writes      0.0 MB of voxels with their pyramid, before compression; " in done.err


def test_convert_refuses_what_its_memory_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ome_zarr(tmp_path / "a.ome.zarr", np.ones((64, 64, 64), np.uint8))
    monkeypatch.setattr(convert_room, "memory_here", lambda: 10**6)
    with pytest.raises(PlanError, match=r"takes .* MB of memory, .* this process may take 1\.0 MB; give a smaller"):
        convert(str(tmp_path / "a.ome.zarr"), tmp_path / "b.ome.zarr")
    assert not list(tmp_path.glob("b.*"))


def test_force_writes_although_the_disk_seems_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ome_zarr(tmp_path / "a.ome.zarr", np.random.default_rng(1).integers(0, 9, (16, 16, 16)).astype(np.uint8))
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("workflows.convert_room.shutil.disk_usage", lambda _: usage)
    with pytest.raises(PlanError, match=r"has 0\.0 MB free; write to another disk, or with --force"):
        convert(str(tmp_path / "a.ome.zarr"), tmp_path / "b.ome.zarr")
    convert(str(tmp_path / "a.ome.zarr"), tmp_path / "b.ome.zarr", force=True)
    assert json.loads((tmp_path / "b.ome.zarr" / "zarr.json").read_text())


def test_a_catalogue_that_pandas_reads_has_the_words_of_the_manifest() -> None:
    words = pandas.Series([safe_cell("=1+1"), "kidney"], dtype="category")
    assert [plain_cell(word) for word in words] == ["=1+1", "kidney"]
