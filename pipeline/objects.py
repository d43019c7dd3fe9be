"""Objects of a reference and of a prediction: their voxels, centroids, boxes, and which of them meet.

An object is a component of one label, or all voxels of one label. It is OPEN where other blocks may hold more of it.
Only objects of one category meet: the category of a component is its label; labels as objects (instances, whose
numbers mean nothing) all have the category ALL.

What lies within one block is final there: closed objects are counted, with whether they are hit (share a voxel with an
object of the other side), and two closed objects whose IoU is above 1/2 are a match, kept as integers (intersection,
union). Everything else is a row of a table for the merge, which works on integers too.

Arrays of a block (m open reference objects, n open predicted ones, in the order of the nodes of
pipeline.components.export):
    reference-voxels (m,), prediction-voxels (n,) int64
    meetings (k, 5) int64: reference object, predicted object (its node if it is open; a negative number of its own if
        it is closed), voxels of both (0 where it is open), voxels of the intersection
    final-category, final-objects, final-match-category, final-matches: an ObjectTally
What the merge holds is 72 bytes per open object of either side and 120 per meeting, beside the unions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.components import Components, Counts, Labels, Union, open_components
from pipeline.geometry import Box, Index
from pipeline.kernels import components as kernels
from pipeline.kernels.tally import count_pairs

Array = npt.NDArray[Any]

ALL = 0
"""The category of labels as objects; no component has the label 0."""


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one side in a block.

    number : uint32 (z, y, x), 1 … n; 0 where there is none.
    label, category : uint64 (n,). open : bool (n,), whether other blocks may hold more of it.
    description : int64 (n, 10): voxels; Σz, Σy, Σx; first z, y, x; last z, y, x plus one; in the volume's coordinates.
    """

    number: npt.NDArray[np.uint32]
    label: Labels
    category: Labels
    open: npt.NDArray[np.bool_]
    description: Counts


def component_objects(components: Components, box: Box, volume_shape: Index) -> Objects:
    """Every component is an object. 88 bytes per component."""
    label = components.label
    description = kernels.describe(components.number, len(label), *box.start)
    return Objects(components.number, label, label, open_components(components, box, volume_shape), description)


def label_objects(components: Components, box: Box) -> Objects:
    """Every label is an object, all of it open: the label may occur in any block. 4 more bytes a voxel.

    components : under any connectivity. Unite the nodes with pipeline.components.unite_labels.
    """
    label, place = np.unique(components.label, return_inverse=True)
    lookup = np.zeros(len(place) + 1, np.uint32)
    lookup[1:] = place + 1
    number = lookup[components.number]
    description = kernels.describe(number, len(label), *box.start)
    return Objects(number, label, np.full(len(label), ALL, np.uint64), np.ones(len(label), np.bool_), description)


@dataclass(frozen=True, eq=False)
class ObjectTally:
    """Objects counted by category, and the matches among them; merges by addition.

    category : uint64 (c,), ascending, each once.
    objects : int64 (c, 4): objects of the reference, those of them that are hit, objects of the prediction, those hit.
    match_category : uint64 (k,), and matches : int64 (k, 3): intersection and union in voxels, and how many matches
        have both; sorted, each once. A match is a pair with 2 · intersection > union.
    """

    category: Labels
    objects: Counts
    match_category: Labels
    matches: Counts

    @staticmethod
    def of_rows(category: Array, objects: Array, match_category: Array, matches: Array) -> ObjectTally:
        """A tally out of rows in any order; equal categories, and equal pairs of them, are added up."""
        distinct, place = np.unique(np.asarray(category, np.uint64), return_inverse=True)
        total = np.zeros((len(distinct), 4), np.int64)
        np.add.at(total, place, objects)
        order = np.lexsort((matches[:, 1], matches[:, 0], match_category))
        label, rows = np.asarray(match_category, np.uint64)[order], matches[order]
        fresh = _changes(label, rows[:, 0], rows[:, 1])
        return ObjectTally(distinct, total, label[fresh], _summed(rows, fresh))

    @staticmethod
    def merged(parts: Iterable[ObjectTally]) -> ObjectTally:
        """The sum of tallies; associative and commutative."""
        tallies = list(parts)
        return ObjectTally.of_rows(
            np.concatenate([np.zeros(0, np.uint64), *(t.category for t in tallies)]),
            np.concatenate([np.zeros((0, 4), np.int64), *(t.objects for t in tallies)]),
            np.concatenate([np.zeros(0, np.uint64), *(t.match_category for t in tallies)]),
            np.concatenate([np.zeros((0, 3), np.int64), *(t.matches for t in tallies)]),
        )

    def arrays(self) -> dict[str, Array]:
        """The arrays of a block; see the module."""
        return {
            "final-category": self.category,
            "final-objects": self.objects,
            "final-match-category": self.match_category,
            "final-matches": self.matches,
        }


