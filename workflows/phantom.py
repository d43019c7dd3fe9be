"""A vascular phantom: a branching tree of tubes of known diameters, to compare the measured thickness with.

The tree fills its box as an airway or a vessel does (Kitaoka et al. 1999, Tawhai et al. 2000). A branch has a
territory, sample points of the box; it grows towards the middle of its territory and hands it, divided by a plane, to
two children. Flow is proportional to territory and the diameter follows Murray's law, d³ proportional to flow, so that
d_parent³ = Σ d_child³ holds exactly at every joint. Same shape and voxel size, same tree, on every machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.geometry import Box, Index, VoxelSize

Point = NDArray[np.float64]
"""A position in µm (z, y, x); voxel i has its centre at i times the voxel size."""

SMALLEST_SIDE = 16
ROOT_DIAMETER = 36 / 256
"""Diameter of the root as a share of the shortest side of the box: 36 voxels in 256³."""
ROOT_START, ROOT_END = (1.0, 0.46, 0.54), (0.63, 0.51, 0.49)
"""Ends of the root's axis as shares of the box. It is askew, because a tube along a grid axis can read a whole voxel
more or less than its diameter."""
SMALLER_SHARE = ((0.42, 0.5), (0.3, 0.46), (0.2, 0.42), (0.12, 0.4), (0.12, 0.4))
"""Least and largest share of the flow that the smaller child takes, for each division: even at first, as then the
thick branches stay short enough for the box, and uneven later, which spreads the diameters."""
REACH = (0.5, 1.1)
"""How far a branch may go, as a share of the way to the middle of its territory; but at least SLENDERNESS."""
SLENDERNESS = 3.0
"""Least length of a branch in diameters: a shorter one is hardly more than its two joints."""
TERRITORY_POINTS = 6000
TRIALS = 48
"""Divisions that are tried at every joint; the one that leaves the longest measurable parts is taken."""
FORWARD = 0.7
"""What going on in the parent's direction is worth against measurable length."""
CLEARANCE_VOXELS = 3.0
"""Least gap between tubes that do not share a joint, and between a tube and the faces of the box, in voxels."""
LEAST_LABELLED = 0.4
"""Least length of a labelled part, in diameters; the few voxels of a shorter one measure where it lies on the grid."""
SEED = 6
"""Chosen among sixty for a tree whose branches are slim and nearly all labelled."""


@dataclass(frozen=True)
class Segment:
    """A straight tube with round ends.

    id : 1, 2, …; also its region label.
    start_um, end_um : ends of its axis (z, y, x).
    labelled_um : part of the axis, as distances from the start, whose voxels carry the label; (0, 0) if none do.
    generation : 0 for the root. parent : id of the segment it leaves, 0 for the root.
    """

    id: int
    start_um: tuple[float, float, float]
    end_um: tuple[float, float, float]
    diameter_um: float
    generation: int
    parent: int
    labelled_um: tuple[float, float] = (0.0, 0.0)

    @property
    def length_um(self) -> float:
        return float(np.linalg.norm(np.subtract(self.end_um, self.start_um)))


@dataclass(frozen=True)
class Phantom:
    """A tree of tubes in a volume, rendered box by box: equal voxels whatever the boxes, nothing kept in between."""

    shape: Index
    voxel_size: VoxelSize
    segments: tuple[Segment, ...]

    def read_mask(self, box: Box) -> NDArray[np.bool_]:
        """True where the voxel's centre lies in a tube; bool array of the box's shape (z, y, x)."""
        mask = np.zeros(box.shape, dtype=np.bool_)
        for segment in self.segments:
            part, inside, _ = self._tube(segment, box)
            mask[part] |= inside
        return mask

    def read_regions(self, box: Box) -> NDArray[np.uint8]:
        """The segment's id in the measurable part of each tube, 0 elsewhere; uint8 array of the box's shape.

        The exact thickness near a joint is legitimately larger than the diameter of either tube, because a larger
        ball fits between them. The label therefore starts where no such ball reaches: beyond the last cross-section
        that another tube touches a ball goes on by less than the tube's own radius, and the joint, the round ends
        and the faces of the box are cut off by that much and two voxels more.
        """
        regions = np.zeros(box.shape, dtype=np.uint8)
        for segment in self._labelled():
            part, inside, along = self._tube(segment, box)
            low, high = segment.labelled_um
            regions[part][inside & (along >= low) & (along <= high)] = segment.id
        return regions

    def designed_diameters(self) -> dict[int, float]:
        """Region label -> diameter of its tube in µm, for the tubes that are long enough to carry a label."""
        return {segment.id: segment.diameter_um for segment in self._labelled()}

    def _labelled(self) -> list[Segment]:
        return [segment for segment in self.segments if segment.labelled_um[1] > segment.labelled_um[0]]

    def _tube(
        self, segment: Segment, box: Box
    ) -> tuple[tuple[slice, slice, slice], NDArray[np.bool_], NDArray[np.float64]]:
        """Where the tube may be within the box, which voxels there it holds, and their distance along its axis."""
        start, end = np.array(segment.start_um), np.array(segment.end_um)
        radius = 0.5 * segment.diameter_um
        spacing = np.array(self.voxel_size.um)
        low = np.floor((np.minimum(start, end) - radius) / spacing).astype(np.int64)
        high = np.ceil((np.maximum(start, end) + radius) / spacing).astype(np.int64) + 1
        low, high = np.clip(low, box.start, box.stop), np.clip(high, box.start, box.stop)
        z, y, x = (
            np.arange(lo, hi) * step - origin for lo, hi, step, origin in zip(low, high, spacing, start, strict=True)
        )
        direction = (end - start) / segment.length_um
        along = (z * direction[0])[:, None, None] + (y * direction[1])[:, None] + x * direction[2]
        nearest = np.clip(along, 0.0, segment.length_um)
        squared = (z[:, None, None] - nearest * direction[0]) ** 2
        squared += (y[:, None] - nearest * direction[1]) ** 2
        squared += (x - nearest * direction[2]) ** 2
        part_z, part_y, part_x = (
            slice(int(lo) - first, int(hi) - first) for lo, hi, first in zip(low, high, box.start, strict=True)
        )
        return (part_z, part_y, part_x), squared <= radius * radius, along


