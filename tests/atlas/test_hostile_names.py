"""A whole release whose manifest holds formulas: none of its tables has a cell that a spreadsheet runs."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet

from pipeline.plain_text import FORMULA, NUMBER
from tests.atlas.releases import Atlas, labels
from tests.workflows.conftest import Command
from workflows.atlas.catalogue import open_catalogue

DONORS = {
    "command": "=cmd|' /C calc'!A1",
    "plus": '+HYPERLINK("http://192.0.2.1/","x")',
    "minus": "-2+3+cmd|' /C calc'!A1",
    "at": "@SUM(1+1)*cmd|' /C calc'!A1",
    "tab": "\t=1+1",
    "plain": "LADAF-2021-17",
    "lines": "a\n=1+1",
}


def runs(cell: object) -> bool:
    """Whether a spreadsheet takes a cell for a formula."""
    return isinstance(cell, str) and cell.startswith(FORMULA) and not NUMBER.fullmatch(cell)


def test_no_cell_of_a_release_runs_and_its_reader_has_what_the_manifest_says(
    here: Command, scheduler: str, tmp_path: Path
) -> None:
    atlas = Atlas(tmp_path, here, f'kind = "scheduler"\naddress = "{scheduler}"\nunencrypted = true\n')
    for seed, (name, donor) in enumerate(DONORS.items()):
        atlas.add(name, labels(seed, (16, 16, 16)), workflows=["statistics"], about={"donor": donor, "organ": donor})
    done = atlas.run()
    assert (done.code, done.err) == (0, ""), done
    release = atlas.root / "latest"
    tables = sorted(release.glob("*.csv"))
    assert release / "catalogue.csv" in tables
    for table in tables:
        with table.open(newline="", encoding="utf-8") as file:
            assert not [cell for row in csv.reader(file) for cell in row if runs(cell)], table
    rows = pyarrow.parquet.read_table(release / "catalogue.parquet").to_pylist()
    assert {row["dataset"] for row in rows} == set(DONORS)
    assert not [cell for row in rows for cell in row.values() if runs(cell)]
    with (release / "catalogue.csv").open(newline="", encoding="utf-8") as file:
        assert {row["dataset"]: row["donor"] for row in csv.DictReader(file)} == {
            name: donor if name in ("plain", "lines") else f"'{donor}" for name, donor in DONORS.items()
        }
    found = open_catalogue(atlas.root)
    for column in ("donor", "organ"):
        assert dict(zip(found["dataset"].astype(str), found[column].astype(str), strict=True)) == DONORS
