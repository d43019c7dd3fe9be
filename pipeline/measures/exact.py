"""Ratios and roots of integers of any size, rounded once."""

from __future__ import annotations

import math
from fractions import Fraction


def ratio(part: int, whole: int) -> float:
    """Quotient part / whole, NaN where both are 0; integers of any size, rounded once."""
    if whole == 0 and part == 0:
        return math.nan
    return part / whole


def square_root(value: Fraction) -> float:
    """√value of a fraction ≥ 0 of any size, to the last bit or the one before; inf above the largest float64."""
    if value == 0:
        return 0.0
    # An integer root of at least 64 bits, so that the only rounding that shows is the last one.
    power = max(0, 64 - (value.numerator.bit_length() - value.denominator.bit_length()) // 2)
    root = math.isqrt((value.numerator << (2 * power)) // value.denominator)
    try:
        return float(Fraction(root, 1 << power))
    except OverflowError:
        return math.inf
