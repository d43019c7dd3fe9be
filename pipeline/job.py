"""What every task of a thickness run knows: a small, picklable description, no data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.device import Device
from pipeline.geometry import BlockGrid, Index, VoxelSize
from pipeline.ledger import Ledger
from pipeline.volume.foreground import Foreground
from pipeline.volume.opening import Volume
from pipeline.volume.writing import Multiscale
from pipeline.weights import LARGEST_SQUARED_DISTANCE, largest_squared_distance

Border = Literal["unknown", "closed"]
MapKind = Literal["thickness", "squared-radius", "none"]
ObjectKind = Literal["none", "components", "labels"]
Part = Literal["overlap", "topology", "surface", "thickness"]
PARTS: tuple[Part, ...] = ("overlap", "topology", "surface", "thickness")
"""What a comparison measures, from cheap to dear; overlap, with areas and Euler numbers, is always there."""


def distance_dtype(shape: Index, voxel_size: VoxelSize) -> np.dtype[np.int32] | np.dtype[np.int64]:
    """The smallest integer type that holds every squared distance of a volume, in units of unit_um².

    voxel_size : of `for_distances`, which sees to it that int64 is enough.
    """
    largest = largest_squared_distance(voxel_size.weights, shape)
    if largest < 2**31:
        return np.dtype(np.int32)
    if largest < 2 * LARGEST_SQUARED_DISTANCE:  # a grid of corners is one longer than its volume
        return np.dtype(np.int64)
    raise ValueError(f"{voxel_size} was not made for distances in a volume of {shape}")


@dataclass(frozen=True)
class ThicknessJob:
    """One thickness run as its tasks see it.

    mask : the volume that is read; foreground : which of its values are foreground; regions : labels of the same
    grid, or None. border : what lies outside of the volume. grid : the blocks. map : where the map goes, or None.
    device : where the arrays of a task live. wide : int64 although int32 would hold the distances.
    """

    mask: Volume
    foreground: Foreground
    regions: Volume | None
    voxel_size: VoxelSize
    border: Border
    grid: BlockGrid
    ledger: Ledger
    map: Multiscale | None
    map_kind: MapKind
    device: Device = "cpu"
    wide: bool = False

    @property
    def weights(self) -> Index:
        return self.voxel_size.weights

    @property
    def volumes(self) -> dict[str, Volume]:
        """All volumes that are read, by their part in the run."""
        return {"mask": self.mask} | ({"regions": self.regions} if self.regions else {})

    @property
    def images(self) -> tuple[Multiscale, ...]:
        """What the run writes beside its statistics."""
        return (self.map,) if self.map else ()

    @property
    def dtype(self) -> np.dtype[np.int32] | np.dtype[np.int64]:
        return np.dtype(np.int64) if self.wide else distance_dtype(self.grid.shape, self.voxel_size)


def ledger_of(run: Path, key: str = "") -> Ledger:
    """The ledger in a run folder. key : of the run, for those who file and read receipts."""
    return Ledger(run / "ledger", key)
