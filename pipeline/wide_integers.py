"""Integers wider than 64 bits in int64 arrays, so that exact sums of any volume fit into a parcel.

A wide integer is a row of limbs to the base 2³², lowest first: value = Σ limb[i]·2^(32·i). In the carried form every
limb but the last lies in [0, 2³²) and the last one has the sign, so equal values are equal rows. Carried rows may be
added limb by limb up to 2³¹ times before they are carried again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Limbs = npt.NDArray[np.int64]

LIMB_BITS = 32
_MASK = (1 << LIMB_BITS) - 1


def wide(values: npt.NDArray[np.int64], limbs: int) -> Limbs:
    """Values of any shape as carried wide integers with one more axis, of `limbs` limbs."""
    result = np.zeros((*values.shape, limbs), np.int64)
    result[..., 0] = values
    return carried(result)


def add_shifted(limbs: Limbs, values: npt.NDArray[np.int64], position: int) -> None:
    """Add values·2^(32·position) in place; the rows are to be carried afterwards."""
    limbs[..., position] += values & _MASK
    limbs[..., position + 1] += values >> LIMB_BITS


def carried(limbs: Limbs) -> Limbs:
    """The same integers in the carried form."""
    result = limbs.copy()
    for i in range(result.shape[-1] - 1):
        result[..., i + 1] += result[..., i] >> LIMB_BITS
        result[..., i] &= _MASK
    return result


def to_integer(limbs: npt.NDArray[Any]) -> int:
    """One row of limbs as a Python integer."""
    return sum(int(limb) << (LIMB_BITS * i) for i, limb in enumerate(limbs))
