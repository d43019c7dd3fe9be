"""What stands behind a volume: one array in a store, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy.typing as npt

from pipeline.geometry import Box, Index
from pipeline.volume.stores import ObjectStat


class StoredArray(Protocol):
    """An array as its stored objects: chunks, shards, slices, or one file.

    A small frozen dataclass: it is pickled and compared, and opens what it reads where it runs. An object is
    named by its index in the grid of objects, `Volume.objects`.
    """

    @property
    def stored_axes(self) -> str:
        """The axes as the metadata name them, which say what the voxels are: see `pipeline.volume.axes.stored_axes`."""
        ...

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The voxels of a box (z, y, x); objects that are not stored are the fill value.

        Raises what the libraries raise. What may pass is tried again by the caller, the rest becomes a StorageError
        that names box and object.
        """
        ...

    def object_key(self, index: Index) -> str:
        """The store's name of an object, relative to the volume's location."""
        ...

    def object_stat(self, index: Index) -> ObjectStat | None:
        """Size and mark of an object, None where it is not stored. May be called in many threads at once."""
        ...

    def listed(self) -> Iterator[tuple[str, ObjectStat]] | None:
        """Key and mark of every stored object of this array and of nothing else, in any order.

        None where that is not cheaper than asking for each one (`object_stat`).
        """
        ...
