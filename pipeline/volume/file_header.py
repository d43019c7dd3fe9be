"""What headers of files with voxels one after the other have in common, and how spacing and place follow from them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import quote

from pipeline.geometry import VoxelSize
from pipeline.placement import Placement, clean_directions, largest_skew
from pipeline.volume.flat import Flat, NotAVolumeError
from pipeline.volume.inflated import Deflated
from pipeline.volume.metadata import exact_decimal, plain_decimal, voxel_size_of

RAS, LPS = (1, 1, 1), (-1, -1, 1)
"""What x, y and z of a frame are multiplied with to run to the right, to the front and to the head."""
ALIKE = 1e-4
"""Cosines that count as 0."""


@dataclass(frozen=True)
class FileHeader:
    """What a file says of its volume.

    format : as people call it. flat : where the voxels lie, in the file, or in the inflated content where they are
    deflated. data : location of the file with the voxels; "" for the file itself. deflated : None for plain ones.
    warnings : the rest of sentences that begin with the file's name. said_in : location of the file beside it in which
    all of this stands, or would stand; "" for the file itself.
    """

    format: str
    flat: Flat
    voxel_size: VoxelSize | None = None
    placement: Placement | None = None
    warnings: tuple[str, ...] = ()
    data: str = ""
    deflated: Deflated | None = None
    said_in: str = ""


def beside(location: str, name: str) -> str:
    """Where a file lies that a header names, relative to its own folder."""
    folder = location.rpartition("/")[0]
    if "://" not in location:
        return os.path.normpath(os.path.join(folder, name.replace("\\", "/")))
    if name.startswith("/") or ".." in name.split("/"):
        raise NotAVolumeError(f"has its voxels in {name}, which is not below the same address")
    return f"{folder}/{quote(name) if location.startswith('http') else name}"


def spacing_um(sides: Sequence[float], units: Sequence[Decimal | None]) -> VoxelSize | None:
    """The voxel size (z, y, x) of lengths in units (µm each). Raises NotAVolumeError for what is none."""
    if any(not math.isfinite(side) or side <= 0 for side in sides):
        shown = ", ".join(f"{side:g}" for side in sides)
        raise NotAVolumeError(
            f"states the voxel size {shown} (z, y, x), which is none; mend it or give the voxels alone"
        )
    return voxel_size_of([plain_decimal(side) for side in sides], list(units))


def placed(
    steps_um: Sequence[Sequence[float]], origin_um: Sequence[float], signs: Sequence[int], warnings: list[str]
) -> tuple[VoxelSize | None, Placement]:
    """Spacing and placement.

    steps_um : the way from one voxel to the next along z, y and x of the array, in the file's x, y and z, µm.
    origin_um : centre of the first voxel, likewise. signs : RAS, LPS and so on. Raises NotAVolumeError for no frame.
    """
    rows = [[sign * value for sign, value in zip(signs, step, strict=True)][::-1] for step in steps_um]
    sides = [math.hypot(*row) for row in rows]
    size = spacing_um(sides, [Decimal(1)] * 3)
    directions = clean_directions(rows)
    if (skew := largest_skew(directions)) > ALIKE:
        degrees = math.degrees(math.acos(min(1.0, skew)))
        warnings.append(
            f"has sheared axes, {degrees:.4g}° instead of 90° to each other; volumes and distances are those of a grid"
            " with right angles, so resample it first"
        )
    if not all(map(math.isfinite, origin_um)):
        raise NotAVolumeError("states an origin that is none")
    x, y, z = (sign * value or 0.0 for sign, value in zip(signs, origin_um, strict=True))
    return size, Placement((z, y, x), directions)


def in_um(value: float, unit: Decimal) -> float:
    """A length in µm, without the noise of binary numbers."""
    return float(exact_decimal(value) * unit)
