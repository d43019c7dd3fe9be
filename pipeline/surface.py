"""Surfaces of a label in two segmentations: how far every element of one lies from the other, counted exactly.

    surface           masks read once: surface elements as bits, and along x the parabolas that other blocks need
    surface-y         with the x-neighbours: the parabolas along y
    surface-z         with the x- and y-neighbours: the parabolas along z
    surface-distance  exact distances at the elements, counted; layers below the surface for the boundary IoU

The distance to a surface is the distance to the background of a mask that is 0 on its elements, so the columns and
parabolas of the thickness serve here too, with unbounded radius (pipeline/distance.py). There are four such fields:
surface voxels and corners of the reference and of the prediction. Work is confined to the box that holds the label in
either volume: all elements lie inside it, and beyond it everything is background, as it is beyond the volume.

Ignored voxels (`Ignored`) are neither label nor background, so no surface runs between them and a label: a surface
voxel has a neighbour that is background and not ignored, a corner with an ignored voxel among its eight is no element,
and boundary layers are as deep as background that is not ignored lies near. Distances pass through ignored voxels.

Memory of a task, in bytes per voxel of its block, S bytes per squared distance (4, or 8 for very large weights):

    surface           the 2 masks it is given, and 5 (one side padded, its codes and elements) or 2 + S
    surface-y, -z     1 + S for one field, and the parabolas of four: at most 4·(S + 2), in practice about one a column
    surface-distance  2 + S for one field, then for layers of width d, in the block grown by d, 8

with S = 4 so 8 beside the parabolas; ignored voxels take 3 more, in the grown block too. The tally takes 32 bytes per
distinct {direction, squared distance, code}, and twice that while it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline import device, distance
from pipeline.device import Device, Host
from pipeline.geometry import BlockGrid, Box, Index, VoxelSize
from pipeline.job import distance_dtype
from pipeline.kernels import distance as distance_kernels
from pipeline.kernels import surface as kernels
from pipeline.ledger import Ledger
from pipeline.parcels import Parcel

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Found = Iterator[tuple[str, Array]]
"""Arrays by name, one by one, so that they can be filed before the next is made."""
Side = Literal["reference", "prediction"]
Note = Callable[[Side, Array, Mask, Host], None]
"""Told of a side's surface voxels in a block: squared distances to the other side, where they lie (1), their place."""
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
ROWS_PER_MERGE = 1 << 15
"""Rows of tallies that wait to be added up, at least: 32 bytes each."""
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

    def part(self, block: Index) -> Box:
        """What lies of a block of the parent in the crop, in the coordinates of the parent."""
        return _clipped(self.parent.box(block), self.crop)

    def box(self, block: Index) -> Box:
        """The same in the coordinates of the crop."""
        return _shifted(self.part(block), self.crop.start, -1)


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


@dataclass(frozen=True, eq=False)
class Ignored:
    """Voxels that are neither label nor background (1, else 0), in a box of the volume that holds all that matter."""

    box: Box
    voxels: Mask

    def over(self, box: Box) -> Mask:
        """The same over another box, which may reach beyond the volume: nothing is ignored there."""
        out = np.zeros(box.shape, np.uint8)
        part = _clipped(self.box, box)
        out[_shifted(part, box.start, -1).slices] = self.voxels[_shifted(part, self.box.start, -1).slices]
        return out


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
    widths : of the boundaries, in voxels, at most WIDEST_BOUNDARY. device : where elements and distances are found.
    """

    name: str
    grid: BlockGrid
    reference: Box | None
    prediction: Box | None
    voxel_size: VoxelSize
    ledger: Ledger
    widths: tuple[int, ...] = ()
    device: Device = "cpu"

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

    def touched(self) -> Iterator[Index]:
        """The blocks that have a part in this label's stages."""
        return _blocks_in(self, Box((0, 0, 0), self.crop.shape))

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


def find_elements(
    label: LabelSurfaces, block: Index, reference: Array, prediction: Array, ignored: Ignored | None = None
) -> Found:
    """Stage `surface`: the elements of both surfaces in a block, and what other blocks need of them along x.

    reference, prediction : the label in both volumes as 0 and 1 or bool, over `label.reading_box(block)`, 0 where
    voxels are ignored. ignored : of the block and one voxel around it.
    """
    around = None if ignored is None else ignored.over(_grown(label.blocks.part(block), 1))
    for side, mask in zip(SIDES, (reference, prediction), strict=True):
        yield label.array("mask", side), _packed(_padded(label, block, mask)[1:-1, 1:-1, 1:-1])
        for find in (_found_voxels, _found_corners):
            yield from device.run(label.device, partial(find, label, block, side, mask, around)).items()