def vascular_phantom(shape: Index = (256, 256, 256), voxel_size: VoxelSize | None = None) -> Phantom:
    """A tree of up to 63 tubes in six generations that fills a volume of this shape (z, y, x).

    voxel_size : 7.5 µm isotropic unless given. The root enters through the last face of z and its diameter is 36/256
        of the shortest side; at 256³ the diameters go from about 4 to 36 voxels. Tubes touch at their joints only: a
        branch that finds no room for two children stays a last one.

    Raises InputError for sides of fewer than SMALLEST_SIDE voxels.
    """
    if min(shape) < SMALLEST_SIDE:
        raise InputError(
            f"A phantom needs at least {SMALLEST_SIDE} voxels along each axis, but {shape} (z, y, x) was asked for;"
            " 256 along each is usual."
        )
    spacing = voxel_size or VoxelSize((7.5, 7.5, 7.5))
    tree = _Tree(shape, spacing, random.Random(SEED))
    return Phantom(shape=shape, voxel_size=spacing, segments=tree.grown())


class _Tree:
    """A tree that grows: generation by generation, so that thick branches choose their room first."""

    def __init__(self, shape: Index, voxel_size: VoxelSize, chance: random.Random) -> None:
        # random.Random gives the same numbers under every version of Python, which numpy does not promise.
        self.chance = chance
        self.size = (np.array(shape) - 1.0) * voxel_size.um
        self.root_diameter = ROOT_DIAMETER * float(min(np.array(shape) * voxel_size.um))
        self.step = float(min(voxel_size.um))
        self.coarse = float(max(voxel_size.um))
        self.segments: list[Segment] = []

    def grown(self) -> tuple[Segment, ...]:
        points = np.array([[self.chance.random() for _ in range(3)] for _ in range(TERRITORY_POINTS)]) * self.size
        root = self._segment(1, self.size * ROOT_START, self.size * ROOT_END, TERRITORY_POINTS, None)
        self.segments.append(root)
        ends = [(root, points)]
        for shares in SMALLER_SHARE:
            ends = [child for parent, territory in ends for child in self._divided(parent, territory, shares)]
        return tuple(replace(segment, labelled_um=self._labelled(segment)) for segment in self.segments)

    def _labelled(self, segment: Segment) -> tuple[float, float]:
        low, high = self._measurable(segment, self.segments)
        return (low, high) if high - low >= LEAST_LABELLED * segment.diameter_um else (0.0, 0.0)

    def _divided(self, parent: Segment, territory: Point, shares: tuple[float, float]) -> list[tuple[Segment, Point]]:
        """The two children with their territories, already part of the tree; none where no pair finds room."""
        start, number = np.array(parent.end_um), len(self.segments) + 1
        best: list[tuple[Segment, Point]] = []
        best_score = -np.inf
        for _ in range(TRIALS):
            share = self.chance.uniform(*shares)
            across = _across(territory, start - parent.start_um, self.chance.uniform(-1.0, 1.0))
            order = np.argsort(territory @ across, kind="stable")
            cut = round((share if self.chance.random() < 0.5 else 1.0 - share) * len(order))
            pair = []
            for i, half in enumerate((territory[order[:cut]], territory[order[cut:]])):
                way = half.mean(axis=0) - start
                reach = self.chance.uniform(*REACH)
                least = self.chance.uniform(SLENDERNESS, 1.5 * SLENDERNESS) * self._diameter(len(half))
                end = start + way * max(reach, least / float(np.linalg.norm(way)))
                pair.append((self._segment(number + i, start, end, len(half), parent), half))
            tree = [*self.segments, *(child for child, _ in pair)]
            if not any(self._touches(child, tree) for child, _ in pair):
                score = sum(self._score(branch, tree) for branch in (parent, *(child for child, _ in pair)))
                score += FORWARD * sum(_cosine(parent, child) for child, _ in pair)
                if score > best_score:
                    best, best_score = pair, score
        self.segments.extend(child for child, _ in best)
        return best

    def _diameter(self, flow: int) -> float:
        return self.root_diameter * float(np.cbrt(flow / TERRITORY_POINTS))

    def _segment(self, number: int, start: Point, end: Point, flow: int, parent: Segment | None) -> Segment:
        return Segment(
            id=number,
            start_um=_triple(start),
            end_um=_triple(end),
            diameter_um=self._diameter(flow),
            generation=parent.generation + 1 if parent else 0,
            parent=parent.id if parent else 0,
        )

    def _touches(self, segment: Segment, tree: list[Segment]) -> bool:
        """Whether the tube comes too close to a face or to a tube that it does not share a joint with."""
        _, axis = self._axis(segment)
        strangers = [
            other
            for other in tree
            if other.id not in (segment.id, segment.parent) and other.parent not in (segment.id, segment.parent)
        ]
        room = min(float(np.minimum(axis, self.size - axis).min()), float(_gaps(axis, strangers).min(initial=np.inf)))
        return room < 0.5 * segment.diameter_um + CLEARANCE_VOXELS * self.coarse

    def _score(self, segment: Segment, tree: list[Segment]) -> float:
        """Length of the measurable part in diameters; more than one and a half does not make up for another's lack."""
        low, high = self._measurable(segment, tree)
        return min(1.5, (high - low) / segment.diameter_um)

    def _measurable(self, segment: Segment, tree: list[Segment]) -> tuple[float, float]:
        """The part of the axis that may be labelled, as distances from its start; (0, 0) where there is none."""
        distance, axis = self._axis(segment)
        radius = 0.5 * segment.diameter_um
        alone = _gaps(axis, [other for other in tree if other.id != segment.id]).min(axis=1, initial=np.inf) > radius
        # Closer to a face a closed border could cut the ball; a round end is as thick as the tube.
        whole = np.minimum(axis, self.size - axis).min(axis=1) > radius + self.coarse
        margin = radius + 2.0 * self.coarse
        joints = distance[~alone]
        middle = 0.5 * segment.length_um
        low = joints[joints <= middle].max(initial=-np.inf) + margin
        high = joints[joints > middle].min(initial=np.inf) - margin
        found = distance[whole & (distance >= low) & (distance <= high)]
        return (float(found[0]), float(found[-1])) if found.size else (0.0, 0.0)

    def _axis(self, segment: Segment) -> tuple[Point, Point]:
        """Distances (n,) from the start, about a voxel apart, and the positions (n, 3) on the axis."""
        distance = np.linspace(0.0, segment.length_um, max(2, int(segment.length_um / self.step) + 1))
        start, end = np.array(segment.start_um), np.array(segment.end_um)
        return distance, start + distance[:, None] * (end - start) / segment.length_um


