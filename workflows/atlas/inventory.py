"""What an atlas publishes, from its own metadata: a JSON file a data set, as the package hoa-tools brings them.

Nothing of the atlas itself is read: shapes follow from those of level 0, as levels halve and round up.
"""

from __future__ import annotations

import importlib.util
import math
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from pipeline.errors import InputError
from pipeline.geometry import Index
from workflows.atlas.costs import cpu_hours, written_bytes
from workflows.plan_thickness import BLOCK_SIDES, fitted

PACKAGE = "hoa_tools"
WITHIN_PACKAGE = ("data", "metadata", "metadata")
CHUNK_SHAPE = (128, 128, 128)
"""Of every volume of the Human Organ Atlas."""
BLOCK_SHAPE = fitted(BLOCK_SIDES[0], CHUNK_SHAPE)
"""The largest blocks that a plan tries, (z, y, x); one for workers with little memory takes smaller ones."""
GREY_BYTES = 2
"""The atlas holds grey values of 16 bits."""
Text = Annotated[str, Field(min_length=1)]


class _Read(BaseModel):
    """A part of the metadata; fields that are not named here do not count."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Stored(_Read):
    """The array of a data set. shape : (x, y, z), as hoa-tools writes it."""

    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    voxel_size_um: PositiveFloat
    gcs_url: Text


class Sample(_Read):
    """What was scanned. organ_context : which part of it, such as "left"."""

    organ: Text
    organ_context: str | None = None


class Donor(_Read):
    """Who gave it."""

    id: Text
    age: int | str | None = None
    sex: str | None = None


class Citation(_Read):
    """How to cite it."""

    doi: str | None = None


class DataSet(_Read):
    """A volume of the atlas. dataset_type : "overview" of a whole organ, or "zoom". voi : the part that was scanned."""

    name: Text
    dataset_type: Text
    voi: str | None = None
    data: Stored
    sample: Sample
    donor: Donor
    citation: Citation = Citation()


@dataclass(frozen=True)
class Listed:
    """A data set at a level: sizes in voxels (z, y, x) and bytes before compression."""

    dataset: DataSet
    level: int

    @property
    def voxel_um(self) -> float:
        """Side of a voxel at the level."""
        return self.dataset.data.voxel_size_um * (1 << self.level)

    @cached_property
    def shape(self) -> Index:
        x, y, z = (-(-n // 2**self.level) for n in self.dataset.data.shape)
        return z, y, x

    @property
    def voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Of the grey values."""
        return GREY_BYTES * self.voxels

    @property
    def blocks(self) -> int:
        return math.prod(-(-n // side) for n, side in zip(self.shape, BLOCK_SHAPE, strict=True))

    @property
    def cpu_hours(self) -> float:
        """Of a thickness run, by workflows.atlas.costs."""
        return cpu_hours(self.voxels, self.blocks)

    @property
    def written_bytes(self) -> int:
        """By a thickness run: its map and its scratch."""
        return written_bytes(self.voxels)


def installed_metadata() -> Path:
    """The metadata of an installed hoa-tools, found without importing it. Raises InputError where there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location, *WITHIN_PACKAGE)
        if folder.is_dir():
            return folder
    raise InputError(
        "There is no metadata of an atlas here: install hoa-tools (`pip install voxcaliper[atlas]`), or give a folder"
        " or zip of its JSON files with --metadata."
    )


def read_inventory(metadata: Path | None = None) -> list[DataSet]:
    """Every data set that a folder or zip of JSON files describes, by name; None for those of an installed hoa-tools.

    Raises InputError for what cannot be read, with the name of the file.
    """
    where = installed_metadata() if metadata is None else metadata
    found = sorted((_parsed(name, text) for name, text in _files(where)), key=lambda dataset: dataset.name)
    if not found:
        raise InputError(f"{where} holds no JSON file; give the folder or zip with one file for each data set.")
    for one, next_one in pairwise(found):
        if one.name == next_one.name:
            raise InputError(f"{where} describes the data set {one.name} twice; remove one of the two files.")
    return found


def _files(where: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every JSON file, one at a time."""
    try:
        if where.is_dir():
            for path in where.glob("*.json"):
                yield str(path), path.read_bytes()
        else:
            with zipfile.ZipFile(where) as archive:
                for name in archive.namelist():
                    if name.endswith(".json"):
                        yield f"{where}/{name}", archive.read(name)
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{where} cannot be read as a folder or zip of JSON files: {reason}; check --metadata."
        ) from error


def _parsed(name: str, text: bytes) -> DataSet:
    try:
        return DataSet.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        what = f"{field}: {first['msg']}" if field else first["msg"]
        raise InputError(f"{name} does not describe a data set of the atlas ({what}); mend or remove it.") from error


def selected(
    datasets: Iterable[DataSet], *, organ: str | None = None, donor: str | None = None,
    voxel_size_um: tuple[float, float] | None = None, kind: str | None = None,
) -> list[DataSet]:  # fmt: skip
    """Those of an organ, a donor, a range of published voxel sizes (both ends included), and a kind; None: any.

    Names are compared without regard to capitals.
    """
    low, high = voxel_size_um or (0.0, math.inf)

    def same(wanted: str | None, found: str) -> bool:
        return wanted is None or wanted.casefold() == found.casefold()

    return [
        one
        for one in datasets
        if same(organ, one.sample.organ)
        and same(donor, one.donor.id)
        and same(kind, one.dataset_type)
        and low <= one.data.voxel_size_um <= high
    ]


def at_level(datasets: Iterable[DataSet], *, level: int = 0, finest_um: float | None = None) -> list[Listed]:
    """Data sets at a level, or each at its finest level whose voxels are not smaller than finest_um."""
    return [
        Listed(one, level if finest_um is None else _level_of(one.data.voxel_size_um, finest_um)) for one in datasets
    ]


def _level_of(voxel_um: float, finest_um: float) -> int:
    return max(0, math.ceil(math.log2(finest_um / voxel_um) - 1e-9))
