"""Distance by any back end: in blocks, compared with the definition, and function by function with the CPU's."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels import distance
from tests.phantoms import Mask

Array = npt.NDArray[Any]
Place = Callable[[Array], Any]
"""Takes a numpy array to where kernels shall work: cupy.asarray, or a function that returns what it is given."""


def on_host(array: Array) -> Array:
    """The place of the CPU's kernels."""
    return array


def to_numpy(array: Any) -> Array:
    """From wherever it lives."""
    return np.asarray(array.get() if hasattr(array, "get") else array)


def distances_in_blocks(
    place: Place, mask: Mask, weights: tuple[int, int, int], dtype: Any, cuts: tuple[list[int], ...], *, closed: bool
) -> Array:
    """Squared distance (z, y, x) of a volume that is cut along an axis while that axis is swept.

    cuts : where blocks begin, per axis (z, y, x), without 0.
    """
    infinity = distance.unreached(dtype)
    size_z, _, size_x = mask.shape
    squared = to_numpy(distance.unswept(place(mask.view(np.uint8)), dtype))
    for axis in (2, 1, 0):
        shape = {2: (-1, size_x, 1), 1: mask.shape, 0: (1, size_z, -1)}[axis]
        columns = squared.reshape(shape)
        edges = [0, *cuts[axis], mask.shape[axis]]
        spans = list(itertools.pairwise(edges))
        parts = [place(np.ascontiguousarray(columns[:, start:stop])) for start, stop in spans]
        exported = [
            {
                high: distance.export_parabolas(
                    part, weights[axis], infinity, edges[-1] - stop if high else start, high
                )
                for high in (False, True)
            }
            for part, (start, stop) in zip(parts, spans, strict=True)
        ]
        for i, (part, (start, stop)) in enumerate(zip(parts, spans, strict=True)):
            if axis == 2:
                lines = np.ascontiguousarray(mask.view(np.uint8)[:, :, start:stop])
                distance.distance_along_lines(place(lines), weights[2], infinity, part.reshape(lines.shape))
            else:
                distance.envelope_along_columns(part, weights[axis], infinity)
            for j in range(i - 1, -1, -1):
                gap = start - (spans[j][1] - 1)
                distance.relax_parabolas(part, weights[axis], gap, False, *exported[j][True])
            for j in range(i + 1, len(spans)):
                gap = spans[j][0] - (stop - 1)
                distance.relax_parabolas(part, weights[axis], gap, True, *exported[j][False])
            if closed:
                distance.relax_wall(part, weights[axis], start + 1, False)
                distance.relax_wall(part, weights[axis], edges[-1] - (stop - 1), True)
        squared = np.concatenate([to_numpy(part) for part in parts], axis=1).reshape(mask.shape)
    return squared


def random_columns(rng: np.random.Generator, shape: tuple[int, int, int], dtype: Any) -> Array:
    """Heights of parabolas with many ties, few or no background voxels, and holes that nothing has reached."""
    heights = rng.integers(0, rng.choice([2, 5, 50, 3000]), shape).astype(dtype)
    if rng.random() < 0.7:
        heights[heights == 0] = 1
    heights[rng.random(shape) < rng.choice([0.0, 0.5, 0.95])] = distance.unreached(dtype)
    return heights


def assert_same_lines(place: Place, mask: Mask, weight: int, dtype: Any) -> None:
    """unpack_bits, unswept and distance_along_lines."""
    voxels = mask.view(np.uint8)
    unpacked = distance.unpack_bits(place(np.packbits(mask, axis=2)), mask.shape[2])
    assert np.array_equal(to_numpy(unpacked), voxels)
    assert unpacked.dtype == np.uint8
    unswept = distance.unswept(unpacked, dtype)
    assert np.array_equal(to_numpy(unswept), distance.unswept(voxels, dtype))
    assert unswept.dtype == dtype
    expected, found = np.empty(mask.shape, dtype), place(np.empty(mask.shape, dtype))
    distance.distance_along_lines(voxels, weight, distance.unreached(dtype), expected)
    distance.distance_along_lines(unpacked, weight, distance.unreached(dtype), found)
    assert np.array_equal(to_numpy(found), expected)


def assert_same_columns(place: Place, heights: Array, weight: int, reach: int, gap: int) -> None:
    """What is exported of columns (outer, n, inner), and every function that changes them."""
    infinity = distance.unreached(heights.dtype)
    for high in (False, True):
        expected = distance.export_parabolas(heights, weight, infinity, reach, high)
        found = distance.export_parabolas(place(heights), weight, infinity, reach, high)
        pairs: Any = zip(found, expected, strict=True)
        for ours, theirs in pairs:
            assert isinstance(ours, np.ndarray)
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours, theirs)
        on_cpu, elsewhere = heights[::-1].copy(), place(heights[::-1].copy())
        distance.relax_parabolas(on_cpu, weight, gap, high, *expected)
        distance.relax_parabolas(elsewhere, weight, gap, high, *expected)
        assert np.array_equal(to_numpy(elsewhere), on_cpu)
        distance.relax_wall(on_cpu, weight, gap, high)
        distance.relax_wall(elsewhere, weight, gap, high)
        assert np.array_equal(to_numpy(elsewhere), on_cpu)
    on_cpu, elsewhere = heights.copy(), place(heights)
    distance.envelope_along_columns(on_cpu, weight, infinity)
    distance.envelope_along_columns(elsewhere, weight, infinity)
    assert np.array_equal(to_numpy(elsewhere), on_cpu)


def lowest_beyond(column: Array, weight: int, reach: int) -> list[tuple[int, int]]:
    """Depth and height of the parabolas of one column that are lowest at −1 … −reach, in this order: the definition."""
    finite = [(j, int(h)) for j, h in enumerate(column) if h < distance.unreached(column.dtype)]
    found: list[tuple[int, int]] = []
    for position in range(-1, -reach - 1, -1) if finite else ():
        values = [h + weight * (position - j) ** 2 for j, h in finite]
        ties = [pair for pair, value in zip(finite, values, strict=True) if value == min(values)]
        lowest = ties[0] if position == -1 else ties[-1]
        if lowest not in found:
            found.append(lowest)
    return found
