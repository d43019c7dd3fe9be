"""What every task of a comparison knows, and the labels that it works on.

Overlap and structures are counted first, for all labels in one pass. They tell in which box each label lies, and all
that follows (surfaces, thickness) works label by label, inside its box alone: seeds and queries of a distance lie in
it, so nothing is lost, and a volume with a hundred organs costs about as much as one with all of them in one label.

Voxels where the reference holds the ignored label belong to neither volume, and this label is none of the comparison:
  * voxels of overlap, volumes, true negatives and regions are counted without them, as nnU-Net's evaluation does;
  * areas, Euler numbers, topology, objects and thickness are those of what remains: both volumes have background there;
  * no surface runs between them and a label (pipeline/surface.py): distances and boundary layers begin only where a
    label borders on background that is not ignored, so that leaving out a part of a structure makes no new surface.
A prediction that holds the ignored label elsewhere has background there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.device import Device
from pipeline.distance import Field
from pipeline.errors import InputError
from pipeline.geometry import BlockGrid, Box, Index, VoxelSize
from pipeline.job import PARTS, Border, ObjectKind, Part, distance_dtype
from pipeline.ledger import Ledger
from pipeline.surface import CropGrid, Ignored, LabelSurfaces, Side
from pipeline.volume.opening import Volume
from pipeline.volume.whole_numbers import first_place
from pipeline.volume.writing import Multiscale

FOUND = "labels"
TOPOLOGY_VOXELS = 1 << 21
"""Noise of many labels has nearly as many components as voxels, and three times as many pairs that touch: components
are found in blocks of at most so many voxels, which bounds what a task takes for them."""
IGNORED = (
    "Voxels where the reference holds this label are left out: they are counted nowhere and no surface runs along them;"
    " areas, Euler numbers, topology, objects and thickness see background there, in both volumes."
)
"""What results say of the ignored label."""
THICKNESS_STAGE_OF_AXIS = {2: "mask", 1: "distance-y", 0: "distance-z"}


class FoundLabel(NamedTuple):
    """A label: the boxes that hold it in the volumes (None where it does not occur), and how many voxels it has."""

    label: int
    reference: Box | None
    prediction: Box | None
    reference_voxels: int
    prediction_voxels: int


@dataclass(frozen=True)
class ComparisonJob:
    """One comparison as its tasks see it: small, picklable, no data.

    prediction : None where the structures of one volume are described, not compared. image : grey values of the same
    grid, or None. regions : labels by which measures are split too, or None. labels : those that are compared, None
    for all. widths : of boundaries, in voxels. maps : where the maps of thickness go, by "reference", "prediction" and
    "difference"; empty for none. ignore_label : of the reference, see the module; None for none.
    """

    reference: Volume
    prediction: Volume | None
    image: Volume | None
    regions: Volume | None
    labels: tuple[int, ...] | None
    voxel_size: VoxelSize
    border: Border
    grid: BlockGrid
    ledger: Ledger
    parts: tuple[Part, ...] = PARTS
    widths: tuple[int, ...] = ()
    objects: ObjectKind = "none"
    maps: Mapping[str, Multiscale] = field(default_factory=dict)
    device: Device = "cpu"
    ignore_label: int | None = None

    @property
    def sides(self) -> dict[Side, Volume]:
        """The label volumes by their part in the comparison."""
        if self.prediction is None:
            return {"reference": self.reference}
        return {"reference": self.reference, "prediction": self.prediction}

    @property
    def volumes(self) -> dict[str, Volume]:
        """All volumes that are read, by their part in the comparison."""
        others = {"image": self.image, "regions": self.regions}
        given = {name: volume for name, volume in others.items() if volume is not None}
        return {str(side): volume for side, volume in self.sides.items()} | given

    @property
    def images(self) -> tuple[Multiscale, ...]:
        """What the run writes beside its measures."""
        return tuple(self.maps.values())

    @property
    def forms_distances(self) -> bool:
        """Whether anything is measured for which the weights of the voxel size count."""
        return "thickness" in self.parts or ("surface" in self.parts and self.prediction is not None)

    @property
    def dtype(self) -> np.dtype[np.int32] | np.dtype[np.int64]:
        """Of the squared distances in the whole volume; int32 where none are formed."""
        return distance_dtype(self.grid.shape, self.voxel_size) if self.forms_distances else np.dtype(np.int32)

    @property
    def topology_grid(self) -> BlockGrid:
        """The blocks in which components are found: the job's, halved until they have at most TOPOLOGY_VOXELS."""
        sides = list(self.grid.block_shape)
        while math.prod(sides) > TOPOLOGY_VOXELS:
            axis = sides.index(max(sides))
            sides[axis] = -(-sides[axis] // 2)
        return BlockGrid(self.grid.shape, (sides[0], sides[1], sides[2]))

    def around(self, block: Index, reach: int) -> Box:
        """A block and so many voxels around it, inside the volume."""
        return _walled(self.grid.box(block), self.grid.shape, reach)

    def wants(self, label: int) -> bool:
        """Whether a label is compared."""
        return label != 0 and (self.labels is None or label in self.labels)

    def asked_for(self, found: list[FoundLabel]) -> list[FoundLabel]:
        """The labels that are compared, ascending. One that was named and is in neither volume is among them."""
        there = {one.label: one for one in found}
        labels = sorted(there) if self.labels is None else sorted({label for label in self.labels if self.wants(label)})
        return [there.get(label, FoundLabel(label, None, None, 0, 0)) for label in labels]

    def note_labels(self, found: list[FoundLabel]) -> None:
        """File the labels, for all tasks of later stages."""
        boxes = np.array([[_six(one.reference), _six(one.prediction)] for one in found], np.int64).reshape(-1, 2, 6)
        arrays = {
            "label": np.array([one.label for one in found], np.uint64),
            "box": boxes,
            "voxels": np.array([one[3:] for one in found], np.int64).reshape(-1, 2),
        }
        self.ledger.note(FOUND, arrays)

    def found_labels(self) -> list[FoundLabel]:
        """The labels that `note_labels` filed."""
        parcel = self.ledger.noted(FOUND)
        return [
            FoundLabel(int(label), _box(reference), _box(prediction), int(voxels[0]), int(voxels[1]))
            for label, (reference, prediction), voxels in zip(
                parcel.read("label"), parcel.read("box"), parcel.read("voxels"), strict=True
            )
        ]

    def surfaces(self) -> Iterator[LabelSurfaces]:
        """The surfaces of every label that has any."""
        for one in self.found_labels():
            if one.reference is None and one.prediction is None:
                continue
            yield LabelSurfaces(
                str(one.label), self.grid, one.reference, one.prediction, self.voxel_size, self.ledger, self.widths,
                self.device,
            )  # fmt: skip

    def structures(self, block: Index | None = None) -> Iterator[Structure]:
        """Every label of every side whose thickness is measured, or those that have a part in a block.

        Left out: a label that fills the volume where the border is unknown, because it has no background.
        """
        for one in self.found_labels():
            sides: tuple[tuple[Side, Box | None, int], ...] = (
                ("reference", one.reference, one.reference_voxels),
                ("prediction", one.prediction, one.prediction_voxels),
            )
            for side, box, voxels in sides:
                if box is None or (self.border == "unknown" and voxels == math.prod(self.grid.shape)):
                    continue
                grid = CropGrid(self.grid, _walled(box, self.grid.shape))
                if block is None or grid.box(block).voxels:
                    yield Structure.of(self, one.label, side, grid)


@dataclass(frozen=True)
class Structure:
    """One label of one side: a mask in a box of the volume, whose thickness is measured there.

    The box has a layer of background around the label, clipped to the volume, so every wall of it lies in the box.
    """

    label: int
    side: Side
    grid: CropGrid
    field: Field

    @staticmethod
    def of(job: ComparisonJob, label: int, side: Side, grid: CropGrid) -> Structure:
        """The structure in the blocks of its box."""
        return Structure(
            label,
            side,
            grid,
            Field(
                grid, job.voxel_size.weights, distance_dtype(grid.shape, job.voxel_size), job.border, job.ledger,
                THICKNESS_STAGE_OF_AXIS, prefix=f"{label}-{side}-thickness-",
            ),
        )  # fmt: skip

    def part(self, block: Index) -> Box:
        """What lies of the structure's box in a block, in the coordinates of the volume."""
        return self.grid.part(block)

    def name(self, what: str) -> str:
        """The name of an array of this structure in the parcels."""
        return f"{self.field.prefix}{what}"


def _walled(box: Box, shape: Index, layers: int = 1) -> Box:
    """A box and a layer, or several, around it, clipped to the volume."""
    start_z, start_y, start_x = (max(0, a - layers) for a in box.start)
    stop_z, stop_y, stop_x = (min(n, b + layers) for b, n in zip(box.stop, shape, strict=True))
    return Box((start_z, start_y, start_x), (stop_z, stop_y, stop_x))


def within(box: Box, outer: Box) -> tuple[slice, slice, slice]:
    """Where a box lies in an array that holds another one."""
    z, y, x = (slice(lo - start, hi - start) for lo, hi, start in zip(box.start, box.stop, outer.start, strict=True))
    return z, y, x


def read_labels(volume: Volume, box: Box) -> npt.NDArray[Any]:
    """Labels of a box (z, y, x). Raises InputError for negative ones."""
    labels = volume.read(box)
    if labels.dtype.kind == "i" and labels.size and int(labels.min()) < 0:
        raise InputError(
            f"{volume.name} holds the negative label {labels[labels < 0][0]}; labels must be 0 or more, and voxel"
            f" {first_place(box, labels < 0)} is the first: give the structure another number, or make it background."
        )
    return labels.view(np.uint8) if labels.dtype == np.bool_ else labels


def read_pair(job: ComparisonJob, box: Box) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, Ignored | None]:
    """Labels of both volumes in a box, 0 where they are ignored, and what is ignored.

    The prediction is None where there is none, and so is what is ignored. Raises InputError for negative labels.
    """
    reference = read_labels(job.reference, box)
    prediction = read_labels(job.prediction, box) if job.prediction is not None else None
    if job.ignore_label is None:
        return reference, prediction, None
    ignored = reference == job.ignore_label
    reference = _cleared(reference, ignored)
    if prediction is not None:
        prediction = _cleared(prediction, ignored | (prediction == job.ignore_label))
    return reference, prediction, Ignored(box, ignored.view(np.uint8))


