"""A release of any size as its page sees it, without runs: every outcome, organs, thickness over several decades."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from scipy import ndimage

from pipeline.report import (
    AtlasContent,
    AtlasEntry,
    Changes,
    EntryChange,
    KeyChange,
    Thumbnail,
    ValueChange,
    binned,
)
from pipeline.statistics import distribution, thickness_um
from pipeline.tally import Histogram

ORGANS = ("brain", "eye", "heart", "kidney", "liver", "lung", "spleen", "testis", "uterus")
MISSING = "The store s3://organs/{}.ome.zarr is not there; bring it back or take the data set out of the manifest."
FULL = "It may take 812.40 GiB more, and 96.10 GiB are free on the disk; make room there, then run the release again."


def entry(number: int, rng: np.random.Generator, **more: Any) -> AtlasEntry:
    """A thickness entry with numbers that belong together."""
    organ = ORGANS[number % len(ORGANS)]
    name = f"LADAF-2020-{number:02d}_{organ}_complete-organ_{2 + number % 23}.08um_bm05"
    voxel_um = float(rng.choice([0.7, 2.5, 6.5, 12.0, 25.08]))
    squared = np.unique(rng.lognormal(np.log(20 + 10 * (number % 9)), 0.8, 300).astype(np.int64) + 1)
    voxels = np.asarray(rng.integers(10, 10**7, squared.size) / squared**0.5, np.int64) + 1
    thickness = distribution(Histogram(squared, voxels), voxel_um)
    volume = float(voxels.sum()) * voxel_um**3
    picture = ndimage.gaussian_filter(rng.standard_normal((100 + number % 29, 90 + number % 37)), 3)
    picture = np.where(picture > 0, 400 * picture * thickness["mean"], 0).astype(np.float32)
    values: dict[str, Any] = {
        "dataset": name, "workflow": "thickness", "outcome": "kept", "donor": f"LADAF-2020-{number % 31:02d}",
        "organ": organ, "about": "overview, complete-organ", "voxel_um": (voxel_um,) * 3,
        "report": f"../../entries/{name}/thickness/versions/v/report.html", "thickness": thickness,
        "foreground_share": float(rng.uniform(0.02, 0.6)), "volume_um3": volume,
        "distribution": binned(thickness_um(squared, voxel_um), voxels.astype(np.float64) * voxel_um**3),
        "thumbnail": Thumbnail(picture, float(picture.max()), f"Thickness of {name}"),
    }  # fmt: skip
    return AtlasEntry(**{**values, **more})


def release(count: int) -> AtlasContent:
    """A release of so many entries; from three on there is one of each outcome and workflow."""
    rng = np.random.default_rng(count)
    entries = [entry(number, rng, **_kind(number, count)) for number in range(count)]
    redone = [one for one in entries if one.outcome == "made" and one.reason != "new"]
    added = [one for one in entries if one.reason == "new"]
    changes = [
        EntryChange(one.dataset, one.workflow, "redone", one.reason, *_changed(n)) for n, one in enumerate(redone)
    ]
    changes += [EntryChange(one.dataset, one.workflow, "added", "new") for one in added]
    changes += [EntryChange("S-20-29_spleen", "thickness", "removed", "no longer in the manifest")] if count > 2 else []
    kept = sum(one.outcome == "kept" for one in entries)
    return AtlasContent(
        title="Human organs",
        identifier="2026-06-01T020000Z",
        began=datetime(2026, 6, 1, 2, tzinfo=UTC),
        ended=datetime(2026, 6, 1, 9, 41, tzinfo=UTC),
        entries=entries,
        changes=Changes("2026-05-01T020000Z" if count > 1 else None, kept, tuple(changes)),
        provenance={"Manifest": "organs.toml", "Versions": "algorithm 1, voxcaliper 0.1.0"},
        files=("catalogue.parquet", "catalogue.csv", "changes.csv"),
    )


def _kind(number: int, count: int) -> dict[str, Any]:
    """Fields that make an entry one of the rare ones."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("report", "thickness", "foreground_share", "volume_um3", "distribution", "thumbnail", "voxel_um")
    )
    if count < 3:
        return {"outcome": "made", "reason": "new"}
    if number % 60 == 1:
        return {"outcome": "failed", "reason": MISSING.format(number)} | (nothing if number == 1 else {})
    if number % 90 == 2:
        return {"outcome": "waiting", "reason": FULL} | nothing
    if number % 11 == 3:
        return {"outcome": "made", "reason": "mask: content"}
    if number % 13 == 4:
        return {"outcome": "made", "reason": "new"}
    if number % 17 == 5:
        measures = [("Dice", "0.9312"), ("IoU", "0.8712"), ("labels", "3")]
        return nothing | {
            "workflow": "compare",
            "measures": measures,
            "report": "../../entries/r.html",
            "voxel_um": (25.0, 2.5, 2.5),
        }
    return {}


def _changed(number: int) -> tuple[tuple[KeyChange, ...], tuple[ValueChange, ...], int]:
    key = (KeyChange("sources.mask.content.digest", "1f2e3d4c…", "9a8b7c6d…"),)
    if number % 3 == 2:
        return key, (), 0
    values = (
        ValueChange("all", "all", "thickness_um.mean", "µm", 41.25, 41.2507),
        ValueChange("all", "all", "thickness_um.quantiles.0.5", "µm", 36.1, 38.4),
        ValueChange("all", "all", "foreground_voxels", "voxels", 123456789.0, 123456790.0),
        ValueChange("2", "all", "largest_squared_radius", "(2 µm)²", 41.0, None),
    )
    return key, values, 12
