"""Connected components of a labelled volume, block by block: number, export faces, find seams, unite.

A block's components are numbered (neighbours are joined where they have the same label). One that touches no other
block is final and only counted. The others, the OPEN ones, become the nodes of a graph: a block exports their labels
and the planes in which it faces other blocks. With the planes of the 13 neighbours that come before it in C order, a
block finds its seams: the pairs of nodes that touch across faces (6), edges too (18), corners too (26). Uniting the
nodes along the seams gives the components of the volume.

What the union holds is 32 bytes per open node and, one block at a time, 24 bytes per seam; nothing per voxel. A block
has one open node for each object that it shares with others, and at the very most one for each voxel of its faces, as
in salt noise. Finding the seams takes at most 40 bytes per voxel of the largest face.

Arrays of a block, as `export` names them (m nodes; final means closed in the block):
    label (m,) uint64; final-label (k,) uint64 and final-count (k,) int64; face-0-low … face-2-high (2-D, uint32): the
    node of every voxel plus one, 0 for none, on each side that another block continues.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import cc3d
import numpy as np
import numpy.typing as npt

from pipeline.geometry import BlockGrid, Box, Index
from pipeline.kernels import components as kernels

Array = npt.NDArray[Any]
Labels = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]

Connectivity = Literal[6, 18, 26]
CONNECTIVITIES: tuple[Connectivity, ...] = (6, 18, 26)
_MOVED_AXES = {6: 1, 18: 2, 26: 3}
"""Along how many axes a neighbour may lie one voxel away."""

Reader = Callable[[Index, str], Array]
"""Reads an array that `export` left for a block: (block, name) → array."""


@dataclass(frozen=True, eq=False)
class Components:
    """The components of a block.

    number : uint32 (z, y, x), 1 … n; 0 on the background.
    label : uint64 (n,), the label of every component.
    """

    number: npt.NDArray[np.uint32]
    label: Labels


def label_components(labels: Array, connectivity: Connectivity, *, background: bool = False) -> Components:
    """Number the components of a block of bool or non-negative integer labels (z, y, x).

    background : the voxels with the label 0 have components too.
    Memory beside the labels: 4 bytes a voxel of numbers and up to 4 for cc3d's provisional ones (noise), and with the
    background a copy of the labels.
    """
    values = np.require(labels, requirements=("C", "W"))  # cc3d does not take read-only arrays
    values = values.view(np.uint8) if values.dtype == np.bool_ else values
    if values.size == 0:
        return Components(np.zeros(values.shape, np.uint32), np.zeros(0, np.uint64))
    distinct = _without_zero(values) if background else values
    # cc3d fails on some values from 2^63 on; it only compares them, and as int64 they stay as distinct.
    distinct = distinct.view(np.int64) if distinct.dtype == np.uint64 else distinct
    numbered, count = cc3d.connected_components(distinct, connectivity=connectivity, return_N=True, out_dtype=np.uint32)
    del distinct
    number: npt.NDArray[np.uint32] = np.asarray(numbered, np.uint32).reshape(values.shape)
    return Components(number, kernels.labels_of(number, values, count).astype(np.uint64))


def _without_zero(values: Array) -> Array:
    """The same regions with another value in place of 0, which cc3d leaves out."""
    largest, top = int(values.max()), int(np.iinfo(values.dtype).max)
    if largest < top:
        return np.where(values == 0, values.dtype.type(largest + 1), values)
    if values.dtype.itemsize < 8:
        return np.where(values == 0, np.uint64(largest + 1), values.astype(np.uint64))
    used = np.unique(values)
    gap = int(np.flatnonzero(np.diff(used, prepend=used.dtype.type(0)) > 1)[0])
    return np.where(values == 0, used[gap] - values.dtype.type(1), values)


def outer_planes(box: Box, volume_shape: Index, *, inside: bool) -> list[tuple[int, bool]]:
    """Sides (axis, high) of a block: those that other blocks continue (inside), or those on the volume's border."""
    return [
        (axis, high)
        for axis in range(3)
        for high in (False, True)
        if (box.stop[axis] < volume_shape[axis] if high else box.start[axis] > 0) == inside
    ]


def plane(number: Array, axis: int, *, high: bool) -> Array:
    """The outermost voxels of a block on one side, 2-D."""
    return number[tuple(np.s_[-1 if high else 0] if a == axis else np.s_[:] for a in range(3))]


