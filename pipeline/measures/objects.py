"""Object measures out of a merged ObjectTally: exact integers in, every float formed once, in one order.

Panoptic quality (Kirillov et al. 2019): a match is a pair of objects with IoU > 1/2, so no object is in two matches.
TP matches, FP and FN objects of the prediction and of the reference without one:
PQ = Σ IoU / (TP + FP/2 + FN/2), SQ = Σ IoU / TP, RQ = TP / (TP + FP/2 + FN/2).

Lesion-wise F1 by any overlap, as the ISLES 2022 challenge scores it (Hernandez Petzsche et al. 2022): TP reference
objects that share a voxel with the prediction, FN those that do not, FP predicted objects that share none with the
reference; F1 = 2 TP / (2 TP + FP + FN).

No objects at all: every ratio is 0/0, NaN. No match: PQ and RQ are 0, SQ is NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.objects import ObjectTally

NO_OBJECTS = "there are no objects in either volume"
NO_MATCH = "no two objects match, so there is no IoU to average"
NO_REFERENCE = "there are no reference objects"
NO_PREDICTION = "there are no predicted objects"


def object_measures(tally: ObjectTally, category: int | None = None) -> dict[str, Any]:
    """The object measures of a category, or of all objects together, by their names; "reasons" says why one is NaN."""
    mine, counts = (_rows_of(column, category) for column in (tally.category, tally.match_category))
    reference, reference_hit, prediction, prediction_hit = (int(n) for n in tally.objects[mine].sum(axis=0))
    matches = tally.matches[counts].tolist()
    # fsum rounds once, whatever the order; i·n and u are integers.
    overlap = math.fsum(i * n / u for i, u, n in matches)
    matched = sum(n for _, _, n in matches)
    missed, false = reference - reference_hit, prediction - prediction_hit
    measures: dict[str, Any] = {
        "reference_objects": reference,
        "prediction_objects": prediction,
        "matched_objects": matched,
        "panoptic_quality": _ratio(2 * overlap, reference + prediction),
        "segmentation_quality": _ratio(overlap, matched),
        "recognition_quality": _ratio(2 * matched, reference + prediction),
        "lesion_recall": _ratio(reference_hit, reference),
        "lesion_precision": _ratio(prediction_hit, prediction),
        "lesion_f1": _ratio(2 * reference_hit, 2 * reference_hit + false + missed),
    }
    why = {"segmentation_quality": NO_MATCH, "lesion_recall": NO_REFERENCE, "lesion_precision": NO_PREDICTION}
    measures["reasons"] = {
        name: NO_OBJECTS if reference + prediction == 0 else why[name]
        for name, value in measures.items()
        if isinstance(value, float) and math.isnan(value)
    }
    return measures


def _rows_of(column: npt.NDArray[np.uint64], category: int | None) -> slice:
    """The rows of a category in an ascending column; all rows for None."""
    if category is None:
        return slice(None)
    first, last = (int(np.searchsorted(column, np.uint64(category), side)) for side in ("left", "right"))
    return slice(first, last)


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else math.nan
