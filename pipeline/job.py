"""What every task of a thickness run knows: a small, picklable description, no data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.device import Device
from pipeline.errors import InputError
from pipeline.geometry import BlockGrid, Index, VoxelSize
from pipeline.ledger import Ledger
from pipeline.volume.foreground import Foreground
from pipeline.volume.opening import Volume
from pipeline.volume.writing import Multiscale

Border = Literal["unknown", "closed"]
MapKind = Literal["thickness", "squared-radius", "none"]
ObjectKind = Literal["none", "components", "labels"]
Part = Literal["overlap", "topology", "surface", "thickness"]
PARTS: tuple[Part, ...] = ("overlap", "topology", "surface", "thickness")
"""What a comparison measures, from cheap to dear; overlap, with areas and Euler numbers, is always there."""

# A squared distance is formed between any voxel of a tile or cell and any centre; their boxes may stick out of the
# volume by less than this.
OVERHANG_VOXELS = 64


def distance_dtype(shape: Index, voxel_size: VoxelSize) -> np.dtype[np.int32] | np.dtype[np.int64]:
    """The smallest integer type that holds every squared distance of a volume, in units of unit_um².

    Raises InputError where int64 minus the bits of a brick position (2^53) is not enough.
    """
    largest = sum(w * (n + OVERHANG_VOXELS) ** 2 for w, n in zip(voxel_size.weights, shape, strict=True))
    if largest < 2**31:
        return np.dtype(np.int32)
    if largest < 2**53:
        return np.dtype(np.int64)
    raise InputError(
        f"The voxel size {voxel_size.um} µm has too many digits: in steps of {voxel_size.unit_um:g} µm the squared"
        f" distances of a volume of {shape} voxels exceed 2^53; round it, for example to four digits."
    )


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