def touching(components: Components, sides: Iterable[tuple[int, bool]]) -> npt.NDArray[np.bool_]:
    """Which components have a voxel on one of the sides, (n,)."""
    found = np.zeros(len(components.label) + 1, np.bool_)
    for axis, high in sides:
        found[plane(components.number, axis, high=high)] = True
    return found[1:]


def open_components(components: Components, box: Box, volume_shape: Index) -> npt.NDArray[np.bool_]:
    """Which components touch another block, (n,). The border of the volume closes a component."""
    return touching(components, outer_planes(box, volume_shape, inside=True))


def face_name(axis: int, *, high: bool) -> str:
    """Name of an exported plane."""
    return f"face-{axis}-{'high' if high else 'low'}"


def export(components: Components, nodes: npt.NDArray[np.bool_], box: Box, volume_shape: Index) -> dict[str, Array]:
    """What the block tells others; see the module for the names.

    nodes : bool (n,), the components that become nodes, in their order: all open ones, and any others.
    """
    renumbered = np.zeros(len(nodes) + 1, np.uint32)
    renumbered[1:][nodes] = np.arange(1, np.count_nonzero(nodes) + 1, dtype=np.uint32)
    final_label, final_count = count_labels(components.label[~nodes & (components.label != 0)])
    arrays: dict[str, Array] = {
        "label": components.label[nodes],
        "final-label": final_label,
        "final-count": final_count,
    }
    for axis, high in outer_planes(box, volume_shape, inside=True):
        arrays[face_name(axis, high=high)] = renumbered[plane(components.number, axis, high=high)]
    return arrays


def block_components(
    labels: Array, box: Box, volume_shape: Index, connectivity: Connectivity
) -> tuple[Components, dict[str, Array]]:
    """The components of a block, for whoever goes on with them, and what it tells others of them."""
    components = label_components(labels, connectivity)
    return components, export(components, open_components(components, box, volume_shape), box, volume_shape)


def _earlier_neighbours(grid: BlockGrid, block: Index, connectivity: Connectivity) -> list[tuple[Index, Index]]:
    """The neighbours that come before a block in C order and the steps to them; each pair of blocks meets once."""
    found = []
    for step in itertools.product((-1, 0, 1), (-1, 0, 1), (-1, 0, 1)):
        z, y, x = (b + s for b, s in zip(block, step, strict=True))
        exists = all(0 <= b < n for b, n in zip((z, y, x), grid.counts, strict=True))
        if step < (0, 0, 0) and exists and np.count_nonzero(step) <= _MOVED_AXES[connectivity]:
            found.append(((z, y, x), step))
    return found


def _facing(size: int, step: int, shift: int) -> tuple[slice, slice]:
    """Lines of a plane here and there that lie `shift` apart, in blocks that lie `step` apart along this axis."""
    if step < 0:
        return np.s_[:1], np.s_[-1:]
    if step > 0:
        return np.s_[-1:], np.s_[:1]
    return np.s_[max(0, -shift) : size - max(0, shift)], np.s_[max(0, shift) : size + min(0, shift)]


def _touching_pairs(here: Array, there: Array, steps: tuple[int, int], moves: int) -> npt.NDArray[np.uint64]:
    """Distinct pairs (node here + 1) << 32 | (node there + 1) of two facing planes; moves: shifted axes allowed."""
    keys = []
    for shift in itertools.product(*((s,) if s else (-1, 0, 1) for s in steps)):
        if np.count_nonzero(shift) > moves:
            continue
        lines = [_facing(n, step, by) for n, step, by in zip(here.shape, steps, shift, strict=True)]
        a = here[lines[0][0], lines[1][0]].reshape(-1)
        b = there[lines[0][1], lines[1][1]].reshape(-1)
        # Runs first: a plane is made of patches, and sorting every voxel of it would cost more than labelling.
        first = np.flatnonzero((a != 0) & (b != 0))
        a, b = a[first], b[first]
        fresh = np.ones(len(a), np.bool_)
        fresh[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
        keys.append(np.unique((a[fresh].astype(np.uint64) << np.uint64(32)) | b[fresh].astype(np.uint64)))
    return np.unique(np.concatenate(keys))


def seams(
    grid: BlockGrid, block: Index, connectivity: Connectivity, read: Reader, *, same_label: bool = True
) -> npt.NDArray[np.int64]:
    """Distinct pairs of nodes that touch across the borders to the earlier neighbours of a block.

    read : gives the exported arrays of this block and of its neighbours.
    same_label : only pairs of equal label, which are one component; else all.
    Returns rows (node here, number of the other block in C order, node there), (n, 3), sorted by neighbour.
    """
    rows = [np.zeros((0, 3), np.int64)]
    label = read(block, "label")
    faces: dict[int, Array] = {}
    for other, step in _earlier_neighbours(grid, block, connectivity):
        axis = next(a for a in range(3) if step[a])
        if axis not in faces:
            faces[axis] = read(block, face_name(axis, high=False))
        across = (step[0 if axis > 0 else 1], step[2 if axis < 2 else 1])
        there = read(other, face_name(axis, high=True))
        keys = _touching_pairs(faces[axis], there, across, _MOVED_AXES[connectivity] - 1)
        a = (keys >> np.uint64(32)).astype(np.int64) - 1
        b = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64) - 1
        if same_label:
            equal = label[a] == read(other, "label")[b]
            a, b = a[equal], b[equal]
        number = np.ravel_multi_index(other, grid.counts)
        rows.append(np.stack((a, np.full(len(a), number), b), axis=1).astype(np.int64))
    return np.concatenate(rows)


