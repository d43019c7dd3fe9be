"""Surface measures by other tools, each by the shortest way that its own interface offers.

MetricsReloaded is on no package index, so its way is told here again, no slower than itself: `border_distance` of its
metrics/pairwise_measures.py, once, then what it forms out of it. MONAI is measured where it is installed (it needs
PyTorch). What every tool finds is held against ours.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import surface_distance
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
Measures = dict[str, Any]
Method = Callable[[Mask, Mask, tuple[float, float, float], tuple[float, ...]], Measures]
"""(reference, prediction, voxel size in µm, tolerances in µm) → the measures that the tool has, under our names."""


def by_surface_distance(
    reference: Mask, prediction: Mask, spacing: tuple[float, float, float], tolerances: tuple[float, ...]
) -> Measures:
    """In the crop that it makes itself."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of SciPy's old names, which it uses
        distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    surface_distance.compute_average_surface_distance(distances)
    return {
        "hausdorff95_area_weighted_um": surface_distance.compute_robust_hausdorff(distances, 95),
        "nsd_surfel": {f"{t:g}": surface_distance.compute_surface_dice_at_tolerance(distances, t) for t in tolerances},
    }


def by_metrics_reloaded(
    reference: Mask, prediction: Mask, spacing: tuple[float, float, float], tolerances: tuple[float, ...]
) -> Measures:
    """Two distance transforms of the whole volume, whose results all measures share."""
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (reference, prediction)]
    fields = [ndimage.distance_transform_edt(~border, sampling=spacing) for border in borders]
    ab, ba = fields[1][borders[0]], fields[0][borders[1]]
    both = ab.size + ba.size
    return {
        "hausdorff_um": max(ab.max(), ba.max()),
        "hausdorff95_um": max(np.percentile(ab, 95), np.percentile(ba, 95)),
        "assd_um": (ab.sum() + ba.sum()) / both,
        "masd_um": (ab.mean() + ba.mean()) / 2,
        "nsd_voxel": {f"{t:g}": (np.count_nonzero(ab <= t) + np.count_nonzero(ba <= t)) / both for t in tolerances},
    }


def by_monai(
    reference: Mask, prediction: Mask, spacing: tuple[float, float, float], tolerances: tuple[float, ...]
) -> Measures:
    """One call a measure, and one a tolerance: for a single class it has no other way."""
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    torch.set_num_threads(1)
    a, b = (torch.from_numpy(mask[None, None]) for mask in (reference, prediction))
    kept = {"include_background": True, "spacing": spacing}
    return {
        "hausdorff_um": compute_hausdorff_distance(b, a, **kept).item(),
        "hausdorff95_um": compute_hausdorff_distance(b, a, percentile=95, **kept).item(),
        "assd_um": compute_average_surface_distance(b, a, symmetric=True, **kept).item(),
        "nsd_surfel": {
            f"{t:g}": compute_surface_dice(b, a, [t], use_subvoxels=True, **kept).item() for t in tolerances
        },
    }


def methods() -> dict[str, Method]:
    """The tools that can be measured here, by name."""
    found: dict[str, Method] = {"surface-distance": by_surface_distance, "MetricsReloaded's way": by_metrics_reloaded}
    if importlib.util.find_spec("monai") is not None:
        found["MONAI"] = by_monai
    return found


def largest_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """Over all measures that a tool has, by the same names."""
    return max(
        largest_difference(ours[name], value) if isinstance(value, Mapping) else abs(float(ours[name]) - float(value))
        for name, value in theirs.items()
    )
