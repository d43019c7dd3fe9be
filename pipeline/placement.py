"""Where the voxels of a volume lie: the point of the first one and the direction of every axis, in µm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Index, VoxelSize

Position = tuple[float, float, float]
"""A point or a direction (z, y, x); points are in µm."""
Directions = tuple[Position, Position, Position]
"""Of each axis of an array (z, y, x) the unit vector along which it runs, in the axes of the frame (z, y, x)."""

UPRIGHT: Directions = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
"""Every axis of the array runs along the axis of the frame with its name."""
ALIKE = 1e-4
"""Voxel sizes that differ by no larger part of themselves are the same, and so are directions whose cosines do."""
WHOLE = 0.01
"""Voxels by which a shift may differ from whole voxels: headers hold places in single precision."""
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

    def coordinates_um(self, voxel_size: VoxelSize, shape: Index) -> list[npt.NDArray[np.float64]]:
        """Of each axis (z, y, x) where its voxels lie along it, each number rounded once.

        That is in the frame, where every axis runs along or against the one with its name. Else it is along the axes of
        the array, from the origin of the frame: position = Σ over axes of coordinate · direction.
        """
        signs = self.signs
        start: Sequence[float] = self.origin_um
        if signs is None:
            signs, start = (1, 1, 1), np.linalg.solve(np.array(self.directions).T, self.origin_um).tolist()
        return [
            _steps(_exact(first), _exact(side) * sign, n)
            for first, side, sign, n in zip(start, voxel_size.um, signs, shape, strict=True)
        ]

    def turned(self, turn: Turn) -> Placement:
        """Of an array whose axes are turned and whose first voxel stays where it is."""
        z, y, x = (
            _against(self.directions[axis]) if back else self.directions[axis]
            for axis, back in zip(turn.order, turn.backwards, strict=True)
        )
        return Placement(self.origin_um, (z, y, x))

    def describe_directions(self) -> str:
        """The directions in words."""
        return ", ".join(f"{name} along {_direction(row)}" for name, row in zip("zyx", self.directions, strict=True))


AT_ORIGIN = Placement()
"""Of sources that say nothing of their place."""


class Lattice(NamedTuple):
    """The points of a volume's voxels: how many along each axis, how far apart, and where."""

    shape: Index
    voxel_size: VoxelSize
    placement: Placement

    def in_voxels(self) -> Lattice:
        """The same in a frame that counts voxels along the axes of the array, however large they are."""
        directions = np.array(self.placement.directions).T
        z, y, x = (directions / self.voxel_size.um @ np.linalg.inv(directions) @ self.placement.origin_um).tolist()
        return Lattice(self.shape, VoxelSize((1.0, 1.0, 1.0)), Placement((z, y, x), self.placement.directions))


@dataclass(frozen=True)
class Turn:
    """How the axes of a stored array become those of another one: first in another order, then some backwards.

    order : of each axis of the result, the stored axis. backwards : whether it is then read from its end.
    """

    order: Index = (0, 1, 2)
    backwards: tuple[bool, bool, bool] = (False, False, False)

    def shape(self, stored: Index) -> Index:
        """The shape of the result."""
        z, y, x = (stored[axis] for axis in self.order)
        return z, y, x

    def describe(self) -> str:
        """As a person reads it: the stored axes, in the order of the result."""
        return ", ".join(
            ("\u2212" if back else "") + "zyx"[axis] for axis, back in zip(self.order, self.backwards, strict=True)
        )


class Misfit(ValueError):  # noqa: N818  no failure of a program: lattices may differ
    """Why no voxel of a lattice lies on one of the reference: the rest of a sentence; THE_OTHER is the reference."""


THE_OTHER = "{reference}"
"""Stands for the reference in the words of a Misfit."""