def _padded(label: LabelSurfaces, block: Index, mask: Array) -> Mask:
    """A mask as stage `surface` is given it, over the block and one voxel more on every side."""
    wide = _grown(label.blocks.box(block), 1)
    padded = np.zeros(wide.shape, np.uint8)  # beyond the crop and the volume lies background
    padded[_shifted(_shifted(label.reading_box(block), label.crop.start, -1), wide.start, -1).slices] = mask
    return padded


def _padded_there(label: LabelSurfaces, block: Index, mask: Array, place: Host) -> Mask:
    """The same where it shall be; it travels as bits."""
    return _there(_padded(label, block, mask), place)


def _there(padded: Mask, place: Host) -> Mask:
    return distance_kernels.unpack_bits(place.up(_packed(padded)), padded.shape[2]) if place.is_card else padded


def _found_voxels(
    label: LabelSurfaces, block: Index, side: Side, mask: Array, around: Mask | None, place: Host
) -> dict[str, Array]:
    """The surface voxels of one side, and the parabolas of the field whose background they are.

    around : what is ignored of the block and one voxel around it.
    """
    padded = _padded_there(label, block, mask, place)
    voxels = _clear_voxels(padded, None if around is None else _there(around, place))
    del padded
    bits = place.down(distance_kernels.pack_bits(voxels))
    return {label.array("voxels", side): bits} | _exported(label, block, "voxels", _other(side), voxels, axes=0)


def _clear_voxels(padded: Mask, ignored: Mask | None) -> Mask:
    """The surface voxels of a mask with one voxel more on every side, as all of these arrays have.

    Together with what is ignored the mask has a surface only towards known background; what of it is the mask's counts.
    """
    if ignored is None:
        return kernels.surface_voxels(padded)
    voxels = kernels.surface_voxels(padded | ignored)
    voxels &= padded[1:-1, 1:-1, 1:-1]
    return voxels


def _found_corners(
    label: LabelSurfaces, block: Index, side: Side, mask: Array, around: Mask | None, place: Host
) -> dict[str, Array]:
    """The corners of one side with their codes, and the parabolas of the field whose background they are."""
    shape = CornerGrid(label.blocks).box(block).shape
    codes = kernels.corner_codes(_padded_there(label, block, mask, place), shape)
    if around is not None:
        codes *= kernels.corner_codes(_there(around, place), shape) == 0  # code 0 is no element
    corners, listed = kernels.mixed_corners(codes)
    del codes
    arrays = {
        label.array("corners", side): place.down(distance_kernels.pack_bits(corners)),
        label.array("codes", side): listed,
    }
    return arrays | _exported(label, block, "corners", _other(side), corners, axes=0)


def face_neighbours(label: LabelSurfaces, block: Index, *, axes: int) -> Found:
    """Stages `surface-y` (axes=1) and `surface-z` (axes=2): what other blocks need along the next axis.

    Reads the block's parcel of stage `surface` and those of its row of the stages before.
    """
    own = label.ledger.receipt(SEEDS_STAGE, block)
    for kind, side in DIRECTIONS:
        if not _passes_on(label.field(kind, side), block, axes=axes):
            continue
        bits = own.read(label.array(kind, _other(side)))

        def work(place: Host, kind: Kind = kind, side: Side = side, bits: Mask = bits) -> dict[str, Array]:
            return _exported(label, block, kind, side, _elements(label, block, kind, bits, place), axes=axes)

        yield from device.run(label.device, work).items()


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


def count_distances(
    label: LabelSurfaces, block: Index, note: Note | None = None, ignored: Ignored | None = None
) -> dict[str, Array]:
    """Stage `surface-distance`: the tally of a block, by the names that `tally_of` reads.

    note : for whoever counts the surface voxels otherwise too. ignored : of the block and as many voxels around it as
    the widest boundary has.
    Reads the block's parcel of stage `surface`, those of its row of the stages before, and those of stage `surface`
    of the blocks within the widest boundary.
    """
    own = label.ledger.receipt(SEEDS_STAGE, block)
    rows = np.concatenate([_counted(label, own, block, kind, side, note) for kind, side in DIRECTIONS], axis=1)
    return {
        f"{label.name}-distances": SurfaceTally.of_rows(rows).rows,
        f"{label.name}-layers": _layers(label, block, ignored),
    }


