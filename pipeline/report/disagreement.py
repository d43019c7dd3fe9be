"""Where measures of one comparison disagree: a high Dice over a wrong structure, said in a sentence each.

The limits below are judgement, not statistics: they mark what a reader should look at before trusting one number.
Every number behind a sentence stands in comparison.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.report.numbers import count, significant

Kind = Literal["presence", "overlap", "surface", "topology", "thickness", "objects"]
Label = Mapping[str, Any]

HIGH_DICE = 0.75
"""From here on a reader takes an overlap for good, so that what it hides must be said."""
BETTI_FACTOR, BETTI_DIFFERENCE = 2.0, 10
"""A Betti number is wrong when it differs by more than this factor and by at least this many."""
THICKNESS_PERCENT = 15.0
"""Largest difference of the mean thicknesses, of the reference's."""
WASSERSTEIN_VOXELS = 1.0
"""Largest 1-Wasserstein distance of the thickness distributions, in the longest side of a voxel."""
LEAST_NSD = 0.9
"""Least share of both surfaces that lie within the tolerance: the smallest one asked for of at least one voxel."""
FAR_VOXELS = 5.0
"""Largest HD95, in the longest side of a voxel."""
LEAST_RECOGNITION = 0.75
"""Least recognition quality (F1 of matched objects)."""
CLOSE_NSD = 0.95
"""A low Dice with so much of the surfaces within the tolerance speaks of a thin structure, not of a wrong one."""

FOREGROUND = "foreground"
BETTI = (("pieces", "b₀"), ("tunnels", "b₁"), ("cavities", "b₂"))


@dataclass(frozen=True)
class Disagreement:
    """One measure against another.

    label : the label's id as text, or "foreground" for any label.
    kind : what is wrong with it. measure : the number to look at. sentence : all of it, for a reader.
    """

    label: str
    kind: Kind
    measure: str
    sentence: str


def disagreements(comparison: Mapping[str, Any], voxel_size_um: Sequence[float]) -> list[Disagreement]:
    """What a reader of one number would miss: the foreground first, then label by label, by number.

    comparison : the contents of comparison.json. Measures that are missing or undefined contradict nothing.
    voxel_size_um : (z, y, x).

    With a single label the foreground is that label, and only the label is named.
    """
    voxel_um = max(voxel_size_um)
    found = [item for name, label in labels_of(comparison) for item in _of_label(name, label, voxel_um)]
    overall = comparison.get("overall", {}).get(FOREGROUND)
    if overall is not None and len(comparison["labels"]) != 1:
        found = [*_of_label(FOREGROUND, overall, voxel_um), *found]
    return found


def labels_of(comparison: Mapping[str, Any]) -> list[tuple[str, Label]]:
    """The labels by number, as JSON may sort them by text."""
    return sorted(comparison["labels"].items(), key=lambda item: int(item[0]))


def number(value: float | str | None) -> float:
    """A value of comparison.json: null is NaN and "inf" is infinite."""
    return math.nan if value is None else float(value)


def tolerance_of(label: Label, voxel_um: float, *, kind: str = "nsd_voxel") -> str | None:
    """The smallest tolerance asked for of at least this length, as the key it has; None if there is none."""
    wide = [key for key in label.get(kind) or {} if float(key) >= voxel_um * (1 - 1e-9)]
    return min(wide, key=float, default=None)