def align(reference: Lattice, other: Lattice) -> tuple[Turn, Index]:
    """How another array is turned so that its axes run as the reference's, and on which voxel its first one then lies.

    Lattices are the same where directions and voxel sizes differ by no more than ALIKE, axis for axis in some order and
    sense, and where some voxel of one lies on one of the other within WHOLE; that voxel sizes are alike allows for a
    drift beyond that, far from it. Raises Misfit for all others.
    """
    turn = _turn(reference, other)
    shape = turn.shape(other.shape)
    matrix, inverse = _matrix(other), np.linalg.inv(_matrix(reference))
    ends = np.zeros((2, 3))  # of the turned array its first and its last voxel, as voxels of the other one
    for axis, back, n in zip(turn.order, turn.backwards, shape, strict=True):
        ends[:, axis] = (n - 1, 0) if back else (0, n - 1)
    away = np.subtract(other.placement.origin_um, reference.placement.origin_um)
    first, last = ((matrix @ end + away) @ inverse.T for end in ends)
    last = last - np.subtract(shape, 1)
    start = []
    for low, high in zip(first.tolist(), last.tolist(), strict=True):
        for whole in dict.fromkeys((0, round(low), round(high))):
            near, far = sorted((low - whole, high - whole))
            if near <= WHOLE and far >= -WHOLE:
                start.append(whole)
                break
        else:
            shift = ", ".join(f"{float(value):.6g}" for value in first)
            raise Misfit(f"lies ({shift}) voxels (z, y, x) away from {THE_OTHER}, which are no whole voxels")
    return turn, (start[0], start[1], start[2])


def _turn(reference: Lattice, other: Lattice) -> Turn:
    """The turn of the axes. Raises Misfit where axes run along no axis of the other, or have other voxel sizes."""
    ours, theirs = (np.array(one.placement.directions).T for one in (reference, other))
    cosines = np.linalg.inv(theirs) @ ours  # column a: axis a of the reference along the axes of the other
    order = [int(axis) for axis in np.abs(cosines).argmax(axis=0)]
    signs = [math.copysign(1.0, cosines[axis, a]) for a, axis in enumerate(order)]
    plain = np.zeros((3, 3))
    plain[order, range(3)] = signs
    if len(set(order)) < 3 or np.abs(cosines - plain).max() > ALIKE:
        turned = math.degrees(math.acos(min(1.0, max(-1.0, (float(np.trace(plain.T @ cosines)) - 1) / 2))))
        raise Misfit(f"is rotated by {turned:.4g}° against {THE_OTHER}")
    turn = Turn((order[0], order[1], order[2]), (signs[0] < 0, signs[1] < 0, signs[2] < 0))
    for a, axis in enumerate(order):
        if not math.isclose(reference.voxel_size.um[a], other.voxel_size.um[axis], rel_tol=ALIKE):
            raise Misfit(other_voxel_size([other.voxel_size.um[axis] for axis in order], reference.voxel_size.um))
    return turn


def other_voxel_size(found: Sequence[float], wanted: Sequence[float]) -> str:
    """The words of a Misfit of voxel sizes, µm (z, y, x)."""
    sizes = [" × ".join(f"{v:.7g}" for v in um) for um in (found, wanted)]
    return f"has voxels of {sizes[0]} µm and {THE_OTHER} of {sizes[1]} µm (z, y, x)"


def _matrix(lattice: Lattice) -> npt.NDArray[np.float64]:
    """From steps of voxels to steps of µm; both are columns (z, y, x)."""
    return np.asarray(np.array(lattice.placement.directions).T * np.array(lattice.voxel_size.um), np.float64)


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


def _against(row: Position) -> Position:
    z, y, x = (-value or 0.0 for value in row)  # no −0
    return z, y, x


def _steps(first: Fraction, step: Fraction, count: int) -> npt.NDArray[np.float64]:
    """First + n · step, exactly and then rounded: a cut-out has the very numbers of the whole."""
    common = math.lcm(first.denominator, step.denominator)
    start, along = int(first * common), int(step * common)
    return np.array([(start + n * along) / common for n in range(count)], np.float64)


def _direction(row: Position) -> str:
    along = [("+" if value > 0 else "\u2212") + name for name, value in zip("zyx", row, strict=True) if value]
    return along[0] if len(along) == 1 else "(" + ", ".join(f"{value:.6g}" for value in row) + ")"
