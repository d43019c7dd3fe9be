"""Overlap measures out of the merged table of label pairs: exact integers in, every float formed once.

Per label, with true positives TP (voxels of the label in both), FP (in the prediction alone), FN (in the reference
alone) and TN (the rest of the volume, without ignored voxels):

    accuracy (TP + TN) / N        IoU TP / (TP + FP + FN)       Dice 2TP / (2TP + FP + FN)
    precision TP / (TP + FP)      recall TP / (TP + FN)         specificity TN / (TN + FP)
    volumetric similarity 1 − |FN − FP| / (2TP + FP + FN)       (Taha & Hanbury 2015, doi:10.1186/s12880-015-0068-x)
    MCC (TP·TN − FP·FN) / √((TP + FP)(TP + FN)(TN + FP)(TN + FN))
    Cohen's κ (p_o − p_e) / (1 − p_e) with the observed agreement p_o = accuracy and that by chance p_e

Products are formed in Python's integers: those of the MCC pass 2^63 at organ scale. 0/0 is undefined; so the MCC is
undefined where one of the volumes is all of the label or nothing of it, where scikit-learn says 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.geometry import VoxelSize
from pipeline.measures.exact import ratio, square_root

Array = npt.NDArray[Any]
Measures = dict[str, Any]

NOWHERE = "the label is in neither volume"
NOT_PREDICTED = "the label is not in the prediction"
NOT_IN_REFERENCE = "the label is not in the reference"
EVERYWHERE = "the label fills the whole reference, so there is no voxel to be left out"
CONSTANT = "one of the volumes is all of the label or nothing of it, so there is nothing to correlate"
SAME_CONSTANT = "both volumes are the same constant, so all agreement is by chance"
NO_LABELS = "there is no label in either volume for which it is defined"
NO_VOXELS = "every voxel is left out"
ONE_CLASS = "one of the volumes has a single class, so there is nothing to correlate"

AVERAGED = (
    "accuracy", "iou", "dice", "precision", "recall", "specificity", "mcc", "kappa", "volumetric_similarity"
)  # fmt: skip


@dataclass(frozen=True)
class Confusion:
    """Voxels of a volume by what reference and prediction say about one mask."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def reference(self) -> int:
        return self.true_positives + self.false_negatives

    @property
    def prediction(self) -> int:
        return self.true_positives + self.false_positives

    @property
    def voxels(self) -> int:
        return self.reference + self.false_positives + self.true_negatives


def confusions(tally: Mapping[str, Array]) -> dict[int, Confusion]:
    """The confusion of every label that is in either volume, ascending. tally : merged, see pipeline/overlap.py."""
    whole = int(tally["volume-voxels"][0])
    reference, prediction, both = (
        _voxels_per_label(tally, *columns) for columns in (("reference",), ("prediction",), ("reference", "prediction"))
    )
    result = {}
    for label in sorted({*reference, *prediction}):
        true, actual, predicted = (table.get(label, 0) for table in (both, reference, prediction))
        result[label] = Confusion(true, predicted - true, actual - true, whole - actual - predicted + true)
    return result


def empty_confusion(tally: Mapping[str, Array]) -> Confusion:
    """The confusion of a label that is in neither volume."""
    return Confusion(0, 0, 0, int(tally["volume-voxels"][0]))


def foreground_confusion(tally: Mapping[str, Array]) -> Confusion:
    """The confusion of the foreground: any label but 0."""
    voxels = tally["pair-voxels"]
    reference, prediction = (tally["pair-labels"] != 0).T
    true, false, missed = (
        int(voxels[rows].sum()) for rows in (reference & prediction, ~reference & prediction, reference & ~prediction)
    )
    return Confusion(true, false, missed, int(tally["volume-voxels"][0]) - true - false - missed)


def overlap_measures(confusion: Confusion, voxel_size: VoxelSize) -> Measures:
    """The overlap measures of one mask by their names in comparison.json, volumes in voxels and µm³, and "reasons"."""
    true, false, missed, rest = (
        confusion.true_positives, confusion.false_positives, confusion.false_negatives, confusion.true_negatives
    )  # fmt: skip
    sizes = confusion.reference + confusion.prediction
    voxel_um3 = math.prod((Fraction(repr(float(v))) for v in voxel_size.um), start=Fraction(1))
    measures: Measures = {
        "accuracy": ratio(true + rest, confusion.voxels),
        "iou": ratio(true, sizes - true),
        "dice": ratio(2 * true, sizes),
        "precision": ratio(true, confusion.prediction),
        "recall": ratio(true, confusion.reference),
        "specificity": ratio(rest, rest + false),
        "mcc": _matthews(confusion),
        "kappa": _kappa(
            confusion.voxels,
            true + rest,
            confusion.reference * confusion.prediction + (rest + false) * (rest + missed),
        ),
        "volumetric_similarity": ratio(sizes - abs(missed - false), sizes),
        "reference_voxels": confusion.reference,
        "prediction_voxels": confusion.prediction,
        "reference_volume_um3": float(confusion.reference * voxel_um3),
        "prediction_volume_um3": float(confusion.prediction * voxel_um3),
    }
    why = {
        "precision": NOT_PREDICTED,
        "recall": NOT_IN_REFERENCE,
        "specificity": EVERYWHERE,
        "mcc": CONSTANT,
        "kappa": SAME_CONSTANT,
    }
    measures["reasons"] = {
        name: NOWHERE if sizes == 0 else why[name]
        for name, value in measures.items()
        if isinstance(value, float) and math.isnan(value)
    }
    return measures


