"""The integers that squared distances are formed of, by one rule out of a voxel size and the shape of a volume.

A squared distance is Σ weight·d² over the axes, d in voxels, in units of unit². Weights are the squared spacings in
the largest unit of length in which all spacings are whole, as long as the largest squared distance of the volume is
below 2^53: then nothing is rounded. Spacings of so many digits that this fails get the smallest integers whose ratios
are all within 5·10⁻⁷ of those of the squared spacings: the least weight of the finest axis for which the nearest
integers of the other axes do. Their unit is the one for which the largest relative rounding of a spacing is least.
A distance in any direction is rounded by no more than that: at most 1.25·10⁻⁷ of it. What is a tie by rounded weights
may be none by the spacings as given, if they tell it apart by less than that, and the other way round.

Exact weights come first although rounded ones may fit 32 bits and be faster: a number is not rounded without need. The
rule looks at ratios alone: permuted axes get permuted weights, and another unit of length the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from pipeline.errors import InputError

TOLERANCE = Fraction(5, 10**7)
"""Ratios of rounded weights are so near to those of the squared spacings, relatively."""
LARGEST_SQUARED_DISTANCE = 2**53
"""int64 less the bits of a position in a brick, by which centres are sorted."""
# A squared distance is formed between any voxel of a tile or cell and any centre; their boxes may stick out of the
# volume by less than this.
OVERHANG_VOXELS = 64
SEARCHED_AT_ONCE = 1 << 13
"""Weights that are looked at together: few for most sizes, and in the cache of a core."""

Three = tuple[int, int, int]
Lengths = tuple[float, float, float]


class Weights(NamedTuple):
    """Squared spacings (z, y, x) in units of unit_um², and the largest relative rounding of a spacing (0: exact)."""

    of_axes: Three
    unit_um: float
    largest_rounding: float


def decimals(um: Lengths) -> tuple[Fraction, Fraction, Fraction]:
    """Lengths by their decimal text, which is what its author wrote: 0.7 is 7/10, not its binary neighbour."""
    z, y, x = (Fraction(repr(float(v))) for v in um)
    return z, y, x


def exact_weights(um: Lengths) -> Weights:
    """The squares of the smallest integers that have the ratios of three spacings (z, y, x); (1, 1, 1) if isotropic."""
    spacings = decimals(um)
    scale = math.lcm(*(f.denominator for f in spacings))
    n_z, n_y, n_x = (int(f * scale) for f in spacings)
    divisor = math.gcd(n_z, n_y, n_x)
    z, y, x = ((n // divisor) ** 2 for n in (n_z, n_y, n_x))
    return Weights((z, y, x), float(Fraction(divisor, scale)), 0.0)


def rounded_weights(um: Lengths) -> Weights:
    """The smallest integers whose ratios are within TOLERANCE of those of the squared spacings (z, y, x)."""
    finest = min(decimals(um))
    squares = [(spacing / finest) ** 2 for spacing in decimals(um)]
    for least in _promising(squares):
        z, y, x = (round(least * square) for square in squares)
        shares = [weight / square for weight, square in zip((z, y, x), squares, strict=True)]
        most, fewest = max(shares), min(shares)
        if most <= (1 + TOLERANCE) * fewest:
            high, low = math.sqrt(most), math.sqrt(fewest)
            return Weights((z, y, x), 2 * float(finest) / (high + low), (high - low) / (high + low))
    raise AssertionError("a weight of 2/TOLERANCE and the nearest integers are always near enough")


def _promising(squares: Sequence[Fraction]) -> Iterator[int]:
    """Weights of the finest axis that may do, ascending, up to one that does. squares : 1 for that axis."""
    ratios = sorted({float(square) for square in squares if square != 1})
    limit = 1 + 1.001 * float(TOLERANCE)  # floats find them, fractions judge them
    for start in range(0, 2 * TOLERANCE.denominator // TOLERANCE.numerator + SEARCHED_AT_ONCE, SEARCHED_AT_ONCE):
        least = np.arange(start + 1, start + 1 + SEARCHED_AT_ONCE, dtype=np.float64)
        high, low = np.ones_like(least), np.ones_like(least)
        for ratio in ratios:
            wanted = ratio * least
            share = np.rint(wanted) / wanted
            np.maximum(high, share, out=high)
            np.minimum(low, share, out=low)
        yield from (start + 1 + np.flatnonzero(high <= limit * low)).tolist()


def weights_for(um: Lengths, shape: Three) -> Weights:
    """The weights for all distances in a volume of a shape (z, y, x), exact or rounded by the rule above.

    Raises InputError where the largest squared distance is 2^53 or more in both.
    """
    exact = exact_weights(um)
    if largest_squared_distance(exact.of_axes, shape) < LARGEST_SQUARED_DISTANCE:
        return exact
    # A spacing so much larger than another is beyond any search, and too large whatever its weight.
    if max(decimals(um)) ** 2 < LARGEST_SQUARED_DISTANCE * min(decimals(um)) ** 2:
        rounded = rounded_weights(um)
        if largest_squared_distance(rounded.of_axes, shape) < LARGEST_SQUARED_DISTANCE:
            return rounded
    raise InputError(
        f"Voxels of {' × '.join(f'{v:.12g}' for v in um)} µm (z, y, x) give squared distances beyond 2^53 in a volume"
        f" of {' × '.join(map(str, shape))} voxels, even in integers rounded to 5e-7; give voxel sizes of fewer digits,"
        " or measure a part of the volume or a coarser level."
    )


def largest_squared_distance(weights: Three, shape: Three) -> int:
    """A bound on every squared distance that is formed in a volume of a shape (z, y, x), in units of unit_um²."""
    return sum(w * (n + OVERHANG_VOXELS) ** 2 for w, n in zip(weights, shape, strict=True))
