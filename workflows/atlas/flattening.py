"""Results of a run as single statistics: statistics.json and comparison.json flattened, with units from the names.

A name is the path of a value in the file, joined by dots, without the label and region that it belongs to: it is the
column of statistics.csv and comparison.csv.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

ALL = "all"
"""Region: the whole volume. Label: all foreground."""
AVERAGE = "average"
"""Label: of the measures that are averages over labels."""
PURE = "1"
"""Unit of pure numbers."""

UNITS = {
    "_um": "µm", "_um2": "µm²", "_um3": "µm³", "_mm3": "mm³", "_voxels": "voxels",
}  # fmt: skip
"""Ending of a name -> unit."""
NAMED = {
    "voxels": "voxels", "thickness": "µm", "bounding_box": "voxels", "log_mean": "log µm", "log_variance": PURE,
    "kolmogorov_smirnov": PURE, "intensity": "grey value",
}  # fmt: skip
"""Parts of names that tell a unit without an ending."""
NO_STATISTICS = ("voxel_size_um", "unit_um", "shape")
"""Numbers of a result file that describe its volume; they are columns of the catalogue."""


class Statistic(NamedTuple):
    """One number. value : None where it is undefined, and reason says why; inf where it is infinite."""

    region: str
    label: str
    name: str
    value: float | None
    unit: str
    reason: str


def statistics_of(workflow: str, results: Mapping[str, Any]) -> Iterator[Statistic]:
    """Every statistic of a result file, region by region and label by label.

    workflow : thickness, compare or statistics. results : the contents of statistics.json or comparison.json.
    """
    if workflow == "thickness":
        yield from _of_thickness(results)
    else:
        yield from _of_labels(results)


def _of_thickness(results: Mapping[str, Any]) -> Iterator[Statistic]:
    unit_um = results["unit_um"]
    whole = {name: value for name, value in results.items() if name not in ("regions", *NO_STATISTICS)}
    yield from _flat(ALL, ALL, whole, unit_um=unit_um)
    for region, measures in _by_number(results.get("regions", {})):
        yield from _flat(region, ALL, measures, unit_um=unit_um)


def _of_labels(results: Mapping[str, Any]) -> Iterator[Statistic]:
    overall = dict(results.get("overall", {}))
    reasons = overall.pop("reasons", {})
    foreground, averages = overall.pop("foreground", {}), overall.pop("label_averaged", {})
    yield from _flat(ALL, ALL, {**foreground, **overall, "reasons": {**foreground.get("reasons", {}), **reasons}})
    yield from _flat(ALL, AVERAGE, averages)
    grey = results.get("totalsegmentator", {})
    for label, measures in _by_number(results.get("labels", {})):
        more = {"totalsegmentator": grey[label]} if label in grey else {}
        yield from _flat(ALL, label, {**measures, **more})
    for region, part in _by_number(results.get("regions", {})):
        own = {name: value for name, value in part.items() if name not in ("foreground", "labels")}
        yield from _flat(region, ALL, {**own, **part.get("foreground", {})})
        for label, measures in _by_number(part.get("labels", {})):
            yield from _flat(region, label, measures)


def _by_number(parts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(parts.items(), key=lambda item: int(item[0]))


def _flat(
    region: str, label: str, measures: Mapping[str, Any], *, unit_um: float | None = None, prefix: str = "",
    reasons: Mapping[str, str] | None = None,
) -> Iterator[Statistic]:  # fmt: skip
    """Every number below some measures. reasons : name -> why undefined; that of a group counts for all in it."""
    known = {**(reasons or {}), **{f"{prefix}{name}": why for name, why in measures.get("reasons", {}).items()}}
    for key, value in measures.items():
        name = f"{prefix}{key}"
        if key == "reasons":
            continue
        if isinstance(value, list):
            value = dict(enumerate(value))  # noqa: PLW2901  a list has its positions as names
        if isinstance(value, Mapping):
            inner = {str(part): entry for part, entry in value.items()}
            yield from _flat(region, label, inner, unit_um=unit_um, prefix=f"{name}.", reasons=known)
        elif isinstance(value, str) and value != "inf":
            continue  # words: a definition, how the border was taken
        else:
            number = None if value is None else math.inf if value == "inf" else float(value)
            why = _reason(name, known) if number is None else ""
            yield Statistic(region, label, name, number, unit_of(name, unit_um), why)


def _reason(name: str, reasons: Mapping[str, str]) -> str:
    while name not in reasons and "." in name:
        name = name.rpartition(".")[0]
    return reasons.get(name, "undefined, and the run states no reason")


def unit_of(name: str, unit_um: float | None = None) -> str:
    """The unit of a statistic by its name; the last part that tells one decides.

    unit_um : length in which squared radii are counted.
    """
    if name == "largest_squared_radius" and unit_um is not None:
        return f"({unit_um:g} µm)²"
    if name == "totalsegmentator.volume":
        return "mm³"
    for part in reversed(name.split(".")):
        unit = NAMED.get(part) or next((unit for ending, unit in UNITS.items() if part.endswith(ending)), None)
        if unit is not None:
            return unit
    return PURE
