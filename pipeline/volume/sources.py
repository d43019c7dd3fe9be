"""Volumes in other formats, one plane after the other: what `voxcaliper convert` reads.

A source is read once, from the first plane to the last, so that compressed files (.nii.gz) need no memory for more
than a plane and no second pass.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import numpy.typing as npt
import tifffile
import zarr

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Index, VoxelSize
from pipeline.volume.metadata import plain_decimal, unit_um
from pipeline.volume.opening import Volume, format_at, open_volume

Planes = Callable[[], Iterator[npt.NDArray[Any]]]


@dataclass(frozen=True)
class Source:
    """A volume that is read plane by plane.

    location : as given.
    format : for messages and provenance.
    shape : voxels (z, y, x).
    dtype : of the planes, in this machine's byte order.
    voxel_size : spacing in µm where the file states it.
    planes : starts reading; yields shape[0] arrays (y, x).
    layer_bytes : memory that reading holds beside the plane it yields.
    """

    location: str
    format: str
    shape: Index
    dtype: np.dtype[Any]
    voxel_size: VoxelSize | None
    planes: Planes
    layer_bytes: int

    def slabs(self, thickness: int) -> Iterator[npt.NDArray[Any]]:
        """The volume in slabs of `thickness` planes (the last may be thinner), arrays (z, y, x).

        All of them use the same memory: a slab is gone when the next one is asked for.
        """
        planes = self.planes()
        slab = np.empty((min(thickness, self.shape[0]), *self.shape[1:]), self.dtype)
        for start in range(0, self.shape[0], thickness):
            count = min(thickness, self.shape[0] - start)
            for z in range(count):
                slab[z] = self._next(planes, start + z)
            yield slab[:count]

    def _next(self, planes: Iterator[npt.NDArray[Any]], z: int) -> npt.NDArray[Any]:
        try:
            return next(planes)
        except (
            OSError,
            EOFError,
            StopIteration,
            RuntimeError,
            zlib.error,
            tifffile.TiffFileError,
            ValueError,
        ) as error:
            raise StorageError(
                f"{self.location}: plane {z} of {self.shape[0]} cannot be read ({str(error) or type(error).__name__});"
                " the file may be cut off or damaged, so fetch it again."
            ) from error


def open_source(location: str) -> Source:
    """Recognise a source and read its header.

    A TIFF file or a folder of TIFF slices (natural order of their names), NIfTI (.nii, .nii.gz; the array's axes x,
    y, z become z, y, x, the orientation in space is left alone), .npy (z, y, x); OME-Zarr, bare
    Zarr or N5 from a path or a URL.
    Raises InputError for anything else and for volumes that are not three-dimensional.
    """
    path = Path(location)
    name = path.name.lower()
    if "://" in location or format_at(location) is not None:
        return _volume_source(location)
    if not path.exists():
        raise InputError(f"{location} does not exist.")
    if path.is_dir():
        return _slices_source(path)
    if name.endswith((".tif", ".tiff")):
        return _tiff_source(path)
    if name.endswith((".nii", ".nii.gz")):
        return _nifti_source(path)
    if name.endswith(".npy"):
        return _npy_source(path)
    raise InputError(
        f"{location} is of no known kind; give a TIFF file, a folder of TIFF slices, a .nii, .nii.gz or .npy file,"
        " or a Zarr or N5 volume."
    )


def _checked(location: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> tuple[Index, np.dtype[Any]]:
    native = np.dtype(dtype).newbyteorder("=")
    if native.kind not in "biuf":
        raise InputError(f"{location} holds values of type {native}; bool, integer or float is needed.")
    if len(shape) != 3 or 0 in shape:
        raise InputError(f"{location} has the shape {shape}; a volume has three axes, each with at least one voxel.")
    return (int(shape[0]), int(shape[1]), int(shape[2])), native


def _volume_source(location: str) -> Source:
    volume = open_volume(location)
    layer = max(math.prod(piece.shape) for piece in volume.pieces(volume.box)) * np.dtype(volume.dtype).itemsize
    return Source(
        location=location,
        format=volume.format,
        shape=volume.shape,
        dtype=np.dtype(volume.dtype),
        voxel_size=volume.voxel_size,
        planes=partial(_volume_planes, volume),
        layer_bytes=layer + volume.read_bytes((1, *volume.shape[1:])),
    )


def _volume_planes(volume: Volume) -> Iterator[npt.NDArray[Any]]:
    for piece in volume.pieces(volume.box):
        yield from volume.read_piece(piece)


def _npy_source(path: Path) -> Source:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is not a readable .npy file ({error}).") from error
    shape, dtype = _checked(path, array.shape, array.dtype)
    return Source(
        location=str(path),
        format="NumPy .npy",
        shape=shape,
        dtype=dtype,
        voxel_size=None,
        planes=partial(_npy_planes, path, shape[0]),
        layer_bytes=shape[1] * shape[2] * dtype.itemsize,
    )


def _npy_planes(path: Path, count: int) -> Iterator[npt.NDArray[Any]]:
    for z in range(count):
        # A new mapping for every plane: the pages of one that is kept count as memory of this process.
        yield np.load(path, mmap_mode="r", allow_pickle=False)[z]


def _tiff_source(path: Path) -> Source:
    try:
        with tifffile.TiffFile(path) as tiff:
            if len(tiff.series) != 1:
                shapes = ", ".join(str(series.shape) for series in tiff.series[:4])
                raise InputError(
                    f"{path} holds {len(tiff.series)} images of different kinds (shapes {shapes});"
                    " store the volume in a file of its own."
                )
            series = tiff.series[0]
            if series.axes[-2:] != "YX" or series.axes[:-2] not in ("Z", "I", "Q", "T"):
                raise InputError(
                    f"{path} has the axes {series.axes} and the shape {series.shape}; a grey volume Z, Y, X is needed."
                )
            shape, dtype = _checked(path, series.shape, series.dtype)
            voxel_size = _tiff_voxel_size(tiff)
            page = series.keyframe
            return Source(
                location=str(path),
                format="TIFF",
                shape=shape,
                dtype=dtype,
                voxel_size=voxel_size,
                planes=partial(_tiff_planes, path, shape[0]),
                layer_bytes=2 * int(page.size) * dtype.itemsize,
            )
    except tifffile.TiffFileError as error:
        raise InputError(f"{path} is not a readable TIFF file ({error}).") from error


def _tiff_planes(path: Path, count: int) -> Iterator[npt.NDArray[Any]]:
    with tifffile.TiffFile(path) as tiff, tiff.series[0].aszarr(level=0) as store:
        array = zarr.open_array(store, mode="r")
        for z in range(count):
            yield np.asarray(array[z])


def _tiff_voxel_size(tiff: tifffile.TiffFile) -> VoxelSize | None:
    """From OME-XML or ImageJ's description, where all three axes and the unit are stated."""
    if tiff.ome_metadata:
        pixels = next((e for e in ElementTree.fromstring(tiff.ome_metadata).iter() if e.tag.endswith("Pixels")), None)
        sizes = [] if pixels is None else [pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"]
        units = [] if pixels is None else [unit_um(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "ZYX"]
        return _voxel_size([Decimal(size) if size else None for size in sizes], units)
    imagej = tiff.imagej_metadata or {}
    unit = unit_um(str(imagej.get("unit", "")).replace("\\u00B5", "µ"))
    tags = tiff.pages.first.tags
    if not {"XResolution", "YResolution"} <= {tag.name for tag in tags}:
        return None
    # ImageJ counts pixels per unit as a ratio of two integers; six digits are what survives that.
    (y, y_per), (x, x_per) = tags["YResolution"].value, tags["XResolution"].value
    sides = [imagej.get("spacing"), y_per / y if y else None, x_per / x if x else None]
    return _voxel_size([Decimal(f"{side:.6g}") if side else None for side in sides], [unit] * 3)


def _voxel_size(sizes: list[Decimal | None], units: list[Decimal | None]) -> VoxelSize | None:
    um = [float(size * unit) for size, unit in zip(sizes, units, strict=True) if size and unit]
    return VoxelSize((um[0], um[1], um[2])) if len(um) == 3 else None


def _slices_source(folder: Path) -> Source:
    names = [p.name for p in folder.iterdir() if p.suffix.lower() in (".tif", ".tiff") and not p.name.startswith(".")]
    if not names:
        raise InputError(f"{folder} holds neither TIFF slices nor a Zarr or N5 volume.")
    files = [folder / name for name in sorted(names, key=_natural)]
    headers = [_slice_header(file) for file in files]
    for file, header in zip(files, headers, strict=True):
        if header != headers[0]:
            raise InputError(
                f"{file} is {header[0]} {header[1]}, but the first slice {files[0].name} is"
                f" {headers[0][0]} {headers[0][1]}; all slices must agree, so remove it or convert it."
            )
    plane, stored = headers[0]
    shape, dtype = _checked(folder, (len(files), *plane), stored)
    return Source(
        location=str(folder),
        format="folder of TIFF slices",
        shape=shape,
        dtype=dtype,
        voxel_size=None,
        planes=partial(_slice_planes, files),
        layer_bytes=math.prod(plane) * dtype.itemsize,
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts slice2 before slice10."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]


def _slice_header(file: Path) -> tuple[tuple[int, ...], str]:
    try:
        with tifffile.TiffFile(file) as tiff:
            series = tiff.series[0]
            if len(series.shape) != 2:
                raise InputError(
                    f"{file} has the shape {series.shape}, but a slice has two axes; remove it from the folder."
                )
            return series.shape, str(series.dtype)
    except (tifffile.TiffFileError, IndexError) as error:
        raise InputError(f"{file} is not a readable TIFF file ({error}); remove or replace it.") from error


def _slice_planes(files: list[Path]) -> Iterator[npt.NDArray[Any]]:
    for file in files:
        try:
            yield tifffile.imread(file)
        except (OSError, ValueError, tifffile.TiffFileError) as error:
            raise StorageError(f"{file} cannot be read ({error}); replace this slice and start again.") from error


def _nifti_source(path: Path) -> Source:
    """Spacing as the header states it; unknown units are mm, as the NIfTI-1 authors advise."""
    try:
        image: Any = nib.load(path, keep_file_open=True)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} is not a readable NIfTI file ({error}).") from error
    proxy, header = image.dataobj, image.header
    spatial = tuple(int(n) for n in proxy.shape)
    while len(spatial) > 3 and spatial[-1] == 1:
        spatial = spatial[:-1]
    scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
    shape, dtype = _checked(path, spatial[::-1], np.float32 if scaled else proxy.dtype)
    unit = {"unknown": "mm", "meter": "m", "micron": "um"}.get(header.get_xyzt_units()[0], "mm")
    factor = unit_um(unit)
    spacing = [plain_decimal(float(v)) for v in header.get_zooms()[2::-1]]
    return Source(
        location=str(path),
        format="NIfTI",
        shape=shape,
        dtype=dtype,
        voxel_size=_voxel_size(list(spacing), [factor] * 3),
        planes=partial(_nifti_planes, image, shape[0]),
        layer_bytes=shape[1] * shape[2] * (dtype.itemsize + 16),
    )


def _nifti_planes(image: Any, count: int) -> Iterator[npt.NDArray[Any]]:
    rest = (0,) * (len(image.dataobj.shape) - 3)
    for z in range(count):
        yield np.asarray(image.dataobj[(slice(None), slice(None), z, *rest)]).T
