"""The page of a release, and all that belongs to it: catalogue, changes, index.html, out of what lies in the root."""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas
from numpy.typing import NDArray

from pipeline.errors import InputError, RunError, StorageError
from pipeline.geometry import Box
from pipeline.report import (
    THUMBNAIL_PIXELS,
    AtlasContent,
    AtlasEntry,
    Changes,
    Picture,
    Slice,
    Thumbnail,
    binned,
    largest_projection,
    orthogonal_slices,
    write_redirect,
    write_release,
)
from pipeline.volume.opening import Volume, open_volume
from workflows.atlas.catalogue import Written, status_reason, write_catalogue
from workflows.atlas.changes import write_changes
from workflows.atlas.flattening import ALL, AVERAGE
from workflows.atlas.records import EntryRecord
from workflows.atlas.release_folder import PAGE, ReleaseFolder, identifiers, open_release, read_json, understood
from workflows.thickness_results import SPARSE

TABLES = ("catalogue.parquet", "catalogue.csv", "changes.csv")
ROWS_AT_ONCE = 200_000
"""Of a histogram."""
INLINE_PNG = re.compile(rb'<img src="data:image/png;base64,([A-Za-z0-9+/=]+)"')
MAPS = {"thickness": "thickness.ome.zarr", "compare": "prediction.ome.zarr"}
"""Workflow -> the map that a thumbnail shows, where there is one."""


def write_release_page(root: Path, identifier: str, since: str | None = None) -> Path:
    """Make or remake catalogue.parquet, catalogue.csv, changes.csv and index.html of a release; returns the page.

    ROOT/index.html leads to the latest release that has a page. since : the release to compare with, None for the one
    before.
    Raises RunError where the release or a result of it cannot be read, StorageError where the disk refuses.
    """
    write_catalogue(root, identifier)
    release = open_release(root, identifier)
    if since is not None and not open_release(root, since).catalogue.exists():
        write_catalogue(root, since)
    changes = write_changes(root, identifier, since)
    write_release(release.page, page_content(release, changes))
    latest = next(name for name in reversed(identifiers(release.root)) if (release.path.parent / name / PAGE).exists())
    write_redirect(release.root / PAGE, f"releases/{quote(latest)}/{PAGE}", release.record.name)
    return release.page


def page_content(release: ReleaseFolder, changes: Changes) -> AtlasContent:
    """What the page shows."""
    record = release.record
    written = Written(release)
    entries = [entry_content(release, entry, written) for entry in record.entries]
    made = [entry for entry in record.entries if entry.outcome == "made"]
    return AtlasContent(
        title=record.name,
        identifier=record.identifier,
        began=record.began,
        ended=record.ended,
        entries=entries,
        changes=changes,
        provenance={
            "Release": record.identifier,
            "Manifest": record.manifest,
            "Began, ended": ", ".join(
                t.isoformat(timespec="seconds") if t else "not yet" for t in (record.began, record.ended)
            ),
            "Results": str(release.root),
            "Made in this release": f"{len(made):,} in {sum(e.seconds for e in made):,.0f} s of runs,"
            f" {sum(e.bytes for e in made) / 1e9:,.2f} GB",
            **_versions(release),
        },
        files=TABLES,
    )


def _versions(release: ReleaseFolder) -> dict[str, str]:
    """With what the results were made, all versions of it; damaged ones are said elsewhere."""
    found: dict[str, set[str]] = {}
    for entry in (entry for entry in release.record.entries if entry.run is not None):
        with contextlib.suppress(RunError), understood(release.run_of(entry)):
            provenance = release.provenance_of(entry)
            for name, number in {"algorithm": provenance["algorithm_version"], **provenance["versions"]}.items():
                found.setdefault(name, set()).add(str(number))
    shown = ", ".join(f"{name} {' and '.join(sorted(numbers))}" for name, numbers in found.items())
    return {"Versions": shown} if shown else {}


def entry_content(release: ReleaseFolder, entry: EntryRecord, written: Written) -> AtlasEntry:
    """One row of the page; a version that cannot be read is a failed entry that says so.

    Of a version that is no longer kept, the numbers are those of the release's catalogue.
    """
    about = {name: str(value) for name, value in entry.about.items() if value is not None}
    row = AtlasEntry(
        dataset=entry.dataset,
        workflow=entry.workflow,
        outcome=entry.outcome,
        reason=status_reason(entry),
        donor=about.get("donor", ""),
        organ=about.get("organ", ""),
        about=", ".join(about[name] for name in SHOWN_ABOUT if name in about),
    )
    run = release.run_of(entry)
    if run is None:
        return row
    try:
        with understood(run):
            if release.is_gone(entry):
                told = f"The version {entry.version} is no longer kept."
                row = replace(row, reason=f"{row.reason.removesuffix('.')}. {told}" if row.reason else told)
                return replace(row, **_shown(entry.workflow, _remembered(entry.workflow, written.rows_of(entry))))
            return replace(row, **_found(release, entry, run))
    except (RunError, StorageError, InputError, OSError) as error:
        return replace(row, outcome="failed", reason=f"Its published result cannot be read: {error}")


def _found(release: ReleaseFolder, entry: EntryRecord, run: Path) -> dict[str, Any]:
    """What a version holds, as fields of a row."""
    results = release.results_of(entry)
    found = _shown(entry.workflow, results)
    report = run / "report.html"
    if report.exists():
        found["report"] = quote(os.path.relpath(report, release.path))
    if entry.workflow != "thickness":
        return found | {"thumbnail": _thumbnail(run, entry, None) or _picture(report, entry)}
    voxel_um3 = results["volume_um3"] / max(1, results["foreground_voxels"])
    distribution = _distribution(run / "histogram.csv", voxel_um3)
    return found | {"distribution": distribution, "thumbnail": _thumbnail(run, entry, results)}