@dataclass(frozen=True, eq=False)
class Union:
    """The nodes of all blocks, united.

    first : int64 (blocks + 1,), the number of each block's first node; blocks in C order.
    component : int64 (nodes,), the merged component of every node, 0 … m − 1.
    label : uint64 (m,), the label of every merged component.
    """

    first: Counts
    component: Counts
    label: Labels

    def of_block(self, number: int) -> Counts:
        """The merged components of the nodes of a block."""
        return self.component[self.first[number] : self.first[number + 1]]


def unite(labels: Iterable[Labels], seams_of_blocks: Iterable[npt.NDArray[np.int64]]) -> Union:
    """Unite the nodes of all blocks along their seams of equal label; seams between other labels are passed over.

    labels, seams_of_blocks : of every block in C order, taken one block at a time. 32 bytes a node.
    """
    first, label = _nodes(labels)
    parent = np.arange(len(label))
    for number, rows in enumerate(seams_of_blocks):
        a, b = seam_nodes(first, number, rows)
        same = label[a] == label[b]
        kernels.join(parent, a[same], b[same])
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            break
        parent = above
    del above
    is_root = parent == np.arange(len(parent))
    label = label[is_root]
    number_of = is_root.astype(np.int64)
    del is_root
    np.cumsum(number_of, out=number_of)
    number_of -= 1
    return Union(first, number_of[parent], label)


def _nodes(labels: Iterable[Labels]) -> tuple[Counts, Labels]:
    """The number of each block's first node, and the label of every node."""
    parts = list(labels)
    first = np.zeros(len(parts) + 1, np.int64)
    first[1:] = np.cumsum([len(part) for part in parts])
    return first, np.concatenate([np.zeros(0, np.uint64), *parts])


def seam_nodes(first: Counts, number: int, rows: npt.NDArray[np.int64]) -> tuple[Counts, Counts]:
    """Both ends of the seams of a block, as nodes of the whole."""
    return rows[:, 0] + first[number], rows[:, 2] + first[rows[:, 1]]


def unite_labels(labels: Iterable[Labels]) -> Union:
    """Unite all nodes of one label, wherever they lie: every label is one object."""
    first, label = _nodes(labels)
    distinct, component = np.unique(label, return_inverse=True)
    return Union(first, component.astype(np.int64, copy=False), distinct)


def count_labels(label: Labels) -> tuple[Labels, Counts]:
    """Distinct labels, ascending, and how often each occurs."""
    distinct, count = np.unique(label, return_counts=True)
    return distinct, count.astype(np.int64, copy=False)


def add_counts(parts: Iterable[tuple[Labels, Counts]]) -> tuple[Labels, Counts]:
    """The sum of tables (label, count): labels ascending, each once. Associative and commutative."""
    tables = list(parts)
    label = np.concatenate([np.zeros(0, np.uint64), *(table[0] for table in tables)])
    count = np.concatenate([np.zeros(0, np.int64), *(table[1] for table in tables)])
    distinct, place = np.unique(label, return_inverse=True)
    total = np.zeros(len(distinct), np.int64)
    np.add.at(total, place, count)
    return distinct, total


def component_counts(union: Union, final: Iterable[tuple[Labels, Counts]]) -> dict[int, int]:
    """Label → number of components in the volume; a label without any is not listed.

    final : (final-label, final-count) of every block.
    """
    label, count = add_counts([count_labels(union.label[union.label != 0]), *final])
    return {int(key): int(value) for key, value in zip(label, count, strict=True)}
