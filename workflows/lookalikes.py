"""Lookalikes: predictions with the same confusion matrix against one reference, and structures that differ.

A sponge of thick and thin struts is the reference. Every prediction loses the same number of its voxels and gains the
same number of others, so accuracy, IoU, Dice and every other measure of overlap agree to the last digit; only WHERE
voxels are lost and gained differs. Everything is integer arithmetic on a generator whose stream numpy keeps, so the
voxels are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.geometry import Index, VoxelSize

Mask = NDArray[np.bool_]
Values = NDArray[np.int64]

SMALLEST_SIDE = 64
FOREGROUND_PERCENT = 35
WRONG_PERCENT = 20
"""Share of the reference that a prediction loses, and as much that it gains: Dice 0.8, IoU 2/3."""
FINE, COARSE = 3, 8
"""Half widths in voxels of the boxes that smooth the noise: the struts, and where they are thick or thin."""
FINE_WEIGHT = 1400
"""The fine noise against the coarse one, both as sums over their boxes; with it the fine one is twice as strong."""
SURROUNDINGS = 4
"""Half width of the box whose filling says whether a voxel lies in a thick part."""
SMOOTHINGS = 3
"""Passes of a box; three are nearly a Gaussian."""
SEED = 4


@dataclass(frozen=True, eq=False)
class Lookalikes:
    """One reference and predictions of it.

    reference : bool array (z, y, x). predictions : the same by name, in the order in which to show them.
    """

    voxel_size: VoxelSize
    reference: Mask
    predictions: Mapping[str, Mask]


def lookalikes(shape: Index = (128, 128, 128), voxel_size: VoxelSize | None = None) -> Lookalikes:
    """A sponge and four predictions of it with equal true and false positives and negatives.

    shape : (z, y, x). voxel_size : 10 µm isotropic unless given; the masks do not depend on it.

    "salt and pepper" : voxels lost and gained anywhere. "ragged border" : only at the surface, one voxel deep.
    "thick parts thicker" : thin struts are lost and thick ones grow, as when a picture is smoothed too much.
    "slab added" : the pores of a slab are filled, and as much is missed at the end of z.

    Raises InputError for sides of fewer than SMALLEST_SIDE voxels.
    """
    if min(shape) < SMALLEST_SIDE:
        raise InputError(
            f"Lookalikes need at least {SMALLEST_SIDE} voxels along each axis, but {shape} (z, y, x) was asked for;"
            " 128 along each is usual."
        )
    chance = _Chance(SEED, shape)
    sponge = FINE_WEIGHT * _smooth(chance.values(10), FINE) + _smooth(chance.values(10), COARSE)
    reference = chance.highest(sponge, np.ones(shape, np.bool_), math.prod(shape) * FOREGROUND_PERCENT // 100)
    wrong = int(reference.sum()) * WRONG_PERCENT // 100

    anywhere = np.zeros(shape, np.int64)
    border = (_spread(reference) & _spread(~reference)).astype(np.int64)
    filling = _smooth(reference.astype(np.int64), SURROUNDINGS)
    z = np.broadcast_to(np.arange(shape[0], dtype=np.int64)[:, None, None], shape)
    # Of each: where reference is lost first, and where pores are filled first. Among equals chance decides.
    first: dict[str, tuple[Values, Values]] = {
        "salt and pepper": (anywhere, anywhere),
        "ragged border": (border, border),
        "thick parts thicker": (-filling, filling),
        "slab added": (z, -np.abs(z - shape[0] // 4)),
    }
    predictions = {}
    for name, (lost, gained) in first.items():
        wrongly_empty = chance.highest(lost, reference, wrong)
        wrongly_full = chance.highest(gained, ~reference, wrong)
        predictions[name] = (reference & ~wrongly_empty) | wrongly_full
    return Lookalikes(voxel_size or VoxelSize((10.0, 10.0, 10.0)), reference, predictions)


class _Chance:
    """Random integers, the same under every version of numpy: it keeps the streams of bit generators, not of others."""

    def __init__(self, seed: int, shape: Index) -> None:
        self.bits = np.random.PCG64(seed)
        self.shape = shape

    def values(self, bits: int) -> Values:
        """Integers from 0 to 2**bits − 1 (z, y, x), each as likely as the others."""
        raw = np.asarray(self.bits.random_raw(math.prod(self.shape)), np.uint64)
        return (raw >> np.uint64(64 - bits)).astype(np.int64).reshape(self.shape)

    def highest(self, values: Values, among: Mask, count: int) -> Mask:
        """The `count` voxels of a mask that have the highest values; among equals chance decides."""
        last = among.sum() - count
        limit = np.partition(values[among], last)[last]
        chosen: Mask = among & (values > limit)
        equal = np.flatnonzero(among & (values == limit))
        order = np.argsort(self.values(62).reshape(-1)[equal], kind="stable")
        chosen.flat[equal[order[: count - chosen.sum()]]] = True
        return chosen


def _smooth(values: Values, half_width: int) -> Values:
    """Sums over boxes of 2·half_width + 1 voxels, again and again; the volume goes on at its other end."""
    for _ in range(SMOOTHINGS):
        for axis in range(3):
            length = values.shape[axis]
            padded = np.take(values, np.arange(-half_width - 1, length + half_width), axis=axis, mode="wrap")
            sums = np.cumsum(padded, axis=axis)
            upper = np.take(sums, np.arange(2 * half_width + 1, padded.shape[axis]), axis=axis)
            values = upper - np.take(sums, np.arange(length), axis=axis)
    return values


def _spread(mask: Mask) -> Mask:
    """The mask and the neighbours of its voxels across a face."""
    result = mask.copy()
    for axis in range(3):
        here, there = np.moveaxis(result, axis, 0), np.moveaxis(mask, axis, 0)
        here[1:] |= there[:-1]
        here[:-1] |= there[1:]
    return result
