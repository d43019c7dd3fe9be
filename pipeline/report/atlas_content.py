"""What the page of a release is made of: entries with their numbers and pictures, and what changed since another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Outcome = Literal["made", "kept", "failed", "waiting"]
ChangeKind = Literal["added", "redone", "removed", "failed", "waiting"]

LOWEST_UM, DECADES, BINS_PER_DECADE = 0.1, 7, 40
"""The bins of thickness that volumes of all voxel sizes share: 0.1 µm to 1 m, equal on a logarithmic axis."""
EDGES_UM = LOWEST_UM * 10.0 ** (np.arange(DECADES * BINS_PER_DECADE + 1) / BINS_PER_DECADE)


def binned(thickness_um: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight in every bin, float64 (DECADES · BINS_PER_DECADE,); what lies outside counts for the outermost."""
    bins = np.searchsorted(EDGES_UM, thickness_um, side="right") - 1
    last = EDGES_UM.size - 2
    return np.bincount(bins.clip(0, last), weights=weights, minlength=last + 1).astype(np.float64)


THUMBNAIL_PIXELS = 128
"""Most along a side."""


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A small picture. thickness_um : float32 (row, column), 0 on background; limit_um : where the colours end."""

    thickness_um: NDArray[np.float32]
    limit_um: float
    description: str


class Picture(NamedTuple):
    """A picture that a run's report has, as PNG of any size."""

    png: bytes
    description: str


@dataclass(frozen=True, eq=False)
class AtlasEntry:
    """One workflow of one data set.

    about : what describes the data set, in words, without donor and organ. voxel_um : (z, y, x) at the level measured.
    reason : why it was made, failed or waits. report : address of the run's report, relative to the page.
    thickness : the thickness_um part of statistics.json. volume_um3 : of the foreground.
    distribution : volume in µm³ in each bin of EDGES_UM.
    measures : of other workflows, name and value in words.
    """

    dataset: str
    workflow: str
    outcome: Outcome
    reason: str = ""
    donor: str = ""
    organ: str = ""
    about: str = ""
    voxel_um: tuple[float, float, float] | None = None
    report: str | None = None
    thickness: Mapping[str, Any] | None = None
    foreground_share: float | None = None
    volume_um3: float | None = None
    distribution: NDArray[np.float64] | None = None
    measures: Sequence[tuple[str, str]] = ()
    thumbnail: Thumbnail | Picture | None = None


class ValueChange(NamedTuple):
    """A statistic that has another value than before. None: undefined, or not there."""

    region: str
    label: str
    statistic: str
    unit: str
    old: float | None
    new: float | None

    @property
    def difference(self) -> float | None:
        """New less old; None where either is undefined or both are infinite."""
        if self.old is None or self.new is None or (math.isinf(self.old) and math.isinf(self.new)):
            return None
        return self.new - self.old

    @property
    def relative(self) -> float | None:
        """The difference over the old value's size; None where that tells nothing."""
        difference = self.difference
        if difference is None or not self.old or math.isinf(self.old):
            return None
        relative = difference / abs(self.old)
        return None if math.isinf(relative) else relative


class KeyChange(NamedTuple):
    """A part of what a result depends on. old, new : as text; empty where there was none."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class EntryChange:
    """What became of one entry. values : statistics that changed; of `changed` in all, some may be left out."""

    dataset: str
    workflow: str
    kind: ChangeKind
    why: str
    key: tuple[KeyChange, ...] = ()
    values: tuple[ValueChange, ...] = ()
    changed: int = 0


@dataclass(frozen=True)
class Changes:
    """From one release to another. since : the older one, None for a first release. kept : entries left alone.

    damaged : releases between the two that could not be read and were passed over.
    """

    since: str | None
    kept: int
    entries: tuple[EntryChange, ...]
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class AtlasContent:
    """Everything the page of a release shows. provenance : what was asked and with what it was made, in this order.

    files : names of the tables that lie beside the page.
    """

    title: str
    identifier: str
    began: datetime
    ended: datetime | None
    entries: Sequence[AtlasEntry]
    changes: Changes
    provenance: Mapping[str, str]
    files: Sequence[str] = ()
    timings: Sequence[Any] = ()
