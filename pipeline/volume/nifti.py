"""What a NIfTI header says: where the voxels lie in the file, how large they are and where they lie in space.

The array's axes x, y, z become z, y, x. Its frame is that of the header, in µm: x to the right, y to the front, z to
the head. The sform counts where its code is not 0, else the qform likewise; a file with neither says nothing of its
place. Both forms hold the spacing as well (the lengths of the affine's columns), and go before pixdim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from pipeline.geometry import VoxelSize
from pipeline.placement import ALIKE, Placement, clean_directions, largest_skew
from pipeline.volume.flat import Flat, volume_shape
from pipeline.volume.metadata import plain_decimal, unit_um, voxel_size_of

NIFTI_BYTES = 540
"""The longest header."""
SINGLE = 1e-6
"""What single precision leaves of such a difference."""
UNITS = {"unknown": "mm", "meter": "m", "micron": "um"}
"""Unknown units are mm, as the authors of NIfTI-1 advise."""


@dataclass(frozen=True)
class NiftiHeader:
    """What is in a header. warnings : the rest of sentences that begin with the file's name."""

    flat: Flat
    voxel_size: VoxelSize | None
    placement: Placement | None
    warnings: tuple[str, ...]


def read_nifti_header(head: bytes) -> NiftiHeader:
    """Read the first NIFTI_BYTES of a file. Raises ValueError for what is no header."""
    kinds: tuple[Any, ...] = (nib.Nifti1Header, nib.Nifti2Header)
    kind = next((kind for kind in kinds if kind.may_contain_header(head)), None)
    if kind is None:
        raise ValueError("it has no NIfTI header")
    header: Any = kind(head[: kind.sizeof_hdr], check=False)
    pixdim = [float(side) for side in header["pixdim"][3:0:-1]]  # before zeros become ones
    header = kind(head[: kind.sizeof_hdr], check=True)
    warnings: list[str] = []
    named = header.get_xyzt_units()[0]
    unit = unit_um(UNITS.get(named, "mm"))
    assert unit is not None
    voxel_size, placement = _in_space(header, pixdim, unit, warnings)
    if voxel_size is not None and named == "unknown":
        warnings.append("does not say in which unit its voxel size is, so it is taken for mm")
    return NiftiHeader(_flat(header), voxel_size, placement, tuple(warnings))


def _flat(header: Any) -> Flat:
    shape = tuple(map(int, header.get_data_shape()))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    slope, intercept = header.get_slope_inter()
    scaled = slope is not None and (slope, intercept) != (1.0, 0.0)
    return Flat(
        int(header.get_data_offset()),
        volume_shape(shape[::-1]),
        header.get_data_dtype(),
        slope=float(slope) if scaled else None,
        intercept=float(intercept or 0.0),
    )


def _in_space(
    header: Any, pixdim: list[float], unit: Decimal, warnings: list[str]
) -> tuple[VoxelSize | None, Placement | None]:
    """Spacing and placement, and what is to be said of them. pixdim : as it is stored, (z, y, x)."""
    sizes: list[Decimal | None] = [plain_decimal(abs(side)) if side else None for side in pixdim]
    affine = _affine(header, warnings)
    if None in sizes:
        shown = ", ".join(f"{side:g}" for side in pixdim)
        warnings.append(f"has the pixdim {shown} (z, y, x), and a size of 0 says nothing; give --voxel-size-um")
        if affine is None:
            return None, None
    if affine is None:
        return voxel_size_of(sizes, [unit] * 3), None
    columns = affine[2::-1, 2::-1].T  # of the array's axes (z, y, x), in the frame's (z, y, x)
    lengths = [math.hypot(*column) for column in columns]
    if None not in sizes:
        stated, sizes = (
            sizes,
            [
                size if size and math.isclose(float(size), length, rel_tol=SINGLE) else plain_decimal(length)
                for size, length in zip(sizes, lengths, strict=True)
            ],
        )
        if any(
            not math.isclose(float(a or 0), float(b or 0), rel_tol=ALIKE) for a, b in zip(stated, sizes, strict=True)
        ):
            warnings.append(
                f"has the pixdim {', '.join(map(str, stated))} but an affine of {', '.join(map(str, sizes))} (z, y, x);"
                " the affine counts"
            )
    per = [float(size) if size else length for size, length in zip(sizes, lengths, strict=True)]
    directions = clean_directions([column / side for column, side in zip(columns, per, strict=True)])
    if (skew := largest_skew(directions)) > ALIKE:
        degrees = math.degrees(math.acos(min(1.0, skew)))
        warnings.append(
            f"has sheared axes, {degrees:.4g}° instead of 90° to each other; volumes and distances are those of a grid"
            " with right angles, so resample it first"
        )
    z, y, x = (float(plain_decimal(float(value)) * unit) for value in affine[2::-1, 3])
    return voxel_size_of(sizes, [unit] * 3), Placement((z, y, x), directions)


def _affine(header: Any, warnings: list[str]) -> npt.NDArray[np.float64] | None:
    """The affine that counts, in the unit of the header; None where none is stated."""
    found: dict[str, npt.NDArray[np.float64]] = {}
    for name, read in (("sform", header.get_sform), ("qform", header.get_qform)):
        try:
            affine, code = read(coded=True)
        except (ValueError, np.linalg.LinAlgError):  # a quaternion that is none
            warnings.append(f"has a {name} that is no rotation, so it is left out")
            continue
        if code:
            found[name] = np.asarray(affine, np.float64)
    for name, affine in list(found.items()):
        if not np.isfinite(affine).all() or not np.linalg.det(affine[:3, :3]):
            warnings.append(f"has a {name} that places nothing, so it is left out")
            del found[name]
    if len(found) == 2:
        sform, qform = found["sform"], found["qform"]
        side = np.abs(sform[:3, :3]).max()
        if np.abs(sform - qform).max() > 1e-2 * side:
            warnings.append("has a qform that differs from its sform; the sform counts")
    return next(iter(found.values()), None)
