"""Where the voxels of a volume lie: the point of the first one and the direction of every axis, in µm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations

from pipeline.geometry import VoxelSize

Position = tuple[float, float, float]
"""A point or a direction (z, y, x); points are in µm."""
Directions = tuple[Position, Position, Position]
"""Of each axis of an array (z, y, x) the unit vector along which it runs, in the axes of the frame (z, y, x)."""

UPRIGHT: Directions = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
"""Every axis of the array runs along the axis of the frame with its name."""
ROUNDING = 1e-6
"""Directions that differ by no more than this are those of an axis: headers have them in single precision."""


@dataclass(frozen=True)
class Placement:
    """Where a volume lies in the frame of its source.

    origin_um : centre of voxel (0, 0, 0), µm (z, y, x).
    directions : of the axes of the array. Voxel i has its centre at origin + Σ over axes a of i_a · spacing_a ·
        directions[a].

    The frame of an anatomical format is NIfTI's: x to the right, y to the front, z to the head (RAS+). Formats that
    count to the left and to the back (LPS: ITK, NRRD, DICOM) are brought into it when they are opened.
    """

    origin_um: Position = (0.0, 0.0, 0.0)
    directions: Directions = UPRIGHT

    @property
    def is_upright(self) -> bool:
        """Whether every axis runs along the one of the frame that has its name."""
        return self.directions == UPRIGHT

    @property
    def signs(self) -> tuple[int, int, int] | None:
        """1 or −1 for axes that run along, or against, the one of the frame with their name; None for others."""
        signs = [0, 0, 0]
        for a, row in enumerate(self.directions):
            if any(value for b, value in enumerate(row) if b != a):
                return None
            signs[a] = 1 if row[a] > 0 else -1
        return signs[0], signs[1], signs[2]

    def position_um(self, voxel: Sequence[float | Fraction], voxel_size: VoxelSize) -> Position:
        """The point of a voxel, or of a point between voxels, (z, y, x); rounded once."""
        steps = [_exact(v) * _exact(s) for v, s in zip(voxel, voxel_size.um, strict=True)]
        z, y, x = (
            float(_exact(start) + sum(step * _exact(row[b]) for step, row in zip(steps, self.directions, strict=True)))
            for b, start in enumerate(self.origin_um)
        )
        return z, y, x

    def starting_at(self, voxel: Sequence[float | Fraction], voxel_size: VoxelSize) -> Placement:
        """The placement of an array whose first voxel is this one: a cut-out, or a coarser level."""
        return Placement(self.position_um(voxel, voxel_size), self.directions)

    def describe_directions(self) -> str:
        """The directions in words."""
        return ", ".join(f"{name} along {_direction(row)}" for name, row in zip("zyx", self.directions, strict=True))


def clean_directions(rows: Sequence[Sequence[float]]) -> Directions:
    """Directions of length 1, without the rounding of single precision where they are those of axes."""
    length = [math.hypot(*row) for row in rows]
    unit = [[float(v) / n for v in row] for row, n in zip(rows, length, strict=True)]
    for order in permutations(range(3)):
        nearest = [[math.copysign(1.0, unit[a][b]) if b == order[a] else 0.0 for b in range(3)] for a in range(3)]
        if all(abs(unit[a][b] - nearest[a][b]) <= ROUNDING for a in range(3) for b in range(3)):
            unit = nearest
            break
    z, y, x = ((row[0], row[1], row[2]) for row in unit)
    return z, y, x


def largest_skew(directions: Directions) -> float:
    """The largest cosine between two axes: 0 where all of them are perpendicular."""
    pairs = ((0, 1), (0, 2), (1, 2))
    return max(abs(sum(p * q for p, q in zip(directions[a], directions[b], strict=True))) for a, b in pairs)


def _exact(value: float | Fraction) -> Fraction:
    # The decimal text of a float is what its author wrote.
    return value if isinstance(value, Fraction) else Fraction(repr(float(value)))


def _direction(row: Position) -> str:
    along = [("+" if value > 0 else "\u2212") + name for name, value in zip("zyx", row, strict=True) if value]
    return along[0] if len(along) == 1 else "(" + ", ".join(f"{value:.6g}" for value in row) + ")"