def block_objects(reference: Objects, prediction: Objects) -> dict[str, Array]:
    """What a block knows of its objects and where they meet; see the module."""
    other, own, voxels = count_pairs(reference.number, prediction.number)
    meet = other > 0
    r, p, voxels = own[meet] - 1, other[meet] - 1, voxels[meet]
    same = reference.category[r] == prediction.category[p]
    r, p, voxels = r[same], p[same], voxels[same]

    closed = ~reference.open[r] & ~prediction.open[p]
    sizes = np.stack((reference.description[r, 0], prediction.description[p, 0]), axis=1)
    open_ends = np.stack((reference.open[r], prediction.open[p]), axis=1)
    ends = np.stack((_ends(reference)[r], _ends(prediction)[p]), axis=1)
    meetings = np.concatenate((ends, np.where(open_ends, 0, sizes), voxels[:, None]), axis=1)[~closed]
    final = ObjectTally.merged(
        (
            _counted(reference.category, _marked(r, len(reference.label)), ~reference.open, column=0),
            _counted(prediction.category, _marked(p, len(prediction.label)), ~prediction.open, column=2),
            _matched(reference.category[r[closed]], sizes[closed], voxels[closed]),
        )
    )
    return {
        "reference-voxels": reference.description[reference.open, 0],
        "prediction-voxels": prediction.description[prediction.open, 0],
        "meetings": _met(meetings),
        **final.arrays(),
    }


def _ends(objects: Objects) -> Counts:
    """The node of every open object; a negative number for a closed one."""
    return np.where(objects.open, np.cumsum(objects.open) - 1, -1 - np.arange(len(objects.open)))


def _changes(*columns: Array) -> npt.NDArray[np.bool_]:
    """Where sorted rows differ from the one before them."""
    fresh = np.ones(len(columns[0]), np.bool_)
    for column in columns:
        fresh[1:] &= column[1:] == column[:-1]
    fresh[1:] = ~fresh[1:]
    return fresh


def _summed(rows: Counts, fresh: npt.NDArray[np.bool_]) -> Counts:
    """The first row of every group of sorted rows, with the sum of their last column."""
    out = rows[fresh].astype(np.int64)
    out[:, -1] = 0
    np.add.at(out[:, -1], np.cumsum(fresh) - 1, rows[:, -1])
    return out


def _met(meetings: Counts) -> Counts:
    """Meetings of the same two objects added up."""
    rows = meetings[np.lexsort((meetings[:, 1], meetings[:, 0]))]
    return _summed(rows, _changes(rows[:, 0], rows[:, 1]))


def _marked(which: Counts, count: int) -> npt.NDArray[np.bool_]:
    marks = np.zeros(count, np.bool_)
    marks[which] = True
    return marks


