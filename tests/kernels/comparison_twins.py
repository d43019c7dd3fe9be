"""The kernels of a comparison by any back end: compared with the CPU's, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.kernels import corners, distance, structures, surface
from tests.kernels.distance_twins import Array, Place, to_numpy
from tests.phantoms import Mask

Low = tuple[int, int, int]

SALT = "salt"
KINDS = ("patches", SALT, "own", "chains", "empty")


def random_labels(kind: str, shape: tuple[int, int, int], dtype: Any, rng: np.random.Generator) -> Array:
    """Labels up to the largest of their type: patches, one voxel each, each its own, diagonal chains, none."""
    bits: Any = np.iinfo(dtype).bits
    palette = np.unique(np.array([0, 1, 2, 77, 1 << (bits - 2), (1 << bits) - 1], np.uint64)).astype(dtype)
    if kind == "patches":
        coarse = rng.integers(0, len(palette), [-(-n // 5) for n in shape])
        patches = np.kron(coarse, np.ones((5, 5, 5), np.int64))[tuple(slice(0, n) for n in shape)]
        return np.asarray(palette[patches])
    if kind == SALT:
        return palette[rng.integers(0, len(palette), shape)]
    if kind == "own":
        return (rng.permutation(np.prod(shape)).reshape(shape).astype(np.uint64) << np.uint64(bits // 2)).astype(dtype)
    labels = np.zeros(shape, dtype)
    if kind == "chains":
        z, y, x = np.indices(shape)
        labels[(x + y + z) % 3 == 0] = palette[-1]
        labels[(x - y) % 4 == 0] = palette[1]
    return labels


def assert_same_structures(
    place: Place, volumes: tuple[Array, Array | None, Array | None], first: Low, layers: tuple[int, int]
) -> None:
    """Every table, its rows sorted. volumes : reference, prediction, grey values of the block alone."""
    nothing = np.zeros((0, 0, 0), np.uint8)
    widths: Any = tuple(0 if volume is None else volume.itemsize for volume in volumes)
    own = [nothing if volume is None else np.ascontiguousarray(volume).view(np.uint8) for volume in volumes]
    expected = structures.count_structures(own[0], own[1], own[2], widths, first, *layers)
    there = [place(volume) for volume in own]
    found = structures.count_structures(there[0], there[1], there[2], widths, first, *layers)
    pairs: Any = zip(found, expected, strict=True)
    for ours, theirs in pairs:
        assert isinstance(ours, np.ndarray)
        assert ours.dtype == theirs.dtype
    for ours, theirs in zip(_sorted(found), _sorted(expected), strict=True):
        assert np.array_equal(ours, theirs)


def _sorted(tables: Any) -> list[Array]:
    """The rows of pairs by their labels, those of grey values by labels and value."""
    pairs, voxels, sums, boxes, rows, values, counts = tables
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    of_value = np.lexsort((values, pairs[rows, 1], pairs[rows, 0]))
    whole = [pairs[order], voxels[order], sums[order], boxes[order]]
    return [*whole, pairs[rows][of_value], values[of_value], counts[of_value]]


def assert_same_corners(place: Place, labels: Array, start: Low, stop: Low) -> None:
    """Every label's row; the foreground's is the first."""
    expected, expected_counts = corners.count_corner_codes(labels, start, stop)
    found, counts = corners.count_corner_codes(place(labels), start, stop)
    assert isinstance(found, np.ndarray)
    assert (found.dtype, counts.dtype) == (expected.dtype, expected_counts.dtype)
    assert found[0] == expected[0] == corners.FOREGROUND
    assert np.array_equal(np.sort(found), np.sort(expected))
    assert np.array_equal(counts[np.argsort(found)], expected_counts[np.argsort(expected)])


def assert_same_surface(place: Place, padded: Mask, closing: Low, distances: Array) -> None:
    """Elements of both kinds, and their distances counted.

    padded : a mask with one voxel more on every side. closing : 1 where the block owns a closing plane of corners.
    distances : of at least the corners' shape.
    """
    mask = padded.view(np.uint8)
    there = place(mask)
    voxels, ours = surface.surface_voxels(mask), surface.surface_voxels(there)
    assert np.array_equal(to_numpy(ours), voxels)
    packed = distance.pack_bits(ours)
    assert np.array_equal(to_numpy(packed), np.packbits(voxels, axis=2))
    shape = (mask.shape[0] - 2 + closing[0], mask.shape[1] - 2 + closing[1], mask.shape[2] - 2 + closing[2])
    codes, our_codes = surface.corner_codes(mask, shape), surface.corner_codes(there, shape)
    assert np.array_equal(to_numpy(our_codes), codes)
    (elements, listed), (our_elements, our_list) = surface.mixed_corners(codes), surface.mixed_corners(our_codes)
    assert np.array_equal(to_numpy(our_elements), elements)
    assert isinstance(our_list, np.ndarray)
    assert np.array_equal(our_list, listed)
    assert_same_distances(place, distances[tuple(slice(0, n) for n in shape)], elements, listed)
    none = np.empty(0, np.uint8)
    assert_same_distances(place, distances[tuple(slice(0, n) for n in voxels.shape)], voxels, none)


def assert_same_distances(place: Place, distances: Array, elements: Array, codes: Array) -> None:
    """The counted pairs of distance and code."""
    here = np.ascontiguousarray(distances)
    unreached = distance.unreached(here.dtype)
    expected = surface.count_distances(here, elements, codes, unreached)
    found = surface.count_distances(place(here), place(elements), codes, unreached)
    assert all(type(column) is np.ndarray and column.dtype == np.int64 for column in found)
    ours, theirs = (np.stack(table)[:, np.lexsort(table[:2])] for table in (found, expected))
    assert np.array_equal(ours, theirs)
