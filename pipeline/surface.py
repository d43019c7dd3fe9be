"""Surfaces of a label in two segmentations: how far every element of one lies from the other, counted exactly.

    surface           masks read once: surface elements as bits, and along x the parabolas that other blocks need
    surface-y         with the x-neighbours: the parabolas along y
    surface-z         with the x- and y-neighbours: the parabolas along z
    surface-distance  exact distances at the elements, counted; layers below the surface for the boundary IoU

The distance to a surface is the distance to the background of a mask that is 0 on its elements, so the columns and
parabolas of the thickness serve here too, with unbounded radius (pipeline/distance.py). There are four such fields:
surface voxels and corners of the reference and of the prediction. Work is confined to the box that holds the label in
either volume: all elements lie inside it, and beyond it everything is background, as it is beyond the volume.

Memory of a task, in bytes per voxel of its block, S bytes per squared distance (4, or 8 for very large weights):

    surface           the 2 masks it is given, and 5 (one side padded, its codes and elements) or 2 + S
    surface-y, -z     1 + S for one field, and the parabolas of four: at most 4·(S + 2), in practice about one a column
    surface-distance  2 + S for one field, then for layers of width d, in the block grown by d, 8

with S = 4 so 8 beside the parabolas. The tally takes 32 bytes per distinct {direction, squared distance, code}, and
twice that while it is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline import distance
from pipeline.geometry import BlockGrid, Box, Index, VoxelSize
from pipeline.job import distance_dtype
from pipeline.kernels import distance as distance_kernels
from pipeline.kernels import surface as kernels
from pipeline.ledger import Ledger
from pipeline.parcels import Parcel

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Side = Literal["reference", "prediction"]
Kind = Literal["voxels", "corners"]

SEEDS_STAGE = "surface"
STAGE_OF_AXIS = {2: SEEDS_STAGE, 1: "surface-y", 0: "surface-z"}
"""The stage that exports the parabolas along an axis."""
COUNT_STAGE = "surface-distance"

SIDES: tuple[Side, Side] = ("reference", "prediction")
KINDS: tuple[Kind, Kind] = ("voxels", "corners")
DIRECTIONS: tuple[tuple[Kind, Side], ...] = tuple((kind, side) for kind in KINDS for side in SIDES)
"""What a tally's `direction` counts: elements of this kind on this side, by the distance to the other side."""

WIDEST_BOUNDARY = 64
"""Widths of a boundary, in voxels, go up to this."""
ROWS_PER_MERGE = 1 << 20
"""Rows of tallies that wait to be added up, 32 bytes each."""
LAYERS = ("euclidean", "chebyshev")
"""How deep a voxel lies: distance to the mask's surface voxels, or erosions by 3 × 3 × 3 voxels that it survives."""


@dataclass(frozen=True)
class CropGrid:
    """The blocks of a parent grid cut to a box of its volume, in coordinates of that box; most may be empty."""

    parent: BlockGrid
    crop: Box

    @property
    def shape(self) -> Index:
        return self.crop.shape

    @property
    def counts(self) -> Index:
        return self.parent.counts

    def box(self, block: Index) -> Box:
        """What lies of a block of the parent in the crop."""
        whole = self.parent.box(block)
        return _shifted(_clipped(whole, self.crop), self.crop.start, -1)


@dataclass(frozen=True)
class CornerGrid:
    """The corners of the voxels of a crop: one more along each axis, at most one block owning each.

    A block owns the low corners of its voxels, and the last one of an axis the closing plane as well.
    """

    voxels: CropGrid

    @property
    def shape(self) -> Index:
        z, y, x = self.voxels.shape
        return z + 1, y + 1, x + 1

    @property
    def counts(self) -> Index:
        return self.voxels.counts

    def box(self, block: Index) -> Box:
        """The corners that a block owns."""
        box = self.voxels.box(block)
        if not box.voxels:
            return Box(box.start, box.start)
        z, y, x = (hi + (hi == n) for hi, n in zip(box.stop, self.voxels.shape, strict=True))
        return Box(box.start, (z, y, x))


