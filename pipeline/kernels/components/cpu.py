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
                        if 2 * used > len(table):
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
def spanning_forest(
    nodes: int, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], weight: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """Which of the edges first[i] – second[i] form a spanning forest of least weight; the weights are 0, 1 and 2."""
    parent = np.arange(nodes)
    in_forest = np.zeros(len(first), np.bool_)
    for step in range(3):
        for i in range(len(first)):
            if weight[i] == step:
                a = _root(parent, first[i])
                b = _root(parent, second[i])
                if a != b:
                    in_forest[i] = True
                    if a < b:
                        parent[b] = a
                    else:
                        parent[a] = b
    return in_forest


@kernel
def strip_leaves(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], removable: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Which removable nodes vanish when removable leaves are taken from a forest until none is left.

    first[i] – second[i] : the edges of the forest. removable : of every node, (n,); also the result's shape.
    """
    nodes = len(removable)
    degree = np.zeros(nodes, np.int64)
    neighbours = np.zeros(nodes, np.int64)  # all of them, exclusive or: of a leaf it is the only one
    for i in range(len(first)):
        degree[first[i]] += 1
        degree[second[i]] += 1
        neighbours[first[i]] ^= second[i]
        neighbours[second[i]] ^= first[i]
    gone = np.zeros(nodes, np.bool_)
    for start in range(nodes):
        node = start
        while removable[node] and degree[node] == 1:
            gone[node] = True
            degree[node] = 0
            other = neighbours[node]
            degree[other] -= 1
            neighbours[other] ^= node
            node = other
    return gone
