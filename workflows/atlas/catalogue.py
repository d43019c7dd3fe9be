"""The catalogue of a release: one tidy table, a row for each statistic of each label and region of each entry.

ROOT/releases/RELEASE/catalogue.parquet and catalogue.csv hold the same rows in the order of the release's record. The
columns are those of COLUMNS; texts that a spreadsheet would run have an apostrophe in front in both
(`pipeline.plain_text`), which `open_catalogue` takes off. The Parquet file carries their descriptions as metadata of
its fields. An entry without a result, such as one that failed at its first try, has one row without a statistic, whose
status_reason says why.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import xarray as xr

from pipeline.errors import RunError, StorageError
from pipeline.files import as_text, whole_file
from pipeline.plain_text import plain_cell, safe_row
from workflows.atlas.flattening import ALL, Statistic, statistics_of
from workflows.atlas.records import EntryRecord
from workflows.atlas.release_folder import ReleaseFolder, open_release, understood

_WORD = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
COLUMNS: dict[str, tuple[Any, str]] = {
    "release": (_WORD, "identifier of the release that this catalogue belongs to"),
    "dataset": (_WORD, "name of the data set"),
    "donor": (_WORD, "who gave it; missing where the manifest does not say"),
    "organ": (_WORD, "what was scanned; missing where the manifest does not say"),
    "workflow": (_WORD, "thickness, compare or statistics"),
    "region": (_WORD, "id of the region, or all: the whole volume"),
    "label": (_WORD, "id of the label, all: all foreground, or average: of averages over labels"),
    "statistic": (_WORD, "path of the number in the result file, joined by dots"),
    "value": (pyarrow.float64(), "the number; missing where it is undefined, inf where it is infinite"),
    "unit": (_WORD, "unit of the value; 1 for pure numbers and counts"),
    "reason": (_WORD, "why the value is missing; empty where it is not"),
    "status": (_WORD, "outcome of the entry in this release: made, kept, failed or waiting"),
    "status_reason": (_WORD, "why it was made, failed or waits; empty where it was kept"),
    "version": (_WORD, "published version of the result: the release in which it was made"),
    "algorithm_version": (pyarrow.int32(), "of the code that made it"),
    "source": (_WORD, "volume that was measured"),
    "reference": (_WORD, "volume that it was compared with; missing for other workflows"),
    "level": (pyarrow.int32(), "level of the pyramid that was measured"),
    "voxel_z_um": (pyarrow.float64(), "voxel size at that level along z, in µm"),
    "voxel_y_um": (pyarrow.float64(), "along y"),
    "voxel_x_um": (pyarrow.float64(), "along x"),
}
"""Column -> its type and what it says. Words are dictionary-encoded: pandas reads them as categories."""

SCHEMA = pyarrow.schema(
    [pyarrow.field(name, kind, metadata={"description": text}) for name, (kind, text) in COLUMNS.items()],
    metadata={"voxcaliper": "catalogue of a release", "rows": "one a data set, workflow, region, label and statistic"},
)
ROWS_AT_ONCE = 20_000
"""Rows in memory while the tables are written, and of a row group."""
NOTHING_FOUND = "the run found no label"

Row = dict[str, Any]


class Written:
    """A catalogue on disk, entry by entry. It is read once, when the first entry is asked for."""

    def __init__(self, release: ReleaseFolder, columns: Sequence[str] = tuple(COLUMNS)) -> None:
        self._path, self._columns = release.catalogue, list(columns)

    def rows_of(self, entry: EntryRecord) -> list[Row]:
        """The statistics of an entry, in order, with the columns asked for.

        Raises RunError where the catalogue is missing or damaged.
        """
        table, places = self._read
        found = places.get((entry.dataset, entry.workflow), [])
        rows = table.slice(found[0], len(found)).to_pylist() if len(found) else []  # an entry is written in one go
        rows = [{name: plain_cell(v) if isinstance(v, str) else v for name, v in row.items()} for row in rows]
        return [{name: row[name] for name in self._columns} for row in rows if row["statistic"] is not None]

    @property
    def is_whole(self) -> bool:
        """Whether it can be read."""
        try:
            return bool(self._read)
        except RunError:
            return False

    @cached_property
    def _read(self) -> tuple[pyarrow.Table, dict[Any, Any]]:
        columns = list(dict.fromkeys(["dataset", "workflow", "statistic", *self._columns]))
        try:
            table = pyarrow.parquet.read_table(self._path, columns=columns)
        except FileNotFoundError as error:
            raise RunError(f"{self._path} is missing; make it with `voxcaliper atlas report`.") from error
        except (OSError, pyarrow.ArrowException) as error:
            raise RunError(f"{self._path} is damaged; remove it and run `voxcaliper atlas report`.") from error
        names = table.select(["dataset", "workflow"]).to_pandas()
        return table, names.groupby(["dataset", "workflow"], observed=True).indices


def write_catalogue(root: Path, identifier: str) -> Path:
    """Write the catalogue of a release as Parquet and CSV; returns the Parquet file. Each appears whole or not at all.

    Of versions that are no longer kept, the catalogue before it has the only numbers, and they stay.
    Raises RunError where the release or a result of it cannot be read, StorageError where the disk refuses.
    """
    release = open_release(root, identifier)
    rows = _rows(release)
    try:
        with contextlib.ExitStack() as stack:
            table = stack.enter_context(whole_file(release.path / "catalogue.csv"))
            parquet = stack.enter_context(whole_file(release.catalogue))
            text = stack.enter_context(as_text(table))
            plain = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            plain.writeheader()
            with pyarrow.parquet.ParquetWriter(parquet, SCHEMA, compression="zstd") as writer:
                while batch := [safe_row(row) for row in islice(rows, ROWS_AT_ONCE)]:
                    plain.writerows(batch)
                    writer.write_table(pyarrow.Table.from_pylist(batch, SCHEMA))
    except OSError as error:
        raise StorageError(
            f"The catalogue in {release.path} could not be written: {error.strerror or error}; make room or mend the"
            " permissions there, then run `voxcaliper atlas report`."
        ) from error
    return release.catalogue


def _rows(release: ReleaseFolder) -> Iterator[Row]:
    before = Written(release)
    for entry in release.record.entries:
        row = _about(release, entry)
        if entry.run is None:
            yield row | {"reason": entry.message or "there is no result yet"}
            continue
        if release.is_gone(entry) and release.catalogue.exists():
            kept = [old for old in before.rows_of(entry) if old["version"] == entry.version]
            yield from kept
            if kept:
                continue
        try:
            with understood(release.run_of(entry)):
                row |= _origin(release, entry)
                statistics = list(statistics_of(entry.workflow, release.results_of(entry)))
        except RunError as error:  # a damaged version is said, and hides no other
            yield row | {"reason": str(error)}
            continue
        yield from (row | _columns_of(statistic) for statistic in statistics)
        if not statistics:
            yield row | {"reason": NOTHING_FOUND}


def _columns_of(statistic: Statistic) -> Row:
    return {
        "region": statistic.region,
        "label": statistic.label,
        "statistic": statistic.name,
        "value": statistic.value,
        "unit": statistic.unit,
        "reason": statistic.reason,
    }


def _about(release: ReleaseFolder, entry: EntryRecord) -> Row:
    """What the record says of an entry, and that nothing is known beside it."""
    return {
        **dict.fromkeys(COLUMNS),
        "release": release.record.identifier,
        "dataset": entry.dataset,
        **{name: _word(entry.about.get(name)) for name in ("donor", "organ")},
        "workflow": entry.workflow,
        "region": ALL,
        "label": ALL,
        "reason": "",
        "status": entry.outcome,
        "status_reason": status_reason(entry),
        "version": entry.version,
    }


def _origin(release: ReleaseFolder, entry: EntryRecord) -> Row:
    """What the version of an entry was made of."""
    provenance = release.provenance_of(entry)
    asked, (z, y, x) = provenance["configuration"], provenance["plan"]["voxel_size_um"]
    return {
        "algorithm_version": provenance["algorithm_version"],
        "source": asked.get("mask") or asked.get("prediction") or asked["reference"],
        "reference": asked["reference"] if asked.get("prediction") else None,
        "level": asked["level"],
        "voxel_z_um": z,
        "voxel_y_um": y,
        "voxel_x_um": x,
    }


def status_reason(entry: EntryRecord) -> str:
    """Why an entry has its outcome, in one line."""
    return entry.message or "; ".join(entry.reasons)


def _word(value: str | float | None) -> str | None:
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def open_catalogue(root_or_release: str | Path) -> pandas.DataFrame:
    """The catalogue of a release folder, or of the latest release of an output root, with the columns of COLUMNS.

    Words are categories, level and algorithm_version nullable integers. Raises RunError where there is no catalogue.
    """
    where = Path(root_or_release)
    path = next((p for p in (where / "catalogue.parquet", where / "latest" / "catalogue.parquet") if p.exists()), None)
    if path is None:
        raise RunError(f"{where} holds no catalogue.parquet; make it with `voxcaliper atlas report RELEASE.toml`.")
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise RunError(f"{path} is damaged; make it again with `voxcaliper atlas report RELEASE.toml`.") from error
    found = table.to_pandas(types_mapper={pyarrow.int32(): pandas.Int32Dtype()}.get)
    for name in found.columns:
        if isinstance(found[name].dtype, pandas.CategoricalDtype):
            words = found[name].cat.categories
            plain = [plain_cell(str(word)) for word in words]
            if plain != list(words) and len(set(plain)) == len(plain):
                found[name] = found[name].cat.rename_categories(plain)
    return found


def to_xarray(catalogue: pandas.DataFrame, workflow: str = "thickness") -> xr.Dataset:
    """The statistics of one workflow as a Dataset: a variable each, float64 over (dataset, region, label).

    A variable has its unit in attrs["units"]; where data sets count in different units, all of them. donor, organ,
    status and version are coordinates along dataset. What a data set does not have is NaN.
    """
    rows = catalogue[(catalogue["workflow"] == workflow) & catalogue["statistic"].notna()]
    rows = rows.astype(dict.fromkeys(("dataset", "region", "label", "statistic", "unit"), str))
    keys = ["dataset", "region", "label"]
    table = rows.set_index(["statistic", *keys])["value"]
    found = xr.Dataset()
    for name, units in rows.groupby("statistic", sort=False)["unit"].unique().items():
        found[str(name)] = table.loc[name].to_xarray().assign_attrs(units=" or ".join(units))
    each = rows.drop_duplicates("dataset").set_index("dataset").loc[found.get("dataset", [])]
    coordinates = {name: ("dataset", each[name].astype(object).to_numpy()) for name in ABOUT}
    return found.assign_coords(coordinates) if found.sizes else found


ABOUT = ("donor", "organ", "status", "version")
"""Columns of the catalogue that are coordinates along data sets."""
