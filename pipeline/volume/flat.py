"""Voxels that lie in a file one after the other: .npy, NIfTI (through its compression, too) and plain TIFF."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Box, Index

Read = Callable[[int, int], bytes]
"""So many bytes of a file from a position on; fewer where it ends. (position, count)"""


class NotAVolumeError(ValueError):
    """What a readable file holds instead of a volume: the rest of a sentence that begins with its name."""


def volume_shape(shape: Sequence[int]) -> Index:
    """A shape with three axes; an image with two is one plane. Raises NotAVolumeError for any other."""
    if len(shape) not in (2, 3) or 0 in shape:
        raise NotAVolumeError(
            f"has the shape {tuple(shape)}; a volume has three axes, an image two, each with at least one voxel"
        )
    z, y, x = map(int, (1, *shape)[-3:])
    return z, y, x


@dataclass(frozen=True)
class Flat:
    """Where the voxels lie.

    offset : of the first voxel, in bytes.
    shape : of the volume (z, y, x).
    dtype : as stored, with its byte order.
    axes : from the slowest to the fastest, "zyx" or "xyz".
    step : bytes from a layer of the slowest axis to the next; None where nothing lies between them.
    slope, intercept : what a stored value is multiplied with and what is added, or None: then it is the value.
    """

    offset: int
    shape: Index
    dtype: np.dtype[Any]
    axes: str = "zyx"
    slope: float | None = None
    intercept: float = 0.0
    step: int | None = None

    @property
    def result_dtype(self) -> np.dtype[Any]:
        """Of the voxels as they are read: stored in this machine's byte order, or what scaling makes of them.

        Whole slopes and intercepts make integers of integers, of the smallest type that holds all there can be, where
        one does; all else is float32.
        """
        if self.slope is None:
            return self.dtype.newbyteorder("=")
        return self._scaled_integers or np.dtype(np.float32)

    @property
    def _scaled_integers(self) -> np.dtype[Any] | None:
        if (
            self.slope is None
            or self.dtype.kind not in "iu"
            or not (self.slope.is_integer() and self.intercept.is_integer())
        ):
            return None
        limits = np.iinfo(self.dtype)
        ends = [int(end) * int(self.slope) + int(self.intercept) for end in (limits.min, limits.max)]
        for kind in "ui":
            for size in (1, 2, 4, 8):
                held = np.iinfo(f"{kind}{size}")
                if held.min <= min(ends) and max(ends) <= held.max:
                    return held.dtype
        return None

    def read(self, read: Read, box: Box) -> npt.NDArray[Any]:
        """The voxels of a box (z, y, x): of each layer along the slowest axis one stretch of whole lines.

        A mapping of the file would be no leaner: its pages count as memory of the process, and so do those beside a
        line. Raises ValueError where the file ends too early.
        """
        order = ["zyx".index(axis) for axis in self.axes]
        slow, middle, fast = (box.slices[axis] for axis in order)
        _, lines, length = (self.shape[axis] for axis in order)
        size = self.dtype.itemsize
        voxels = np.empty([box.shape[axis] for axis in order], self.result_dtype)
        count = (middle.stop - middle.start) * length * size
        step = self.step or lines * length * size
        for layer in range(slow.start, slow.stop):
            position = self.offset + layer * step + middle.start * length * size
            content = read(position, count)
            if len(content) < count:
                whole = self.offset + (self.shape[order[0]] - 1) * step + lines * length * size
                raise ValueError(f"it ends after {position + len(content):,} of {whole:,} bytes")
            part = np.frombuffer(content, self.dtype).reshape(-1, length)[:, fast]
            voxels[layer - slow.start] = part if self.slope is None else self._scaled(part)
        return np.ascontiguousarray(voxels.transpose([self.axes.index(axis) for axis in "zyx"]))

    def _scaled(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        slope, intercept = self.slope or 0.0, self.intercept
        if (whole := self._scaled_integers) is None:
            return slope * stored.astype("f8") + intercept
        # Modulo 2⁶⁴, and the results fit.
        wide = stored.astype("u8")
        wide *= np.uint64(int(slope) % 2**64)
        wide += np.uint64(int(intercept) % 2**64)
        return wide.astype(whole)

    @property
    def layer_bytes(self) -> int:
        """Most memory that a read takes beside its result: a layer, and scaled once more."""
        layer = math.prod(self.shape) // self.shape["zyx".index(self.axes[0])]
        return layer * (self.dtype.itemsize + (16 if self.slope is not None else 0))
