"""Comparisons as a run files them, for tests of the page: small volumes and made-up values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import VoxelSize
from pipeline.report import ComparisonContent, HistogramPair, ThicknessHistogram, Timing, compared_slices
from pipeline.statistics import thickness_statistics
from pipeline.tally import Tally

VOXEL = VoxelSize((3.0, 0.7, 0.7))
SIDES = ("reference", "prediction")
ABSENT = "the label is in only one of the two volumes, so the distance to the other surface is infinite"
NOWHERE = "the label is in neither volume"

Labels = NDArray[Any]


def labels_of_noise(count: int, seed: int = 0) -> Labels:
    """Slabs of labels 1 … count along x, about half of the voxels 0."""
    shape = (8, 12, 4 * count)
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.5, np.arange(shape[2]) // 4 + 1, 0)


def thickness_of(radii: NDArray[np.int64]) -> tuple[dict[str, Any], ThicknessHistogram]:
    """The thickness_um part of statistics.json, and the histogram, of squared radii."""
    values = radii[radii > 0]
    tally = Tally.of_counts(label=np.zeros_like(values), squared_radius=values, voxels=np.ones_like(values))
    statistics = thickness_statistics(tally, voxel_size=VOXEL, volume_voxels=1, definition="", regions=False)
    return statistics["thickness_um"], ThicknessHistogram(*tally.total(), VOXEL.unit_um)


def label_measures(**changes: Any) -> dict[str, Any]:
    """A label whose measures agree: one that no sentence speaks of. changes : other values."""
    thickness, _ = thickness_of(np.arange(500, 1000))
    return {
        "accuracy": 0.99, "iou": 0.8518, "dice": 0.92, "precision": 0.91, "recall": 0.93, "specificity": 0.995,
        "mcc": 0.9142, "kappa": 0.9141, "volumetric_similarity": 0.98, "reference_voxels": 1200,
        "prediction_voxels": 1250, "hausdorff_um": 9.5, "hausdorff95_um": 2.1, "hausdorff95_pooled_um": 2.05,
        "assd_um": 0.61, "masd_um": 0.62, "nsd_voxel": {"0": 0.71, "3.5": 0.98}, "nsd_surfel": {"0": 0.7, "3.5": 0.97},
        "boundary_iou": {"1": 0.66, "2": 0.7}, "surface_area_um2": {"reference": 812.5, "prediction": 850.25},
        "euler_number": {"reference": -12, "prediction": -15},
        "components": {key: {"reference": 3, "prediction": 4} for key in ("6", "18", "26")},
        "betti": {"reference": [3, 15, 0], "prediction": [4, 19, 0]},
        "thickness": {
            "reference": thickness, "prediction": thickness, "wasserstein_um": 0.4, "kolmogorov_smirnov": 0.0625
        },
        "reasons": {},
        **changes,
    }  # fmt: skip


def only_in_reference(**changes: Any) -> dict[str, Any]:
    """A label that the prediction lacks: infinite distances, ratios of nothing."""
    label = label_measures(
        dice=0.0, iou=0.0, precision=None, recall=0.0, prediction_voxels=0, mcc=None,
        hausdorff_um="inf", hausdorff95_um="inf", assd_um="inf", masd_um="inf",
        nsd_voxel={"0": 0.0, "3.5": 0.0}, nsd_surfel={"0": 0.0, "3.5": 0.0},
        betti={"reference": [3, 15, 0], "prediction": [0, 0, 0]},
        reasons=dict.fromkeys(("hausdorff_um", "hausdorff95_um", "assd_um", "masd_um"), ABSENT)
        | {"precision": "0/0", "mcc": "0/0", "thickness": "no thickness in one of the two"},
        **changes,
    )  # fmt: skip
    nothing, _ = thickness_of(np.zeros(1, np.int64))
    label["thickness"] |= {"prediction": nothing, "wasserstein_um": None, "kolmogorov_smirnov": None}
    return label


def nowhere() -> dict[str, Any]:
    """A label that neither volume holds."""
    nothing, _ = thickness_of(np.zeros(1, np.int64))
    label = dict.fromkeys(label_measures())
    sides = dict.fromkeys(SIDES, 0)
    return label | {
        "accuracy": 1.0, "specificity": 1.0, "reference_voxels": 0, "prediction_voxels": 0,
        "nsd_voxel": {"0": None, "3.5": None}, "nsd_surfel": {"0": None, "3.5": None}, "boundary_iou": {"1": None},
        "surface_area_um2": dict.fromkeys(SIDES, 0.0), "euler_number": sides, "components": {"26": sides},
        "betti": {side: [0, 0, 0] for side in SIDES},
        "thickness": {**dict.fromkeys(SIDES, nothing), "wasserstein_um": None, "kolmogorov_smirnov": None},
        "reasons": dict.fromkeys(label, NOWHERE),
    }  # fmt: skip


def comparison_of(labels: dict[str, dict[str, Any]], **overall: Any) -> dict[str, Any]:
    """A comparison.json of these labels."""
    return {"labels": labels, "overall": {"foreground": label_measures(), **overall}, "reasons": {}}


def content_of(comparison: dict[str, Any], **changes: Any) -> ComparisonContent:
    """The page of a comparison; planes and distributions are there for every label."""
    reference, prediction = labels_of_noise(6), labels_of_noise(6, seed=1)
    histograms = HistogramPair(*(thickness_of(volume**2 * 100)[1] for volume in (reference, prediction)))
    content: dict[str, Any] = {
        "title": "Vessels & <script>alert(1)</script>",
        "comparison": comparison,
        "voxel_size_um": VOXEL.um,
        "volume_voxels": reference.size,
        "histograms": dict.fromkeys((*comparison["labels"], "foreground"), histograms),
        "slices": compared_slices(
            lambda box: reference[box.slices],
            lambda box: prediction[box.slices],
            (8, 12, 24),
            VOXEL,
            reference_thickness=lambda box: reference[box.slices].astype(np.float32),
            prediction_thickness=lambda box: prediction[box.slices].astype(np.float32),
        ),
        "slices_note": None,
        "timings": [Timing("overlap", 8, 3.25, 12.5)],
        "provenance": {"voxcaliper": "0.1.0", "reference": "vessels.ome.zarr"},
    }
    return ComparisonContent(**{**content, **changes})
