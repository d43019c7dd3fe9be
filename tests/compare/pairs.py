"""Pairs of label volumes that are hard to compare, the overlap stage on arrays, and a grey volume beside them."""

from __future__ import annotations

import random
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from pipeline.geometry import BlockGrid, Index
from pipeline.overlap import Contribution, merge, overlap_of_block, reading_box
from tests.compare.blockwise import Labels, label_volumes

Grey = npt.NDArray[Any]

GREY_DTYPES = ("u1", "i2", "u2", "i4", "u8", "i8", "f2", "f4", "f8", ">i2", ">f4")


def contributions(
    reference: Labels, prediction: Labels | None, image: Grey | None, block_shape: Index
) -> list[Contribution]:
    """What every block contributes."""
    z, y, x = reference.shape
    grid = BlockGrid((z, y, x), block_shape)
    parts = []
    for block in grid:
        box = grid.box(block)
        read = reading_box(box).slices
        parts.append(
            overlap_of_block(
                reference[read],
                None if prediction is None else prediction[read],
                None if image is None else image[box.slices],
                box=box,
                shape=grid.shape,
            )
        )
    return parts


def whole(reference: Labels, prediction: Labels | None = None, image: Grey | None = None) -> Contribution:
    """The contribution of a volume that is one block."""
    z, y, x = reference.shape
    return contributions(reference, prediction, image, (z, y, x))[0]


def blockwise(
    reference: Labels, prediction: Labels | None, image: Grey | None, block_shape: Index, seed: int
) -> Contribution:
    """The same through blocks, merged in an order and in groups that the seed decides."""
    parts = contributions(reference, prediction, image, block_shape)
    chance = random.Random(seed)
    chance.shuffle(parts)
    middle = chance.randrange(len(parts))
    groups = [merge(*group) for group in (parts[:middle], parts[middle:]) if group]
    return reduce(merge, groups)


def assert_equal(a: Contribution, b: Contribution) -> None:
    """The same arrays under the same names, to the bit."""
    assert a.keys() == b.keys()
    for name, array in a.items():
        assert array.dtype == b[name].dtype, name
        assert array.shape == b[name].shape, name
        assert array.tobytes() == b[name].tobytes(), name


@st.composite
def label_pairs(draw: st.DrawFn, *, largest: int) -> tuple[Labels, Labels]:
    """A reference and a prediction of one shape: shifted, sprinkled, unrelated, equal, empty, or of another dtype."""
    reference = draw(label_volumes(largest=largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(["shifted", "sprinkled", "unrelated", "equal", "empty", "mask"]))
    if kind == "shifted":
        return reference, np.roll(reference, rng.integers(-2, 3, 3), (0, 1, 2))
    if kind == "sprinkled":
        other = rng.permutation(reference.reshape(-1)).reshape(reference.shape)
        return reference, np.where(rng.random(reference.shape) < 0.2, other, reference)
    if kind == "unrelated":
        return reference, rng.integers(0, 4, reference.shape).astype(draw(st.sampled_from([np.uint8, np.int32])))
    if kind == "equal":
        return reference, reference.copy()
    if kind == "empty":
        pair = (reference, np.zeros_like(reference))
        return pair if draw(st.booleans()) else (pair[1], pair[0])
    return reference, rng.random(reference.shape) < 0.4


@st.composite
def images(draw: st.DrawFn, shape: tuple[int, ...]) -> Grey:
    """Grey values of any width: few and many, tiny, huge and of both signs."""
    dtype = np.dtype(draw(st.sampled_from(GREY_DTYPES)))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    if dtype.kind != "f":
        limits: Any = np.iinfo(dtype)
        low, high = draw(st.sampled_from([(max(limits.min, -3), 3), (limits.min, limits.max)]))
        return rng.integers(low, high, shape, dtype=dtype.newbyteorder("="), endpoint=True).astype(dtype)
    values = rng.standard_normal(shape)
    if draw(st.booleans()):
        with np.errstate(over="ignore", under="ignore"):
            scaled = values * 10.0 ** rng.integers(-300, 300, shape)
            narrow = scaled.astype(dtype)
        values = np.where(np.isfinite(narrow), narrow, 0.0)
    with np.errstate(under="ignore"):
        return np.where(rng.random(shape) < 0.2, -0.0, values).astype(dtype)
