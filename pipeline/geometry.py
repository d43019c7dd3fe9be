"""Boxes, blocks and voxel sizes: the integer geometry every station shares. Axes are always (z, y, x)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pipeline.errors import InputError
from pipeline.weights import Weights, exact_weights, weights_for

Index = tuple[int, int, int]
"""A voxel position, a shape or a block index, (z, y, x)."""


@dataclass(frozen=True)
class Box:
    """Half-open box of voxels: start ≤ voxel < stop, (z, y, x)."""

    start: Index
    stop: Index

    @property
    def shape(self) -> Index:
        z, y, x = (hi - lo for lo, hi in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        z, y, x = (slice(lo, hi) for lo, hi in zip(self.start, self.stop, strict=True))
        return z, y, x


@dataclass(frozen=True)
class BlockGrid:
    """The blocks a volume is cut into; the last one of an axis may be smaller.

    shape : voxels of the volume (z, y, x).
    block_shape : voxels of a whole block (z, y, x).
    """

    shape: Index
    block_shape: Index

    @property
    def counts(self) -> Index:
        """Number of blocks along each axis (z, y, x)."""
        z, y, x = (-(-n // b) for n, b in zip(self.shape, self.block_shape, strict=True))
        return z, y, x

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __iter__(self) -> Iterator[Index]:
        """Block indices in C order."""
        counts_z, counts_y, counts_x = self.counts
        return ((z, y, x) for z in range(counts_z) for y in range(counts_y) for x in range(counts_x))

    def at(self, number: int) -> Index:
        """The block of a number in C order."""
        _, counts_y, counts_x = self.counts
        return number // (counts_y * counts_x), number // counts_x % counts_y, number % counts_x

    def box(self, block: Index) -> Box:
        """The voxels of a block, in the coordinates of the volume."""
        start_z, start_y, start_x = (i * b for i, b in zip(block, self.block_shape, strict=True))
        stop_z, stop_y, stop_x = (
            min((i + 1) * b, n) for i, b, n in zip(block, self.block_shape, self.shape, strict=True)
        )
        return Box((start_z, start_y, start_x), (stop_z, stop_y, stop_x))


@dataclass(frozen=True)
class VoxelSize:
    """The spacing of voxel centres, in µm (z, y, x), and the integers that squared distances are formed of.

    um : as given; volumes, areas and places follow from it alone. shape : of the volume (z, y, x) in which distances
    are formed, see `for_distances`; None: weights are exact, however large.
    A squared distance is the integer Σ weight·d² in units of unit_um² (pipeline/weights.py). Isotropic voxels have the
    weights (1, 1, 1).
    """

    um: tuple[float, float, float]
    shape: Index | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) and v > 0 for v in self.um):
            raise InputError(
                f"The voxel size must be three positive lengths in µm (z, y, x), but {self.um} was found;"
                " give it as --voxel-size-um 7.5 or --voxel-size-um 3,0.7,0.7."
            )

    def for_distances(self, shape: Index) -> VoxelSize:
        """The same size with the weights for all distances in a volume of a shape (z, y, x), whatever its blocks.

        Raises InputError where the squared distances of the volume exceed 2^53.
        """
        size = VoxelSize(self.um, shape)
        size._weights  # noqa: B018  refused now, if at all
        return size

    @cached_property
    def _weights(self) -> Weights:
        return exact_weights(self.um) if self.shape is None else weights_for(self.um, self.shape)

    @property
    def weights(self) -> Index:
        """Squared spacing in units of unit_um² (z, y, x), integers, exact or rounded (`largest_rounding`)."""
        return self._weights.of_axes

    @property
    def unit_um(self) -> float:
        """The length whose square is the unit of all squared distances, in µm."""
        return self._weights.unit_um

    @property
    def largest_rounding(self) -> float:
        """How far, relatively, a distance may be from the one by the spacings as given; 0 where weights are exact."""
        return self._weights.largest_rounding