def _across(territory: Point, direction: Point, turn: float) -> Point:
    """A direction at right angles to the branch along which its children part.

    The one in which the territory is widest, turned about the branch by `turn` radians.
    """
    axis = direction / np.linalg.norm(direction)
    flat = territory - territory.mean(axis=0)
    flat = flat - np.outer(flat @ axis, axis)
    widest: Point = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    # The sign of an eigenvector is the library's whim.
    widest = widest * np.sign(widest[np.argmax(np.abs(widest))])
    across: Point = np.cos(turn) * widest + np.sin(turn) * np.cross(axis, widest)
    return across


def _gaps(points: Point, segments: list[Segment]) -> Point:
    """Distance from points (n, 3) to the surface of m tubes, negative inside: (n, m)."""
    start = np.array([s.start_um for s in segments]).reshape(-1, 3)
    span = np.array([s.end_um for s in segments]).reshape(-1, 3) - start
    along = points @ span.T - (start * span).sum(axis=1)
    share = np.clip(along / (span * span).sum(axis=1), 0.0, 1.0)
    nearest = start + share[:, :, None] * span
    gaps: Point = np.sqrt(((points[:, None, :] - nearest) ** 2).sum(axis=2))
    gaps -= [0.5 * s.diameter_um for s in segments]
    return gaps


def _cosine(a: Segment, b: Segment) -> float:
    along = np.subtract(a.end_um, a.start_um) @ np.subtract(b.end_um, b.start_um)
    return float(along) / (a.length_um * b.length_um)


def _triple(point: Point) -> tuple[float, float, float]:
    z, y, x = (float(v) for v in point)
    return z, y, x
