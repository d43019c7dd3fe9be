"""Cavities (b2) of every label at once: 6-components of all values, the background among them, and who touches whom.

The complement of a label l, padded by the outside of the volume, is connected by 6 neighbours. Take the 6-components
of ALL values as the nodes of a graph, one more node for the outside, and an edge where two touch: b2(l) is the number
of components of this graph without the nodes of l, less one. (The outside has the label 0, which is not asked for.)

A block reduces its part of the graph before it travels, exactly:
  * an edge between labels a and b is there for every l but a and b. Of all edges of one pair {a, b} a spanning forest
    is enough;
  * INTERIOR is a closed node (touching neither another block nor the outside) of label a whose neighbours all have
    one label b. Without b it is a component of its own: one cavity of b. For all other l it only holds its neighbours
    together. So an interior node that is a leaf of the forest of {a, b} is counted as a cavity of b and vanishes,
    again and again. Salt noise vanishes in its block; what holds others together stays.

Arrays of a block beside those of pipeline.components.export (m nodes): edges (k, 2) int64, node m is the outside;
cavity-label uint64 and cavity-count int64. Components under connectivity 6 come with it: final-label, final-count, and
the united nodes.

What the merge holds is 48 bytes per node and at most 112 per edge (a forest's edges in a block, pairs of touching
nodes on a seam), while it goes through log2(labels) rounds over the edges.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.components import (
    Components,
    Counts,
    Labels,
    Union,
    add_counts,
    count_labels,
    export,
    label_components,
    open_components,
    outer_planes,
    seam_nodes,
    touching,
)
from pipeline.geometry import Box, Index
from pipeline.kernels import components as kernels

Array = npt.NDArray[Any]


def block_cavities(labels: Array, box: Box, volume_shape: Index) -> dict[str, Array]:
    """The part of the graph that a block of bool or non-negative integer labels (z, y, x) contributes.

    Memory beside the labels: a copy of them and 8 bytes a voxel while components are numbered; then 4 bytes a voxel, 56
    per component and 37 per pair of touching ones.
    """
    components = label_components(labels, 6, background=True)
    beyond = touching(components, outer_planes(box, volume_shape, inside=False))
    is_open = open_components(components, box, volume_shape)
    outside = len(components.label)
    at_border = np.flatnonzero(beyond)
    pairs = kernels.adjacent_pairs(components.number)
    pairs -= 1
    edges = np.concatenate((pairs, np.stack((at_border, np.full(len(at_border), outside)), axis=1)))
    del pairs
    # Closed background at the border is the outside.
    outer = beyond & ~is_open & (components.label == 0)
    node = np.where(np.append(outer, [False]), outside, np.arange(outside + 1))
    edges = node[edges]
    vanished, edges, cavity_of = _reduced(components, is_open, edges[edges[:, 0] != edges[:, 1]])
    vanished |= outer
    nodes = np.append(~vanished, [True])
    renumbered = np.cumsum(nodes) - 1
    cavity_label, cavity_count = count_labels(cavity_of)
    return {
        **export(components, ~vanished, box, volume_shape),
        "edges": renumbered[edges],
        "cavity-label": cavity_label,
        "cavity-count": cavity_count,
    }


def _reduced(
    components: Components, is_open: npt.NDArray[np.bool_], edges: Counts
) -> tuple[npt.NDArray[np.bool_], Counts, Labels]:
    """Which components vanish, (n,); the edges that stay, (k, 2); the label of every cavity counted."""
    # The cavities of the background are never asked for, so the outside has its label.
    distinct, code = np.unique(np.append(components.label, [np.uint64(0)]), return_inverse=True)
    around = kernels.only_neighbour(edges, code)
    interior = np.append(~is_open, [False]) & (around >= 0)
    key = _pairs_of_labels(edges, code, len(distinct), interior)
    del code
    forest, vanished = kernels.reduce_forests(edges, np.argsort(key, kind="stable"), key, interior)
    del key
    stays = forest & ~vanished[edges[:, 0]] & ~vanished[edges[:, 1]]
    return vanished[:-1], edges[stays], distinct[around[vanished]]


def _pairs_of_labels(edges: Counts, code: Counts, codes: int, interior: npt.NDArray[np.bool_]) -> Counts:
    """Of every edge: a number for its pair of labels, times 3, plus how many of its ends are interior."""
    here, there = code[edges[:, 0]], code[edges[:, 1]]
    key = np.minimum(here, there)
    key *= codes
    np.maximum(here, there, out=here)
    del there
    key += here
    del here
    key *= 3
    for side in (0, 1):
        key += interior[edges[:, side]]
    return key


def merge_cavities(
    union: Union,
    edges_of_blocks: Iterable[Counts],
    seams_of_blocks: Iterable[npt.NDArray[np.int64]],
    final: Iterable[tuple[Labels, Counts]],
) -> dict[int, int]:
    """Label → b2, the number of cavities, for every label that has some; the others have none.

    union : of the nodes of all blocks. edges_of_blocks, seams_of_blocks (all pairs, whatever their labels) : of every
    block in C order. final : (cavity-label, cavity-count) of every block.
    """
    outside = len(union.label)
    edges = [np.zeros((0, 2), np.int64)]
    for number, (inner, rows) in enumerate(zip(edges_of_blocks, seams_of_blocks, strict=True)):
        of_block = np.append(union.of_block(number), outside)
        a, b = seam_nodes(union.first, number, rows)
        across = np.stack((union.component[a], union.component[b]), axis=1)
        edges.append(_distinct(np.concatenate((of_block[inner], across)), outside + 1))
    distinct, code = np.unique(union.label, return_inverse=True)
    code = np.append(np.where(union.label == 0, -1, code), -1)
    whole = np.concatenate(edges)
    del edges
    whole = _distinct(whole, outside + 1)
    found = _split(code, whole, 0, len(distinct))
    found = [(label, count) for label, count in found if distinct[label] != 0]
    united = (distinct[[label for label, _ in found]], np.array([count for _, count in found], np.int64))
    label, count = add_counts([united, *final])
    return {int(key): int(value) for key, value in zip(label, count, strict=True) if key and value}


def _distinct(edges: Counts, nodes: int) -> Counts:
    """Every edge once, the smaller node first; no edge from a node to itself."""
    keys, high = edges.min(axis=1), edges.max(axis=1)
    differ = keys != high
    keys *= nodes
    keys += high
    del high
    keys = np.unique(keys[differ])
    return np.stack((keys // nodes, keys % nodes), axis=1)


def _split(code: Counts, edges: Counts, low: int, high: int) -> list[tuple[int, int]]:
    """For every label code in low … high − 1: the components of the graph without its nodes, less one.

    code : label code of every node; −1 for nodes that are in the graph whatever the label. Half the labels at a time
    are taken to be in the graph and contracted, so all labels together take log2(labels) rounds.
    """
    kept = (code >= low) & (code < high)
    both = ~kept[edges[:, 0]] & ~kept[edges[:, 1]]
    links = edges[both]
    graph = coo_array((np.ones(len(links), np.bool_), (links[:, 0], links[:, 1])), (len(code), len(code)))
    groups, group = connected_components(graph, directed=False)
    # A kept node is alone in its group.
    contracted = np.full(groups, -1)
    contracted[group[kept]] = code[kept]
    if high - low <= 1:
        return [(label, int(np.count_nonzero(contracted == -1)) - 1) for label in range(low, high)]
    remaining = _distinct(group[edges[~both]].astype(np.int64), groups)
    middle = (low + high) // 2
    return _split(contracted, remaining, low, middle) + _split(contracted, remaining, middle, high)
