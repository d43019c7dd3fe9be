"""The volumes that benchmarks measure, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.geometry import VoxelSize
from workflows.convert_volume import convert

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]

SEED = 20240607


@dataclass(frozen=True)
class Size:
    """How much is measured. side : voxels along a volume of kernels and peers; run_side : of whole runs.

    repeats : how often a short measurement is repeated; its median counts.
    """

    name: str
    side: int
    run_side: int
    repeats: int


SIZES = {
    "tiny": Size("tiny", side=24, run_side=40, repeats=1),
    "small": Size("small", side=64, run_side=128, repeats=3),
    "full": Size("full", side=256, run_side=512, repeats=3),
}


def noise(side: int, sigma: float) -> Mask:
    """Standard normal noise, smoothed with sigma voxels, above its median: half of the voxels, bool (z, y, x)."""
    smooth = _smooth(np.random.default_rng(SEED), side, sigma)
    return np.asarray(smooth > np.median(smooth))


def _smooth(rng: np.random.Generator, side: int, sigma: float) -> npt.NDArray[np.float32]:
    values = rng.standard_normal((side, side, side), dtype=np.float32)
    return np.asarray(ndimage.gaussian_filter(values, sigma, output=np.float32))


def ball(side: int) -> Mask:
    """One ball with a radius of 120 / 256 of the side: the thickest structure that fits."""
    axis = np.arange(side, dtype=np.float32) - (side - 1) / 2
    squared = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    return np.asarray(squared < (120 / 256 * side) ** 2)


def slab(side: int) -> Mask:
    """A slab across the volume, oblique to all axes, with a half width of 40 / 256 of the side."""
    axis = np.arange(side, dtype=np.float32) - (side - 1) / 2
    height = (3 * axis[:, None, None] + 2 * axis[None, :, None] + axis[None, None, :]) / np.sqrt(14, dtype=np.float32)
    return np.asarray(np.abs(height) < 40 / 256 * side)


def segmentations(side: int, sigma: float, labels: int) -> tuple[Labels, Labels]:
    """A reference, noise with 35 % of foreground, and a prediction: moved, worn by other noise and a little smaller.

    The foreground has the label 1; or each of its voxels has one of `labels` labels, that of the nearest of as many
    random points, so that every label keeps to a region as an organ does. uint8 (z, y, x).
    """
    rng = np.random.default_rng(SEED)
    wide = _smooth(rng, side + 2, sigma)
    wear = _smooth(rng, side, sigma)
    region = _regions(rng, side + 2, labels)
    here, there = np.s_[1 : side + 1, 1 : side + 1, 2 : side + 2], np.s_[:side, :side, :side]
    reference = np.where(wide[here] > np.quantile(wide[here], 0.65), region[here], np.uint8(0))
    worn = wide[there] + 0.2 * wear
    return reference, np.where(worn > np.quantile(worn, 0.67), region[there], np.uint8(0))


def _regions(rng: np.random.Generator, side: int, count: int) -> Labels:
    """The nearest of `count` random points, 1 … count, in steps of 4 voxels: uint8 (z, y, x)."""
    coarse = -(-side // 4)
    points = np.zeros((coarse, coarse, coarse), np.uint8)
    points.reshape(-1)[rng.choice(points.size, count, replace=False)] = np.arange(1, count + 1)
    nearest = ndimage.distance_transform_edt(points == 0, return_distances=False, return_indices=True)
    return np.kron(points[tuple(nearest)], np.ones((4, 4, 4), np.uint8))[:side, :side, :side]


def store(mask: Mask, folder: Path, name: str) -> Path:
    """Write a mask as OME-Zarr with voxels of 1 µm, as `voxcaliper convert` does, and return its path."""
    source = folder / f"{name}.npy"
    target = folder / f"{name}.ome.zarr"
    np.save(source, mask)
    convert(str(source), target, voxel_size=VoxelSize((1.0, 1.0, 1.0)))
    source.unlink()
    return target
