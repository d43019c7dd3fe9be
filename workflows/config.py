"""What a run was asked to do, and the plan made of it. Both are files in the run folder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from cluster.local import DeviceChoice
from pipeline.device import Device
from pipeline.errors import InputError
from pipeline.geometry import Index
from pipeline.job import PARTS, Border, MapKind, ObjectKind, Part
from pipeline.volume.choice import Choice
from pipeline.volume.foreground import Foreground

BoxChoice = Literal["reference", "common"]
"""Which box of a lattice counts where volumes are cut-outs: the reference's, or what all of them hold."""
ALGORITHM_VERSION = 1
"""Raised when the same input may give another number."""


COMPARISON_MAPS = {
    "reference": ("local thickness of the reference", "max"),
    "prediction": ("local thickness of the prediction", "max"),
    "difference": ("thickness of the prediction less that of the reference", "mean"),
}
"""Name -> title, and how its pyramid is made."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _text(channel: object) -> object:
    return str(channel) if type(channel) is int else channel


class RunConfig(_Frozen):
    """What every kind of run has.

    level : of the pyramids. voxel_size_um : (z, y, x), of one plane also (y, x); None: from the metadata. box,
    ignore_place : how volumes are laid on each other (workflows.lay_volumes). regions : the location of labels by which
    measures are split too. channel : number from 0, or name; time : number of the time point. They count where a volume
    has several.
    """

    level: int = 0
    voxel_size_um: tuple[float, float, float] | tuple[float, float] | None = None
    block_shape: Index | None = None
    regions: str | None = None
    box: BoxChoice | None = None
    ignore_place: bool = False
    device: DeviceChoice = "auto"
    keep_scratch: bool = False
    channel: Annotated[str | None, BeforeValidator(_text)] = None
    time: int | None = None

    @property
    def choice(self) -> Choice:
        return Choice(channel=self.channel, time=self.time)


class ThicknessConfig(RunConfig):
    """One thickness run. Locations are paths or fsspec URLs."""

    workflow: Literal["thickness"] = "thickness"
    mask: str
    label: int | None = None
    threshold: tuple[float] | tuple[float, float] | None = None
    border: Border = "unknown"
    map: MapKind = "thickness"

    @property
    def foreground(self) -> Foreground:
        if self.label is not None and self.threshold is not None:
            raise InputError("--label and --threshold exclude each other; give one of them.")
        if self.label is not None:
            return Foreground.label(self.label)
        if self.threshold is not None:
            return Foreground.threshold(*self.threshold)
        return Foreground.nonzero()


class ComparisonConfig(RunConfig):
    """One comparison of a prediction with a reference, or (prediction None) a description of the labels of one volume.

    labels : those that are compared, None for all. tolerances_um : of the normalised surface distance.
    boundary_widths : of the boundary IoU, in voxels. maps : whether maps of thickness are stored.
    class_names : label -> class of the detections of `voxcaliper detect`; a label without one is its own class.
    ignore_label : voxels where the reference holds it are left out (pipeline/comparison.py); None for none.
    """

    workflow: Literal["compare", "statistics"] = "compare"
    reference: str
    prediction: str | None
    image: str | None = None
    labels: tuple[int, ...] | None = None
    tolerances_um: tuple[float, ...] = (0.0,)
    boundary_widths: tuple[int, ...] = (1, 2)
    parts: tuple[Part, ...] = PARTS
    objects: ObjectKind = "none"
    border: Border = "unknown"
    maps: bool = True
    ignore_label: int | None = None
    class_names: dict[int, str] = {}

    @property
    def stores_maps(self) -> bool:
        return self.maps and "thickness" in self.parts and self.prediction is not None


class StagePlan(_Frozen):
    """memory_bytes : most that one task takes beside an idle worker; card_bytes : most that it takes on a card."""

    name: str
    tasks: int
    memory_bytes: int
    card_bytes: int = 0


class ThicknessPlan(_Frozen):
    """How a run will be done. Sizes are in voxels (z, y, x) and bytes; written_bytes are before compression.

    weights, unit_um : of squared distances (z, y, x). largest_rounding : of a length by them, relatively; 0 is exact.
    sources : what is read, by its fingerprint (workflows.sources), once the run has begun.
    """

    shape: Index
    voxel_size_um: tuple[float, float, float]
    weights: Index
    unit_um: float
    largest_rounding: float = 0.0
    block_shape: Index
    blocks: Index
    device: Device = "cpu"
    stages: tuple[StagePlan, ...]
    source_bytes: int
    map_bytes: int
    scratch_bytes: int
    mask_identity: dict[str, object]
    regions_identity: dict[str, object] | None
    sources: dict[str, dict[str, object]] = {}


class ComparisonPlan(_Frozen):
    """How a comparison will be done. Sizes are in voxels (z, y, x) and bytes before compression.

    weights, unit_um, largest_rounding : as of a thickness run; None where no distance is formed.
    sources : what is read, by its fingerprint (workflows.sources), once the run has begun.
    """

    shape: Index
    voxel_size_um: tuple[float, float, float]
    weights: Index | None = None
    unit_um: float | None = None
    largest_rounding: float = 0.0
    block_shape: Index
    blocks: Index
    device: Device = "cpu"
    stages: tuple[StagePlan, ...]
    source_bytes: int
    map_bytes: int
    identities: dict[str, dict[str, object]]
    sources: dict[str, dict[str, object]] = {}
