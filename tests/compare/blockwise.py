"""Component stations on arrays, block by block; volumes that are hard for them; and the definitions in plain scipy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from scipy import ndimage

from pipeline import cavities, components, objects
from pipeline.components import Connectivity, Union
from pipeline.geometry import BlockGrid, Index
from pipeline.objects import Described, ObjectTally
from tests.phantoms import noise, plates, shapes

Labels = npt.NDArray[Any]
Arrays = dict[Index, dict[str, npt.NDArray[Any]]]

STRUCTURE = {c: ndimage.generate_binary_structure(3, n) for c, n in ((6, 1), (18, 2), (26, 3))}


def grid_of(labels: Labels, block_shape: Index) -> BlockGrid:
    z, y, x = labels.shape
    return BlockGrid((z, y, x), block_shape)


def counted_components(labels: Labels, block_shape: Index, connectivity: Connectivity) -> dict[int, int]:
    """Label → components, through blocks."""
    grid = grid_of(labels, block_shape)
    arrays: Arrays = {}
    for block in grid:
        box = grid.box(block)
        _, arrays[block] = components.block_components(labels[box.slices], box, grid.shape, connectivity)
    return components.component_counts(united(grid, arrays, connectivity), _tables(arrays, "final"))


def united(grid: BlockGrid, arrays: Arrays, connectivity: Connectivity) -> Union:
    """The union of the exported components of all blocks."""
    seams = (components.seams(grid, block, connectivity, lambda b, name: arrays[b][name]) for block in grid)
    return components.unite([arrays[block]["label"] for block in grid], seams)


def counted_cavities(labels: Labels, block_shape: Index) -> tuple[dict[int, int], dict[int, int]]:
    """Label → 6-components and label → cavities, through blocks."""
    grid = grid_of(labels, block_shape)
    arrays: Arrays = {}
    for block in grid:
        box = grid.box(block)
        arrays[block] = cavities.block_cavities(labels[box.slices], box, grid.shape)
    seams = [components.seams(grid, b, 6, lambda b, name: arrays[b][name], same_label=False) for b in grid]
    union = components.unite([arrays[block]["label"] for block in grid], seams)
    edges = [arrays[block]["edges"] for block in grid]
    found = cavities.merge_cavities(union, edges, seams, _tables(arrays, "cavity"))
    return components.component_counts(union, _tables(arrays, "final")), found


def _tables(arrays: Arrays, kind: str) -> list[tuple[Any, Any]]:
    return [(of_block[f"{kind}-label"], of_block[f"{kind}-count"]) for of_block in arrays.values()]


@dataclass(frozen=True)
class Measured:
    """What the object stations find in a pair."""

    tally: ObjectTally
    reference: Described
    prediction: Described


def measured_objects(
    pair: tuple[Labels, Labels],
    block_shape: Index,
    connectivity: Connectivity = 26,
    *,
    labels_are_objects: bool = False,
) -> Measured:
    """Objects of both sides of a pair and how they match, through blocks."""
    grid = grid_of(pair[0], block_shape)
    exported: tuple[Arrays, Arrays] = ({}, {})
    blocks: list[dict[str, npt.NDArray[Any]]] = []
    open_descriptions: tuple[list[Any], list[Any]] = ([], [])
    closed: tuple[list[Described], list[Described]] = ([], [])
    for block in grid:
        box = grid.box(block)
        both = []
        for side in (0, 1):
            found = components.label_components(pair[side][box.slices], connectivity)
            if labels_are_objects:
                own = objects.label_objects(found, box)
                exported[side][block] = {"label": own.label}
            else:
                own = objects.component_objects(found, box, grid.shape)
                exported[side][block] = components.export(found, own.open, box, grid.shape)
            open_descriptions[side].append(own.description[own.open])
            closed[side].append(objects.closed_objects(own))
            both.append(own)
        blocks.append(objects.block_objects(*both))
    unions = [
        components.unite_labels([arrays[block]["label"] for block in grid])
        if labels_are_objects
        else united(grid, arrays, connectivity)
        for arrays in exported
    ]
    described = [objects.merge_described(unions[s], open_descriptions[s], closed[s]) for s in (0, 1)]
    tally = objects.merge_objects(unions[0], unions[1], blocks, labels_are_objects=labels_are_objects)
    return Measured(tally, described[0], described[1])


def labels_in(labels: Labels) -> list[int]:
    """The labels of a volume but 0."""
    return [int(label) for label in np.unique(labels) if label]


def plain_components(labels: Labels, connectivity: int) -> dict[int, int]:
    """The definition: scipy on the mask of one label after another."""
    return {label: int(ndimage.label(labels == label, STRUCTURE[connectivity])[1]) for label in labels_in(labels)}


def plain_cavities(labels: Labels) -> dict[int, int]:
    """The definition: 6-components of the padded complement of each label, less one."""
    found = {
        label: int(ndimage.label(np.pad(labels != label, 1, constant_values=True))[1]) - 1
        for label in labels_in(labels)
    }
    return {label: count for label, count in found.items() if count}


def plain_objects(labels: Labels, connectivity: int) -> list[tuple[int, npt.NDArray[np.bool_]]]:
    """Label and mask of every component."""
    found = []
    for label in labels_in(labels):
        numbered, count = ndimage.label(labels == label, STRUCTURE[connectivity])
        found += [(label, numbered == i) for i in range(1, count + 1)]
    return found


def euler_number(mask: npt.NDArray[np.bool_]) -> int:
    """V − E + F − C of the union of closed voxels."""
    return sum((-1) ** int(sum(kind)) * len(cells) for kind, cells in closed_cells(mask).items())


def closed_cells(mask: npt.NDArray[np.bool_]) -> dict[tuple[int, ...], set[tuple[int, ...]]]:
    """Cells of the union of closed voxels by the axes they extend along, in doubled coordinates."""
    found: dict[tuple[int, ...], set[tuple[int, ...]]] = {kind: set() for kind in np.ndindex(2, 2, 2)}
    for z, y, x in np.argwhere(mask).tolist():
        for dz, dy, dx in np.ndindex(3, 3, 3):
            cell = (2 * z + dz, 2 * y + dy, 2 * x + dx)
            found[cell[0] % 2, cell[1] % 2, cell[2] % 2].add(cell)
    return found


def homology(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """Betti numbers over GF(2) from the ranks of the boundary maps; for small masks."""
    cells: list[list[tuple[int, ...]]] = [[], [], [], []]
    for kind, found in closed_cells(mask).items():
        cells[sum(kind)] += sorted(found)
    ranks = [0] + [_rank(cells[d], cells[d - 1]) for d in (1, 2, 3)] + [0]
    b0, b1, b2 = (len(cells[d]) - ranks[d] - ranks[d + 1] for d in range(3))
    return b0, b1, b2


def _rank(cells: list[tuple[int, ...]], faces: list[tuple[int, ...]]) -> int:
    place = {face: i for i, face in enumerate(faces)}
    reduced: dict[int, int] = {}
    for cell in cells:
        row = 0
        for axis in range(3):
            if cell[axis] % 2:
                for step in (-1, 1):
                    row ^= 1 << place[tuple(c + step * (a == axis) for a, c in enumerate(cell))]
        while row and row.bit_length() in reduced:
            row ^= reduced[row.bit_length()]
        if row:
            reduced[row.bit_length()] = row
    return len(reduced)


def shell(shape: Index, outer: float, inner: float) -> npt.NDArray[np.bool_]:
    """A hollow ball in the middle."""
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    squared: Any = sum((g - (n - 1) / 2) ** 2 for g, n in zip(grids, shape, strict=True))
    return np.asarray((squared <= outer**2) & (squared > inner**2))


def torus(shape: Index, radius: float, tube: float) -> npt.NDArray[np.bool_]:
    """A ring around the first axis."""
    z, y, x = (g - (n - 1) / 2 for g, n in zip(np.indices(shape), shape, strict=True))
    return np.asarray((np.sqrt(y * y + x * x) - radius) ** 2 + z * z <= tube**2)


def serpentine(shape: Index) -> npt.NDArray[np.bool_]:
    """One line, a voxel thick, that fills every other row of every other plane."""
    mask = np.zeros(shape, np.bool_)
    for i, z in enumerate(range(0, shape[0], 2)):
        layer = np.zeros(shape[1:], np.bool_)
        layer[::2] = True
        for j, y in enumerate(range(1, shape[1], 2)):
            layer[y, 0 if j % 2 else -1] = True
        mask[z] = layer
        if z + 1 < shape[0]:
            mask[z + 1, 0, -1 if i % 2 else 0] = True
    return mask


def diagonal_chain(shape: Index, axes: int) -> npt.NDArray[np.bool_]:
    """Voxels that touch at edges (axes = 2) or corners (axes = 3) only."""
    mask = np.zeros(shape, np.bool_)
    n = np.arange(min(shape[3 - axes :]))
    mask[(0,) * (3 - axes) + (n,) * axes] = True
    return mask


@st.composite
def label_volumes(draw: st.DrawFn, *, largest: int) -> Labels:
    """Labels of every integer dtype and bool: noise, patches, shells in shells, tori, chains; empty and full."""
    shape = draw(shapes(largest=largest))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    count = draw(st.integers(1, 5))
    kind = draw(
        st.sampled_from(
            ["salt", "salt", "patches", "smooth", "shells", "torus", "serpentine", "edges", "corners", "plates", "full"]
        )
    )
    labels = np.zeros(shape, np.int64)
    if kind == "salt":
        share = rng.dirichlet(np.full(count + 1, draw(st.sampled_from([0.3, 1.0, 5.0]))))
        labels = rng.choice(count + 1, size=shape, p=share)
    elif kind == "patches":
        coarse = rng.integers(0, count + 1, [-(-n // 3) for n in shape])
        labels = np.kron(coarse, np.ones((3, 3, 3), np.int64))[tuple(slice(0, n) for n in shape)]
    elif kind == "smooth":
        labels = noise(shape, 1.0, seed) * (1 + noise(shape, 1.0, seed + 1).astype(np.int64))
    elif kind == "shells":
        for n in range(min(shape), 0, -1):
            labels[shell(shape, n / 2, n / 2 - 0.9)] = rng.integers(0, count + 1)
    elif kind == "torus":
        labels = torus(shape, min(shape) / 4, min(shape) / 8 + 0.6).astype(np.int64)
        labels[labels == 0] = rng.integers(0, count + 1)
    elif kind == "serpentine":
        labels = serpentine(shape).astype(np.int64)
    elif kind in {"edges", "corners"}:
        labels = diagonal_chain(shape, 2 if kind == "edges" else 3).astype(np.int64)
    elif kind == "plates":
        labels = plates(shape, 3, 1, seed % 3) + 2 * plates(shape, 4, 1, (seed + 1) % 3).astype(np.int64)
    else:
        labels[...] = draw(st.integers(0, 1))
    dtype: type[Any] = draw(st.sampled_from([np.bool_, np.uint8, np.uint16, np.int32, np.int64, np.uint64]))
    if dtype is np.int64:
        return np.where(labels > 0, labels + 2**40, 0)
    if dtype is np.uint64 and draw(st.booleans()):
        return np.where(labels > 0, np.uint64(2**64 - 1) - labels.astype(np.uint64), np.uint64(0))
    return labels.astype(dtype)


@st.composite
def cut_volumes(draw: st.DrawFn, *, largest: int) -> tuple[Labels, Index]:
    """Labels and a shape of blocks, odd ones among them, single voxels and the whole."""
    labels = draw(label_volumes(largest=largest))
    z, y, x = (draw(st.integers(-(-n // 5), n + 1)) for n in labels.shape)
    return labels, (z, y, x)