def _counted(
    label: LabelSurfaces, own: Parcel, block: Index, kind: Kind, side: Side, note: Note | None
) -> Counts:  # fmt: skip
    """The rows of a block's tally in one direction, in no particular order."""
    bits = own.read(label.array(kind, side))
    if not bits.any():
        return np.zeros((4, 0), np.int64)
    codes = own.read(label.array("codes", side)) if kind == "corners" else np.empty(0, np.uint8)
    others = own.read(label.array(kind, _other(side)))
    field = label.field(kind, side)
    unreached = distance_kernels.unreached(field.dtype)

    def work(place: Host) -> tuple[Counts, Counts, Counts]:
        elements = _elements(label, block, kind, others, place)
        if label.elements_box(kind, _other(side)).voxels:
            distances = distance.squared_distance(field, block, _complement(elements), axes=3)
        else:
            distances = np.full_like(elements, unreached, dtype=field.dtype)
        del elements  # those of the other side, before there are ours
        own_elements = _elements(label, block, kind, bits, place)
        if note is not None and kind == "voxels":
            note(side, distances, own_elements, place)
        return kernels.count_distances(distances, own_elements, codes, unreached)

    squared_distance, code, count = device.run(label.device, work)
    return np.stack((np.full_like(count, DIRECTIONS.index((kind, side))), squared_distance, code, count))


def _complement(elements: Mask) -> Mask:
    """The mask whose background the elements are, in their place."""
    elements ^= 1
    return elements


def _packed(values: Array) -> Mask:
    """Bits along x."""
    return np.packbits(values, axis=2)


def _unpacked(bits: Mask, size_x: int) -> Mask:
    """0 and 1 (z, y, x) from bits along x."""
    return np.unpackbits(bits, axis=2, count=size_x)


def _elements(label: LabelSurfaces, block: Index, kind: Kind, bits: Mask, place: Host) -> Mask:
    """The elements of a block as 0 and 1, out of bits, where they shall be."""
    grid = label.blocks if kind == "voxels" else CornerGrid(label.blocks)
    return distance_kernels.unpack_bits(place.up(bits), grid.box(block).shape[2])


def _layers(label: LabelSurfaces, block: Index, ignored: Ignored | None) -> Counts:
    """Voxels in the boundary layers of both masks and of either: int64 (LAYERS, widths, 2), as a tally has them."""
    counts = np.zeros((len(LAYERS), len(label.widths), 2), np.int64)
    if not label.widths:
        return counts
    widest, widths = max(label.widths), np.array(label.widths, np.int64)
    # One voxel beyond the crop is background like all that follow, so nothing farther is needed; where voxels are
    # ignored, that holds of one voxel beyond the volume.
    all_there = label.crop if ignored is None else Box((0, 0, 0), label.grid.shape)
    limit = _shifted(_grown(all_there, 1), label.crop.start, -1)
    wide = _clipped(_grown(label.blocks.box(block), widest), limit)
    around = [_mask_in(label, wide, side) for side in SIDES]
    core = _shifted(label.blocks.box(block), wide.start, -1)
    masks = [mask[core.slices] for mask in around]
    if not any(mask.any() for mask in masks):
        return counts
    passed = None if ignored is None else ignored.over(_shifted(wide, label.crop.start, 1))
    for layer, name in enumerate(LAYERS):
        if name == "euclidean":
            # The surface is known one voxel less far than the mask, and layers reach one less far than the widest.
            inner, limits = _shifted(core, (1, 1, 1), -1), widths**2
            depths = [kernels.squared_depth(_clear_voxels(mask, passed), widest)[inner.slices] for mask in around]
        else:
            inner, limits = core, widths + 1
            known = (mask if passed is None else mask | passed for mask in around)
            depths = [kernels.chebyshev_depth(mask, widest + 1)[inner.slices] for mask in known]
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


class Merging:
    """Tallies of a label that come one by one, in any order. Takes 32 bytes a row of the result, a few times."""

    def __init__(self, widths: int) -> None:
        self._whole = np.zeros((4, 0), np.int64)
        self._layers = np.zeros((len(LAYERS), widths, 2), np.int64)
        self._waiting: list[Counts] = []
        self._rows = 0

    def add(self, tally: SurfaceTally) -> None:
        """Take in the tally of a block."""
        self._layers = self._layers + tally.layers
        self._waiting.append(tally.rows)
        self._rows += tally.rows.shape[1]
        if self._rows > max(ROWS_PER_MERGE, self._whole.shape[1]):
            self._whole = self.whole().rows
            self._waiting, self._rows = [], 0

    def whole(self) -> SurfaceTally:
        """The tally of all blocks so far."""
        return SurfaceTally.of_rows(np.concatenate((self._whole, *self._waiting), axis=1), self._layers)


def merged(tallies: Iterable[SurfaceTally], widths: int) -> SurfaceTally:
    """The tally of all blocks together; does not depend on their order."""
    merging = Merging(widths)
    for tally in tallies:
        merging.add(tally)
    return merging.whole()
