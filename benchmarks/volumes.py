"""The volumes that benchmarks measure, and how large they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.geometry import Box, VoxelSize
from pipeline.volume.writing import create_multiscale
from workflows.convert_volume import convert

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]

SEED = 20240607
STORED_SIDE = 256
"""Of a shard."""


@dataclass(frozen=True)
class Size:
    """How much is measured. side : voxels along a volume of kernels and peers; run_side : of whole runs.

    repeats : how often a short measurement is repeated; its median counts. large_side : of the volume that is never in
    memory; block_counts : blocks of stages that do nothing.
    """

    name: str
    side: int
    run_side: int
    repeats: int
    large_side: int
    block_counts: tuple[int, ...]


SIZES = {
    "tiny": Size("tiny", side=24, run_side=40, repeats=1, large_side=40, block_counts=(60, 600)),
    "small": Size("small", side=64, run_side=128, repeats=3, large_side=256, block_counts=(1_000, 10_000)),
    "full": Size("full", side=256, run_side=512, repeats=3, large_side=1024, block_counts=(10_000, 100_000, 1_000_000)),
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


def spline_noise(side: int, spacing: int, box: Box) -> Mask:
    """A box of smooth noise of any size, above zero: half of the voxels, bool (z, y, x).

    Cubic B-splines over a lattice of standard normal numbers, one every so many voxels.
    """
    numbers = side // spacing + 4
    lattice = np.random.default_rng(SEED).standard_normal((numbers, numbers, numbers), dtype=np.float32)
    z, y, x = (
        _spline_weights(np.arange(start, stop), spacing, numbers)
        for start, stop in zip(box.start, box.stop, strict=True)
    )
    rows = np.tensordot(z, lattice, 1)
    planes = np.einsum("yj,zjk->zyk", y, rows, optimize=True)
    return np.asarray(planes @ x.T > 0)


def _spline_weights(positions: npt.NDArray[Any], spacing: int, numbers: int) -> npt.NDArray[np.float32]:
    """How much each number of the lattice counts at each position, along one axis."""
    first, t = positions // spacing, positions % spacing / spacing
    weights = np.zeros((positions.size, numbers), np.float32)
    basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for offset, values in enumerate(basis):
        weights[np.arange(positions.size), first + offset] = values / 6
    return weights


def store_blockwise(make: Callable[[Box], Mask], side: int, folder: Path, name: str) -> Path:
    """Write a mask that is made block by block as OME-Zarr with voxels of 1 µm, and return its path."""
    image = create_multiscale(
        folder / f"{name}.ome.zarr", shape=(side,) * 3, dtype="bool", voxel_size=VoxelSize((1.0, 1.0, 1.0)),
        block_shape=(min(side, STORED_SIDE),) * 3, name=name, reducer="any",
    )  # fmt: skip
    for block in image.grid(0):
        image.write_own_levels(block, make(image.grid(0).box(block)))
    for level in range(image.own_levels, len(image.level_shapes)):
        for block in image.grid(level):
            image.reduce_block(level, block)
    return image.path


def store(mask: Mask, folder: Path, name: str) -> Path:
    """Write a mask as OME-Zarr with voxels of 1 µm, as `voxcaliper convert` does, and return its path."""
    source = folder / f"{name}.npy"
    target = folder / f"{name}.ome.zarr"
    np.save(source, mask)
    convert(str(source), target, voxel_size=VoxelSize((1.0, 1.0, 1.0)))
    source.unlink()
    return target
