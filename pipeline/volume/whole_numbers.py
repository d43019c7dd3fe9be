"""Labels that lie in a store as floats, as many tools leave them: read as integers, where every value is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.geometry import Box, Index
from pipeline.volume.arrays import StoredArray
from pipeline.volume.stores import ObjectStat
from pipeline.volume.volumes import Volume

LARGEST = 2**53
"""Beyond it, float64 leaves whole numbers out, so that two labels may have become one."""


@dataclass(frozen=True)
class WholeNumbers:
    """A `StoredArray` of floats, read as int64, which holds whatever whole numbers they can be.

    name : of the volume, for messages.
    """

    array: StoredArray
    name: str

    @property
    def stored_axes(self) -> str:
        return self.array.stored_axes

    def read(self, box: Box) -> npt.NDArray[np.int64]:
        """The voxels of a box (z, y, x). Raises InputError where one is no whole number, naming the first."""
        values = self.array.read(box)
        labels = np.empty(box.shape, np.int64)
        for z, plane in enumerate(values):
            # NaN is equal to nothing.
            wrong = ~((np.rint(plane) == plane) & (np.abs(plane) <= np.float64(LARGEST)))
            if wrong.any():
                raise InputError(self._refusal(box, z, plane, wrong))
            labels[z] = plane
        return labels

    def _refusal(self, box: Box, z: int, plane: npt.NDArray[Any], wrong: npt.NDArray[np.bool_]) -> str:
        found = Box((box.start[0] + z, *box.start[1:]), box.stop)
        value, place = plane[wrong][0], first_place(found, wrong[None])
        if np.isfinite(value) and np.rint(value) == value:
            return (
                f"{self.name} holds {value:g} at voxel {place}; labels that are stored as floats lie between −2^53 and"
                " 2^53, so store them as integers."
            )
        return (
            f"{self.name} holds {value!s} at voxel {place}, which is no label; labels are whole numbers, so round or"
            " threshold it first (thickness has --threshold)."
        )

    def object_key(self, index: Index) -> str:
        return self.array.object_key(index)

    def object_stat(self, index: Index) -> ObjectStat | None:
        return self.array.object_stat(index)

    def listed(self) -> Iterator[tuple[str, ObjectStat]] | None:
        return self.array.listed()


def as_labels(volume: Volume) -> Volume:
    """A volume whose voxels are labels: one of floats delivers int64, and is checked block by block as it is read."""
    dtype = np.dtype(volume.dtype)
    if dtype.kind != "f":
        return volume
    if dtype.itemsize > 8:
        raise InputError(f"{volume.name} holds {volume.dtype} values; store labels as integers, or as float64.")
    return replace(volume, array=WholeNumbers(volume.array, volume.name), dtype="int64")


def first_place(box: Box, found: npt.NDArray[np.bool_]) -> str:
    """Where the first voxel of a box (z, y, x) lies that is found, in the coordinates of the volume."""
    at = np.unravel_index(int(found.argmax()), found.shape)
    return f"({', '.join(str(start + int(i)) for start, i in zip(box.start, at, strict=True))}) (z, y, x)"
