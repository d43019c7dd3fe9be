"""Surface area and Euler number out of the counts of 2×2×2 corner codes (pipeline/kernels/corners).

The eight voxels around a corner are samples at the corners of a cell. Their marching-cubes surface runs through the
middles of the cell's edges; its triangles, the surface elements, have the areas that google-deepmind's surface-distance
lists for 256 codes (Nikolov et al. 2021, doi:10.2196/26151). Inside and outside are treated alike: up to four voxels,
those of one value, are cut off from the others, each group of them that is joined by faces on its own, so six shapes
of groups make up the table.

The Euler number is Σ over corners of what a corner holds of the complex, in eighths: a corner is one vertex, ends six
half edges, touches a quarter of twelve faces and an eighth of eight cubes. Closed voxels are joined by 26 neighbours
(χ26 = V − E + F − C of their cells); for 6 neighbours (χ6) voxels are points, joined along an axis, with squares where
four and cubes where eight meet.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.geometry import VoxelSize

Array = npt.NDArray[Any]
Areas = npt.NDArray[np.float64]
Voxel = tuple[int, int, int]
Triangle = tuple[int, int, int]

FOREGROUND = 0
"""The label under which the corner codes of the whole foreground are kept."""

CODES = 256
_VOXELS: list[Voxel] = [(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
"""The voxels around a corner; the first one has the highest bit of the code."""


def surface_areas(voxel_size: VoxelSize) -> Areas:
    """The area of the surface elements at a corner by its code, float64 (256,), in µm²."""
    z, y, x = voxel_size.um
    faces = (y * x, z * x, z * y)
    return np.array(
        [
            math.fsum(math.hypot(*(n / 8 * f for n, f in zip(normal, faces, strict=True))) for normal in normals)
            for normals in _NORMALS
        ]
    )


def surface_area(codes: npt.NDArray[np.int64], areas: Areas) -> float:
    """The surface area of a mask, in the unit of the areas. codes : corners per code, int64 (256,)."""
    return math.fsum(codes.astype(np.float64) * areas)


def euler_number(codes: npt.NDArray[np.int64], connectivity: Literal[6, 26] = 26) -> int:
    """The Euler number of a mask outside of which there is background, exactly. codes : corners per code, int64 (256,).

    26 : of the union of the closed voxels. 6 : of voxels joined by faces.
    """
    eighths = sum(int(count) * _EULER_EIGHTHS[connectivity][code] for code, count in enumerate(codes))
    if eighths % 8:
        raise ValueError("the corner codes are not those of a whole volume")
    return eighths // 8


def codes_of(tally: Mapping[str, Array], name: Literal["reference", "prediction"], label: int) -> npt.NDArray[np.int64]:
    """The corners of a label of one volume per code, int64 (256,); FOREGROUND is any label. tally : merged."""
    labels = tally[f"{name}-corner-labels"]
    row = int(np.searchsorted(labels, np.uint64(label)))
    if row == len(labels) or labels[row] != np.uint64(label):
        return np.zeros(CODES, np.int64)
    return np.asarray(tally[f"{name}-corner-codes"][row], np.int64)


def corner_measures(tally: Mapping[str, Array], label: int, areas: Areas) -> dict[str, Any]:
    """Area and Euler number of a label, or of the FOREGROUND, in both volumes by their names in comparison.json.

    areas : of `surface_areas`.
    """
    sides = {name: codes_of(tally, name, label) for name in ("reference", "prediction")}
    return {
        "surface_area_um2": {name: surface_area(codes, areas) for name, codes in sides.items()},
        "euler_number": {name: euler_number(codes) for name, codes in sides.items()},
    }


def _set_voxels(code: int) -> set[Voxel]:
    return {voxel for i, voxel in enumerate(_VOXELS) if code & (128 >> i)}


def _normals(code: int) -> list[Triangle]:
    """The triangles at a corner: area vectors without their signs, in eighths of a face of a voxel (z, y, x)."""
    voxels = _set_voxels(code)
    minority = voxels if len(voxels) <= 4 else set(_VOXELS) - voxels
    return [normal for group in _groups(minority) for normal in _normals_of_group(group)]


def _groups(voxels: Iterable[Voxel]) -> list[set[Voxel]]:
    """Voxels around a corner in groups that are joined by faces."""
    groups: list[set[Voxel]] = []
    for voxel in sorted(voxels):
        joined = [group for group in groups if any(_axis(voxel, other) is not None for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append({voxel}.union(*joined))
    return groups


def _axis(a: Voxel, b: Voxel) -> int | None:
    """The axis along which two voxels share a face; None where they share none."""
    different = [axis for axis in range(3) if a[axis] != b[axis]]
    return different[0] if len(different) == 1 else None


def _normals_of_group(group: set[Voxel]) -> list[Triangle]:
    """The triangles that cut a group of one to four voxels, joined by faces, from the rest of the cell."""
    joints = [axis for a, b in itertools.combinations(sorted(group), 2) if (axis := _axis(a, b)) is not None]
    used = set(joints)
    if len(group) == 1:
        return [(1, 1, 1)]
    if len(group) == 2:  # a rectangle along the axis of the two
        return 2 * [_across(joints[0])]
    if len(used) == 2:  # three or four voxels in a plane
        plane = [4 if axis not in used else 0 for axis in range(3)]
        flat = (plane[0], plane[1], plane[2])
        return 2 * [flat] if len(group) == 4 else [flat, (1, 1, 1), (2, 2, 2)]
    ends = [v for v in sorted(group) if sum(_axis(v, other) is not None for other in group) == 1]
    if len(ends) == 3:  # a voxel and its three neighbours: a hexagon
        return [(1, 1, 1), (1, 1, 1), (2, 2, 2), (2, 2, 2)]
    # A path along all three axes; its first and last step lie in the planes of two of the triangles.
    steps = [axis for end in ends for other in group if (axis := _axis(end, other)) is not None]
    return [(1, 1, 1), (3, 3, 3), *(_across(axis) for axis in steps)]


def _across(axis: int) -> Triangle:
    z, y, x = (0 if a == axis else 2 for a in range(3))
    return z, y, x


def _euler_eighths(code: int) -> dict[int, int]:
    voxels = _set_voxels(code)
    cubes = len(voxels)
    # A face, an edge lies between the voxels of a pair, of four in a row of planes through the corner.
    pairs = [{a, b} for a, b in itertools.combinations(_VOXELS, 2) if _axis(a, b) is not None]
    fours = [{v for v in _VOXELS if v[axis] == side} for axis in range(3) for side in (0, 1)]
    closed = 8 * bool(voxels) - 4 * sum(bool(f & voxels) for f in fours) + 2 * sum(bool(p & voxels) for p in pairs)
    joined = 2 * sum(p <= voxels for p in pairs) - 4 * sum(f <= voxels for f in fours) + 8 * (cubes == 8)
    return {26: closed - cubes, 6: cubes - joined}


_NORMALS = [_normals(code) for code in range(CODES)]
_EULER_EIGHTHS: dict[int, list[int]] = {
    connectivity: [_euler_eighths(code)[connectivity] for code in range(CODES)] for connectivity in (6, 26)
}
