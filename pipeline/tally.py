"""Tally: how many voxels have which squared radius, per region. What every block returns and the driver merges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]


class Histogram(NamedTuple):
    """Voxels per squared radius, ascending; both int64 of one length. Squared radii are in unit_um²."""

    squared_radius: Counts
    voxels: Counts


@dataclass(frozen=True, eq=False)
class Tally:
    """Foreground voxels counted by region and squared radius: a histogram that merges by addition.

    label : int64 array (n,), region of the voxels; 0 is the foreground outside every region.
    squared_radius : int64 array (n,), squared local radius in unit_um², > 0 (the background is never counted).
    voxels : int64 array (n,), how many voxels have both, > 0.

    Rows are sorted by (label, squared_radius) and no pair occurs twice, so equal contents are equal arrays whatever
    the order of merging: `merge` is associative and commutative, `Tally.empty()` is neutral.
    """

    label: Counts
    squared_radius: Counts
    voxels: Counts

    def __post_init__(self) -> None:
        columns = (self.label, self.squared_radius, self.voxels)
        if any(c.dtype != np.int64 or c.ndim != 1 or c.size != self.label.size for c in columns):
            raise ValueError("a tally has three int64 columns of one length")
        if (self.squared_radius <= 0).any() or (self.voxels <= 0).any():
            raise ValueError("a tally counts foreground only: squared radius and voxels are positive")
        step = np.diff(self.label)
        if not ((step > 0) | ((step == 0) & (np.diff(self.squared_radius) > 0))).all():
            raise ValueError("the rows of a tally are sorted and unique by (label, squared radius)")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tally):
            return NotImplemented
        return (
            np.array_equal(self.label, other.label)
            and np.array_equal(self.squared_radius, other.squared_radius)
            and np.array_equal(self.voxels, other.voxels)
        )

    __hash__ = None  # type: ignore[assignment]  # it holds arrays

    @staticmethod
    def empty() -> Tally:
        """The tally of no voxels."""
        return Tally.of_counts(label=(), squared_radius=(), voxels=())

    @staticmethod
    def of_counts(*, label: ArrayLike, squared_radius: ArrayLike, voxels: ArrayLike) -> Tally:
        """A tally out of rows in any order; rows of the same label and squared radius are added up.

        All three are integer arrays (n,); the counts are summed in int64.
        """
        labels, radii, counts = (np.asarray(c, dtype=np.int64) for c in (label, squared_radius, voxels))
        order = np.lexsort((radii, labels))
        labels, radii, counts = labels[order], radii[order], counts[order]
        first = np.ones(labels.size, dtype=np.bool_)
        first[1:] = (np.diff(labels) != 0) | (np.diff(radii) != 0)
        starts = np.flatnonzero(first)
        sums = np.add.reduceat(counts, starts) if starts.size else counts
        return Tally(label=labels[starts], squared_radius=radii[starts], voxels=sums)

    def arrays(self) -> dict[str, Counts]:
        """The columns by their names, as a parcel holds them."""
        return {"label": self.label, "squared_radius": self.squared_radius, "voxels": self.voxels}

    def total(self) -> Histogram:
        """Voxels per squared radius over all labels, the foreground outside every region included."""
        whole = Tally.of_counts(label=np.zeros_like(self.label), squared_radius=self.squared_radius, voxels=self.voxels)
        return Histogram(whole.squared_radius, whole.voxels)

    def of_label(self, label: int) -> Histogram:
        """Voxels per squared radius of one label; two empty arrays where the label has no foreground."""
        low, high = np.searchsorted(self.label, (label, label + 1))
        return Histogram(self.squared_radius[low:high], self.voxels[low:high])

    def labels(self) -> tuple[int, ...]:
        """The labels that have foreground, ascending; 0 among them if some of it lies outside every region."""
        return tuple(int(label) for label in np.unique(self.label))


def merge(a: Tally, b: Tally) -> Tally:
    """The tally of the voxels of both. Associative and commutative; `Tally.empty()` is neutral."""
    return Tally.of_counts(
        label=np.concatenate((a.label, b.label)),
        squared_radius=np.concatenate((a.squared_radius, b.squared_radius)),
        voxels=np.concatenate((a.voxels, b.voxels)),
    )