def _counted(
    category: Labels, hit: npt.NDArray[np.bool_], counts: npt.NDArray[np.bool_], *, column: int
) -> ObjectTally:
    """The tally of the objects that count, those of the reference in column 0, of the prediction in column 2."""
    rows = np.zeros((np.count_nonzero(counts), 4), np.int64)
    rows[:, column] = 1
    rows[:, column + 1] = hit[counts]
    return ObjectTally.of_rows(category[counts], rows, np.zeros(0, np.uint64), np.zeros((0, 3), np.int64))


def _matched(category: Labels, sizes: Counts, intersection: Counts) -> ObjectTally:
    """The tally of the matches among pairs of objects; sizes : voxels of both, (n, 2)."""
    union = sizes.sum(axis=1) - intersection
    match = 2 * intersection > union
    rows = np.stack((intersection[match], union[match], np.ones(np.count_nonzero(match), np.int64)), axis=1)
    return ObjectTally.of_rows(np.zeros(0, np.uint64), np.zeros((0, 4), np.int64), category[match], rows)


def merge_objects(
    reference: Union, prediction: Union, blocks: Iterable[Mapping[str, Array]], *, labels_are_objects: bool = False
) -> ObjectTally:
    """The objects of the volume out of those of its blocks (in C order) and the unions of both sides."""
    sides = (reference, prediction)
    voxels = [np.zeros(len(side.label), np.int64) for side in sides]
    between_open = [np.zeros((0, 5), np.int64)]
    with_closed = [np.zeros((0, 5), np.int64)]
    finals = []
    for number, arrays in enumerate(blocks):
        rows = arrays["meetings"].copy()
        for column, name in enumerate(("reference-voxels", "prediction-voxels")):
            objects = sides[column].of_block(number)
            np.add.at(voxels[column], objects, arrays[name])
            is_open = rows[:, column] >= 0
            rows[is_open, column] = objects[rows[is_open, column]]
        # A closed object lies in this block alone, but may meet several nodes here that are one object by now.
        rows = _met(rows)
        closed = (rows[:, :2] < 0).any(axis=1)
        between_open.append(rows[~closed])
        with_closed.append(rows[closed])
        names = ("final-category", "final-objects", "final-match-category", "final-matches")
        finals.append(ObjectTally(*(arrays[name] for name in names)))

    rows = np.concatenate((_met(np.concatenate(between_open)), *with_closed))
    category = np.zeros(len(rows), np.uint64)
    for column, side in enumerate(sides):
        own = np.full(len(side.label), ALL, np.uint64) if labels_are_objects else side.label
        is_open = rows[:, column] >= 0
        objects = rows[is_open, column]
        rows[is_open, 2 + column] = voxels[column][objects]
        category[is_open] = own[objects]
        every = np.ones(len(own), np.bool_)
        finals.append(_counted(own, _marked(objects, len(own)), every, column=2 * column))
    finals.append(_matched(category, rows[:, 2:4], rows[:, 4]))
    return ObjectTally.merged(finals)


@dataclass(frozen=True, eq=False)
class Described:
    """Objects with their label and description (see Objects), in no particular order."""

    label: Labels
    description: Counts


def closed_objects(objects: Objects) -> Described:
    """The objects that lie in the block alone: final."""
    return Described(objects.label[~objects.open], objects.description[~objects.open])


def merge_described(union: Union, open_descriptions: Iterable[Counts], closed: Iterable[Described]) -> Described:
    """All objects of the volume. 88 bytes per object.

    open_descriptions : description of the open objects of every block, (m, 10), in C order. closed : of every block.
    """
    count = len(union.label)
    merged = np.zeros((count, 10), np.int64)
    merged[:, 4:7] = np.iinfo(np.int64).max
    for number, description in enumerate(open_descriptions):
        objects = union.of_block(number)
        np.add.at(merged[:, :4], objects, description[:, :4])
        np.minimum.at(merged[:, 4:7], objects, description[:, 4:7])
        np.maximum.at(merged[:, 7:], objects, description[:, 7:])
    whole = [Described(union.label, merged), *closed]
    return Described(
        np.concatenate([part.label for part in whole]), np.concatenate([part.description for part in whole])
    )