def _clipped(box: Box, to: Box) -> Box:
    """The part of a box inside another; where they do not meet, an empty box at the nearer face."""
    starts = [min(max(a, lo), hi) for a, lo, hi in zip(box.start, to.start, to.stop, strict=True)]
    stops = [min(max(b, lo), hi) for b, lo, hi in zip(box.stop, to.start, to.stop, strict=True)]
    return Box((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))


def _shifted(box: Box, by: Index, sign: int) -> Box:
    starts = [a + sign * b for a, b in zip(box.start, by, strict=True)]
    stops = [a + sign * b for a, b in zip(box.stop, by, strict=True)]
    return Box((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))


def _grown(box: Box, by: int) -> Box:
    z, y, x = (a - by for a in box.start)
    end_z, end_y, end_x = (b + by for b in box.stop)
    return Box((z, y, x), (end_z, end_y, end_x))


@dataclass(frozen=True)
class LabelSurfaces:
    """The two surfaces of a label as tasks see them: small, picklable, no data.

    name : of the label, in the names of its arrays. grid : the blocks of the volume. reference, prediction : the boxes
    that hold the label in either volume (tight ones spare work), None where it does not occur; not both None.
    widths : of the boundaries, in voxels, at most WIDEST_BOUNDARY.
    """

    name: str
    grid: BlockGrid
    reference: Box | None
    prediction: Box | None
    voxel_size: VoxelSize
    ledger: Ledger
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.reference is None and self.prediction is None:
            raise ValueError(f"label {self.name} occurs in neither volume, so it has no surfaces")
        if any(not 1 <= width <= WIDEST_BOUNDARY for width in self.widths):
            raise ValueError(f"widths of boundaries are 1 to {WIDEST_BOUNDARY} voxels, not {self.widths}")

    @cached_property
    def crop(self) -> Box:
        """The box that holds the label in either volume."""
        boxes = [box for box in (self.reference, self.prediction) if box is not None]
        z, y, x = (min(box.start[axis] for box in boxes) for axis in range(3))
        end_z, end_y, end_x = (max(box.stop[axis] for box in boxes) for axis in range(3))
        return Box((z, y, x), (end_z, end_y, end_x))

    @cached_property
    def blocks(self) -> CropGrid:
        return CropGrid(self.grid, self.crop)

    @cached_property
    def dtype(self) -> np.dtype[np.int32] | np.dtype[np.int64]:
        return distance_dtype(CornerGrid(self.blocks).shape, self.voxel_size)

    def touches(self, block: Index) -> bool:
        """Whether a block has a part in this label's stages; the others leave nothing and are never asked."""
        return self.blocks.box(block).voxels > 0

    def reading_box(self, block: Index) -> Box:
        """What the first stage must read of both volumes: the block and one voxel around it, inside the crop."""
        return _clipped(_grown(_clipped(self.grid.box(block), self.crop), 1), self.crop)

    def elements_box(self, kind: Kind, side: Side) -> Box:
        """A box of the voxel or corner grid of the crop that holds all elements of one surface."""
        held = self.reference if side == "reference" else self.prediction
        if held is None:
            return Box((0, 0, 0), (0, 0, 0))
        box = _shifted(held, self.crop.start, -1)
        if kind == "voxels":
            return box
        z, y, x = (b + 1 for b in box.stop)
        return Box(box.start, (z, y, x))

    def field(self, kind: Kind, side: Side) -> distance.Field:
        """The distance from the elements of one side to those of the other: direction (kind, side)."""
        return self._fields[kind, side]

    @cached_property
    def _fields(self) -> dict[tuple[Kind, Side], distance.Field]:
        grids: dict[Kind, distance.Grid] = {"voxels": self.blocks, "corners": CornerGrid(self.blocks)}
        return {
            (kind, side): distance.Field(
                grids[kind], self.voxel_size.weights, self.dtype, "unknown", self.ledger, STAGE_OF_AXIS,
                prefix=f"{self.name}-{kind}-of-{side}-",
                background=self.elements_box(kind, _other(side)), wanted=self.elements_box(kind, side),
            )
            for kind, side in DIRECTIONS
        }  # fmt: skip

    def array(self, what: str, side: Side) -> str:
        """The name of an array of one side in the parcels."""
        return f"{self.name}-{side}-{what}"


