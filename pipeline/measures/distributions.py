"""How far two distributions of thickness are from each other, out of their integer histograms.

With F and G the shares of voxels that are at most t thick, the 1-Wasserstein distance is ∫ |F(t) − G(t)| dt, in µm: how
far thickness must be moved on average to turn one distribution into the other. The Kolmogorov–Smirnov statistic is
max |F(t) − G(t)|, between 0 and 1. F − G is a fraction of integers, so both are rounded once.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.tally import Histogram

EMPTY = "one of the volumes has no voxel of the label, so there is no thickness to compare"


def distribution_distances(reference: Histogram, prediction: Histogram, unit_um: float) -> tuple[float, float]:
    """1-Wasserstein distance in µm and Kolmogorov–Smirnov statistic of two histograms of squared radii.

    unit_um : the length whose square is the unit of squared radii. NaN where a histogram is empty.
    """
    if not (reference.voxels.size and prediction.voxels.size):
        return math.nan, math.nan
    radii = np.union1d(reference.squared_radius, prediction.squared_radius)
    up_to = [
        np.concatenate(([0], np.cumsum(h.voxels)))[np.searchsorted(h.squared_radius, radii, side="right")].tolist()
        for h in (reference, prediction)
    ]
    of_reference, of_prediction = int(reference.voxels.sum()), int(prediction.voxels.sum())
    # |F − G| · of_reference · of_prediction, in Python's integers: products of counts are beyond 64 bits.
    apart = [abs(r * of_prediction - p * of_reference) for r, p in zip(*up_to, strict=True)]
    both = of_reference * of_prediction
    thickness = (2.0 * np.sqrt(radii.astype(np.float64)) * unit_um).tolist()
    steps = [(b - a) * (gap / both) for a, b, gap in zip(thickness, thickness[1:], apart, strict=False)]
    return math.fsum(steps), max(apart) / both
