"""Detections: centre points with a class, their files, and the score of the BugNIST challenge.

A point file is CSV with the columns volume, class, z, y, x in any order, coordinates in voxels; other columns are
passed over. The class of a detected object is its label.

The score (Jensen et al. 2023, the BugNIST challenge): in every volume the predicted centres are assigned to the true
ones at the least sum of Euclidean distances, whatever their class and however far; pairs of equal class are true
positives. With P = TP / predicted and R = TP / true, F1 = 2PR / (P + R + 1e-6); the score is its mean over volumes.
Classes are those of the challenge, without regard to case, and gp counts as bp; others are an error, as they are there.
Other tables of classes do as well, and none, where any word is a class (pipeline/measures/detection_classes.py).
A volume that only one file names has no pairs, so its F1 is 0, and it counts.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from pipeline.errors import InputError
from pipeline.files import write_whole
from pipeline.measures.detection_classes import BUGNIST, ClassTable
from pipeline.objects import Described
from pipeline.plain_text import plain_cell, safe_cell
from pipeline.volume.files import READERS

COLUMNS = ("volume", "class", "z", "y", "x")
COLUMNS_UM = ("z_um", "y_um", "x_um")
EPSILON = 1e-6

ENDINGS = (*READERS, ".ome", ".zarr", ".n5")
"""Ends of the names of volumes that are no part of them."""

NO_POINTS = "there is no point in either file"


@dataclass(frozen=True, order=True)
class Point:
    """A centre of an object: the volume it lies in, its class, and its position (z, y, x) in voxels."""

    volume: str
    category: str
    position: tuple[float, float, float]


def base_name(location: str) -> str:
    """The name of a volume in point files: that of its file, without the folder and its endings."""
    name = location.partition("?")[0] if "://" in location else location
    name = name.rstrip("/").rpartition("/")[2]
    while ending := next((e for e in ENDINGS if name.lower().endswith(e) and len(name) > len(e)), None):
        name = name[: -len(ending)]
    return name


def points_of(objects: Described, volume: str, names: Mapping[int, str] | None = None) -> list[Point]:
    """The centres of mass of the objects, by label and position. Voxel centres have integer coordinates.

    names : label -> its class; a label that is not there is its own class.
    """
    names = names or {}
    voxels, sums = objects.description[:, :1], objects.description[:, 1:4]
    # Sums may be beyond 2^53: the whole part is an integer division, only the rest is rounded.
    centres = sums // voxels + (sums % voxels) / voxels
    order = np.lexsort((centres[:, 2], centres[:, 1], centres[:, 0], objects.label))
    return [
        Point(volume, names.get(label, str(label)), (z, y, x))
        for label, (z, y, x) in zip(objects.label[order].tolist(), centres[order].tolist(), strict=True)
    ]


def write_points(
    path: Path, points: Iterable[Point], place_um: Callable[[Sequence[float]], Sequence[float]] | None = None
) -> None:
    """Write a point file; coordinates come back from it exactly. Raises StorageError where it cannot be written.

    place_um : where a point (z, y, x) in voxels lies in the frame of the source, for three more columns.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow((*COLUMNS, *(COLUMNS_UM if place_um else ())))
    for p in points:
        numbers = (*p.position, *(place_um(p.position) if place_um else ()))
        table.writerow((safe_cell(p.volume), safe_cell(p.category), *map(repr, numbers)))
    write_whole(path, text.getvalue())