def read_side(job: ComparisonJob, side: Side, box: Box) -> npt.NDArray[Any]:
    """The same of one volume alone; what is ignored of a prediction is read of the reference."""
    labels = read_labels(job.sides[side], box)
    if job.ignore_label is None:
        return labels
    ignored = labels == job.ignore_label
    if side == "prediction":
        ignored |= read_labels(job.reference, box) == job.ignore_label
    return _cleared(labels, ignored)


def read_ignored(job: ComparisonJob, box: Box) -> Ignored | None:
    """What is ignored in a box; None where no label is."""
    if job.ignore_label is None:
        return None
    return Ignored(box, (read_labels(job.reference, box) == job.ignore_label).view(np.uint8))


def _cleared(labels: npt.NDArray[Any], where: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Labels with background at some voxels, copied: what was read may be a view of the file."""
    cleared = labels.copy()
    cleared[where] = 0
    return cleared


def _six(box: Box | None) -> tuple[int, ...]:
    return (*box.start, *box.stop) if box is not None else (-1,) * 6


def _box(six: npt.NDArray[np.int64]) -> Box | None:
    z, y, x, end_z, end_y, end_x = (int(n) for n in six)
    return Box((z, y, x), (end_z, end_y, end_x)) if end_z > z >= 0 else None