def _of_label(name: str, label: Label, voxel_um: float) -> Iterator[Disagreement]:
    who = "The foreground" if name == FOREGROUND else f"Label {name}"
    only = _only_in(label)
    if only:
        where, other, voxels = only
        yield Disagreement(
            name, "presence", "voxels", f"{who} is in the {where} only ({count(voxels)} voxels), not in the {other}."
        )
        return
    if name != FOREGROUND and label.get("reference_voxels") == label.get("prediction_voxels") == 0:
        yield Disagreement(name, "presence", "voxels", f"{who} is in neither volume, so there is nothing to compare.")
        return
    dice = number(label.get("dice"))
    if dice >= HIGH_DICE:
        for found in (_topology(label), _surface(label, voxel_um), _thickness(label, voxel_um), _objects(label)):
            if found:
                kind, measure, text = found
                sentence = f"{who}: Dice is {dice:.3f}, but {text}: look at the {measure}."
                yield Disagreement(name, kind, measure, sentence)
    elif dice < HIGH_DICE:
        key = tolerance_of(label, voxel_um)
        nsd = number(label["nsd_voxel"][key]) if key else math.nan
        if key and nsd >= CLOSE_NSD and not _topology(label):
            yield Disagreement(
                name,
                "overlap",
                "NSD",
                f"{who}: Dice is only {dice:.3f}, but {100 * nsd:.1f} % of the surfaces lie within"
                f" {significant(float(key), 3)} µm of each other, as with thin structures: look at the NSD.",
            )


def _only_in(label: Label) -> tuple[str, str, int] | None:
    reference, prediction = label.get("reference_voxels"), label.get("prediction_voxels")
    if reference and prediction == 0:
        return "reference", "prediction", reference
    if prediction and reference == 0:
        return "prediction", "reference", prediction
    return None


_Found = tuple[Kind, str, str]


def _topology(label: Label) -> _Found | None:
    """The Betti number that is wrong by the largest factor."""
    betti = label.get("betti")
    if not betti or betti["reference"] is None or betti["prediction"] is None:
        return None
    factors = []
    for (what, symbol), a, b in zip(BETTI, betti["reference"], betti["prediction"], strict=True):
        if abs(a - b) >= BETTI_DIFFERENCE and max(a, b) > BETTI_FACTOR * min(a, b):
            text = f"the prediction has {count(b)} {what} ({symbol}) where the reference has {count(a)}"
            factors.append((max(a, b) / max(1, min(a, b)), text))
    if not factors:
        return None
    return "topology", "Betti numbers", max(factors)[1]


def _surface(label: Label, voxel_um: float) -> _Found | None:
    key = tolerance_of(label, voxel_um)
    nsd = number(label["nsd_voxel"][key]) if key else math.nan
    if key and nsd < LEAST_NSD:
        text = f"only {100 * nsd:.1f} % of the surfaces lie within {significant(float(key), 3)} µm of each other"
        return "surface", "NSD", text
    far = number(label.get("hausdorff95_um"))
    if math.isinf(far):  # a label of both volumes: ignored voxels took the surface of one
        return "surface", "HD95", "its surface is clear of ignored voxels in only one of the two volumes"
    if far > FAR_VOXELS * voxel_um:
        return "surface", "HD95", f"5 % of a surface is {significant(far, 3)} µm or more away from the other"
    return None


def _thickness(label: Label, voxel_um: float) -> _Found | None:
    thickness = label.get("thickness")
    if not thickness:
        return None
    reference, prediction = (number((thickness.get(side) or {}).get("mean")) for side in ("reference", "prediction"))
    percent = 100 * (prediction - reference) / reference if reference else math.nan
    if abs(percent) > THICKNESS_PERCENT:
        change = "thicker" if percent > 0 else "thinner"
        text = (
            f"the prediction is {abs(percent):.0f} % {change} ({significant(prediction, 3)} µm on average"
            f" instead of {significant(reference, 3)} µm)"
        )
        return "thickness", "mean thickness", text
    distance = number(thickness.get("wasserstein_um"))
    if distance > WASSERSTEIN_VOXELS * voxel_um:
        text = f"thickness is distributed otherwise, {significant(distance, 3)} µm away (1-Wasserstein)"
        return "thickness", "distribution of thickness", text
    return None


def _objects(label: Label) -> _Found | None:
    quality = number((label.get("objects") or {}).get("recognition_quality"))
    if quality < LEAST_RECOGNITION:
        return "objects", "recognition quality", f"objects are matched with an F1 of only {quality:.2f}"
    return None
