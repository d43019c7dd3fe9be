"""Tally kernel for the CPU: a hash table of (label, squared radius) → voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.accelerate import Integer, kernel


@kernel
def _slot(label: Integer, radius: Integer, labels: npt.NDArray[np.int64], radii: npt.NDArray[np.int64]) -> Integer:
    """Where (label, radius) lies in an open-addressing table of a power of two of slots, or its free slot."""
    mask = np.uint64(len(radii) - 1)
    mixed = np.uint64(radius) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(label) * np.uint64(0xC2B2AE3D27D4EB4F)
    at = (mixed ^ (mixed >> np.uint64(29))) & mask
    while radii[at] != 0 and (radii[at] != radius or labels[at] != label):
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@kernel
def count_pairs(
    radii: npt.NDArray[Any], region: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Every pair with its number of voxels."""
    size_z, size_y, size_x = radii.shape
    one_label = region.size == 1
    table_label = np.zeros(1024, np.int64)
    table_radius = np.zeros(1024, np.int64)
    table_voxels = np.zeros(1024, np.int64)
    used = 0
    label = np.int64(region[0, 0, 0])
    for z in range(size_z):
        for y in range(size_y):
            x = 0
            while x < size_x:
                # Maps are made of constant patches: count the run first, look it up once.
                radius = np.int64(radii[z, y, x])
                if not one_label:
                    label = np.int64(region[z, y, x])
                run = x + 1
                while run < size_x and radii[z, y, run] == radius and (one_label or region[z, y, run] == label):
                    run += 1
                if radius > 0:
                    at = _slot(label, radius, table_label, table_radius)
                    if table_radius[at] == 0:
                        table_label[at] = label
                        table_radius[at] = radius
                        used += 1
                    table_voxels[at] += run - x
                    if 2 * used > len(table_radius):
                        bigger_label = np.zeros(2 * len(table_radius), np.int64)
                        bigger_radius = np.zeros(2 * len(table_radius), np.int64)
                        bigger_voxels = np.zeros(2 * len(table_radius), np.int64)
                        for i in range(len(table_radius)):
                            if table_radius[i] != 0:
                                at = _slot(table_label[i], table_radius[i], bigger_label, bigger_radius)
                                bigger_label[at] = table_label[i]
                                bigger_radius[at] = table_radius[i]
                                bigger_voxels[at] = table_voxels[i]
                        table_label, table_radius, table_voxels = bigger_label, bigger_radius, bigger_voxels
                x = run
    filled = np.flatnonzero(table_radius)
    return table_label[filled], table_radius[filled], table_voxels[filled]