def _other(side: Side) -> Side:
    return "prediction" if side == "reference" else "reference"


def find_elements(label: LabelSurfaces, block: Index, reference: Array, prediction: Array) -> dict[str, Array]:
    """Stage `surface`: the elements of both surfaces in a block, and what other blocks need of them along x.

    reference, prediction : the label in both volumes as 0 and 1 or bool, over `label.reading_box(block)`.
    """
    box = label.blocks.box(block)
    corners = CornerGrid(label.blocks).box(block)
    read = _shifted(label.reading_box(block), label.crop.start, -1)
    inside = _shifted(read, _grown(box, 1).start, -1).slices
    core = tuple(slice(1, -1) for _ in range(3))
    arrays: dict[str, Array] = {}
    for side, mask in zip(SIDES, (reference, prediction), strict=True):
        padded = np.zeros(_grown(box, 1).shape, np.uint8)  # beyond the crop and the volume lies background
        padded[inside] = mask
        arrays[label.array("mask", side)] = _packed(padded[core])
        voxels = kernels.surface_voxels(padded)
        arrays[label.array("voxels", side)] = _packed(voxels)
        arrays |= _exported(label, block, "voxels", _other(side), voxels, axes=0)
        del voxels
        codes = kernels.corner_codes(padded, corners.shape)
        elements, arrays[label.array("codes", side)] = kernels.mixed_corners(codes)
        arrays[label.array("corners", side)] = _packed(elements)
        del codes, padded
        arrays |= _exported(label, block, "corners", _other(side), elements, axes=0)
    return arrays


def face_neighbours(label: LabelSurfaces, block: Index, *, axes: int) -> dict[str, Array]:
    """Stages `surface-y` (axes=1) and `surface-z` (axes=2): what other blocks need along the next axis.

    Reads the block's parcel of stage `surface` and those of its row of the stages before.
    """
    arrays: dict[str, Array] = {}
    own = label.ledger.receipt(SEEDS_STAGE, block)
    for kind, side in DIRECTIONS:
        if _passes_on(label.field(kind, side), block, axes=axes):
            seeds = _elements(label, own, block, kind, _other(side))
            arrays |= _exported(label, block, kind, side, seeds, axes=axes)
    return arrays


def _passes_on(field: distance.Field, block: Index, *, axes: int) -> bool:
    """Whether any block asks this one for its parabolas along the next axis."""
    box, axis = field.grid.box(block), distance.AXES[axes]
    alone = box.start[axis] == 0 and box.stop[axis] == field.grid.shape[axis]
    return not alone and field.matters(block, axes=axes)


def _exported(
    label: LabelSurfaces, block: Index, kind: Kind, side: Side, seeds: Mask, *, axes: int
) -> dict[str, Array]:
    """The parabolas of a field along the next axis; none where no block asks for them. Overwrites the seeds."""
    field = label.field(kind, side)
    if not _passes_on(field, block, axes=axes):
        return {}
    return distance.near_faces(field, block, _complement(seeds), axes=axes)


def count_distances(label: LabelSurfaces, block: Index) -> dict[str, Array]:
    """Stage `surface-distance`: the tally of a block, by the names that `tally_of` reads.

    Reads the block's parcel of stage `surface`, those of its row of the stages before, and those of stage `surface`
    of the blocks within the widest boundary.
    """
    own = label.ledger.receipt(SEEDS_STAGE, block)
    rows = np.concatenate([_counted(label, own, block, kind, side) for kind, side in DIRECTIONS], axis=1)
    return {
        f"{label.name}-distances": SurfaceTally.of_rows(rows).rows,
        f"{label.name}-layers": _layers(label, block),
    }