def label_averages(labels: Iterable[Mapping[str, Any]]) -> Measures:
    """Means over the labels that are in either volume, each over those where the measure is defined.

    labels : the overlap measures of the labels, in ascending order of the labels. A label in only one of the volumes
    counts, with a Dice of 0. "labels" says how many there are, "undefined_labels" for how many a measure is left out.
    """
    there = [m for m in labels if m["reference_voxels"] or m["prediction_voxels"]]
    averages: Measures = {"labels": len(there)}
    left_out: dict[str, int] = {}
    for name in AVERAGED:
        defined = [m[name] for m in there if not math.isnan(m[name])]
        averages[name] = math.fsum(defined) / len(defined) if defined else math.nan
        if len(defined) < len(there):
            left_out[name] = len(there) - len(defined)
    averages["undefined_labels"] = left_out
    averages["reasons"] = {name: NO_LABELS for name in AVERAGED if math.isnan(averages[name])}
    return averages


def multiclass_measures(tally: Mapping[str, Array]) -> Measures:
    """Agreement of all classes at once, the background being one, from the table of K × K classes.

    With c the voxels of equal labels, t and p the voxels of a class in the reference and in the prediction:
    multiclass_accuracy c / N; multiclass_mcc (c·N − Σ p·t) / √((N² − Σp²)(N² − Σt²)) (Gorodkin 2004,
    doi:10.1016/j.compbiolchem.2004.09.006); multiclass_kappa (c·N − Σ p·t) / (N² − Σ p·t) (Cohen 1960,
    doi:10.1177/001316446002000104).
    """
    whole = int(tally["volume-voxels"][0])
    reference, prediction, both = (
        _voxels_per_label(tally, *columns) for columns in (("reference",), ("prediction",), ("reference", "prediction"))
    )
    outside = whole - int(tally["pair-voxels"].sum())
    reference[0] = whole - sum(reference.values())
    prediction[0] = whole - sum(prediction.values())
    agreement = sum(both.values()) + outside
    chance = sum(voxels * prediction.get(label, 0) for label, voxels in reference.items())
    spread = [whole**2 - sum(voxels**2 for voxels in classes.values()) for classes in (reference, prediction)]
    measures: Measures = {
        "multiclass_accuracy": ratio(agreement, whole),
        "multiclass_mcc": _correlation(agreement * whole - chance, math.prod(spread)),
        "multiclass_kappa": _kappa(whole, agreement, chance),
    }
    why = {"multiclass_accuracy": NO_VOXELS, "multiclass_mcc": ONE_CLASS, "multiclass_kappa": SAME_CONSTANT}
    if not whole:
        why = dict.fromkeys(why, NO_VOXELS)
    measures["reasons"] = {name: why[name] for name in why if math.isnan(measures[name])}
    return measures


def _matthews(confusion: Confusion) -> float:
    true, false, missed, rest = (
        confusion.true_positives, confusion.false_positives, confusion.false_negatives, confusion.true_negatives
    )  # fmt: skip
    return _correlation(
        true * rest - false * missed, confusion.prediction * confusion.reference * (rest + false) * (rest + missed)
    )


def _correlation(covariance: int, variances: int) -> float:
    """Covariance / √variances; the root is taken of the exact quotient, so that full agreement is exactly 1."""
    if variances == 0:
        return math.nan
    return math.copysign(square_root(Fraction(covariance**2, variances)), covariance)


def _kappa(voxels: int, agreement: int, chance: int) -> float:
    """(p_o − p_e) / (1 − p_e) with p_o = agreement / voxels and p_e = chance / voxels²."""
    return ratio(agreement * voxels - chance, voxels**2 - chance)


def _voxels_per_label(tally: Mapping[str, Array], *columns: str) -> dict[int, int]:
    """Voxels of each label but 0: of one volume, or, of both columns, where both have it."""
    labels, voxels = tally["pair-labels"], tally["pair-voxels"]
    mine = labels[:, 0 if columns[0] == "reference" else 1]
    counted = mine != 0
    if len(columns) == 2:
        counted &= labels[:, 0] == labels[:, 1]
    found, place = np.unique(mine[counted], return_inverse=True)
    sums = np.zeros(len(found), np.int64)
    np.add.at(sums, place, voxels[counted])
    return dict(zip(found.tolist(), sums.tolist(), strict=True))
