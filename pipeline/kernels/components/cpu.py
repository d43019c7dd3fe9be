"""Component kernels for the CPU. The contract stands in the package's docstring."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.accelerate import Integer, kernel

Numbers = npt.NDArray[np.uint32]
"""Component of every voxel (z, y, x), from 1; 0 where there is none."""


@kernel
def labels_of(components: Numbers, labels: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """The label of each of the components 1 … count: array (count,) of the dtype of labels (z, y, x)."""
    size_z, size_y, size_x = components.shape
    out = np.zeros(count, labels.dtype)
    for z in range(size_z):
        for y in range(size_y):
            last = np.uint32(0)
            for x in range(size_x):
                component = components[z, y, x]
                if component != last:
                    last = component
                    if component != 0:
                        out[component - 1] = labels[z, y, x]
    return out


@kernel
def describe(components: Numbers, count: int, start_z: int, start_y: int, start_x: int) -> npt.NDArray[np.int64]:
    """Voxels, sums of coordinates and boxes of the components 1 … count: array (count, 10).

    Columns: voxels; Σz, Σy, Σx; first z, y, x; last z, y, x plus one. Coordinates are those of the volume, in which
    the first voxel of the array is start.
    """
    size_z, size_y, size_x = components.shape
    out = np.zeros((count, 10), np.int64)
    out[:, 4:7] = np.iinfo(np.int64).max
    for z in range(size_z):
        for y in range(size_y):
            x = 0
            while x < size_x:
                component = components[z, y, x]
                run = x + 1
                while run < size_x and components[z, y, run] == component:
                    run += 1
                if component != 0:
                    row = out[component - 1]
                    length = run - x
                    first_x = start_x + x
                    row[0] += length
                    row[1] += length * (start_z + z)
                    row[2] += length * (start_y + y)
                    row[3] += length * first_x + length * (length - 1) // 2
                    row[4] = min(row[4], start_z + z)
                    row[5] = min(row[5], start_y + y)
                    row[6] = min(row[6], first_x)
                    row[7] = max(row[7], start_z + z + 1)
                    row[8] = max(row[8], start_y + y + 1)
                    row[9] = max(row[9], first_x + length)
                x = run
    return out


@kernel
def _insert(key: Integer, table: npt.NDArray[np.uint64]) -> bool:
    """Put a key > 0 into an open-addressing table of a power of two of slots; whether it is new."""
    mask = np.uint64(len(table) - 1)
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    at = (mixed ^ (mixed >> np.uint64(32))) & mask
    while table[at] != 0:
        if table[at] == key:
            return False
        at = (at + np.uint64(1)) & mask
    table[at] = key
    return True


@kernel
def adjacent_pairs(components: Numbers) -> npt.NDArray[np.int64]:
    """The distinct pairs of different components that share a voxel face: array (n, 2), the smaller first, any order.

    Every voxel has a component (none is 0).
    """
    size_z, size_y, size_x = components.shape
    table = np.zeros(1024, np.uint64)
    used = 0
    last = np.zeros(3, np.uint64)
    for z in range(size_z):
        for y in range(size_y):
            for x in range(size_x):
                here = components[z, y, x]
                for axis in range(3):
                    if axis == 0:
                        if z == 0:
                            continue
                        there = components[z - 1, y, x]
                    elif axis == 1:
                        if y == 0:
                            continue
                        there = components[z, y - 1, x]
                    else:
                        if x == 0:
                            continue
                        there = components[z, y, x - 1]
                    if here == there:
                        continue
                    key = (np.uint64(min(here, there)) << np.uint64(32)) | np.uint64(max(here, there))
                    if key == last[axis]:
                        continue
                    last[axis] = key
                    if _insert(key, table):
                        used += 1
                        if 4 * used > 3 * len(table):
                            bigger = np.zeros(2 * len(table), np.uint64)
                            for i in range(len(table)):
                                if table[i] != 0:
                                    _insert(table[i], bigger)
                            table = bigger
    out = np.empty((used, 2), np.int64)
    filled = 0
    for i in range(len(table)):
        if table[i] != 0:
            out[filled, 0] = np.int64(table[i] >> np.uint64(32))
            out[filled, 1] = np.int64(table[i] & np.uint64(0xFFFFFFFF))
            filled += 1
    return out


@kernel
def _root(parent: npt.NDArray[np.int64], node: Integer) -> Integer:
    """The root of a node; halves the path on its way."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@kernel
def join(parent: npt.NDArray[np.int64], first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> None:
    """Unite first[i] with second[i] in the forest parent, for all i. The root of a set is its smallest node."""
    for i in range(len(first)):
        a = _root(parent, first[i])
        b = _root(parent, second[i])
        if a < b:
            parent[b] = a
        else:
            parent[a] = b


@kernel
def only_neighbour(edges: npt.NDArray[np.int64], code: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of every node the code that all its neighbours have; −1 where it has none, −2 where they differ.

    edges : (k, 2), nodes. code : of every node, 0 or more.
    """
    out = np.full(len(code), -1, np.int64)
    for i in range(len(edges)):
        for side in range(2):
            here, there = edges[i, side], code[edges[i, 1 - side]]
            if out[here] == -1:
                out[here] = there
            elif out[here] != there:
                out[here] = -2
    return out


@kernel
def reduce_forests(
    edges: npt.NDArray[np.int64], order: npt.NDArray[np.int64], key: npt.NDArray[np.int64],
    removable: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:  # fmt: skip
    """A spanning forest of every group of edges, from which removable leaves are taken until none is left.

    edges : (k, 2), nodes. key : of every edge, its group times 3 plus its weight 0, 1 or 2; the forests have the least
    weight. order : the edges by ascending key. removable : of every node, (n,); each has edges of one group alone.
    Returns which edges are in a forest, and which nodes vanish; edges of nodes that vanish count as in the forest.
    """
    nodes = len(removable)
    parent = np.empty(nodes, np.int64)
    degree = np.empty(nodes, np.int64)
    neighbours = np.empty(nodes, np.int64)  # all of them, exclusive or: of a leaf it is the only one
    in_forest = np.zeros(len(edges), np.bool_)
    gone = np.zeros(nodes, np.bool_)
    begin = 0
    while begin < len(order):
        group = key[order[begin]] // 3
        end = begin
        while end < len(order) and key[order[end]] // 3 == group:
            for side in range(2):
                node = edges[order[end], side]
                parent[node] = node
                degree[node] = 0
                neighbours[node] = 0
            end += 1
        for i in range(begin, end):
            first, second = edges[order[i], 0], edges[order[i], 1]
            a = _root(parent, first)
            b = _root(parent, second)
            if a != b:
                in_forest[order[i]] = True
                if a < b:
                    parent[b] = a
                else:
                    parent[a] = b
                degree[first] += 1
                degree[second] += 1
                neighbours[first] ^= second
                neighbours[second] ^= first
        for i in range(begin, end):
            for side in range(2):
                node = edges[order[i], side]
                while removable[node] and degree[node] == 1:
                    gone[node] = True
                    degree[node] = 0
                    other = neighbours[node]
                    degree[other] -= 1
                    neighbours[other] ^= node
                    node = other
        begin = end
    return in_forest, gone