def _counted(label: LabelSurfaces, own: Parcel, block: Index, kind: Kind, side: Side) -> Counts:
    """The rows of a block's tally in one direction, in no particular order."""
    elements = _elements(label, own, block, kind, side)
    if not elements.any():
        return np.zeros((4, 0), np.int64)
    codes = own.read(label.array("codes", side)) if kind == "corners" else np.empty(0, np.uint8)
    field = label.field(kind, side)
    unreached = distance_kernels.unreached(field.dtype)
    if label.elements_box(kind, _other(side)).voxels:
        mask = _complement(_elements(label, own, block, kind, _other(side)))
        distances = distance.squared_distance(field, block, mask, axes=3)
    else:
        distances = np.full(elements.shape, unreached, field.dtype)
    squared_distance, code, count = kernels.count_distances(distances, elements, codes, unreached)
    return np.stack((np.full_like(count, DIRECTIONS.index((kind, side))), squared_distance, code, count))


def _complement(elements: Mask) -> Mask:
    """The mask whose background the elements are, in their place."""
    return np.logical_not(elements, out=elements)


def _packed(values: Array) -> Mask:
    """Bits along x."""
    return np.packbits(values, axis=2)


def _unpacked(bits: Mask, size_x: int) -> Mask:
    """0 and 1 (z, y, x) from bits along x."""
    return np.unpackbits(bits, axis=2, count=size_x)


def _elements(label: LabelSurfaces, receipt: Parcel, block: Index, kind: Kind, side: Side) -> Mask:
    """The elements of a block as 0 and 1, from the bits."""
    grid = label.blocks if kind == "voxels" else CornerGrid(label.blocks)
    return _unpacked(receipt.read(label.array(kind, side)), grid.box(block).shape[2])


def _layers(label: LabelSurfaces, block: Index) -> Counts:
    """Voxels in the boundary layers of both masks and of either: int64 (LAYERS, widths, 2), as a tally has them."""
    counts = np.zeros((len(LAYERS), len(label.widths), 2), np.int64)
    if not label.widths:
        return counts
    widest, widths = max(label.widths), np.array(label.widths, np.int64)
    # One voxel beyond the crop is background like all that follow, so nothing farther is needed.
    wide = _clipped(_grown(label.blocks.box(block), widest), _grown(Box((0, 0, 0), label.crop.shape), 1))
    around = [_mask_in(label, wide, side) for side in SIDES]
    core = _shifted(label.blocks.box(block), wide.start, -1)
    masks = [mask[core.slices] for mask in around]
    if not any(mask.any() for mask in masks):
        return counts
    for layer, name in enumerate(LAYERS):
        if name == "euclidean":
            # The surface is known one voxel less far than the mask, and layers reach one less far than the widest.
            inner, limits = _shifted(core, (1, 1, 1), -1), widths**2
            depths = [kernels.squared_depth(kernels.surface_voxels(mask), widest)[inner.slices] for mask in around]
        else:
            inner, limits = core, widths + 1
            depths = [kernels.chebyshev_depth(mask, widest + 1)[inner.slices] for mask in around]
        both, either = kernels.count_layers(masks[0], depths[0], masks[1], depths[1], limits)
        counts[layer] = np.stack((both, either), axis=1)
        del depths
    return counts


