"""What conventions say of a data set of HDF5: the order of its axes, and how large its voxels are.

Axes by axistags (ilastik, vigra), labels of dimensions or NeXus. Voxel sizes by element_size_um, or by pixel sizes or
coordinates of NeXus with their units.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import numpy as np

from pipeline.geometry import VoxelSize
from pipeline.placement import Placement, Turn
from pipeline.volume.axes import in_order
from pipeline.volume.metadata import plain_decimal, unit_um, voxel_size_of


def axis_names(dataset: Any) -> list[str]:
    """In stored order, by axistags, labels of dimensions or NeXus; else z, y, x among the axes longer than 1."""
    ndim = len(dataset.shape)
    for stated in (_axistags(dataset), [dimension.label for dimension in dataset.dims], _nexus_axes(dataset)):
        names = [name.lower() for name in stated]
        if len(names) == ndim and {"z", "y", "x"} <= set(names):
            return names
    long = [n for n, length in enumerate(dataset.shape) if length != 1]
    spatial = long if len(long) == 3 else list(range(ndim))[-3:]
    names = list(map(str, range(ndim)))
    for n, name in zip(spatial, "zyx"[-len(spatial) :] if spatial else "", strict=True):
        names[n] = name
    return names


def _axistags(dataset: Any) -> list[str]:
    try:
        return [str(axis["key"]) for axis in json.loads(dataset.attrs["axistags"])["axes"]]
    except (KeyError, TypeError, ValueError):
        return []


def _nexus_axes(dataset: Any) -> list[str]:
    """The names of the coordinates in the group around a signal; those of its own attribute in old files."""
    stated = dataset.parent.attrs.get("axes", dataset.attrs.get("axes", ()))
    if isinstance(stated, str | bytes):
        text = stated if isinstance(stated, str) else stated.decode(errors="replace")
        return text.strip("[]").replace(",", ":").split(":")
    return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in stated]


def in_space(dataset: Any, axes: str, warnings: list[str], where: str) -> tuple[VoxelSize | None, Placement | None]:
    """How large voxels are, where all axes and their unit are stated, and by coordinates of NeXus where they lie."""
    stated = dataset.attrs.get("element_size_um")
    if stated is not None:
        sides = _numbers(stated)
        if len(sides) == len(axes) > 3:
            sides = list(in_order(axes, sides))
        if len(sides) == 3 and all(math.isfinite(side) and side > 0 for side in sides):
            return voxel_size_of([plain_decimal(side) for side in sides], [Decimal(1)] * 3), None
        warnings.append(
            f"{where} has an element_size_um that is no voxel size ({', '.join(map(str, sides))}), so it is left out;"
            " give --voxel-size-um."
        )
        return None, None
    lengths = _pixel_sizes(dataset)
    along = _coordinates(dataset, axes)
    if not all(lengths) and along is None:
        return None, None
    known: list[Decimal | None] = lengths if all(lengths) else [abs(step) for _, step in along or ()]
    voxel_size = voxel_size_of(known, [Decimal(1)] * 3)
    if along is None:
        return voxel_size, None
    z, y, x = (float(first) for first, _ in along)
    back = [step < 0 for _, step in along]
    return voxel_size, Placement((z, y, x)).turned(Turn((0, 1, 2), (back[0], back[1], back[2])))


def _pixel_sizes(dataset: Any) -> list[Decimal | None]:
    """x_pixel_size and so on of the group around a data set, each with its units, in µm (z, y, x)."""
    return [_length(dataset.parent.get(f"{axis}_pixel_size")) for axis in "zyx"]


def _length(node: Any) -> Decimal | None:
    unit = _unit(node)
    values = _numbers(node[()]) if unit is not None else []
    return plain_decimal(values[0]) * unit if unit is not None and len(values) == 1 and values[0] > 0 else None


def _coordinates(dataset: Any, axes: str) -> list[tuple[Decimal, Decimal]] | None:
    """NeXus' coordinates of voxels as first one and step, µm (z, y, x); None where they are not evenly spaced."""
    names = _nexus_axes(dataset)
    if len(names) != len(axes):
        return None
    found = []
    for name, length in zip(in_order(axes, names), in_order(axes, dataset.shape), strict=True):
        node = dataset.parent.get(str(name))
        unit = _unit(node)
        if unit is None or not node.size == length > 1:
            return None
        values = np.asarray(_numbers(node[()]), np.float64)
        steps = np.diff(values)
        if len(steps) != length - 1 or steps[0] == 0 or not np.allclose(steps, steps[0], rtol=1e-4, atol=0):
            return None
        step = plain_decimal(float((values[-1] - values[0]) / (length - 1)))
        found.append((plain_decimal(float(values[0])) * unit, step * unit))
    return found


def _unit(node: Any) -> Decimal | None:
    if not hasattr(node, "dtype") or node.dtype.kind not in "iuf":
        return None
    stated = node.attrs.get("units", b"")
    return unit_um(stated if isinstance(stated, str) else np.asarray(stated, "S").item().decode(errors="replace"))


def _numbers(stated: Any) -> list[float]:
    try:
        return [float(value) for value in np.ravel(np.asarray(stated, np.float64))]
    except (TypeError, ValueError):
        return []
