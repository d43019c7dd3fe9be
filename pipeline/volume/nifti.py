"""What a NIfTI header says: where the voxels lie in the file, how large they are and where they lie in space.

The array's axes x, y, z become z, y, x. Its frame is that of the header, in µm: x to the right, y to the front, z to
the head. The sform counts where its code is not 0, else the qform likewise; a file with neither says nothing of its
place. Both forms hold the spacing as well (the lengths of the affine's columns), and go before pixdim.
"""

from __future__ import annotations

import logging
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
from pipeline.volume.metadata import plain_decimal, plane_size_of, unit_um, voxel_size_of

NIFTI_BYTES = 540
"""The longest header."""
SINGLE = 1e-6
"""What single precision leaves of such a difference."""
UNITS = {"unknown": "mm", "meter": "m", "micron": "um"}
"""Unknown units are mm, as the authors of NIfTI-1 advise."""
SILENT = logging.getLogger("voxcaliper.nifti")
SILENT.setLevel(logging.CRITICAL + 1)
"""What the library mends in a header is said here, in warnings."""


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
    header.check_fix(logger=SILENT)
    warnings: list[str] = []
    flat = _flat(header, warnings)
    named = header.get_xyzt_units()[0]
    unit = unit_um(UNITS.get(named, "mm"))
    assert unit is not None
    voxel_size, placement = _in_space(header, pixdim, unit, warnings, one_plane=flat.shape[0] == 1)
    if voxel_size is not None and named == "unknown":
        warnings.append("does not say in which unit its voxel size is, so it is taken for mm")
    return NiftiHeader(flat, voxel_size, placement, tuple(warnings))


def _flat(header: Any, warnings: list[str]) -> Flat:
    shape = tuple(map(int, header.get_data_shape()))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or not slope:  # there is none
        slope, intercept = 1.0, 0.0
    elif not math.isfinite(intercept):
        warnings.append(f"has the slope {slope:g} and no readable intercept ({intercept:g}); 0 is taken")
        intercept = 0.0
    return Flat(
        int(header.get_data_offset()),
        volume_shape(shape[::-1]),
        header.get_data_dtype(),
        slope=slope if (slope, intercept) != (1.0, 0.0) else None,
        intercept=intercept,
    )


def _in_space(
    header: Any, pixdim: list[float], unit: Decimal, warnings: list[str], *, one_plane: bool
) -> tuple[VoxelSize | None, Placement | None]:
    """Spacing and placement, and what is to be said of them. pixdim : as it is stored, (z, y, x).

    one_plane : so it may do without a size along z.
    """

    def measured(sizes: list[Decimal | None]) -> VoxelSize | None:
        units: list[Decimal | None] = [unit] * 3
        return plane_size_of(sizes, units, warnings) if one_plane else voxel_size_of(sizes, units)

    sizes: list[Decimal | None] = [plain_decimal(abs(side)) if side else None for side in pixdim]
    affine = _affine(header, warnings)
    if None in (sizes[1:] if one_plane else sizes):
        shown = ", ".join(f"{side:g}" for side in pixdim)
        warnings.append(f"has the pixdim {shown} (z, y, x), and a size of 0 says nothing; give --voxel-size-um")
        if affine is None:
            return None, None
    if affine is None:
        return measured(sizes), None
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
    return measured(sizes), Placement((z, y, x), directions)


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