def _mask_in(label: LabelSurfaces, wide: Box, side: Side) -> Mask:
    """A mask in a box of the crop that may stick out of it, from the bits of the blocks there; 0 outside."""
    out = np.zeros(wide.shape, np.uint8)
    for block in _blocks_in(label, wide):
        box = label.blocks.box(block)
        part = _clipped(box, wide)
        z, y, x = _shifted(part, box.start, -1).slices
        whole_bytes = slice(x.start // 8, -(-x.stop // 8))
        bits = label.ledger.read(SEEDS_STAGE, block, label.array("mask", side))[z, y, whole_bytes]
        before = x.start % 8
        out[_shifted(part, wide.start, -1).slices] = _unpacked(bits, before + x.stop - x.start)[:, :, before:]
    return out


def _blocks_in(label: LabelSurfaces, box: Box) -> Iterator[Index]:
    """The blocks that meet a box of the crop."""
    part = _shifted(_clipped(box, Box((0, 0, 0), label.crop.shape)), label.crop.start, 1)
    ranges = [
        range(lo // n, -(-hi // n)) for lo, hi, n in zip(part.start, part.stop, label.grid.block_shape, strict=True)
    ]
    return ((z, y, x) for z in ranges[0] for y in ranges[1] for x in ranges[2])


@dataclass(frozen=True, eq=False)
class SurfaceTally:
    """Elements of both surfaces by their distance to the other one, and voxels in boundary layers; merges by addition.

    rows : int64 (4, n): direction (index into DIRECTIONS), squared distance in unit_um² (UNREACHABLE of the kernels
        where the other surface is empty), code of a corner (0 for voxels), elements > 0. Sorted by the first three,
        each triple once, so equal contents are equal arrays whatever the order of merging.
    layers : int64 (LAYERS, widths, 2): voxels in the layers of both masks, and in either.
    """

    rows: Counts
    layers: Counts

    @staticmethod
    def of_rows(rows: Counts, layers: Counts | None = None) -> SurfaceTally:
        """A tally out of rows in any order; equal triples are added up."""
        direction, squared_distance, code, count = rows
        order = np.lexsort((code, squared_distance, direction))
        keys = np.stack((direction, squared_distance, code))[:, order]
        first = np.ones(order.size, np.bool_)
        first[1:] = (np.diff(keys, axis=1) != 0).any(axis=0)
        starts = np.flatnonzero(first)
        sums = np.add.reduceat(count[order], starts) if starts.size else count
        whole = np.concatenate((keys[:, starts], sums[None]))
        return SurfaceTally(whole, np.zeros((len(LAYERS), 0, 2), np.int64) if layers is None else layers)

    @staticmethod
    def empty(widths: int = 0) -> SurfaceTally:
        """The tally of a label that occurs nowhere."""
        return SurfaceTally(np.zeros((4, 0), np.int64), np.zeros((len(LAYERS), widths, 2), np.int64))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SurfaceTally):
            return NotImplemented
        return np.array_equal(self.rows, other.rows) and np.array_equal(self.layers, other.layers)

    __hash__ = None  # type: ignore[assignment]  # it holds arrays

    def of_direction(self, kind: Kind, side: Side) -> tuple[Counts, Counts, Counts]:
        """Squared distances ascending, codes and elements of one side, by the distance to the other."""
        low, high = np.searchsorted(self.rows[0], (DIRECTIONS.index((kind, side)), DIRECTIONS.index((kind, side)) + 1))
        return self.rows[1, low:high], self.rows[2, low:high], self.rows[3, low:high]


def tally_of(label: LabelSurfaces, receipt: Parcel) -> SurfaceTally:
    """What a task of stage `surface-distance` counted for a label."""
    return SurfaceTally(receipt.read(f"{label.name}-distances"), receipt.read(f"{label.name}-layers"))


def merged(tallies: Iterable[SurfaceTally], widths: int) -> SurfaceTally:
    """The tally of all blocks together; does not depend on their order."""
    whole, layers = np.zeros((4, 0), np.int64), np.zeros((len(LAYERS), widths, 2), np.int64)
    waiting: list[Counts] = []
    for tally in tallies:
        layers = layers + tally.layers
        waiting.append(tally.rows)
        if sum(rows.shape[1] for rows in waiting) > ROWS_PER_MERGE:
            whole, waiting = SurfaceTally.of_rows(np.concatenate((whole, *waiting), axis=1)).rows, []
    return SurfaceTally.of_rows(np.concatenate((whole, *waiting), axis=1), layers)
