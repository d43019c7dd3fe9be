"""Which voxels belong to the structure that is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.geometry import Box, Index
from pipeline.volume.opening import Volume


@dataclass(frozen=True)
class Foreground:
    """The rule that makes a mask of a volume. Made by `nonzero()`, `label(n)` or `threshold(low, high)`.

    rule : nonzero (value ≠ 0), label (value = number) or threshold (low < value, and value ≤ high where given).
    A float volume needs a threshold: there, zero is a grey value like any other; for a label it is opened as labels
    (pipeline/volume/whole_numbers.py). An integer volume may be a mask, a
    set of labels or grey; all three can be measured as non-zero, so that is allowed and the report names the rule.
    """

    rule: Literal["nonzero", "label", "threshold"]
    number: int | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def nonzero(cls) -> Foreground:
        """Every voxel that is not zero."""
        return cls("nonzero")

    @classmethod
    def label(cls, number: int) -> Foreground:
        """The voxels of one label."""
        return cls("label", number=number)

    @classmethod
    def threshold(cls, low: float, high: float | None = None) -> Foreground:
        """The voxels above `low` and, where given, at most `high`: low < value ≤ high.

        Adjoining ranges share no voxel and leave none out. For a float volume both are rounded to its precision.
        """
        if math.isnan(low) or (high is not None and not high > low):
            raise InputError(f"The threshold {low} {high} selects nothing; give LOW, or LOW and a larger HIGH.")
        return cls("threshold", low=low, high=high)

    def describe(self) -> str:
        """The rule in words, for plans and reports."""
        if self.rule == "label":
            return f"value = {self.number}"
        if self.rule == "threshold":
            return f"value > {self.low:g}" if self.high is None else f"{self.low:g} < value ≤ {self.high:g}"
        return "value ≠ 0"

    def check(self, volume: Volume) -> None:
        """Raise InputError where the rule does not suit the volume's type; nothing is read."""
        self._check_dtype(np.dtype(volume.dtype), volume.name)

    def read(self, volume: Volume, box: Box) -> npt.NDArray[np.bool_]:
        """The mask of a box (z, y, x), read piece by piece so that grey values never lie in memory as a whole."""
        mask = np.empty(box.shape, np.bool_)
        for piece in volume.pieces(box):
            values = volume.read_piece(piece)
            try:
                mask[piece.start[0] - box.start[0] : piece.stop[0] - box.start[0]] = self(values)
            except InputError as error:
                raise InputError(f"{volume.name}, voxels {piece.start} to {piece.stop} (z, y, x): {error}") from error
            del values  # before the next piece is read
        return mask

    @staticmethod
    def read_bytes(volume: Volume, shape: Index) -> int:
        """Most memory that `read` takes for a box of this shape: the mask, and one piece of values."""
        return math.prod(shape) + volume.piece_bytes(shape)

    def __call__(self, array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """The mask of an array, bool of the same shape. Raises InputError for NaN and for floats without threshold."""
        self._check_dtype(array.dtype, "The volume")
        if self.rule == "label":
            return np.asarray(array == self.number)
        if self.rule == "nonzero":
            return np.asarray(array != 0)
        return self._above(array)

    def _above(self, array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        low, high = self.low, self.high
        if array.dtype.kind == "f":
            undefined = int(np.count_nonzero(np.isnan(array)))
            if undefined:
                raise InputError(f"{undefined} values are NaN, which is neither foreground nor background; fill them.")
        else:
            array = array.view(np.uint8) if array.dtype.kind == "b" else array
            # Among integers, value > 62.5 is value > 62: integer bounds compare exactly and without a float copy.
            low = math.floor(low) if low is not None and math.isfinite(low) else low
            high = math.floor(high) if high is not None and math.isfinite(high) else high
        mask = np.asarray(array > low)
        if high is not None:
            mask &= array <= high
        return mask

    def _check_dtype(self, dtype: np.dtype[Any], name: str) -> None:
        if dtype.kind == "f" and self.rule != "threshold":
            raise InputError(
                f"{name} holds {dtype.name} values, which are not a mask; say what is foreground with --threshold LOW,"
                " or with --label N where they are labels (whole numbers)."
            )
        if self.rule == "label" and dtype.kind in "iu" and self.number is not None:
            limits = np.iinfo(dtype)
            if not limits.min <= self.number <= limits.max:
                raise InputError(
                    f"{name} holds {dtype.name} values from {limits.min} to {limits.max}, so it has no label"
                    f" {self.number}; give one of its labels."
                )