def _shown(workflow: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a result, as fields of a row; none of them where there is no result."""
    if not results:
        return {}
    voxel_um = tuple(results["voxel_size_um"])
    if workflow != "thickness":
        return {"voxel_um": voxel_um, "measures": _measures(workflow, results)}
    mean, quantiles = results["thickness_um"]["mean"], results["thickness_um"]["quantiles"]
    return {
        "voxel_um": voxel_um,
        "thickness": {"mean": mean, "quantiles": {name: quantiles[name] for name in QUANTILES}},
        "foreground_share": results["foreground_voxels"] / results["volume_voxels"],
        "volume_um3": results["volume_um3"],
    }


def _remembered(workflow: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """As much of a result file as the page shows, out of the rows of a catalogue; {} where it has none."""
    if not rows:
        return {}
    of: dict[str, dict[str, float | None]] = {}
    for row in rows:
        if row["region"] == ALL:
            of.setdefault(row["label"], {})[row["statistic"]] = row["value"]
    whole, voxel_um = of.pop(ALL, {}), [rows[0][f"voxel_{axis}_um"] for axis in "zyx"]
    of.pop(AVERAGE, None)
    if workflow != "thickness":
        return {"voxel_size_um": voxel_um, "labels": of, "overall": {"foreground": whole}}
    quantiles = {name: whole[f"thickness_um.quantiles.{name}"] for name in QUANTILES}
    thickness = {"mean": whole["thickness_um.mean"], "quantiles": quantiles}
    return whole | {"voxel_size_um": voxel_um, "thickness_um": thickness}


QUANTILES = ("0.05", "0.25", "0.5", "0.75", "0.95")
"""Of thickness, which the page shows."""
SHOWN_ABOUT = ("organ_context", "type", "voi")
"""Of what describes a data set, beside its donor and organ."""


def _measures(workflow: str, results: Mapping[str, Any]) -> list[tuple[str, str]]:
    labels = ("labels", f"{len(results['labels']):,}")
    if workflow == "statistics":
        voxels = sum(label["voxels"] for label in results["labels"].values())
        return [labels, ("voxels", f"{int(voxels):,}")]
    foreground = results["overall"]["foreground"]
    shown = [(name, foreground[key]) for name, key in (("Dice", "dice"), ("IoU", "iou"))]
    return [*((name, "undefined" if value is None else f"{value:.4f}") for name, value in shown), labels]


def _distribution(path: Path, voxel_um3: float) -> NDArray[np.float64]:
    """The volume in µm³ in each bin of thickness, out of a histogram of any length."""
    volume = binned(np.zeros(0), np.zeros(0))
    try:
        with pandas.read_csv(path, usecols=["thickness_um", "voxels"], chunksize=ROWS_AT_ONCE) as parts:
            for part in parts:
                volume += binned(part["thickness_um"].to_numpy(np.float64), part["voxels"].to_numpy(np.float64))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not the histogram of a run; restore it or make its entry again.") from error
    return volume * voxel_um3


def _thumbnail(run: Path, entry: EntryRecord, statistics: Mapping[str, Any] | None) -> Thumbnail | None:
    """A plane of the map, or of a sparse one its largest thickness seen through; None where no map was stored.

    It comes from the finest level that is not larger than a thumbnail.
    """
    path = run / MAPS.get(entry.workflow, "")
    if not (path.is_dir() and path.suffix == ".zarr"):
        return None
    volume = _small(str(path))
    read = _thickness(volume, run, statistics)
    assert volume.voxel_size is not None
    sparse = statistics is not None and statistics["foreground_voxels"] < SPARSE * statistics["volume_voxels"]
    plane = (
        largest_projection(read, volume.shape, volume.voxel_size)
        if sparse
        else orthogonal_slices(read, volume.shape, volume.voxel_size)[0]
    )
    limit = float(np.quantile(plane.thickness_um[plane.thickness_um > 0], 0.995)) if plane.thickness_um.any() else 1.0
    return Thumbnail(_upright(plane), limit, f"Thickness of {entry.dataset}, plane {plane.plane}")


def _picture(report: Path, entry: EntryRecord) -> Picture | None:
    """The first picture of a report, None where it has none."""
    found = INLINE_PNG.search(report.read_bytes()) if report.exists() else None
    return Picture(base64.b64decode(found[1]), f"Labels of {entry.dataset}") if found else None


def _small(path: str) -> Volume:
    """The finest level that is small enough, else the coarsest."""
    volume = open_volume(path)
    for level in range(volume.level_count):
        volume = open_volume(path, level=level)
        if max(volume.shape) <= THUMBNAIL_PIXELS:
            break
    return volume


def _thickness(volume: Volume, run: Path, statistics: Mapping[str, Any] | None) -> Callable[[Box], NDArray[np.float32]]:
    """A reader of boxes of a map, in µm."""
    squared = statistics is not None and read_json(run / "run.json").get("map") == "squared-radius"
    unit_um = float(statistics["unit_um"]) if statistics is not None else 1.0

    def read(box: Box) -> NDArray[np.float32]:
        values = volume.read(box)
        return np.asarray(2.0 * np.sqrt(values.astype(np.float64)) * unit_um if squared else values, np.float32)

    return read


def _upright(plane: Slice) -> NDArray[np.float32]:
    """Pixels as square as a picture's: the denser side thinned where voxels are not."""
    row_um, column_um = plane.spacing_um
    rows, columns = max(1, round(column_um / row_um)), max(1, round(row_um / column_um))
    return np.ascontiguousarray(plane.thickness_um[::rows, ::columns])
