"""What a comparison counts region by region: labels at the same voxels, and how far surface voxels lie.

Regions are the labels of a third volume of the same grid, such as lobes. They only tell where a voxel counts: distances
and thickness are those of the whole volume, so the edge of a region is no wall. Region 0 is what lies outside of all.
Corners of voxels belong to no region, so areas, surface elements and topology are not split.

Arrays of a block, sorted, each row once:
    region-labels   uint64 (n, 3)   region, reference label, predicted label; the background among them
    region-voxels   int64 (n,)      voxels with all three
Merging holds 64 bytes a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.device import Host
from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.kernels.distance import unreached
from pipeline.kernels.structures import count_structures
from pipeline.kernels.surface import UNREACHABLE
from pipeline.kernels.tally import count_pairs
from pipeline.overlap import bit_patterns
from pipeline.surface import DIRECTIONS, Counts, Side, SurfaceTally
from pipeline.tally import Tally
from pipeline.volume.opening import Volume
from pipeline.volume.whole_numbers import first_place

Array = npt.NDArray[Any]
Labels = npt.NDArray[np.uint64]

NO_REGIONS = np.zeros((1, 1, 1), np.int64)
"""One region that is everywhere, for tallies."""
LARGEST_REGION = np.iinfo(np.int64).max
"""Tallies count in int64."""


@dataclass(frozen=True, eq=False)
class RegionOverlap:
    """Voxels by region, reference label and predicted label; merges by addition. See the module for the arrays."""

    labels: Labels
    voxels: Counts

    @staticmethod
    def of_rows(labels: Labels, voxels: Counts) -> RegionOverlap:
        """Out of rows in any order; equal ones are added up."""
        order = np.lexsort((labels[:, 2], labels[:, 1], labels[:, 0]))
        labels, voxels = labels[order], voxels[order]
        first = np.ones(len(order), np.bool_)
        first[1:] = (labels[1:] != labels[:-1]).any(axis=1)
        starts = np.flatnonzero(first)
        return RegionOverlap(labels[starts], np.add.reduceat(voxels, starts) if starts.size else voxels)

    @staticmethod
    def merged(parts: Iterable[RegionOverlap]) -> RegionOverlap:
        """The sum; associative and commutative."""
        tables = list(parts)
        return RegionOverlap.of_rows(
            np.concatenate([np.zeros((0, 3), np.uint64), *(table.labels for table in tables)]),
            np.concatenate([np.zeros(0, np.int64), *(table.voxels for table in tables)]),
        )

    def arrays(self) -> dict[str, Array]:
        """The arrays of a block."""
        return {"region-labels": self.labels, "region-voxels": self.voxels}

    def regions(self) -> list[int]:
        """The regions that occur, ascending; 0 where there is something outside of all."""
        return [int(region) for region in np.unique(self.labels[:, 0])]

    def of_region(self, region: int) -> dict[str, Array]:
        """The overlap of one region under the names of pipeline.overlap: volume-voxels, pair-labels, pair-voxels."""
        rows = self.labels[:, 0] == np.uint64(region)
        pairs, voxels = self.labels[rows, 1:], self.voxels[rows]
        there = pairs.any(axis=1)
        return {"volume-voxels": voxels.sum()[None], "pair-labels": pairs[there], "pair-voxels": voxels[there]}


def read_regions(regions: Volume, box: Box) -> Array:
    """The regions of a box (z, y, x). Raises InputError for what tallies cannot count."""
    labels = regions.read(box)
    if labels.dtype == np.bool_:
        return labels.view(np.uint8)
    lowest, largest = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if lowest < 0 or largest > LARGEST_REGION:
        wrong = labels < 0 if lowest < 0 else labels > LARGEST_REGION
        raise InputError(
            f"{regions.name} holds the label {labels[wrong][0]}; regions must lie between 0 and 2^63 − 1, and voxel"
            f" {first_place(box, wrong)} is the first: give the region another number."
        )
    return labels


def region_overlap(
    reference: Array, prediction: Array, regions: Array, place: Host, ignored: Array | None = None
) -> RegionOverlap:
    """What one block contributes: bool or integer labels and regions (z, y, x) on the host, all of one shape.

    ignored : 1 where a voxel is not counted, likewise; both volumes have background there.
    A counted region of a pair takes 160 to 480 bytes per 16 neighbouring numbers of at most 16 bits, 40 to 120 wider.
    """
    shape = reference.shape
    outside_all = 0
    if ignored is not None:
        regions, outside_all = np.where(ignored, regions.dtype.type(0), regions), int(np.count_nonzero(ignored))
    volumes = [place.up(bit_patterns(volume)) for volume in (reference, prediction, regions)]
    width_r, width_p, width_g = (volume.itemsize for volume in volumes)
    nothing = place.up(np.zeros((0, 0, 0), np.uint8))
    first, whole = (0, 0, 0), (0, shape[0])
    r, p, g = (volume.view(np.uint8) for volume in volumes)
    # The structures kernel counts the grey values of every pair of labels; here regions are the grey values.
    pairs, _, _, _, rows, region, voxels = count_structures(r, p, g, (width_r, width_p, width_g), first, *whole)
    labelled = RegionOverlap.of_rows(np.concatenate((region[:, None], pairs[rows]), axis=1), voxels)
    inside, size, *_ = count_structures(g, nothing, nothing, (width_g, 0, 0), first, *whole)
    # What no pair of labels has is background in both volumes.
    names = np.concatenate((np.zeros(1, np.uint64), inside[:, 0]))
    of_region = np.concatenate((np.array([regions.size - outside_all - int(size.sum())]), size))
    taken = np.zeros(len(names), np.int64)
    order = np.argsort(names)
    np.add.at(taken, order[np.searchsorted(names[order], labelled.labels[:, 0])], labelled.voxels)
    background = np.stack((names, np.zeros_like(names), np.zeros_like(names)), axis=1)
    empty = of_region - taken > 0
    outside = RegionOverlap(background[empty], (of_region - taken)[empty])
    return RegionOverlap.merged((labelled, outside))


def region_distances(distances: Array, elements: Array, regions: Array, place: Host) -> Tally:
    """Surface voxels of a block by region and by their squared distance to the other surface, plus one.

    distances : (z, y, x) in the place, unreached where the other surface has no voxel. elements : where a surface
    voxel lies (1), likewise. regions : on the host.
    The tally counts positive integers, hence the one more. 24 bytes a surface voxel.
    """
    there = place.down(elements).view(np.bool_)
    squared = place.down(distances)[there].astype(np.int64)
    squared[squared >= unreached(distances.dtype)] = UNREACHABLE
    label, squared, voxels = count_pairs(place.up((squared + 1)[None, None]), regions[there][None, None])
    return Tally.of_counts(label=label, squared_radius=squared, voxels=voxels)


def surface_of_region(tallies: Mapping[Side, Tally], region: int) -> SurfaceTally:
    """The surface voxels of one region as a tally of surfaces, of their distances to the whole other surface."""
    rows = [np.zeros((4, 0), np.int64)]
    for side, tally in tallies.items():
        squared, voxels = tally.of_label(region)
        direction = np.full_like(squared, DIRECTIONS.index(("voxels", side)))
        rows.append(np.stack((direction, squared - 1, np.zeros_like(squared), voxels)))
    return SurfaceTally.of_rows(np.concatenate(rows, axis=1))