def read_points(path: Path, classes: ClassTable | None = None) -> list[Point]:
    """The points of a file, with the classes of a table if one is given.

    Raises InputError, with the line, where it is not a point file, or has a class that is not in the table.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; give an existing CSV file.") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: this is not UTF-8 text; save the points as CSV in UTF-8.") from error
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    points: list[Point] = []
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        missing = [name for name in COLUMNS if header.count(name) != 1]
        if missing:
            raise InputError(
                f"{path}, line 1: the header must name {', '.join(COLUMNS)} once each, but {', '.join(missing)}"
                f" {'is' if len(missing) == 1 else 'are'} missing or named twice; write it as {','.join(COLUMNS)}."
            )
        points.extend(
            _point(header, row, f"{path}, line {rows.line_num}", classes)
            for row in rows
            if any(cell.strip() for cell in row)
        )
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: this is not CSV ({error}); mend the line.") from error
    return points


def _point(header: Sequence[str], row: Sequence[str], where: str, classes: ClassTable | None) -> Point:
    if len(row) != len(header):
        raise InputError(f"{where}: {len(row)} values, but the header names {len(header)} columns; mend the line.")
    volume, category, *coordinates = (plain_cell(row[header.index(name)].strip()) for name in COLUMNS)
    for name, value in (("volume", volume), ("class", category)):
        if not value:
            raise InputError(f"{where}: the {name} is empty; every point needs one.")
    if classes is not None:
        category = classes.find(category, where)
    z, y, x = (_coordinate(name, text, where) for name, text in zip("zyx", coordinates, strict=True))
    return Point(volume, category, (z, y, x))


def _coordinate(name: str, text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {name} is {text!r}, not a finite number; give coordinates in voxels.")
    return value


def bugnist_score(
    reference: Iterable[Point], prediction: Iterable[Point], classes: ClassTable | None = BUGNIST
) -> dict[str, Any]:
    """The score and, by volume, true positives, points of both sides, precision, recall and F1.

    classes : those that there are, by default the challenge's; None where any word is a class.
    Returns {"score", "volumes": {name: …}, "reasons"}, ready for JSON; the score of no points at all is None. Where
    several assignments are equally short, the order of the sorted points decides, never that of the lines. The cost
    matrix of a volume holds 8 bytes per pair of points. Raises InputError for a class that is not in the table.
    """
    sides = [_by_volume(_classed(points, classes)) for points in (reference, prediction)]
    volumes = {name: _scored(*(side.get(name, []) for side in sides)) for name in sorted({*sides[0], *sides[1]})}
    score = math.fsum(v["f1"] for v in volumes.values()) / len(volumes) if volumes else None
    return {"score": score, "volumes": volumes, "reasons": {} if volumes else {"score": NO_POINTS}}


def _classed(points: Iterable[Point], classes: ClassTable | None) -> Iterable[Point]:
    """Points with the names of their classes."""
    if classes is None:
        return points
    return (replace(p, category=classes.find(p.category, f"The volume {p.volume}")) for p in points)


def _by_volume(points: Iterable[Point]) -> dict[str, list[Point]]:
    volumes: dict[str, list[Point]] = {}
    for point in sorted(points):
        volumes.setdefault(point.volume, []).append(point)
    return volumes


def _scored(reference: Sequence[Point], prediction: Sequence[Point]) -> dict[str, Any]:
    true_positives = 0
    if reference and prediction:
        predicted, true = linear_sum_assignment(_distances(prediction, reference))
        pairs = zip(predicted.tolist(), true.tolist(), strict=True)
        true_positives = sum(prediction[p].category.casefold() == reference[t].category.casefold() for p, t in pairs)
    precision = true_positives / len(prediction) if prediction else 0.0
    recall = true_positives / len(reference) if reference else 0.0
    return {
        "true_positives": true_positives,
        "reference_points": len(reference),
        "prediction_points": len(prediction),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall + EPSILON),
    }


def _distances(rows: Sequence[Point], columns: Sequence[Point]) -> npt.NDArray[np.float64]:
    """Euclidean distances, (rows, columns)."""
    squared = np.zeros((len(rows), len(columns)))
    for axis in range(3):
        a, b = (np.array([p.position[axis] for p in points]) for points in (rows, columns))
        squared += (a[:, None] - b[None, :]) ** 2
    return np.sqrt(squared)
