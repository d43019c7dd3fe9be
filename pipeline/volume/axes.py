"""The axes of arrays as they lie in a store, in any order, and how they become z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.geometry import Box, Index

T = TypeVar("T")


def stored_axes(where: str, shape: Sequence[int], names: Sequence[str]) -> str:
    """The stored axes, one letter each: z, y, x, or "." for an axis of length 1 that is left out.

    shape : with 1 where a position was chosen (`pipeline.volume.choice`). names : one for each axis, lower case.
    Without z it is one plane. Raises InputError for what is not one volume.
    """
    if len(shape) < 2:
        raise InputError(
            f"{where} has {len(shape)} axes, shape {tuple(shape)}; a volume has three, z, y, x, and a plane y, x."
        )
    if 0 in shape:
        raise InputError(f"{where} is empty, shape {tuple(shape)}; a volume has at least one voxel.")
    if len(names) != len(shape):
        raise InputError(f"{where} has {len(shape)} axes, but its metadata name {len(names)}: {', '.join(names)}.")
    axes = "".join(name if name in ("z", "y", "x") else "." for name in names)
    if sorted(axes.replace(".", "")) not in (["x", "y"], ["x", "y", "z"]):
        raise InputError(f"{where} has the axes {', '.join(names)}; three spatial axes z, y, x are needed, or y, x.")
    for axis, name, length in zip(axes, names, shape, strict=True):
        if axis == "." and length != 1:
            raise InputError(
                f"{where} has {length} positions along axis {name} (shape {tuple(shape)}); only axes z, y, x may be"
                " longer than 1, so store the volumes one by one."
            )
    return axes


def in_order(axes: str, values: Sequence[T], lacking: Any = 1) -> tuple[T, T, T]:
    """Values of the stored axes as (z, y, x). lacking : along z of what has no such axis."""
    z, y, x = (values[axes.index(axis)] if axis in axes else lacking for axis in "zyx")
    return z, y, x


def stored_index(axes: str, index: Index, at: Sequence[int] = ()) -> tuple[int, ...]:
    """An index (z, y, x) in stored order. at : along each stored axis that is left out, by default 0."""
    others = at or [0] * len(axes)
    return tuple(o if axis == "." else index["zyx".index(axis)] for axis, o in zip(axes, others, strict=True))


def stored_selection(axes: str, box: Box, at: Sequence[int] = ()) -> tuple[slice | int, ...]:
    """What a box (z, y, x) selects of the stored array, whose result has its three spatial axes in stored order.

    at : as of `stored_index`.
    """
    others = at or [0] * len(axes)
    return tuple(o if axis == "." else box.slices["zyx".index(axis)] for axis, o in zip(axes, others, strict=True))


def as_zyx(axes: str, voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What `stored_selection` selected as (z, y, x), a view."""
    spatial = axes.replace(".", "")
    ordered = np.transpose(voxels, [spatial.index(axis) for axis in "zyx" if axis in spatial])
    return ordered if "z" in spatial else ordered[None]


def object_index(key: str, counts: Sequence[int]) -> tuple[int, ...] | None:
    """The stored index that a key of numbers (0/3/1 or 0.3.1) names; None for other keys."""
    numbers = key.replace(".", "/").split("/")
    if len(numbers) != len(counts) or not all(number.isdecimal() for number in numbers):
        return None
    index = tuple(map(int, numbers))
    return index if all(i < n for i, n in zip(index, counts, strict=True)) else None
